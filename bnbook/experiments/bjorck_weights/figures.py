"""Test accuracy against what rate and weights are together."""

import pandas as pd
from matplotlib.axes import Axes

from bnbook.experiments.bjorck_weights import claims
from bnbook.plots import style
from bnbook.plots.style import Look

LOOKS = (Look("#56B4E9", "v", (1, 1)), Look("#0072B2", "o"))
"""Of the small rate and of the large one."""


def draw_steps(ax: Axes, table: pd.DataFrame) -> None:
    """Draw final test accuracy against rate over squared scale of the weights, a line a rate."""
    found = claims.accuracies(table)
    compared = claims.compared(table)
    for rate, look in zip(sorted({rate for rate, _ in compared}), LOOKS, strict=True):
        places = {
            rate / scale**2: found[name].dropna()
            for (own, scale), name in zip(compared, claims.NAMES, strict=True)
            if own == rate
        }
        band = style.bands({at: places[at] for at in sorted(places) if len(places[at])})
        style.draw_bars(ax, band, look, label=f"rate {rate:g}", ms=7, capsize=3)
    ax.set(
        xscale="log",
        xlabel="rate over squared factor of the first weights",
        ylabel="test accuracy (%)",
    )


FIGURES = {"steps": style.alone(draw_steps, 5.5, 3.6, 2)}
