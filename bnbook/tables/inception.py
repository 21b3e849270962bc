"""The networks of Ioffe & Szegedy 2015, section 4.2: what each is, by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import pandas as pd

RATE, DROPOUT, DECAY, COOLING, RESPONSE, SHUFFLING, DISTORTION = (
    "higher rate",
    "no Dropout",
    "L2 divided by 5",
    "rate falls 6 times as fast",
    "no LRN",
    "shuffling",
    "less distortion",
)
CHANGES = (RATE, DROPOUT, DECAY, COOLING, RESPONSE, SHUFFLING, DISTORTION)
"""The seven changes of section 4.2.1, in the paper's order."""


class Recipe(NamedTuple):
    """A network of the section.

    Attributes
    ----------
    bn : bool
        Whether it has BN before each nonlinearity.
    factor : float
        Its learning rate over Inception's.
    changes : frozenset of str
        Those of `CHANGES` that it has.
    sigmoid : bool
        Whether sigmoids take the ReLUs' place.
    dropout : float or None
        Share that Dropout sets to zero, if it is neither Inception's nor none.
    """

    bn: bool
    factor: float = 1.0
    changes: frozenset[str] = frozenset()
    sigmoid: bool = False
    dropout: float | None = None


INCEPTION, BASELINE, X5, X30, X5_SIGMOID = (
    "Inception",
    "BN-Baseline",
    "BN-x5",
    "BN-x30",
    "BN-x5-Sigmoid",
)
SIGMOID, FAST = "Inception with sigmoid", "Inception at 5 times its rate"
MAIN = (INCEPTION, BASELINE, X5, X30, X5_SIGMOID, SIGMOID, FAST)
"""The five networks of figure 3 and the two that the text tells of."""
WITH_DROPOUT = {"BN-x5, Dropout 5 %": 0.05, "BN-x5, Dropout 10 %": 0.1}
MEMBERS = (X5, *WITH_DROPOUT)
"""What an ensemble is made of, each with two seeds: six networks."""

_ALL = frozenset(CHANGES)


def without(change: str) -> str:
    """Name the network that is BN-x5 but for one change."""
    return f"BN-x5 but for: {change}"


RECIPES: Mapping[str, Recipe] = {
    INCEPTION: Recipe(bn=False),
    BASELINE: Recipe(bn=True),
    X5: Recipe(bn=True, factor=5, changes=_ALL),
    X30: Recipe(bn=True, factor=30, changes=_ALL),
    X5_SIGMOID: Recipe(bn=True, factor=5, changes=_ALL, sigmoid=True),
    SIGMOID: Recipe(bn=False, sigmoid=True),
    FAST: Recipe(bn=False, factor=5),
    **{
        name: Recipe(bn=True, factor=5, changes=_ALL - {DROPOUT}, dropout=share)
        for name, share in WITH_DROPOUT.items()
    },
    **{
        without(change): Recipe(bn=True, factor=1 if change == RATE else 5, changes=_ALL - {change})
        for change in CHANGES
    },
}
ABLATED = tuple(without(change) for change in CHANGES)
"""BN-x5 but for one change, in the paper's order."""


def scores(table: pd.DataFrame) -> dict[float, float]:
    """Mean validation accuracy at the end of each rate, of the runs that choose Inception's."""
    if table.empty:
        return {}
    tuned = table[table["tunes"].astype(bool)]
    by_run = tuned.groupby(["learning_rate", "seed"])["validation_accuracy"].last()
    means = by_run.groupby("learning_rate").mean()
    return {float(str(rate)): float(mean) for rate, mean in means.items()}
