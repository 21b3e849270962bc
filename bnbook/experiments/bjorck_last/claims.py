"""BN at one layer, at some, at all: what its table says (Bjorck et al. 2018, section 3.1).

The claims, their measures and bounds were written before the recorded runs.
"""

import re
from collections.abc import Iterable

import numpy as np
import pandas as pd

from bnbook.errors import BnbookError
from bnbook.evidence import claims
from bnbook.evidence.claims import TIMES, Claim, Premise
from bnbook.tables import tuning, usable
from bnbook.tables.arms import LAST_ONLY, WITH, WITHOUT
from bnbook.tables.rate_map import same_rate_gap
from bnbook.tables.start import significant
from bnbook.tables.usable import PAPER

MAIN = (WITHOUT, WITH, LAST_ONLY)
"""The networks of the paper."""
NAMES = {WITHOUT: "without", WITH: "with", LAST_ONLY: "last"}
"""The arms' names in facts."""
STRICT = 3.0
"""Times guessing, in place of twice, for a second look at which runs count as usable."""
FAMILIES = {
    "only": "BN at layer {} only",
    "but": "BN at all layers but {}",
    "since": "BN from layer {} on",
    "every": "BN at one layer in {}",
}
"""Networks with BN at some of the convolutions; of ``every``, counted from the last one."""


def name(family: str, number: int) -> str:
    """Return the arm's name: a family of `FAMILIES`, and a layer or, of ``every``, a spacing."""
    return FAMILIES[family].format(number)


def member_of(arm: str) -> tuple[str, int] | None:
    """Return the family and number of an arm's name; None for those of `MAIN`."""
    for family, text in FAMILIES.items():
        if found := re.fullmatch(text.replace("{}", r"(\d+)"), arm):
            return family, int(found[1])
    return None


def places(arm: str, n: int) -> tuple[int, ...]:
    """Return the numbers of the layers after which a network has BN, from 1.

    6n + 2 is the output of the last residual block, after its ReLU.

    Raises
    ------
    BnbookError
        When there is no such arm, or its number is no convolution's.
    """
    count = 6 * n + 1
    every = range(1, count + 1)
    plain = {WITHOUT: (), WITH: tuple(every), LAST_ONLY: (count + 1,)}
    if arm in plain:
        return plain[arm]
    family, number = member_of(arm) or ("", 0)
    if number not in every:
        raise BnbookError(
            f"an arm must be one of {', '.join(MAIN)} or have a name with a layer from 1 to"
            f" {count}, found {arm!r}."
        )
    chosen = {
        "only": [number],
        "but": [layer for layer in every if layer != number],
        "since": [layer for layer in every if layer >= number],
        "every": sorted(range(count, 0, -number)),
    }
    return tuple(chosen[family])


def rate_share(table: pd.DataFrame, arm: str = LAST_ONLY) -> pd.DataFrame:
    """What an arm and BN everywhere gain in the logarithm of the largest usable rate, per seed.

    ``part`` is the gain of the arm over the network without BN, ``whole`` that of BN everywhere;
    missing where a network has no usable rate.
    """
    logs = pd.DataFrame(np.log(usable.largest(table)))
    return _gains(logs, arm)


def _gains(values: pd.DataFrame, arm: str) -> pd.DataFrame:
    """Gains over the network without BN: ``part`` of an arm, ``whole`` of BN everywhere."""
    part, whole = values[arm] - values[WITHOUT], values[WITH] - values[WITHOUT]
    return pd.DataFrame({"part": part, "whole": whole})


def tuned_rates(table: pd.DataFrame) -> dict[str, float]:
    """Each of `MAIN`'s rates with the best last validation accuracy, averaged over seeds."""
    return tuning.tuned_rates(table, MAIN)


def tuned_accuracy(table: pd.DataFrame) -> pd.DataFrame:
    """Last test accuracy of `MAIN`, each at its tuned rate: index seed, columns the arms."""
    return tuning.final_by_arm(table, tuned_rates(table), "test_accuracy")


def accuracy_share(table: pd.DataFrame) -> pd.DataFrame:
    """As `rate_share`, of the last test accuracy, every network at its tuned rate."""
    return _gains(tuned_accuracy(table), LAST_ONLY)


def last_against_others(table: pd.DataFrame) -> pd.Series:
    """Largest usable rate with BN at the last layer only, over that with BN at one convolution.

    Per seed; the denominator is the geometric mean over the convolutions of the table.
    """
    rates = usable.largest(table)
    others = rates[list(family(table, "only").values())]
    mean = np.exp(np.log(others.to_numpy()).mean(1))
    return pd.Series(rates[LAST_ONLY] / mean)


def family(table: pd.DataFrame, wanted: str) -> dict[int, str]:
    """Return the arms of a table that are of a family: number -> arm, numbers rising."""
    found = {arm: member_of(arm) for arm in table["arm"].unique()}
    numbers = {of[1]: arm for arm, of in found.items() if of is not None and of[0] == wanted}
    return dict(sorted(numbers.items()))


NEEDED = 10.0
"""Gain in the largest usable rate by BN everywhere from which a share of it can be told."""
TRAINED = 0.95
"""Training accuracy from which a run counts as trained to the end."""


def _needs_bn(table: pd.DataFrame) -> claims.Finding:
    gain = float(np.exp(rate_share(table)["whole"].mean()))
    return claims.at_least(gain, NEEDED, " times")


def _inside(table: pd.DataFrame) -> claims.Finding:
    ends = {arm: usable.on_edge(table, extremes(table)[arm]) for arm in MAIN}
    return sum(ends.values()) == 0, f"{sum(ends.values())} runs", "none"


def _trained(table: pd.DataFrame) -> claims.Finding:
    return tuning.trained(table, list(tuned_rates(table).items()), TRAINED)


