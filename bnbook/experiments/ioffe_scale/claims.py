"""Section 3.3's scale invariance: what its table says.

The claims, their measures and bounds were written before the recorded runs.
"""

import pandas as pd

from bnbook.evidence import claims
from bnbook.evidence.claims import exact

PAPER = "Ioffe & Szegedy 2015"
NEGLECTED, RESCALED, FIXED = "neglected", "rescaled", "fixed"
"""What becomes of eps when W becomes aW: next to nothing throughout, eps / a^2 for W, the same."""
IDENTITIES = ("output", "input_gradient", "weight_gradient")
"""The three equations of section 3.3, columns of the table."""
ROUNDING = 1e-12
"""Bound of the exact claims: relative errors in float64 that pass for rounding."""


def invariance_errors(table: pd.DataFrame) -> pd.Series:
    """Relative error of the three identities in each case, eps neglected or rescaled."""
    cases = table[table["rule"].isin((NEGLECTED, RESCALED))]
    return _by_case(cases, list(IDENTITIES))


def departure_errors(table: pd.DataFrame) -> pd.Series:
    """Relative error of the closed form of BN(aWu) at a fixed eps, one value for each case."""
    return _by_case(table[table["rule"] == FIXED], ["closed_form"])


def orthogonality_errors(table: pd.DataFrame) -> pd.Series:
    """Cosine of weights and gradient, relative error of the norm after a step, eps neglected."""
    return _by_case(table[table["rule"] == NEGLECTED], ["cosine", "norm_after_step"])


def _by_case(cases: pd.DataFrame, columns: list[str]) -> pd.Series:
    keys = ["seed", "layer", "rule", "eps", "a"]
    return cases.set_index(keys)[columns].max(axis="columns", skipna=False)


CLAIMS = (
    exact(
        id="ioffe.sec3_3.scale_invariance",
        paper=PAPER,
        section="3.3",
        statement="A scale a > 0 of the weights does not change BN's output or its gradient with"
        " respect to the layer's input, and divides its gradient with respect to the weights by a.",
        quantity="largest relative error of the three equations, over a linear and a convolutional"
        " layer and factors from a millionth to a million, in float64, with eps neglected as in the"
        " paper, and with eps divided by the square of the factor",
        measure=invariance_errors,
        bound=ROUNDING,
    ),
    exact(
        id="ioffe.sec3_3.eps_departure",
        paper="this book",
        section="a consequence of 3.3",
        statement="With a fixed eps the output of the scaled layer is that of the layer itself,"
        " each feature times one number that follows from its variance, eps and the factor.",
        quantity="largest relative error of that closed form, over the same layers and factors, in"
        " float64",
        measure=departure_errors,
        bound=ROUNDING,
    ),
    exact(
        id="ioffe.sec3_3.orthogonal_gradient",
        paper="this book",
        section="a consequence of 3.3",
        statement="The gradient is orthogonal to the weights, so a step of SGD without decay adds"
        " the square of its length to their squared norm.",
        quantity="largest cosine between a feature's weights and their gradient, and largest"
        " relative error of the squared norm after a step, eps neglected, in float64",
        measure=orthogonality_errors,
        bound=ROUNDING,
    ),
)


def departure(table: pd.DataFrame, a: float, eps: float) -> pd.Series:
    """Relative change of the linear layer's output when W becomes aW at a fixed eps, per seed."""
    chosen = table[(table["rule"] == FIXED) & (table["layer"] == "linear") & (table["eps"] == eps)]
    return chosen[chosen["a"] == a].set_index("seed")["output"]


def facts(table: pd.DataFrame) -> claims.Facts:
    """Return the numbers that the chapter quotes beside the claims."""
    fixed = table[table["rule"] == FIXED]
    small, large = fixed["eps"].min(), fixed["eps"].max()
    found = {
        "seeds": claims.count(table["seed"].nunique()),
        "factors": claims.count(table["a"].nunique()),
    }
    for name, eps in (("small", small), ("large", large)):
        for word, a in (("tenth", 0.1), ("hundredth", 0.01), ("thousandth", 0.001)):
            changed = 100 * departure(table, a, eps)
            found[f"{name}_eps_{word}"] = claims.fact(changed, _digits(changed.mean()), " %")
    return found


def _digits(percent: float) -> int:
    """Decimals that leave two or three digits of a small number."""
    return next((d for d, least in ((1, 1.0), (3, 0.01)) if percent >= least), 6)
