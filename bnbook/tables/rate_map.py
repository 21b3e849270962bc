"""Maps of learning rates: what their tables say, for every experiment that has one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pandas as pd

from bnbook.evidence import claims
from bnbook.evidence.claims import Premise
from bnbook.tables import tuning
from bnbook.tables.arms import WITH, WITHOUT

FAILED = 0.2
"""A run that ends below this test accuracy, twice that of guessing, counts as failed."""
TRAINED = 0.95
"""Training accuracy from which a run counts as trained to the end; the paper's end near 1."""
APART = 100.0
"""BN's best rate over the one that suits the network without BN: a thousand in the paper."""


def small_rate(table: pd.DataFrame) -> float:
    """Learning rate that suits the network without BN: best final validation accuracy."""
    return tuning.tuned_rates(table, (WITHOUT,))[WITHOUT]


def large_rate(table: pd.DataFrame) -> float:
    """Best of the rates with BN that are larger than `small_rate`; NaN when there is none."""
    larger = table[table["learning_rate"] > small_rate(table)]
    return tuning.tuned_rates(larger, (WITH,)).get(WITH, float("nan"))


def at(table: pd.DataFrame, arm: str, rate: float, column: str) -> pd.Series:
    """Return the final value of a column for one arm at one rate, per seed; NaN without runs."""
    seeds = pd.Index(sorted(table["seed"].unique()), name="seed")
    runs = tuning.final(table)
    runs = runs[(runs["arm"] == arm) & (runs["learning_rate"] == rate)]
    return runs.set_index("seed")[column].reindex(seeds)


def same_rate_gap(table: pd.DataFrame) -> pd.Series:
    """Final test accuracy with BN minus without, both at `small_rate`, in points, per seed."""
    rate = small_rate(table)
    found = at(table, WITH, rate, "test_accuracy") - at(table, WITHOUT, rate, "test_accuracy")
    return 100 * found


def rate_gain(table: pd.DataFrame) -> pd.Series:
    """Final test accuracy with BN at `large_rate` minus at `small_rate`, in points, per seed."""
    large = at(table, WITH, large_rate(table), "test_accuracy")
    return 100 * (large - at(table, WITH, small_rate(table), "test_accuracy"))


def without_diverged(table: pd.DataFrame) -> pd.Series:
    """Whether the network without BN diverged at `large_rate`, 1 or 0, per seed."""
    found = at(table, WITHOUT, large_rate(table), "diverged_at")
    return (found >= 0).astype(float).where(found.notna())


def tuned_gap(table: pd.DataFrame) -> pd.Series:
    """Final test accuracy with BN minus without, each at its tuned rate, in points, per seed."""
    rates = tuning.tuned_rates(table, (WITHOUT, WITH))
    final = tuning.final_by_arm(table, rates, "test_accuracy")
    return pd.Series(100 * (final[WITH] - final[WITHOUT]))


def survived(table: pd.DataFrame, arm: str) -> float:
    """Largest rate up to which no run of an arm diverged; NaN when the smallest already fails."""
    runs = tuning.final(table[table["arm"] == arm])
    worst = (runs["diverged_at"] >= 0).groupby(runs["learning_rate"]).any().sort_index()
    below = worst.index[~worst.cummax()]
    return float(below.max()) if len(below) else float("nan")


def rate_fact(rate: float) -> dict[str, Any]:
    """Describe a rate with two significant digits; no value for NaN."""
    if rate != rate:
        return claims.fact([], 3)
    digits = next(d for d in range(7) if round(rate, d) == float(f"{rate:.2g}"))
    return claims.fact([rate], digits)


Table = pd.DataFrame


def compared(table: Table) -> dict[str, list[tuple[str, float]]]:
    """Return the networks and rates that each of the figure's claims compares."""
    small, large = small_rate(table), large_rate(table)
    rates = [(WITH, small), (WITH, large)]
    return {"same_rate": [(WITHOUT, small), (WITH, small)], "higher_rate": rates}


def premises(what: str, of: Callable[[Table], Table] = lambda table: table) -> tuple[Premise, ...]:
    """Return what the figure's claims need of a record, in the rows that `of` picks.

    `what` names the networks compared: same_rate, higher_rate, or diverges, which is itself about
    failing at BN's rate.
    """

    def tuned(table: Table) -> dict[str, float]:
        return tuning.tuned_rates(of(table), (WITHOUT, WITH))

    runs = "same_rate" if what == "same_rate" else "higher_rate"
    found = (
        Premise(
            "BN's best rate is at least a hundred times the one that suits the network without BN"
            " (a thousand times in the paper)",
            lambda table: tuning.apart(tuned(table)[WITHOUT], tuned(table)[WITH], APART),
        ),
        Premise(
            "no tuned rate is an end of the grid",
            lambda table: tuning.inside(of(table), tuned(table)),
        ),
        Premise(
            f"every compared network ends above {100 * TRAINED:.0f} % training accuracy (near"
            " 100 % in the paper)",
            lambda table: tuning.trained(of(table), compared(of(table))[runs], TRAINED),
        ),
        Premise(
            "the network without BN fails to train at BN's best rate",
            lambda table: tuning.fails(of(table), WITHOUT, tuned(table)[WITH], FAILED),
        ),
    )
    return found[:-1] if what == "diverges" else found
