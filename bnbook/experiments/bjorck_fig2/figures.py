"""Figures of gradients at initialisation, from the experiment's table."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.stats import norm

from bnbook.plots import style
from bnbook.tables.arms import WITH, WITHOUT


def draw_histogram(ax: Axes, table: pd.DataFrame, arm: str) -> None:
    """Draw the histogram of one network's gradient, of the first seed and minibatch."""
    rows = table[table["arm"] == arm]
    for column in ("seed", "minibatch"):
        rows = rows[rows[column] == rows[column].min()]
    mean, std = rows["mean"].iloc[0], rows["std"].iloc[0]
    edges = mean + std * np.append(rows["low"], rows["high"].iloc[-1])
    ax.stairs(rows["count"], edges, fill=True, color=style.COLOURS[arm], alpha=0.85)
    seen = np.flatnonzero(rows["count"])
    ax.set(xlabel="entry of the gradient", ylabel="entries", title=arm)
    ax.set_xlim(edges[max(seen[0] - 1, 0)], edges[min(seen[-1] + 2, len(edges) - 1)])
    ax.ticklabel_format(axis="x", style="sci", scilimits=(0, 0))
    ax.locator_params(axis="x", nbins=5)


def densities(table: pd.DataFrame, arm: str) -> pd.DataFrame:
    """Density of each seed's entries, in standard deviations from the mean: seed, centre, density.

    The outermost bins, which hold all beyond them, are left out; empty bins have density 0.
    """
    rows = table[table["arm"] == arm]
    counts = rows.groupby(["seed", "low", "high"], as_index=False)["count"].sum()
    totals = counts.groupby("seed")["count"].transform("sum")
    width = counts["high"] - counts["low"]
    found = counts.assign(
        centre=(counts["low"] + counts["high"]) / 2, density=counts["count"] / totals / width
    )
    inner = (found["low"] > found["low"].min()) & (found["high"] < found["high"].max())
    return pd.DataFrame(found.loc[inner, ["seed", "centre", "density"]])


def draw_tails(ax: Axes, table: pd.DataFrame) -> None:
    """Draw both networks' densities in units of their own standard deviation.

    Mean over seeds, all minibatches together, and 95 % interval.
    """
    for arm in (WITHOUT, WITH):
        band = style.mean_band(densities(table, arm), "centre", "density")
        shown = band[band["mean"] > 0].clip(lower=1e-6)
        style.draw_band(ax, shown, arm, label=arm)
    z = np.linspace(-4.5, 4.5, 200)
    ax.plot(z, norm.pdf(z), color="0.4", lw=1, ls=":", label="Gaussian")
    ax.set(
        yscale="log", ylim=(3e-5, 5), xlim=(-9, 9),
        xlabel="distance from the mean (standard deviations)", ylabel="density",
    )  # fmt: skip
    ax.legend(loc="upper right")


def histograms(table: pd.DataFrame) -> Figure:
    """Both histograms, each on its own horizontal scale, as the paper has them."""
    figure = style.new_figure(1, 2, 8, 3)
    for ax, arm in zip(figure.axes, (WITH, WITHOUT), strict=True):
        draw_histogram(ax, table, arm)
    figure.axes[1].set_ylabel("")
    return figure


tails = style.alone(draw_tails, 6.5, 3.8)
"""Both densities on one scale, logarithmic."""
