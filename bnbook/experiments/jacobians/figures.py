"""Figures of Jacobians and gradients at initialisation, from the experiment's table."""

import math
from collections.abc import Callable

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from bnbook.formulas import gradient_growth_linear, gradient_growth_relu
from bnbook.plots import style
from bnbook.plots.style import Look
from bnbook.tables.arms import RESIDUAL, WITH, WITHOUT

LOOKS = {
    "linear": Look("#555555", "o"),
    "sigmoid": Look("#009E73", "^", (6, 1)),
    "tanh": Look("#CC79A7", "v", (1, 1)),
    "ReLU": Look("#0072B2", "s", (4, 1.5)),
}
"""Looks of the nonlinearities."""


def draw_ranges(ax: Axes, table: pd.DataFrame) -> None:
    """Draw where a layer's singular values lie, for every kind of network."""
    rows = table[table["measured"] == "layer"]
    kinds = [(arm, g, "gaussian") for g in LOOKS for arm in (WITH, WITHOUT)]
    kinds.append((WITH, "linear", "orthogonal"))
    names = []
    for place, (arm, g, weights) in enumerate(kinds):
        own = rows[(rows["arm"] == arm) & (rows["nonlinearity"] == g)]
        medians = own[own["weights"] == weights][["s10", "s50", "s90"]].median()
        colour, marker = style.COLOURS[arm], style.MARKERS[arm]
        ax.plot([medians["s10"], medians["s90"]], [place, place], color=colour, lw=2.5)
        ax.plot(medians["s50"], place, marker, color=colour, ms=6)
        names.append(f"{g}, {weights} W" if weights == "orthogonal" else f"{g}, {arm}")
    ax.axvline(1, color="0.4", lw=0.8)
    ax.set(xscale="log", xlabel="singular values of one layer", ylim=(len(kinds) - 0.5, -0.5))
    ax.set_yticks(range(len(kinds)), names)


def draw_conditioning(ax: Axes, table: pd.DataFrame) -> None:
    """Draw the spread of the singular values of BN networks against their depth."""
    rows = table[(table["measured"] == "network") & (table["arm"] == WITH)]
    rows = rows.assign(spread=rows["s90"] / rows["s10"])
    for g, look in LOOKS.items():
        own = rows[(rows["nonlinearity"] == g) & (rows["weights"] == "gaussian")]
        spread = own.groupby("layer")["spread"].median()
        style.draw_line(ax, spread, look, marker=look.marker, ms=4, label=g)
    straight = rows[rows["weights"] == "orthogonal"].groupby("layer")["spread"].median()
    ax.plot(
        straight.index, straight, color="0.6", marker="D", ms=4, lw=1, label="linear, orthogonal W"
    )
    ax.set(yscale="log", xlabel="layer", ylabel="90th / 10th percentile")


def draw_gradients(
    ax: Axes, table: pd.DataFrame, arm: str, expected: Callable[[str], float] | None = None
) -> None:
    """Draw the squared gradient norm of every layer, widest network, largest batch."""
    rows = table[(table["measured"] == "gradient") & (table["arm"] == arm)]
    rows = rows[(rows["width"] == rows["width"].max()) & (rows["batch"] == rows["batch"].max())]
    last = rows["layer"].max()
    for g, own in rows.groupby("nonlinearity"):
        look = LOOKS[str(g)]
        mean = _geometric(own, "layer", "squared_gradient")
        style.draw_line(ax, mean, look, marker=look.marker, ms=3.5, label=str(g))
        if expected is not None:
            line_of_theory = expected(str(g)) ** (last - mean.index.to_numpy())
            ax.plot(mean.index, line_of_theory, color=look.colour, lw=0.7)
    ax.set(yscale="log", xlabel="layer", ylabel="squared gradient norm, last layer = 1")
    ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))


def draw_widths(ax: Axes, growth: pd.Series) -> None:
    """Draw the ReLU network's growth a layer against its width, mean and interval over seeds."""
    found = growth.rename("growth").reset_index()
    own = found[(found["arm"] == WITH) & (found["nonlinearity"] == "ReLU")]
    own = own[own["batch"] == own["batch"].max()]
    style.draw_band(ax, style.mean_band(own, "width", "growth"), WITH, marker="o", ms=4)
    ax.axhline(gradient_growth_relu(), color="0.3", lw=0.9, dashes=(4, 2))
    ax.annotate(
        "π/(π − 1)", (own["width"].max(), gradient_growth_relu()), xytext=(0, 4),
        textcoords="offset points", fontsize=9, ha="right",
    )  # fmt: skip
    ax.set_xscale("log", base=2)
    ax.set(xlabel="width", ylabel="growth a layer", title="ReLU and BN")


def draw_batches(ax: Axes, growth: pd.Series) -> None:
    """Draw the linear network's growth a layer against the batch, mean and interval over seeds."""
    found = growth.rename("growth").reset_index()
    own = found[(found["arm"] == WITH) & (found["nonlinearity"] == "linear")]
    own = own[own["width"] == own["width"].max()]
    style.draw_band(ax, style.mean_band(own, "batch", "growth"), WITH, marker="o", ms=4)
    sizes = np.unique(own["batch"])
    formula = [gradient_growth_linear(int(size)) for size in sizes]
    ax.plot(sizes, formula, color="0.3", lw=0.9, dashes=(4, 2), label="(B − 2)/(B − 3)")
    ax.set_xscale("log", base=2)
    ax.set(xlabel="batch B", ylabel="growth a layer", title="linear and BN")
    ax.legend(loc="upper right")


def spectra(table: pd.DataFrame) -> Figure:
    """Singular values: of single layers, and how those of networks spread with depth."""
    figure = style.new_figure(1, 2, 8, 3.6, width_ratios=(1, 1.15))
    draw_ranges(figure.axes[0], table)
    draw_conditioning(figure.axes[1], table)
    figure.axes[0].set_title("one layer")
    figure.axes[1].set_title("with BN: from layer 1 to layer l")
    style.legend(figure.axes[1], 5)
    return figure


def gradients(table: pd.DataFrame, expected: Callable[[str], float]) -> Figure:
    """Squared gradient norm by layer: with BN, without, and with BN and skips."""
    figure = style.new_figure(1, 3, 8, 3.4, sharey=True)
    for ax, arm in zip(figure.axes, (WITH, WITHOUT, RESIDUAL), strict=True):
        draw_gradients(ax, table, arm, expected if arm == WITH else None)
        ax.set_title(arm)
    top = table["squared_gradient"].max()
    figure.axes[0].set_ylim(1e-4, 4 * top)
    for ax in figure.axes[1:]:
        ax.set_ylabel("")
    style.legend(figure.axes[0])
    return figure


def limits(growth: pd.Series) -> Figure:
    """What finite width and finite batches change."""
    figure = style.new_figure(1, 2, 8, 3.2)
    draw_widths(figure.axes[0], growth)
    draw_batches(figure.axes[1], growth)
    figure.axes[1].set_ylabel("")
    return figure


def _geometric(rows: pd.DataFrame, by: str, column: str) -> pd.Series:
    logs = rows.assign(log=rows[column].map(math.log)).groupby(by)["log"].mean()
    return pd.Series(np.exp(logs))
