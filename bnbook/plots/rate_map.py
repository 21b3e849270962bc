"""Maps of learning rates: accuracy and divergence against the rate."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping

import pandas as pd
from matplotlib.axes import Axes

from bnbook.plots import style
from bnbook.tables import tuning

SPLITS = {"training_accuracy": "training accuracy (%)", "test_accuracy": "test accuracy (%)"}


def accuracy_limits(table: pd.DataFrame) -> tuple[float, float]:
    """Limits of an axis of accuracies in per cent: from 0 to the next 20 above all of them."""
    highest = table.filter(items=[*SPLITS]).max().max()
    return 0, min(101.0, 20 * math.ceil(5 * highest + 0.05))


def draw_accuracy(
    ax: Axes,
    table: pd.DataFrame,
    arms: Collection[str],
    tuned: Mapping[str, float],
    column: str = "test_accuracy",
) -> None:
    """Draw a final accuracy against learning rate, mean and 95 % interval, tuned rates ringed."""
    last = tuning.final(table)
    for arm in arms:
        band = 100 * style.mean_band(last[last["arm"] == arm], "learning_rate", column)
        style.draw_band(ax, band, arm, marker=style.MARKERS[arm], ms=4, label=arm)
        if arm in tuned:
            ax.plot(
                tuned[arm], band["mean"][tuned[arm]], "o", ms=12, mfc="none",
                mec=style.COLOURS[arm], mew=1.4,
            )  # fmt: skip
    ax.set(xscale="log", xlabel="learning rate", ylabel="final test accuracy (%)")
    ax.set_ylim(accuracy_limits(table))


def draw_diverged(ax: Axes, table: pd.DataFrame, arms: Collection[str]) -> None:
    """Draw the share of seeds whose loss passed the threshold against learning rate."""
    last = tuning.final(table)
    share = 100 * (last["diverged_at"] >= 0).groupby(
        [last["arm"], last["learning_rate"]]
    ).mean().unstack(0)
    for arm in arms:
        style.draw_line(ax, share[arm], arm, marker=style.MARKERS[arm], ms=4, label=arm)
    ax.set(xscale="log", xlabel="learning rate", ylabel="diverged (%)", ylim=(-4, 104))
