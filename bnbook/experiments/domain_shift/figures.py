"""Figures of statistics estimated again, from the experiment's table."""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bnbook.experiments.domain_shift import claims
from bnbook.experiments.domain_shift.claims import DOMAINS, DRIFT, MOVING
from bnbook.plots import style
from bnbook.plots.style import Look
from bnbook.tables.arms import ADAPTED, BN, GROUP_NORM, MIXED, RUNNING

_KINDS = (
    (BN, RUNNING, "BN, statistics of training", Look("#777777", "s")),
    (BN, ADAPTED, "BN, estimated again", Look("#0072B2", "o")),
    (BN, MIXED, "BN, of each test minibatch", Look("#56B4E9", "v")),
    (BN, MOVING, "BN, running on", Look("#009E73", "^")),
    (GROUP_NORM, RUNNING, "GroupNorm", Look("#CC79A7", "X")),
)
_DASHES = {DOMAINS[0]: (1, 1), DOMAINS[1]: (), DOMAINS[2]: (5, 2), DOMAINS[3]: (5, 1, 1, 1)}


def draw_domains(ax: Axes, table: pd.DataFrame) -> None:
    """Draw test error in each domain and over the stream, for every kind of statistics."""
    domains = (*DOMAINS, DRIFT)
    for at, (arm, statistics, label, look) in enumerate(_KINDS):
        number = claims.most(table) if statistics == ADAPTED else 0
        for place, domain in enumerate(domains):
            values = claims.error(table, arm, domain, statistics, number)
            if len(values):
                band = style.bands({place + 0.14 * (at - 2): values})
                style.draw_bars(ax, band, look, ms=6, ls="", lw=1.2, label=label)
    ax.set_xticks(range(len(domains)), labels=[d.replace(" ", "\n", 1) for d in domains])
    ax.set(ylabel="test error (%)")
    ax.yaxis.grid(visible=True, color="0.9")


def draw_numbers(ax: Axes, table: pd.DataFrame) -> None:
    """Draw what new statistics gain against the number of images that they are taken of."""
    sizes = sorted(int(n) for n in table.loc[table["adapting"] > 0, "adapting"].unique())
    for domain, side in zip(DOMAINS, ("low", "high", "high", "low"), strict=True):
        before = claims.error(table, BN, domain)
        gains = {n: before - claims.error(table, BN, domain, ADAPTED, n) for n in sizes}
        look = Look("#0072B2", "o", _DASHES[domain])
        band = style.bands(gains)
        style.draw_bars(ax, band, look, ms=4, capsize=2, elinewidth=1)
        ax.annotate(
            domain, (sizes[-1], band[side].iloc[-1]), xytext=(4, 3 if side == "high" else -3),
            textcoords="offset points", ha="right", va="bottom" if side == "high" else "top",
            fontsize=9,
        )  # fmt: skip
    ax.axhline(0, color="0.5", lw=0.8)
    ax.set(xscale="log", xlabel="unlabelled images", ylabel="points gained")
    style.label_numbers(ax.xaxis, sizes)


def shift(table: pd.DataFrame) -> Figure:
    """Test error in each domain, and how many images new statistics need."""
    figure = style.new_figure(1, 2, 9, 4.2, width_ratios=(3, 2))
    first, second = figure.axes
    draw_domains(first, table)
    draw_numbers(second, table)
    style.legend(first, 3)
    return figure


FIGURES = {"shift": shift}
