"""Figures of normalisation at small minibatches, from the experiment's table."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bnbook.experiments.small_batches.claims import GROUPS, group_norm
from bnbook.plots import style
from bnbook.plots.style import LOOKS, Look
from bnbook.tables import climbed
from bnbook.tables.arms import (
    ALGORITHM_2,
    BN,
    GROUP_NORM,
    INSTANCE_NORM,
    LATE_FROZEN,
    LAYER_NORM,
    MIXED,
    RENORM,
    RUNNING,
)

OF_THE_BATCH = {
    BN: LOOKS[BN],
    RENORM: Look("#009E73", "^", (6, 1, 1, 1)),
    LATE_FROZEN: Look("#56B4E9", "v", (3, 1)),
}
OF_AN_IMAGE = {
    LAYER_NORM: LOOKS[LAYER_NORM],
    INSTANCE_NORM: Look("#777777", "D", (1, 1)),
}
"""Looks of the norms that need no batch, beside GroupNorm."""
STATISTICS = {
    RUNNING: ("running average", Look("#0072B2", "o")),
    ALGORITHM_2: ("Algorithm 2", Look("#009E73", "^", (6, 1, 1, 1))),
    MIXED: ("test minibatches of m", Look("#CC79A7", "X", (5, 2, 1, 2))),
}
WU_HE = {
    BN: ((32, 16, 8, 4, 2), (23.6, 23.7, 24.8, 27.2, 34.7)),
    GROUP_NORM: ((32, 16, 8, 4, 2), (24.1, 24.2, 24.0, 24.2, 24.1)),
}
"""Wu & He 2018, figure 1: images a GPU, and ResNet-50's error on ImageNet."""
WU_JOHNSON = {
    ALGORITHM_2: ((32, 16, 8, 4, 2), (23.4, 23.5, 24.3, 26.4, 32.5)),
    MIXED: ((32, 16, 8, 4, 2), (24.5, 24.7, 25.1, 25.5, 26.0)),
    "training": ((32, 16, 8, 4, 2), (10.8, 12.1, 13.6, 15.2, 16.6)),
}
"""Wu & Johnson 2021: normalisation batch size, and ResNet-50's error on ImageNet."""


def draw_norms(ax: Axes, table: pd.DataFrame) -> None:
    """Draw test error against m: a line for each norm of the batch, a level for the others."""
    rows = _errors(table, RUNNING, "test")
    _axis(ax, rows["batch_size"])
    for arm, look in OF_THE_BATCH.items():
        _draw(ax, rows[rows["arm"] == arm], arm, look)
    at = float(rows["batch_size"].max())
    for arm, look in {group_norm(table): LOOKS[GROUP_NORM], **OF_AN_IMAGE}.items():
        level = rows.loc[rows["arm"] == arm, "error"]
        if len(level):
            at *= 1.15
            ax.axhline(level.mean(), color=look.colour, lw=1.4).set_dashes(look.dashes or (1, 0))
            style.draw_bars(ax, style.bands({at: level}), look, ls="", label=arm, **_BARS)


def draw_groups(ax: Axes, table: pd.DataFrame) -> None:
    """Draw the test error of norms of an image against their groups, the chosen number ringed.

    BN's errors at the smallest and the largest m are levels.
    """
    rows, each = _errors(table, RUNNING, "test"), 2 * max(GROUPS.values())
    places = {LAYER_NORM: 1, **GROUPS, INSTANCE_NORM: each}
    found = {at: rows.loc[rows["arm"] == arm, "error"] for arm, at in places.items()}
    band = style.bands({at: own for at, own in found.items() if len(own)})
    style.draw_bars(ax, band, LOOKS[GROUP_NORM], label="norms of an image", **_BARS)
    chosen = GROUPS[group_norm(table)]
    style.ring(ax, chosen, found[chosen].mean(), GROUP_NORM)
    of_bn = rows[rows["arm"] == BN].groupby("batch_size")["error"].mean()
    for m, dashes in ((of_bn.index.min(), (1, 1)), (of_bn.index.max(), (1, 0))):
        ax.axhline(of_bn[m], color=LOOKS[BN].colour, lw=1.4, label=f"BN, m = {m}").set_dashes(
            dashes
        )
    ax.set(xscale="log", xlabel="groups", ylabel="test error (%)")
    ax.minorticks_off()
    names = {1: "1,\nLayerNorm", each: "each channel,\nInstanceNorm"}
    ax.set_xticks(list(band.index), labels=[names.get(at, str(at)) for at in band.index])


