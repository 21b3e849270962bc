"""The largest rate that trains, found by climbing the grid from a rate that was chosen.

After a search has chosen each arm's rate (`bnbook.setups.search`), every seed that judges goes one
step of the grid up from it, and on, until a run does not train; where the chosen rate itself does
not train, one step down, and on, until one does. What a seed climbs depends on its own runs alone,
and changes no rate that was chosen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

import pandas as pd

from bnbook.setups import search
from bnbook.setups.settings import JUDGING, SearchSetting
from bnbook.tables import searched

C = TypeVar("C", bound=SearchSetting)


def rounds(config: C, table: pd.DataFrame, trained: float) -> list[C]:
    """Return the runs that come next: those of the search, and then those of the climbs.

    The config is the whole search; each arm is judged at its own rate. The table has the rows of
    the runs that ended. `trained` is the training accuracy from which a run trains, in [0, 1].
    """
    if asked := search.rounds(config, table):
        return asked
    return [
        search.one_run(config, arm, seed, rate, JUDGING)
        for arm in config.arms
        for seed, runs in searched.trains(table, arm, trained).items()
        if (rate := step(config.learning_rates, runs)) is not None
    ]


def shown(config: C) -> list[C]:
    """Return every single run that may be shown, in the order of the table; none that chooses."""
    return [
        search.one_run(config, arm, seed, rate, JUDGING)
        for arm in config.arms
        for seed in config.seeds
        for rate in config.learning_rates
    ]


def step(grid: Sequence[float], trains: Mapping[float, bool]) -> float | None:
    """Return the next rate of a climb, given which rates of the grid train; None at its end."""
    good = [rate for rate, does in trains.items() if does]
    at = grid.index(max(good)) + 1 if good else grid.index(min(trains)) - 1
    over = not 0 <= at < len(grid) or grid[at] in trains
    return None if over else grid[at]
