"""The papers' own curves, read off their figures: numbers to stand beside ours.

The files and their reading errors are described in ``book/data/papers/README.md``.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from bnbook.errors import BnbookError
from bnbook.evidence import claims, records
from bnbook.tables.arms import WITH, WITHOUT

FOLDER = "book/data/papers"
ARMS = {WITHOUT: "no BN", WITH: "BN"}
"""Arm -> how the files call it."""


def read(name: str) -> pd.DataFrame:
    """Read one figure's numbers; the files' columns are named as in their README."""
    beside_code = Path(__file__).parents[2]
    places = [folder / FOLDER / f"{name}.csv" for folder in (beside_code, records.root())]
    for path in places:
        if path.is_file():
            return pd.read_csv(path)
    raise BnbookError(
        f"expected the paper's curve in {places[-1]}, found no such file; nothing was drawn."
        " Run from the project's folder, or restore it with `git checkout`."
    )


def beside(
    what: str, paper: float, error: float, ours: Iterable[float], digits: int, unit: str = ""
) -> dict[str, Any]:
    """Describe a number that the paper shows too: `claims.fact` of ours, with the paper's."""
    about = {"what": what, "paper": float(paper), "error": float(error)}
    return {**claims.fact(ours, digits, unit), **about}


def rows(found: Iterable[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Name what `beside` gives, in order: ``paper_00``, ``paper_01``, as facts of an experiment."""
    return {f"paper_{number:02d}": fact for number, fact in enumerate(found)}


FIGURE_1 = {
    "without BN, at the rate that suits it": "no BN, rate 0.0001",
    "with BN, at the same rate": "BN, rate 0.0001",
    "with BN, at the rate that suits it": "BN, rate 0.1",
}
"""Networks of Bjorck et al.'s figure 1 that ours stand beside, and how the file calls them."""


def beside_figure_1(*ours: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """Describe final accuracies, and what follows from them, beside those of the paper's figure 1.

    `ours` are the last rows of `FIGURE_1`'s networks, in its order: index seed, columns
    ``training_accuracy`` and ``test_accuracy``, shares.
    """
    found, ends = [], []
    for (what, network), runs in zip(FIGURE_1.items(), ours, strict=True):
        for panel, column in (("train", "training_accuracy"), ("test", "test_accuracy")):
            percent, paper = 100 * runs[column].astype(float), final_accuracy(network, panel)
            said = f"{what}: {column.replace('_', ' ')}"
            found.append(beside(said, paper, 0.3, percent.dropna(), 1, " %"))
        ends.append((paper, percent))  # of the test images
    without, same, own = ends
    for said, more, fewer in (
        ("BN's lead at the rate that suits the network without", same, without),
        ("what its own rate adds to BN's test accuracy", own, same),
    ):
        difference = (more[1] - fewer[1]).dropna()
        found.append(beside(said, more[0] - fewer[0], 0.6, difference, 1, " points"))
    return rows(found)


def last(name: str, x: str, **chosen: str) -> pd.Series:
    """Return the row with the largest `x` of a figure's curve, chosen by its other columns."""
    rows = read(name)
    for column, value in chosen.items():
        rows = rows[rows[column] == value]
    return rows.sort_values(x).iloc[-1]


def final_accuracy(network: str, panel: str = "test") -> float:
    """Accuracy that a network of Bjorck et al.'s figure 1 ends at, in per cent.

    It is the last point of its curve, for every page. `panel` is test or train.
    """
    end = last("bjorck_fig1", "percent_of_training", panel=panel, network=network)
    return float(end["accuracy_percent"])
