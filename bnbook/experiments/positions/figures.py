"""Test error against the images normalised together, and its rise against draws."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bnbook.experiments.positions.claims import (
    ARMS,
    CONNECTED,
    CONVNET,
    LARGEST,
    ONE_POSITION,
    draws,
    error,
    rise,
)
from bnbook.plots import style
from bnbook.plots.style import Look

LOOKS = {
    CONVNET: Look("#0072B2", "o"),
    ONE_POSITION: Look("#009E73", "^", (1, 1)),
    CONNECTED: Look("#CC79A7", "X", (5, 2, 1, 2)),
}
"""Of the networks, which all have BN."""
_BARS: dict[str, Any] = {"ms": 5, "capsize": 2, "elinewidth": 1}


def draw_errors(ax: Axes, table: pd.DataFrame) -> None:
    """Draw test error against m, a line for each network."""
    sizes = sorted(int(m) for m in table["batch_size"].unique())
    for arm in ARMS:
        band = style.bands({m: own for m in sizes if len(own := error(table, arm, m))})
        style.draw_bars(ax, band, LOOKS[arm], label=arm, **_BARS)
    ax.set(xscale="log", xlabel="images normalised together, m", ylabel="test error (%)")
    style.label_numbers(ax.xaxis, sizes)


def draw_rises(ax: Axes, table: pd.DataFrame) -> None:
    """Draw the rise of test error from the largest m against the draws that a statistic has."""
    sizes = sorted(int(m) for m in table["batch_size"].unique() if m < LARGEST)
    for arm in ARMS:
        worth = 1.0 if arm != CONVNET else float(np.exp(np.log(draws(table, arm)).mean()))
        band = style.bands({m * worth: rise(table, arm, m) for m in sizes})
        style.draw_bars(ax, band, LOOKS[arm], label=arm, **_BARS)
    ax.axhline(0, color="0.8", lw=0.8, zorder=0)
    ax.set(
        xscale="log",
        xlabel="independent draws in a channel's mean",
        ylabel=f"rise of the error from m = {LARGEST} (points)",
    )
    style.label_numbers(ax.xaxis, (2, 4, 8, 16, 32))


def errors(table: pd.DataFrame) -> Figure:
    """Test error against m on the left, its rise against draws on the right."""
    figure = style.new_figure(1, 2, 8, 4.0)
    left, right = figure.axes
    draw_errors(left, table)
    draw_rises(right, table)
    style.legend(left, 3)
    return figure


FIGURES = {"errors": errors}
