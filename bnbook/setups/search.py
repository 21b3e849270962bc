"""A search for each arm's rate that spends where it matters: coarse to fine, fixed beforehand.

1. Coarse: every other rate of the grid, with the first of the tuning seeds.
2. Fine: an arm's best coarse rate and its two neighbours on the grid, with two tuning seeds; the
   better half of them with four; and so on, twice as many seeds for half as many rates, until one
   rate is left or the tuning seeds are used up (successive halving over seeds).
3. Judging: the rates chosen, with the judging seeds.

A rate is judged by the mean validation accuracy at the end, of equals the smallest is taken. The
seeds that choose are never the seeds that are shown: a judging run decides nothing. What is run
next is a pure function of the config and of the tables of the runs before.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

import pandas as pd

from bnbook.setups.settings import JUDGING, TUNING, SearchSetting

C = TypeVar("C", bound=SearchSetting)
SCORE = "validation_accuracy"
RUN = ("arm", "seed", "learning_rate", "role")


def one_run(config: C, arm: str, seed: int, rate: float, role: str) -> C:
    """Return a single run of a search; it holds nothing of the rest of the plan."""
    return replace(
        config, arms=(arm,), seeds=(seed,), learning_rates=(rate,), role=role, tuning_seeds=()
    )


def rounds(config: C, table: pd.DataFrame) -> list[C]:
    """Return the runs to make next, for all arms; none when the search is over.

    The config is the whole search. The table has the rows of the runs that ended.
    """
    finished = _scores(config, table)
    scores = {run: score for run, score in finished.items() if run.role == TUNING}
    wanted, chosen = list[C](), dict[str, float]()
    for arm in config.arms:
        runs, rate = _tune(config, arm, scores)
        wanted += runs
        if rate is not None:
            chosen[arm] = rate
    if len(chosen) == len(config.arms):
        wanted += _judging(config, chosen)
    return [run for run in wanted if run not in finished]


def _scores(config: C, table: pd.DataFrame) -> dict[C, float]:
    """Return the score of each run that ended."""
    if table.empty:
        return {}
    last = table.sort_values("step").groupby([*RUN], as_index=False).last()
    rows = last[[*RUN, SCORE]].itertuples(index=False)
    return {
        one_run(config, str(arm), int(seed), float(rate), str(role)): float(score)
        for arm, seed, rate, role, score in rows
    }


def _tune(config: C, arm: str, scores: Mapping[C, float]) -> tuple[list[C], float | None]:
    """Return the runs that an arm's tuning waits for, or none and the rate chosen."""
    rates, seeds = config.learning_rates[::2], 1
    while True:
        runs = _tuning(config, arm, rates, seeds)
        if any(run not in scores for run in runs):
            return runs, None
        mean = {
            rate: math.fsum(scores[run] for run in _tuning(config, arm, (rate,), seeds)) / seeds
            for rate in rates
        }
        best = sorted(rates, key=lambda rate: (-mean[rate], rate))
        if seeds == 1:
            rates = _neighbours(config.learning_rates, best[0])
        elif len(rates) == 1 or 2 * seeds > len(config.tuning_seeds):
            return [], best[0]
        else:
            rates = tuple(sorted(best[: math.ceil(len(best) / 2)]))
        seeds *= 2


def _neighbours(grid: Sequence[float], rate: float) -> tuple[float, ...]:
    at = grid.index(rate)
    return tuple(grid[max(0, at - 1) : at + 2])


def _tuning(config: C, arm: str, rates: Sequence[float], seeds: int) -> list[C]:
    return [
        one_run(config, arm, seed, rate, TUNING)
        for seed in config.tuning_seeds[:seeds]
        for rate in rates
    ]


def _judging(config: C, chosen: Mapping[str, float]) -> list[C]:
    """Each arm at its own rate, and, if the search is crossed, at the other arms' rates too."""
    return [
        one_run(config, arm, seed, rate, JUDGING)
        for arm in config.arms
        for seed in config.seeds
        for rate in (sorted(set(chosen.values())) if config.crossed else (chosen[arm],))
    ]
