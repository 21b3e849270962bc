"""BN's gain in two parts against growth at the start, and accuracy against rate at each dose."""

import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bnbook.experiments.bjorck_dose import cells, claims
from bnbook.plots import style
from bnbook.plots.papers import draw_figure_1
from bnbook.tables import papers
from bnbook.tables.arms import WITH, WITHOUT

PARTS = {
    "same": "BN at the rate of the other",
    "rate": "from that rate to BN's own",
    "whole": "both together",
}
LOOKS = {"same": ("#56b4e9", "o"), "rate": ("#0072b2", "s"), "whole": ("0.2", "D")}


def of_paper() -> dict[str, float]:
    """Return the same differences of the paper's final test accuracies, in points."""
    none, low, high = map(papers.final_accuracy, papers.FIGURE_1.values())
    return {"same": low - none, "rate": high - low, "whole": high - none}


def response(table: pd.DataFrame) -> Figure:
    """Draw BN's gain in two parts against the growth at the start, with the paper's levels.

    Of the networks that are trained to the end.
    """
    figure = style.new_figure(1, 1, 6.4, 4)
    draw_response(figure.axes[0], claims.trained(table))
    figure.axes[0].get_legend().remove()  # type: ignore[union-attr]
    style.legend(figure.axes[0], 3)
    return figure


def draw_response(ax: Axes, found: pd.DataFrame) -> None:
    """Draw mean and 95 % interval over seeds of both parts and their sum; dotted: the paper's."""
    levels = of_paper()
    for part, label in PARTS.items():
        colour, marker = LOOKS[part]
        sns.lineplot(
            found, x="growth", y=part, color=colour, marker=marker,
            label=label, err_style="bars", errorbar=style.t_interval, ax=ax,
        )  # fmt: skip
        ax.axhline(levels[part], color=colour, ls=":", lw=1)
    if found[list(PARTS)].isna().all(axis=None):
        style.say_empty(ax, "no network is trained to the end yet")
    ax.axhline(0, color="0.8", lw=0.8, zorder=0)
    ax.set(
        xlabel="growth of the second moment at the start, factor a block",
        ylabel="gain (points of test accuracy)",
    )


CELLS = {"none": (WITHOUT, 0.45), "low": (WITH, 0.45), "high": (WITH, 1.0), "far": (WITHOUT, 1.0)}
"""The cells of `claims.Compared`: arm, and how dark the curve of its rate is."""


def curves(table: pd.DataFrame) -> Figure:
    """Draw the judged network's accuracies over training: by steps, and beside the paper's."""
    figure = style.new_figure(2, 2, 7.6, 6, sharey=True)
    found = claims.compared(table)
    for (by_step, by_share), panel in zip(
        (figure.axes[:2], figure.axes[2:]), ("training", "test"), strict=True
    ):
        by_step.set(xscale="log", xlabel="training step", ylabel=f"{panel} accuracy (%)")
        for ax, x in ((by_step, "step"), (by_share, "share")):
            draw_curves(ax, table, found, x, f"{panel}_accuracy")
        draw_figure_1(by_share, "train" if panel == "training" else panel)
        by_share.set(xlabel="training done (%)", xlim=(0, 100), ylim=(0, 102))
    style.legend(figure.axes[1], 2)
    return figure


def draw_curves(ax: Axes, table: pd.DataFrame, found: claims.Compared, x: str, y: str) -> None:
    """Draw means and 95 % intervals over seeds of the four cells; paler at r0."""
    for cell, (arm, alpha) in CELLS.items():
        ends = getattr(found, cell).reset_index()
        runs = table.merge(ends[cells.RUN], on=cells.RUN)
        runs = runs.assign(share=100 * runs["step"] / runs["length"], shown=100 * runs[y])
        band = style.mean_band(runs, x, "shown")
        band = band[band.index > 0] if x == "step" else band  # there is no 0 on a log axis
        rate = found.rates.small if cell in {"none", "low"} else found.rates.large
        style.draw_line(ax, band["mean"], arm, alpha=alpha, label=f"{arm}, rate {rate:g}")
        ax.fill_between(
            band.index, band["low"], band["high"], color=style.COLOURS[arm], alpha=0.15, lw=0
        )


def rates(table: pd.DataFrame) -> Figure:
    """Draw final test accuracy against rate at each dose that both arms ran, by growth."""
    runs, found = cells.settled(cells.ends(table)), claims.doses(table)
    found = found[runs.groupby(cells.NETWORK)["arm"].nunique().reindex(found.index) == 2]
    count = len(found)
    rows = -(-count // 4)
    columns = -(-count // rows)
    figure = style.new_figure(
        rows, columns, 2.4 * columns, 2.4 * rows, count=count, sharex=True, sharey=True
    )
    for ax, dose in zip(figure.axes, found.reset_index().to_dict("records"), strict=True):
        own = runs[(runs["n"] == dose["n"]) & (runs["gain"] == dose["gain"])]
        own = own.assign(percent=100 * own["test_accuracy"])
        for arm in (WITHOUT, WITH):
            means = own[own["arm"] == arm].groupby("learning_rate")["percent"].mean()
            style.draw_line(ax, means, arm, marker=style.MARKERS[arm], ms=4, label=arm)
        ax.set(xscale="log", title=f"{6 * dose['n'] + 2} layers, growth {dose['growth']:.2f}")
        ax.set(xlabel="learning rate", ylabel="test accuracy (%)")
    for at, ax in enumerate(figure.axes):
        if at + columns >= count:  # nothing below it
            ax.tick_params(labelbottom=True)
        else:
            ax.set_xlabel("")
        if at % columns:
            ax.set_ylabel("")
    style.legend(figure.axes[0], 2)
    return figure
