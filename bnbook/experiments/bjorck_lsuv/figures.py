"""Figures of scaled initial weights against BN."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bnbook.experiments.bjorck_lsuv import claims
from bnbook.plots import style
from bnbook.tables import tuning


def draw_rates(ax: Axes, table: pd.DataFrame, rates: Mapping[str, float]) -> None:
    """Draw final test accuracy against the initial rate, the tuned rates ringed."""
    last = tuning.final(table)
    for arm, rate in rates.items():
        own = last[last["arm"] == arm]
        own = own.assign(per_cent=100 * own["test_accuracy"])
        band = style.mean_band(own, "learning_rate", "per_cent")
        style.draw_band(ax, band, arm, marker=style.MARKERS[arm], ms=4, label=arm)
        ax.plot(
            rate, band["mean"][rate], marker="o", ms=11, mfc="none", color=style.COLOURS[arm], ls=""
        )
    ax.set_xscale("log")
    ax.set(xlabel="initial learning rate", ylabel="final test accuracy (%)")


def draw_course(
    ax: Axes, table: pd.DataFrame, rates: Mapping[str, float], column: str, scale: float = 1.0
) -> None:
    """Draw a column times a factor against the training step, each arm at its tuned rate."""
    rows = tuning.at_rates(table, rates)
    for arm in rates:
        own = rows[rows["arm"] == arm]
        band = style.mean_band(own.assign(value=scale * own[column]), "step", "value")
        style.draw_band(ax, band, arm, marker=style.MARKERS[arm], ms=4, label=arm)
    ax.set(xlabel="training step")


def draw_layers(ax: Axes, profiles: Mapping[str, pd.DataFrame]) -> None:
    """Draw the size of every layer's outputs at one step, by arm."""
    for arm, rows in profiles.items():
        logs = rows.assign(log=np.log(rows["size"]))
        band = style.mean_band(logs, "layer", "log").map(math.exp)
        style.draw_band(ax, band, arm, marker=style.MARKERS[arm], ms=4, label=arm)
    ax.set_yscale("log")
    ax.set(xlabel="layer", ylabel="size of its outputs (r.m.s.)")


def rates(table: pd.DataFrame) -> Figure:
    """Accuracy over training at the tuned rates, and final accuracy against the rate."""
    tuned = claims.tuned_rates(table)
    figure = style.new_figure(1, 2, 8, 3.6, sharey=True)
    draw_course(figure.axes[0], table, tuned, "test_accuracy", 100)
    figure.axes[0].set_ylabel("test accuracy (%)")
    draw_rates(figure.axes[1], table, tuned)
    figure.axes[1].set_ylabel("")
    figure.axes[0].set_ylim(0, 100)
    figure.axes[0].set_title("each at its tuned rate")
    figure.axes[1].set_title("at the end")
    _legend(figure)
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
    _legend(figure)
    return figure


def layers(table: pd.DataFrame) -> Figure:
    """Size of the layers' outputs at the start and at the end of training."""
    profiles = {arm: claims.profiles_of(table, arm) for arm in claims.ARMS}
    figure = style.new_figure(1, 2, 8, 3.4, sharey=True)
    for at, title in enumerate(("at the start", "at the end")):
        draw_layers(figure.axes[at], {arm: pair[at] for arm, pair in profiles.items()})
        figure.axes[at].set_title(title)
    figure.axes[1].set_ylabel("")
    _legend(figure)
    return figure


def _legend(figure: Figure) -> None:
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2)
