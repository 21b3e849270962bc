"""Accuracy over fifteen epochs of 110 layers, and at their end against the rate."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bnbook.experiments.bjorck_epochs110 import claims
from bnbook.plots import style
from bnbook.tables import searched, two_rates
from bnbook.tables.arms import WITH, WITHOUT


def curves(table: pd.DataFrame) -> Figure:
    """Training and test accuracy over training: both networks at both rates, BN between them."""
    figure = style.new_figure(1, 2, 7.6, 3.4, sharey=True)
    shares = {"training_accuracy": "training accuracy (%)", "test_accuracy": "test accuracy (%)"}
    for ax, (column, label) in zip(figure.axes, shares.items(), strict=True):
        draw_curves(ax, table, column)
        ax.set(ylabel=label, xlabel="share of training (%)", ylim=(0, 102))
    handles = figure.axes[0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=2)
    return figure


def draw_curves(ax: Axes, table: pd.DataFrame, column: str) -> None:
    """Draw means and 95 % intervals over the seeds that judge; paler at the smaller rate."""
    rows = table[table["role"] == searched.JUDGING]
    rows = rows.assign(share=100 * rows["step"] / table["step"].max(), shown=100 * rows[column])
    small, large = found = two_rates.rates(table)
    lines = [
        (WITHOUT, small, 0.5, "$r_0$"), (WITH, small, 0.5, "$r_0$"),
        (WITH, found.middle, 0.75, "between"),
        (WITHOUT, large, 1.0, "$r_1$"), (WITH, large, 1.0, "$r_1$"),
    ]  # fmt: skip
    for arm, rate, fade, name in lines:
        own = rows[(rows["arm"] == arm) & (rows["learning_rate"] == rate)]
        band = style.mean_band(own, "share", "shown")
        label = f"{arm}, {name}" + ("" if rate != rate else f" = {rate:g}")
        style.draw_line(ax, band["mean"], arm, alpha=fade, label=label)
        ax.fill_between(
            band.index, band["low"], band["high"], color=style.COLOURS[arm], alpha=0.15, lw=0
        )
    ax.axhline(claims.GUESSING, color="0.6", lw=1, ls=":", zorder=0)


def rates(table: pd.DataFrame) -> Figure:
    """Test accuracy at the end of each run of the search, against the rate."""
    figure = style.new_figure(1, 1, 5.6, 3.4)
    (ax,) = figure.axes
    draw_rates(ax, table)
    figure.legend(*ax.get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


def draw_rates(ax: Axes, table: pd.DataFrame) -> None:
    """Draw the means over the seeds that choose, and rings at the rates chosen."""
    ended = searched.ends(table, searched.TUNING)
    picked = searched.chosen(table)
    for arm in (WITHOUT, WITH):
        own = (
            100 * ended[ended["arm"] == arm].groupby("learning_rate")["validation_accuracy"].mean()
        )
        style.draw_line(ax, own, arm, marker=style.MARKERS[arm], ms=5, label=arm)
        if arm in picked:
            at = picked[arm]
            ax.plot(at, own[at], "o", ms=12, mfc="none", mec=style.COLOURS[arm], mew=1.4)
    ax.axhline(claims.GUESSING, color="0.6", lw=1, ls=":", zorder=0)
    ax.set(xscale="log", xlabel="learning rate", ylabel="validation accuracy (%)")
