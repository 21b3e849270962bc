"""Figures of BN in an LSTM, from the experiment's table."""

import re

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bnbook.experiments.recurrent.claims import (
    INPUT,
    LAYER,
    NONE,
    NORMS,
    PIXELS,
    STEPS,
    STEPS_ONE,
    TEXT,
    arm,
)
from bnbook.plots import style
from bnbook.plots.style import Look
from bnbook.tables import choosing
from bnbook.tables.arms import LAYER_NORM, WITHOUT

LOOKS = {
    NONE: style.LOOKS[WITHOUT],
    INPUT: Look("#0072B2", "o"),
    STEPS: Look("#009E73", "^", (6, 1, 1, 1)),
    STEPS_ONE: Look("#CC79A7", "v", (1, 1)),
    LAYER: style.LOOKS[LAYER_NORM],
}


def draw_curves(ax: Axes, table: pd.DataFrame, read: str, column: str, unit: float = 1) -> None:
    """Draw a measurement against steps, each norm at its own rate."""
    rows = choosing.shown(table)
    for norm in NORMS:
        own = rows[rows["arm"] == arm(read, norm)]
        band = unit * style.mean_band(own, "step", column)
        style.draw_band(ax, band, LOOKS[norm], label=norm)
    ax.set(xlabel="step")


def draw_lengths(ax: Axes, table: pd.DataFrame) -> None:
    """Draw the loss late in the training length and beyond it, a pair of points a norm."""
    for at, norm in enumerate(NORMS):
        look = LOOKS[norm]
        for column, offset, filled in (("inside", -0.12, True), ("beyond", 0.12, False)):
            band = style.bands({at + offset: choosing.ends(table, column)[arm(TEXT, norm)]})
            colour = look.colour if filled else "white"
            style.draw_bars(ax, band, look, ms=7, mfc=colour, ls="")
    labels = [re.sub(r"(recurrent|the|,) ", r"\1\n", norm) for norm in NORMS]
    ax.set_xticks(range(len(NORMS)), labels=labels, fontsize=8)
    ax.set(ylabel="test loss (bits a character)")
    ax.yaxis.grid(visible=True, color="0.9")


def curves(table: pd.DataFrame) -> Figure:
    """Accuracy on pixels and training loss on characters against steps."""
    figure = style.new_figure(1, 2, 8, 3.8)
    pixels, text = figure.axes
    draw_curves(pixels, table, PIXELS, "test_accuracy", 100)
    pixels.set(ylabel="test accuracy (%)", title="pixels")
    draw_curves(text, table, TEXT, "loss")
    text.set(ylabel="training loss (bits)", title="characters")
    style.legend(text, 3)
    return figure


lengths = style.alone(draw_lengths, 6.5, 3.4)
"""Loss late in the training length (filled) and beyond it (open)."""
