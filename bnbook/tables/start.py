"""What the analyses of the start of training share (Bjorck et al. 2018, section 3)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from bnbook.errors import BnbookError
from bnbook.evidence import claims, intervals
from bnbook.evidence.claims import Premise
from bnbook.tables.arms import WITH, WITHOUT

PAPER = "Bjorck et al. 2018"
NAMES = {WITHOUT: "without", WITH: "with"}
"""The arms' names in facts."""


LAYERS = 110
"""Layers of the paper's network."""


def _deep(table: pd.DataFrame) -> claims.Finding:
    layers = table["depth"] if "depth" in table else 6 * table["n"] + 2
    return claims.at_least(float(layers.min()), LAYERS, " layers")


DEEP = Premise("the network has the paper's 110 layers", _deep)


def by_arm(rows: pd.DataFrame, column: str) -> pd.DataFrame:
    """Geometric mean of a column over the minibatches of a seed: index seed, columns the arms.

    A value that is missing makes the seed's mean missing.
    """
    logs = rows.assign(log=np.log(rows[column]))
    groups = logs.groupby(["seed", "arm"])["log"]
    means = groups.agg(lambda values: values.mean(skipna=False)).unstack("arm")
    return pd.DataFrame(np.exp(means))


def geometric(samples: Iterable[float], digits: int | None, unit: str = "") -> dict[str, Any]:
    """Describe a ratio as `claims.fact` does, by the geometric mean and interval of its samples.

    Without samples, or with one that is no positive number, there is no value.
    """
    x = np.array([float(sample) for sample in samples])
    if not x.size or not (np.isfinite(x) & (x > 0)).all():
        return claims.fact([], digits, unit)
    if x.size == 1:
        return claims.fact(x, digits, unit)
    value, low, high = intervals.interval(x.tolist(), "log")
    return {"value": value, "low": low, "high": high, "digits": digits, "unit": unit}


def significant(samples: Iterable[float]) -> dict[str, Any]:
    """`geometric` with two significant digits.

    Value and interval are written with powers of ten unless all lie from 0.01 to 10,000 and none
    is rounded away.
    """
    found = geometric(samples, None)
    shown = [found[key] for key in ("value", "low", "high") if found[key] is not None]
    if shown and min(shown) >= 0.01 and max(shown) < 1e4:
        digits = max(0, 1 - math.floor(math.log10(found["value"])))
        found["digits"] = digits if round(min(shown), digits) > 0 else None
    return found


def check_layers(layers: Sequence[int], n: int) -> None:
    """Refuse layers that are no convolution of a network of 6n + 2 layers."""
    if not 1 <= min(layers) <= max(layers) <= 6 * n + 1:
        raise BnbookError(
            f"layers must lie in [1, {6 * n + 1}] for n = {n}, found {tuple(layers)}."
        )
