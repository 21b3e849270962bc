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


def last(name: str, x: str, **chosen: str) -> pd.Series:
    """Return the row with the largest `x` of a figure's curve, chosen by its other columns."""
    rows = read(name)
    for column, value in chosen.items():
        rows = rows[rows[column] == value]
    return rows.sort_values(x).iloc[-1]
