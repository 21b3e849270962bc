"""Intervals that claims are judged by: Student's, exact ones of shares, Fieller's, two-way ones.

Each comes with the p value of the bound that it is held against; `holm` adjusts those of several
claims.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.special import bdtr, bdtrc, betaincinv, stdtr, stdtrit

from bnbook.errors import BnbookError

LEVEL = 0.95
"""Coverage of the intervals that claims are judged by."""


@dataclass(frozen=True)
class Estimate:
    """A value with its 95 % interval and the two-sided p value of the bound.

    ``low`` and ``high`` are None without an interval; ``unbounded`` when a ratio's has no ends.
    """

    value: float | None = None
    low: float | None = None
    high: float | None = None
    p: float | None = None
    unbounded: bool = False


def interval(
    samples: Sequence[float], scale: Literal["linear", "log"] = "linear"
) -> tuple[float, float, float]:
    """Mean and two-sided 95 % Student-t interval of independent samples.

    The log scale gives the geometric mean and an interval that is symmetric in the logarithm. The
    result is the value and the low and high ends.

    Raises
    ------
    BnbookError
        With fewer than two samples, a sample that is not finite, or one that is not positive on
        the log scale.
    """
    x = np.asarray(samples, dtype=float)
    if x.ndim != 1 or x.size < 2 or not np.isfinite(x).all():
        raise BnbookError(f"an interval needs two or more finite samples, found {x.tolist()}.")
    if scale == "log":
        if (x <= 0).any():
            raise BnbookError(f"a log interval needs positive samples, found {x.tolist()}.")
        value, low, high = interval(np.log(x).tolist())
        return math.exp(value), math.exp(low), math.exp(high)
    mean = float(x.mean())
    half = float(stdtrit(x.size - 1, (1 + LEVEL) / 2) * x.std(ddof=1) / math.sqrt(x.size))
    return mean, mean - half, mean + half


def student(samples: Sequence[float], bound: float, log: bool = False) -> Estimate:
    """`interval` with the p value of Student's test of the bound; of one sample no interval."""
    if len(samples) == 1:
        return Estimate(float(samples[0]))
    x = np.log(samples) if log else np.asarray(samples, dtype=float)
    error = float(x.std(ddof=1)) / math.sqrt(x.size)
    p = _two_sided(float(x.mean()) - (math.log(bound) if log else bound), error, x.size - 1)
    return Estimate(*interval(samples, "log" if log else "linear"), p)


def _two_sided(distance: float, error: float, freedom: float) -> float:
    """P value of Student's test; without spread that of the signs, which is all that is known.

    Samples of a measure with few values may all be the same and still be off by what it rounds.
    """
    if error == 0:
        return float(2 * 0.5 ** (freedom + 1)) if distance else 1.0
    return float(2 * stdtr(freedom, -abs(distance / error)))


def binomial(count: int, n: int, bound: float) -> Estimate:
    """Share with Clopper and Pearson's exact 95 % interval and the p value that agrees with it.

    Of `n` seeds, `count` have the property. `bound` is the share that is tested, in [0, 1]. The p
    value doubles the smaller tail, as the interval has it.

    Notes
    -----
    Clopper and Pearson 1934: the ends are quantiles of beta distributions.
    """
    tail = (1 - LEVEL) / 2
    low = float(betaincinv(count, n - count + 1, tail)) if count else 0.0
    high = float(betaincinv(count + 1, n - count, 1 - tail)) if count < n else 1.0
    below = float(bdtr(count, n, bound))
    above = float(bdtrc(count - 1, n, bound)) if count else 1.0
    return Estimate(count / n, low, high, min(1.0, 2 * min(below, above)))


def fieller(part: Sequence[float], whole: Sequence[float], bound: float = 0.0) -> Estimate:
    """Ratio of the means of two paired samples with Fieller's 95 % interval.

    It never asks for the sign of a denominator: where the mean of `whole` is not clear of zero at
    this level the interval has no ends, and `Estimate.unbounded` says so.

    The samples are paired, one number each per seed. `bound` is the ratio whose p value is given.
    There is no interval for one seed, or when the mean of `whole` is 0.

    Notes
    -----
    Fieller 1954: the ratios r for which the mean of part - r whole does not differ from 0 by
    Student's test.
    """
    x, y = np.asarray(part, dtype=float), np.asarray(whole, dtype=float)
    a, b, n = float(x.mean()), float(y.mean()), x.size
    value = a / b if b else None
    if n < 2:
        return Estimate(value)
    (xx, xy), (_, yy) = np.cov(x, y) / n
    square = float(stdtrit(n - 1, (1 + LEVEL) / 2)) ** 2
    first, middle, last = b * b - square * yy, a * b - square * xy, a * a - square * xx
    if first <= 0:
        return Estimate(value, unbounded=True)
    root = math.sqrt(max(0.0, middle * middle - first * last))
    error = float((x - bound * y).std(ddof=1)) / math.sqrt(n)
    p = _two_sided(a - bound * b, error, n - 1)
    return Estimate(value, (middle - root) / first, (middle + root) / first, p)


def crossed(values: np.ndarray, bound: float = 0.0) -> Estimate:
    """Mean of a table of seeds by test images, both taken as drawn, with its 95 % interval.

    `values` is (seeds, images), two or more of both, such as the difference of two networks' hits
    in points. `bound` is the mean whose p value is given.

    Notes
    -----
    Two-way analysis of variance without replication: the variance of the mean is estimated by
    (MS_seeds + MS_images - MS_rest) / (seeds images), never less than its larger part, with
    Satterthwaite's degrees of freedom. Of few seeds these are rough and can leave an interval
    narrower than that of the seeds' means alone; then that one is taken.
    """
    seeds, images = values.shape
    mean = float(values.mean())
    rows, columns = values.mean(1), values.mean(0)
    of_seeds = images * float(rows.var(ddof=1))
    of_images = seeds * float(columns.var(ddof=1))
    rest = values - rows[:, None] - columns[None, :] + mean
    freedom = (seeds - 1) * (images - 1)
    of_rest = float(np.square(rest).sum()) / freedom
    whole = max(of_seeds + of_images - of_rest, of_seeds, of_images)
    alone = student(rows.tolist(), bound)
    if whole == 0:
        return alone
    spread = of_seeds**2 / (seeds - 1) + of_images**2 / (images - 1) + of_rest**2 / freedom
    degrees = max(seeds - 1.0, whole**2 / spread)
    error = math.sqrt(whole / values.size)
    half = float(stdtrit(degrees, (1 + LEVEL) / 2)) * error
    both = Estimate(mean, mean - half, mean + half, _two_sided(mean - bound, error, degrees))
    return alone if interval(rows.tolist())[2] - mean > half else both


def holm(p: Mapping[str, float]) -> dict[str, float]:
    """Adjust p values of several claims so that the chance of any false verdict stays at its level.

    Holm 1979: the k-th smallest of m is multiplied by m - k + 1; none falls below one before it.
    """
    adjusted, worst = {}, 0.0
    for k, name in enumerate(sorted(p, key=lambda name: p[name])):
        worst = max(worst, min(1.0, (len(p) - k) * p[name]))
        adjusted[name] = worst
    return adjusted
