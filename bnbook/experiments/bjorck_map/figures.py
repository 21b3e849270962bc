"""Figures of the map of what else than BN allows large rates, from the experiment's table."""

from __future__ import annotations

import math

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bnbook.experiments.bjorck_map.claims import ARMS
from bnbook.plots import style
from bnbook.plots.rate_map import draw_accuracy, draw_diverged
from bnbook.tables import tuning
from bnbook.tables.arms import (
    CLIPPED,
    FIXUP,
    GROUP_NORM,
    LAYER_NORM,
    SKIPINIT,
    WARM_UP,
    WITH,
    WITHOUT,
)

PANELS = {
    "warm-up": (WARM_UP,),
    "a better start": (FIXUP, SKIPINIT),
    "other norms": (GROUP_NORM, LAYER_NORM),
}
"""Titles and the arms that each panel adds to the networks with and without BN."""


def rates(table: pd.DataFrame) -> Figure:
    """Final test accuracy against learning rate: one panel for each objection."""
    tuned = tuning.tuned_rates(table, ARMS)
    figure = style.new_figure(1, 3, 8, 3.4, sharey=True)
    for ax, (title, arms) in zip(figure.axes, PANELS.items(), strict=True):
        draw_accuracy(ax, table, (WITHOUT, WITH, *arms), tuned)
        ax.set(title=title, ylabel="" if ax is not figure.axes[0] else ax.get_ylabel())
    found = [ax.get_legend_handles_labels() for ax in figure.axes]
    named = {name: line for lines, names in found for line, name in zip(lines, names, strict=True)}
    figure.legend(named.values(), named.keys(), loc="outside lower center", ncols=4, fontsize=8)
    return figure


def draw_divergence(ax: Axes, table: pd.DataFrame, arms: tuple[str, ...]) -> None:
    """Draw a grid of arms and rates: colour is the final test accuracy, a number the divergence.

    The number is the share of the seeds that diverged, in per cent, where any did.
    """
    last = tuning.final(table).assign(diverged=lambda rows: 100.0 * (rows["diverged_at"] >= 0))
    means = last.groupby(["arm", "learning_rate"])[["test_accuracy", "diverged"]].mean()
    accuracy, shares = (means[of].unstack().loc[list(arms)] for of in means)
    most = max(20, 10 * math.ceil(10 * accuracy.max().max()))
    style.draw_heat_map(
        ax, 100 * accuracy, vmin=10, vmax=most, fmt="",
        annot=shares.map(lambda share: f"{share:.0f}" if share else ""), annot_kws={"size": 8},
        cbar_kws={"label": "final test accuracy (%)"},
    )  # fmt: skip
    ax.tick_params(axis="x", rotation=45)
    ax.set(xlabel="learning rate", ylabel="")


def divergence(table: pd.DataFrame) -> Figure:
    """All arms and rates on one map, those apart in which gradients are clipped."""
    figure = style.new_figure(1, 1, 8, 3.6)
    arms = (WITHOUT, WARM_UP, FIXUP, SKIPINIT, LAYER_NORM, GROUP_NORM, WITH)
    draw_divergence(figure.axes[0], table, arms)
    return figure


def clipped(table: pd.DataFrame) -> Figure:
    """The network without BN, as it is and with its gradients clipped."""
    figure = style.new_figure(1, 2, 8, 3)
    tuned = tuning.tuned_rates(table, (WITHOUT, CLIPPED))
    left, right = figure.axes
    draw_accuracy(left, table, (WITHOUT, CLIPPED), tuned)
    draw_diverged(right, table, (WITHOUT, CLIPPED))
    handles, labels = left.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2)
    return figure
