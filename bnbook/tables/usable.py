"""The largest usable learning rate: how it is read off a table of arms × rates × seeds.

A run is *usable* when no minibatch loss was above 10^3 or not finite, and its last
validation accuracy is at least `TIMES_GUESSING` times that of guessing. The largest rate of the
grid at which the run of a seed is usable is that seed's largest usable rate; usable runs need not
be adjacent. A seed without a usable run has none.
"""

from __future__ import annotations

from typing import Any

import pandas as pd

from bnbook.evidence import claims
from bnbook.tables import tuning
from bnbook.tables.start import significant

PAPER = "Bjorck et al. 2018"
TIMES_GUESSING = 2.0
CLASSES = 10


def usable(table: pd.DataFrame, times: float = TIMES_GUESSING) -> pd.DataFrame:
    """Rows of the last step, with the column ``usable``; `times` is in units of guessing."""
    last = tuning.final(table)
    learned = last["validation_accuracy"] >= times / CLASSES
    return last.assign(usable=learned & (last["diverged_at"] < 0))


def largest(table: pd.DataFrame, by: str = "arm", times: float = TIMES_GUESSING) -> pd.DataFrame:
    """Largest usable rate of every seed (index) and network (columns); missing without any."""
    runs = usable(table, times)
    rates = runs["learning_rate"].where(runs["usable"])
    found: pd.DataFrame = rates.groupby([runs["seed"], runs[by]]).max().unstack(by)
    return found


def on_edge(table: pd.DataFrame, found: pd.Series) -> int:
    """Count the seeds whose largest usable rate is the grid's largest, a lower bound only."""
    return int((found >= table["learning_rate"].max()).sum())


def setting(table: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """Return what the prose says of every such experiment: seeds, updates and the grid."""
    grid = table["learning_rate"].unique()
    return {
        "seeds": claims.fact([table["seed"].nunique()], 0),
        "steps": claims.fact([table["step"].max()], 0),
        "rates": claims.fact([len(grid)], 0),
        "smallest_rate": significant([grid.min()]),
        "largest_rate": significant([grid.max()]),
    }
