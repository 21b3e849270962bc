"""Jacobians at initialisation: what their table says.

The claims, their measures and bounds were written before the recorded runs.
"""

import math

import numpy as np
import pandas as pd

from bnbook.evidence import claims
from bnbook.evidence.claims import Claim, Premise
from bnbook.formulas import gradient_growth_linear, gradient_growth_relu
from bnbook.tables.arms import RESIDUAL, WITH, WITHOUT

NONLINEARITIES = ("linear", "sigmoid", "tanh", "ReLU")
GAUSSIAN, ORTHOGONAL = "gaussian", "orthogonal"
"""How the weights are drawn."""
LAYER, NETWORK, BATCH, GRADIENT = "layer", "network", "batch", "gradient"
"""What a row measures: the singular values of one layer's Jacobian or of all up to it, at one
example; those of a layer's Jacobian with respect to the whole batch; a layer's gradient."""
TOLERANCE = 0.05
"""Relative difference from pi / (pi - 1) at which the growth still counts as that of theory."""


def layer_spread(table: pd.DataFrame) -> pd.DataFrame:
    """Median over layers and examples of s_90 / s_10 of the BN networks' layers."""
    rows = spectra(table, LAYER)
    return rows.assign(spread=rows["s90"] / rows["s10"]).pivot_table(
        index="seed", columns="nonlinearity", values="spread", aggfunc="median"
    )


def spectra(
    table: pd.DataFrame, measured: str, arm: str = WITH, weights: str = GAUSSIAN
) -> pd.DataFrame:
    """Rows of singular values of one kind of Jacobian, arm and weights."""
    chosen = (table["measured"] == measured) & (table["arm"] == arm)
    return table[chosen & (table["weights"] == weights)]


def least_spread(table: pd.DataFrame) -> pd.Series:
    """`layer_spread` of the nonlinearity that has the least, per seed."""
    return layer_spread(table).min(axis="columns", skipna=False)


def growth(table: pd.DataFrame) -> pd.Series:
    """Growth of the squared gradient norm a layer towards the input, of every network."""
    keys = ["arm", "nonlinearity", "width", "batch", "seed"]
    rows = table[table["measured"] == GRADIENT]
    found = {
        key: math.exp(-np.polyfit(run["layer"], np.log(run["squared_gradient"]), 1)[0])
        for key, run in rows.groupby(keys)
    }
    index = pd.MultiIndex.from_tuples(list(found), names=keys)
    return pd.Series(list(found.values()), index=index)


def relu_growth(table: pd.DataFrame) -> pd.Series:
    """`growth` of the widest ReLU network with BN at its largest batch, per seed."""
    found = growth(table).reset_index(name="growth")
    found = found[(found["arm"] == WITH) & (found["nonlinearity"] == "ReLU")]
    widest = found[found["width"] == found["width"].max()]
    largest = widest[widest["batch"] == widest["batch"].max()]
    return pd.Series(largest.set_index("seed")["growth"])


def relu_departure(table: pd.DataFrame) -> pd.Series:
    """Relative difference of `relu_growth` from pi / (pi - 1), without sign, per seed."""
    return (relu_growth(table) / gradient_growth_relu() - 1).abs()


def expected_growth(nonlinearity: str) -> float:
    r"""Growth of the squared gradient a layer in the limit of wide layers and large batches.

    .. math::
        \frac{\mathrm{E}[g'(z)^2]}{\mathrm{Var}[g(z)]}, \quad z \sim N(0, 1)

    Derived here: the input of the nonlinearity is normalised, W spreads the gradient evenly, and
    BN divides by the deviation of Wu. Never below 1 (the Gaussian Poincare inequality), and 1 for
    linear g alone. For ReLU it is `bnbook.formulas.gradient_growth_relu`.
    """
    if nonlinearity == "ReLU":
        return gradient_growth_relu()
    z, weight = np.polynomial.hermite_e.hermegauss(201)
    weight = weight / weight.sum()
    if nonlinearity == "sigmoid":
        g = 1 / (1 + np.exp(-z))
        slope = g * (1 - g)
    else:
        g, slope = (np.tanh(z), 1 - np.tanh(z) ** 2) if nonlinearity == "tanh" else (z, z**0)
    variance = weight @ g**2 - (weight @ g) ** 2
    return float(weight @ slope**2 / variance)


def _wide(table: pd.DataFrame) -> claims.Finding:
    return claims.at_least(float(table.loc[table["measured"] == LAYER, "width"].max()), 64)


def _limit(table: pd.DataFrame) -> claims.Finding:
    rows = table[table["measured"] == GRADIENT]
    return claims.at_least(float(min(rows["width"].max(), rows["batch"].max())), 128)


LIMIT = Premise("width and batch are 128 or more, near the limit of wide layers", _limit)


