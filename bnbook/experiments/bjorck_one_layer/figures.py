"""What one BN layer and a scaled start bring: accuracy at each arm's rate, and largest rates."""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bnbook.experiments.bjorck_one_layer import claims
from bnbook.plots import style
from bnbook.plots.rate_map import draw_searched
from bnbook.tables.arms import LAST_ONLY, LSUV, WITH, WITHOUT

LABELS = {
    WITHOUT: "without BN", LSUV: "scaled start", LAST_ONLY: "one BN layer", WITH: "BN everywhere",
}  # fmt: skip
"""The arms from the least to the most of BN, as the axis names them."""


def shares(table: pd.DataFrame) -> Figure:
    """Final test accuracy at each arm's best rate, and its largest rate that trains, by seed."""
    figure = style.new_figure(1, 2, 7.6, 2.9, sharey=True)
    left, right = figure.axes
    draw_each(left, claims.accuracies(table))
    left.set(xlabel="test accuracy (%)")
    rates = claims.largest(table)
    draw_each(right, rates)
    right.set(xlabel="largest rate that trains")
    if rates.notna().any(axis=None):
        right.set(xscale="log")
    return figure


def draw_each(ax: Axes, values: pd.DataFrame) -> None:
    """Draw a row for each arm: small symbols are seeds, the large one their median."""
    for row, arm in enumerate(LABELS):
        look, own = style.LOOKS[arm], values[arm].dropna()
        ax.plot(own, [row] * len(own), look.marker, ms=4, mew=0, alpha=0.5, color=look.colour)
        if len(own):
            ax.plot(own.median(), row, look.marker, ms=9, mfc="none", mew=1.6, mec=look.colour)
    if values.isna().all(axis=None):
        style.say_empty(ax, "no seed that is shown has run yet")
        ax.set_xticks([])
    ax.set(ylim=(-0.6, len(LABELS) - 0.4))
    ax.set_yticks(range(len(LABELS)), list(LABELS.values()))
    ax.grid(axis="y", color="0.9")


def rates(table: pd.DataFrame) -> Figure:
    """Final accuracy of each run of the search against the rate."""
    figure = style.new_figure(1, 1, 6.2, 3.6)
    draw_searched(figure.axes[0], table, LABELS)
    style.legend(figure.axes[0], 2)
    return figure
