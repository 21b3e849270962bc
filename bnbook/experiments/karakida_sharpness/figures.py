"""Figure of the largest eigenvalue of the Fisher information at the start, against the width."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bnbook.experiments.karakida_sharpness import claims
from bnbook.plots import style
from bnbook.tables.arms import LAST_ONLY, WITHOUT

LOOKS = {
    WITHOUT: style.LOOKS[WITHOUT],
    claims.MIDDLE: style.Look("#56B4E9", "D", (1, 1)),
    claims.LAST_HIDDEN: style.Look("#8A8A1F", "v", (1, 1, 4, 1)),
    claims.HIDDEN: style.Look("#009E73", "^", (6, 1, 1, 1)),
    claims.LAYER_NORMS: style.Look("#000000", "p", (6, 1, 1, 1, 1, 1)),
    LAST_ONLY: style.LOOKS[LAST_ONLY],
    claims.EVERYWHERE: style.Look("#0072B2", "o"),
}
"""Looks of the networks, from those with the largest eigenvalues in theory to the smallest."""


def draw_widths(ax: Axes, table: pd.DataFrame, case: str) -> None:
    """Draw the largest eigenvalue against the width, geometric means with 95 % bands."""
    rows = table[(table["case"] == case) & table["arm"].isin(list(LOOKS))]
    ax.set(xscale="log", yscale="log", xlabel="width, and number of inputs", title=case)
    style.draw_means(
        ax, rows, "width", "eigenvalue", "arm", ms=5, hue_order=list(LOOKS),
        palette={arm: look.colour for arm, look in LOOKS.items()},
        markers={arm: look.marker for arm, look in LOOKS.items()},
        dashes={arm: look.dashes for arm, look in LOOKS.items()},
    )  # fmt: skip
    style.label_numbers(ax.xaxis, sorted(rows["width"].unique()))


def widths(table: pd.DataFrame) -> Figure:
    """Largest eigenvalue against width: Gaussian inputs, images, images and softmax."""
    figure = style.new_figure(1, 3, 8, 4.2, sharey=True)
    for ax, case in zip(figure.axes, claims.CASES, strict=True):
        draw_widths(ax, table, case)
    figure.axes[0].set_ylabel("largest eigenvalue, per squared weight")
    handles = figure.axes[0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=3)
    return figure
