"""Figures of shift against speed, from the experiment's table."""

import itertools
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bnbook.experiments.ics_speed.claims import ARMS, EQUAL, LANDSCAPE
from bnbook.plots import style
from bnbook.tables import shift
from bnbook.tables.arms import WITH, WITHOUT

LABELS = {
    "drift": "drift of moments, one step (spreads)",
    "distance": "Wasserstein distance (spreads)",
    "relative": "length of G − G' over G's",
    "loss_range": "range of the loss (nats)",
    "gradient_change": "change of the gradient",
    "smoothness": "effective smoothness",
}


def once(table: pd.DataFrame) -> pd.DataFrame:
    """Judged rows, one for each run and step."""
    return shift.judged(table).drop_duplicates([*shift.KEYS, "step"])


def speed(table: pd.DataFrame) -> Figure:
    """Training loss of every arm at its tuned rate, a panel for each network."""
    networks = list(table["network"].unique())
    figure = style.new_figure(1, len(networks), 2 + 3 * len(networks), 3.8, squeeze=False)
    rates = shift.tuned_rates(shift.runs(table))
    for ax, network in zip(figure.axes, networks, strict=True):
        rows = once(table[(table["network"] == network) & (table["step"] > 0)])
        own = [rates[network, arm] for arm in rows["arm"]]
        ax.set(yscale="log")
        style.draw_means(
            ax, rows[rows["learning_rate"] == own], "step", "loss", "arm", markers=style.MARKERS,
            ms=5,
        )  # fmt: skip
        style.label_decades(ax.yaxis)
        ax.set(xlabel="training step", ylabel="training loss (nats)")
        ax.set_title(network)
    style.legend(figure.axes[0], 4)
    return figure


def draw_scatter(ax: Axes, rows: pd.DataFrame, tuned: pd.DataFrame, measure: str) -> None:
    """Draw the loss over training against a measure; the runs at tuned rates are filled."""
    for arm in ARMS:
        own, best = (each[each["arm"] == arm] for each in (rows, tuned))
        look: dict[str, Any] = {"marker": style.MARKERS[arm], "color": style.COLOURS[arm], "ls": ""}
        ax.plot(own[measure], own["loss"], ms=4, mfc="none", alpha=0.5, **look)
        ax.plot(best[measure], best["loss"], ms=5, label=arm, **look)
    ax.set(xscale="log", yscale="log")


def predicts(table: pd.DataFrame) -> Figure:
    """Loss over training against each measure, all arms and rates, a row for each network."""
    of_runs = shift.runs(table)
    rows, tuned = shift.alive(of_runs), shift.at_tuned(of_runs)
    networks = list(rows["network"].unique())
    figure = style.new_figure(
        len(networks), 3, 9, 1 + 2.7 * len(networks), sharex="col", sharey=True
    )
    panels = itertools.product(networks, shift.AGREEING)
    for ax, (network, measure) in zip(figure.axes, panels, strict=True):
        own, best = (each[each["network"] == network] for each in (rows, tuned))
        draw_scatter(ax, own, best, measure)
        ax.set(title=network, ylabel="loss over training (nats)" if ax in figure.axes[::3] else "")
        if network == networks[-1]:
            ax.set_xlabel(LABELS[measure], fontsize=9)
    top = 1.2 * float(rows["loss"].clip(upper=6).max())
    for ax in figure.axes:
        ax.set_ylim(0.9 * rows["loss"].min(), top)
        style.label_decades(ax.yaxis)
    style.legend(figure.axes[0], 4)
    return figure


def landscape(table: pd.DataFrame) -> Figure:
    """What is met along the gradient over training, at the equal rate and at tuned rates."""
    figure = style.new_figure(2, 3, 9, 5.4, sharex=True)
    rates = shift.tuned_rates(shift.runs(table))
    rows = once(table[table["arm"].isin((WITHOUT, WITH))])
    own = [rates[key] for key in zip(rows["network"], rows["arm"], strict=True)]
    panels = {f"rate {EQUAL:g}": EQUAL, "tuned rates": own}
    for at, (title, chosen) in enumerate(panels.items()):
        for ax, column in zip(figure.axes[3 * at : 3 * at + 3], LANDSCAPE, strict=True):
            ax.set(yscale="log")
            shown = rows[(rows["learning_rate"] == chosen) & (rows[column] > 0)]
            style.draw_means(ax, shown, "step", column, "arm", markers=style.MARKERS, ms=5)
            style.label_decades(ax.yaxis)
            ax.set_title(f"{LABELS[column]}, {title}", fontsize=9)
            ax.set(xlabel="training step" if at else "")
    style.legend(figure.axes[0], 4)
    return figure
