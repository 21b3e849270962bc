"""Figures of the largest usable rate against depth."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from bnbook.experiments.bjorck_depth import claims
from bnbook.plots import style
from bnbook.plots.rate_map import accuracy_limits
from bnbook.tables import tuning
from bnbook.tables.arms import WITH, WITHOUT

LAWS = {"power": (0, (1, 1.5)), "exponential": (0, (5, 1.5, 1, 1.5))}
"""Line styles of the fitted laws."""


def draw_rates(ax: Axes, table: pd.DataFrame) -> None:
    """Draw the largest usable rate against depth: seeds, geometric mean and 95 % interval."""
    found = {arm: claims.largest(table, arm) for arm in (WITHOUT, WITH)}
    rates = pd.concat(found, names=["arm"]).melt(ignore_index=False, value_name="rate").dropna()
    rows = rates.reset_index().assign(layers=lambda own: 6 * own["n"].astype(int) + 2)
    ax.set(xscale="log", yscale="log", xlabel="layers", ylabel="largest usable rate")
    style.draw_means(ax, rows, "layers", "rate", "arm", markers=style.MARKERS, ms=6)
    for arm, own in rows.groupby("arm"):
        colour = style.COLOURS[str(arm)]
        ax.plot(own["layers"], own["rate"], "o", ms=3, mew=0, alpha=0.4, color=colour)
    depths = sorted(6 * table["n"].unique() + 2)
    ax.set_xticks(depths, [str(depth) for depth in depths])
    ax.xaxis.set_minor_locator(NullLocator())


def draw_laws(ax: Axes, curves: pd.DataFrame) -> None:
    """Draw the fitted laws of each network."""
    for number, (_, arm) in enumerate(curves.groupby("arm", sort=False)):
        for law, curve in arm.groupby("law", sort=False):
            ax.plot(
                curve["layers"], curve["rate"], color="black", lw=1, ls=LAWS[str(law)],
                label=None if number else law,
            )  # fmt: skip


def draw_map(ax: Axes, shares: pd.DataFrame, **options: Any) -> None:
    """Draw the share of usable seeds over depth (columns n) and rate (index), the largest above."""
    shown = 100 * shares.sort_index(ascending=False)
    shown.index = pd.Index([f"{rate:.2g}" for rate in shown.index])
    shown.columns = pd.Index([6 * int(n) + 2 for n in shown.columns])
    style.draw_heat_map(ax, shown, vmin=0, vmax=100, **options)
    ax.set(xlabel="layers", ylabel="initial learning rate")


def rates(table: pd.DataFrame) -> Figure:
    """Largest usable rate against depth, with the fitted laws."""
    figure = style.new_figure(1, 1, 6.4, 4)
    ax = figure.axes[0]
    draw_rates(ax, table)
    draw_laws(ax, claims.curves(table))
    figure.legend(*ax.get_legend_handles_labels(), loc="outside upper center", ncols=4)
    return figure


def maps(table: pd.DataFrame) -> Figure:
    """Share of usable seeds over depth and rate, without BN and with."""
    shares = claims.usable_shares(table)
    figure = style.new_figure(1, 2, 8, 4, sharey=True, width_ratios=(1, 1.2))
    left, right = figure.axes
    draw_map(left, pd.DataFrame(shares.xs(WITHOUT, level="arm")), cbar=False)
    draw_map(
        right,
        pd.DataFrame(shares.xs(WITH, level="arm")),
        cbar_kws={"label": "usable seeds (%)"},
    )
    for ax, arm in zip((left, right), (WITHOUT, WITH), strict=True):
        ax.set_title(arm)
    right.set_ylabel("")
    return figure


def draw_accuracy(ax: Axes, last: pd.DataFrame) -> None:
    """Draw the final test accuracy of one depth against the learning rate."""
    rows = last.assign(percent=100 * last["test_accuracy"])
    style.draw_means(ax, rows, "learning_rate", "percent", "arm", markers=style.MARKERS, ms=4)
    ax.set(xscale="log", xlabel="learning rate")


def accuracy(table: pd.DataFrame) -> Figure:
    """Final test accuracy against the learning rate, a panel for each depth."""
    last = tuning.final(table)
    depths = sorted(last["n"].unique())
    figure = style.new_figure(1, len(depths), 8, 3, sharex=True, sharey=True)
    for ax, n in zip(figure.axes, depths, strict=True):
        draw_accuracy(ax, last[last["n"] == n])
        ax.set_title(f"{6 * n + 2} layers")
    figure.axes[0].set(
        ylabel="final test accuracy (%)", ylim=accuracy_limits(table[["test_accuracy"]])
    )
    handles = figure.axes[0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside upper center", ncols=2)
    return figure
