"""Colours, type and saving, the same for every figure of the book."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Concatenate, NamedTuple, ParamSpec

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator
from scipy.special import stdtrit

from bnbook import files
from bnbook.evidence.claims import points_fact
from bnbook.evidence.intervals import LEVEL
from bnbook.plots import narrow
from bnbook.tables.arms import (
    AFFINE_ONLY,
    AFTER,
    AS_LONG,
    BN,
    BN_KERNEL,
    CHOLESKY,
    CLIPPED,
    DECAYED,
    FIXUP,
    FIXUP_MIXUP,
    FROZEN,
    GROUP_NORM,
    HE,
    LAST_ONLY,
    LAYER_NORM,
    LINEAR,
    LSUV,
    MEAN_OUTSIDE,
    MEANS_ONLY,
    NOISE,
    NOISY,
    NORMALISER_FREE,
    OTHERS_ONLY,
    OUTSIDE,
    SELF_NORMALISING,
    SKIPINIT,
    VARIANCE_OUTSIDE,
    VARIANCES_ONLY,
    WARM_UP,
    WITH,
    WITH_MIXUP,
    WITHOUT,
    ZCA,
)

P = ParamSpec("P")


class Look(NamedTuple):
    """How an arm is drawn: arms differ in more than colour."""

    colour: str
    marker: str
    dashes: tuple[float, ...] = ()


LOOKS = {
    WITHOUT: Look("#D55E00", "s", (4, 1.5)),
    WITH: Look("#0072B2", "o"),
    OUTSIDE: Look("#8A8A1F", "D", (1, 1, 4, 1)),
    MEAN_OUTSIDE: Look("#CC79A7", "v", (1, 1)),
    VARIANCE_OUTSIDE: Look("#009E73", "^", (6, 1, 1, 1, 1, 1)),
    BN: Look("#0072B2", "o"),
    BN_KERNEL: Look("#56B4E9", "X", (1, 1)),
    LINEAR: Look("#555555", "s", (4, 1.5)),
    ZCA: Look("#009E73", "D", (6, 1, 1, 1)),
    CHOLESKY: Look("#CC79A7", "^", (6, 1, 1, 1, 1, 1)),
    AFTER: Look("#CC79A7", "P", (5, 2, 1, 2)),
    DECAYED: Look("#56B4E9", "^", (6, 1.5)),
    LSUV: Look("#009E73", "^", (6, 1, 1, 1)),
    HE: Look("#CC79A7", "D", (1, 1)),
    AS_LONG: Look("#56B4E9", "v", (6, 1, 1, 1)),
    LAST_ONLY: Look("#CC79A7", "X", (3, 1, 1, 1, 1, 1)),
    WARM_UP: Look("#8A8A1F", "D", (1, 1)),
    CLIPPED: Look("#555555", "P", (1, 1, 4, 1)),
    FIXUP: Look("#009E73", "^", (6, 1, 1, 1)),
    SKIPINIT: Look("#56B4E9", "v", (3, 1)),
    NOISY: Look("#56B4E9", "v", (6, 1, 1, 1)),
    NOISE: Look("#555555", "X", (1, 1)),
    MEANS_ONLY: Look("#009E73", "^", (6, 1.5)),
    VARIANCES_ONLY: Look("#CC79A7", "P", (5, 2, 1, 2)),
    FROZEN: Look("#000000", "p", (3, 1, 1, 1, 1, 1)),
    GROUP_NORM: Look("#CC79A7", "X", (5, 2, 1, 2)),
    LAYER_NORM: Look("#000000", "p", (6, 1, 1, 1, 1, 1)),
    NORMALISER_FREE: Look("#000000", "h", (6, 1, 1, 1, 1, 1)),
    SELF_NORMALISING: Look("#CC79A7", "X", (5, 2, 1, 2)),
    WITH_MIXUP: Look("#56B4E9", "P", (6, 1.5)),
    FIXUP_MIXUP: Look("#009E73", "p", (1, 1)),
    AFFINE_ONLY: Look("#555555", "D", (1, 1)),
    OTHERS_ONLY: Look("#999999", "X", (1, 1, 4, 1)),
}
"""Looks of the arms, in colours of Okabe and Ito's set, which colour-blind readers can tell apart.

Vermilion is without BN and blue with BN throughout the book; the others have these to themselves in
their own chapters.
"""
COLOURS = {arm: look.colour for arm, look in LOOKS.items()}
MARKERS = {arm: look.marker for arm, look in LOOKS.items()}
DASHES = {arm: look.dashes for arm, look in LOOKS.items()}


PAPER = {"color": "0.6", "lw": 1.8, "zorder": 1}
"""How a curve of the paper itself is drawn, behind ours; dashed where ours is, without BN."""


def draw_paper(ax: Axes, x: Any, y: Any, arm: str, **options: Any) -> None:
    """Draw a curve that was read off the paper's figure, grey behind ours."""
    (line,) = ax.plot(x, y, **{**PAPER, **options})
    if DASHES.get(arm):
        line.set_dashes(DASHES[arm])


