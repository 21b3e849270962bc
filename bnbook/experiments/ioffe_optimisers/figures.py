"""Figures of BN with other optimisers, from the experiment's table."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bnbook.experiments.ioffe_optimisers import claims
from bnbook.experiments.ioffe_optimisers.claims import ADAGRAD, FULL_BATCH, METHODS, SGD, arm
from bnbook.plots import style
from bnbook.tables import choosing
from bnbook.tables.arms import RELU, SIGMOID, WITH, WITHOUT

TITLES = {SGD: "minibatches, SGD", ADAGRAD: "minibatches, Adagrad", FULL_BATCH: "full batches"}


def draw_curves(ax: Axes, table: pd.DataFrame, method: str) -> None:
    """Draw the training loss against steps, without and with BN, each at its own rate."""
    rows = choosing.shown(table)
    for norm, name in zip((WITHOUT, WITH), claims.pair(method), strict=True):
        own = rows[rows["arm"] == name]
        style.draw_band(ax, style.log_band(own, "step", "loss"), norm, label=norm)
    ax.set(xlabel="step", yscale="log", title=TITLES[method])


def draw_distances(ax: Axes, table: pd.DataFrame, *, start: bool) -> None:
    """Draw distances from a Gaussian of u and Wu, a mark a seed, by network."""
    kinds = (("u", "u", "s", "#CC79A7"), ("wu", "Wu + b", "o", "#009E73"))
    places = [(g, norm) for g in (RELU, SIGMOID) for norm in (WITHOUT, WITH)]
    for at, (nonlinearity, norm) in enumerate(places):
        for offset, (of, label, marker, colour) in zip((-0.15, 0.15), kinds, strict=True):
            values = claims.shape(
                table, f"{of}_distance", arm(SGD, nonlinearity, norm), start=start
            )
            ax.plot(
                np.full(len(values), at + offset), values, marker, color=colour, ms=5, alpha=0.7,
                label=None if at else label,
            )  # fmt: skip
    ax.set_xticks(range(len(places)), labels=[f"{g},\n{norm}" for g, norm in places])
    ax.set(xlim=(-0.5, len(places) - 0.5), title="at the start" if start else "trained")


def curves(table: pd.DataFrame) -> Figure:
    """Training loss against steps by method."""
    figure = style.new_figure(1, len(METHODS), 8.5, 3.3)
    for ax, method in zip(figure.axes, METHODS, strict=True):
        draw_curves(ax, table, method)
    figure.axes[0].set_ylabel("training loss (nats)")
    style.legend(figure.axes[0], 2)
    return figure


def distances(table: pd.DataFrame) -> Figure:
    """Distances of u and Wu from a Gaussian at the start and after training."""
    figure = style.new_figure(1, 2, 8.5, 3.6, sharey=True)
    for ax, start in zip(figure.axes, (True, False), strict=True):
        draw_distances(ax, table, start=start)
    figure.axes[0].set_ylim(0, None)
    figure.axes[0].set_ylabel("distance (deviations)")
    style.legend(figure.axes[0], 2)
    return figure


FIGURES = {"curves": curves, "distances": distances}
