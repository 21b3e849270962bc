"""What remains of BN's gain without BN: claims, written before the recorded runs.

A pilot of one seed, which the record does not hold, showed what this size decides: 35 to 37 of 100
test images right with BN and with the other means, 23 without anything. It chose the grid. The
bound of the shares is one half, what "most of the gain" means: intervals of some 0.2 either way,
as five seeds give them, could not tell three quarters from all.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from bnbook.evidence import claims
from bnbook.evidence.claims import POINTS, Claim, Finding, Premise
from bnbook.tables import tuning, usable
from bnbook.tables.arms import (
    AFFINE_ONLY,
    FIXUP,
    FIXUP_MIXUP,
    NORMALISER_FREE,
    OTHERS_ONLY,
    SELF_NORMALISING,
    SKIPINIT,
    WITH,
    WITH_MIXUP,
    WITHOUT,
)
from bnbook.tables.rate_map import FAILED, rate_fact

NAMES = {
    WITHOUT: "without",
    WITH: "with",
    WITH_MIXUP: "with_mixup",
    FIXUP: "fixup",
    FIXUP_MIXUP: "fixup_mixup",
    SKIPINIT: "skipinit",
    NORMALISER_FREE: "nf",
    SELF_NORMALISING: "selu",
    AFFINE_ONLY: "affine",
    OTHERS_ONLY: "others",
}
"""Arms as they are called in facts."""
ARMS = tuple(NAMES)
BN = (WITH, WITH_MIXUP)
"""BN, with its regularisation or not: on validation images the better counts."""
GAIN = 5.0
"""BN's gain in points of test accuracy, from which on there is something to recover."""
TIMES_GUESSING = 1.5
"""A rate is usable when a run at it does not diverge and ends at so many times guessing."""