def draw_statistics(ax: Axes, table: pd.DataFrame) -> None:
    """Draw BN's test error against m for each kind of statistics, and its training error."""
    rows = _errors(table, None, "test")
    rows = rows[rows["arm"] == BN]
    _axis(ax, rows["batch_size"])
    for kind, (label, look) in STATISTICS.items():
        _draw(ax, rows[rows["statistics"] == kind], label, look)
    training = _errors(table, MIXED, "training")
    _draw(ax, training[training["arm"] == BN], "training images, minibatches of m", _TRAINING)


_TRAINING = Look("#555555", "s", (1, 1))
_BARS: dict[str, Any] = {"ms": 5, "capsize": 2, "elinewidth": 1}


def draw_papers(ax: Axes, curves: Mapping[str, tuple[Sequence[int], Sequence[float]]]) -> None:
    """Draw a paper's errors against m, in grey."""
    _axis(ax, pd.Series([m for sizes, _ in curves.values() for m in sizes]))
    for (name, (sizes, errors)), marker in zip(curves.items(), ("o", "X", "s"), strict=False):
        label = {ALGORITHM_2: "population", MIXED: "test minibatches of m"}.get(name, name)
        ax.plot(sizes, errors, marker=marker, ms=5, label=label, color="0.6", lw=1.8)
        end = 0 if marker == "X" else -1  # flat curves have their name at the right
        ax.annotate(
            label, (sizes[end], errors[end]), xytext=(-10 * end, 8), textcoords="offset points",
            ha="left" if end else "right", fontsize=8, color="0.35",
        )  # fmt: skip


def _errors(table: pd.DataFrame, statistics: str | None, of: str) -> pd.DataFrame:
    rows = climbed.judged(table)
    rows = rows if statistics is None else rows[rows["statistics"] == statistics]
    return rows.assign(error=100 * (1 - rows[f"{of}_accuracy"]))


def _axis(ax: Axes, sizes: pd.Series) -> None:
    ax.set(xscale="log", xlabel="images normalised together, m")
    style.label_numbers(ax.xaxis, sorted(set(sizes)))


def _draw(ax: Axes, rows: pd.DataFrame, label: str, look: Look) -> None:
    """Draw means over seeds with bars of their 95 % intervals."""
    if rows.empty:
        return
    band = style.mean_band(rows, "batch_size", "error")
    style.draw_bars(ax, band, look, label=label, **_BARS)


def norms(table: pd.DataFrame) -> Figure:
    """Test error of all norms against m, beside Wu & He's."""
    figure = style.new_figure(1, 2, 8, 4.2, width_ratios=(3, 2))
    ours, paper = figure.axes
    draw_norms(ours, table)
    ours.set(ylabel="test error (%)", title="here")
    draw_papers(paper, WU_HE)
    paper.set(ylabel="error (%)", title="Wu & He: ResNet-50, ImageNet", ylim=(22, 36))
    style.legend(ours, 3)
    return figure


def statistics(table: pd.DataFrame) -> Figure:
    """BN's error with three kinds of statistics, beside Wu & Johnson's."""
    figure = style.new_figure(1, 2, 8, 4.0, width_ratios=(3, 2))
    ours, paper = figure.axes
    draw_statistics(ours, table)
    ours.set(ylabel="error (%)", title="here")
    draw_papers(paper, WU_JOHNSON)
    paper.set(ylabel="error (%)", title="Wu & Johnson: ResNet-50, ImageNet", ylim=(8, 36))
    style.legend(ours, 2)
    return figure


FIGURES = {
    "norms": norms, "statistics": statistics, "groups": style.alone(draw_groups, 6, 3.6, 3),
}  # fmt: skip
