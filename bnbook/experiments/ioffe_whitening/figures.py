"""Figures of full whitening against BN: times, ranks, gradients."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bnbook.plots import style
from bnbook.tables.arms import BN, BN_KERNEL, CHOLESKY, LINEAR, ZCA

ORDER = (ZCA, CHOLESKY, LINEAR, BN, BN_KERNEL)
LOOKS = {"through the eigenvectors": ("#CC79A7", "s"), "in closed form": ("#0072B2", "o")}
SIZES = {8: ("#CC79A7", "o"), 32: ("#009E73", "s"), 128: ("#0072B2", "^")}


def draw_times(ax: Axes, seconds: pd.DataFrame, over: str | None = None) -> None:
    """Draw the time of a forward and backward pass against width, on log axes."""
    shown = 1e3 * seconds if over is None else seconds.div(seconds[over], axis="index")
    rows = shown[list(ORDER)].melt(var_name="arm", value_name="time", ignore_index=False)
    ax.set(xscale="log", yscale="log", xlabel="width of the layer, d")
    style.draw_means(
        ax, rows.reset_index(), "width", "time", "arm", hue_order=ORDER, markers=style.MARKERS, ms=5
    )
    widths = sorted(seconds.index.get_level_values("width").unique())
    style.label_numbers(ax.xaxis, widths[::2])
    ax.minorticks_off()
    ax.set_ylabel("forward and backward (ms)" if over is None else f"time over that of a {over}")


def draw_ranks(ax: Axes, ranks: pd.DataFrame) -> None:
    """Draw the rank of a minibatch's covariance against width, with min(m - 1, d)."""
    looks = [*SIZES.values(), ("#56B4E9", "D"), ("#000000", "v")]
    widths = np.sort(ranks["width"].unique())
    ax.plot(widths, widths, color="0.6", lw=1, ls=(0, (4, 3)))
    ax.annotate(
        "full rank", (widths[-1], widths[-1]), xytext=(-4, 4), textcoords="offset points",
        ha="right", va="bottom", color="0.4", fontsize=9,
    )  # fmt: skip
    for (m, rows), (colour, marker) in zip(ranks.groupby("m"), looks, strict=False):
        expected = rows.groupby("width")["expected"].first()
        ax.plot(expected.index, expected, color=colour, lw=1.2)
        ax.plot(rows["width"], rows["rank"], marker, ms=6, mfc="none", color=colour, label=f"{m}")
    ax.set(xscale="log", yscale="log", xlabel="width, d", ylabel="rank of the covariance")
    for axis in (ax.xaxis, ax.yaxis):
        style.label_numbers(axis, widths[::2])
    ax.legend(title="examples, m", title_fontsize=9, loc="upper left")


def draw_gaps(ax: Axes, errors: pd.DataFrame) -> None:
    """Draw the error of dx against the gap of two eigenvalues, every repetition."""
    gaps = errors.index.get_level_values("gap")
    for way, (colour, marker) in LOOKS.items():
        ax.plot(gaps, errors[way], marker, ms=4, mfc="none", color=colour, label=way)
        middle = errors[way].groupby("gap").median()
        ax.plot(middle.index, middle, color=colour, lw=1.2)
    ax.set(xscale="log", yscale="log", ylabel="relative error of dx, float32")
    ax.set_xlabel("gap of two eigenvalues")
    ax.legend(loc="upper right")


def draw_gains(ax: Axes, gains: pd.DataFrame) -> None:
    r"""Draw the largest gain of the gradient against the smallest eigenvalue and its -1/2 power."""
    for arm in (ZCA, CHOLESKY, BN):
        middle = gains[arm].groupby("eigenvalue").median()
        style.draw_line(ax, middle, arm, marker=style.MARKERS[arm], ms=5, mfc="none", label=arm)
    at = gains.index.get_level_values("eigenvalue").unique().sort_values()
    ax.plot(at, at**-0.5, color="0.6", lw=4, alpha=0.5, zorder=0, label=r"$\lambda^{-1/2}$")
    ax.set(xscale="log", yscale="log", ylabel="largest norm of dx, dy of norm 1")
    ax.set_xlabel(r"smallest eigenvalue, $\lambda$")
    ax.legend(loc="upper right")


def times(seconds: pd.DataFrame) -> Figure:
    """Times by width: in milliseconds, and over a linear layer's."""
    figure = style.new_figure(1, 2, 8, 3.6)
    left, right = figure.axes
    draw_times(left, seconds)
    draw_times(right, seconds, over=LINEAR)
    style.legend(left, 3)
    return figure


ranks = style.alone(draw_ranks, 5.5, 3.6)
"""Rank of the covariance by width and size of the minibatch."""


def gradients(errors: pd.DataFrame, gains: pd.DataFrame) -> Figure:
    """The gradient of whitening near equal eigenvalues and near a singular covariance."""
    figure = style.new_figure(1, 2, 8, 3.4)
    draw_gaps(figure.axes[0], errors)
    draw_gains(figure.axes[1], gains)
    return figure
