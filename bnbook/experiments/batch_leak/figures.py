"""Figure of the leak between the images of a minibatch, from the experiment's table."""

import pandas as pd
from matplotlib.axes import Axes

from bnbook.experiments.batch_leak import claims
from bnbook.experiments.batch_leak.claims import ALIKE, ALONE, ANY, ARMS
from bnbook.plots import style
from bnbook.plots.style import Look

LOOKS = {ALONE: Look("#0072B2", "o"), ALIKE: Look("#CC79A7", "X"), ANY: Look("#777777", "D")}


def draw_leak(ax: Axes, table: pd.DataFrame) -> None:
    """Draw each arm's test accuracy alone and among mates, means with 95 % intervals."""
    for offset, (mates, look) in zip((-0.15, 0, 0.15), LOOKS.items(), strict=True):
        own = {at + offset: claims.accuracy(table, arm, mates) for at, arm in enumerate(ARMS)}
        band = style.bands({at: values for at, values in own.items() if len(values)})
        style.draw_bars(ax, band, look, across=True, ms=6, ls="", lw=1.2, label=mates)
    ax.axvline(100 * claims.SHARE, color="0.4", lw=1, ls=":")
    ax.set_yticks(range(len(ARMS)), labels=ARMS)
    ax.set_ylim(len(ARMS) - 0.5, -0.5)
    ax.set(xlabel="labels found (%); dotted: all that an image by itself allows")
    ax.xaxis.grid(visible=True, color="0.9")


leak = style.alone(draw_leak, 7, 3.4, columns=3)
"""Test accuracy alone and among mates."""


FIGURES = {"leak": leak}
