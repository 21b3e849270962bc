"""Accuracy against rate, and BN's lead, as training gets longer."""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bnbook.experiments.bjorck_whole import claims
from bnbook.plots import style
from bnbook.plots.rate_map import accuracy_limits
from bnbook.tables.arms import WITH, WITHOUT

PARTS = {
    "lead": "BN minus none, at the best rate without BN",
    "gain": "BN, from there to its own rate",
}


def rates(table: pd.DataFrame) -> Figure:
    """Draw final test accuracy against rate, a panel for each length of training."""
    runs = claims.shown(table)
    runs = runs.assign(percent=100 * runs["test_accuracy"])
    lengths = list(runs.groupby("length"))
    figure = style.new_figure(
        1, len(lengths), max(4.6, 2.1 * len(lengths)), 3.2, sharex=True, sharey=True
    )
    for at, (ax, (_, own)) in enumerate(zip(figure.axes, lengths, strict=True)):
        ax.set(xscale="log", ylim=accuracy_limits(table))
        draw_rates(ax, own)
        epochs = own["epochs"].iloc[0]
        title = f"{epochs:.2g} epoch{'' if round(epochs, 1) == 1 else 's'}"
        ax.set(title=title, xlabel="learning rate")
        ax.set_ylabel("" if at else "final test accuracy (%)")
    style.legend(figure.axes[0], 2)
    return figure


def draw_rates(ax: Axes, runs: pd.DataFrame) -> None:
    """Draw each run that is shown, and the means of both arms over the seeds of a rate."""
    for arm in (WITHOUT, WITH):
        own = runs[runs["arm"] == arm]
        means = own.groupby("learning_rate")["percent"].mean()
        style.draw_line(ax, means, arm, marker=style.MARKERS[arm], ms=5, label=arm)
        ax.plot(
            own["learning_rate"], own["percent"], ls="", marker=style.MARKERS[arm], ms=3,
            color=style.COLOURS[arm], alpha=0.4,
        )  # fmt: skip


def lead(table: pd.DataFrame) -> Figure:
    """Draw both parts of BN's gain against the length of training."""
    figure = style.new_figure(1, 1, 5.6, 3.6)
    draw_lead(figure.axes[0], claims.by_length(table))
    style.legend(figure.axes[0], 1)
    return figure


def draw_lead(ax: Axes, found: pd.DataFrame) -> None:
    """Draw mean and 95 % interval over seeds of both parts against epochs."""
    ax.set(xscale="log", xlabel="epochs of training", ylabel="points of test accuracy")
    ax.axhline(0, color="0.8", lw=0.8, zorder=0)
    if found.empty:
        ax.set(xlim=(1, 100), ylim=(-5, 15))
        style.say_empty(ax, "no cell has been run yet")
        return
    colours = dict(zip(PARTS, ("#56b4e9", "#0072b2"), strict=True))
    for part, label in PARTS.items():
        band = style.mean_band(found, "epochs", part)
        half = (band["high"] - band["mean"]).fillna(0)
        ax.errorbar(
            band.index, band["mean"], half, color=colours[part], marker="os"[part == "gain"],
            label=label,
        )  # fmt: skip
    epochs = sorted(found["epochs"].unique())
    ax.set_xticks(epochs, [f"{each:.2g}" for each in epochs])
    ax.minorticks_off()


FIGURES = {"rates": rates, "lead": lead}
