"""Figures of the noise of SGD, from the experiment's table."""

from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bnbook.experiments.bjorck_noise import claims
from bnbook.plots import style
from bnbook.tables.arms import WITH, WITHOUT

_MARKS = ("v", "o", "^", "D", "P")


def draw_bound(ax: Axes, noise: pd.DataFrame, column: str) -> None:
    """Draw the noise over its bound against the size of the minibatch, one mark a network."""
    total = int(noise["images"].max())
    sizes = np.linspace(1, total, 200)
    for arm, shift in ((WITHOUT, -0.006), (WITH, 0.006)):
        rows = noise[(noise["arm"] == arm) & noise[column].notna()]
        if not rows.empty:
            ax.plot(
                rows["size"] / total + shift, rows[column], style.MARKERS[arm], ms=4, mfc="none",
                color=style.COLOURS[arm], alpha=0.6, label=arm,
            )  # fmt: skip
    expected = claims.finite_population(total, sizes)
    ax.plot(sizes / total, expected, color="k", lw=1, label="(N − b)/(N − 1)")
    ax.axhline(1, color="0.4", lw=1, ls="-.", label="bound")
    ax.set(xlabel="share of the images in a minibatch, b/N", ylabel="noise over bound")
    most = float(noise[column].max())
    ax.set(xlim=(0, 0.55))
    if most > 3:
        ax.set(yscale="log", ylim=(0.3 * float(noise[column].min()), 2 * most))
    else:
        ax.set(ylim=(0, max(1.3, 1.1 * most)))


def bound(table: pd.DataFrame) -> Figure:
    """Noise over its bound: with fixed statistics, and as training makes the steps with BN."""
    figure = style.new_figure(1, 2, 8, 3.4)
    titles = {"ratio": "fixed statistics", "ratio_as_trained": "statistics of the minibatch"}
    for ax, (column, title) in zip(figure.axes, titles.items(), strict=True):
        draw_bound(ax, claims.noise(table), column)
        ax.set_title(title)
    style.legend(figure.axes[0], 4)
    return figure


def looks(sizes: Any) -> dict[int, dict[str, Any]]:
    """Colours and markers of sizes of the minibatch, from small to large."""
    colours = mpl.colormaps["viridis"](np.linspace(0, 0.6, len(sizes)))
    return {
        int(size): {"color": colour, "marker": _MARKS[at % len(_MARKS)], "ms": 5}
        for at, (size, colour) in enumerate(zip(sorted(sizes), colours, strict=True))
    }


def draw_by_rate(ax: Axes, runs: pd.DataFrame, scaled: bool = False) -> None:
    """Draw final test accuracy against the rate, or the rate over the size of the minibatch.

    Mean and 95 % interval over seeds.
    """
    for size, look in looks(runs["batch_size"].unique()).items():
        band = 100 * style.mean_band(
            runs[runs["batch_size"] == size], "learning_rate", "test_accuracy"
        )
        x = band.index.to_numpy(float) / (size if scaled else 1)
        ax.plot(x, band["mean"], label=f"{size} images", **look)
        ax.fill_between(x, band["low"], band["high"], color=look["color"], alpha=0.2, lw=0)
    label = r"$\alpha / |B|$" if scaled else r"learning rate $\alpha$"
    ax.set(xscale="log", xlabel=label, ylabel="final test accuracy (%)")
    if not scaled:
        style.label_numbers(ax.xaxis, sorted(runs["learning_rate"].unique()))


def draw_lines(ax: Axes, along: pd.DataFrame) -> None:
    """Draw test accuracy against the size of the minibatch, one line for each noise scale."""
    shared = along[along.notna().sum(axis=1) > 1]
    colours = mpl.colormaps["gray"](np.linspace(0, 0.6, len(shared)))
    for (scale, values), colour, mark in zip(shared.iterrows(), colours, "sDPX*", strict=False):
        found = 100 * values.dropna()
        label = rf"$\alpha/|B|$ = {scale:.2g}"
        ax.plot(found.index, found, marker=mark, ms=5, color=colour, label=label)
    ax.set(xscale="log", xlabel="images in a minibatch", ylabel="final test accuracy (%)")
    style.label_numbers(ax.xaxis, along.columns.to_numpy(float))
    ax.legend(fontsize=8)


def lines(table: pd.DataFrame) -> Figure:
    """Test accuracy by rate, by rate over size, and along lines of equal rate over size."""
    figure = style.new_figure(1, 3, 8, 3.2, sharey=True)
    left, middle, right = figure.axes
    draw_by_rate(left, claims.runs(table))
    draw_by_rate(middle, claims.runs(table), scaled=True)
    draw_lines(right, claims.along_lines(table))
    for ax in (middle, right):
        ax.set_ylabel("")
    style.legend(left)
    return figure


def draw_eigenvalues(ax: Axes, runs: pd.DataFrame) -> None:
    """Draw the Hessian's largest eigenvalue against rate over size, with the estimate's error.

    Networks that diverged are left out.
    """
    for size, look in looks(runs["batch_size"].unique()).items():
        rows = runs[(runs["batch_size"] == size) & (runs["diverged_at"] < 0)]
        ax.errorbar(
            rows["learning_rate"] / size, rows["eigenvalue"], rows["eigenvalue_error"], ls="",
            lw=1, mfc="none", label=f"{size} images", **look,
        )  # fmt: skip
    ax.set(xscale="log", yscale="log", xlabel=r"$\alpha / |B|$")
    ax.set(ylabel="largest eigenvalue of the Hessian")


def draw_flatness(ax: Axes, runs: pd.DataFrame) -> None:
    """Draw test accuracy against the Hessian's largest eigenvalue, of networks that lived."""
    for size, look in looks(runs["batch_size"].unique()).items():
        rows = runs[(runs["batch_size"] == size) & (runs["diverged_at"] < 0)]
        ax.plot(rows["eigenvalue"], 100 * rows["test_accuracy"], ls="", mfc="none", **look)
    ax.set(xscale="log", xlabel="largest eigenvalue of the Hessian")
    ax.set(ylabel="final test accuracy (%)")


def flatness(table: pd.DataFrame) -> Figure:
    """Largest eigenvalue against noise scale, and test accuracy against the eigenvalue."""
    figure = style.new_figure(1, 2, 8, 3.2)
    draw_eigenvalues(figure.axes[0], claims.runs(table))
    draw_flatness(figure.axes[1], claims.runs(table))
    figure.axes[0].legend(fontsize=8)
    return figure
