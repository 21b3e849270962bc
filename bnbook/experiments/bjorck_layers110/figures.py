"""Which runs of 110 layers diverge and which learn, against the rate, and how their losses go."""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bnbook.experiments.bjorck_layers110 import claims
from bnbook.plots import style
from bnbook.tables.arms import WITH, WITHOUT

WORDS = {"diverged": "diverge", "learned": "learn"}
"""What a panel is about, and how its axis says so."""


def shares(table: pd.DataFrame) -> Figure:
    """Shares of the seeds that diverge and that learn, against the rate."""
    figure = style.new_figure(1, 2, 7.6, 3.3, sharey=True)
    for ax, (what, word) in zip(figure.axes, WORDS.items(), strict=True):
        draw_shares(ax, table, what)
        ax.set(ylabel=f"seeds that {word} (%)")
    style.legend(figure.axes[0], 2)
    return figure


def draw_shares(ax: Axes, table: pd.DataFrame, what: str) -> None:
    """Draw the share of seeds that end so at each rate, in per cent, a line for each network."""
    found = 100 * claims.shares(table, what)
    ax.set(xscale="log", xlabel="learning rate", ylim=(-5, 105))
    for arm in (WITHOUT, WITH):
        if arm in found:
            own = found[arm].dropna()
            style.draw_line(ax, own, arm, marker=style.MARKERS[arm], ms=5, label=arm)


def losses(table: pd.DataFrame) -> Figure:
    """Minibatch loss over the first steps, at the usual rates of the two networks."""
    figure = style.new_figure(1, 2, 7.6, 3.3, sharey=True)
    for ax, rate in zip(figure.axes, (claims.SMALL, claims.USUAL), strict=True):
        draw_losses(ax, table, rate)
    style.legend(figure.axes[0], 3)
    return figure


def draw_losses(ax: Axes, table: pd.DataFrame, rate: float) -> None:
    """Draw a line for each seed; a cross marks the start of one that diverges before the next."""
    rows = table[table["learning_rate"] == rate]
    for arm in (WITHOUT, WITH):
        label: str | None = arm
        for _, run in rows[rows["arm"] == arm].groupby("seed"):
            start = pd.Series([run["first_loss"].iloc[0]], index=[0])
            curve = pd.concat([start, run.set_index("step")["loss"].dropna()])
            style.draw_line(ax, curve, arm, lw=1, alpha=0.7, label=label)
            if run["diverged_at"].max() >= 0:
                end = curve.iloc[-1:]
                ax.plot(end.index, end, "x", ms=5, mew=1.2, color=style.COLOURS[arm])
            label = None
    steps = table["step"].max()
    ax.axhline(2.302585, color="0.6", lw=1, ls=":", zorder=0, label="guessing")
    ax.set(
        yscale="log", xlabel="minibatches", ylabel="loss (nats)", title=f"rate {rate:g}",
        xlim=(-0.03 * steps, 1.03 * steps),
    )  # fmt: skip
