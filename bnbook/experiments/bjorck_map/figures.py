"""Figures of the map of what else than BN allows large rates, from the experiment's table."""

import pandas as pd
from matplotlib.figure import Figure

from bnbook.experiments.bjorck_map.claims import ARMS
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


def rates(table: pd.DataFrame) -> Figure:
    """Final test accuracy against learning rate: one panel for each objection."""
    tuned = tuning.tuned_rates(table, ARMS)
    figure = style.new_figure(1, 3, 8, 3.4, sharey=True)
    for ax, (title, arms) in zip(figure.axes, PANELS.items(), strict=True):
        draw_accuracy(ax, table, (WITHOUT, WITH, *arms), tuned)
        ax.set(title=title, ylabel="" if ax is not figure.axes[0] else ax.get_ylabel())
    style.legend(figure.axes, 4, fontsize=8)
    return figure
