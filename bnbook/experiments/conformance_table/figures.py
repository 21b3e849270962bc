"""Figures of the conformance checks, from the experiment's table."""

import re

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bnbook.plots import style

WIDTH = 8
"""Inches."""
CAUGHT, MISSED = "#0072B2", "#D9D9D9"


def words(layer: str) -> str:
    """Write a layer's name in words: ``m:OnePassVariance`` becomes ``one pass variance``."""
    name = layer.rpartition(":")[2]
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", " ", name).lower()


def draw_matrix(ax: Axes, found: pd.DataFrame, trap: str) -> None:
    """Draw which check catches which layer: a filled square where it does, else a small dot."""
    y, x = np.indices(found.shape)
    share = found.to_numpy()
    always, never = share == 1, share == 0
    ax.scatter(x[never], y[never], s=3, marker=".", color=MISSED)
    ax.scatter(x[always], y[always], s=22, marker="s", color=CAUGHT)
    at_some = ~(always | never)
    ax.scatter(x[at_some], y[at_some], s=22, marker="s", edgecolor=CAUGHT, color="none")
    ax.set(xlim=(-0.6, found.shape[1] - 0.4), ylim=(found.shape[0] - 0.4, -0.6))
    ax.set_yticks(range(found.shape[0]), [words(name) for name in found.index])
    ax.set_xticks(range(found.shape[1]), list(found.columns), rotation=90)
    ax.xaxis.tick_top()
    ax.tick_params(length=0, labelsize=7)
    ax.spines[:].set_visible(False)
    for label, check in zip(ax.get_xticklabels(), found.columns, strict=True):
        if check == trap:
            label.set(style="italic")
    for row in range(3, found.shape[0], 3):
        ax.axhline(row - 0.5, color="0.85", lw=0.6, zorder=0)
    for column in range(5, found.shape[1], 5):
        ax.axvline(column - 0.5, color="0.85", lw=0.6, zorder=0)


def height(found: pd.DataFrame) -> float:
    """Inches that the rows of a matrix need, below the names of the checks."""
    return 2.4 + 0.15 * max(len(found), 4)


def matrix(found: pd.DataFrame, trap: str) -> Figure:
    """Which check catches which mutant."""
    figure = style.new_figure(1, 1, WIDTH, height(found), whole=True)
    draw_matrix(figure.axes[0], found, trap)
    return figure
