"""The rule of a dead run, exact on constructed losses."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bnbook.setups import dead
from bnbook.setups.dead import Death

GUESS, EDGE = math.log(10), math.log(10) - dead.MARGIN
LEARNS = EDGE - 1e-6
STEPS = 100  # a window of ten steps; the first that counts is that of steps 11 to 20


def losses(*values):
    return torch.tensor(values, dtype=torch.float64)


def found(*values, steps=STEPS):
    return dead.dead(losses(*values), 10, steps)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1.0] * 30, None),
        ([1.0] * 6 + [1000.0] + [1.0] * 20, None),
        ([1.0] * 6 + [1000.1] + [1.0] * 20, Death(7, "above 1000")),
        ([1000.1], Death(1, "above 1000")),
        ([1.0, 2e3, math.nan], Death(2, "above 1000")),
        ([1.0, math.nan, 1.0], Death(2, "not finite")),
        ([1.0, math.inf], Death(2, "not finite")),
        ([GUESS] * 19, None),
        ([GUESS] * 20, Death(20, "guessing")),
        ([GUESS] * 100, Death(20, "guessing")),
        ([EDGE] * 20, Death(20, "guessing")),
        ([LEARNS] * 100, None),
        ([GUESS] * 19 + [LEARNS] * 30, Death(20, "guessing")),
        # five of ten better than guessing are half of them, four are not
        ([GUESS] * 15 + [LEARNS] * 30, None),
        ([GUESS] * 16 + [LEARNS] * 30, Death(20, "guessing")),
        # learns, then forgets: six bad minibatches after the last good one
        ([1.0] * 50 + [GUESS] * 50, Death(56, "guessing")),
        # a few high losses do not end a run that learns
        ([1.0, 1.0, 900.0] * 30, None),
        # at one step the first rule counts
        ([GUESS] * 19 + [2e3], Death(20, "above 1000")),
        ([GUESS] * 19 + [math.inf], Death(20, "not finite")),
    ],
)
def test_where_and_by_which_rule(values, expected):
    assert found(*values) == expected


def test_the_shortest_runs_have_a_window_of_one_step():
    assert found(GUESS, GUESS, steps=5) == Death(2, "guessing")
    assert found(GUESS, LEARNS, GUESS, steps=9) == Death(3, "guessing")


def test_guessing_depends_on_the_number_of_classes():
    assert dead.dead(losses(*[1.0] * 20), 2, STEPS) == Death(20, "guessing")
    assert dead.dead(losses(*[1.0] * 20), 3, STEPS) is None


@given(
    st.lists(
        st.sampled_from([0.5, LEARNS, EDGE, GUESS, 5.0, 1000.0, 1001.0, math.inf, math.nan]),
        min_size=1,
        max_size=60,
    ),
    st.integers(1, 60),
)
def test_it_is_the_first_step_by_the_words_of_the_rule(values, steps):
    """Against the rule said again, step by step."""
    window, expected = max(1, steps // 10), None
    for step in range(1, len(values) + 1):
        loss, last = values[step - 1], values[step - window : step]
        better = sum(each < EDGE for each in last)
        if not math.isfinite(loss):
            expected = Death(step, "not finite")
        elif loss > 1000:
            expected = Death(step, "above 1000")
        elif step >= 2 * window and better < window / 2:
            expected = Death(step, "guessing")
        if expected:
            break
    assert dead.dead(losses(*values), 10, steps) == expected
    several = torch.stack((losses(*values), losses(*[0.1] * len(values))), 1)
    assert dead.ends(several, 10, steps).tolist() == [expected is not None, False]


def test_more_losses_never_change_where_a_run_died():
    values = [1.0] * 50 + [GUESS] * 50
    for until in range(1, 101):
        expected = Death(56, "guessing") if until >= 56 else None
        assert found(*values[:until]) == expected


def test_divergence_by_both_readings():
    high = losses(2.0, 600.0, 1001.0, 5.0)
    assert (dead.diverged_at(high), dead.jumped_at(high)) == (3, -1)
    jump = losses(0.001, 0.5, 501.0, 5.0)
    assert (dead.diverged_at(jump), dead.jumped_at(jump)) == (-1, 3)
    exactly = losses(0.5, 500.0, 1000.0)
    assert (dead.diverged_at(exactly), dead.jumped_at(exactly)) == (-1, -1)
    for gone in (math.inf, math.nan):
        none = losses(1.0, 2.0, gone, 1.0)
        assert (dead.diverged_at(none), dead.jumped_at(none)) == (3, 3)
    assert (dead.diverged_at(losses(math.nan)), dead.jumped_at(losses(math.nan))) == (1, 1)
