"""Figures of scaled initial weights against BN."""

from collections.abc import Mapping

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bnbook.experiments.bjorck_lsuv import claims
from bnbook.plots import style
from bnbook.plots.rate_map import accuracy_limits
from bnbook.tables import tuning


def draw_rates(ax: Axes, table: pd.DataFrame, rates: Mapping[str, float]) -> None:
    """Draw final test accuracy against the initial rate, the tuned rates ringed."""
    style.draw_rates(ax, tuning.final(table), "test_accuracy", rates, 100)
    ax.set(xlabel="initial learning rate", ylabel="final test accuracy (%)")


def draw_course(
    ax: Axes, table: pd.DataFrame, rates: Mapping[str, float], column: str, scale: float = 1.0
) -> None:
    """Draw a column times a factor against the training step, each arm at its tuned rate."""
    rows = tuning.at_rates(table, rates).assign(shown=lambda own: scale * own[column])
    style.draw_means(ax, rows, "step", "shown", "arm", markers=style.MARKERS, ms=5)
    ax.set(xlabel="training step")


def rates(table: pd.DataFrame) -> Figure:
    """Accuracy over training at the tuned rates, and final accuracy against the rate."""
    tuned = claims.tuned_rates(table)
    figure = style.new_figure(1, 2, 8, 3.6, sharey=True)
    draw_course(figure.axes[0], table, tuned, "test_accuracy", 100)
    figure.axes[0].set_ylabel("test accuracy (%)")
    draw_rates(figure.axes[1], table, tuned)
    figure.axes[1].set_ylabel("")
    figure.axes[0].set_ylim(accuracy_limits(table))
    figure.axes[0].set_title("each at its tuned rate")
    figure.axes[1].set_title("at the end")
    style.legend(figure.axes[0], 2)
    return figure


def moments(table: pd.DataFrame) -> Figure:
    """How far means and deviations of the layers' outputs move from where they started."""
    tuned = claims.tuned_rates(table)
    figure = style.new_figure(1, 2, 8, 3.4)
    labels = {
        "mean_shift": "shift of means (deviations)",
        "scale_shift": "shift of deviations (doublings)",
    }
    for ax, (column, label) in zip(figure.axes, labels.items(), strict=True):
        draw_course(ax, table, tuned, column)
        ax.set(ylabel=label, ylim=(0, None))
    style.legend(figure.axes[0], 2)
    return figure
