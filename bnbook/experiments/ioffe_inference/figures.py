"""Figures of what the statistics for inference cost, from the experiment's table."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from bnbook.plots import style
from bnbook.plots.style import Look
from bnbook.tables.arms import (
    ADAPTED,
    ALGORITHM_2,
    BOTH,
    LAYER_BY_LAYER,
    MIXED,
    NO_FACTOR,
    NO_SHIFT,
    POOLED,
    RUNNING,
    SHIFTS,
    SORTED,
    WHOLE,
)

_SIZES = (
    Look("#000000", "s", (4, 1.5)),
    Look("#CC79A7", "v", (1, 1)),
    Look("#009E73", "D", (5, 1, 1, 1)),
    Look("#56B4E9", "^", (2, 1)),
    Look("#0072B2", "o"),
)
"""Colour, marker and dashes of the batch sizes, the smallest first, the largest last."""

_VARIANTS = (
    (RUNNING, RUNNING),
    (NO_FACTOR, NO_FACTOR),
    (ALGORITHM_2, ALGORITHM_2),
    (LAYER_BY_LAYER, LAYER_BY_LAYER),
    (f"{POOLED}: pooled variance", POOLED),
    ("both corrections at once", BOTH),
    ("the test minibatch's own", MIXED),
    ("the same, minibatch of one class", SORTED),
)


def _styles(table: pd.DataFrame) -> dict[int, Look]:
    sizes = sorted(int(m) for m in table["batch_size"].unique())
    at = np.linspace(0, len(_SIZES) - 1, len(sizes)).round().astype(int)
    return {m: _SIZES[i] for m, i in zip(sizes, at, strict=True)}


def _plain(value: float, _: int) -> str:
    return f"{value:g}".replace("-", "−")


def draw_momentum(ax: Axes, table: pd.DataFrame, column: str) -> None:
    """Draw a measurement under the running average against its momentum, a line a batch size."""
    plain = table[table["shift"] == NO_SHIFT]
    running = plain[plain["statistics"] == RUNNING]
    if column == "gap":
        best = plain[plain["statistics"] == ALGORITHM_2].set_index(["batch_size", "seed"])
        running = running.join(best["test_accuracy"].rename("best"), on=["batch_size", "seed"])
        running["gap"] = running["best"] - running["test_accuracy"]
    rows = running.assign(shown=100 * running[column])
    ax.set(xscale="log", xlabel=r"momentum $\rho$")
    _draw_sizes(ax, rows, "momentum", "shown")
    if column != "gap":
        means = rows.groupby(["batch_size", "momentum"])["shown"].mean()
        ax.set(yscale="log", ylim=(0.4 * means.min(), 2 * means.max()))
        ax.yaxis.set_major_locator(LogLocator(subs=(1, 3)))
        ax.yaxis.set_major_formatter(FuncFormatter(_plain))
        ax.yaxis.set_minor_formatter(NullFormatter())


def _draw_sizes(ax: Axes, rows: pd.DataFrame, x: str, y: str) -> None:
    """Draw means over seeds against x, a line for each batch size."""
    looks = _styles(rows)
    palette, markers, dashes = ({m: look[i] for m, look in looks.items()} for i in range(3))
    style.draw_means(
        ax, rows, x, y, "batch_size", palette=palette, markers=markers, dashes=dashes, ms=5
    )
    for line in ax.lines:
        if str(line.get_label()).isdigit():
            line.set_label(f"m = {line.get_label()}")


def draw_variants(ax: Axes, table: pd.DataFrame, momentum: float) -> None:
    """Draw what each kind of statistics costs in test accuracy, for every batch size."""
    plain = table[table["shift"] == NO_SHIFT]
    plain = plain[plain["momentum"].isna() | (plain["momentum"] == momentum)]
    styles = _styles(table)
    offsets = np.linspace(-0.3, 0.3, len(styles))
    for offset, (m, look) in zip(offsets, styles.items(), strict=True):
        rows = plain[plain["batch_size"] == m].copy()
        whole = rows[rows["statistics"] == WHOLE].set_index("seed")["test_accuracy"]
        rows["change"] = rows["test_accuracy"] - rows["seed"].map(whole)
        band = 100 * style.mean_band(rows, "statistics", "change")
        band = band.reindex([kind for _, kind in _VARIANTS])
        band.index = np.arange(len(band)) + offset
        style.draw_bars(ax, band, look, across=True, ms=5, ls="", lw=1, label=f"m = {m}")
    ax.axvline(0, color="0.4", lw=1)
    labels = [label for label, _ in _VARIANTS]
    labels[0] += f", momentum {momentum:g}"
    ax.set_yticks(range(len(_VARIANTS)), labels=labels)
    ax.invert_yaxis()
    ax.set_xscale("symlog", linthresh=1)
    ax.set_xticks([-50, -10, -1, 0, 1, 10], labels=["−50", "−10", "−1", "0", "1", "10"])
    ax.set(xlabel="test accuracy less that with all images as one minibatch (points)")
    ax.xaxis.grid(visible=True, color="0.9")


def draw_shift(ax: Axes, table: pd.DataFrame) -> None:
    """Draw test accuracy on shifted images before and after the statistics are recomputed."""
    rows = table[table["batch_size"] == table["batch_size"].max()]
    plain = rows[(rows["shift"] == NO_SHIFT) & (rows["statistics"] == ALGORITHM_2)]
    level = 100 * plain["test_accuracy"].mean()
    ax.axhline(level, color="0.4", lw=1, ls=":")
    ax.annotate(
        "images as in training", (2.1, level), xytext=(0, 3), textcoords="offset points",
        fontsize=8, color="0.3",
    )  # fmt: skip
    kinds = (
        (ALGORITHM_2, "statistics of training", Look("#CC79A7", "s"), -0.1),
        (ADAPTED, "recomputed, without labels", Look("#0072B2", "o"), 0.1),
    )
    for kind, label, look, offset in kinds:
        moved = rows[(rows["statistics"] == kind) & (rows["shift"] != NO_SHIFT)]
        band = 100 * style.mean_band(moved, "shift", "test_accuracy").reindex(list(SHIFTS))
        band.index = np.arange(len(band)) + offset
        style.draw_bars(ax, band, look, ms=6, ls="", lw=1.2, label=label)
    ax.set_xticks(range(len(SHIFTS)), labels=list(SHIFTS))
    ax.set(ylabel="test accuracy (%)", ylim=(0, 108), xlim=(-0.5, len(SHIFTS) - 0.5))


def momentum(table: pd.DataFrame) -> Figure:
    """The running average: accuracy lost against Algorithm 2, errors of mean and variance."""
    figure = style.new_figure(1, 3, 8, 3.3, sharex=True)
    gap, mean, variance = figure.axes
    draw_momentum(gap, table, "gap")
    gap.axhline(0, color="0.4", lw=0.8)
    gap.set_yscale("symlog", linthresh=1)
    gap.yaxis.set_major_formatter(FuncFormatter(_plain))
    gap.set(ylabel="accuracy lost (points)", title="test accuracy")
    draw_momentum(mean, table, "mean_error")
    mean.set(ylabel="error (% of a std)", title="mean, first layer")
    draw_momentum(variance, table, "variance_error")
    variance.set(ylabel="error (%)", title="variance, first layer")
    style.legend(gap)
    return figure


variants = style.alone(draw_variants, 7, 4.6, columns=None)
"""Test accuracy under every kind of statistics."""


shift = style.alone(draw_shift, 6, 3.4, columns=2)
"""Test accuracy on shifted images."""
