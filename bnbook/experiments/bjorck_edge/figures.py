"""Figures of the largest rate that trains: against depth, against predictions, and all runs."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from bnbook.experiments.bjorck_edge import search
from bnbook.experiments.bjorck_edge.claims import PREDICTIONS
from bnbook.plots import style
from bnbook.tables.arms import WITH, WITHOUT

LINES = {"classifier_rate": (0, (1, 1.5)), "network_rate": (0, (5, 1.5, 1, 1.5))}
SAID = {
    "classifier_rate": "predicted: the classifier's bound",
    "network_rate": "predicted: the whole network's sharpness",
}
OUTCOMES = {
    search.LEARNED: ("o", "#009E73"), search.ON_ITS_WAY: ("v", "#56B4E9"),
    search.STUCK: ("X", "#555555"), search.DIVERGED: ("^", "#CC79A7"),
}  # fmt: skip
"""Marker and colour of what a run came to."""


def _edges(table: pd.DataFrame) -> pd.DataFrame:
    found = search.edges(table).reset_index()
    return found.assign(layers=6 * found["n"].astype(int) + 2)


def depth(table: pd.DataFrame) -> Figure:
    """Draw the edge against depth and both predictions, a panel for each arm."""
    figure = style.new_figure(1, 2, 8, 3.8, sharex=True, sharey=True)
    found = _edges(table)
    found = found[found["gain"] == 1]
    for ax, arm in zip(figure.axes, (WITHOUT, WITH), strict=True):
        draw_depth(ax, found[found["arm"] == arm], arm)
    figure.axes[0].set_ylabel("largest rate that trains")
    _legend(figure, 2)
    return figure


def _legend(figure: Figure, columns: int) -> None:
    """Put one legend under a figure, with each label of its panels once, predictions last."""
    found = {
        label: handle
        for ax in figure.axes
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)
    }
    labels = sorted(found, key=lambda label: label in SAID.values())
    handles = [found[label] for label in labels]
    figure.legend(handles, labels, loc="outside lower center", ncols=columns)


def draw_depth(ax: Axes, edges: pd.DataFrame, arm: str) -> None:
    """Draw the edges of an arm, geometric mean and 95 % interval, with both predictions."""
    ax.set(xscale="log", yscale="log", xlabel="layers", title=arm)
    measured = edges.dropna(subset=["rate"])
    style.draw_means(ax, measured, "layers", "rate", "arm", markers=style.MARKERS, ms=6)
    ax.plot(measured["layers"], measured["rate"], "o", ms=3, mew=0, alpha=0.4,
            color=style.COLOURS[arm])  # fmt: skip
    for name, dashes in LINES.items():
        logs = pd.Series(np.log(edges[name].to_numpy(float)), index=edges["layers"])
        means = pd.Series(np.exp(logs.groupby(level=0).mean()))
        ax.plot(means.index, means, color="black", lw=1, ls=dashes, label=SAID[name])
    style.label_numbers(ax.xaxis, sorted(edges["layers"].unique()))


def predicted(table: pd.DataFrame) -> Figure:
    """Draw measured against predicted rates, a panel for each prediction."""
    figure = style.new_figure(1, 2, 8, 4, sharey=True)
    found = _edges(table)
    for ax, name in zip(figure.axes, PREDICTIONS, strict=True):
        draw_predicted(ax, found, name)
    figure.axes[0].set_ylabel("largest rate that trains")
    _legend(figure, 2)
    return figure


def draw_predicted(ax: Axes, edges: pd.DataFrame, name: str) -> None:
    """Draw each network's and seed's edge against a prediction; on the line they are equal."""
    kinds: tuple[tuple[str, pd.Series, str, dict[str, Any]], ...] = (
        (WITHOUT, edges["gain"] == 1, "without BN, by depth", {}),
        (WITHOUT, edges["gain"] != 1, "without BN, by gain at the start", {"mfc": "none"}),
        (WITH, edges["gain"] == 1, "with BN, by depth", {}),
    )
    ax.set(xscale="log", yscale="log", title=SAID[name].partition(": ")[2])
    for arm, chosen, label, options in kinds:
        own = edges[chosen & (edges["arm"] == arm)].dropna(subset=["rate"])
        ax.plot(
            own[name], own["rate"], style.MARKERS[arm], color=style.COLOURS[arm], ms=5, label=label,
            **options,
        )  # fmt: skip
    rates = edges[[name, "rate"]].stack()
    ends = np.array([rates.min(), rates.max()])
    ax.plot(ends, ends, color="0.6", lw=1, zorder=0, label="equal")
    ax.set_xlabel("rate predicted at the start")
    ax.xaxis.set_minor_formatter(NullFormatter())


def outcomes(table: pd.DataFrame) -> Figure:
    """Draw what every run came to, its rate against the network, a panel for each arm."""
    runs = table[table["outcome"] != search.START]
    counts = [_networks(runs[runs["arm"] == arm]) for arm in (WITHOUT, WITH)]
    widths = [max(1, len(names)) for names in counts]
    figure = style.new_figure(1, 2, 8, 4, sharey=True, width_ratios=widths)
    for ax, arm, names in zip(figure.axes, (WITHOUT, WITH), counts, strict=True):
        draw_outcomes(ax, runs[runs["arm"] == arm], names)
        ax.set_title(arm)
    figure.axes[0].set_ylabel("learning rate")
    _legend(figure, 4)
    return figure


def _networks(runs: pd.DataFrame) -> list[tuple[int, float]]:
    """Return the networks by gain and depth: those with Xavier's weights first."""
    found = {(int(n), float(gain)) for n, gain in runs[["n", "gain"]].itertuples(index=False)}
    return sorted(found, key=lambda network: (network[1] != 1, network[1], network[0]))


def draw_outcomes(ax: Axes, runs: pd.DataFrame, networks: list[tuple[int, float]]) -> None:
    """Draw what runs came to: seeds side by side, one marker for each outcome."""
    places = {network: place for place, network in enumerate(networks)}
    seeds = {seed: place for place, seed in enumerate(sorted(runs["seed"].unique()))}
    middle = (len(seeds) - 1) / 2
    x = pd.Series(
        [places[int(n), float(gain)] + 0.25 * (seeds[seed] - middle)
         for n, gain, seed in runs[["n", "gain", "seed"]].itertuples(index=False)],
        index=runs.index, dtype=float,
    )  # fmt: skip
    for said, (marker, colour) in OUTCOMES.items():
        own = runs["outcome"] == said
        ax.plot(x[own], runs.loc[own, "learning_rate"], marker, color=colour, ms=5, mew=0,
                label=said)  # fmt: skip
    names = [f"{6 * n + 2}" if gain == 1 else f"×{gain:g}" for n, gain in networks]
    ax.set_xticks(range(len(networks)), names)
    ax.set(yscale="log", xlabel="layers; × gain at the start")
