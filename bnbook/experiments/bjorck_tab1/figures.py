"""Figures of the cancellation in kernels' gradients, from the experiment's table."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bnbook.evidence.intervals import interval
from bnbook.experiments.bjorck_tab1 import claims
from bnbook.plots import style
from bnbook.tables.arms import WITH, WITHOUT


def draw_ratios(ax: Axes, values: pd.DataFrame, terms: pd.Series | None = None) -> None:
    """Draw a ratio of sums at each layer, for both arms, on a log scale.

    Small marks are seeds, large ones their geometric mean, bars its 95 % interval. The root of the
    number of terms, drawn as a bar, is what random signs give.
    """
    layers = sorted(values.index.unique("layer"))
    for aside, arm in ((-0.12, WITHOUT), (0.12, WITH)):
        colour, marker = style.COLOURS[arm], style.MARKERS[arm]
        for place, layer in enumerate(layers):
            own = values[arm].xs(layer, level="layer")
            mean, low, high = interval(own.tolist(), "log")
            ax.plot([place + aside] * len(own), own, marker, color=colour, ms=2.5, alpha=0.5)
            ax.errorbar(
                place + aside, mean, [[mean - low], [high - mean]], fmt=marker, color=colour,
                ms=6, capsize=3, label=arm if place == 0 else None,
            )  # fmt: skip
    if terms is not None:
        for place, layer in enumerate(layers):
            root = np.sqrt(terms[layer])
            label = "random signs, √N" if place == 0 else None
            ax.plot([place - 0.3, place + 0.3], [root, root], color="0.3", lw=2, label=label)
    ax.axhline(1, color="0.6", lw=0.8)
    ax.set(yscale="log", xlabel="layer", xlim=(-0.5, len(layers) - 0.5))
    ax.set_xticks(range(len(layers)), [f"{layer:g}" for layer in layers])


def cancellation(table: pd.DataFrame) -> Figure:
    """All cancellation, and how much of it is within an image and how much between images."""
    figure = style.new_figure(1, 3, 8, 3.6, sharey=True)
    terms = table.groupby("layer")["terms"].max()
    draw_ratios(figure.axes[0], claims.cancellation(table), terms)
    draw_ratios(figure.axes[1], claims.within_images(table))
    draw_ratios(figure.axes[2], claims.between_images(table))
    for ax, title in zip(
        figure.axes, ("all: a / b", "within images: a / c", "between images: c / b"), strict=True
    ):
        ax.set_title(title)
    figure.axes[0].set_ylabel("ratio of sums")
    style.legend(figure.axes[0])
    return figure
