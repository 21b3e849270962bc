"""Which runs are wanted next, and which rates are shown: the same reading for plan and claims.

A *cell* is a network, an arm and a rate. Each cell runs at the shortest of the config's lengths
first; where it ends below the goal, at the next. It is settled at the first length that reaches the
goal, at which it diverges, or at the last. A run that ended because it was no better than guessing
may be slow and not dead: it gets the longer lengths too, of which the rule leaves more time.

Rates are chosen by validation accuracy of the tuning seeds, which are shown nowhere: every other
rate of the grid with the first of them, then the neighbours of the best, then the two best with the
second. r0 is the best rate without BN, r1 the best one with BN; where no run that chooses learns
without BN, r0 is the smallest rate of the grid, which is the paper's. The other seeds then run four
cells: both arms at r0 and at r1; and further ones, if any, the one without BN at r1 alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import pandas as pd

from bnbook.tables.arms import WITH, WITHOUT

NETWORK = ["n", "gain"]
CELL = [*NETWORK, "arm", "learning_rate"]
RUN = [*CELL, "seed", "length"]
COLUMNS = [*RUN, "tunes", "dead_at", "dead_by", "training_accuracy", "validation_accuracy"]
ALONG = 3
"""Seeds of every network."""
JUDGED = 5
"""Seeds of a network that meets the premises of the claims."""
SLOW = "guessing"
"""The rule of `bnbook.setups.dead` that a slow run meets as well as a dead one."""


class Wanted(NamedTuple):
    """A single run: network, arm, rate, seed and length."""

    n: int
    gain: float
    arm: str
    learning_rate: float
    seed: int
    length: int


Cells = list[tuple[str, float, int]]
"""Arms, rates and seeds of one network."""


class Rates(NamedTuple):
    """The best rates without BN and with it; NaN where no run learns with BN, or none has run."""

    small: float
    large: float


def ends(table: pd.DataFrame) -> pd.DataFrame:
    """Return the last row of each run."""
    if table.empty:
        return pd.DataFrame(columns=COLUMNS)
    return table.sort_values("step").groupby(RUN, as_index=False).last()


def settled(ended: pd.DataFrame) -> pd.DataFrame:
    """Return each cell and seed at the length that it needed: the longest that it was run at."""
    return ended.sort_values("length").groupby([*CELL, "seed"], as_index=False).last()


def best(tuned: pd.DataFrame, arm: str, count: int = 1) -> list[float]:
    """Return the rates of an arm with the best mean validation accuracy, of runs that live.

    Rates that more tuning seeds have run come before those that only the first one has.
    """
    runs = tuned[(tuned["arm"] == arm) & (tuned["dead_at"] < 0)]
    rated = runs.groupby("learning_rate")["validation_accuracy"].agg(["size", "mean"])
    return [float(r) for r in rated.sort_values(["size", "mean"]).index[::-1][:count]]


def chosen(ended: pd.DataFrame) -> Rates:
    """Return r0 and r1 of one network, from its tuning runs."""
    tuned = settled(ended[ended["tunes"].astype(bool)])
    small, large = (best(tuned, arm) for arm in (WITHOUT, WITH))
    least = tuned.loc[tuned["arm"] == WITHOUT, "learning_rate"].min()  # NaN before the first
    return Rates(small[0] if small else float(least), large[0] if large else math.nan)


def wanted(
    ended: pd.DataFrame,
    networks: Sequence[tuple[int, float]],
    rates: Sequence[float],
    lengths: Sequence[int],
    tuning_seeds: Sequence[int],
    seeds: Sequence[int],
    goal: float,
    failing: Sequence[int] = (),
) -> list[Wanted]:
    """Say which runs come next, given the last rows of those that ended; none when all is run.

    `ended` is from `ends`. `networks` has pairs of residual blocks a stage and gain. `rates` is the
    grid in rising order, and `lengths` has steps, the fewest first. The two `tuning_seeds` choose
    rates; `seeds` are shown, and those of `failing` run without BN at r1 alone. From the training
    accuracy `goal` on, in [0, 1], a run has gone to the end. The result has, of every network that
    is not finished, the runs of its next round.
    """
    found = []
    for n, gain in networks:
        own = ended[(ended["n"] == n) & (ended["gain"] == gain)]
        asked = _Network(own, n, gain, lengths, goal)
        for cells in _rounds(asked, rates, tuning_seeds, seeds, failing):
            if runs := [run for cell in cells if (run := asked.next(*cell))]:
                found += runs
                break
    return found


class _Network:
    """What has been run of one network, and what a cell needs next."""

    def __init__(
        self, ended: pd.DataFrame, n: int, gain: float, lengths: Sequence[int], goal: float
    ) -> None:
        self.ended, self.n, self.gain = ended, n, gain
        self.lengths, self.goal = lengths, goal

    def next(self, arm: str, rate: float, seed: int) -> Wanted | None:
        """Return the run that a cell needs next with a seed; None when it is settled."""
        own = self.ended[(self.ended["arm"] == arm) & (self.ended["learning_rate"] == rate)]
        mine = own[own["seed"] == seed].sort_values("length")
        if mine.empty:
            length = self._first(own)
        else:
            last = mine.iloc[-1]
            diverged = last["dead_at"] >= 0 and last["dead_by"] != SLOW
            over = diverged or last["training_accuracy"] >= self.goal
            longer = [length for length in self.lengths if length > last["length"]]
            if over or not longer:
                return None
            length = longer[0]
        return Wanted(self.n, self.gain, arm, rate, seed, length)

    def _first(self, own: pd.DataFrame) -> int:
        """Return the length to begin with: the one at which the other seeds of a cell settled."""
        needed = settled(own[own["tunes"].astype(bool)])["length"]
        return self.lengths[0] if needed.empty else int(needed.max())

    def begun(self) -> Cells:
        """Return the cells and seeds that have been run, settled or not."""
        own = self.ended[["arm", "learning_rate", "seed"]].drop_duplicates()
        return [(str(a), float(r), int(s)) for a, r, s in own.itertuples(index=False)]

    def best(self, arm: str, count: int = 1) -> list[float]:
        """Return the best rates of an arm so far."""
        return best(settled(self.ended[self.ended["tunes"].astype(bool)]), arm, count)


def _rounds(
    network: _Network,
    rates: Sequence[float],
    tuning_seeds: Sequence[int],
    seeds: Sequence[int],
    failing: Sequence[int],
) -> Iterator[Cells]:
    """Yield the rounds of one network, each when those before are settled."""
    first, second = tuning_seeds
    arms = (WITHOUT, WITH)
    yield network.begun()
    yield [(arm, rate, first) for arm in arms for rate in rates[::2]]
    yield [
        (arm, rates[at], first)
        for arm in arms
        for rate in network.best(arm)
        for at in (rates.index(rate) - 1, rates.index(rate) + 1)
        if 0 <= at < len(rates)
    ]
    yield [(arm, rate, seed) for seed in (first, second) for arm in arms
           for rate in network.best(arm, 2)]  # fmt: skip
    small, large = chosen(network.ended)
    if math.isnan(large):
        return
    yield [(WITH, small, first)]
    yield [(arm, rate, seed) for seed in seeds for rate in dict.fromkeys((small, large))
           for arm in arms]  # fmt: skip
    yield [(WITHOUT, large, seed) for seed in failing]
