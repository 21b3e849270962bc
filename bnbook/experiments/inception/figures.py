"""Figures 2 and 3 in small, the paper's numbers beside ours; what each change is worth."""

from typing import Any

import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bnbook.experiments.inception import claims
from bnbook.plots import style
from bnbook.plots.style import Look
from bnbook.tables.inception import (
    BASELINE,
    CHANGES,
    FAST,
    INCEPTION,
    MAIN,
    SIGMOID,
    X5,
    X5_SIGMOID,
    X30,
)

ORANGE, DASHED = style.LOOKS["without BN"].colour, style.LOOKS["without BN"].dashes
LOOKS = {
    INCEPTION: Look(ORANGE, "s", DASHED),
    BASELINE: Look("#0072B2", "o"),
    X5: Look("#56B4E9", "^", (6, 1.5)),
    X30: Look("#009E73", "D", (6, 1, 1, 1)),
    X5_SIGMOID: Look("#CC79A7", "v", (1, 1)),
    SIGMOID: Look(ORANGE, "X", DASHED),
    FAST: Look(ORANGE, "P", DASHED),
}
"""Networks without BN are orange and dashed, told apart by their markers."""
GREY = "0.45"
"""The colour of the paper's own numbers."""
RING: dict[str, Any] = {
    "marker": "o", "ls": "", "ms": 13, "mfc": "none", "mec": GREY, "mew": 1.4,
}  # fmt: skip
"""How the paper's numbers are drawn."""


def curves(table: pd.DataFrame) -> Figure:
    """Draw test accuracy against steps, means over seeds, and Inception's best as a line."""
    figure = style.new_figure(1, 1, 8, 4.2)
    ax = figure.axes[0]
    ax.set(xscale="log", xlabel="steps", ylabel="test accuracy (%)")
    for arm in MAIN:
        draw_curve(ax, claims.curves(table, arm), arm)
    if len(target := claims.best(table, INCEPTION)):
        ax.axhline(target.mean(), color=GREY, lw=0.9, zorder=0)
    style.legend(ax, 1, loc="outside right center", fontsize=8)
    return figure


def draw_curve(ax: Axes, accuracy: pd.DataFrame, arm: str) -> None:
    """Draw an arm's mean over seeds, and the seeds' range as a band; nothing without runs."""
    rows = accuracy[accuracy.index > 0]
    if rows.empty:
        return
    look, every = LOOKS[arm], max(1, len(rows) // 8)
    band = rows.agg(["mean", "min", "max"], axis=1).set_axis(["mean", "low", "high"], axis=1)
    style.draw_band(ax, band, look, marker=look.marker, ms=5, markevery=every, label=arm)


def figure3(table: pd.DataFrame) -> Figure:
    """Draw how many times fewer steps, and the best accuracy against Inception's: ours, theirs."""
    figure = style.new_figure(1, 2, 8, 3.2, sharey=True)
    left, right = figure.axes
    arms = (BASELINE, X5, X30, X5_SIGMOID)
    draw_rows(
        left, {arm: claims.fewer(table, arm) for arm in arms},
        {arm: claims.STEPS[INCEPTION] / steps for arm, steps in claims.STEPS.items()},
    )  # fmt: skip
    left.axvline(1, color="0.8", lw=0.8, zorder=0)
    left.set(xscale="log", xlabel="times fewer steps to Inception's best accuracy")
    style.label_numbers(left.xaxis, (1, 2, 5, 10, 20))
    draw_rows(
        right, {arm: claims.lead(table, arm, INCEPTION) for arm in arms},
        {arm: best - claims.BEST[INCEPTION] for arm, best in claims.BEST.items()},
    )  # fmt: skip
    right.axvline(0, color="0.8", lw=0.8, zorder=0)
    right.set(xlabel="best accuracy minus Inception's (points)")
    left.plot([], [], **RING, label="Ioffe & Szegedy 2015, figure 3")
    left.plot([], [], "o", color="black", ms=6, label="ours, a mark for each seed")
    style.legend(left, 2, loc="outside upper center")
    return figure


def draw_rows(ax: Axes, ours: dict[str, pd.Series], theirs: dict[str, float]) -> None:
    """Draw a row for each network: our seeds as small dots, the paper's number as a grey ring."""
    for row, (arm, values) in enumerate(reversed(ours.items())):
        look, own = LOOKS[arm], values.dropna()
        if arm in theirs:
            ax.plot(theirs[arm], row, **RING)
        ax.plot(own, [row] * len(own), look.marker, color=look.colour, ms=6, alpha=0.8)
    ax.set_yticks(range(len(ours)), list(ours)[::-1])
    ax.set_ylim(-0.6, len(ours) - 0.4)


def ablation(table: pd.DataFrame) -> Figure:
    """Draw what BN-x5 loses without each of the changes, a dot for each seed."""
    rows = pd.DataFrame(
        [
            (change, points)
            for change in CHANGES
            for points in claims.cost(table, change)
        ],
        columns=["change", "points"],
    )  # fmt: skip
    figure = style.new_figure(1, 1, 7, 3.2)
    ax = figure.axes[0]
    ax.axvline(0, color="0.8", lw=0.8, zorder=0)
    sns.stripplot(
        rows, x="points", y="change", order=list(CHANGES), color=LOOKS[X5].colour, size=8,
        jitter=False, ax=ax,
    )  # fmt: skip
    ax.set(xlabel="best accuracy that BN-x5 loses without the change (points)", ylabel="")
    return figure


FIGURES = {"curves": curves, "figure3": figure3, "ablation": ablation}
