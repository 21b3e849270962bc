"""Figures of Algorithm 1's moments and gradients, from the experiment's table."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator

from bnbook.plots import style

SMALLEST = 1e-18
"""Smaller errors are drawn here."""
LOOKS = {
    "sum": ("#009E73", "s"),
    "sum of squares": ("#CC79A7", "^"),
    "random cotangent": ("#0072B2", "o"),
}
"""Colour and marker of a loss that a gradient is checked through."""


def draw_moments(ax: Axes, table: pd.DataFrame) -> None:
    """Draw the mean square of the normalised values against the spread of the values."""
    eps = float(table["eps"].iloc[0])
    rows = table[(table["check"] == "mean square") & (table["variance"] > 0)]
    spread = np.logspace(-7, 7, 300)
    ax.plot(spread, spread**2 / (spread**2 + eps), color="0.5", lw=1.2, label="closed form")
    ax.plot(
        np.sqrt(rows["variance"]), rows["value"], "o", ms=4, mfc="none", mew=1,
        color=style.COLOURS["with BN"], label="minibatches",
    )  # fmt: skip
    ax.axvline(np.sqrt(eps), color="0.5", lw=1, ls=(0, (4, 3)))
    ax.annotate(
        r"$\sqrt{\epsilon}$", (np.sqrt(eps), 0.5), xytext=(6, 0), textcoords="offset points"
    )
    ax.set(
        xscale="log", xlabel=r"standard deviation of the values, $\sigma_{\mathcal{B}}$",
        ylabel=r"mean of $\hat{x}^2$", ylim=(-0.05, 1.08), xlim=(1e-7, 1e7),
    )  # fmt: skip
    ax.legend(loc="lower right")


def draw_errors(ax: Axes, table: pd.DataFrame, checks: Sequence[str], bound: float) -> None:
    """Draw the scale-free error of every case against what was checked, and the bound."""
    for height, check in enumerate(reversed(checks)):
        errors = table.loc[table["check"] == check, "error"].clip(lower=SMALLEST)
        spread = height + 0.5 * (np.arange(len(errors)) % 17 / 16 - 0.5)
        ax.plot(errors, spread, ".", ms=3, color="#0072B2", alpha=0.35, rasterized=True)
        ax.plot(errors.max(), height, "|", ms=16, mew=2, color="black")
    ax.axvline(bound, color="0.3", lw=1.4, ls=(0, (4, 2)))
    ax.annotate(
        "bound", (bound, len(checks) - 0.75), xytext=(-4, 0),
        textcoords="offset points", ha="right", va="bottom", color="0.3", fontsize=9,
    )  # fmt: skip
    ax.set(xscale="log", xlabel=r"scale-free error (below $10^{-18}$: left edge)")
    ax.set(
        yticks=range(len(checks)), yticklabels=list(checks)[::-1], ylim=(-0.6, len(checks) - 0.2)
    )
    ax.set(xlim=(SMALLEST / 2, 1e-11))


def draw_trap(ax: Axes, found: pd.DataFrame, tolerance: float) -> None:
    """Draw the errors of right and wrong dx, one symbol for each loss they are checked through."""
    heights = np.arange(len(found))[::-1]
    for shift, (through, (colour, marker)) in zip((0.22, 0, -0.22), LOOKS.items(), strict=True):
        errors = found[through].clip(lower=SMALLEST)
        ax.plot(errors, heights + shift, marker, color=colour, ms=7, label=through)
    ax.axvline(tolerance, color="0.4", lw=1.2, ls=(0, (4, 2)))
    ax.annotate(
        "passes", (tolerance, len(found) - 0.45), xytext=(-5, 0), textcoords="offset points",
        ha="right", va="bottom", color="0.3", fontsize=9,
    )  # fmt: skip
    ax.set(xscale="log", xlabel="relative error")
    ax.xaxis.set_major_locator(LogLocator(numticks=7))
    ax.set(yticks=heights, yticklabels=found.index, ylim=(-0.6, len(found) - 0.1))


moments = style.alone(draw_moments, 6.4, 3.4)
"""Mean square of the normalised values against their spread."""


trap = style.alone(draw_trap, 7, 3.8, columns=3, title="checked through", title_fontsize=9)
"""Gradient checks through a sum, through squares and with a random cotangent."""
