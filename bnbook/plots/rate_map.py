"""Maps of learning rates: accuracy and divergence against the rate."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping

import pandas as pd
from matplotlib.axes import Axes

from bnbook.plots import style
from bnbook.tables import searched, tuning

SPLITS = {"training_accuracy": "training accuracy (%)", "test_accuracy": "test accuracy (%)"}


def accuracy_limits(table: pd.DataFrame) -> tuple[float, float]:
    """Limits of an axis of accuracies in per cent: from 0 to the next 10 above all of them."""
    highest = table.filter(items=[*SPLITS]).max().max()
    return 0, min(101.0, 10 * math.ceil(10 * highest + 0.1))


def draw_accuracy(
    ax: Axes, table: pd.DataFrame, arms: Collection[str], tuned: Mapping[str, float]
) -> None:
    """Draw final test accuracy against learning rate with 95 % intervals, tuned rates ringed."""
    shown = {arm: tuned[arm] for arm in arms}
    style.draw_rates(ax, tuning.final(table), "test_accuracy", shown, 100)
    ax.set(ylabel="final test accuracy (%)", ylim=accuracy_limits(table))


def draw_diverged(ax: Axes, table: pd.DataFrame, arms: Collection[str]) -> None:
    """Draw the share of seeds whose loss passed the threshold against learning rate."""
    last = tuning.final(table)
    draw_shares(ax, last[last["arm"].isin(arms)], last["diverged_at"] >= 0)
    ax.set(xlabel="learning rate", ylabel="diverged (%)")


def draw_shares(ax: Axes, runs: pd.DataFrame, which: pd.Series) -> None:
    """Draw the share of each arm's runs for which something holds against learning rate."""
    shares = runs.assign(share=100.0 * which)
    options = {"errorbar": None, "markers": style.MARKERS, "ms": 5}
    style.draw_means(ax, shares, "learning_rate", "share", "arm", **options)
    ax.set(xscale="log", ylim=(-4, 104))


def draw_searched(ax: Axes, table: pd.DataFrame, labels: Mapping[str, str]) -> None:
    """Draw validation accuracy, means over the seeds that choose, against rate; the chosen ringed.

    `labels` maps each arm to its name in the legend.
    """
    ended, chosen = searched.ends(table, searched.TUNING), searched.chosen(table)
    for arm, label in labels.items():
        own = ended[ended["arm"] == arm]
        means = 100 * own.groupby("learning_rate")["validation_accuracy"].mean()
        style.draw_line(ax, means, arm, marker=style.MARKERS[arm], ms=5, label=label)
        if arm in chosen:
            style.ring(ax, chosen[arm], means[chosen[arm]], arm)
    ax.set(xscale="log", xlabel="learning rate", ylabel="validation accuracy (%)")
