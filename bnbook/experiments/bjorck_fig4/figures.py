"""Figures of the diverging update, from the experiment's table."""

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize, SymLogNorm
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.ticker import MaxNLocator

from bnbook.experiments.bjorck_fig4 import claims
from bnbook.plots import style
from bnbook.tables.arms import AS_LONG, WITH, WITHOUT

SHOWN = {0.2: 0.3, 0.6: 0.55, 1.0: 1.0}
"""Applied fractions of which the layers' growth is drawn, and how opaque."""


def draw_map(
    ax: Axes, table: pd.DataFrame, arm: str, layer: int, column: str, seed: int | None = None
) -> AxesImage:
    """Draw the moments of a layer's channels while the update is applied, of one seed.

    On a logarithmic scale of the panel's own, for the mean one that is linear around zero.
    Channels are ordered by their variance after the update. Returned for a colour bar.
    """
    rows = table[(table["arm"] == arm) & (table["layer"] == layer) & (table["channel"] >= 0)]
    rows = rows[rows["seed"] == (rows["seed"].min() if seed is None else seed)]
    order = rows[rows["fraction"] == 1.0].sort_values("variance")["channel"]
    values = rows.pivot_table(index="fraction", columns="channel", values=column, dropna=False)
    shown = values[order].to_numpy()
    half = 50 / max(len(shown) - 1, 1)
    image = ax.imshow(
        shown, origin="lower", aspect="auto", interpolation="nearest", norm=_scale(shown, column),
        cmap="viridis" if column == "variance" else "RdBu_r",
        extent=(-0.5, shown.shape[1] - 0.5, -half, 100 + half),
    )  # fmt: skip
    ax.set(xlabel="channel", ylabel="update applied (%)", title=f"layer {layer}, {column}")
    ax.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    return image


def _scale(values: np.ndarray, column: str) -> Normalize:
    finite = values[np.isfinite(values)]
    if column == "variance":
        positive = finite[finite > 0]
        return LogNorm(positive.min(), positive.max()) if positive.size else Normalize(0, 1)
    most = max(float(np.abs(finite).max(initial=0)), 1e-30)
    return SymLogNorm(most / 100, vmin=-most, vmax=most)


def add_colour_bar(image: AxesImage) -> None:
    """Add a colour bar with three ticks beside a map's panel."""
    low, high = (float(limit or 0.0) for limit in (image.norm.vmin, image.norm.vmax))  # type: ignore[arg-type]
    middle = math.sqrt(low * high) if low > 0 else 0.0
    bar = image.axes.figure.colorbar(
        image, ax=image.axes, ticks=[low, middle, high], format=power, fraction=0.06, pad=0.02
    )
    bar.minorticks_off()


def power(number: float, _: object = None) -> str:
    """Write a number with two significant digits, a large or small one with a power of ten."""
    if number == 0 or 1e-2 <= abs(number) < 1e4:
        return f"${number:.2g}$" if abs(number) < 100 else f"${number:.0f}$"
    digits, _, exponent = f"{number:.1e}".partition("e")
    return rf"${digits}\times10^{{{int(exponent)}}}$"


def draw_profile(ax: Axes, growth: pd.DataFrame, arm: str, layers: Sequence[int]) -> None:
    """Draw the growth of the variance of every layer, for some applied fractions.

    Geometric means over seeds, with the 95 % interval of the whole update; `layers` are marked.
    """
    fractions = growth.index.get_level_values("fraction").unique().to_numpy()
    for wanted, alpha in SHOWN.items():
        fraction = fractions[np.abs(fractions - wanted).argmin()]
        if abs(fraction - wanted) > 0.05:
            continue
        band = _geometric_band(pd.DataFrame(growth.xs(fraction, level="fraction")))
        label = f"{100 * fraction:.0f} % applied"
        if wanted == 1.0:
            style.draw_band(ax, band, arm, label=label)
        else:
            style.draw_line(ax, band["mean"], arm, alpha=alpha, lw=1.2, label=label)
    for layer in layers:
        ax.axvline(layer, color="0.7", lw=0.8, ls=":", zorder=0)
    ax.set(yscale="log", xlabel="layer", ylabel="growth of the variance", title=arm)
    ax.legend(loc="upper left")


def _geometric_band(growth: pd.DataFrame) -> pd.DataFrame:
    """Geometric mean over seeds and 95 % interval: index layer."""
    return style.log_band(growth.melt(var_name="layer", value_name="growth"), "layer", "growth")


def draw_loss(ax: Axes, table: pd.DataFrame) -> None:
    """Draw the loss against the applied part of the update, one line for each seed."""
    for arm in (WITHOUT, WITH, AS_LONG):
        rows = table[table["arm"] == arm]
        course = rows.groupby(["seed", "fraction"])["loss"].first()
        for number, (_, run) in enumerate(course.groupby(level="seed")):
            losses = pd.Series(run.to_numpy(), 100 * run.index.get_level_values("fraction"))
            label = arm if number == 0 else None
            style.draw_line(ax, losses, arm, lw=1.1, alpha=0.8, label=label)
    ax.axhline(claims.THRESHOLD, color="0.4", lw=1, ls=":")
    ax.set(yscale="log", xlabel="update applied (%)", ylabel="loss (nats)", xlim=(0, 100))
    ax.legend(loc="upper left")


def maps(table: pd.DataFrame) -> Figure:
    """Means above and variances below in each probed layer, without BN, of the middle seed."""
    seed = claims.middle_seed(table)
    layers = claims.probed(table)
    figure = style.new_figure(2, len(layers), 8, 5, sharey=True)
    for row, column in enumerate(("mean", "variance")):
        for place, layer in enumerate(layers):
            ax = figure.axes[row * len(layers) + place]
            image = draw_map(ax, table, WITHOUT, layer, column, seed)
            ax.set(ylabel="" if place else "update applied (%)", xlabel="channel" if row else "")
            add_colour_bar(image)
    return figure


def profile(table: pd.DataFrame) -> Figure:
    """Growth of the variance against the layer: the diverging update, and BN's two."""
    figure = style.new_figure(1, 3, 8, 3.4, sharey=True)
    for ax, arm in zip(figure.axes, (WITHOUT, WITH, AS_LONG), strict=True):
        draw_profile(ax, claims.profiles(table, arm), arm, claims.probed(table))
    for ax in figure.axes[1:]:
        ax.set_ylabel("")
    return figure


loss = style.alone(draw_loss, 6.5, 3.4)
"""The loss while the update is applied, of both networks."""
