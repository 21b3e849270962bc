"""Where the edge is: what a run comes to, which rate is tried next, and what the rates tried say.

A run of so many steps at a constant rate

* *diverged*, when the loss of a minibatch was no number or more than a thousand times that of the
  first, which at 110 layers without BN can itself be above the paper's 10^3;
* *learned*, when after its last step its loss on some training images is lower, by `MARGIN`, than
  any constant guess has there;
* is *on its way*, when it has not, but the loss fell by `FALL` from the middle of the run to its
  end, in both quarters, and the outputs still differ between images by `SPREAD`;
* is *stuck* otherwise.

A run that learned or is on its way *trains*; the others *break*. The *edge* of a network and seed
is the largest rate tried that trains and has none that breaks among those tried from a `REACH`-th
of it on: a lone survivor beyond rates that break does not count. It is found on a grid, from above,
and then refined by halving the interval between it and the next higher rate that was tried, on a
logarithmic scale.

The rule of `bnbook.setups.dead` that ends a run which is no better than guessing in a tenth of its
steps is not used: in runs this short it ends networks that are slow to begin, as deep ones without
BN are at any rate. What is stuck no longer depends on its inputs, or gets better by less than
`FALL`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import pandas as pd

from bnbook.tables.arms import WITHOUT

DIVERGED, STUCK, ON_ITS_WAY, LEARNED = "diverged", "stuck", "on its way", "learned"
START = "start"
"""The outcome of a run at the rate 0, which only measures the start."""
TRAINS, BREAKS = (LEARNED, ON_ITS_WAY), (DIVERGED, STUCK)
MARGIN, FALL = 0.01, 0.002
"""In nats."""
SPREAD = 1e-3
"""Of an output over images, standard deviation in nats."""
REACH = 10.0
"""How far under the edge no rate that was tried may break, as a factor."""

Outcomes = Mapping[float, str]
"""Rate -> what its run came to."""


class Edge(NamedTuple):
    """The largest rate that trains, and the smallest one above it that does not.

    `above` is NaN where the edge is the largest rate tried; both are where no rate is an edge.
    """

    rate: float
    above: float


NONE = Edge(math.nan, math.nan)


def outcome(diverged: bool, excess: Sequence[float], spread: float) -> str:
    """Say what a run came to.

    `diverged` tells whether a minibatch loss was beyond the threshold or not finite. `excess` has
    three numbers in nats: the loss on the images shown after half of the steps, three quarters and
    all, less the smallest loss of a constant guess. `spread` is the standard deviation of an output
    over these images at the end, in nats.
    """
    half, later, end = excess
    if diverged or not math.isfinite(end):
        return DIVERGED
    if end < -MARGIN:
        return LEARNED
    falls = half > later > end and half - end >= FALL
    return ON_ITS_WAY if falls and spread >= SPREAD else STUCK


def middle(low: float, high: float) -> float:
    """Return the rate half way between two on a logarithmic scale, to three digits."""
    return float(f"{math.sqrt(low * high):.3g}")


def edge(outcomes: Outcomes) -> Edge:
    """Read the edge off the rates tried."""
    tried = sorted(rate for rate in outcomes if rate > 0)
    for rate in reversed(tried):
        below = [outcomes[r] for r in tried if 0.99 * rate / REACH < r < rate]
        if outcomes[rate] in TRAINS and not set(below) & set(BREAKS):
            return Edge(rate, min((r for r in tried if r > rate), default=math.nan))
    return NONE


def next_rate(outcomes: Outcomes, grid: Sequence[float], start: int, within: float) -> float | None:
    """Return the rate to try next; None when the edge is found, or there is none.

    The grid rises. The search begins at its place `start`. `within` is the largest ratio of the
    rate above the edge to the edge.
    """
    for rate in _looked_at(outcomes, grid, start):
        if rate not in outcomes:
            return rate
    found = edge(outcomes)
    return middle(*found) if found.above > within * found.rate else None


def _looked_at(outcomes: Outcomes, grid: Sequence[float], start: int) -> list[float]:
    """Return the rates of the grid that the search looks at, in order, as far as is known.

    Up from the start while rates train; then down from it, until a rate trains and those within
    its reach do not break.
    """
    up = start
    while up + 1 < len(grid) and outcomes.get(grid[up]) in TRAINS:
        up += 1
    looked = list(grid[start : up + 1])
    for place in range(start, -1, -1):
        looked.append(grid[place])
        if outcomes.get(grid[place]) in TRAINS:
            lower = [r for r in grid[:place] if r > 0.99 * grid[place] / REACH]
            looked += reversed(lower)
            if not {outcomes.get(rate) for rate in lower} & set(BREAKS):
                break
    return looked


class Wanted(NamedTuple):
    """A single run: network, arm, seed and rate; at the rate 0 only the start is measured."""

    n: int
    gain: float
    arm: str
    seed: int
    learning_rate: float


NETWORK = ["n", "gain", "arm"]
STARTS = ("growth", "size", "sharpness", "residual", "classifier_rate", "network_rate")


def arms_of(gain: float, arms: Sequence[str]) -> list[str]:
    """Return the arms that run with this gain: those with BN with Xavier's weights alone."""
    return [arm for arm in arms if arm == WITHOUT or gain == 1]


def outcomes(table: pd.DataFrame) -> dict[tuple[int, float, str, int], dict[float, str]]:
    """Return what the runs of each network, arm and seed came to, by rate; the start at 0."""
    found: dict[tuple[int, float, str, int], dict[float, str]] = {}
    if not table.empty:
        names = [*NETWORK, "seed", "learning_rate", "outcome"]
        for n, gain, arm, seed, rate, said in table[names].itertuples(index=False):
            own = found.setdefault((int(n), float(gain), str(arm), int(seed)), {})
            own[float(rate)] = str(said)
    return found


def wanted(
    table: pd.DataFrame,
    networks: Sequence[tuple[int, float]],
    arms: Sequence[str],
    seeds: Sequence[int],
    grid: Sequence[float],
    within: float,
) -> list[Wanted]:
    """Say which runs come next, given the rows of those that ended; none when all is run.

    The first seed of a network begins at the grid's end. When its edge is known, the others begin
    at the next higher rate of the grid.
    """
    known, found = outcomes(table), list[Wanted]()
    for (n, gain), arm in itertools.product(networks, arms):
        if arm not in arms_of(gain, arms):
            continue
        begin = len(grid) - 1
        for seed in seeds:
            own = known.get((n, gain, arm, seed), {})
            rate = next_rate(own, grid, begin, within) if 0 in own else 0.0
            if rate is not None:
                found.append(Wanted(n, gain, arm, seed, rate))
            if seed == seeds[0]:
                if rate is not None:
                    break
                higher = [at for at, tried in enumerate(grid) if tried > edge(own).rate]
                begin = higher[0] if higher else len(grid) - 1
    return found


def edges(table: pd.DataFrame) -> pd.DataFrame:
    """Read the edge of every network, arm and seed, with what the start says.

    Index: ``n``, ``gain``, ``arm`` and ``seed``. Columns: ``rate`` and ``above`` of `Edge`, and the
    columns `STARTS` of the table.
    """
    keys = [*NETWORK, "seed"]
    found = pd.DataFrame(
        [(*key, *edge(own)) for key, own in outcomes(table).items()],
        columns=[*keys, *Edge._fields],
    ).set_index(keys)
    starts = table[table["outcome"] == START].set_index(keys)[list(STARTS)]
    return found.join(starts).sort_index()
