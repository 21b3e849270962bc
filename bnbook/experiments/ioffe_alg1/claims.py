r"""Algorithm 1 and its backward equations: what the table of rounding errors says.

The claims, their measures and bounds were written before any recorded run. An error is divided by
the size that rounding gives it: with m values of a feature, and a condition number
:math:`1 + \max_i |x_i| / \sqrt{\sigma^2 + \epsilon}` that counts the digits lost when the mean
is subtracted, sums in float64 are known to a few :math:`m u`, where u = 1.1e-16. At most 512 values
make that some 1e-13, and the bound is 1e-12. A formula that is wrong in the first order, such as
one with m - 1 for m, is off by 1e-3 or more where the mean is small beside the spread.
"""

from functools import partial

import numpy as np
import pandas as pd

from bnbook.evidence import claims
from bnbook.evidence.claims import exact

BOUND = 1e-12
"""Largest error that counts as rounding; see the module."""
MOMENTS = ("mean", "mean square")
"""Checks of the normalised values: against 0 and against var / (var + eps)."""
BACKWARD = (
    "dx, autograd",
    "dx, complex step",
    "dx, one line",
    "dgamma, autograd",
    "dgamma, complex step",
    "dbeta, autograd",
    "dbeta, complex step",
    "zero term",
)
"""Checks of the six equations: what of, and the derivation that it is held against."""
CHECKS = (*MOMENTS, *BACKWARD)
THROUGH = ("sum", "sum of squares", "random cotangent")
"""Losses through which a gradient can be checked."""
TRUE = "six equations"
"""The candidate that is right."""
CUSTOMARY = 1e-3
"""A customary relative tolerance of gradient checks, that of ``torch.autograd.gradcheck``."""
ROUNDING = float(np.finfo(float).eps)


def errors(table: pd.DataFrame, checks: tuple[str, ...]) -> pd.Series:
    """Return the largest error of some checks in each case, a feature of one minibatch."""
    cases = table[table["check"].isin(checks)].groupby(["seed", "m", "feature"])["error"]
    # A maximum that skipped NaN would let an undefined gradient pass.
    return cases.agg(lambda found: found.max(skipna=False))


def trap(table: pd.DataFrame) -> pd.DataFrame:
    """Errors of right and wrong dx by the loss that they are checked through."""
    rows = table[table["check"].isin(THROUGH)]
    order = list(dict.fromkeys(rows["candidate"]))
    found = rows.pivot_table(index="candidate", columns="check", values="error", aggfunc="max")
    return found.loc[order, list(THROUGH)]


_exact = partial(exact, paper="Ioffe & Szegedy 2015", bound=BOUND)

CLAIMS = (
    _exact(
        id="ioffe.alg1.moments",
        section="3, after algorithm 1",
        statement="The normalised values of a minibatch have mean 0 and, if eps is neglected, mean"
        " square 1.",
        quantity="error of the normalised values' mean against 0 and of their mean square against"
        " its closed form, the larger, in units of one plus the largest value in standard"
        " deviations",
        measure=lambda table: errors(table, MOMENTS),
    ),
    _exact(
        id="ioffe.eq.backward",
        section="3, the six backward equations",
        statement="The six equations are the gradient of the transform.",
        quantity="largest difference of the six equations' gradients from those of autograd,"
        " complex steps and the formula of one line, and of the zero term from 0, for a random"
        " cotangent, relative to the size of the cotangent as it reaches each gradient, and in"
        " units of one plus the largest value in standard deviations",
        measure=lambda table: errors(table, BACKWARD),
    ),
)


def facts(table: pd.DataFrame) -> claims.Facts:
    """Return the numbers that the chapter quotes beside the claims."""
    checked = trap(table)
    wrong = checked.drop(index=TRUE)
    passes = (wrong < CUSTOMARY).sum()
    of_features = table[table["check"] == "mean square"]
    largest = of_features[of_features["m"] == of_features["m"].max()]
    ordinary = largest[(largest["std"] == 1) & (largest["mean"] == 0)]
    whole = (("moments", MOMENTS), ("backward", BACKWARD))
    return {
        "cases": claims.count(len(errors(table, MOMENTS))),
        "seeds": claims.count(table["seed"].nunique()),
        "smallest_m": claims.count(of_features["m"].min()),
        "largest_m": claims.count(of_features["m"].max()),
        "ordinary_shortfall": claims.fact(
            [1e6 * (1 - float(ordinary["value"].median()))], 0, " parts per million"
        ),
        "wrong": claims.count(len(wrong)),
        "wrong_pass_sum": claims.count(passes["sum"]),
        "wrong_pass_squares": claims.count(passes["sum of squares"]),
        "wrong_pass_cotangent": claims.count(passes["random cotangent"]),
        **{
            f"{name}_roundings": claims.fact([errors(table, checks).max() / ROUNDING], 0)
            for name, checks in whole
        },
    }
