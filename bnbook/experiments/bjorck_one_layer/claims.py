"""One BN layer and a scaled start in a network that needs BN: what its table says.

The claims, their measures and bounds were written before any recorded run. A share is one of BN's
gain over the network without BN, as in `bnbook.experiments.bjorck_last`; where that network never
learns, it guesses, and the share is of all that BN makes of guessing.
"""

import math

import numpy as np
import pandas as pd

from bnbook.evidence import claims
from bnbook.evidence.claims import TIMES, Claim, Finding, Premise, control
from bnbook.tables import searched, tuning
from bnbook.tables.arms import LAST_ONLY, LSUV, WITH, WITHOUT
from bnbook.tables.start import significant
from bnbook.tables.usable import PAPER

ARMS = (WITHOUT, WITH, LAST_ONLY, LSUV)
NAMES = {WITHOUT: "without", WITH: "with", LAST_ONLY: "last", LSUV: "scaled"}
"""The arms' names in facts."""
TRAINED = 0.95
"""Training accuracy from which a run trains, as in dose and response."""
GROWS = 1.5
"""Growth of the second moment a block from which a network counts as one that needs BN."""
GAIN = 5.0
"""Points of test accuracy that BN has to bring for a share of them to be told."""
HALF = 0.5
"""The weakest reading of "most" and of "nearly as well"; others' summary says two thirds."""
TWENTIETH = 0.05
"""Of BN's largest rate: two steps of the grid below it pass and three do not; a thousandth is what
the paper's network without BN is left with."""


def accuracies(table: pd.DataFrame, column: str = "test_accuracy") -> pd.DataFrame:
    """Last accuracy of each arm at its own rate, in per cent: index seed, columns the arms."""
    return 100 * pd.DataFrame({arm: searched.own(table, arm)[column] for arm in ARMS})


def accuracy_share(table: pd.DataFrame, arm: str = LAST_ONLY) -> pd.DataFrame:
    """What an arm gains over the network without BN, and what BN gains, in points, by seed."""
    return _gains(accuracies(table), arm)


def largest(table: pd.DataFrame) -> pd.DataFrame:
    """Largest rate that trains: index seed, columns the arms; NaN for none."""
    return pd.DataFrame({arm: searched.largest(table, arm, TRAINED) for arm in ARMS})


def rate_share(table: pd.DataFrame, arm: str = LAST_ONLY) -> pd.DataFrame:
    """As `accuracy_share`, in the logarithm of the largest rate that trains."""
    return _gains(pd.DataFrame(np.log(largest(table))), arm)


def rate_of_bn(table: pd.DataFrame, arm: str = LAST_ONLY) -> pd.Series:
    """Largest rate of an arm that trains, over BN's, by seed."""
    rates = largest(table)
    return pd.Series(rates[arm] / rates[WITH])


def _gains(values: pd.DataFrame, arm: str) -> pd.DataFrame:
    part, whole = values[arm] - values[WITHOUT], values[WITH] - values[WITHOUT]
    return pd.DataFrame({"part": part, "whole": whole})


def _grows(table: pd.DataFrame) -> Finding:
    growth = table.loc[table["arm"] == WITHOUT, "growth"].mean()
    return claims.at_least(float(growth), GROWS, " times", 1)


def _gains_enough(table: pd.DataFrame) -> Finding:
    return claims.at_least(accuracy_share(table)["whole"].mean(), GAIN, " points", 1)


def _trained(whose: str, *arms: str) -> Premise:
    def check(table: pd.DataFrame) -> Finding:
        least = accuracies(table, "training_accuracy")[list(arms)].min().min(skipna=False)
        return claims.at_least(float(least), 100 * TRAINED, " %", 1)

    return Premise(f"{whose} every run at its best rate ends above 95 % training accuracy", check)


def _inside(table: pd.DataFrame) -> Finding:
    return tuning.inside(searched.ends(table, searched.TUNING), searched.chosen(table))


def _needed(table: pd.DataFrame) -> Finding:
    """Check that BN multiplies the largest rate, or that without it none trains."""
    rates = largest(table)
    trains = rates[WITHOUT].notna()
    if rates[WITH].notna().all() and not trains.any():
        return True, "without BN none trains", f"{1 / TWENTIETH:g} times or none"
    times = (rates[WITH] / rates[WITHOUT])[trains].min(skipna=False)
    return claims.at_least(float(times), 1 / TWENTIETH, " times")


