"""Figures of the networks without BN, from the experiment's table."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bnbook.experiments.without_bn.claims import (
    ARMS,
    TIMES_GUESSING,
    accuracies,
    rates,
    split,
)
from bnbook.plots import style
from bnbook.plots.rate_map import accuracy_limits, draw_accuracy
from bnbook.tables import tuning, usable
from bnbook.tables.arms import (
    AFFINE_ONLY,
    FIXUP,
    FIXUP_MIXUP,
    NORMALISER_FREE,
    OTHERS_ONLY,
    SELF_NORMALISING,
    SKIPINIT,
    WITH,
    WITH_MIXUP,
    WITHOUT,
)

PANELS = {
    "a better start": (FIXUP, SKIPINIT),
    "other layers": (NORMALISER_FREE, SELF_NORMALISING),
    "with mixup": (WITH_MIXUP, FIXUP_MIXUP),
    "little to learn": (AFFINE_ONLY, OTHERS_ONLY),
}
"""Titles and the arms that each panel adds to the networks with and without BN."""


def accuracy(table: pd.DataFrame) -> Figure:
    """Final test accuracy against learning rate, of the seeds that judge: a panel for each kind."""
    chosen, judges = rates(table), split(table)[1]
    figure = style.new_figure(2, 2, 8, 6, sharex=True, sharey=True)
    for at, (ax, (title, arms)) in enumerate(zip(figure.axes, PANELS.items(), strict=True)):
        shown = [arm for arm in (WITHOUT, WITH, *arms) if arm in chosen]
        draw_accuracy(ax, judges, shown, chosen)
        ax.set(title=title)
        ax.set(ylabel=ax.get_ylabel() if at % 2 == 0 else "", xlabel="learning rate" * (at > 1))
    style.legend(figure.axes, 3, fontsize=8)
    return figure


def _draw_rows(ax: Axes, values: pd.DataFrame) -> None:
    """Draw a row for each arm: seeds as small dots, their mean or geometric mean as a large one."""
    log = ax.get_xscale() == "log"
    for row, arm in enumerate(ARMS[::-1]):
        own = values[arm].dropna()
        look = style.LOOKS[arm]
        ax.plot(own, [row] * len(own), ".", color=look.colour, alpha=0.5, ms=5)
        if len(own):
            middle = np.exp(np.log(own).mean()) if log else own.mean()
            ax.plot(middle, row, look.marker, color=look.colour, ms=9, mec="white")
    ax.set_yticks(range(len(ARMS)), ARMS[::-1])


def recovered(table: pd.DataFrame) -> Figure:
    """Test accuracy at the tuned rate, and the largest usable rate, a row for each arm."""
    figure = style.new_figure(1, 2, 8, 4, sharey=True)
    left, right = figure.axes
    _draw_rows(left, accuracies(table).reindex(columns=list(ARMS)))
    left.set(xlabel="final test accuracy at the tuned rate (%)")
    right.set(xscale="log", xlabel="largest usable learning rate")
    largest = usable.largest(split(table)[1], times=TIMES_GUESSING)
    _draw_rows(right, largest.reindex(columns=list(ARMS)))
    return figure


def curves(table: pd.DataFrame) -> Figure:
    """Test accuracy against steps, each arm at its tuned rate, mixup left out."""
    chosen = {arm: r for arm, r in rates(table).items() if arm not in (WITH_MIXUP, FIXUP_MIXUP)}
    rows = tuning.at_rates(split(table)[1], chosen)
    figure = style.new_figure(1, 1, 8, 4)
    ax = figure.axes[0]
    ax.set(xlabel="steps", ylabel="test accuracy (%)", ylim=accuracy_limits(table))
    shown = rows.assign(shown=100 * rows["test_accuracy"])
    style.draw_means(ax, shown, "step", "shown", "arm", markers=style.MARKERS, ms=5)
    style.legend(ax, 1, loc="outside right center", fontsize=8)
    return figure


FIGURES = {"accuracy": accuracy, "recovered": recovered, "curves": curves}