CLAIMS = (
    Claim(
        id="ioffe.sec3_3.jacobian",
        paper="Ioffe & Szegedy 2015",
        section="3.3",
        statement="A conjecture: BN may lead the layers' Jacobians to have singular values close to"
        " 1.",
        quantity="90th percentile of a layer's singular values divided by the 10th, zeros left out,"
        " at initialisation: median over layers and examples, of the nonlinearity with the least",
        measure=least_spread,
        bound=2.0,
        direction="below",
        scale="log",
        digits=1,
        premises=(Premise("the layers have 64 features or more", _wide),),
        revised=claims.LATER,
    ),
    Claim(
        id="yang.gradient_explosion",
        paper="Yang et al. 2019",
        section="gradient explosion",
        statement="At initialisation the gradients of BN networks without skips grow exponentially"
        " towards the first layer.",
        quantity="growth of the squared gradient norm a layer towards the input, ReLU and BN,"
        " widest network, largest batch",
        measure=relu_growth,
        bound=1.0,
        scale="log",
        digits=3,
        premises=(LIMIT,),
        revised=claims.LATER,
    ),
    Claim(
        id="yang.relu.rate",
        paper="Yang et al. 2019",
        section="gradient explosion, as summarised by others",
        statement="With ReLU the squared gradient grows by π/(π − 1) a layer.",
        quantity="relative difference, without sign, of the growth from π/(π − 1), widest network,"
        " largest batch",
        measure=relu_departure,
        bound=TOLERANCE,
        direction="below",
        digits=4,
        premises=(LIMIT,),
        revised=claims.LATER,
    ),
)


def facts(table: pd.DataFrame) -> claims.Facts:
    """Return the numbers that the chapter quotes beside the claims."""
    return {
        **_setting(table),
        **_spectrum_facts(table),
        **_growth_facts(table),
        **_linear_facts(table),
    }


def _setting(table: pd.DataFrame) -> claims.Facts:
    gradients, layers = (table[table["measured"] == kind] for kind in (GRADIENT, LAYER))
    return {
        "seeds": claims.count(table["seed"].nunique()),
        "width": claims.count(layers["width"].max()),
        "depth": claims.count(layers["layer"].max()),
        "batch": claims.count(layers["batch"].max()),
        "gradient_width": claims.count(gradients["width"].max()),
        "gradient_depth": claims.count(gradients["layer"].max()),
        "gradient_batch": claims.count(gradients["batch"].max()),
    }


def _spectrum_facts(table: pd.DataFrame) -> claims.Facts:
    found: claims.Facts = {}
    spread = layer_spread(table)
    for g in NONLINEARITIES:
        found[f"{g.lower()}_spread"] = claims.fact(spread[g], 1)
    rms, zeros = (
        spectra(table, LAYER).pivot_table(index="seed", columns="nonlinearity", values=column)
        for column in ("rms", "zeros")
    )
    for g in ("linear", "sigmoid"):
        found[f"{g}_rms"] = claims.fact(rms[g], 2)
    found["relu_zeros"] = claims.fact(100 * zeros["ReLU"], 0, " %")
    whole = spectra(table, BATCH)
    whole = whole[whole["nonlinearity"] == "linear"]
    found["linear_batch_spread"] = claims.fact(whole["s90"] / whole["s10"], 1)
    orthogonal = spectra(table, LAYER, weights=ORTHOGONAL)
    ratio = (orthogonal["s90"] / orthogonal["s10"]).groupby(orthogonal["seed"]).median()
    plain = spectra(table, LAYER, arm=WITHOUT)
    plain = plain[plain["nonlinearity"] == "linear"]
    bare = (plain["s90"] / plain["s10"]).groupby(plain["seed"]).median()
    return found | {
        "orthogonal_spread": claims.fact(ratio, 2),
        "linear_without_spread": claims.fact(bare, 1),
    }


def _growth_facts(table: pd.DataFrame) -> claims.Facts:
    grown = growth(table).reset_index(name="growth")
    relu = grown[(grown["arm"] == WITH) & (grown["nonlinearity"] == "ReLU")]
    narrow = relu[relu["width"] == relu["width"].min()]
    found = {
        "relu_norm_growth": claims.fact(np.sqrt(relu_growth(table)), 3),
        "narrowest_width": claims.count(relu["width"].min()),
        "narrowest_growth": claims.fact(narrow.groupby("seed")["growth"].mean(), 3),
    }
    shown = {
        "with": (WITH, ("linear", "tanh", "sigmoid")),
        "without": (WITHOUT, ("ReLU", "sigmoid")),
    }
    for name, (arm, nonlinearities) in shown.items():
        for g in nonlinearities:
            own = grown[(grown["arm"] == arm) & (grown["nonlinearity"] == g)]
            own = own[(own["width"] == own["width"].max()) & (own["batch"] == own["batch"].max())]
            found[f"{name}_{g.lower()}_growth"] = claims.fact(own["growth"], 3)
    for g in ("tanh", "sigmoid"):
        found[f"{g}_expected"] = claims.fact([expected_growth(g)], 3)
    return {**found, "residual_late_growth": claims.fact(_late_growth(table), 3)}


def _late_growth(table: pd.DataFrame) -> pd.Series:
    """Growth a layer through the last half of the network with skips, per seed."""
    rows = table[(table["measured"] == GRADIENT) & (table["arm"] == RESIDUAL)]
    square = rows.pivot_table(index="seed", columns="layer", values="squared_gradient")
    last = int(square.columns.max())
    half = last // 2
    return pd.Series((square[half] / square[last]) ** (1 / (last - half)))


def _linear_facts(table: pd.DataFrame) -> claims.Facts:
    grown = growth(table).reset_index(name="growth")
    grown = grown[(grown["arm"] == WITH) & (grown["nonlinearity"] == "linear")]
    grown = grown[grown["width"] == grown["width"].max()]
    found: claims.Facts = {}
    worst = 0.0
    for size, own in grown.groupby("batch")["growth"]:
        batch = int(str(size))
        if batch in (8, 32):
            found[f"linear_batch_{batch}"] = claims.fact(own, 3)
        worst = max(worst, abs(float(own.mean()) / gradient_growth_linear(batch) - 1))
    return {**found, "linear_formula_error": claims.fact([100 * worst], 1, " %")}
