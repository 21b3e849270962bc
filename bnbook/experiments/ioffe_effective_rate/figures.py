"""Figures of the effective learning rate, from the experiment's table."""

from collections.abc import Mapping

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bnbook.plots import style
from bnbook.tables import tuning
from bnbook.tables.arms import DECAYED, WITH

MARKERS = "osv^DP*X"


def draw_growth(ax: Axes, grown: pd.DataFrame, arm: str) -> None:
    """Draw the growth of the squared norm over a run against the rate, by initial scale."""
    for place, scale in enumerate(grown.columns):
        own = grown[scale].where(grown[scale] > 0)
        mean = pd.Series(np.exp(np.log(own).groupby("learning_rate").mean()))
        style.draw_line(
            ax, mean, arm, marker=style.MARKERS[arm], ms=5, lw=1.8 if place == 0 else 1,
            mfc=style.COLOURS[arm] if place == 0 else "white", label=f"weights × {scale:g}",
        )  # fmt: skip
    ax.set(xscale="log", yscale="log", xlabel="learning rate")
    ax.set_ylabel("growth of a unit's squared norm")


def draw_course(ax: Axes, table: pd.DataFrame, column: str, decay: float | None = None) -> None:
    """Draw a column over training for the BN networks at the largest rate."""
    rows = table[table["arm"].isin((WITH, DECAYED)) & (table["step"] > 0)]
    rows = rows[rows["learning_rate"] == rows["learning_rate"].max()]
    decay = rows["weight_decay"].max() if decay is None else decay
    for (scale, own_decay), own in rows.groupby(["scale", "weight_decay"]):
        if own_decay not in (0, decay):
            continue
        arm = DECAYED if own_decay else WITH
        label = f"decay {decay:g}" if own_decay else f"weights × {scale:g}"
        options = {} if scale == rows["scale"].min() else {"lw": 1.0, "marker": ".", "ms": 5}
        style.draw_band(ax, style.log_band(own, "step", column), arm, label=label, **options)
    ax.set(xscale="log", yscale="log", xlabel="training step")


def draw_angles(ax: Axes, angles: pd.DataFrame) -> None:
    """Draw the angle of late steps with decay against its expectation."""
    found = angles.reset_index()
    logs = found.assign(angle=np.log(found["angle"]))
    keys = ["weight_decay", "learning_rate"]
    mean = logs.groupby(keys)[["angle", "expected"]].mean()
    mean["angle"] = np.exp(mean["angle"])
    colours = _colours(mean.index.unique("weight_decay"))
    for decay, own in mean.groupby("weight_decay"):
        colour, marker = colours[float(str(decay))]
        ax.plot(own["expected"], own["angle"], marker, color=colour, ms=6, label=f"{decay:g}")
    ends = np.array([mean["expected"].min() / 1.2, mean["expected"].max() * 1.2])
    ax.plot(ends, ends, color="0.4", lw=0.9, dashes=(4, 2))
    ax.set(xscale="log", yscale="log", xlabel="√(2 × rate × decay)", ylabel="angle of a step (rad)")
    for axis in (ax.xaxis, ax.yaxis):
        style.label_decades(axis)
    ax.legend(title="decay", title_fontsize=9, loc="upper left")


def draw_products(ax: Axes, table: pd.DataFrame, against: str) -> None:
    """Draw final test accuracy with decay against the rate or against rate times decay."""
    last = tuning.final(table[table["arm"] == DECAYED])
    last = last.assign(product=last["learning_rate"] * last["weight_decay"])
    last["accuracy"] = 100 * last["test_accuracy"]
    colours = _colours(pd.Index(np.unique(last["weight_decay"])))
    ax.set(xscale="log")
    style.draw_means(
        ax, last, against, "accuracy", "weight_decay", dashes=False, ms=5,
        palette={decay: colour for decay, (colour, _) in colours.items()},
        markers={decay: marker for decay, (_, marker) in colours.items()},
    )  # fmt: skip
    label = "learning rate" if against == "learning_rate" else "rate × decay"
    ax.set(xlabel=label, ylabel="final test accuracy (%)")
    low, high = ax.get_ylim()
    ax.set_ylim(low, min(high, 100))


def draw_twins(ax: Axes, table: pd.DataFrame, reference_decay: float) -> None:
    """Draw the distance of the scores from the reference's where every weight is normalised."""
    styles = (
        ("weights scaled alone", "#CC79A7", "s"),
        ("rate and decay rescaled", "#0072B2", "o"),
    )
    rows = table[(table["reference_decay"] == reference_decay) & (table["step"] > 0)]
    for role, colour, marker in styles:
        own = rows[rows["role"] == role]
        floor = np.finfo(float).eps / 16
        logs = np.log(own["distance"].clip(lower=floor)).groupby(own["step"]).mean()
        ax.plot(logs.index, np.exp(logs), color=colour, marker=marker, ms=4, label=role)
    ax.set(xscale="log", yscale="log", xlabel="training step")
    ax.set_ylabel("distance of the scores")


def growth(grown: Mapping[str, pd.DataFrame]) -> Figure:
    """How much the weights grow over a run, with BN and without, from usual and larger weights."""
    figure = style.new_figure(1, len(grown), 8, 3.3, sharey=True)
    for ax, (arm, own) in zip(figure.axes, grown.items(), strict=True):
        draw_growth(ax, own, arm)
        ax.legend(loc="upper left")
        ax.set_title(arm)
    with_bn = grown[WITH].to_numpy()
    figure.axes[0].set_ylim(with_bn[with_bn > 0].min() / 5, with_bn.max() * 50)
    figure.axes[-1].set_ylabel("")
    return figure


def course(table: pd.DataFrame) -> Figure:
    """Norm, effective rate and angle of a step over training, with decay and without."""
    figure = style.new_figure(1, 3, 8, 3.2)
    titles = {
        "squared_norm": "squared norm of a unit",
        "effective_rate": "effective rate",
        "angle": "angle of a step (rad)",
    }
    for ax, (column, title) in zip(figure.axes, titles.items(), strict=True):
        draw_course(ax, table, column)
        ax.set_title(title)
    style.legend(figure.axes[0])
    return figure


angles = style.alone(draw_angles, 5, 3.8)
"""Angles in equilibrium against their expectation."""


def products(table: pd.DataFrame) -> Figure:
    """Final test accuracy against the rate, and against rate times decay."""
    figure = style.new_figure(1, 2, 8, 3.4, sharey=True)
    for ax, against in zip(figure.axes, ("learning_rate", "product"), strict=True):
        draw_products(ax, table, against)
    figure.axes[1].set_ylabel("")
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(
        handles, [f"decay {label}" for label in labels], loc="outside lower center",
        ncols=len(labels),
    )  # fmt: skip
    return figure


def _colours(values: pd.Index) -> dict[float, tuple[str, str]]:
    """Give every value of an ordered index a colour, light to dark, and a marker."""
    shades = mpl.colormaps["viridis_r"](np.linspace(0.4, 1, len(values)))
    pairs = zip(values, shades, MARKERS, strict=False)
    return {float(value): (mpl.colors.to_hex(shade), marker) for value, shade, marker in pairs}
