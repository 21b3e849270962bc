"""Figures of data-parallel training, from the experiment's table."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from bnbook.experiments.many_devices.claims import BOUND, FROZEN, LOCAL, NORMS, SYNC, several
from bnbook.plots import style

LOOKS = {
    LOCAL: style.Look("#CC79A7", "v", (1, 1)),
    SYNC: style.Look("#0072B2", "o"),
    FROZEN: style.Look("#555555", "X", (6, 1, 1, 1)),
}
FLOOR = 1e-17
"""Where an error of exactly zero is drawn."""


def _draw(ax: Axes, rows: pd.DataFrame, x: str, y: str) -> None:
    """Draw a line for each norm: the geometric mean over seeds, with single seeds as dots."""
    for norm in NORMS:
        own, look = rows[rows["norm"] == norm], LOOKS[norm]
        values = own.assign(shown=own[y].clip(lower=FLOOR))
        ax.plot(values[x], values["shown"], ".", color=look.colour, alpha=0.3, ms=4)
        means = values.groupby(x)["shown"].apply(lambda seeds: np.exp(np.log(seeds).mean()))
        style.draw_line(ax, means, look, marker=look.marker, label=norm, ms=6)


def equal(table: pd.DataFrame) -> Figure:
    """Distance from one process, and from one large minibatch, against steps."""
    rows = several(table)
    rows = rows[rows["replicas"] == rows["replicas"].max()]
    figure = style.new_figure(1, 2, 8, 3.6, sharey=True)
    left, right = figure.axes
    for ax in (left, right):
        ax.set(yscale="log", xlabel="step", ylim=(FLOOR / 3, 10))
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    _draw(left, rows, "step", "gradient_error")
    left.axhline(BOUND, color="black", lw=0.8, ls=":")
    left.set(title="from one process alike", ylabel="relative distance of gradients")
    _draw(right, rows, "step", "large_gap")
    right.set(title="from one large minibatch")
    style.legend(left, 3)
    return figure


def gap(table: pd.DataFrame) -> Figure:
    """First gradient's distance from that of one large minibatch, against the replicas."""
    figure = style.new_figure(1, 2, 8, 3.6)
    left, right = figure.axes
    first = table[table["step"] == table["step"].min()]
    left.set(yscale="log", ylim=(FLOOR / 3, 10), xlabel="replicas")
    left.set(ylabel="distance of gradients, relative", title="from one large minibatch")
    _draw(left, first, "replicas", "large_gap")
    right.set(xlabel="replicas", ylabel="milliseconds of a step", title="on the cores of one CPU")
    _draw(right, first.assign(ms=1e3 * first["seconds_step"]), "replicas", "ms")
    right.set_ylim(0)
    for ax in (left, right):
        ax.set_xticks(sorted(table["replicas"].unique()))
    style.legend(left, 3)
    return figure


FIGURES = {"equal": equal, "gap": gap}
