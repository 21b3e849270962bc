"""Figures of the outputs' gradients at initialisation, from the experiment's table."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from bnbook.experiments.bjorck_fig6 import claims
from bnbook.plots import style
from bnbook.tables.arms import LAST_ONLY, WITH, WITHOUT

ARMS = {WITHOUT: "without BN", WITH: "with BN", LAST_ONLY: "last layer only"}
"""Arm -> its name on the axis."""


def draw_heatmap(ax: Axes, gradients: np.ndarray) -> AxesImage:
    """Draw dL_b/dO_bj: images as rows, classes as columns, yellow positive, dark blue negative."""
    image = ax.imshow(
        gradients, aspect="auto", cmap="viridis", vmin=-1, vmax=1, interpolation="none"
    )
    ax.set(xlabel="class j", ylabel="image b", xticks=range(0, gradients.shape[1], 3))
    return image


def draw_dots(ax: Axes, values: pd.DataFrame, label: str) -> None:
    """Draw a number of every seed's network, and the mean as a bar, for every arm."""
    for place, arm in enumerate(ARMS):
        own = values[arm].to_numpy()
        aside = np.linspace(-0.18, 0.18, len(own))
        ax.plot(place + aside, own, style.MARKERS[arm], color=style.COLOURS[arm], ms=4.5)
        ax.plot([place - 0.28, place + 0.28], [own.mean()] * 2, color="0.2", lw=1.2)
    ax.set(ylabel=label, xlim=(-0.5, len(ARMS) - 0.5))
    ax.set_xticks(range(len(ARMS)), list(ARMS.values()))


def draw_shares(ax: Axes, shares: pd.DataFrame) -> None:
    """Draw the share of the images that get the most frequent class; see `draw_dots`."""
    draw_dots(ax, shares, "images given the top class (%)")
    ax.set_ylim(0, 104)


def draw_correlations(ax: Axes, correlations: pd.DataFrame) -> None:
    """Draw the mean correlation of two images' gradients; see `draw_dots`."""
    draw_dots(ax, correlations, "correlation of two rows")
    ax.axhline(0, color="0.6", lw=0.8)


def heatmap(table: pd.DataFrame) -> Figure:
    """Gradients of the first seed's networks: without BN, with it, with it at the last layer."""
    figure = style.new_figure(1, 3, 8, 4.2, sharey=True)
    for ax, arm in zip(figure.axes, ARMS, strict=True):
        image = draw_heatmap(ax, claims.gradients(table, arm, int(table["seed"].min())))
        ax.set_title(arm)
    for ax in figure.axes[1:]:
        ax.set_ylabel("")
    figure.colorbar(image, ax=figure.axes, label=r"$\partial L_b / \partial O_{b,j}$")
    return figure


def shares(table: pd.DataFrame) -> Figure:
    """How far one class rules, and how alike the rows are, over seeds."""
    figure = style.new_figure(1, 2, 8, 3.2)
    draw_shares(figure.axes[0], claims.top_shares(table))
    correlations = claims.over_networks(table, claims.row_correlation)
    draw_correlations(figure.axes[1], correlations)
    return figure
