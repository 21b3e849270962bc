"""Figures of random products: Bjorck et al.'s figures 7 and 8 with own numbers, and networks."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bnbook.experiments.bjorck_products import claims
from bnbook.formulas import (
    fuss_catalan_density,
    fuss_catalan_edge,
    fuss_catalan_quantile,
    singular_value_density,
)
from bnbook.plots import style
from bnbook.tables.arms import WITH, WITHOUT

SHADES = {1: "#7FC8A9", 2: "#3E9E8C", 3: "#9B72B0", 4: "#5B2A7A", 16: "#2A1040"}
"""Colours of products of so many matrices, light to dark, none of them an arm's."""
MARKS = {1: "o", 2: "s", 3: "D", 4: "^", 16: "v"}


def _look(M: int) -> tuple[str, str]:
    return SHADES.get(M, "#555555"), MARKS.get(M, "x")


def _histogram(table: pd.DataFrame, quantity: str, M: int) -> pd.DataFrame:
    rows = table[(table["measured"] == "histogram") & (table["M"] == M)]
    return rows[rows["quantity"] == quantity]


def _draw_bins(ax: Axes, rows: pd.DataFrame, M: int, label: str | None = None) -> None:
    """Draw the mean density of each bin; its interval over seeds where that excludes 0."""
    band = style.mean_band(rows, "middle", "density")
    band = band[band["mean"] > 0]
    half = (band["high"] - band["mean"]).where(band["low"] > 0)
    colour, marker = _look(M)
    ax.errorbar(
        band.index, band["mean"], half, color=colour, marker=marker, ms=3.5, ls="", elinewidth=1,
        label=label,
    )  # fmt: skip


def _matrices(table: pd.DataFrame) -> list[int]:
    return sorted(int(M) for M in table[table["measured"] == "product"]["M"].unique())


def draw_densities(ax: Axes, matrices: tuple[int, ...] = (1, 2, 3, 4)) -> None:
    """Draw the law's densities of the squared singular values on linear axes, as figure 7."""
    for M in matrices:
        x = fuss_catalan_quantile(np.linspace(0.001, 1, 400)[:-1], M)
        x = np.append(x, fuss_catalan_edge(M))
        ax.plot(x, fuss_catalan_density(x, M), color=_look(M)[0], label=f"M = {M}")
    ax.set(xlim=(0, 6), ylim=(0, 1.2), xlabel="x", ylabel="density")


def draw_simulated(ax: Axes, table: pd.DataFrame, matrices: tuple[int, ...] = (1, 2, 3, 4)) -> None:
    """Draw the law's densities on log axes, and the simulated squared singular values on them."""
    for M in matrices:
        colour = _look(M)[0]
        levels = np.append(np.geomspace(1e-4, 0.5, 300), 1 - np.geomspace(0.5, 1e-7, 200)[1:])
        x = fuss_catalan_quantile(levels, M)
        ax.plot(x, fuss_catalan_density(x, M), color=colour, lw=1.2, label=f"M = {M}")
        rows = _histogram(table, "x", M)
        _draw_bins(ax, rows.assign(middle=np.sqrt(rows["low"] * rows["high"])), M)
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set(xlim=(1e-6, 20), ylim=(1e-3, 1e5), xlabel="x, squared singular value", ylabel="density")


def draw_singular_values(
    ax: Axes, table: pd.DataFrame, matrices: tuple[int, ...] = (1, 2, 3, 4)
) -> None:
    """Draw histograms of the singular values of products, as figure 8, with the law's density."""
    s = np.linspace(0.005, 4, 400)
    for M in matrices:
        rows = _histogram(table, "s", M)
        _draw_bins(ax, rows.assign(middle=(rows["low"] + rows["high"]) / 2), M, f"M = {M}")
        density = singular_value_density(s, M)
        ax.plot(s, np.where(density > 0, density, np.nan), color=_look(M)[0], lw=0.9)
    ax.set_yscale("log")
    ax.set(
        xlim=(0, 4), ylim=(3e-3, 30), xlabel="singular value, over σᴹ", ylabel="density",
    )  # fmt: skip


def draw_conditions(ax: Axes, table: pd.DataFrame) -> None:
    """Draw condition number and largest over median singular value against M.

    The condition number is drawn a second time from the product formed in float64, which loses the
    small singular values of many matrices.
    """
    rows = table[table["measured"] == "product"]
    ax.set(yscale="log", xlabel="matrices in the product, M", ylabel="ratio of singular values")
    looks = {
        "condition": ("largest over smallest", "o", "", "#000000"),
        "condition_formed": ("the same, product formed", "X", (1, 1.5), "#888888"),
        "tail": ("largest over median", "s", (6, 1, 1, 1), "#555555"),
    }
    _draw_columns(ax, rows[rows["size"] == rows["size"].max()], "M", looks)
    ax.set_xticks(_matrices(table))
    ax.legend(loc="upper left")


