"""Training curves of ours held against curves that were read off a paper's figure.

A figure's curve is a line through the few points that its authors measured: between 3,600 and 7,400
steps the one without BN of Ioffe & Szegedy's figure 1(a) is straight to within its reading error,
which no network learns like. So ours is drawn through the same corners before the two are compared.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from bnbook.tables import papers

ERROR = 0.002
"""Reading error of an accuracy of Ioffe & Szegedy's figure 1(a)."""
AXIS = 0.7
"""Where that figure's axis of accuracies begins."""
LENGTH = 50_000
"""Steps of training in Ioffe & Szegedy's figure 1; the axis of (b) and (c) bears no numbers."""


class Curve(NamedTuple):
    """A curve of a figure: where it was read, and at which of its steps it bends."""

    steps: np.ndarray[Any, Any]
    values: np.ndarray[Any, Any]
    corners: np.ndarray[Any, Any]


def corners(x: Any, y: Any, tolerance: float) -> list[int]:
    """Return the points through which straight lines leave no point further than a tolerance.

    The ends are among them, and between two of them always the point that is furthest from their
    line (Ramer 1972, Douglas and Peucker 1973, distances along y).
    """
    first, last = 0, len(x) - 1
    if last - first < 2:
        return list(range(last + 1))
    line = np.interp(x, [x[first], x[last]], [y[first], y[last]])
    off = np.abs(np.asarray(y) - line)
    at = int(off.argmax())
    if off[at] <= tolerance:
        return [first, last]
    before, after = (
        corners(x[part], y[part], tolerance) for part in (slice(at + 1), slice(at, None))
    )
    return [*before, *(at + point for point in after[1:])]


def accuracy(arm: str, until: float = np.inf) -> Curve:
    """Return the curve of figure 1(a) up to a step, from its first corner inside the figure on."""
    rows = papers.read("ioffe_fig1a")
    rows = rows[rows["network"] == papers.ARMS[arm]]
    steps, values = (rows[name].to_numpy(dtype=float) for name in ("step", "test_accuracy"))
    at = corners(steps, values, ERROR)
    if values[0] < AXIS + 10 * ERROR:  # it comes from below the axis: its corner is not to be seen
        at = at[1:]
    kept = (steps >= steps[at[0]]) & (steps <= until)
    found = steps[at]
    return Curve(steps[kept], values[kept], found[found <= until])


def distance(steps: ArrayLike, values: ArrayLike, curve: Curve) -> float:
    """Return the root mean square by which a curve of ours, drawn as the figure's, is off.

    `steps` and `values` are ours, on the figure's axes; `curve` is the figure's. Ours is taken at
    its corners, and at the last step where it was read. The result is in units of the values; it is
    NaN where the figure's curve has no point.
    """
    if not len(curve.steps):
        return float("nan")
    through = np.union1d(curve.corners, curve.steps[-1])
    drawn = np.interp(
        curve.steps, through, np.interp(through, np.asarray(steps), np.asarray(values))
    )
    return float(np.sqrt(np.mean((drawn - curve.values) ** 2)))


def spread(arm: str) -> pd.Series:
    """Return the 85th less the 15th percentile of figures 1(b) and (c), index step."""
    rows = papers.read("ioffe_fig1bc")
    rows = rows[rows["network"] == papers.ARMS[arm]]
    steps = rows["percent_of_training"].to_numpy() * LENGTH / 100
    return pd.Series((rows["p85"] - rows["p15"]).to_numpy(), index=steps)


def lowest(x: ArrayLike, y: ArrayLike) -> float:
    """Return where a parabola through the lowest of some points and its neighbours is lowest.

    Of a point at an end the nearest two are taken, and what lies beyond these three is not: then
    the end itself is returned.
    """
    along, heights = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    at = int(np.clip(np.argmin(heights), 1, max(len(along) - 2, 1)))
    near = slice(at - 1, at + 2)
    least = float(along[int(np.argmin(heights))])
    if len(along[near]) < 3:
        return least
    bend, slope, _ = np.polyfit(along[near], heights[near], 2)
    if bend <= 1e-12 * np.abs(heights[near]).max():
        return least
    return float(np.clip(-slope / (2 * bend), along[at - 1], along[at + 1]))
