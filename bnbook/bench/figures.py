"""Figures of the benchmark, from its table of repetitions."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bnbook.evidence import timings
from bnbook.plots import style

COLOURS = {
    "ours": "#0072B2",
    "ours, one process": "#56B4E9",
    "tutorial loop": "#000000",
    "loop, data in memory": "#8C564B",
    "Lightning": "#CC79A7",
    "skorch": "#882255",
    "jax.vmap": "#009E73",
    "loop, channels last": "#999933",
    "loop, bfloat16": "#44AA99",
    "loop, compiled": "#332288",
    "loop, 2 loader workers": "#777777",
}
"""A contender's colour, in every figure."""
WORKLOADS = {
    "mnist": "the sigmoid network, 784 inputs",
    "digits": "the same, 64 inputs",
    "resnet20": "ResNet-20",
}
SETTINGS = {
    "growth members": "networks trained as one, E",
    "growth depth": "hidden layers",
    "growth width": "units of a hidden layer",
}


def draw_ratios(ax: Axes, table: pd.DataFrame, workload: str) -> None:
    """Draw each contender's time over ours on a log axis: median as a dot, extremes as a bar."""
    of = table[(table["workload"] == workload) & (table["seconds"] > 0)]
    names = [name for name in of["contender"].unique() if name != timings.OURS]
    for height, name in enumerate(reversed(names)):
        ratio, colour = timings.ratios(table, workload, name), COLOURS[name]
        ax.plot([ratio.min(), ratio.max()], [height, height], color=colour, lw=3, alpha=0.5)
        ax.plot(ratio.median(), height, "o", color=colour, ms=6)
    for target in timings.TARGETS:
        if target.workload == workload and target.against in names:
            height = len(names) - 1 - names.index(target.against)
            ax.plot(target.bound, height, "D", mfc="none", mec="black", ms=7)
    ax.axvline(1, color="0.4", lw=1)
    ax.set(yticks=range(len(names)), yticklabels=names[::-1], xscale="log")
    ax.set(title=WORKLOADS[workload], ylim=(-0.6, len(names) - 0.4))
    plain_ticks(ax, [0.5, 1, 2, 3, 5, 10, 20])


def plain_ticks(ax: Axes, at: list[float]) -> None:
    """Mark these numbers on a logarithmic x axis, written out, as far as it reaches them."""
    low, high = ax.get_xlim()
    style.label_numbers(ax.xaxis, [tick for tick in at if low <= tick <= high])


def draw_growth(ax: Axes, summary: pd.DataFrame, curve: str) -> None:
    """Draw the time of a member's step against what a growth curve varies, on log axes."""
    rows = summary[summary["workload"] == curve]
    at, each = rows["setting"], rows["us_per_member_step"]
    scale = each / rows["median_s"]
    below, above = each - scale * rows["min_s"], scale * rows["max_s"] - each
    colour = COLOURS[timings.OURS]
    ax.errorbar(at, each, [below, above], color=colour, marker="o", ms=4, label="ours")
    ax.plot(at, each * rows["floor_share"], color="0.4", dashes=(4, 1.5), label="the floor")
    ax.set(xscale="log", yscale="log", xlabel=SETTINGS[curve])
    plain_ticks(ax, list(at)[:: 2 if len(at) > 6 else 1])


def ratios(table: pd.DataFrame) -> Figure:
    """Every contender's time over ours, a panel for each workload that was measured."""
    measured = table.loc[table["seconds"] > 0, "workload"].unique()
    shown = [workload for workload in WORKLOADS if workload in measured]
    counts = [table.loc[table["workload"] == name, "contender"].nunique() for name in shown]
    figure = style.new_figure(
        len(shown), 1, 7, 0.6 + 0.36 * sum(counts), sharex=True, height_ratios=counts
    )
    for ax, workload in zip(figure.axes, shown, strict=True):
        draw_ratios(ax, table, workload)
    figure.axes[-1].set_xlabel("time per member and step, over ours")
    return figure


def growth(table: pd.DataFrame) -> Figure:
    """Time per member and step against members, depth and width, as far as measured."""
    summary = timings.rows(table)
    measured = [curve for curve in SETTINGS if curve in set(summary["workload"])]
    shown = measured or list(SETTINGS)[:1]
    figure = style.new_figure(1, len(shown), 2 + 2.2 * len(shown), 3, sharey=True)
    for ax, curve in zip(figure.axes, shown, strict=True):
        draw_growth(ax, summary, curve)
    figure.axes[0].set_ylabel("µs per member and step")
    figure.axes[0].legend(loc="best")
    return figure


FIGURES = {"ratios": ratios, "growth": growth}
