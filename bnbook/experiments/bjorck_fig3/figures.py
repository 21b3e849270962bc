"""Figures of the loss along the negative gradient, from the experiment's table."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bnbook.experiments.bjorck_fig3 import claims
from bnbook.plots import style
from bnbook.tables import papers
from bnbook.tables.arms import WITH, WITHOUT

OPACITY = (1.0, 0.55, 0.3)
"""Of the curves of the first minibatch, of the second, and of all later ones."""
MOST = 1e3
"""Relative losses above this, and those that are no numbers, are drawn here."""


def draw_curves(ax: Axes, table: pd.DataFrame, arm: str) -> None:
    """Draw the relative loss against the step size, one line for each seed and minibatch.

    Lines are the paler the more updates were made before; what overflows is at the upper edge.
    """
    rows = table[table["arm"] == arm]
    for (number, seed), run in rows.groupby(["minibatch", "seed"]):
        ratio = run["loss_ratio"].where(run["loss_ratio"] < MOST, MOST)
        curve = pd.Series(ratio.to_numpy(), run["step_size"])
        alpha = OPACITY[min(int(str(number)), len(OPACITY) - 1)]
        label = str(number) if seed == rows["seed"].min() else None
        style.draw_line(ax, curve, arm, lw=1.1, alpha=alpha, label=label)
    for number, run in papers.read("bjorck_fig3").groupby("minibatch"):
        own = run[run["network"] == papers.ARMS[arm]]
        ratio = (10 ** own["log10_relative_loss"]).clip(upper=MOST)
        label = "the paper's 1, 4, 7" if number == 1 else None
        style.draw_paper(ax, own["step_size"], ratio, arm, label=label)
    ax.axhline(1, color="0.4", lw=1, ls=":")
    smallest = 0.7 * table["loss_ratio"].min()
    ax.set(
        xscale="log", yscale="log", ylim=(smallest, MOST), title=arm,
        xlabel="step size along the negative gradient", ylabel="loss, new over old",
    )  # fmt: skip


def draw_largest(ax: Axes, searches: pd.DataFrame, column: str) -> None:
    """Draw each seed's largest helpful step against the updates made before, and their means."""
    for arm, shift in ((WITHOUT, -0.05), (WITH, 0.05)):
        rows = searches[searches["arm"] == arm]
        ax.plot(
            rows["minibatch"] + shift, rows[column], ls="", marker=style.MARKERS[arm], ms=5,
            color=style.COLOURS[arm], alpha=0.6, mew=0, label=arm,
        )  # fmt: skip
        means = np.exp(rows.assign(log=np.log(rows[column])).groupby("minibatch")["log"].mean())
        style.draw_line(ax, means, arm)
    numbers = sorted(searches["minibatch"].unique())
    ax.set(yscale="log", xlabel="updates made before", xlim=(-0.5, numbers[-1] + 0.5))
    ax.set_xticks(numbers)


def curves(table: pd.DataFrame) -> Figure:
    """The relative loss of both networks: above without BN, below with."""
    figure = style.new_figure(2, 1, 7, 6, sharex=True, sharey=True)
    for ax, arm in zip(figure.axes, (WITHOUT, WITH), strict=True):
        draw_curves(ax, table, arm)
    figure.axes[0].set_xlabel("")
    figure.axes[1].legend(title="updates made before", title_fontsize=9, loc="upper left")
    return figure


def largest(table: pd.DataFrame) -> Figure:
    """The largest helpful step, as a step size and as a distance."""
    searches = claims.searches(table)
    figure = style.new_figure(1, 2, 8, 3.4)
    step, length = figure.axes
    draw_largest(step, searches, "largest_step")
    step.set(ylabel="largest helpful step size")
    draw_largest(length, searches, "largest_length")
    length.set(ylabel="distance that the parameters move")
    style.legend(step, 2)
    return figure
