"""Figures of the largest usable rate against depth."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.ticker import NullLocator

from bnbook.experiments.bjorck_depth import claims
from bnbook.plots import style
from bnbook.tables import tuning
from bnbook.tables.arms import WITH, WITHOUT

LAWS = {"power": (0, (1, 1.5)), "exponential": (0, (5, 1.5, 1, 1.5))}
"""Line styles of the fitted laws."""


def draw_rates(ax: Axes, rates: pd.DataFrame, arm: str) -> None:
    """Draw the largest usable rate against depth: seeds, geometric mean and 95 % interval."""
    rows = rates.melt(value_name="rate").dropna()
    rows = rows.assign(layers=6 * rows["n"].astype(int) + 2, log=np.log(rows["rate"].astype(float)))
    band = pd.DataFrame(np.exp(style.mean_band(rows, "layers", "log")))
    style.draw_band(ax, band, arm, marker=style.MARKERS[arm], ms=5, label=arm)
    ax.plot(rows["layers"], rows["rate"], "o", ms=3, mew=0, alpha=0.4, color=style.COLOURS[arm])
    ax.set(xscale="log", yscale="log", xlabel="layers", ylabel="largest usable rate")
    depths = [6 * int(n) + 2 for n in rates.columns]
    ax.set_xticks(depths, [str(depth) for depth in depths])
    ax.xaxis.set_minor_locator(NullLocator())


def draw_laws(ax: Axes, curves: pd.DataFrame) -> None:
    """Draw the fitted laws of each network."""
    for number, (_, arm) in enumerate(curves.groupby("arm", sort=False)):
        for law, curve in arm.groupby("law", sort=False):
            ax.plot(
                curve["layers"], curve["rate"], color="black", lw=1, ls=LAWS[str(law)],
                label=None if number else law,
            )  # fmt: skip


def draw_map(ax: Axes, shares: pd.DataFrame) -> AxesImage:
    """Draw the share of usable seeds over depth (columns n) and rate (index), for a colour bar."""
    image = ax.imshow(
        100 * shares.to_numpy(), origin="lower", aspect="auto", cmap="cividis", vmin=0, vmax=100
    )
    ax.set_xticks(range(shares.shape[1]), [str(6 * int(n) + 2) for n in shares.columns])
    ax.set_yticks(range(shares.shape[0]), [f"{rate:.2g}" for rate in shares.index])
    ax.set(xlabel="layers", ylabel="initial learning rate")
    return image


def rates(table: pd.DataFrame) -> Figure:
    """Largest usable rate against depth, with the fitted laws."""
    figure = style.new_figure(1, 1, 6.4, 4)
    ax = figure.axes[0]
    for arm in (WITHOUT, WITH):
        draw_rates(ax, claims.largest(table, arm), arm)
    draw_laws(ax, claims.curves(table))
    figure.legend(*ax.get_legend_handles_labels(), loc="outside upper center", ncols=4)
    return figure


def maps(table: pd.DataFrame) -> Figure:
    """Share of usable seeds over depth and rate, without BN and with."""
    shares = claims.usable_shares(table)
    figure = style.new_figure(1, 2, 8, 4, sharey=True)
    for ax, arm in zip(figure.axes[:2], (WITHOUT, WITH), strict=True):
        image = draw_map(ax, pd.DataFrame(shares.xs(arm, level="arm")))
        ax.set_title(arm)
    figure.axes[1].set_ylabel("")
    figure.colorbar(image, ax=figure.axes[:2]).set_label("usable seeds (%)")
    return figure


def draw_accuracy(ax: Axes, last: pd.DataFrame, arm: str) -> None:
    """Draw the final test accuracy against the learning rate; bands end at 0 and 100 %."""
    rows = last[last["arm"] == arm].assign(percent=100 * last["test_accuracy"])
    band = style.mean_band(rows, "learning_rate", "percent").clip(0, 100)
    style.draw_band(ax, band, arm, marker=style.MARKERS[arm], ms=3, label=arm)
    ax.set(xscale="log", xlabel="learning rate")


def accuracy(table: pd.DataFrame) -> Figure:
    """Final test accuracy against the learning rate, a panel for each depth."""
    last = tuning.final(table)
    depths = sorted(last["n"].unique())
    figure = style.new_figure(1, len(depths), 8, 3, sharex=True, sharey=True)
    for ax, n in zip(figure.axes, depths, strict=True):
        for arm in (WITHOUT, WITH):
            draw_accuracy(ax, last[last["n"] == n], arm)
        ax.set_title(f"{6 * n + 2} layers")
    figure.axes[0].set_ylabel("final test accuracy (%)")
    handles = figure.axes[0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside upper center", ncols=2)
    return figure