NEEDS_BN = Premise(
    "BN everywhere raises the largest usable rate at least tenfold (a thousandfold in the paper)",
    _needs_bn,
)
INSIDE = Premise("no largest usable rate is the end of the grid", _inside)

REVISED = (
    claims.LATER + " Its value was a mean of each seed's share before, over the seeds where BN"
    " gains; it is a ratio of means since."
)

CLAIMS = (
    Claim(
        id="bjorck.sec3_1.last_layer",
        paper=PAPER,
        section="3.1",
        statement="One BN layer, at the output of the last residual block, is enough for much"
        " larger learning rates (as we recall the section; not verified here).",
        quantity="share of BN's gain in the logarithm of the largest usable learning rate that BN"
        " at the last layer alone brings",
        measure=rate_share,
        bound=0.5,
        scale="ratio",
        premises=(NEEDS_BN, INSIDE),
        revised=REVISED,
    ),
    Claim(
        id="bjorck.sec3_1.last_accuracy",
        paper=PAPER,
        section="3.1",
        statement="One BN layer at the last layer brings most of BN's gain in accuracy (as we"
        " recall the section; not verified here).",
        quantity="share of BN's gain in last test accuracy that BN at the last layer alone brings,"
        " each network at its tuned rate",
        measure=accuracy_share,
        bound=0.5,
        scale="ratio",
        concerns="share of BN's gain in accuracy of one BN layer",
        premises=(Premise("every network ends above 95 % training accuracy", _trained),),
        revised=REVISED,
    ),
    Claim(
        id="bjorck.sec3_1.last_against_one",
        paper="this book",
        section="a control of section 3.1",
        statement="BN at the last layer allows larger learning rates than BN at one convolution.",
        quantity=(
            "largest usable learning rate with BN at the last layer only, divided by that with BN"
            " at one convolution only, geometric mean over the convolutions"
        ),
        measure=last_against_others,
        bound=1.0,
        digits=1,
        kind="control",
        premises=(INSIDE,),
        revised=claims.LATER
        + " It stood as a claim of Karakida, Akaho & Amari 2019 before, with a premise that this"
        " record cannot meet: that it holds the sharpness.",
        **TIMES,
    ),
)


def extremes(table: pd.DataFrame) -> pd.DataFrame:
    """Largest usable rate of `MAIN`: index seed, columns the arms."""
    return usable.largest(table)[list(MAIN)]


def placed(table: pd.DataFrame) -> pd.DataFrame:
    """Largest usable rate of the networks with BN at some of the layers.

    Columns ``family``, ``number``, ``seed`` and ``rate``; BN at the last layer only stands among
    ``only``, with the number 6n + 2.
    """
    rates = usable.largest(table)
    arms = {arm: (of, number) for of in FAMILIES for number, arm in family(table, of).items()} | {
        LAST_ONLY: ("only", depth(table))
    }
    rows = [
        (of, number, seed, rate)
        for arm, (of, number) in arms.items()
        for seed, rate in rates[arm].items()
    ]
    return pd.DataFrame(rows, columns=["family", "number", "seed", "rate"])


def depth(table: pd.DataFrame) -> int:
    """Layers of the network, 6n + 2."""
    return 6 * int(table["n"].max()) + 2


def mean_share(table: pd.DataFrame, arms: Iterable[str], digits: int) -> claims.Fact:
    """Describe the share of BN's gain in rate that some arms bring on average."""
    gains = {arm: rate_share(table, arm) for arm in arms}
    if not gains:
        return claims.fact([], digits)
    part = pd.DataFrame({arm: gain["part"] for arm, gain in gains.items()})
    whole = next(iter(gains.values()))["whole"]
    return claims.ratio_fact(part.mean(axis=1, skipna=False), whole, digits)


def facts(table: pd.DataFrame) -> claims.Facts:
    """Return the numbers that the chapter quotes beside the claims, by name."""
    rates, tuned, accuracy = extremes(table), tuned_rates(table), tuned_accuracy(table)
    found = usable.setting(table) | {
        "layers": claims.count(depth(table)),
        "with_gain": significant((rates[WITH] / rates[WITHOUT]).dropna()),
        "last_gain": significant((rates[LAST_ONLY] / rates[WITHOUT]).dropna()),
        "last_lead": claims.fact(100 * (accuracy[LAST_ONLY] - accuracy[WITH]), 1, " points"),
        "accuracy_gain": claims.fact(100 * (accuracy[WITH] - accuracy[WITHOUT]), 1, " points"),
        "same_rate": claims.fact(same_rate_gap(table), 1, " points"),
        "last_accuracy_gain": claims.fact(
            100 * (accuracy[LAST_ONLY] - accuracy[WITHOUT]), 1, " points"
        ),
    }
    strict = usable.largest(table, times=STRICT).reindex(columns=MAIN)
    for arm, short in NAMES.items():
        found |= {
            f"{short}_strict": significant(strict[arm].dropna()),
            f"{short}_rate": significant(rates[arm].dropna()),
            f"{short}_edge": claims.count(usable.on_edge(table, rates[arm])),
            f"{short}_tuned": significant([tuned[arm]]),
            f"{short}_accuracy": claims.fact(100 * accuracy[arm], 1, " %"),
        }
    for of in FAMILIES:
        arms = list(family(table, of).values())
        found |= {
            f"{of}_networks": claims.count(len(arms)),
            f"{of}_share": mean_share(table, arms, 2),
            f"{of}_first_share": mean_share(table, arms[:1], 2),
            f"{of}_last_share": mean_share(table, arms[-1:], 2),
        }
    only = list(family(table, "only"))
    found["only_first"], found["only_last"] = (claims.count(n) for n in (only[0], only[-1]))
    return found