def _draw_columns(ax: Axes, rows: pd.DataFrame, x: str, looks: Mapping[str, Any]) -> None:
    """Draw means of columns with 95 % bands: column -> label, marker, dashes, colour."""
    labels, markers, dashes, colours = zip(*looks.values(), strict=True)
    named = rows[[x, *looks]].set_axis([x, *labels], axis="columns")
    style.draw_means(
        ax, named.melt(x, var_name="what"), x, "value", "what", ms=5,
        markers=dict(zip(labels, markers, strict=True)),
        dashes=dict(zip(labels, dashes, strict=True)),
        palette=dict(zip(labels, colours, strict=True)),
    )  # fmt: skip


def draw_distances(ax: Axes, table: pd.DataFrame, M: int) -> None:
    """Draw the distance from the law against the matrices' size, under three readings."""
    rows = table[(table["measured"] == "product") & (table["M"] == M)]
    looks = {
        "distance": ("squared, law of M", "o", "", "#000000"),
        "distance_next": ("squared, law of M + 1", "^", (1, 1.5), "#777777"),
        "distance_unsquared": ("not squared, law of M", "s", (6, 1, 1, 1), "#009E73"),
    }
    _draw_columns(ax, rows, "size", looks)
    sizes = np.array(sorted(rows["size"].unique()), dtype=float)
    ax.plot(sizes, 1 / sizes, color="0.4", lw=0.9, label="1/N")
    ax.set(xscale="log", yscale="log", xlabel="size N", ylabel="distance from the law")
    ax.set_title(f"M = {M}")
    style.label_numbers(ax.xaxis, sizes)


def draw_spread(ax: Axes, spread: pd.DataFrame, wiring: str) -> None:
    """Draw largest over smallest singular value of Jacobians against depth, both arms."""
    rows = spread[wiring].melt(value_name="ratio").assign(depth=lambda own: 6 * own["n"] + 2)
    ax.set(yscale="log", xlabel="layers", ylabel="largest over smallest singular value")
    style.draw_means(ax, rows, "depth", "ratio", "arm", markers=style.MARKERS, ms=5)
    ax.set_title(wiring)
    style.label_decades(ax.yaxis)


def draw_spectra(ax: Axes, spectra: pd.DataFrame, wiring: str) -> None:
    """Draw the median singular value of Jacobians against depth, shaded to smallest and largest."""
    for arm in (WITHOUT, WITH):
        own = spectra[(spectra["wiring"] == wiring) & (spectra["arm"] == arm)]
        logs = own[["smallest", "median", "largest"]].apply(np.log)
        means = logs.groupby(own["depth"]).mean().apply(np.exp)
        band = means.set_axis(["low", "mean", "high"], axis="columns")
        style.draw_band(ax, band, arm, marker=style.MARKERS[arm], ms=4, label=arm)
    ax.set_yscale("log")
    ax.set(xlabel="layers", ylabel="singular values", title=wiring)


def density(table: pd.DataFrame) -> Figure:
    """Theorem 1's densities, linear as in figure 7, and against simulation on log axes."""
    figure = style.new_figure(1, 2, 8, 3.6)
    draw_densities(figure.axes[0])
    draw_simulated(figure.axes[1], table)
    figure.axes[0].set_title("theorem 1")
    figure.axes[1].set_title("the same, and simulation")
    figure.axes[0].legend()
    return figure


def tails(table: pd.DataFrame) -> Figure:
    """Singular values of products as in figure 8, and their ratios."""
    figure = style.new_figure(1, 2, 8, 3.6)
    draw_singular_values(figure.axes[0], table)
    figure.axes[0].legend(ncols=2)
    draw_conditions(figure.axes[1], table)
    return figure


def distances(table: pd.DataFrame) -> Figure:
    """Distance from the law against size, under three readings, one and four matrices."""
    figure = style.new_figure(1, 2, 8, 3.4, sharey=True)
    for ax, M in zip(figure.axes, (1, 4), strict=True):
        draw_distances(ax, table, M)
    figure.axes[1].set_ylabel("")
    style.legend(figure.axes[0], 2)
    return figure


def networks(table: pd.DataFrame) -> Figure:
    """Ratio of singular values of real networks' Jacobians against depth."""
    spread = claims.spread(table)
    figure = style.new_figure(1, 2, 8, 3.4, sharey=True)
    for ax, wiring in zip(figure.axes, ("residual", "plain"), strict=True):
        draw_spread(ax, spread, wiring)
    figure.axes[1].set_ylabel("")
    figure.axes[0].legend(loc="upper left")
    return figure


def spectra(table: pd.DataFrame) -> Figure:
    """Singular values of real networks' Jacobians against depth, each wiring on its own scale."""
    found = claims.spectra(table)
    figure = style.new_figure(1, 2, 8, 3.4)
    for ax, wiring in zip(figure.axes, ("residual", "plain"), strict=True):
        draw_spectra(ax, found, wiring)
    figure.axes[1].set_ylabel("")
    figure.axes[1].legend(loc="lower left")
    return figure
