"""Ioffe & Szegedy's section 2, statistics outside the gradient: what its table says.

The claims, their measures and bounds were written before the recorded runs.
"""

import math
from typing import Any

import numpy as np
import pandas as pd

from bnbook.evidence import claims
from bnbook.evidence.claims import TIMES, Claim, Premise, exact
from bnbook.tables import tuning
from bnbook.tables.arms import MEAN_OUTSIDE, OUTSIDE, VARIANCE_OUTSIDE, WITH, WITHOUT

PAPER = "Ioffe & Szegedy 2015"
BIAS, SCALE, ROUNDING, NETWORK = "bias", "scale", "rounding", "network"
"""The cases of the table: section 2's example, the same with a scale, a layer's rounding against
the size of the bias, and networks."""
CONSTANT, SLOPED = "constant", "sloped"
"""Targets of the example with a scale: the same number for every example, or one that grows with
the layer's input."""
FAILED = 0.2
"""A run that ends below this test accuracy, twice that of guessing, has blown up."""
TOLERANCE = 1e-12
"""Relative error that the example, in float64, may have."""
NOTICEABLE = 0.01
"""Error of a normalised value, in standard deviations, from which we call it noticeable."""
SHORT = {
    WITHOUT: "without", WITH: "with", OUTSIDE: "outside", MEAN_OUTSIDE: "mean_outside",
    VARIANCE_OUTSIDE: "variance_outside",
}  # fmt: skip
"""Names of the arms in facts."""


def case(table: pd.DataFrame, name: str) -> pd.DataFrame:
    """Rows of one case of the table."""
    return table[table["case"] == name]


def networks(table: pd.DataFrame, affine: bool = True) -> pd.DataFrame:
    """Rows of the networks whose BN has the affine pair, or of those whose BN has not."""
    rows = case(table, NETWORK)
    return rows[rows["affine"].astype(bool) == affine]


def tuned_rates(table: pd.DataFrame, affine: bool = True) -> dict[str, float]:
    """Each arm's learning rate: best final validation accuracy, averaged over seeds."""
    return tuning.tuned_rates(networks(table, affine), tuple(SHORT))


def example_errors(table: pd.DataFrame) -> pd.Series:
    r"""Errors of section 2's example against its closed form, per seed."""
    runs = case(table, BIAS)
    found: dict[tuple[Any, str], float] = {}
    for seed, rows in runs.groupby("seed"):
        outside, inside = (rows[rows["arm"] == arm].sort_values("step") for arm in (OUTSIDE, WITH))
        later = outside[outside["step"] > 0]
        per_step = later["expected"] / later["step"]
        moved = outside["bias"].diff().dropna() / outside["step"].diff().dropna()
        first = outside["loss"].iloc[0]
        found |= {
            (seed, "bias"): (later["bias"] / later["expected"] - 1).abs().max(),
            (seed, "step"): (moved / per_step - 1).abs().max(),
            (seed, "loss"): (outside["loss"] / first - 1).abs().max(),
            (seed, "gradient inside"): (
                inside["gradient"].abs().max() / (outside["gradient"].abs().min() or math.nan)
            ),
        }
    return pd.Series(found).rename_axis(["seed", "checked"])


def displacement(table: pd.DataFrame, target: str) -> pd.DataFrame:
    """How far the parameters are from where they began after the last step, with the scale."""
    rows = case(table, SCALE)
    rows = rows[(rows["arm"] == OUTSIDE) & (rows["target"] == target)]
    first, last = (
        rows[rows["step"] == step].set_index(["seed", "draw"])[["weight", "bias"]]
        for step in (rows["step"].min(), rows["step"].max())
    )
    distances: pd.Series = (last - first).pow(2).sum(axis=1).pow(0.5)
    return pd.DataFrame(distances.unstack("draw"))


