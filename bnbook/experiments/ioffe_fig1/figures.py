"""Figures of Ioffe & Szegedy's figure 1, from the experiment's table."""

from collections.abc import Collection, Mapping

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bnbook.plots import style
from bnbook.tables import papers, tuning
from bnbook.tables.arms import WITH

LEAST = 1e-4
"""Smallest error drawn on a logarithmic axis: one image of ten thousand."""


def draw_accuracy(
    ax: Axes, table: pd.DataFrame, rates: Mapping[str, float], paper: bool = False
) -> None:
    """Draw test accuracy against steps, mean and 95 % interval; the paper's curves behind."""
    for arm, rate in rates.items():
        runs = table[(table["arm"] == arm) & (table["learning_rate"] == rate)]
        band = 100 * style.mean_band(runs, "step", "test_accuracy")
        style.draw_band(ax, band, arm, label=f"{arm}, rate {rate:g}")
    if paper:
        rows = papers.read("ioffe_fig1a")
        for arm in rates:
            own = rows[rows["network"] == papers.ARMS[arm]]
            accuracy = 100 * own["test_accuracy"]
            style.draw_paper(ax, own["step"], accuracy, arm, label=f"the paper: {arm}")
    ax.set(xlabel="training step", ylabel="test accuracy (%)", xlim=(0, table["step"].max()))
    ax.legend(loc="lower right")


def draw_percentiles(ax: Axes, table: pd.DataFrame, arm: str, rate: float, which: str) -> None:
    """Draw three percentiles of a sigmoid's input against training steps."""
    runs = table[(table["arm"] == arm) & (table["learning_rate"] == rate)]
    if which == "unit":
        runs = runs[runs["seed"] == runs["seed"].min()]
    for column in sorted(c for c in table.columns if c.startswith(f"{which}_p")):
        band = style.mean_band(runs, "step", column)
        style.draw_band(ax, band, arm)
        level = column.rpartition("p")[2]
        ax.annotate(
            f"{level}th", (band.index[-1], band["mean"].iloc[-1]), xytext=(3, 0),
            textcoords="offset points", va="center", fontsize=8,
        )  # fmt: skip
    if which == "unit":
        rows = papers.read("ioffe_fig1bc")
        rows = rows[rows["network"] == papers.ARMS[arm]]
        steps = rows["percent_of_training"] / 100 * table["step"].max()
        for column in ("p15", "p50", "p85"):
            style.draw_paper(ax, steps, rows[column], arm, lw=1.0)
    ax.set(xlabel="training step", xlim=(0, table["step"].max()))


def draw_rates(ax: Axes, table: pd.DataFrame, rates: Mapping[str, float]) -> None:
    """Draw final test error against learning rate, geometric mean and 95 % interval over seeds.

    On a logarithmic axis, for most rates lie within a few points of each other.
    """
    last = tuning.final(table)
    errors = last.assign(error=(1 - last["test_accuracy"]).clip(lower=LEAST))
    ax.set(yscale="log")
    style.draw_rates(ax, errors, "error", rates, 100)
    style.label_decades(ax.yaxis)
    ax.set(ylabel="final test error (%)")
    ax.legend(loc="upper left")


def accuracy(table: pd.DataFrame, rates: Mapping[str, float]) -> Figure:
    """Test accuracy of the tuned networks: from the first steps, and enlarged near the top."""
    figure = style.new_figure(1, 2, 8, 3.2)
    whole, top = figure.axes
    draw_accuracy(whole, table, rates, paper=True)
    draw_accuracy(top, table, rates, paper=True)
    best = 100 * table["test_accuracy"].max()
    first = table.loc[table["step"] > 0, "step"].min()
    whole.set(xscale="log", xlim=(first, table["step"].max()), ylim=(0, 101))
    whole.set(title="from the first steps")
    top.set(ylim=(best - 6, best + 0.3), ylabel="", title="the last points")
    top.get_legend().remove()  # type: ignore[union-attr]
    return figure


def percentiles(table: pd.DataFrame, rates: Mapping[str, float]) -> Figure:
    """Percentiles of the sigmoids' inputs: one unit and the layer, without BN and with."""
    figure = style.new_figure(2, 2, 8, 5, sharex=True, sharey="row")
    rows = (("unit", "one unit"), ("pooled", "all 100 units"))
    for row, (which, name) in enumerate(rows):
        for column, (arm, rate) in enumerate(rates.items()):
            ax = figure.axes[2 * row + column]
            draw_percentiles(ax, table, arm, rate, which)
            ax.set(title=f"{arm}, {name}", xlabel="training step" if row else "")
        figure.axes[2 * row].set_ylabel("input to the sigmoid")
    return figure


def draw_steps(ax: Axes, table: pd.DataFrame, arms: Collection[str], target: float) -> None:
    """Draw the steps to a fixed validation accuracy against learning rate."""
    needed = tuning.steps_to_reach(table, "validation_accuracy", target)
    reached = needed.loc[:, [arm for arm in arms if arm in needed]].dropna(axis="columns")
    ax.set(xscale="log")
    if not reached.empty:
        ax.set(yscale="log")
        runs = reached.melt(value_name="steps")
        style.draw_means(ax, runs, "learning_rate", "steps", "arm", markers=style.MARKERS, ms=5)
    grid = table["learning_rate"]
    ax.set(
        xlabel="learning rate",
        ylabel=f"steps to {target:.0%}", xlim=(grid.min() / 1.3, grid.max() * 1.3),
    )  # fmt: skip


def draw_failures(ax: Axes, table: pd.DataFrame, arms: Collection[str], below: float) -> None:
    """Draw the share of seeds that end below a test accuracy against learning rate."""
    last = tuning.final(table)
    failed = 100 * (last["test_accuracy"] < below).groupby(
        [last["arm"], last["learning_rate"]]
    ).mean().unstack(0)
    for arm in arms:
        style.draw_line(ax, failed[arm], arm, marker=style.MARKERS[arm], ms=4)
    ax.set(xscale="log", xlabel="learning rate", ylabel="failed seeds (%)", ylim=(-4, 104))


def draw_speed(ax: Axes, speedups: pd.DataFrame, paper: pd.Series, level: float) -> None:
    """Draw how many times as fast BN is against the accuracy to which steps are counted."""
    band = style.log_band(speedups.astype({"accuracy": float}), "accuracy", "ratio")
    style.draw_band(ax, band, WITH, label="ours, each network at its tuned rate")
    style.draw_paper(ax, paper.index, paper, WITH, label="the paper's figure 1(a)")
    ax.axhline(1, color="0.4", lw=1, ls=":")
    ax.axvline(level, color="0.4", lw=1, ls="-.", label="level of the claim")
    ax.set(yscale="log", xlabel="accuracy to which steps are counted (%)", xlim=(20, 100))
    ax.set(ylabel="steps without BN over steps with")
    ax.legend(loc="center left")


speed = style.alone(draw_speed, 6.4, 3.4)
"""How many times as fast BN is, over levels of accuracy."""


def rate_map(table: pd.DataFrame, tuned: Mapping[str, float], target: float, low: float) -> Figure:
    """The learning-rate map: how well, how fast and how often each rate works."""
    figure = style.new_figure(3, 1, 6.4, 7, sharex=True, height_ratios=(3, 2, 1.2))
    accuracy, steps, failures = figure.axes
    draw_rates(accuracy, table, tuned)
    draw_steps(steps, table, tuned, target)
    draw_failures(failures, table, tuned, low)
    for ax in (accuracy, steps):
        ax.set_xlabel("")
    return figure
