"""Training and test accuracy with little and much noise, and the rates that were tried."""

from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bnbook.experiments.bjorck_ghost import claims
from bnbook.plots import style
from bnbook.plots.rate_map import SPLITS
from bnbook.tables.searched import JUDGING

LOOKS: tuple[dict[str, Any], ...] = (
    {"color": "#0072b2", "marker": "o", "ls": "-"},
    {"color": "#009e73", "marker": "^", "ls": "-."},
    {"color": "#56b4e9", "marker": "v", "ls": ":"},
)
"""Of the cells: the small minibatch, the large one, the small one at the small rate."""


def curves(table: pd.DataFrame) -> Figure:
    """Draw training accuracy on the left and test accuracy on the right against steps."""
    figure = style.new_figure(1, 2, 8, 3.6)
    for ax, column in zip(figure.axes, SPLITS, strict=True):
        draw_curves(ax, table, column)
    if figure.axes[0].get_legend_handles_labels()[0]:
        style.legend(figure.axes[0], 3)
    return figure


def draw_curves(ax: Axes, table: pd.DataFrame, column: str) -> None:
    """Draw an accuracy of each cell against steps, mean and 95 % interval over seeds."""
    ax.set(xlabel="steps", ylabel=SPLITS[column])
    rows = table[table["role"] == JUDGING]
    sizes = sorted(int(size) for size in table["batch_size"].unique())
    cells = claims.cells(claims.rate(table), sizes) if len(sizes) == 2 else []
    for (size, rate), look in zip(cells, LOOKS, strict=False):
        own = rows[(rows["batch_size"] == size) & (rows["learning_rate"] == rate)]
        if own.empty:
            continue
        band = 100 * style.mean_band(own, "step", column)
        ax.plot(band.index, band["mean"], ms=4, label=f"{size} images, rate {rate:.2g}", **look)
        ax.fill_between(
            band.index.to_numpy(), band["low"], band["high"], color=look["color"], alpha=0.2, lw=0
        )
    if not ax.lines:
        ax.set(xlim=(0, 1), ylim=(0, 100))
        ax.plot([], [])
        style.say_empty(ax, "no network has been judged yet")


FIGURES = {"curves": curves}