def worsening(table: pd.DataFrame) -> pd.Series:
    """Displacement with the scale divided by that of b alone, same target and steps, per seed.

    The geometric mean over the draws of u.
    """
    alone = tuning.final(case(table, BIAS))
    bias = alone[alone["arm"] == OUTSIDE].set_index("seed")["bias"].abs()
    return pd.Series(_typical(displacement(table, CONSTANT)) / bias)


def surviving_accuracy(table: pd.DataFrame) -> pd.Series:
    """Final test accuracy, in percent, statistics outside, at the rate tuned with BN, per seed."""
    rate = tuned_rates(table)[WITH]
    final = tuning.final_by_arm(networks(table), {OUTSIDE: rate}, "test_accuracy")
    return pd.Series(100 * final[OUTSIDE])


def growth_exponent(runs: pd.DataFrame, column: str, arm: str, rate: float) -> pd.Series:
    r"""Exponent :math:`\log_2(v(n) / v(n/2))` of a column's growth over a run's last half."""
    one = tuning.at_rates(runs, {arm: rate})
    curves = one.pivot_table(index="step", columns="seed", values=column)
    last = int(curves.index.max())
    return pd.Series(np.log2(curves.loc[last] / curves.loc[last // 2]))


def bias_growth(table: pd.DataFrame) -> pd.Series:
    """`growth_exponent` of the biases before BN, statistics outside, at that arm's own rate."""
    rate = tuned_rates(table)[OUTSIDE]
    return growth_exponent(networks(table), "bias_norm", OUTSIDE, rate)


def _closed(table: pd.DataFrame) -> claims.Finding:
    worst = float(example_errors(table).max())
    return worst < TOLERANCE, f"{worst:.1e}", f"below {TOLERANCE:g}"


def _inside(arm: str) -> Premise:
    return Premise(
        "the rate is no end of the grid",
        lambda table: tuning.inside(networks(table), {arm: tuned_rates(table)[arm]}),
    )


def _learns(arm: str, percent: float) -> Premise:
    def check(table: pd.DataFrame) -> claims.Finding:
        final = tuning.final_by_arm(networks(table), tuned_rates(table), "test_accuracy")
        return claims.at_least(100 * float(final[arm].mean()), percent, " %")

    return Premise(f"the network {arm} learns at this rate: {percent:.0f} % or more", check)


CLAIMS = (
    exact(
        id="ioffe.sec2.bias_divergence",
        paper=PAPER,
        section="2",
        statement="When the gradient step ignores how the mean depends on the bias, the bias grows"
        " without end while output and loss stay as they are; with the derivative it does not"
        " move.",
        quantity="largest relative error, in float64, of the example against its closed form: of"
        " the bias, of its change in each step, of the constancy of the loss, and of the zero"
        " gradient when the mean is inside",
        measure=example_errors,
        bound=TOLERANCE,
    ),
    Claim(
        id="ioffe.sec2.scale_worse",
        paper=PAPER,
        section="2",
        statement="It gets worse when the normalisation scales as well.",
        quantity="distance that the example's parameters are carried in the same number of steps,"
        " with the scale divided by without, constant target",
        measure=worsening,
        bound=1.0,
        premises=(Premise("without the scale the example follows its closed form", _closed),),
        revised=claims.LATER,
        **TIMES,
    ),
    Claim(
        id="ioffe.sec2.network_divergence",
        paper=PAPER,
        section="2",
        statement="A model whose statistics are computed outside the gradient step blows up.",
        quantity="final test accuracy of the network with statistics outside the gradient, at the"
        " learning rate that is best with BN; below twice that of guessing counts as blown up",
        measure=surviving_accuracy,
        bound=100 * FAILED,
        direction="below",
        digits=1,
        unit=" %",
        premises=(_inside(WITH), _learns(WITH, 95.0)),
        revised=claims.LATER,
    ),
    Claim(
        id="ioffe.sec2.network_growth",
        paper=PAPER,
        section="2, the example carried over to a network",
        statement="The biases before BN grow on and on when the statistics are outside.",
        quantity="exponent of the growth of the biases' norm over the last half of training,"
        " statistics outside, at that network's own best rate: 1 is constant speed, 0 is"
        " standstill, 1/2 is a random walk",
        measure=bias_growth,
        bound=0.5,
        premises=(_inside(OUTSIDE), _learns(OUTSIDE, 50.0)),
        revised=claims.LATER,
    ),
)


def line_error(table: pd.DataFrame) -> pd.Series:
    """Largest relative distance of b from its straight line in w, sloped target, per seed."""
    rows = case(table, SCALE)
    rows = rows[(rows["arm"] == OUTSIDE) & (rows["target"] == SLOPED) & (rows["step"] > 0)]
    return pd.Series((rows["bias"] / rows["line"] - 1).abs().groupby(rows["seed"]).max())


def noticeable_bias(table: pd.DataFrame) -> pd.DataFrame:
    """Smallest bias whose rounding error is noticeable, per seed (index) and precision."""
    rows = case(table, ROUNDING)
    far = rows[rows["error"] > NOTICEABLE]
    return far.pivot_table(index="seed", columns="precision", values="bias", aggfunc="min")


def unnoticed_bias(table: pd.DataFrame) -> pd.DataFrame:
    """Largest bias tried below `noticeable_bias`, per seed (index) and precision."""
    first = noticeable_bias(table).melt(ignore_index=False, value_name="first").reset_index()
    rows = case(table, ROUNDING).merge(first, on=["seed", "precision"])
    near = rows[rows["bias"] < rows["first"]]
    return near.pivot_table(index="seed", columns="precision", values="bias", aggfunc="max")


def facts(table: pd.DataFrame) -> claims.Facts:
    """Return the numbers that the chapter quotes beside the claims."""
    return {**_example_facts(table), **_rounding_facts(table), **_network_facts(table)}


def _example_facts(table: pd.DataFrame) -> claims.Facts:
    alone = case(table, BIAS)
    outside = alone[alone["arm"] == OUTSIDE]
    last = tuning.final(outside)
    scaled = case(table, SCALE)
    sloped = scaled[(scaled["arm"] == OUTSIDE) & (scaled["target"] == SLOPED)]
    end = tuning.final(sloped)
    inside = tuning.final(scaled[scaled["arm"] == WITH])
    still = np.hypot(inside["bias"], inside["weight"] - 1)
    return {
        "example_steps": claims.count(outside["step"].max()),
        "example_bias": claims.fact([last["bias"].mean()], 1),
        "example_step": claims.fact([last["bias"].mean() / last["step"].max()], 1),
        "constant_distance": claims.fact(_typical(displacement(table, CONSTANT)), 0),
        "sloped_distance": claims.fact(_typical(displacement(table, SLOPED)), 1),
        "inside_distance": claims.fact([float(still.max())], None),
        "line_error": claims.fact([line_error(table).max()], None),
        "sloped_weight": claims.fact(end.groupby("seed")["weight"].mean(), 2),
        "sloped_root": claims.fact(end.groupby("seed")["root"].mean(), 2),
    }


def _typical(distance: pd.DataFrame) -> pd.Series:
    """Geometric mean over the draws, per seed."""
    return pd.Series(np.exp(np.log(distance).mean(axis=1)))


def _geometric(values: pd.Series) -> float:
    return math.exp(float(np.log(values).mean()))


def _rough(number: float) -> float:
    """Keep two digits of a number that is known no better: where a curve passes a level."""
    return float(f"{number:.1e}")


def _rounding_facts(table: pd.DataFrame) -> claims.Facts:
    alone = case(table, BIAS)
    last = tuning.final(alone[alone["arm"] == OUTSIDE])
    per_step = float((last["bias"] / last["step"]).mean())
    found: claims.Facts = {}
    quiet = unnoticed_bias(table)
    for name, biases in noticeable_bias(table).items():
        typical = _geometric(biases)
        found |= {
            f"{name}_below": claims.count(_rough(_geometric(quiet[name]))),
            f"{name}_noticeable": claims.count(_rough(typical)),
            f"{name}_steps": claims.count(_rough(typical / per_step)),
        }
    return found


def _network_facts(table: pd.DataFrame) -> claims.Facts:
    runs = networks(table)
    grid = sorted(runs["learning_rate"].unique())
    rates = tuned_rates(table)
    tuned = tuning.final_by_arm(runs, rates, "test_accuracy")
    at_best = runs[runs["learning_rate"] == rates[WITH]]
    found = {
        "steps": claims.count(runs["step"].max()),
        "seeds": claims.count(runs["seed"].nunique()),
        "rates": claims.count(len(grid)),
        "smallest_rate": claims.fact([grid[0]], 2),
        "largest_rate": claims.fact([grid[-1]], 0),
        "infinite": claims.count(_infinite(case(table, NETWORK))),
        "largest_offset": claims.fact([case(table, NETWORK)["offset"].max()], 0),
        "common_offset": claims.fact([at_best["offset"].max()], 0),
    }
    for arm, name in SHORT.items():
        if arm == WITHOUT or arm not in rates:
            continue
        found[f"{name}_rate"] = claims.fact([rates[arm]], _decimals(rates[arm]))
        found[f"{name}_accuracy"] = claims.fact(100 * tuned[arm], 2, " %")
        if arm != WITH:
            gap = 100 * (tuned[WITH] - tuned[arm])
            found[f"{name}_gap"] = claims.fact(gap, 2, " points")
    plain, plain_rates = networks(table, affine=False), tuned_rates(table, affine=False)
    for arm in [arm for arm in (WITH, OUTSIDE) if arm in rates]:
        found |= _at_common_rate(runs, arm, rates[WITH])
        found[f"{SHORT[arm]}_survives"] = _survives(runs, arm, "test_accuracy")
        found[f"plain_{SHORT[arm]}_survives"] = _survives(plain, arm, "test_accuracy")
    if OUTSIDE in plain_rates:
        growth = growth_exponent(plain, "bias_norm", OUTSIDE, plain_rates[OUTSIDE])
        found["plain_outside_growth"] = claims.fact(growth, 2)
    return found | {"outside_batch_survives": _survives(runs, OUTSIDE, "batch_accuracy")}


def _infinite(runs: pd.DataFrame) -> int:
    """Count the runs whose loss did not stay finite."""
    return int((tuning.final(runs)["diverged_at"] >= 0).sum())


def _at_common_rate(runs: pd.DataFrame, arm: str, rate: float) -> claims.Facts:
    """Return one arm's numbers at the rate that is best with BN."""
    shared = tuning.final(tuning.at_rates(runs, {arm: rate})).set_index("seed")
    found = {
        "accuracy": claims.fact(100 * shared["test_accuracy"], 1, " %"),
        "batch": claims.fact(100 * shared["batch_accuracy"], 1, " %"),
        "bias": claims.fact([_geometric(shared["bias_norm"])], None),
        "weight": claims.fact([_geometric(shared["weight_norm"])], 0),
        "lag": claims.fact([_geometric(shared["lag"])], 2),
    }
    return {f"{SHORT[arm]}_common_{name}": fact for name, fact in found.items()}


def _survives(runs: pd.DataFrame, arm: str, column: str) -> claims.Fact:
    last = last_surviving_rate(runs, arm, column)
    return claims.fact([last] if last else [], _decimals(last or 1))


def last_surviving_rate(
    runs: pd.DataFrame, arm: str, column: str = "test_accuracy"
) -> float | None:
    """Return the largest rate up to which no seed blows up, above the first where none does."""
    last = tuning.final(runs)
    worst = last[last["arm"] == arm].groupby("learning_rate")[column].min()
    standing = worst.index[worst >= FAILED]
    if standing.empty:
        return None
    failing = worst.index[(worst < FAILED) & (worst.index > standing[0])]
    return float(standing[standing < failing[0]][-1] if len(failing) else standing[-1])


def _decimals(rate: float) -> int:
    return max(0, -math.floor(math.log10(rate) + 1e-9))
