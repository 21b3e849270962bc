"""The scale of the weights: effective rate and equilibrium, by formula and as recorded."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from bnbook.evidence.records import Record
from bnbook.tables.arms import DECAYED, WITH

RECORDS = ("ioffe_effective_rate",)
TITLE = "Explore: scale, rate and decay"
COLUMNS = (
    "Weights ×", "Rate", "Decay", "Squared norm at the end", "Angle of a step at the end",
    "√(2 × rate × decay)",
)  # fmt: skip
CAPTION = "BN networks as recorded, geometric means over seeds."
FACTORS = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
"""Factors a of the weights; the record has the first run at 1 and 3."""
EPS = 1e-5


def data(found: Mapping[str, Record]) -> dict[str, Any]:
    """Return the start, the grids and every recorded course of a BN network."""
    table = found["ioffe_effective_rate"].table
    table = table[table["arm"].isin((WITH, DECAYED))]
    start = table[(table["step"] == 0) & (table["scale"] == 1)]
    size = (start["squared_gradient"] * start["squared_norm"]).mean()
    keys = ["scale", "learning_rate", "weight_decay"]
    return {
        "eps": EPS,
        "squared_norm": float(start["squared_norm"].mean()),
        "size": float(size),
        "steps": int(table["step"].max()),
        "factors": list(FACTORS),
        "rates": sorted(float(rate) for rate in table["learning_rate"].unique()),
        "decays": sorted(float(decay) for decay in table["weight_decay"].unique()),
        "runs": [_course(key, own) for key, own in table.groupby(keys)],
    }


def _course(key: Any, own: pd.DataFrame) -> dict[str, Any]:
    """Return a cell's course: geometric means over seeds of squared norm and angle, by step."""
    columns = ["squared_norm", "angle"]
    own = own[own["step"] > 0]
    logs = pd.DataFrame(np.log(own[columns])).groupby(own["step"]).mean()
    means = pd.DataFrame(np.exp(logs))
    a, rate, decay = (float(value) for value in key)
    return {
        "a": a, "rate": rate, "decay": decay, "steps": [int(step) for step in means.index],
        **{column: [float(f"{value:.6g}") for value in means[column]] for column in columns},
    }  # fmt: skip


def rows(found: Mapping[str, Any]) -> list[list[str]]:
    """Return the static table: where each recorded run ends, beside the equilibrium."""
    return [
        [f"{run['a']:g}", f"{run['rate']:g}", f"{run['decay']:g}", f"{run['squared_norm'][-1]:.3g}",
         f"{run['angle'][-1]:.2g}", f"{math.sqrt(2 * run['rate'] * run['decay']):.2g}"]
        for run in found["runs"]
    ]  # fmt: skip
