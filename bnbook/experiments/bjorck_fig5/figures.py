"""Figures of channel moments at initialisation, from the experiment's table."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bnbook.experiments.bjorck_fig5.claims import wide_limit
from bnbook.plots import style
from bnbook.tables import papers
from bnbook.tables.arms import WITH, WITHOUT

STAGES = 3
NAMES = {
    "variance": "channel variance, average",
    "mean": "absolute channel mean, average",
}
INPUTS = {"images": "o", "noise": "x"}
"""Kind of input -> marker."""


def draw_moments(ax: Axes, table: pd.DataFrame, column: str) -> None:
    """Draw a moment of the convolutions' outputs against the layer, on a log scale.

    Geometric mean and 95 % interval over seeds: thick for the first convolution of every block,
    thin for the second. Bars at some layers: one standard deviation over channels in proportion to
    the moment, mean over seeds; downwards only as far as the axis goes.
    """
    rows = table[(table["kind"] == "layer") & (table["inputs"] == "images")]
    last = int(rows["index"].max())
    for arm in (WITHOUT, WITH):
        own = rows[(rows["arm"] == arm) & (rows["index"] < last)]
        first, second = own[own["index"] % 2 == 0], own[own["index"] % 2 == 1]
        style.draw_band(ax, style.log_band(first, "index", column), arm, label=arm)
        style.draw_line(ax, style.log_band(second, "index", column)["mean"], arm, lw=0.7)
        _draw_bars(ax, first, arm, column)
    draw_paper(ax, column)
    draw_stages(ax, (last - 2) // 6, 2)
    ax.set(yscale="log", xlabel="layer", ylabel=NAMES[column], xlim=(0, last))


def draw_paper(ax: Axes, column: str) -> None:
    """Draw the paper's numbers, read as natural logarithms; of the variance its square root's."""
    rows = papers.read("bjorck_fig5")
    quantity, power = ("mean", 1) if column == "mean" else ("std", 2)
    for arm, network in papers.ARMS.items():
        own = rows[(rows["network"] == network) & (rows["quantity"] == quantity)]
        label = f"the paper: {arm}"
        style.draw_paper(
            ax, own["layer"], np.exp(power * own["log_magnitude"]), arm, marker=".", label=label
        )


def _draw_bars(ax: Axes, rows: pd.DataFrame, arm: str, column: str) -> None:
    means = np.exp(np.log(rows[column]).groupby(rows["index"]).mean())
    relative = (rows[f"{column}_std"] / rows[column]).groupby(rows["index"]).mean()
    some = means.iloc[:: max(1, len(means) // 6)]
    spread = relative[some.index] * some
    low = np.minimum(spread, 0.97 * some)
    ax.errorbar(
        some.index, some, yerr=[low, spread], fmt=style.MARKERS[arm], ms=3,
        color=style.COLOURS[arm], elinewidth=0.9, capsize=2,
    )  # fmt: skip


def draw_growth(ax: Axes, table: pd.DataFrame, arm: str) -> None:
    """Draw the mean square of the blocks' outputs against the block, and the wide limit.

    Geometric mean and 95 % interval over seeds, for images and noise.
    """
    rows = table[(table["kind"] == "block") & (table["arm"] == arm)]
    n = int(rows["index"].max()) // STAGES
    for inputs, marker in INPUTS.items():
        band = style.log_band(rows[rows["inputs"] == inputs], "index", "second")
        options = {"marker": marker, "ms": 3.5, "markevery": max(1, n // 4)}
        style.draw_band(ax, band, arm, lw=1.1, label=inputs, **options)
    blocks = wide_limit(n, arm == WITH).blocks
    ax.plot(np.arange(1, 3 * n + 1), blocks, color="0.2", lw=1, label="wide limit")
    draw_stages(ax, n, 1)
    ax.set(yscale="log", xlabel="block", ylabel="mean square of the block's output", title=arm)
    ax.legend(loc="upper left")


def draw_stages(ax: Axes, n: int, layers: int) -> None:
    """Mark where the second and third stage begin, after n blocks of so many layers each."""
    for stage in (1, 2):
        ax.axvline(stage * n * layers + layers - 0.5, color="0.75", lw=0.8, zorder=0)


def moments(table: pd.DataFrame) -> Figure:
    """Channel means and variances against depth, with and without BN."""
    figure = style.new_figure(1, 2, 8, 3.6)
    for ax, column in zip(figure.axes, ("mean", "variance"), strict=True):
        draw_moments(ax, table, column)
    figure.axes[1].legend(loc="upper left")
    return figure


def growth(table: pd.DataFrame) -> Figure:
    """Growth of the stream of residual blocks, measured and expected, without and with BN."""
    figure = style.new_figure(1, 2, 8, 3.4, sharey=True)
    for ax, arm in zip(figure.axes, (WITHOUT, WITH), strict=True):
        draw_growth(ax, table, arm)
    figure.axes[1].set_ylabel("")
    return figure
