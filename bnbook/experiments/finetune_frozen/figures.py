"""Figure of fine-tuning with statistics that stand or move, from the experiment's table."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from bnbook.experiments.finetune_frozen import claims
from bnbook.experiments.finetune_frozen.claims import ESTIMATED, FROZEN, MOVING, TARGETS
from bnbook.plots import style
from bnbook.tables.arms import ALGORITHM_2, RUNNING

_STANDING: tuple[tuple[str, str, str, tuple[float, ...]], ...] = (
    (FROZEN, "#777777", "D", (5, 2)),
    (ESTIMATED, "#009E73", "^", (5, 1, 1, 1)),
)
_MOVING: tuple[tuple[str, str, str, str, tuple[float, ...]], ...] = (
    (RUNNING, "statistics move", "#0072B2", "o", ()),
    (ALGORITHM_2, "the same, Algorithm 2 after it", "#56B4E9", "v", (3, 1)),
)


def draw_target(ax: Axes, table: pd.DataFrame, target: str) -> None:
    """Draw test accuracy after fine-tuning against m; levels where statistics stand."""
    rows = table[(table["mode"] == MOVING) & (table["target"] == target)]
    sizes = sorted(int(m) for m in rows["batch_size"].unique())
    ax.set(xscale="log", xlabel="images normalised together, m", title=target)
    for statistics, label, colour, marker, dashes in _MOVING:
        values = [claims.accuracy(table, target, MOVING, m, statistics) for m in sizes]
        means = [float(own.mean()) for own in values]
        ends = [style.t_interval(own) for own in values]
        below = [mean - end[0] for mean, end in zip(means, ends, strict=True)]
        above = [end[1] - mean for mean, end in zip(means, ends, strict=True)]
        line = ax.errorbar(
            sizes, means, (below, above), color=colour, marker=marker, ms=5, capsize=2,
            elinewidth=1, label=label,
        )[0]  # fmt: skip
        if dashes:
            line.set_dashes(dashes)
    at = float(max(sizes))
    for mode, colour, marker, dashes in _STANDING:
        own = claims.accuracy(table, target, mode)
        if len(own):
            at *= 1.15
            ax.axhline(own.mean(), color=colour, lw=1.4).set_dashes(dashes)
            low, high = style.t_interval(own)
            ax.errorbar(
                at, own.mean(), [[own.mean() - low], [high - own.mean()]], ls="", color=colour,
                marker=marker, ms=5, capsize=2, elinewidth=1, label=mode,
            )  # fmt: skip
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xticks(sizes, labels=[str(m) for m in sizes])


def finetuning(table: pd.DataFrame) -> Figure:
    """Test accuracy after fine-tuning on both targets."""
    figure = style.new_figure(1, 2, 8, 4, sharey=True)
    for ax, target in zip(figure.axes, TARGETS, strict=True):
        if (table["target"] == target).any():
            draw_target(ax, table, target)
    figure.axes[0].set_ylabel("test accuracy (%)")
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2)
    return figure


FIGURES = {"finetuning": finetuning}
