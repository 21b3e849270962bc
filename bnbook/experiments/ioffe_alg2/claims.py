"""Algorithm 2 and BN of feature maps, exactly: what the table says.

The claims, their measures and bounds were written before the recorded runs.
"""

from functools import partial

import pandas as pd

from bnbook.evidence import claims
from bnbook.evidence.claims import exact

BOUND = 1e-12
"""Relative error below which two float64 computations of a few thousand terms count as equal."""

POPULATION = ("mean", "variance", "without the factor", "with replacement")
"""Checks of `ioffe.alg2.population`."""
CONV = ("feature maps", "shift")
"""Checks of `ioffe.sec3_2.conv`."""


def cases(table: pd.DataFrame, checks: tuple[str, ...]) -> pd.Series:
    """Errors of some checks, one per case."""
    rows = table[table["check"].isin(checks)]
    return rows.set_index(["seed", "check", "case", "m"])["error"]


def population_errors(table: pd.DataFrame) -> pd.Series:
    """Errors of Algorithm 2's averages over all minibatches, one per case."""
    return cases(table, POPULATION)


def conv_errors(table: pd.DataFrame) -> pd.Series:
    """Errors of BN of feature maps against BN of the flattened values, one per case."""
    return cases(table, CONV)


_exact = partial(exact, paper="Ioffe & Szegedy 2015", bound=BOUND)

CLAIMS = (
    _exact(
        id="ioffe.alg2.population",
        section="3.1, Algorithm 2",
        statement="Averaged over minibatches of the frozen network, the batch mean and m/(m-1)"
        " times the batch variance are unbiased: they give the population's mean and variance.",
        quantity="relative difference between Algorithm 2's statistics, averaged over all"
        " minibatches of size m that N examples have, and the mean and the variance of the N"
        " examples, that with 1/(N-1) where a minibatch holds no example twice and with 1/N where"
        " it may; and between their ratio without the factor and (m-1)/m",
        measure=population_errors,
    ),
    _exact(
        id="ioffe.sec3_2.conv",
        section="3.2",
        statement="For feature maps of p x q positions BN is Algorithm 1 over the m' = m p q values"
        " of each map, with one gamma and beta a map, and treats all positions alike.",
        quantity="relative difference, in outputs, all three gradients and running statistics,"
        " between BN of feature maps and BN of the array of m' rows; and between BN of shifted maps"
        " and shifted BN of the maps",
        measure=conv_errors,
    ),
)


def facts(table: pd.DataFrame) -> claims.Facts:
    """Return the numbers that the chapter quotes beside the claims."""
    rounding = table[table["check"].isin(["fold", "bias", "evaluation"])]
    found = {
        "seeds": claims.count(table["seed"].nunique()),
        "minibatches": claims.count(table.loc[table["check"] == "variance", "count"].max()),
        "per_position_shift": claims.fact(
            table.loc[table["check"] == "shift, one pair a position", "error"], 2
        ),
    }
    worst = rounding.groupby("case")["error"].max()
    for case in ("fold linear float32", "fold conv float32", "bias output", "evaluation alone"):
        found[case.replace(" ", "_")] = claims.fact([float(worst[case])], 1)
    noise = mates(table)
    for name, m, column in (
        ("mates_8", 8, "value"), ("mates_theory_8", 8, "theory"), ("mates_64", 64, "value"),
    ):  # fmt: skip
        found[name] = claims.fact(noise.loc[noise.index == m, column], 2)
    return found


def mates(table: pd.DataFrame) -> pd.DataFrame:
    """Spread of a training output over batch mates, mean over seeds, and its theory, by m."""
    rows = table[table["check"] == "mates"]
    return rows.groupby("m")[["value", "theory"]].mean()
