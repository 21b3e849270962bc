"""Figures of Algorithm 2's exact statements, from the experiment's table."""

import pandas as pd
from matplotlib.axes import Axes

from bnbook.plots import style
from bnbook.tables.arms import WITH


def draw_factor(ax: Axes, table: pd.DataFrame) -> None:
    """Draw Algorithm 2's variance in units of the population's against batch size."""
    kinds = (
        ("variance", "with m/(m−1)", "#0072B2", "o"),
        ("without the factor", "without", "#CC79A7", "s"),
    )
    for check, label, colour, marker in kinds:
        rows = table[table["check"] == check].groupby("m")[["value", "theory"]].mean()
        ax.plot(rows.index, rows["theory"], color=colour, lw=1)
        ax.plot(rows.index, rows["value"], marker, color=colour, ms=5, label=label)
    sizes = sorted(table.loc[table["check"] == "variance", "m"].unique())
    ax.set(
        xlabel="values in a minibatch, m", ylabel="average / population's variance",
        ylim=(0, 1.1), xticks=sizes,
    )  # fmt: skip
    ax.legend(loc="lower right")


def draw_mates(ax: Axes, noise: pd.DataFrame) -> None:
    """Draw the spread of a normalised value over batch mates against batch size."""
    ax.plot(
        noise.index, noise["value"], style.MARKERS[WITH], color=style.COLOURS[WITH], ms=5,
        label="measured",
    )  # fmt: skip
    ax.plot(noise.index, noise["theory"], color="0.4", lw=1, label=r"$\sqrt{3/(2m)}$")
    ax.set(
        xscale="log", yscale="log", xlabel="values in a minibatch, m",
        ylabel="spread over batch mates (std)",
    )  # fmt: skip
    style.label_numbers(ax.xaxis, noise.index[::2])
    style.label_numbers(ax.yaxis, (0.05, 0.1, 0.2, 0.5, 1))
    ax.set_ylim(0.7 * noise["value"].min(), 1)
    ax.legend(loc="upper right")


mates = style.alone(draw_mates, 5, 3.2)
"""What batch mates do to a training output."""
