"""BN at one layer, at some, at all: what its table says (Bjorck et al. 2018, section 3.1).

The claims, their measures and bounds were written before the recorded runs.
"""

from __future__ import annotations

import re

import numpy as np
import pandas as pd

from bnbook import tuning
from bnbook.analysis import bjorck_usable
from bnbook.analysis.bjorck_usable import PAPER
from bnbook.arms import LAST_ONLY, WITH, WITHOUT
from bnbook.claims import Claim
from bnbook.errors import BnbookError

MAIN = (WITHOUT, WITH, LAST_ONLY)
"""The networks of the paper."""
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
    """Return the layers after which a network has BN.

    Parameters
    ----------
    arm : str
        One of `MAIN`, or a `name`.
    n : int
        Residual blocks of a stage: 6n + 1 convolutions.

    Returns
    -------
    tuple of int
        Numbers of convolutions, from 1; 6n + 2 is the output of the last residual block, after its
        ReLU.

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


def rate_share(table: pd.DataFrame, arm: str = LAST_ONLY) -> pd.Series:
    """Share of BN's gain in the logarithm of the largest usable rate that an arm brings, per seed.

    Parameters
    ----------
    table : pandas.DataFrame
        The experiment's table.
    arm : str
        The network.

    Returns
    -------
    pandas.Series
        Index seed: 0 as without BN, 1 as with BN everywhere; missing where a network has no usable
        rate or BN everywhere gains nothing.
    """
    logs = np.log(bjorck_usable.largest(table))
    gain = logs[WITH] - logs[WITHOUT]
    return pd.Series((logs[arm] - logs[WITHOUT]) / gain.where(gain > 0))


def tuned_rates(table: pd.DataFrame) -> dict[str, float]:
    """Each of `MAIN`'s rates with the best last validation accuracy, averaged over seeds."""
    return tuning.tuned_rates(table, MAIN)


def tuned_accuracy(table: pd.DataFrame) -> pd.DataFrame:
    """Last test accuracy of `MAIN`, each at its tuned rate: index seed, columns the arms."""
    return tuning.final_by_arm(table, tuned_rates(table), "test_accuracy")


def accuracy_share(table: pd.DataFrame) -> pd.Series:
    """Share of BN's gain in test accuracy that BN at the last layer brings, per seed.

    Returns
    -------
    pandas.Series
        Index seed; every network at its tuned rate. Missing where BN gains nothing.
    """
    accuracy = tuned_accuracy(table)
    gain = accuracy[WITH] - accuracy[WITHOUT]
    return pd.Series((accuracy[LAST_ONLY] - accuracy[WITHOUT]) / gain.where(gain > 0))


def last_against_others(table: pd.DataFrame) -> pd.Series:
    """Largest usable rate with BN at the last layer only, over that with BN at one convolution.

    Returns
    -------
    pandas.Series
        Index seed; the denominator is the geometric mean over the convolutions of the table.
    """
    rates = bjorck_usable.largest(table)
    others = rates[list(family(table, "only").values())]
    mean = np.exp(np.log(others.to_numpy()).mean(1))
    return pd.Series(rates[LAST_ONLY] / mean)


def family(table: pd.DataFrame, wanted: str) -> dict[int, str]:
    """Return the arms of a table that are of a family: number -> arm, numbers rising."""
    found = {arm: member_of(arm) for arm in table["arm"].unique()}
    numbers = {of[1]: arm for arm, of in found.items() if of is not None and of[0] == wanted}
    return dict(sorted(numbers.items()))


CLAIMS = (
    Claim(
        id="bjorck.sec3_1.last_layer",
        paper=PAPER,
        section="3.1",
        statement=(
            "One BN layer, at the output of the last residual block, is enough for much larger"
            " learning rates."
        ),
        quantity=(
            "share of BN's gain in the logarithm of the largest usable learning rate that BN at the"
            " last layer alone brings"
        ),
        measure=rate_share,
        bound=0.5,
    ),
    Claim(
        id="bjorck.sec3_1.last_accuracy",
        paper=PAPER,
        section="3.1",
        statement="One BN layer at the last layer brings most of BN's gain in accuracy.",
        quantity=(
            "share of BN's gain in last test accuracy that BN at the last layer alone brings, each"
            " network at its tuned rate"
        ),
        measure=accuracy_share,
        bound=0.5,
    ),
    Claim(
        id="karakida.last_layer",
        paper="Karakida, Akaho & Amari 2019",
        section="abstract",
        statement=(
            "BN at the last layer makes the landscape much less sharp; BN in the middle layers does"
            " not."
        ),
        quantity=(
            "largest usable learning rate with BN at the last layer only, divided by that with BN"
            " at one convolution only, geometric mean over the convolutions"
        ),
        measure=last_against_others,
        bound=1.0,
        scale="log",
        digits=1,
        unit="×",
    ),
)
