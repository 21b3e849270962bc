"""Colours, type and saving, the same for every figure of the book."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.special import stdtrit

from bnbook import records
from bnbook.arms import (
    AFTER,
    AS_LONG,
    BN,
    BN_KERNEL,
    CHOLESKY,
    DECAYED,
    HE,
    LAST_ONLY,
    LINEAR,
    LSUV,
    MEAN_OUTSIDE,
    OUTSIDE,
    VARIANCE_OUTSIDE,
    WITH,
    WITHOUT,
    ZCA,
)
from bnbook.claims import LEVEL

COLOURS = {WITHOUT: "#D55E00", WITH: "#0072B2"}
"""An arm's colour, from Okabe and Ito's set, which colour-blind readers can tell apart."""
MARKERS = {WITHOUT: "s", WITH: "o"}
DASHES: dict[str, tuple[float, ...]] = {WITHOUT: (4, 1.5), WITH: ()}
"""Dashes, so that arms differ in more than colour."""
COLOURS |= {OUTSIDE: "#E69F00", MEAN_OUTSIDE: "#CC79A7", VARIANCE_OUTSIDE: "#009E73"}
MARKERS |= {OUTSIDE: "D", MEAN_OUTSIDE: "v", VARIANCE_OUTSIDE: "^"}
DASHES |= {OUTSIDE: (1, 1, 4, 1), MEAN_OUTSIDE: (1, 1), VARIANCE_OUTSIDE: (6, 1, 1, 1, 1, 1)}
COLOURS |= {BN: "#0072B2", BN_KERNEL: "#56B4E9", LINEAR: "#555555"}
MARKERS |= {BN: "o", BN_KERNEL: "X", LINEAR: "s"}
DASHES |= {BN: (), BN_KERNEL: (1, 1), LINEAR: (4, 1.5)}
COLOURS |= {ZCA: "#D55E00", CHOLESKY: "#CC79A7"}
MARKERS |= {ZCA: "D", CHOLESKY: "^"}
DASHES |= {ZCA: (6, 1, 1, 1), CHOLESKY: (6, 1, 1, 1, 1, 1)}
COLOURS |= {AFTER: "#CC79A7"}
MARKERS |= {AFTER: "P"}
DASHES |= {AFTER: (5, 2, 1, 2)}
COLOURS |= {DECAYED: "#56B4E9"}
MARKERS |= {DECAYED: "^"}
DASHES |= {DECAYED: (6, 1.5)}
COLOURS |= {LSUV: "#009E73", HE: "#E69F00"}
MARKERS |= {LSUV: "^", HE: "D"}
DASHES |= {LSUV: (6, 1, 1, 1), HE: (1, 1)}
COLOURS |= {AS_LONG: "#56B4E9"}
MARKERS |= {AS_LONG: "v"}
DASHES |= {AS_LONG: (6, 1, 1, 1)}
COLOURS |= {LAST_ONLY: "#CC79A7"}
MARKERS |= {LAST_ONLY: "X"}
DASHES |= {LAST_ONLY: (3, 1, 1, 1, 1, 1)}


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


def new_figure(rows: int, columns: int, width: float, height: float, **options: Any) -> Figure:
    """Return a figure in the book's style, without pyplot's global state.

    Parameters
    ----------
    rows, columns : int
        Panels.
    width, height : float
        Inches.
    **options
        Passed to `Figure.subplots`, such as ``sharey``.

    Returns
    -------
    Figure
        Its axes are in ``figure.axes``, row by row.
    """
    use()
    figure = Figure(figsize=(width, height))
    figure.subplots(rows, columns, **options)
    return figure


def save(figure: Figure, path: Path, record: str) -> bool:
    """Save as SVG, byte for byte the same for the same figure; an equal file is left alone.

    Parameters
    ----------
    figure : Figure
        The figure.
    path : pathlib.Path
        Ends in ``.svg``.
    record : str
        Digest of the record that was drawn; the file states it.

    Returns
    -------
    bool
        Whether the file changed.
    """
    sink = io.BytesIO()
    with mpl.rc_context({"svg.hashsalt": "bnbook"}):
        figure.savefig(sink, format="svg", metadata={"Date": None, "Source": f"record {record}"})
    return records.write_changed(path, sink.getvalue())


def mean_band(table: pd.DataFrame, x: str, y: str) -> pd.DataFrame:
    """Mean over seeds at each x, with its 95 % Student-t interval.

    Parameters
    ----------
    table : pandas.DataFrame
        One row per seed and x.
    x, y : str
        Columns.

    Returns
    -------
    pandas.DataFrame
        Index x; columns ``mean``, ``low``, ``high`` (NaN with one seed).
    """
    groups = table.groupby(x)[y]
    mean, n = groups.mean(), groups.count()
    half = stdtrit(np.maximum(n - 1, 1), (1 + LEVEL) / 2) * groups.std() / np.sqrt(n)
    return pd.DataFrame({"mean": mean, "low": mean - half, "high": mean + half})


def draw_line(ax: Axes, values: pd.Series, arm: str, **options: Any) -> None:
    """Draw values against their index as a line in the arm's colour and dashes."""
    (line,) = ax.plot(values.index, values, color=COLOURS[arm], **options)
    if DASHES[arm]:
        line.set_dashes(DASHES[arm])


def draw_band(ax: Axes, band: pd.DataFrame, arm: str, **options: Any) -> None:
    """Draw a mean as a line in the arm's colour, its interval as a band around it."""
    draw_line(ax, band["mean"], arm, **options)
    ax.fill_between(
        band.index.to_numpy(), band["low"], band["high"], color=COLOURS[arm], alpha=0.2, lw=0
    )
