"""Figures of Bjorck et al.'s figure 1, from the experiment's table."""

from collections.abc import Collection, Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from bnbook.experiments.bjorck_fig1.claims import target
from bnbook.plots import style
from bnbook.plots.papers import draw_figure_1
from bnbook.plots.rate_map import SPLITS, accuracy_limits, draw_accuracy, draw_diverged
from bnbook.tables import tuning
from bnbook.tables.arms import WITH, WITHOUT
from bnbook.tables.rate_map import FAILED, large_rate, small_rate, tuned_gap

_MARKS = ("o", "v", "^", "D", "P")
_PALEST = 0.55


def draw_curves(
    ax: Axes, table: pd.DataFrame, runs: Sequence[tuple[str, float]], column: str
) -> None:
    """Draw an accuracy against the share of training that is done, mean and 95 % interval.

    The curves of one arm differ in marker and go from pale to full colour as the rate rises.
    """
    whole = table["step"].max()
    for arm, rate in runs:
        of_arm = sorted(other for name, other in runs if name == arm)
        at = of_arm.index(rate)
        chosen = table[(table["arm"] == arm) & (table["learning_rate"] == rate)]
        chosen = chosen.assign(done=100 * chosen["step"] / whole)
        band = 100 * style.mean_band(chosen, "done", column)
        colour = _tint(style.COLOURS[arm], at, len(of_arm))
        (line,) = ax.plot(
            band.index, band["mean"], color=colour, label=f"{arm}, rate {rate:g}", ms=5,
            marker=("s", "X")[at % 2] if arm == WITHOUT else _MARKS[at % len(_MARKS)],
            markevery=max(1, len(band) // 10), zorder=3 if arm == WITHOUT else 2,
        )  # fmt: skip
        if style.DASHES[arm]:
            line.set_dashes(style.DASHES[arm])
        ax.fill_between(
            band.index.to_numpy(), band["low"], band["high"], color=colour, alpha=0.2, lw=0
        )
    for share in (50, 75):
        ax.axvline(share, color="0.8", lw=0.8, zorder=0)
    ax.set(
        xlabel="training done (%)",
        ylabel=SPLITS[column],
        xlim=(0, 100),
        ylim=accuracy_limits(table),
    )


def _tint(colour: str, at: int, count: int) -> tuple[float, float, float]:
    """Return the colour of one curve of several: the first has most white, the last none."""
    white = _PALEST * (1 - at / (count - 1)) if count > 1 else 0.0
    red, green, blue = (part + white * (1 - part) for part in to_rgb(colour))
    return red, green, blue


def shown_runs(table: pd.DataFrame, small: float, large: float) -> list[tuple[str, float]]:
    """Curves shown: both arms at the small rate and at the largest at which every seed learns.

    BN also at the large rate and at one half way from the small one.
    """
    grid = sorted(table["learning_rate"].unique())
    between = [rate for rate in grid if small < rate < large]
    middle = between[len(between) // 2 : len(between) // 2 + 1]
    chosen = {WITHOUT: {small}, WITH: {small, *middle, large}}
    for arm, rates in chosen.items():
        rates |= {rate for rate in tuning.learned(table, arm, FAILED)[-1:] if rate > small}
    return [(arm, rate) for arm, rates in chosen.items() for rate in sorted(rates) if rate == rate]


def curves(table: pd.DataFrame) -> Figure:
    """Training accuracy on the left, test accuracy on the right, as in the paper's figure 1."""
    figure = style.new_figure(1, 2, 8, 3.6, sharey=True)
    runs = shown_runs(table, small_rate(table), large_rate(table))
    for ax, column in zip(figure.axes, SPLITS, strict=True):
        draw_curves(ax, table, runs, column)
        draw_figure_1(ax, column.removesuffix("_accuracy").replace("training", "train"))
        ax.set_ylim(0, 102)
    style.legend(figure.axes[0], 3)
    return figure


def draw_gap(ax: Axes, table: pd.DataFrame, small: float, tuned: float) -> None:
    """Draw BN's lead at one and the same rate against the rate, that which suits no BN ringed.

    Mean and 95 % interval; the horizontal line is the mean lead, each at its own rate, in points.
    """
    last = tuning.final(table)
    pairs = last.pivot_table(index=["learning_rate", "seed"], columns="arm", values="test_accuracy")
    leads = (100 * (pairs[WITH] - pairs[WITHOUT])).rename("lead").reset_index()
    band = style.mean_band(leads, "learning_rate", "lead")
    style.draw_band(ax, band, WITH, marker="o", ms=4, label="both at this rate")
    style.ring(ax, small, band["mean"][small], WITHOUT)
    ax.axhline(tuned, color="0.4", lw=1, ls="-.", label="each at its tuned rate")
    ax.axhline(0, color="0.8", lw=0.8, zorder=0)
    ax.set(xscale="log", xlabel="learning rate", ylabel="lead of BN (points of test accuracy)")


def gap(table: pd.DataFrame) -> Figure:
    """The lead of BN at one and the same rate, over all rates."""
    figure = style.new_figure(1, 1, 6.4, 3.4)
    ax = figure.axes[0]
    draw_gap(ax, table, small_rate(table), float(tuned_gap(table).mean()))
    style.legend(ax, 2)
    return figure


def draw_steps(ax: Axes, table: pd.DataFrame, arms: Collection[str], level: float) -> None:
    """Draw the steps to a validation accuracy against learning rate, where all seeds get there.

    Geometric mean and 95 % interval over seeds.
    """
    needed = tuning.steps_to_reach(table, "validation_accuracy", level)
    for arm in arms:
        reached = needed.loc[:, [arm]].droplevel("arm", axis="columns").dropna(axis="columns")
        runs = reached.melt(value_name="steps")
        band = style.log_band(
            runs.assign(steps=runs["steps"].clip(lower=1)), "learning_rate", "steps"
        )
        style.draw_band(ax, band, arm, marker=style.MARKERS[arm], ms=4)
    ax.set(
        xscale="log", yscale="log", xlabel="learning rate", ylabel=f"steps to {100 * level:.0f} %",
    )  # fmt: skip
    style.label_decades(ax.yaxis)


def rate_map(table: pd.DataFrame) -> Figure:
    """The learning-rate map: how well, how fast, and how often each rate diverges."""
    figure = style.new_figure(3, 1, 6.4, 7, sharex=True, height_ratios=(3, 2, 1.2))
    accuracy, steps, diverged = figure.axes
    arms = (WITHOUT, WITH)
    draw_accuracy(accuracy, table, arms, tuning.tuned_rates(table, arms))
    accuracy.legend(loc="best")
    draw_steps(steps, table, arms, target(table))
    draw_diverged(diverged, table, arms)
    for ax in (accuracy, steps):
        ax.set_xlabel("")
    return figure
