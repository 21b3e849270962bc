"""Figures of Bjorck et al.'s figure 1, from the experiment's table."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bnbook import tuning
from bnbook.arms import WITH, WITHOUT
from bnbook.figures import style

SPLITS = {"training_accuracy": "training accuracy (%)", "test_accuracy": "test accuracy (%)"}
_MARKS = ("o", "v", "^", "D", "P")


def draw_curves(
    ax: Axes, table: pd.DataFrame, runs: Sequence[tuple[str, float]], column: str
) -> None:
    """Draw an accuracy against the share of training that is done, mean and 95 % interval.

    Parameters
    ----------
    ax : Axes
        Where to draw.
    table : pandas.DataFrame
        The experiment's table.
    runs : sequence of (str, float)
        Arms and rates shown; the curves of one arm differ in marker.
    column : str
        A key of `SPLITS`.
    """
    whole, seen = table["step"].max(), dict.fromkeys((WITHOUT, WITH), 0)
    for arm, rate in runs:
        chosen = table[(table["arm"] == arm) & (table["learning_rate"] == rate)]
        chosen = chosen.assign(done=100 * chosen["step"] / whole)
        band = 100 * style.mean_band(chosen, "done", column)
        mark = style.MARKERS[arm] if arm == WITHOUT else _MARKS[seen[arm] % len(_MARKS)]
        seen[arm] += 1
        style.draw_band(
            ax, band, arm, label=f"{arm}, rate {rate:g}", marker=mark, ms=5, alpha=0.85,
            markevery=max(1, len(band) // 10),
        )  # fmt: skip
    for share in (50, 75):
        ax.axvline(share, color="0.8", lw=0.8, zorder=0)
    ax.set(xlabel="training done (%)", ylabel=SPLITS[column], xlim=(0, 100), ylim=(0, 101))


def shown_runs(table: pd.DataFrame, small: float, large: float) -> list[tuple[str, float]]:
    """Curves shown: both arms at the small rate, BN at the large one and at one half way."""
    grid = sorted(table["learning_rate"].unique())
    between = [rate for rate in grid if small < rate < large]
    middle = between[len(between) // 2 : len(between) // 2 + 1]
    rates = [rate for rate in (small, *middle, large) if rate == rate]
    return [(WITHOUT, small), *((WITH, rate) for rate in rates)]


def curves(table: pd.DataFrame, small: float, large: float) -> Figure:
    """Training accuracy on the left, test accuracy on the right, as in the paper's figure 1."""
    figure = style.new_figure(1, 2, 8, 3.6, sharey=True)
    for ax, column in zip(figure.axes, SPLITS, strict=True):
        draw_curves(ax, table, shown_runs(table, small, large), column)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2)
    return figure


def draw_accuracy(
    ax: Axes,
    table: pd.DataFrame,
    arms: Collection[str],
    tuned: Mapping[str, float],
    column: str = "test_accuracy",
) -> None:
    """Draw a final accuracy against learning rate, mean and 95 % interval over seeds.

    Parameters
    ----------
    ax : Axes
        Where to draw.
    table : pandas.DataFrame
        The experiment's table.
    arms : collection of str
        The networks.
    tuned : mapping
        Arm -> its tuned rate, ringed.
    column : str
        An accuracy.
    """
    last = tuning.final(table)
    for arm in arms:
        band = 100 * style.mean_band(last[last["arm"] == arm], "learning_rate", column)
        style.draw_band(ax, band, arm, marker=style.MARKERS[arm], ms=4, label=arm)
        if arm in tuned:
            ax.plot(
                tuned[arm], band["mean"][tuned[arm]], "o", ms=12, mfc="none",
                mec=style.COLOURS[arm], mew=1.4,
            )  # fmt: skip
    ax.set(xscale="log", xlabel="learning rate", ylabel="final test accuracy (%)", ylim=(0, 101))


def draw_steps(ax: Axes, table: pd.DataFrame, arms: Collection[str], target: float) -> None:
    """Draw the steps to a validation accuracy against learning rate, where all seeds get there.

    Parameters
    ----------
    ax : Axes
        Where to draw.
    table : pandas.DataFrame
        The experiment's table.
    arms : collection of str
        The networks.
    target : float
        The accuracy, in [0, 1]. Geometric mean and 95 % interval over seeds.
    """
    needed = tuning.steps_to_reach(table, "validation_accuracy", target)
    for arm in arms:
        reached = needed.loc[:, [arm]].droplevel("arm", axis="columns").dropna(axis="columns")
        runs = reached.melt(value_name="steps")
        runs["steps"] = np.log10(runs["steps"].clip(lower=1))
        band = 10 ** style.mean_band(runs, "learning_rate", "steps")
        style.draw_band(ax, band, arm, marker=style.MARKERS[arm], ms=4)
    ax.set(
        xscale="log", yscale="log", xlabel="learning rate", ylabel=f"steps to {target:.0%}",
        ylim=(max(1, 0.5 * table.loc[table["step"] > 0, "step"].min()), 1.5 * table["step"].max()),
    )  # fmt: skip


def draw_diverged(ax: Axes, table: pd.DataFrame, arms: Collection[str]) -> None:
    """Draw the share of seeds whose loss passed the threshold against learning rate.

    Parameters
    ----------
    ax : Axes
        Where to draw.
    table : pandas.DataFrame
        The experiment's table.
    arms : collection of str
        The networks.
    """
    last = tuning.final(table)
    share = 100 * (last["diverged_at"] >= 0).groupby(
        [last["arm"], last["learning_rate"]]
    ).mean().unstack(0)
    for arm in arms:
        style.draw_line(ax, share[arm], arm, marker=style.MARKERS[arm], ms=4, label=arm)
    ax.set(xscale="log", xlabel="learning rate", ylabel="diverged (%)", ylim=(-4, 104))


def rate_map(table: pd.DataFrame, tuned: Mapping[str, float], target: float) -> Figure:
    """The learning-rate map: how well, how fast, and how often each rate diverges."""
    figure = style.new_figure(3, 1, 6.4, 7, sharex=True, height_ratios=(3, 2, 1.2))
    accuracy, steps, diverged = figure.axes
    arms = (WITHOUT, WITH)
    draw_accuracy(accuracy, table, arms, tuned)
    accuracy.legend(loc="best")
    draw_steps(steps, table, arms, target)
    draw_diverged(diverged, table, arms)
    for ax in (accuracy, steps):
        ax.set_xlabel("")
    return figure