def use() -> None:
    """Set seaborn's ticks style and the book's defaults for every figure that follows."""
    import seaborn as sns  # a second or two, which judging claims need not wait for

    sns.set_theme(
        context="notebook",
        style="ticks",
        rc={
            "axes.spines.right": False,
            "axes.spines.top": False,
            "axes.titlesize": "medium",
            "axes.titlelocation": "left",
            "figure.constrained_layout.use": True,
            "figure.dpi": 110,
            "font.family": "DejaVu Sans",
            "font.size": 10,
            "axes.labelsize": 10,
            "xtick.labelsize": 9,
            "ytick.labelsize": 9,
            "legend.fontsize": 9,
            "legend.frameon": False,
            "lines.linewidth": 1.6,
        },
    )


class Shown(Figure):
    """A figure that a notebook shows, without pyplot's global state."""

    def _repr_png_(self) -> bytes:
        sink = io.BytesIO()
        self.savefig(sink, format="png")
        return sink.getvalue()


def new_figure(
    rows: int, columns: int, width: float, height: float, *, count: int | None = None,
    whole: bool = False, **options: Any,
) -> Figure:  # fmt: skip
    """Return a figure in the book's style, without pyplot's global state.

    `count` is the number of panels where the last row is not full. One that is `whole` is the same
    on a phone, where it scrolls: a table that has no room there.
    """
    count = rows * columns if count is None else count
    use()
    figure = Shown(figsize=(width, height))
    if narrow.is_on() and not whole:
        narrow.panels(figure, rows, columns, (width, height), options, count)
    else:
        figure.subplots(rows, columns, **options)
    for spare in figure.axes[count:]:
        spare.remove()
    return figure


def save(figure: Figure, path: Path, record: str) -> bool:
    """Save as SVG, byte for byte the same for the same figure; an equal file is left alone."""
    sink = io.BytesIO()
    with mpl.rc_context({"svg.hashsalt": "bnbook"}):
        figure.savefig(sink, format="svg", metadata={"Date": None, "Source": f"record {record}"})
    return files.write_changed(path, sink.getvalue())


def mean_band(table: pd.DataFrame, x: str, y: str) -> pd.DataFrame:
    """Mean over seeds at each x, with its 95 % Student-t interval."""
    groups = table.groupby(x)[y]
    mean, n = groups.mean(), groups.count()
    half = stdtrit(np.maximum(n - 1, 1), (1 + LEVEL) / 2) * groups.std() / np.sqrt(n)
    return pd.DataFrame({"mean": mean, "low": mean - half, "high": mean + half})


def log_band(table: pd.DataFrame, x: str, y: str) -> pd.DataFrame:
    """`mean_band` of the logarithm: geometric means with their intervals."""
    logs = table.assign(log=np.log(table[y].astype(float)))
    return mean_band(logs, x, "log").apply(np.exp)


def bands(samples: Mapping[Any, pd.Series | pd.DataFrame]) -> pd.DataFrame:
    """Mean of each of some samples, with its 95 % Student-t interval, as `mean_band`.

    Of seeds by test images it is the interval that takes both as drawn.
    """
    found = {name: _mean(own) for name, own in samples.items()}
    band = pd.DataFrame.from_dict(found, orient="index", columns=["mean", "low", "high"])
    return band.astype(float)  # without an interval NaN


def _mean(own: pd.Series | pd.DataFrame) -> tuple[float | None, ...]:
    if isinstance(own, pd.DataFrame):
        found = points_fact(own, digits=None)
        return found["value"], found["low"], found["high"]
    return (own.mean(), *t_interval(own))


def t_interval(values: pd.Series) -> tuple[float, float]:
    """Return the 95 % Student-t interval of a mean over seeds, NaN with one seed."""
    n = len(values)
    half = stdtrit(max(n - 1, 1), (1 + LEVEL) / 2) * values.std() / np.sqrt(n)
    return values.mean() - half, values.mean() + half


def draw_means(ax: Axes, table: pd.DataFrame, x: str, y: str, by: str, **options: Any) -> None:
    """Draw a line for each value of a column: means over seeds, with 95 % bands.

    Arms have their own colours and dashes unless `options`, of `seaborn.lineplot`, give others. On
    an axis that is logarithmic already, means and intervals are those of the logarithms.
    """
    import seaborn as sns

    kinds = [kind for kind in COLOURS if (table[by] == kind).any()] if by == "arm" else None
    looks = {"palette": COLOURS, "dashes": DASHES, "hue_order": kinds} if kinds else {}
    labels = ax.get_xlabel(), ax.get_ylabel()
    sns.lineplot(
        table, x=x, y=y, hue=by, style=by, ax=ax,
        **{"errorbar": t_interval, "err_kws": {"lw": 0}, "mew": 0, **looks, **options},
    )  # fmt: skip
    if legend := ax.get_legend():
        legend.remove()  # its handles stay, for a legend of the caller's
    ax.set(xlabel=labels[0], ylabel=labels[1])


