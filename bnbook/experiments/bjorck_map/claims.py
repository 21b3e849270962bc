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
    of_channels,
    of_groups,
)
from bnbook.tables.rate_map import rate_fact, same_rate_gap, survived, tuned_gap

CHANNELS = {GROUP_NORM: 2} | {of_channels(channels): channels for channels in (4, 8, 16)}
"""Arms of GroupNorm whose groups have so many channels in every layer."""
GROUPS = {of_groups(groups): groups for groups in (2, 4)}
"""Arms of GroupNorm with so many groups in every layer."""
GROUP_NORMS = (*CHANNELS, *GROUPS)
"""All arms of GroupNorm."""
NEEDED = (WITHOUT, WITH, WARM_UP, FIXUP, SKIPINIT, GROUP_NORM, LAYER_NORM, CLIPPED)
"""Arms without which nothing is judged; in the last gradients are clipped: no claim rests on it."""
ARMS = (*NEEDED, *GROUP_NORMS[1:])
"""All arms."""
NAMES = {
    WITHOUT: "without",
    WITH: "with",
    WARM_UP: "warmup",
    FIXUP: "fixup",
    SKIPINIT: "skipinit",
    LAYER_NORM: "layernorm",
    CLIPPED: "clipped",
    **{arm: f"channels{channels}" for arm, channels in CHANNELS.items()},
    **{arm: f"groups{groups}" for arm, groups in GROUPS.items()},
}
"""Arms as they are called in facts; GroupNorm's name is that of its best arm."""


def groups(arm: str, channels: int) -> int:
    """Return the groups of GroupNorm in a layer; where channels are fewer than a group's, one."""
    return GROUPS[arm] if arm in GROUPS else max(1, channels // CHANNELS[arm])


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
        quantity=_quantity(
            "with GroupNorm, its groups chosen too, or LayerNorm, whichever is better on validation"
            " data"
        ),
        measure=lead_over(*GROUP_NORMS, LAYER_NORM),
        premises=premises(*GROUP_NORMS, LAYER_NORM),
        revised=f"{claims.LATER} GroupNorm had groups of two channels alone; arms with other groups"
        " were added to the record after a look.",
    ),
)


def facts(table: pd.DataFrame) -> claims.Facts:
    """Return the numbers that the chapter quotes beside the claims, by name.

    BN's gain at tuned rates and its lead at the best rate of the network without BN. Of each arm:
    tuned rate, largest rate up to which no run diverges, test accuracy, its share of
    BN's gain in it, and the share of all runs that failed; of GroupNorm's arms the validation
    accuracy, and all again of the arm that has the best.
    """
    rates, final = tuning.tuned_rates(table, ARMS), tuned_accuracy(table)
    last, norm = tuning.final(table), best_arm(table, GROUP_NORMS)
    chosen = tuning.final_by_arm(table, rates, "validation_accuracy")
    found: claims.Facts = {
        f"{NAMES[arm]}_validation": claims.fact(100 * chosen[arm], 1, " %")
        for arm in GROUP_NORMS
        if arm in rates
    }
    found["tuned_gap"] = claims.fact(tuned_gap(table), 1, " points")
    found["same_rate"] = claims.fact(same_rate_gap(table), 1, " points")
    names = [(NAMES[arm], arm, rate) for arm, rate in rates.items()]
    for name, arm, rate in [*names, ("groupnorm", norm, rates[norm])]:
        failed = last.loc[last["arm"] == arm, "test_accuracy"] < rate_map.FAILED
        found |= {
            f"{name}_rate": rate_fact(rate),
            f"{name}_survives": rate_fact(survived(table, arm)),
            f"{name}_accuracy": claims.fact(100 * final[arm], 1, " %"),
            f"{name}_share": gain_share(table, arm),
            f"{name}_failed": claims.fact([100 * failed.mean()], 0, " %"),
        }
    return found
