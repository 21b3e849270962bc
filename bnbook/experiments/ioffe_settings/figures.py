"""The map of settings and the curves of the nearest, from the experiment's table."""

from collections.abc import Mapping

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from bnbook.plots import style
from bnbook.tables import drawn

LEAST, MOST = 100 * drawn.ERROR, 80.0
"""Ends of the scale of colours, points: to the reading error, nearer than which is not to be told.
"""
POINTS = (0.2, 1, 5, 20, 80)
RATES = (0.01, 0.03, 0.1, 0.3, 1, 3, 10)
STDS = (0.025, 0.035, 0.05, 0.07, 0.1, 0.14, 0.2, 0.28)


def draw_map(
    ax: Axes, distances: pd.Series, arm: str, likely: tuple[float, float], best: tuple[float, float]
) -> None:
    """Draw each setting searched as a dot, coloured by its distance from the paper's curve.

    The likely setting has a ring around it, the best a cross.
    """
    rows = distances.rename("points").reset_index().sort_values("points", ascending=False)
    dots = ax.scatter(
        rows["learning_rate"], rows["std"], c=rows["points"], cmap="cividis", s=55,
        norm=LogNorm(LEAST, MOST, clip=True),
    )  # fmt: skip
    for (std, rate), marker, size in ((likely, "o", 13), (best, "x", 9)):
        ax.plot(rate, std, marker, ms=size, mfc="none", mec=style.COLOURS[arm], mew=1.8)
    ax.set(xscale="log", yscale="log", xlabel="learning rate", title=arm)
    ax.set_ylabel("std of the initial weights")
    for axis, values in ((ax.xaxis, RATES), (ax.yaxis, STDS)):
        axis.set_major_locator(FixedLocator(values))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_minor_locator(NullLocator())
    bar = ax.figure.colorbar(dots, ax=ax, label="off the paper's curve (points)")
    bar.set_ticks(POINTS, labels=[f"{points:g}" for points in POINTS], minor=False)
    bar.ax.yaxis.set_minor_locator(NullLocator())


def draw_curves(ax: Axes, runs: Mapping[str, pd.DataFrame], end: float) -> None:
    """Draw test accuracy of some runs of each arm over the paper's curves."""
    for arm, rows in runs.items():
        curve = drawn.accuracy(arm, end)
        style.draw_paper(ax, curve.steps, 100 * curve.values, arm, label=f"the paper: {arm}")
        band = 100 * style.mean_band(rows, "paper_step", "test_accuracy")
        style.draw_band(ax, band[band["mean"].notna()], arm, label=arm)
    ax.set(xlabel="training step", ylabel="test accuracy (%)", xlim=(0, end), ylim=(70, 99))


def draw_spreads(ax: Axes, runs: Mapping[str, pd.DataFrame], end: float) -> None:
    """Draw the spread of a sigmoid's input over the paper's."""
    for arm, rows in runs.items():
        paper = drawn.spread(arm)
        paper = paper[paper.index <= end]
        style.draw_paper(ax, paper.index, paper, arm)
        style.draw_band(ax, style.mean_band(rows, "paper_step", "spread"), arm)
    ax.set(yscale="log", xlabel="training step", xlim=(0, end))
    ax.set(ylabel="85th less 15th percentile")


def search(
    distances: Mapping[str, pd.Series],
    likely: tuple[float, float],
    best: Mapping[str, tuple[float, float]],
    runs: Mapping[str, pd.DataFrame],
    end: float,
) -> Figure:
    """The two maps, and the curves of both networks at the likely setting."""
    figure = style.new_figure(2, 2, 8, 6.2)
    for ax, (arm, found) in zip(figure.axes[:2], distances.items(), strict=True):
        draw_map(ax, found, arm, likely, best[arm])
    draw_curves(figure.axes[2], runs, end)
    draw_spreads(figure.axes[3], runs, end)
    figure.axes[2].set_title("both at the ringed setting")
    figure.axes[3].set_title("input to a sigmoid, the same runs")
    style.legend(figure.axes[2])
    return figure
