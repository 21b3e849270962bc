"""Figures of the saturating networks, from the experiment's table."""

from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from bnbook.experiments.saturation.claims import (
    CELL,
    NAMES,
    NONLINEARITIES,
    before_training,
    judged,
    last,
)
from bnbook.plots import style

_LOOK: dict[str, Any] = {"markers": style.MARKERS, "ms": 5}


def accuracy(table: pd.DataFrame) -> Figure:
    """Final test accuracy against depth, each network at its own rate and start."""
    figure = style.new_figure(1, 2, 8, 3.4, sharey=True)
    rows = last(judged(table))
    rows = rows.assign(shown=100 * rows["test_accuracy"])
    for ax, nonlinearity in zip(figure.axes, NONLINEARITIES, strict=True):
        own = rows[rows["nonlinearity"] == nonlinearity]
        style.draw_means(ax, own, "depth", "shown", "arm", **_LOOK)
        ax.axhline(10, color="0.6", lw=1, ls=":")
        ax.set(title=nonlinearity, xlabel="hidden layers", ylim=(0, 100))
        ax.set_xticks(sorted(own["depth"].unique()))
    figure.axes[0].set(ylabel="test accuracy (%)")
    figure.axes[1].text(
        figure.axes[1].get_xlim()[1], 11, "guessing", ha="right", va="bottom", fontsize=8,
        color="0.4",
    )  # fmt: skip
    style.legend(figure.axes[0], 2)
    return figure


def layers(table: pd.DataFrame) -> Figure:
    """Gradients and saturation before training, layer by layer, of the deepest networks."""
    figure = style.new_figure(2, 2, 8, 5.6, sharex=True, sharey="row")
    rows = before_training(table)
    rows = rows[rows["depth"] == rows["depth"].max()]
    for at, nonlinearity in enumerate(NONLINEARITIES):
        upper, lower = figure.axes[at], figure.axes[at + 2]
        upper.set(yscale="log", title=nonlinearity)
        for arm in NAMES:
            own = rows[(rows["nonlinearity"] == nonlinearity) & (rows["arm"] == arm)]
            _draw_starts(upper, own, "input_gradient", 1.0)
            _draw_starts(lower, own, "share", 100.0)
        lower.set(xlabel="hidden layer", title=nonlinearity)
        lower.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.axes[0].set(ylabel="gradient before training")
    figure.axes[2].set(ylabel="saturated before training (%)")
    figure.axes[2].set_ylim(bottom=-1)
    style.legend(figure.axes[0], 2)
    return figure


def shares(table: pd.DataFrame) -> Figure:
    """Saturated activations, mean over layers and training, against depth."""
    figure = style.new_figure(1, 2, 8, 3.4, sharey=True)
    rows = judged(table)
    rows = rows[rows["step"] > 0]
    means = 100 * rows.groupby([*CELL, "seed"])["share"].mean()
    for ax, nonlinearity in zip(figure.axes, NONLINEARITIES, strict=True):
        own = means.xs(nonlinearity, level="nonlinearity").reset_index()
        style.draw_means(ax, own, "depth", "share", "arm", **_LOOK)
        ax.set(title=nonlinearity, xlabel="hidden layers")
        ax.set_xticks(sorted(own["depth"].unique()))
    figure.axes[0].set(ylabel="saturated activations (%)")
    figure.axes[0].set_ylim(bottom=0)
    style.legend(figure.axes[0], 2)
    return figure


def _draw_starts(ax: Axes, rows: pd.DataFrame, column: str, unit: float) -> None:
    """Draw a line for each size of the initial weights, the larger one with filled marks."""
    sizes = sorted(rows["start"].unique())
    for size in sizes:
        (arm,) = rows["arm"].unique()
        means = unit * rows[rows["start"] == size].groupby("layer")[column].mean()
        filled = {"mfc": "white"} if size == sizes[0] else {}
        label = f"{arm}, " + ("Xavier's weights" if size == 1 else f"{size:g} times as large")
        look = style.LOOKS[arm]
        style.draw_line(ax, means, arm, marker=look.marker, ms=5, label=label, **filled)


FIGURES = {"accuracy": accuracy, "layers": layers, "shares": shares}
