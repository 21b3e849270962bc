"""Figures of BN in a small Transformer, from the experiment's table."""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bnbook.experiments.transformer.claims import (
    CONVNET,
    COUNTED,
    NONE,
    PIXELS,
    POST,
    POWER_NORM,
    PRE,
    RMS_NORM,
    TEXT,
    TEXTS,
    WORDS,
    arm,
    best,
    parts,
)
from bnbook.plots import style
from bnbook.plots.style import Look
from bnbook.tables import choosing
from bnbook.tables.arms import BN, LAYER_NORM, WITHOUT

_NORMS = {
    LAYER_NORM: Look("#000000", "p"),
    RMS_NORM: Look("#555555", "D"),
    BN: Look("#0072B2", "o"),
    COUNTED: Look("#56B4E9", "X"),
    POWER_NORM: Look("#CC79A7", "^"),
    NONE: Look(style.COLOURS[WITHOUT], "s"),
}
_READ = {
    arm(TEXT, BN, POST): ("BN on characters, post", Look("#0072B2", ".", (6, 2))),
    arm(TEXT, BN, PRE): ("BN on characters, pre", Look("#0072B2", ".")),
    arm(WORDS, BN, PRE): ("BN on words, pre", Look("#56B4E9", ".", (1, 1))),
    arm(PIXELS, BN, PRE): ("BN on pixels, pre", Look("#009E73", ".", (3, 1, 1, 1))),
    CONVNET: ("BN in a ConvNet on images", Look("#000000", ".", (6, 1, 1, 1, 1, 1))),
    arm(TEXT, POWER_NORM, POST): ("PowerNorm on characters, post", Look("#CC79A7", ".", (2, 2))),
}
"""Label and look of what has statistics of batches."""


def draw_loss(ax: Axes, table: pd.DataFrame) -> None:
    """Draw each arm's test loss on characters, a point a seed and the mean with its interval."""
    ends = choosing.ends(table, "test")
    there = [name for name in reversed(TEXTS) if name in ends]
    for at, name in enumerate(there):
        look = _NORMS[parts(name)[1]]
        ax.plot(ends[name], [at] * len(ends), ".", color=look.colour, alpha=0.4, ms=5)
        style.draw_bars(ax, style.bands({at: ends[name]}), look, across=True, ms=7)
    labels = [norm if norm == NONE else f"{norm}, {place}" for _, norm, place in map(parts, there)]
    ax.set_yticks(range(len(there)), labels=labels)
    ax.set(xlabel="test loss (bits a character)")
    ax.xaxis.grid(visible=True, color="0.9")


def draw_distance(ax: Axes, table: pd.DataFrame, column: str) -> None:
    """Draw the median of a distance over training, a line an arm, its 95th percentile thin."""
    rows = choosing.shown(table)
    for name, (label, look) in _READ.items():
        own = rows[rows["arm"] == name].groupby("step")[[column, f"{column}_95"]].mean()
        if not own[column].gt(0).any():
            continue
        for each, width, text in ((column, 1.8, label), (f"{column}_95", 0.8, "")):
            style.draw_line(ax, own[each], look, lw=width, marker=".", ms=4, label=text or "_")
    ax.set(xlabel="step", yscale="log")
    style.label_decades(ax.yaxis)


def draw_decoding(ax: Axes, table: pd.DataFrame) -> None:
    """Draw the test loss in four ways of reading, for BN and LayerNorm."""
    ways = {
        "test": "whole,\nrunning",
        "decode": "one at a time,\nrunning",
        "test_batch": "whole,\nof the batch",
        "decode_batch": "one at a time,\nof the batch",
    }
    for norm, offset in ((LAYER_NORM, -0.1), (BN, 0.1)):
        for at, column in enumerate(ways):
            band = style.bands({at + offset: choosing.ends(table, column)[best(table, norm)]})
            style.draw_bars(ax, band, _NORMS[norm], ms=7, ls="", label=norm)
    ax.set_xticks(range(len(ways)), labels=list(ways.values()))
    ax.set(ylabel="test loss (bits a character)", xlim=(-0.5, len(ways) - 0.5))
    ax.yaxis.grid(visible=True, color="0.9")


loss = style.alone(draw_loss, 6, 3.6)
"""Test loss on characters with every norm."""


def distances(table: pd.DataFrame) -> Figure:
    """How far the statistics of batches are from running ones over training."""
    figure = style.new_figure(1, 2, 8, 3.9)
    mean, scale = figure.axes
    draw_distance(mean, table, "mean_distance")
    mean.set(ylabel="distance (running std)", title="mean")
    draw_distance(scale, table, "scale_distance")
    scale.set(ylabel="distance (share)", title="variance or quadratic mean")
    style.legend(scale, 2)
    return figure


decoding = style.alone(draw_decoding, 6, 3.4, columns=2)
"""Test loss read whole and one symbol at a time."""
