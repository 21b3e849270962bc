"""Fifteen epochs of 110 layers: what its table says, written before any recorded run.

The paper's claims about accuracy are of networks trained to the end, which these are not: they are
tested at full length by dose and response, at 32 layers. Here it is asked what fifteen epochs can
say.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import pandas as pd

from bnbook.evidence import claims
from bnbook.evidence.claims import Claim, Finding, Premise
from bnbook.tables import right, searched
from bnbook.tables.arms import WITH, WITHOUT
from bnbook.tables.start import DEEP, NAMES, PAPER, significant
from bnbook.tables.two_rates import inside, rates

GUESSING = 100 * right.GUESS
"""Accuracy of guessing among ten classes, in per cent."""
FAILED = 2 * GUESSING
"""Test accuracy, in per cent, below which a run has failed to train."""
LEARNED = 50.0
"""Training accuracy, in per cent, that says that a network learns at a rate."""
APART = 100.0
"""By how much BN's best rate has to lie above the other's; a thousand in the paper."""


def accuracy(
    table: pd.DataFrame, arm: str, rate: float, column: str = "test_accuracy"
) -> pd.Series:
    """Last accuracy of an arm at a rate, in per cent, by seed."""
    return 100 * searched.shown(table, arm, rate)[column]


def without_at_large(table: pd.DataFrame) -> pd.DataFrame | pd.Series:
    """Test accuracy without BN at r1, in per cent: its lead over runs that guess, and theirs."""
    runs = searched.shown(table, WITHOUT, rates(table).large)
    guessing = runs.assign(right="", test_accuracy=right.GUESS)
    return right.lead(runs, guessing) + GUESSING


def rate_gain(table: pd.DataFrame) -> pd.Series:
    """Training accuracy with BN at r1 minus at r0, in points."""
    small, large = rates(table)
    of = "training_accuracy"
    return accuracy(table, WITH, large, of) - accuracy(table, WITH, small, of)


def lead(table: pd.DataFrame) -> pd.DataFrame | pd.Series:
    """Test accuracy with BN minus without, both at r0, in points."""
    small = rates(table).small
    return right.lead(*(searched.shown(table, arm, small) for arm in (WITH, WITHOUT)))


def _apart(table: pd.DataFrame) -> Finding:
    small, large = rates(table)
    return claims.at_least(large / small, APART * 0.999, " times")


def _inside(arm: str, table: pd.DataFrame) -> Finding:
    return inside(table, arm)


def _with_learns(table: pd.DataFrame) -> Finding:
    least = accuracy(table, WITH, rates(table)[1], "training_accuracy").min()
    return claims.at_least(float(least), LEARNED, " %")


def _without_learns(table: pd.DataFrame) -> Finding:
    least = accuracy(table, WITHOUT, rates(table)[0]).min()
    return claims.at_least(float(least), FAILED, " %")


RATES_APART = Premise("BN's best rate is at least a hundred times that without BN", _apart)
SMALL_INSIDE, LARGE_INSIDE = (
    Premise(f"the best rate {arm} is no end of the rates that were tried", partial(_inside, arm))
    for arm in (WITHOUT, WITH)
)
WITH_LEARNS = Premise(
    "with BN every run at its best rate is right on half of the training images", _with_learns
)
WITHOUT_LEARNS = Premise(
    "without BN every run at its best rate has twice the accuracy of guessing", _without_learns
)

CLAIMS = (
    Claim(
        id="bjorck.epochs110.fails",
        paper=PAPER,
        section="1.2 and 2; 110 layers, 15 epochs",
        statement="At the rate that suits the network with BN, the one without BN fails to train.",
        quantity="test accuracy without BN at BN's best rate after 15 epochs",
        measure=without_at_large,
        bound=FAILED,
        direction="below",
        digits=1,
        unit=" %",
        premises=(DEEP, LARGE_INSIDE, WITH_LEARNS),
    ),
    Claim(
        id="bjorck.epochs110.faster",
        paper=PAPER,
        section="2, figure 1; 110 layers, 15 epochs",
        statement="With BN, the larger rate trains faster.",
        quantity="training accuracy with BN after 15 epochs at its best rate minus at the best rate"
        " without BN",
        measure=rate_gain,
        bound=0.0,
        digits=1,
        unit=" points",
        premises=(DEEP, RATES_APART, LARGE_INSIDE, WITH_LEARNS),
    ),
    Claim(
        id="bjorck.epochs110.leads",
        paper="this book",
        section="where training is short; 110 layers, 15 epochs",
        statement="While training is short, BN leads at one and the same rate, too.",
        quantity="test accuracy with BN minus without after 15 epochs, both at the best rate"
        " without BN",
        measure=lead,
        bound=0.0,
        digits=1,
        unit=" points",
        kind="control",
        premises=(DEEP, SMALL_INSIDE, WITHOUT_LEARNS),
        concerns="lead of BN at the best rate without it",
    ),
)


def facts(table: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """Return the numbers that the chapter quotes beside the claims, by name."""
    chosen = rates(table)
    small, middle, large = chosen.small, chosen.middle, chosen.large
    tuned = searched.ends(table, searched.TUNING)
    said = {
        "layers": claims.fact([6 * int(table["n"].max()) + 2], 0),
        "small_rate": significant([small]),
        "middle_rate": significant([middle]),
        "large_rate": significant([large]),
        "with_middle": claims.fact(accuracy(table, WITH, middle), 1, " %"),
    }
    for arm, short in NAMES.items():
        own = tuned[tuned["arm"] == arm]
        said |= {
            f"{short}_small": claims.fact(accuracy(table, arm, small), 1, " %"),
            f"{short}_large": claims.fact(accuracy(table, arm, large), 1, " %"),
            f"{short}_tried": claims.fact([own["learning_rate"].nunique()], 0),
            f"{short}_learned": claims.fact([_learned(own)], 0),
        }
    return said


def _learned(runs: pd.DataFrame) -> int:
    """Count the rates at which every run that chose rates has twice the accuracy of guessing."""
    worst = 100 * runs.groupby("learning_rate")["validation_accuracy"].min()
    return int((worst >= FAILED).sum())
