"""Figures of the planted faults, from the experiment's table."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bnbook.experiments.diagnose_faults import claims
from bnbook.plots import style

NAMED, MISSED = "#0072B2", "#D9D9D9"


def draw_hits(ax: Axes, table: pd.DataFrame) -> None:
    """Draw which fault is named in which architecture, and how many findings come beside it.

    A filled square means named with its layer at every seed, an open one at some seeds, a dot at
    none. An architecture that cannot have the fault has no mark. A number beside a mark counts the
    findings that the fault does not bring, over all seeds.
    """
    found = claims.hits(table)
    beside = claims.planted(table).pivot_table(
        index="fault", columns="architecture", values="alarms", aggfunc="sum"
    )
    y, x = np.indices(found.shape)
    share = found.to_numpy()
    always, never = share == 1, share == 0
    some = ~always & ~never & ~np.isnan(share)
    ax.scatter(x[always], y[always], s=70, marker="s", color=NAMED)
    ax.scatter(x[some], y[some], s=70, marker="s", edgecolor=NAMED, color="none")
    ax.scatter(x[never], y[never], s=12, marker=".", color=MISSED)
    for row, fault in enumerate(found.index):
        for column, architecture in enumerate(found.columns):
            count = beside.loc[fault, architecture]
            if count > 0:
                ax.text(column + 0.15, row, f"{count:.0f}", va="center", fontsize=8)
    ax.set(xlim=(-0.6, found.shape[1] - 0.4), ylim=(found.shape[0] - 0.4, -0.6))
    ax.set_yticks(range(found.shape[0]), list(found.index))
    ax.set_xticks(range(found.shape[1]), list(found.columns))
    ax.xaxis.tick_top()
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    for row in range(3, found.shape[0], 3):
        ax.axhline(row - 0.5, color="0.85", lw=0.6, zorder=0)


def hits(table: pd.DataFrame) -> Figure:
    """Which planted fault is named."""
    rows = claims.planted(table)["fault"].nunique()
    figure = style.new_figure(1, 1, 6.5, 1 + 0.25 * rows)
    draw_hits(figure.axes[0], table)
    return figure


FIGURES = {"hits": hits}
