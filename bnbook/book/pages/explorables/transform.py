"""The transform: statistics of minibatches and of all values, and what inference sees."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from sklearn.datasets import load_digits

from bnbook.evidence.records import Record
from bnbook.experiments.ioffe_inference.claims import per_seed
from bnbook.tables.arms import ALGORITHM_2, RUNNING

RECORDS = ("ioffe_inference",)
TITLE = "Explore: the statistics of a feature"
COLUMNS = (
    "Batch size", "Momentum", "Error of the running mean", "Error of the running variance",
    "Test accuracy, running average (%)", "Test accuracy, Algorithm 2 (%)",
)  # fmt: skip
CAPTION = (
    "First layer's statistics and test accuracy of the recorded ConvNets, means over seeds; errors"
    " in deviations, and as a share of the variance."
)
IMAGES = 1024
"""Images whose values are shown: a power of two, which every odd step visits whole."""
EPS = 1e-5


def features() -> dict[str, np.ndarray]:
    """Return three features of 1,024 images of digits, in an order drawn once."""
    rng = np.random.default_rng(0)
    images = load_digits().data / 16.0
    images = images[rng.permutation(len(images))[:IMAGES]]
    unit = images @ (rng.standard_normal(images.shape[1]) / 4)
    return {
        "a unit's Wu": unit.round(3),
        "the same after ReLU": np.maximum(unit, 0).round(3),
        "one pixel": images[:, 20].round(4),
    }


def data(found: Mapping[str, Record]) -> dict[str, Any]:
    """Return the values of the features, and what the record says of batch size and momentum."""
    table = found["ioffe_inference"].table
    running = table[table["statistics"] == RUNNING]
    sizes = sorted(int(size) for size in running["batch_size"].unique())
    momenta = sorted(float(rho) for rho in running["momentum"].unique())
    return {
        "eps": EPS,
        "features": {name: values.tolist() for name, values in features().items()},
        "sizes": sizes,
        "momenta": momenta,
        "recorded": [[_recorded(table, m, rho) for rho in momenta] for m in sizes],
    }


def _recorded(table: pd.DataFrame, m: int, rho: float) -> dict[str, float]:
    """Return means over seeds: errors of the running statistics, accuracies in per cent."""
    running = {
        column: float(per_seed(table, column, RUNNING, m, rho).mean())
        for column in ("mean_error", "variance_error", "test_accuracy")
    }
    population = float(per_seed(table, "test_accuracy", ALGORITHM_2, m).mean())
    return {
        "mean_error": round(running["mean_error"], 6),
        "variance_error": round(running["variance_error"], 6),
        "running": round(100 * running["test_accuracy"], 6),
        "population": round(100 * population, 6),
    }


def rows(found: Mapping[str, Any]) -> list[list[str]]:
    """Return the static table: each batch size at each momentum."""
    return [
        [f"{m}", f"{rho:g}", f"{cell['mean_error']:.3f}", f"{cell['variance_error']:.3f}",
         f"{cell['running']:.2f}", f"{cell['population']:.2f}"]
        for m, line in zip(found["sizes"], found["recorded"], strict=True)
        for rho, cell in zip(found["momenta"], line, strict=True)
    ]  # fmt: skip
