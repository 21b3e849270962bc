"""Figure of the covariance of a minibatch, from the experiment's table."""

import pandas as pd
from matplotlib.axes import Axes

from bnbook.experiments.ioffe_identities import claims
from bnbook.plots import style
from bnbook.tables.arms import ZCA

FLOOR = 1e-19
"""Where an eigenvalue that came out below zero, by rounding, is drawn."""


def draw_spectrum(ax: Axes, table: pd.DataFrame) -> None:
    """Draw the smallest over the largest eigenvalue against the number of examples."""
    rows = table[table["check"] == claims.SPECTRUM]
    width = int(rows["feature"].iloc[0])
    limit = claims.spectra(table)["theory"]
    ax.plot(
        rows["m"], rows["value"].clip(lower=FLOOR), style.MARKERS[ZCA], color=style.COLOURS[ZCA],
        ms=4, label="minibatches",
    )  # fmt: skip
    ax.plot(
        limit[limit > 0].index, limit[limit > 0], color="0.4", lw=1, label="Marchenko and Pastur"
    )
    ax.axvline(width, color="0.4", ls=":", lw=1)
    ax.text(width, 1e-9, f" m = {width}, the width", ha="left", va="center")
    ax.set(
        xscale="log", yscale="log", xlabel="examples in the minibatch, m",
        ylabel="smallest / largest eigenvalue", ylim=(FLOOR / 3, 3),
    )  # fmt: skip
    crowded = [m for m in rows["m"].unique() if width < m < 2 * width]
    style.label_numbers(ax.xaxis, sorted(set(rows["m"]) - set(crowded)))
    ax.legend(loc="lower right")


spectrum = style.alone(draw_spectrum, 6.4, 3.6)
"""The covariance of a minibatch against its size."""
