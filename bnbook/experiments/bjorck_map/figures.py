"""Figures of the map of what else than BN allows large rates, from the experiment's table."""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bnbook.experiments.bjorck_map.claims import ARMS, GROUP_NORMS, best_arm
from bnbook.plots import style
from bnbook.plots.rate_map import draw_accuracy
from bnbook.tables import tuning
from bnbook.tables.arms import (
    FIXUP,
    GROUP_NORM,
    LAYER_NORM,
    SKIPINIT,
    WARM_UP,
    WITH,
    WITHOUT,
)

PANELS = {
    "warm-up": (WARM_UP,),
    "a better start": (FIXUP, SKIPINIT),
    "other norms": (GROUP_NORM, LAYER_NORM),
}
"""Titles and the arms that each panel adds to the networks with and without BN."""


def chosen_groups(table: pd.DataFrame) -> pd.DataFrame:
    """Rows with the best of GroupNorm's arms called GroupNorm, and its other arms left out."""
    best = best_arm(table, GROUP_NORMS)
    rows = table[~table["arm"].isin([arm for arm in GROUP_NORMS if arm != best])]
    return rows.replace({"arm": {best: GROUP_NORM}})


def draw_other_groups(ax: Axes, table: pd.DataFrame) -> None:
    """Draw final test accuracy against learning rate for GroupNorm's other arms, paler."""
    last, best = tuning.final(table), best_arm(table, GROUP_NORMS)
    label = "GroupNorm, other groups"
    for arm in GROUP_NORMS:
        own = last[last["arm"] == arm]
        if arm != best and len(own):
            means = 100 * own.groupby("learning_rate")["test_accuracy"].mean()
            style.draw_line(ax, means, GROUP_NORM, lw=1, alpha=0.6, zorder=1, label=label)


def rates(table: pd.DataFrame) -> Figure:
    """Final test accuracy against learning rate: one panel for each objection."""
    rows = chosen_groups(table)
    tuned = tuning.tuned_rates(rows, ARMS)
    figure = style.new_figure(1, 3, 8, 3.4, sharey=True)
    for ax, (title, arms) in zip(figure.axes, PANELS.items(), strict=True):
        draw_accuracy(ax, rows, (WITHOUT, WITH, *arms), tuned)
        if GROUP_NORM in arms:
            draw_other_groups(ax, table)
        ax.set(title=title, ylabel="" if ax is not figure.axes[0] else ax.get_ylabel())
    style.legend(figure.axes, 4, fontsize=8)
    return figure