def draw_rates(
    ax: Axes, last: pd.DataFrame, column: str, tuned: Mapping[str, float], unit: float = 1
) -> None:
    """Draw a final measurement against learning rate, the tuned rate of each arm ringed."""
    rows = last[last["arm"].isin(list(tuned))].assign(shown=lambda own: unit * own[column])
    ax.set(xscale="log", xlabel="learning rate")
    draw_means(ax, rows, "learning_rate", "shown", "arm", markers=MARKERS, ms=5)
    for arm, rate in tuned.items():
        values = rows.loc[(rows["arm"] == arm) & (rows["learning_rate"] == rate), "shown"]
        middle = np.exp(np.log(values).mean()) if ax.get_yscale() == "log" else values.mean()
        ring(ax, rate, middle, arm)


def ring(ax: Axes, x: float, y: float, arm: str) -> None:
    """Draw a ring in the arm's colour, around its value at the rate that suits it."""
    ax.plot(x, y, "o", ms=12, mfc="none", mec=COLOURS[arm], mew=1.4)


def draw_line(ax: Axes, values: pd.Series, arm: str | Look, **options: Any) -> None:
    """Draw values against their index as a line in colour and dashes of an arm or a look."""
    look = LOOKS[arm] if isinstance(arm, str) else arm
    (line,) = ax.plot(values.index, values, color=look.colour, **options)
    if look.dashes:
        line.set_dashes(look.dashes)


def draw_band(ax: Axes, band: pd.DataFrame, arm: str | Look, **options: Any) -> None:
    """Draw a mean as a line as `draw_line` does, its interval as a band around it."""
    look = LOOKS[arm] if isinstance(arm, str) else arm
    draw_line(ax, band["mean"], look, **options)
    ax.fill_between(
        band.index.to_numpy(), band["low"], band["high"], color=look.colour, alpha=0.2, lw=0
    )


def draw_bars(
    ax: Axes, band: pd.DataFrame, look: Look, *, across: bool = False, **options: Any
) -> None:
    """Draw means at their index with bars of their intervals; `across`: along the x axis."""
    spread = band["mean"] - band["low"], band["high"] - band["mean"]
    options = {"color": look.colour, "marker": look.marker, **options}
    if across:
        line, *_ = ax.errorbar(band["mean"], band.index, xerr=spread, **options)
    else:
        line, *_ = ax.errorbar(band.index, band["mean"], yerr=spread, **options)
    if look.dashes and options.get("ls") != "":
        line.set_dashes(look.dashes)


def legend(axes: Axes | Sequence[Axes], columns: int | None = None, **options: Any) -> None:
    """Name the lines of one panel or more under their figure, each once; in one row by default."""
    panels = [axes] if isinstance(axes, Axes) else axes
    found = [zip(*ax.get_legend_handles_labels(), strict=True) for ax in panels]
    named = {label: line for panel in found for line, label in panel}
    options = {"loc": "outside lower center", "ncols": columns or len(named), **options}
    panels[0].figure.legend(named.values(), named.keys(), **options)


def alone(
    draw: Callable[Concatenate[Axes, P], None],
    width: float,
    height: float,
    columns: int | None = 0,
    **options: Any,
) -> Callable[P, Figure]:
    """Make what draws a panel draw a figure of this one panel, in inches.

    `columns` and `options` are those of a `legend`; with 0 columns there is none.
    """

    def figure(*given: P.args, **named: P.kwargs) -> Figure:
        made = new_figure(1, 1, width, height)
        draw(made.axes[0], *given, **named)
        if columns != 0:
            legend(made.axes[0], columns, **options)
        return made

    return figure


def say_empty(ax: Axes, why: str) -> None:
    """Say in the middle of a panel why nothing is drawn there."""
    ax.text(0.5, 0.5, why, ha="center", color="0.4", transform=ax.transAxes)


def label_numbers(axis: Axis, at: Iterable[float]) -> None:
    """Label these numbers of a logarithmic axis, and no others."""
    shown = list(at)
    axis.set_ticks(shown, labels=[f"{number:g}" for number in shown])
    axis.set_minor_locator(NullLocator())


def label_decades(axis: Axis) -> None:
    """Label 1, 2 and 5 of every decade of a logarithmic axis as plain numbers."""
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_locator(NullLocator())
