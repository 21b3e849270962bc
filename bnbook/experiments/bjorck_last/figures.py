"""Figures of BN at some of the layers, from the experiment's table."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bnbook.experiments.bjorck_last import claims
from bnbook.plots import style
from bnbook.plots.rate_map import draw_accuracy, draw_shares
from bnbook.tables import usable
from bnbook.tables.arms import LAST_ONLY

AXES = {
    "only": "the one layer with BN",
    "but": "the one layer without BN",
    "since": "first layer with BN",
    "every": "BN at one layer in so many",
}
MIDDLE = "#555555"
"""Colour of networks with BN at some of the convolutions."""


def draw_rates(ax: Axes, table: pd.DataFrame, rates: Mapping[str, float]) -> None:
    """Draw last test accuracy against the initial rate with 95 % intervals, tuned rates ringed."""
    draw_accuracy(ax, table, tuple(rates), rates)
    ax.set(xlabel="initial learning rate", ylabel="last test accuracy (%)")
    ax.legend(loc="upper right")


def draw_family(ax: Axes, placed: pd.DataFrame, extremes: pd.DataFrame, family: str) -> None:
    """Draw the largest usable rate of networks with BN at some layers, and of the paper's three.

    Points are seeds, lines their geometric means; BN at the last layer only has its own colour and
    mark. Horizontal lines are geometric means of the networks named.
    """
    rows = placed[placed["family"] == family]
    last = rows["number"].max() if family == "only" else None
    rows = rows.dropna()
    for chosen, colour, mark, size in (
        (rows[rows["number"] != last], MIDDLE, "o", 4),
        (rows[rows["number"] == last], style.COLOURS[LAST_ONLY], style.MARKERS[LAST_ONLY], 7),
    ):
        means = np.exp(np.log(chosen["rate"]).groupby(chosen["number"]).mean())
        ax.plot(means.index, means, marker=mark, color=colour, ms=size, lw=1.2)
        ax.plot(chosen["number"], chosen["rate"], "o", color=colour, ms=3, alpha=0.4, mew=0)
    for arm in extremes:
        level = float(np.exp(np.log(extremes[arm]).mean()))
        (line,) = ax.plot(
            [0.02, 0.98], [level, level], transform=ax.get_yaxis_transform(), lw=1.3,
            color=style.COLOURS[str(arm)], label=arm,
        )  # fmt: skip
        if style.DASHES[str(arm)]:
            line.set_dashes(style.DASHES[str(arm)])
    ax.set(yscale="log", xlabel=AXES[family], ylabel="largest usable rate")
    numbers = sorted(rows["number"].unique())
    ax.set_xticks(numbers, labels=[("\n" if n == last else "") + f"{n:g}" for n in numbers])
    style.label_decades(ax.yaxis)


def rates(table: pd.DataFrame) -> Figure:
    """Test accuracy and usable seeds against the rate, for the paper's three networks."""
    figure = style.new_figure(2, 1, 6.4, 5.4, sharex=True, height_ratios=(3, 1.6))
    draw_rates(figure.axes[0], table, claims.tuned_rates(table))
    runs = usable.usable(table)
    draw_shares(figure.axes[1], runs[runs["arm"].isin(claims.MAIN)], runs["usable"])
    figure.axes[1].set(xlabel="initial learning rate", ylabel="usable seeds (%)")
    figure.axes[0].set_xlabel("")
    return figure


def places(table: pd.DataFrame) -> Figure:
    """Largest usable rate with BN at one layer only, against the layer."""
    figure = style.new_figure(1, 1, 7, 3.8)
    draw_family(figure.axes[0], claims.placed(table), claims.extremes(table), "only")
    style.legend(figure.axes[0], 3, loc="outside upper center")
    return figure


def families(table: pd.DataFrame) -> Figure:
    """Largest usable rate with one layer left out, with BN from a layer on, with every k-th."""
    figure = style.new_figure(1, 3, 8, 3.4, sharey=True)
    for ax, family in zip(figure.axes, ("but", "since", "every"), strict=True):
        draw_family(ax, claims.placed(table), claims.extremes(table), family)
    for ax in figure.axes[1:]:
        ax.set_ylabel("")
    style.legend(figure.axes[0], 3, loc="outside upper center")
    return figure
