"""Figures of the measures of internal covariate shift, from the experiment's table."""

from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bnbook.experiments.ics_measures.claims import ARMS, SHORT
from bnbook.plots import style
from bnbook.tables import shift
from bnbook.tables.shift import CONV, LINEAR_25

LABELS = {
    "course": "drift of moments over training (spreads)",
    "drift": "drift of moments, one step (spreads)",
    "distance": "Wasserstein distance (spreads)",
    "change": "length of G − G'",
    "relative": "length of G − G' over G's",
    "cosine": "cosine of G and G'",
}
MARKS = dict(zip(SHORT, ("o", "^", "s", "D"), strict=True))


def draw_measure(ax: Axes, rows: pd.DataFrame, column: str) -> None:
    """Draw each network's and arm's value at the tuned rate: every seed, and the mean."""
    for at, network in enumerate(SHORT):
        for arm, beside in zip(ARMS, (-0.15, 0.15), strict=True):
            own = rows[(rows["network"] == network) & (rows["arm"] == arm)][column]
            look: dict[str, Any] = {
                "color": style.COLOURS[arm],
                "marker": style.MARKERS[arm],
                "ls": "",
            }
            place = np.full(len(own), at + beside)
            ax.plot(place, own, ms=4, alpha=0.4, mew=0, **look)
            ax.plot(
                at + beside, own.mean(), ms=8, mfc="none", label=arm if not at else None, **look
            )
    ax.set_xticks(range(len(SHORT)), [name.replace(" ", "\n") for name in SHORT], fontsize=9)
    ax.set_title(LABELS[column], fontsize=9)
    if column != "cosine":
        ax.set_yscale("log")


def measures(table: pd.DataFrame) -> Figure:
    """All measures of all networks, each arm at its tuned rate."""
    figure = style.new_figure(2, 3, 9, 5.4)
    rows = shift.at_tuned(shift.runs(table))
    for ax, column in zip(figure.axes, LABELS, strict=True):
        draw_measure(ax, rows, column)
    style.legend(figure.axes[0], 2)
    return figure


def agree(table: pd.DataFrame) -> Figure:
    """Each pair of measures, a mark for each run that lived."""
    figure = style.new_figure(1, 3, 9, 3.6)
    rows = shift.alive(shift.runs(table))
    for ax, (a, b) in zip(figure.axes, combinations(shift.AGREEING, 2), strict=True):
        for network, mark in MARKS.items():
            for arm in ARMS:
                own = rows[(rows["network"] == network) & (rows["arm"] == arm)]
                ax.plot(
                    own[a], own[b], mark, ms=4, mfc="none", color=style.COLOURS[arm], alpha=0.7,
                    label=f"{network}, {arm}",
                )  # fmt: skip
        ax.set(xscale="log", yscale="log")
        ax.set_xlabel(LABELS[a], fontsize=9)
        ax.set_ylabel(LABELS[b], fontsize=9)
    style.legend(figure.axes[0], 4)
    return figure


def depth(table: pd.DataFrame) -> Figure:
    """Cosine of G and G' by layer of the linear network, and over training of the conv net."""
    figure = style.new_figure(1, 2, 8, 3.4, sharey=True)
    rates = shift.tuned_rates(shift.runs(table))
    own = [rates.get(key) for key in zip(table["network"], table["arm"], strict=True)]
    rows = shift.judged(table[table["learning_rate"] == own])
    panels = ((LINEAR_25, "layer", "layer"), (CONV, "step", "training step"))
    for ax, (network, x, label) in zip(figure.axes, panels, strict=True):
        chosen = rows[(rows["network"] == network) & np.isfinite(rows["cosine"])]
        style.draw_means(ax, chosen, x, "cosine", "arm", markers=style.MARKERS, ms=5)
        ax.set(xlabel=label, ylabel=LABELS["cosine"])
        ax.set_title(network)
    style.legend(figure.axes[0], 2)
    return figure
