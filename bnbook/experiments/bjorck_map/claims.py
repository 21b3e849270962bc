"""The learning-rate map of what else than BN might allow large rates: what its table says.

The claims, their measures and bounds were written before the recorded runs.
"""

from collections.abc import Callable, Sequence
from functools import partial

import pandas as pd

from bnbook.evidence import claims
from bnbook.evidence.claims import POINTS, Claim, Premise
from bnbook.tables import rate_map, tuning
from bnbook.tables.arms import (
    CLIPPED,
    FIXUP,
    GROUP_NORM,
    LAYER_NORM,
    SKIPINIT,
    WARM_UP,
    WITH,
    WITHOUT,
)
from bnbook.tables.rate_map import rate_fact, survived

ARMS = (WITHOUT, WITH, WARM_UP, FIXUP, SKIPINIT, GROUP_NORM, LAYER_NORM, CLIPPED)
"""All arms; in the last, gradients are clipped, and no claim rests on it."""
NAMES = {
    WITHOUT: "without",
    WITH: "with",
    WARM_UP: "warmup",
    FIXUP: "fixup",
    SKIPINIT: "skipinit",
    GROUP_NORM: "groupnorm",
    LAYER_NORM: "layernorm",
    CLIPPED: "clipped",
}
"""Arms as they are called in facts."""


def tuned_accuracy(table: pd.DataFrame) -> pd.DataFrame:
    """Final test accuracy of every arm at its tuned rate: index seed, columns the arms."""
    return tuning.final_by_arm(table, tuning.tuned_rates(table, ARMS), "test_accuracy")


def best_arm(table: pd.DataFrame, arms: Sequence[str]) -> str:
    """Of some arms the one with the best final validation accuracy, at its tuned rate."""
    rates = tuning.tuned_rates(table, arms)
    mean = tuning.final_by_arm(table, rates, "validation_accuracy").mean()
    return max(rates, key=lambda arm: mean[arm])


def lead_over(*arms: str) -> Callable[[pd.DataFrame], pd.Series]:
    """Make the measure: test accuracy with BN minus that of the best of some arms, in points.

    Every arm has its tuned rate; the best is chosen on validation data.
    """

    def measure(table: pd.DataFrame) -> pd.Series:
        final = tuned_accuracy(table)
        return pd.Series(100 * (final[WITH] - final[best_arm(table, arms)]))

    return measure


def gain_share(table: pd.DataFrame, arm: str) -> claims.Fact:
    """Describe the share of BN's gain in final test accuracy that an arm brings, tuned rates."""
    final = tuned_accuracy(table)
    part, whole = final[arm] - final[WITHOUT], final[WITH] - final[WITHOUT]
    return claims.ratio_fact(part, whole, 2)


def _quantity(what: str) -> str:
    return f"final test accuracy with BN minus {what}, each at its tuned rate"


def premises(*arms: str) -> tuple[Premise, ...]:
    """Return what the comparison of BN with some arms needs of a record."""

    def tuned(table: pd.DataFrame) -> dict[str, float]:
        return tuning.tuned_rates(table, (WITH, *arms))

    return (
        Premise("no tuned rate is an end of the grid", lambda t: tuning.inside(t, tuned(t))),
        Premise(
            "every compared network ends above 95 % training accuracy",
            lambda table: tuning.trained(table, list(tuned(table).items()), 0.95),
        ),
    )


_objection = partial(
    Claim,
    section="an objection to Bjorck et al.'s figure 1",
    bound=1.0,
    direction="below",
    revised=claims.LATER,
    **POINTS,
)

CLAIMS = (
    _objection(
        id="bjorck.map.warmup",
        paper="this book",
        kind="control",
        statement="With a warm-up of the rate, the network without BN does as well as with BN.",
        quantity=_quantity("without BN and with a warm-up"),
        measure=lead_over(WARM_UP),
        premises=premises(WARM_UP),
    ),
    _objection(
        id="bjorck.map.initialisation",
        paper="Zhang, Dauphin & Ma 2019; De & Smith 2020",
        statement="With a better start, the network without BN does as well as with BN.",
        quantity=_quantity("with Fixup or SkipInit, whichever is better on validation data"),
        measure=lead_over(FIXUP, SKIPINIT),
        premises=premises(FIXUP, SKIPINIT),
    ),
    _objection(
        id="bjorck.map.other_norms",
        paper="Wu & He 2018; Ba, Kiros & Hinton 2016",
        statement="Norms without minibatch statistics do as well as BN.",
        quantity=_quantity("with GroupNorm or LayerNorm, whichever is better on validation data"),
        measure=lead_over(GROUP_NORM, LAYER_NORM),
        premises=premises(GROUP_NORM, LAYER_NORM),
    ),
)


def facts(table: pd.DataFrame) -> claims.Facts:
    """Return the numbers that the chapter quotes beside the claims, by name.

    Of each arm: tuned rate, largest rate up to which no run diverges, test accuracy, its share of
    BN's gain in it, and the share of all runs that failed.
    """
    rates, final = tuning.tuned_rates(table, ARMS), tuned_accuracy(table)
    last = tuning.final(table)
    found: claims.Facts = {}
    for arm, rate in rates.items():
        name = NAMES[arm]
        failed = last.loc[last["arm"] == arm, "test_accuracy"] < rate_map.FAILED
        found |= {
            f"{name}_rate": rate_fact(rate),
            f"{name}_survives": rate_fact(survived(table, arm)),
            f"{name}_accuracy": claims.fact(100 * final[arm], 1, " %"),
            f"{name}_share": gain_share(table, arm),
            f"{name}_failed": claims.fact([100 * failed.mean()], 0, " %"),
        }
    return found
