"""Reading tables of runs whose rates were climbed to; see `bnbook.setups.convnets`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from bnbook.tables import tuning


def judged(table: pd.DataFrame) -> pd.DataFrame:
    """Rows of the seeds that choose nothing."""
    shown: pd.DataFrame = table.loc[~table["tunes"]]
    return shown


def inside(table: pd.DataFrame, cells: Mapping[str, Mapping[str, Any]]) -> tuple[bool, str, str]:
    """Premise: no cell's chosen rate is the lowest or highest that was tried for it.

    The climb stops there only where the grid ends.
    """
    out = []
    for name, values in cells.items():
        rows = table[(table[list(values)] == list(values.values())).all(axis=1)]
        tried = rows.loc[rows["tunes"], "learning_rate"]
        chosen = judged(rows)["learning_rate"]
        if chosen.isin([tried.min(), tried.max()]).any():
            out.append(f"{name} at {chosen.iloc[0]:g}")
    return tuning.at_no_end(out)
