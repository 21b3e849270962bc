"""Figures of the map of what else than BN allows large rates, from the experiment's table."""

from __future__ import annotations

import math

import numpy as np
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
    last = tuning.final(table).assign(diverged=lambda rows: rows["diverged_at"] >= 0)
    cells = last.pivot_table(
        index="arm", columns="learning_rate", values=["test_accuracy", "diverged"]
    )
    accuracy = 100 * cells["test_accuracy"].loc[list(arms)]
    shares = 100 * cells["diverged"].loc[list(arms)].astype(float)
    most = max(20, 10 * math.ceil(accuracy.max().max() / 10))
    image = ax.imshow(accuracy, cmap="cividis", vmin=10, vmax=most, aspect="auto")
    for (row, column), share in np.ndenumerate(shares.to_numpy()):
        if share > 0:
            ink = "w" if accuracy.to_numpy()[row, column] < (10 + most) / 2 else "k"
            ax.text(column, row, f"{share:.0f}", ha="center", va="center", color=ink, fontsize=8)
    ax.set_xticks(range(accuracy.shape[1]), [f"{rate:g}" for rate in accuracy.columns])
    ax.set_yticks(range(len(arms)), list(arms))
    ax.tick_params(axis="x", rotation=45)
    ax.set(xlabel="learning rate")
    ax.figure.colorbar(image, ax=ax).set_label("final test accuracy (%)")


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
