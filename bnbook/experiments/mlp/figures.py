"""Figures of BN in fully connected networks, from the experiment's table."""

from collections.abc import Callable

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bnbook.experiments.mlp.claims import NORMS, TASKS, arm
from bnbook.plots import style
from bnbook.tables import choosing

TITLES = dict(zip(TASKS, ("table as it is", "table, standardised", "images"), strict=True))


def draw_curves(ax: Axes, table: pd.DataFrame, task: str) -> None:
    """Draw the training loss against steps, each norm at its own rate."""
    rows = choosing.shown(table)
    for norm in NORMS:
        own = rows[(rows["arm"] == arm(task, norm)) & (rows["step"] > 0)]
        style.draw_band(ax, style.log_band(own, "step", "loss"), norm, label=norm)
    ax.set(xlabel="step", yscale="log", title=TITLES[task])


def draw_rates(ax: Axes, table: pd.DataFrame, task: str) -> None:
    """Draw the last validation loss of the choosing seeds against the rate, the chosen ringed."""
    scores, chosen = choosing.scores(table), choosing.chosen(table)
    for norm in NORMS:
        name = arm(task, norm)
        values = scores[name].replace(np.inf, np.nan)
        style.draw_line(ax, values, norm, marker=style.MARKERS[norm], ms=5, label=norm)
        style.ring(ax, chosen[name], values[chosen[name]], norm)
    ax.set(xscale="log", yscale="log", xlabel="learning rate", title=TITLES[task])


def _three(
    table: pd.DataFrame, draw: Callable[[Axes, pd.DataFrame, str], None], label: str
) -> Figure:
    figure = style.new_figure(1, 3, 8.5, 3.4)
    for ax, task in zip(figure.axes, TASKS, strict=True):
        draw(ax, table, task)
    figure.axes[0].set_ylabel(label)
    style.legend(figure.axes[0], len(NORMS))
    return figure


def curves(table: pd.DataFrame) -> Figure:
    """Training loss against steps."""
    figure = _three(table, draw_curves, "training loss (nats)")
    style.label_decades(figure.axes[0].yaxis)  # less than one
    return figure


def rates(table: pd.DataFrame) -> Figure:
    """Validation loss against learning rate."""
    return _three(table, draw_rates, "validation loss (nats)")
