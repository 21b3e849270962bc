"""Two networks at two rates: the best one without BN, r0, and the best one with it, r1.

What is run and compared once both are known, in every experiment that searches them by
`bnbook.setups.search`.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import pandas as pd

from bnbook.tables import searched, tuning
from bnbook.tables.arms import WITH, WITHOUT

Cell = tuple[str, float]
"""An arm and a rate."""


class Rates(NamedTuple):
    """The best rates without BN and with it, r0 and r1; NaN before anything was searched."""

    small: float
    large: float

    @property
    def middle(self) -> float:
        """Their geometric mean, in two digits."""
        return float(f"{math.sqrt(self.small * self.large):.2g}")


def rates(table: pd.DataFrame) -> Rates:
    """Return r0 and r1, by the seeds that choose."""
    found = searched.chosen(table) if len(table) else {}
    return Rates(found.get(WITHOUT, math.nan), found.get(WITH, math.nan))


def inside(table: pd.DataFrame, *arms: str) -> tuple[bool, str, str]:
    """Premise: no rate of these arms is an end of those that were tried when it was chosen."""
    found = dict(zip((WITHOUT, WITH), rates(table), strict=True))
    chosen = {arm: found[arm] for arm in arms}
    if any(map(math.isnan, chosen.values())):
        return False, "no rate yet", "none at an end"
    return tuning.inside(searched.ends(table, searched.TUNING), chosen)


def cells(of: Rates) -> list[Cell]:
    """Return the arms and rates to run: both arms at both rates, and BN between them."""
    found = [
        (WITHOUT, of.small), (WITH, of.small), (WITH, of.large), (WITH, of.middle),
        (WITHOUT, of.large),
    ]  # fmt: skip
    return list(dict.fromkeys(found))


def compared(of: Rates) -> list[Cell]:
    """Return those of them that claims of differences in accuracy compare."""
    return cells(of)[: 2 if of.small == of.large else 3]
