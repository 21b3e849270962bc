"""The map of settings and the curves of the nearest, from the experiment's table."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bnbook.plots import style
from bnbook.tables import drawn

LEAST = 0.2
"""Points of accuracy to which the paper's curves are read: nearer than that is not to be told."""


def draw_map(
    ax: Axes, distances: pd.Series, arm: str, likely: tuple[float, float], best: tuple[float, float]
) -> None:
    """Draw each setting searched as a dot, coloured by its distance from the paper's curve."""
    rows = distances.rename("points").reset_index().sort_values("points", ascending=False)
    found = ax.scatter(
        rows["learning_rate"], rows["std"], c=np.log10(rows["points"].clip(lower=LEAST)),
        cmap="cividis", s=55, vmin=np.log10(LEAST), vmax=np.log10(80),
    )  # fmt: skip
    rate, std = likely[1], likely[0]
    ax.plot(rate, std, "o", ms=13, mfc="none", mec=style.COLOURS[arm], mew=1.8)
    ax.plot(best[1], best[0], "x", ms=9, color=style.COLOURS[arm], mew=1.8)
    ax.set(
        xscale="log", yscale="log", xlabel="learning rate", ylabel="std of the initial weights",
        title=f"{arm}: distance from the paper's curve",
    )  # fmt: skip
    bar = ax.figure.colorbar(found, ax=ax, label="points")
    ticks = [0.2, 1, 5, 20, 80]
    bar.set_ticks(np.log10(ticks).tolist(), labels=[f"{tick:g}" for tick in ticks])


def draw_curves(ax: Axes, runs: Mapping[str, pd.DataFrame], end: float) -> None:
    """Draw test accuracy of some runs of each arm over the paper's curves."""
    for arm, rows in runs.items():
        curve = drawn.accuracy(arm, end)
        style.draw_paper(ax, curve.steps, 100 * curve.values, arm, label=f"the paper: {arm}")
        band = 100 * style.mean_band(rows, "paper_step", "test_accuracy")
        style.draw_band(ax, band[band["mean"].notna()], arm, label=f"ours: {arm}")
    ax.set(xlabel="training step", ylabel="test accuracy (%)", xlim=(0, end), ylim=(70, 99))
    ax.legend(loc="lower right")


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
    likely: Mapping[str, tuple[float, float]],
    best: Mapping[str, tuple[float, float]],
    runs: Mapping[str, pd.DataFrame],
    end: float,
) -> Figure:
    """The two maps, and the curves of both networks at the likely setting of the one without BN."""
    figure = style.new_figure(2, 2, 8, 6.2)
    for ax, (arm, found) in zip(figure.axes[:2], distances.items(), strict=True):
        draw_map(ax, found, arm, likely[arm], best[arm])
    draw_curves(figure.axes[2], runs, end)
    draw_spreads(figure.axes[3], runs, end)
    figure.axes[2].set_title("both at the likely setting without BN")
    figure.axes[3].set_title("input to a sigmoid, the same runs")
    return figure
