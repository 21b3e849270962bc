"""Curves against figures: distances that can be worked out by hand, and what must be caught."""

import numpy as np
import pandas as pd
import pytest

from bnbook.tables import drawn
from bnbook.tables.arms import WITH, WITHOUT


def test_the_corners_of_a_line_through_few_points_are_these_points():
    bends, values = [0.0, 3.0, 4.0, 10.0], [0.5, 0.8, 0.7, 0.9]
    x = np.linspace(0, 10, 101)
    y = np.interp(x, bends, values)
    assert x[drawn.corners(x, y, 1e-9)] == pytest.approx(bends)
    rounded = np.round(y / 0.0005) * 0.0005  # a rounded reading bends within its error alone
    assert x[drawn.corners(x, rounded, 0.001)] == pytest.approx(bends, abs=0.11)
    assert drawn.corners(x, y, 1.0) == [0, 100]
    assert drawn.corners(x[:2], y[:2], 0.0) == [0, 1]
    assert drawn.corners(x[:1], y[:1], 0.0) == [0]


def curve(steps, values, corners):
    return drawn.Curve(*(np.array(each, float) for each in (steps, values, corners)))


def test_a_curve_is_compared_as_it_would_have_been_drawn():
    """Ours bends at 2, where the figure's has no corner: drawn through 0 and 4 it is straight."""
    steps = [0, 1, 2, 3, 4]
    figure = curve(steps, [0.0, 0.1, 0.2, 0.3, 0.4], [0, 4])
    assert drawn.distance(steps, [0.0, 0.4, 0.4, 0.4, 0.4], figure) == pytest.approx(0)
    # Off by 0.3 at the left end and by nothing at the right: 0.3, 0.225, 0.15, 0.075, 0.
    off = drawn.distance(steps, [0.3, 0.3, 0.3, 0.3, 0.4], figure)
    assert off == pytest.approx(np.sqrt(np.mean(np.square([0.3, 0.225, 0.15, 0.075, 0]))))
    everywhere = curve(steps, figure.values, steps)
    raw = drawn.distance(steps, [0.0, 0.4, 0.4, 0.4, 0.4], everywhere)
    assert raw == pytest.approx(np.sqrt((0.3**2 + 0.2**2 + 0.1**2) / 5))


def test_ours_is_read_between_its_own_steps_and_the_figure_alone_says_where():
    figure = curve([10, 20, 30], [0.5, 0.5, 0.5], [10, 30])
    # A line from 0.4 to 0.6 is off by 0.05, nothing and 0.05 at 10, 20 and 30.
    assert drawn.distance([0, 40], [0.4, 0.6], figure) == pytest.approx(np.sqrt(2 * 0.05**2 / 3))
    assert np.isnan(drawn.distance([0, 40], [0.4, 0.6], curve([], [], [])))


def test_the_papers_curves():
    """The one without BN comes from below the axis: its first leg has no corner to begin at."""
    without, with_bn = (drawn.accuracy(arm) for arm in (WITHOUT, WITH))
    assert without.steps[0] == without.corners[0] > 7000
    assert with_bn.steps[0] == with_bn.corners[0] == 4042
    for whole, arm in ((without, WITHOUT), (with_bn, WITH)):
        line = np.interp(
            whole.steps, whole.corners, np.interp(whole.corners, whole.steps, whole.values)
        )
        assert np.abs(line - whole.values).max() <= drawn.ERROR
        part = drawn.accuracy(arm, 12_100)
        assert part.steps[-1] <= 12_100 < whole.steps[-1]
        assert set(part.corners) <= set(whole.corners)
        assert drawn.distance(whole.steps, whole.values, whole) <= drawn.ERROR
    assert drawn.accuracy(WITHOUT, 5000).steps.size == 0


def test_the_papers_spreads():
    without = drawn.spread(WITHOUT)
    assert without.iloc[0] == pytest.approx(0.825 - 0.757)
    assert (without.index[0], without.index[-1]) == (0, pytest.approx(50_000, abs=500))


def test_the_lowest_point_of_a_parabola_is_found_exactly():
    x = np.array([-1.0, 0.0, 2.0, 3.0])
    assert drawn.lowest(x, 3 + 2 * (x - 0.7) ** 2) == pytest.approx(0.7)
    assert drawn.lowest(x, 3 + 2 * (x - 2.8) ** 2) == pytest.approx(2.8)
    assert drawn.lowest(x, 3 + 2 * (x - 9) ** 2) == 3.0
    assert drawn.lowest(x, x) == -1.0
    assert drawn.lowest(x, -(x**2)) == 3.0
    assert drawn.lowest([0.0, 1.0], [2.0, 1.0]) == 1.0
    assert drawn.lowest([0.0, 1.0, 2.0], pd.Series([1.0, 1.0, 1.0])) == 0.0