def split(table: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the rows of the seeds that choose rates, the first third, and of those that judge."""
    seeds = sorted(table["seed"].unique())
    tunes = table["seed"].isin(seeds[: max(1, len(seeds) // 3)])
    return table[tunes], table[~tunes]


def rates(table: pd.DataFrame, arms: Sequence[str] = ARMS) -> dict[str, float]:
    """Return each arm's rate, by the validation accuracy of the seeds that choose."""
    return tuning.tuned_rates(split(table)[0], arms)


def accuracies(table: pd.DataFrame) -> pd.DataFrame:
    """Final test accuracy of every arm at its rate, in points: index judging seed, columns arms."""
    return 100 * tuning.final_by_arm(split(table)[1], rates(table), "test_accuracy")


def better(table: pd.DataFrame, arms: Sequence[str]) -> str:
    """Of some arms the one with the best validation accuracy, of the seeds that choose."""
    found = rates(table, arms)
    mean = tuning.final_by_arm(split(table)[0], found, "validation_accuracy").mean()
    return max(found, key=lambda arm: mean[arm])


def recovered(*arms: str) -> Callable[[pd.DataFrame], pd.DataFrame]:
    """Make the measure: what the better of some arms gains over nothing, and what BN gains."""

    def measure(table: pd.DataFrame) -> pd.DataFrame:
        final = accuracies(table)
        part, whole = (final[better(table, of)] - final[WITHOUT] for of in (arms, BN))
        return pd.DataFrame({"part": part, "whole": whole})

    return measure


def affine_lead(table: pd.DataFrame) -> pd.Series:
    """Test accuracy with gamma and beta alone minus with as many other weights, in points."""
    final = accuracies(table)
    return pd.Series(final[AFFINE_ONLY] - final[OTHERS_ONLY])


def gain(table: pd.DataFrame) -> pd.Series:
    """Test accuracy with BN minus without, each at its rate, in points."""
    final = accuracies(table)
    return pd.Series(final[better(table, BN)] - final[WITHOUT])


def _gains(table: pd.DataFrame) -> Finding:
    return claims.at_least(float(gain(table).mean()), GAIN, " points", 1)


def _plain_fails(table: pd.DataFrame) -> Finding:
    rate = rates(table)[better(table, BN)]
    return tuning.fails(split(table)[1], WITHOUT, rate, FAILED)


def _inside(*arms: str) -> Premise:
    """Premise: none of these arms has its rate at an end of the grid."""
    return Premise(
        "no tuned rate is an end of the grid",
        lambda table: tuning.inside(table, rates(table, arms)),
    )


def premises(*arms: str) -> tuple[Premise, ...]:
    """Return what a claim about some arms and BN's gain needs of a record."""
    return (
        Premise(f"BN's gain is {GAIN:g} points or more", _gains),
        Premise("without BN and anything else BN's rate fails", _plain_fails),
        _inside(WITHOUT, *BN, *arms),
    )


def _claim(name: str, paper: str, means: str, section: str, *arms: str) -> Claim:
    return Claim(
        id=f"{name}.recovers",
        paper=paper,
        section=section,
        statement=f"{means}, a residual network without BN has most of BN's gain.",
        quantity=f"final test accuracy {means[0].lower()}{means[1:]} over that without anything,"
        " divided by BN's, each at its tuned rate",
        measure=recovered(*arms),
        bound=0.5,
        scale="ratio",
        premises=premises(*arms),
    )


CLAIMS = (
    _claim(
        "fixup", "Zhang, Dauphin & Ma 2019", "With Fixup's start, and mixup where that helps",
        "abstract", FIXUP, FIXUP_MIXUP,
    ),
    _claim("skipinit", "De & Smith 2020", "With SkipInit", "abstract", SKIPINIT),
    _claim(
        "nf", "Brock, De, Smith & Simonyan 2021",
        "With standardised weights and gradients clipped adaptively", "abstract", NORMALISER_FREE,
    ),
    Claim(
        id="frankle.only_bn",
        paper="Frankle, Schwab & Morcos 2020",
        section="abstract",
        statement="A network whose gammas and betas alone learn does better than one with as many"
        " other weights that learn.",
        quantity="final test accuracy with gamma and beta alone minus that with two random weights"
        " of each channel, each at its tuned rate",
        measure=affine_lead,
        bound=0.0,
        premises=(_inside(AFFINE_ONLY, OTHERS_ONLY),),
        **POINTS,
    ),
)  # fmt: skip


def rate_share(table: pd.DataFrame, arm: str) -> claims.Fact:
    """Describe the share of BN's gain in the logarithm of the largest usable rate of an arm."""
    largest = usable.largest(split(table)[1], times=TIMES_GUESSING).reindex(columns=list(ARMS))
    log = largest.apply(np.log)
    bn = better(table, BN)
    return claims.ratio_fact(log[arm] - log[WITHOUT], log[bn] - log[WITHOUT], 2)


def at_best(table: pd.DataFrame, arm: str) -> pd.Series:
    """Test accuracy of an arm, in points, at the rate that suits the very seeds that judge best.

    No such rate can be known beforehand: it flatters the arm.
    """
    last = tuning.final(split(table)[1])
    by_rate = last[last["arm"] == arm].pivot_table(
        index="seed", columns="learning_rate", values="test_accuracy"
    )
    if by_rate.empty:
        return pd.Series(dtype=float)
    return pd.Series(100 * by_rate[by_rate.mean().idxmax()])


def at_the_others_rate(table: pd.DataFrame) -> pd.Series:
    """Test accuracy with BN, in points, at the rate of the network without anything."""
    found = rates(table, (WITH, WITHOUT))
    final = tuning.final_by_arm(split(table)[1], {WITH: found[WITHOUT]}, "test_accuracy")
    return pd.Series(100 * final[WITH])


def _near(judges: pd.DataFrame, arm: str) -> float:
    """Count the rates at which an arm is within 5 points of its best; NaN without runs."""
    if not (judges["arm"] == arm).any():
        return math.nan
    return tuning.usable_rates(judges, arm, "test_accuracy", 0.05)


def facts(table: pd.DataFrame) -> claims.Facts:
    """Return the numbers that the chapter quotes beside the claims, by name.

    Of each arm: tuned rate, test accuracy, largest usable rate (geometric mean over seeds), its
    shares of BN's gain in both, and its rates within 5 points of its best; without a value where a
    growing record lacks the arm.
    """
    tuners, judges = split(table)
    chosen, final = rates(table), accuracies(table).reindex(columns=list(ARMS))
    bn = better(table, BN)
    largest = usable.largest(judges, times=TIMES_GUESSING).reindex(columns=list(ARMS))
    learned = table.groupby("arm")["learned"].first().reindex(list(ARMS))
    found = {
        "tuning": claims.count(tuners["seed"].nunique()),
        "judging": claims.count(judges["seed"].nunique()),
        "gain": claims.fact(gain(table).dropna(), 1, " points"),
        "same_rate": claims.fact(at_the_others_rate(table) - final[WITHOUT], 1, " points"),
        "without_usable": claims.fact([int(largest[WITHOUT].notna().sum())], 0),
        "with_same_rate": claims.fact(at_the_others_rate(table), 1, " %"),
        "affine_learned": claims.fact([100 * learned[AFFINE_ONLY] / learned[WITH]], 1, " %"),
    }
    for arm, name in NAMES.items():
        rate = largest[arm].dropna()
        found |= {
            f"{name}_rate": rate_fact(chosen.get(arm, math.nan)),
            f"{name}_accuracy": claims.fact(final[arm].dropna(), 1, " %"),
            f"{name}_share": claims.ratio_fact(
                final[arm] - final[WITHOUT], final[bn] - final[WITHOUT], 2
            ),
            f"{name}_largest": rate_fact(float(np.exp(np.log(rate).mean()))),
            f"{name}_rate_share": rate_share(table, arm),
            f"{name}_at_best": claims.fact(at_best(table, arm), 1, " %"),
            f"{name}_near": claims.count(_near(judges, arm)),
        }
    return found
