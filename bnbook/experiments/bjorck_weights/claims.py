"""Rates and the scale of weights under BN: what is claimed of the table.

The claims and their bounds were written when one seed had been trained for a pilot.
"""

import math
from collections.abc import Sequence

import pandas as pd

from bnbook.evidence import claims
from bnbook.evidence.claims import Finding, Premise, control
from bnbook.tables.rate_map import rate_fact

Cell = tuple[float, float]
"""A rate, and a factor of the initial weights."""
END = 95.0
"""Training accuracy, per cent, that every network has to reach."""
GAIN = 2.0
"""Points of test accuracy that the larger rate has to bring, or there is nothing to move."""
NAMES = ("small", "small_scaled", "large", "large_scaled")
"""The cells' names in facts, in the order of `cells`."""
SMALL, SMALL_SCALED, LARGE, LARGE_SCALED = range(4)


def cells(rates: Sequence[float]) -> list[Cell]:
    """Return what is compared, of two rates that rise: each as it is, and with the other's steps.

    By the equivalence, weights times a at a rate times a squared take the same steps.
    """
    small, large = min(rates), max(rates)
    a = round(math.sqrt(small / large), 6)
    return [(small, 1.0), (small, a), (large, 1.0), (large, round(1 / a, 6))]


def compared(table: pd.DataFrame) -> list[Cell]:
    """Return the `cells` of a table."""
    return cells([float(rate) for rate in table["learning_rate"].unique()])


def cell(table: pd.DataFrame, which: int) -> pd.DataFrame:
    """Return the last rows of a cell by its place in `cells`, a row for each seed."""
    if table.empty:
        return table.set_index("seed")
    rate, scale = compared(table)[which]
    rows = table[(table["learning_rate"] == rate) & (table["scale"] == scale)]
    return rows.sort_values("step").groupby("seed").last()


def accuracies(table: pd.DataFrame, column: str = "test_accuracy") -> pd.DataFrame:
    """Return the last accuracy of each cell, in per cent: index seed, columns by `NAMES`."""
    return pd.DataFrame(
        {name: 100 * cell(table, at)[column].astype(float) for at, name in enumerate(NAMES)}
    )


def brought(table: pd.DataFrame) -> pd.DataFrame:
    """What small weights bring at the small rate, and what the large rate brings, in points."""
    found = accuracies(table)
    return pd.DataFrame(
        {
            "part": found["small_scaled"] - found["small"],
            "whole": found["large"] - found["small"],
        }
    )


def taken(table: pd.DataFrame) -> pd.DataFrame:
    """What large weights take away at the large rate, and what that rate brings, in points."""
    found = accuracies(table)
    return pd.DataFrame(
        {
            "part": found["large"] - found["large_scaled"],
            "whole": found["large"] - found["small"],
        }
    )


def _ended(table: pd.DataFrame) -> Finding:
    return claims.at_least(float(accuracies(table, "training_accuracy").min().min()), END, " %", 1)


def _pays(table: pd.DataFrame) -> Finding:
    return claims.at_least(float(brought(table)["whole"].mean()), GAIN, " points", 1)


PREMISES = (
    Premise("every network ends above 95 % training accuracy", _ended),
    Premise(f"the large rate brings {GAIN:g} points or more", _pays),
)

CLAIMS = (
    control(
        id="bjorck.weights.small",
        section="a consequence of van Laarhoven 2017: weights and rate are one under BN",
        statement="At a small rate with BN, small weights bring most of what a large rate brings.",
        quantity="test accuracy at the small rate from small weights minus from usual ones, over"
        " that at the large rate minus at the small one",
        measure=brought,
        bound=0.5,
        scale="ratio",
        premises=PREMISES,
    ),
    control(
        id="bjorck.weights.large",
        section="a consequence of van Laarhoven 2017: weights and rate are one under BN",
        statement="At a large rate with BN, large weights take most of what it brings away.",
        quantity="test accuracy at the large rate from usual weights minus from large ones, over"
        " that at the large rate minus at the small one",
        measure=taken,
        bound=0.5,
        scale="ratio",
        premises=PREMISES,
    ),
)


def facts(table: pd.DataFrame) -> claims.Facts:
    """Return the numbers that the chapter quotes beside the claims."""
    found = accuracies(table)
    rates = sorted(table["learning_rate"].unique())
    ends = accuracies(table, "training_accuracy")
    return {
        "small_rate": rate_fact(rates[0]),
        "large_rate": rate_fact(rates[-1]),
        "least_trained": claims.fact([float(ends.min().min())], 1, " %"),
        "gain": claims.fact((found["large"] - found["small"]).dropna(), 1, " points"),
        **{name: claims.fact(found[name].dropna(), 1, " %") for name in NAMES},
    }
