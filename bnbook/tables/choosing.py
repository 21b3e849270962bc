"""Two rounds of runs: seeds that choose each arm's learning rate, then seeds that are shown.

The tables have the columns ``arm``, ``seed``, ``learning_rate``, ``step``, ``tunes`` (whether the
seed chooses) and ``validation``, a loss on held-out training data, by whose last value a rate is
chosen. A config has the fields ``arms``, ``seeds``, ``tuning_seeds`` and ``learning_rates``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pandas as pd

from bnbook.errors import BnbookError
from bnbook.tables import tuning

TUNES = "whether the seed chooses rates; those that do are shown nowhere"


def check(config: Any) -> None:
    """Refuse seeds that would choose and be shown.

    Raises
    ------
    BnbookError
        With those that do. A single run has one seed, which may be one of those that choose.
    """
    both = sorted(set(config.seeds) & set(config.tuning_seeds))
    if len(config.seeds) > 1 and both:
        raise BnbookError(f"seeds must not choose rates and be shown, {both} would do both.")


def last(table: pd.DataFrame) -> pd.DataFrame:
    """Rows of each run's last step."""
    found: pd.DataFrame = table.loc[
        table.groupby(["arm", "seed", "learning_rate"])["step"].idxmax()
    ]
    return found


def scores(table: pd.DataFrame) -> pd.DataFrame:
    """Validation losses at the end, means over the seeds that choose: index rate, columns arms."""
    ends = last(table[table["tunes"]])
    ends = ends.assign(validation=ends["validation"].fillna(np.inf))
    return ends.pivot_table(
        index="learning_rate", columns="arm", values="validation", dropna=False
    )  # fmt: skip


def chosen(table: pd.DataFrame) -> dict[str, float]:
    """Return each arm's learning rate: the lowest validation loss; of equals the smallest rate."""
    found = scores(table)
    return {str(arm): float(found.index[int(found[arm].argmin())]) for arm in found}


def shown(table: pd.DataFrame) -> pd.DataFrame:
    """Rows of the seeds that choose nothing, of each arm at its own rate."""
    rates = chosen(table)
    rows: pd.DataFrame = table.loc[
        ~table["tunes"] & (table["learning_rate"] == table["arm"].map(rates))
    ]
    return rows


def ends(table: pd.DataFrame, column: str) -> pd.DataFrame:
    """Last values of a column of the runs shown: index seed, columns the arms."""
    return last(shown(table)).pivot_table(index="seed", columns="arm", values=column)


def better(table: pd.DataFrame, arms: Sequence[str]) -> str:
    """Return which of the arms the choosing seeds have lowest, each at its own rate."""
    least = scores(table)[list(arms)].min()
    return str(least.index[int(least.argmin())])


def inside(table: pd.DataFrame, arms: Sequence[str]) -> tuple[bool, str, str]:
    """Premise: no chosen rate is an end of the grid, where a better one may lie beyond it."""
    rates = chosen(table)
    return tuning.inside(table, {arm: rates[arm] for arm in arms})


def rounds(config: Any, table: pd.DataFrame) -> list[Any]:
    """Return the single runs that come next, given the rows of those that ended."""
    columns = ["arm", "seed", "learning_rate"]
    over = set() if table.empty else set(table[columns].itertuples(index=False, name=None))
    first = product(config.arms, config.tuning_seeds, config.learning_rates)
    wanted = [run for run in first if run not in over]
    if not wanted:
        rates = chosen(table)
        then = [(arm, seed, rates[arm]) for arm, seed in product(config.arms, config.seeds)]
        wanted = [run for run in then if run not in over]
    return [
        replace(config, arms=(arm,), seeds=(seed,), learning_rates=(rate,))
        for arm, seed, rate in wanted
    ]


def steps_to(table: pd.DataFrame, column: str, arms: Sequence[str]) -> pd.DataFrame:
    """First measured step at which the runs shown are as low as the worst of the arms ends.

    That level is each seed's own, so that all arms reach it: index seed, columns the arms; NaN for
    a run without a number.
    """
    rows = shown(table)
    level = ends(table, column)[list(arms)].max(axis=1, skipna=False)
    reached = rows[rows["arm"].isin(arms) & (rows[column] <= rows["seed"].map(level))]
    first = reached.pivot_table(index="seed", columns="arm", values="step", aggfunc="min")
    return first.reindex(index=sorted(set(rows["seed"])), columns=list(arms)).astype(float)