GROWTH = Premise("without BN the activations grow by half or more a block", _grows)
ENOUGH = Premise("BN gains five points of test accuracy or more", _gains_enough)
INSIDE = Premise("no best rate of a network is an end of the rates that were tried", _inside)
NEEDED = Premise(
    "BN is needed for the rate: it multiplies the largest that trains by twenty, or none trains"
    " without it",
    _needed,
)
_WHERE = "32 layers whose activations grow at the start, trained to the end"

CLAIMS = (
    Claim(
        id="bjorck.one_layer.accuracy",
        paper=PAPER,
        section=f"3.1; {_WHERE}",
        statement="One BN layer before the classifier brings most of BN's gain in accuracy, two"
        " thirds of it (as summarised by others).",
        quantity="share of BN's gain in final test accuracy that one BN layer before the classifier"
        " brings, each network at its best rate",
        measure=accuracy_share,
        bound=HALF,
        scale="ratio",
        premises=(
            GROWTH,
            ENOUGH,
            INSIDE,
            _trained("without BN, with one layer and with BN", WITHOUT, WITH, LAST_ONLY),
        ),
        concerns="share of BN's gain in accuracy of one BN layer",
    ),
    Claim(
        id="bjorck.one_layer.rate",
        paper=PAPER,
        section=f"3.1; {_WHERE}",
        statement="One BN layer before the classifier allows much larger learning rates (as we"
        " recall the section; not verified here).",
        quantity="largest rate that trains with one BN layer before the classifier, over that with"
        " BN everywhere",
        measure=rate_of_bn,
        bound=TWENTIETH,
        premises=(GROWTH, NEEDED, _trained("with one layer and with BN", WITH, LAST_ONLY)),
        **TIMES,
    ),
    Claim(
        id="bjorck.one_layer.scaled",
        paper=PAPER,
        section=f"5; {_WHERE}",
        statement="Initial weights scaled once, so that every layer's outputs have variance 1, do"
        " nearly as well as BN (as we recall the remark; not verified here).",
        quantity="share of BN's gain in final test accuracy that the scaled start brings, each"
        " network at its best rate",
        measure=lambda table: accuracy_share(table, LSUV),
        bound=HALF,
        scale="ratio",
        premises=(
            GROWTH,
            ENOUGH,
            INSIDE,
            _trained("without BN, from the scaled start and with BN", WITHOUT, WITH, LSUV),
        ),
        concerns="share of BN's gain in accuracy of a scaled start",
    ),
    control(
        id="bjorck.one_layer.scaled_rate",
        section=f"a scaled start removes the growth as BN does; {_WHERE}",
        statement="If growth at the start is what forbids large rates, a start that is scaled once"
        " allows rates within a factor of twenty of BN's.",
        quantity="largest rate that trains from the scaled start, over that with BN everywhere",
        measure=lambda table: rate_of_bn(table, LSUV),
        bound=TWENTIETH,
        premises=(GROWTH, NEEDED, _trained("from the scaled start and with BN", WITH, LSUV)),
        **TIMES,
    ),
)


def facts(table: pd.DataFrame) -> claims.Facts:
    """Return the numbers that the chapter quotes beside the claims, by name."""
    tuned, rates = searched.chosen(table), largest(table)
    found, fitted = accuracies(table), accuracies(table, "training_accuracy")
    growth = table.groupby("arm")["growth"].mean()
    said: claims.Facts = {
        "layers": claims.count(6 * int(table["n"].max()) + 2),
        "seeds": claims.count(found[WITH].notna().sum()),
        "bn_gain": claims.fact((found[WITH] - found[WITHOUT]).dropna(), 1, " points"),
        "lead_over_last": claims.fact((found[WITH] - found[LAST_ONLY]).dropna(), 1, " points"),
        "lead_over_scaled": claims.fact((found[WITH] - found[LSUV]).dropna(), 1, " points"),
    }
    for arm, short in NAMES.items():
        said |= {
            f"{short}_rate": significant([tuned.get(arm, math.nan)]),
            f"{short}_largest": significant(rates[arm].dropna()),
            f"{short}_never": claims.count(rates[arm].isna().sum()),
            f"{short}_accuracy": claims.fact(found[arm].dropna(), 1, " %"),
            f"{short}_trained": claims.fact(fitted[arm].dropna(), 1, " %"),
            f"{short}_growth": claims.fact([growth.get(arm, math.nan)], 2),
        }
    for arm in (LAST_ONLY, LSUV):
        gains = rate_share(table, arm)
        said[f"{NAMES[arm]}_rate_share"] = claims.ratio_fact(gains["part"], gains["whole"], 2)
    return said
