"""Figures of BN as a regulariser, from the experiment's table."""

from collections.abc import Mapping

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bnbook.experiments.regulariser.claims import (
    FEW,
    FULL,
    NONE,
    SIZES,
    WEAK,
    Arm,
    ends,
    name,
    shuffling_gain,
)
from bnbook.plots import style
from bnbook.tables.arms import WITH, WITHOUT
from bnbook.tables.right import Points

STRENGTHS = {NONE: "none", WEAK: "weak", FULL: "strong"}
BATCHES = {
    "without BN": (False, 0),
    "with BN": (True, 0),
    f"with BN,\n{FEW} together": (True, FEW),
}
"""Networks whose minibatches are composed in both ways: BN or not, and images together."""


def factorial(table: pd.DataFrame) -> Figure:
    """Test accuracy against the strength of Dropout, with and without BN, without L2 and with."""
    figure = style.new_figure(1, 2, 8, 3.6, sharey=True)
    right = ends(table, "test_accuracy")
    for ax, decay in zip(figure.axes, (False, True), strict=True):
        for bn in (False, True):
            arms = [name(Arm(bn, strength, decay)) for strength in STRENGTHS]
            shown = right.reindex(columns=arms).set_axis(range(len(arms)), axis=1)
            _draw(ax, shown, WITH if bn else WITHOUT, 0.04 * (1 if bn else -1))
        ax.set_xticks(range(len(STRENGTHS)), list(STRENGTHS.values()))
        ax.set(xlabel="Dropout", title="with L2" if decay else "without L2", xlim=(-0.3, 2.3))
    figure.axes[0].set(ylabel="test accuracy (%)")
    style.legend(figure.axes[0], 2)
    return figure


def noise(table: pd.DataFrame) -> Figure:
    """Test accuracy by images normalised together; what composing minibatches anew brings."""
    figure = style.new_figure(1, 2, 8, 3.6, width_ratios=(3, 2))
    left, right = figure.axes
    accuracy = ends(table, "test_accuracy")
    arms = {**{str(m): name(Arm(True, together=m)) for m in SIZES}, "all": WITH}
    there = {label: arm for label, arm in arms.items() if arm in accuracy}
    shown = accuracy[list(there.values())].set_axis(range(len(there)), axis=1)
    _draw(left, shown, WITH)
    left.axhline(accuracy[WITHOUT].mean(), color=style.COLOURS[WITHOUT], ls="--", label=WITHOUT)
    left.set_xticks(range(len(there)), list(there))
    left.set(xlabel="images normalised together", ylabel="test accuracy (%)")
    for at, (bn, together) in enumerate(BATCHES.values()):
        _draw(right, {at: shuffling_gain(table, bn, together)}, WITH if bn else WITHOUT)
    right.axhline(0, color="0.6", lw=1, ls=":")
    right.set_xticks(range(len(BATCHES)), list(BATCHES), fontsize=8)
    right.set(xlabel="network", ylabel="gain by new minibatches (points)")
    right.set_xlim(-0.5, len(BATCHES) - 0.5)
    style.legend(figure.axes[0], 2)
    return figure


def _draw(
    ax: Axes, values: pd.DataFrame | Mapping[int, Points], arm: str, aside: float = 0.0
) -> None:
    """Draw means at places on the x axis with bars of their 95 % intervals, joined by a line."""
    band = style.bands({at: own.dropna() for at, own in values.items()})
    band.index = band.index.to_numpy(float) + aside
    style.draw_bars(ax, band, style.LOOKS[arm], ms=6, capsize=2, elinewidth=1, label=arm)


FIGURES = {"factorial": factorial, "noise": noise}
