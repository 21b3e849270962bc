"""The papers' own curves, drawn behind ours."""

from __future__ import annotations

from matplotlib.axes import Axes

from bnbook.plots import style
from bnbook.tables import papers
from bnbook.tables.arms import WITH, WITHOUT

RATES = ("0.1", "0.003", "0.0001")
"""The rates of the paper's networks with BN; the one without has the last."""


def draw_figure_1(ax: Axes, panel: str) -> None:
    """Draw the four curves of Bjorck et al.'s figure 1, grey, BN's rates at the right end.

    `panel` is train or test; the axis of `ax` is the share of training that is done, in per cent.
    """
    rows = papers.read("bjorck_fig1")
    rows = rows[rows["panel"] == panel]
    networks = [(WITH, f"BN, rate {rate}") for rate in RATES]
    networks.append((WITHOUT, f"no BN, rate {RATES[-1]}"))
    for arm, network in networks:
        own = rows[rows["network"] == network]
        x, y = own["percent_of_training"], own["accuracy_percent"]
        rate = network.split()[-1]
        named = rate == RATES[-1]  # one name for the grey lines of each arm
        style.draw_paper(ax, x, y, arm, label=f"the paper: {arm}" if named else None)
        if panel == "test" and arm == WITH:
            ax.annotate(
                rate, (x.iloc[-1], y.iloc[-1]), xytext=(3, 0), textcoords="offset points",
                va="bottom" if rate == RATES[0] else "top", fontsize=8, color="0.4",
            )  # fmt: skip
