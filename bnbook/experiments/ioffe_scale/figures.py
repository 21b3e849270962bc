"""Figures of section 3.3's scale invariance, from the experiment's table."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from bnbook.plots import style
from bnbook.plots.style import Look

SIZES = {
    "output_size": ("output", Look("#0072B2", "o")),
    "input_gradient_size": ("gradient with respect to u", Look("#56B4E9", "^", (4, 1.5))),
    "weight_gradient_size": ("gradient with respect to aW", Look("#009E73", "s", (1, 1))),
}
"""Column -> label and look."""
EPS_LOOKS = (Look("#0072B2", "o"), Look("#009E73", "s", (4, 1.5)))


def draw_sizes(ax: Axes, table: pd.DataFrame, rule: str, eps: float | None = None) -> None:
    """Draw the norms of output and gradients of the linear layer against the factor a."""
    rows = table[(table["rule"] == rule) & (table["layer"] == "linear")]
    rows = rows[rows["eps"] == (rows["eps"].max() if eps is None else eps)]
    for column, (label, look) in SIZES.items():
        mean = rows.groupby("a")[column].mean()
        style.draw_line(ax, mean, look, marker=look.marker, ms=4, label=label)
    ax.set(xscale="log", yscale="log", xlabel="factor a of the weights")
    ax.set_ylabel("norm, relative to a = 1")


def draw_departure(ax: Axes, table: pd.DataFrame) -> None:
    """Draw how far BN(aWu) departs from BN(Wu) at a fixed eps, both layers, against a."""
    rows = table[(table["rule"] == "fixed") & (table["a"] != 1)]
    for look, (_, own) in zip(EPS_LOOKS, rows.groupby("eps"), strict=False):
        power = np.log10(own["eps"].iloc[0])
        for layer, fill in (("linear", look.colour), ("convolution", "white")):
            mean = 100 * own[own["layer"] == layer].groupby("a")["output"].mean()
            style.draw_line(
                ax, mean, look, marker=look.marker, ms=5, mfc=fill, lw=1.2,
                label=rf"$\epsilon = 10^{{{power:.0f}}}$, {layer}",
            )  # fmt: skip
    ax.set(xscale="log", yscale="log", xlabel="factor a of the weights")
    ax.set_ylabel("change of the output (%)")
    ax.legend(loc="upper right")


departure = style.alone(draw_departure, 6, 3.6)
"""How far a fixed eps lets the output depart, against a."""
