"""Reading the tables of `bnbook.setups.search`: the rates chosen, and the runs that are shown.

Such a table has the columns ``arm``, ``learning_rate``, ``seed``, ``role``, ``step`` and
measurements. The role of a run that chose rates is `TUNING`; no such run is shown.
"""

from __future__ import annotations

import math

import pandas as pd

TUNING, JUDGING = "tuning", "judging"
RUN = ["arm", "learning_rate", "seed", "role"]


def ends(table: pd.DataFrame, role: str) -> pd.DataFrame:
    """Return the last row of each run of a role."""
    rows = table[table["role"] == role].sort_values("step")
    return rows.groupby(RUN, as_index=False).last()


def chosen(table: pd.DataFrame) -> dict[str, float]:
    """Return each arm's rate: of those that most tuning seeds have run, the best on average.

    By the last validation accuracy; of equals the smallest, whatever the order of the sum. Judging
    runs are not asked.
    """
    found = {}
    for arm, runs in ends(table, TUNING).groupby("arm"):
        rated = runs.groupby("learning_rate")["validation_accuracy"].agg(["size", math.fsum])
        most = rated.loc[rated["size"] == rated["size"].max(), "fsum"]
        found[str(arm)] = float(most.index[int(most.argmax())])
    return found


def shown(table: pd.DataFrame, arm: str, rate: float) -> pd.DataFrame:
    """Return the last rows of an arm at a rate of the seeds that judge, by seed."""
    runs = ends(table, JUDGING)
    own = runs[(runs["arm"] == arm) & (runs["learning_rate"] == rate)]
    return own.set_index("seed").sort_index()


def own(table: pd.DataFrame, arm: str) -> pd.DataFrame:
    """Return the `shown` rows of an arm at its own rate; none while that is not chosen."""
    return shown(table, arm, chosen(table).get(arm, math.nan))


def trains(table: pd.DataFrame, arm: str, trained: float) -> dict[int, dict[float, bool]]:
    """Say of each judging seed of an arm at which rates its run ended at a training accuracy."""
    runs = ends(table, JUDGING)
    rows = runs.loc[runs["arm"] == arm, ["seed", "learning_rate", "training_accuracy"]]
    found: dict[int, dict[float, bool]] = {}
    for seed, rate, accuracy in rows.itertuples(index=False):
        found.setdefault(int(seed), {})[float(rate)] = bool(accuracy >= trained)
    return found


def largest(table: pd.DataFrame, arm: str, trained: float) -> pd.Series:
    """Return the largest rate of an arm that trained, by judging seed; NaN for none."""
    found = trains(table, arm, trained)
    best = {
        seed: max((rate for rate, does in runs.items() if does), default=math.nan)
        for seed, runs in found.items()
    }
    return pd.Series(best, dtype=float).sort_index().rename_axis("seed")
