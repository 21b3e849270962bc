"""Figures of BN before and after the nonlinearity, from the experiment's table."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bnbook.plots import style
from bnbook.tables.arms import AFTER, RELU, SIGMOID, WITH

_LABELS = {WITH: "BN before", AFTER: "BN after"}
_MOMENTS = (
    ("skewness", "skewness (magnitude)", 0.0),
    ("kurtosis", "excess kurtosis (magnitude)", 0.0),
    ("sparsity", "values near zero (%)", 4.0),
)


def draw_rates(
    ax: Axes, table: pd.DataFrame, nonlinearity: str, tuned: Mapping[str, float]
) -> None:
    """Draw final test accuracy against learning rate, mean and 95 % interval over seeds."""
    rows = table[table["nonlinearity"] == nonlinearity]
    style.draw_rates(ax, rows, "test_accuracy", tuned, 100)
    for line in ax.lines:
        line.set_label(_LABELS.get(str(line.get_label()), str(line.get_label())))
        best = 100 * rows.groupby(["arm", "learning_rate"])["test_accuracy"].mean().max()
    ax.set(ylabel="final test accuracy (%)", title=nonlinearity, ylim=(best - 9, best + 1))


def draw_moments(ax: Axes, measured: Mapping[str, pd.DataFrame], moment: str) -> None:
    """Draw one shape of u and of Wu in both networks with BN before the nonlinearity."""
    factor = 100 if moment == "sparsity" else 1
    kinds = ((-0.15, "u", "u", "s", "#009E73"), (0.15, "wu", "Wu", "o", "#0072B2"))
    for at, nonlinearity in enumerate((SIGMOID, RELU)):
        for offset, of, label, marker, colour in kinds:
            values = factor * measured[nonlinearity][f"{of}_{moment}"]
            ax.plot(
                np.full(len(values), at + offset), values, marker, color=colour, ms=5, alpha=0.7,
                label=None if at else label,
            )  # fmt: skip
    ax.set_xticks([0, 1], labels=[SIGMOID, RELU])
    ax.set(xlim=(-0.5, 1.5))


def rates(table: pd.DataFrame, tuned: Mapping[str, Mapping[str, float]]) -> Figure:
    """Final test accuracy of both placements at every rate, sigmoid and ReLU."""
    figure = style.new_figure(1, 2, 8, 3.3, sharey=True)
    for ax, nonlinearity in zip(figure.axes, (SIGMOID, RELU), strict=True):
        draw_rates(ax, table, nonlinearity, tuned[nonlinearity])
    figure.axes[1].set_ylabel("")
    figure.axes[0].legend(loc="lower left")
    return figure


def moments(measured: Mapping[str, pd.DataFrame]) -> Figure:
    """Skewness, excess kurtosis and sparsity of u and Wu."""
    figure = style.new_figure(1, 3, 8, 2.9)
    for ax, (moment, label, gaussian) in zip(figure.axes, _MOMENTS, strict=True):
        draw_moments(ax, measured, moment)
        ax.axhline(gaussian, color="0.4", lw=1, ls=":")
        ax.set(title=label)
        ax.set_ylim(bottom=min(0, ax.get_ylim()[0]))
    figure.axes[0].legend(loc="upper left")
    return figure
