"""Figure of fine-tuning with statistics that stand or move, from the experiment's table."""

from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bnbook.experiments.finetune_frozen import claims
from bnbook.experiments.finetune_frozen.claims import ESTIMATED, FROZEN, MOVING, TARGETS
from bnbook.plots import style
from bnbook.plots.style import Look
from bnbook.tables.arms import ALGORITHM_2, RUNNING

_STANDING = {
    FROZEN: Look("#777777", "D", (5, 2)),
    ESTIMATED: Look("#009E73", "^", (5, 1, 1, 1)),
}
_MOVING = {
    RUNNING: ("statistics move", Look("#0072B2", "o")),
    ALGORITHM_2: ("the same, Algorithm 2 after it", Look("#56B4E9", "v", (3, 1))),
}
_BARS: dict[str, Any] = {"ms": 5, "capsize": 2, "elinewidth": 1}


def draw_target(ax: Axes, table: pd.DataFrame, target: str) -> None:
    """Draw test accuracy after fine-tuning against m; levels where statistics stand."""
    rows = table[(table["mode"] == MOVING) & (table["target"] == target)]
    sizes = sorted(int(m) for m in rows["batch_size"].unique())
    ax.set(xscale="log", xlabel="images normalised together, m", title=target)
    for statistics, (label, look) in _MOVING.items():
        values = {m: claims.accuracy(table, target, MOVING, m, statistics) for m in sizes}
        style.draw_bars(ax, style.bands(values), look, label=label, **_BARS)
    at = float(max(sizes))
    for mode, look in _STANDING.items():
        own = claims.accuracy(table, target, mode)
        if len(own):
            at *= 1.15
            ax.axhline(own.mean(), color=look.colour, lw=1.4).set_dashes(look.dashes)
            style.draw_bars(ax, style.bands({at: own}), look, ls="", label=mode, **_BARS)
    style.label_numbers(ax.xaxis, sizes)


def finetuning(table: pd.DataFrame) -> Figure:
    """Test accuracy after fine-tuning on both targets."""
    figure = style.new_figure(1, 2, 8, 4, sharey=True)
    for ax, target in zip(figure.axes, TARGETS, strict=True):
        if (table["target"] == target).any():
            draw_target(ax, table, target)
    figure.axes[0].set_ylabel("test accuracy (%)")
    style.legend(figure.axes[0], 2)
    return figure


FIGURES = {"finetuning": finetuning}
