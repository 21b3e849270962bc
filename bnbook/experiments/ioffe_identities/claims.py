r"""The identity, the singular covariance and the bias: what the table says.

The claims, their measures and bounds were written before any recorded run. An error is divided by
the size that rounding gives it: a sum of m terms in float64 is known to m u of their size, where
u = 1.1e-16, and taking the mean from a value loses as many digits as the value is larger than its
deviation. At most 256 values, 4,096 in feature maps, make that less than 1e-12, the bound. Without
eps in gamma the identity is off by 5e-6 for a feature of deviation 1. A rank is an integer.
"""

from functools import partial

import pandas as pd

from bnbook.evidence import claims
from bnbook.evidence.claims import exact

BOUND = 1e-12
"""Largest error that counts as rounding; see the module."""
IDENTITY, RANK, BIAS = "identity", "rank", "bias"
OTHERS, SPECTRUM, DISTANCES = "another minibatch", "spectrum", "whitened distances"
"""Checks of the table: three that are judged, three that are described."""


def cases(table: pd.DataFrame, check: str) -> pd.Series:
    """Return the errors of a check, one per case."""
    rows = table[table["check"] == check]
    return rows.set_index(["seed", "case", "m", "feature"])["error"]


_exact = partial(exact, paper="Ioffe & Szegedy 2015")

CLAIMS = (
    _exact(
        id="ioffe.sec3.identity",
        section="3, scale and shift",
        statement="With the square root of the variance for gamma and the mean for beta, BN is the"
        " identity: it can represent what was there before.",
        quantity="largest difference between output and input, with eps under the root, divided by"
        " the largest input plus the root of eps, over every feature of every minibatch",
        measure=lambda table: cases(table, IDENTITY),
        bound=BOUND,
    ),
    _exact(
        id="ioffe.sec3.singular",
        section="3, second simplification",
        statement="The joint covariance of a minibatch is singular when it has fewer examples than"
        " there are activations; its rank is at most one less than the number of examples.",
        quantity="difference between the rank of the covariance of m examples of d activations,"
        " computed in integers, and the smaller of m - 1 and d",
        measure=lambda table: cases(table, RANK),
        bound=0.5,
        digits=0,
    ),
    _exact(
        id="ioffe.sec3_2.bias",
        section="3.2",
        statement="The bias b of Wu + b can be left out: BN subtracts it with the mean.",
        quantity="largest change that a bias makes to BN's output, in training and with the"
        " statistics of training, and its gradient over the sum of the terms that cancel, both"
        " divided by one plus the largest input in deviations",
        measure=lambda table: cases(table, BIAS),
        bound=BOUND,
    ),
)


def facts(table: pd.DataFrame) -> claims.Facts:
    """Return the numbers that the chapter quotes beside the claims."""
    spectrum = spectra(table)
    width = int(table.loc[table["check"] == SPECTRUM, "feature"].iloc[0])
    other = table[table["check"] == OTHERS].groupby("m")[["value", "theory"]].mean()
    return {
        "seeds": claims.count(table["seed"].nunique()),
        "width": claims.count(width),
        "other_60": claims.fact([other["value"].get(60, float("nan"))], 2),
        "other_theory_60": claims.fact([other["theory"].get(60, float("nan"))], 2),
        "smallest_at_twice": claims.fact([spectrum["value"].get(2 * width, float("nan"))], 3),
    }


def spectra(table: pd.DataFrame) -> pd.DataFrame:
    """Smallest over largest eigenvalue by m, mean over seeds, and its limit for a wide layer."""
    rows = table[table["check"] == SPECTRUM]
    return rows.groupby("m")[["value", "theory"]].mean()
