"""The effective learning rate: what its table says.

The claims, their measures and bounds were written before the recorded runs.
"""

from collections.abc import Iterable

import numpy as np
import pandas as pd

from bnbook.evidence import claims
from bnbook.evidence.claims import TIMES, Claim, Premise, control, exact
from bnbook.tables import tuning
from bnbook.tables.arms import DECAYED, WITH, WITHOUT
from bnbook.tables.start import geometric

REFERENCE, COUNTERPART, UNSCALED = "reference", "rate and decay rescaled", "weights scaled alone"
"""The invariant network: as it is; weights times a, rate times a^2, decay over a^2; weights times a
alone."""
INVARIANT = "every weight normalised"
"""The arm of the rows of these three; their ``role`` says which, that of all others is empty."""
SETTLED = 2.0
"""Rate times decay times steps from which a run counts as long enough to be in equilibrium."""
BURST = 1000.0
"""Factor of the squared norm over a run from which the weights count as having burst."""
LATE = 0.75
"""Share of the steps after which the angles of the equilibrium are measured."""


def norm_growth(table: pd.DataFrame, arm: str) -> pd.DataFrame:
    """Growth of the squared norm of the hidden weights over a run without decay."""
    runs = table[(table["arm"] == arm) & (table["weight_decay"] == 0)]
    keys = ["seed", "learning_rate", "scale"]
    last = tuning.final(runs).set_index(keys)
    start = runs[runs["step"] == 0].set_index(keys)["squared_norm"]
    grown = (last["squared_norm"] - start).where(last["diverged_at"] < 0)
    return grown.unstack("scale")


def growth_ratio(table: pd.DataFrame, arm: str = WITH) -> pd.Series:
    """Growth of the squared norm from the largest initial weights over that from the smallest."""
    grown = norm_growth(table, arm)
    ratio = grown[grown.columns.max()] / grown[grown.columns.min()]
    return _geometric(ratio.where(ratio > 0))


def _geometric(values: pd.Series) -> pd.Series:
    """Geometric mean over all but the seed; NaN where a value is missing."""
    logs = pd.Series(np.log(values.astype(float))).groupby("seed")
    return pd.Series(np.exp(logs.mean())).where(logs.count() == logs.size())


def final_distance(table: pd.DataFrame) -> pd.DataFrame:
    """Distance of the invariant network's scores from the reference's after the last step."""
    runs = table[table["role"].isin((COUNTERPART, UNSCALED))]
    keys = ["seed", "reference_decay", "role"]
    return tuning.final(runs).set_index(keys)["distance"].unstack("role")


def rescaling_ratio(table: pd.DataFrame) -> pd.Series:
    """`final_distance` of the counterpart over that at the rate left as it was, per seed."""
    distance = final_distance(table)
    floor = np.finfo(float).tiny  # the two may agree to the last bit
    return _geometric(distance[COUNTERPART].clip(lower=floor) / distance[UNSCALED])


def late_angles(table: pd.DataFrame) -> pd.DataFrame:
    r"""Angle of a late step of the settled runs with decay, and its expectation."""
    runs = table[table["arm"] == DECAYED]
    steps = runs["step"].max()
    product = runs["learning_rate"] * runs["weight_decay"]
    late = runs[(runs["step"] >= LATE * steps) & (product * steps >= SETTLED)]
    squared = late["angle"] ** 2
    keys = ["seed", "learning_rate", "weight_decay"]
    angle = np.sqrt(squared.groupby([late[key] for key in keys]).mean())
    found = angle.rename("angle").reset_index()
    found["expected"] = np.sqrt(2 * found["learning_rate"] * found["weight_decay"])
    indexed: pd.DataFrame = found.set_index(keys)
    return indexed


def equilibrium_error(table: pd.DataFrame) -> pd.Series:
    """Relative difference of `late_angles` from expectation, geometric mean over runs, per seed."""
    angles = late_angles(table)
    return (_geometric(angles["angle"] / angles["expected"]) - 1).abs()


def _whole(table: pd.DataFrame) -> claims.Finding:
    diverged = int(norm_growth(table, WITH).isna().sum().sum())
    return diverged == 0, f"{diverged} runs", "none"


def _enough(table: pd.DataFrame) -> claims.Finding:
    runs = late_angles(table).groupby("seed").size().min()
    return claims.at_least(float(runs), 3, " runs a seed")


CLAIMS = (
    Claim(
        id="ioffe.sec3_3.effective_rate",
        paper="Ioffe & Szegedy 2015",
        section="3.3",
        statement="Larger weights lead to smaller gradients, and so BN stabilises the growth of the"
        " parameters.",
        quantity="growth of the squared norm of the hidden weights over the run, from initial"
        " weights that are larger by the factor, divided by that from the usual ones, geometric"
        " mean over rates",
        measure=growth_ratio,
        bound=1.0,
        direction="below",
        digits=3,
        premises=(Premise("no run with BN diverges", _whole),),
        revised=claims.LATER,
        **TIMES,
    ),
    exact(
        id="laarhoven.l2.equivalence",
        paper="van Laarhoven 2017",
        section="L2 regularisation under normalisation",
        statement="L2 on normalised weights does not regularise: a loss with weights a times as"
        " large is that with a decay a squared times as large, so a scale of the weights is a"
        " change of rate and decay.",
        quantity="distance of the scores, after training, between a network and the one with"
        " weights times a, rate times a squared and decay over a squared, divided by the distance"
        " where the weights alone are scaled",
        measure=rescaling_ratio,
        bound=0.01,
    ),
    control(
        id="ioffe.sec3_3.equilibrium",
        section="a consequence of 3.3",
        statement="With weight decay the angle of a step settles at the square root of twice the"
        " rate times the decay, whatever the two are on their own.",
        quantity="relative difference, without sign, between the angle by which a late step turns"
        " the hidden weights and that root, geometric mean over the runs that were long enough",
        measure=equilibrium_error,
        bound=0.2,
        direction="below",
        digits=3,
        premises=(Premise("three runs or more of a seed are long enough", _enough),),
        revised=claims.LATER,
    ),
)


def tuned_products(table: pd.DataFrame) -> pd.DataFrame:
    """Best rate of each decay, by validation accuracy averaged over seeds."""
    last = tuning.final(table[table["arm"] == DECAYED])
    columns = ["validation_accuracy", "test_accuracy"]
    mean = last.groupby(["weight_decay", "learning_rate"])[columns].mean().reset_index()
    best = mean.loc[mean.groupby("weight_decay")["validation_accuracy"].idxmax()]
    best = best.rename(columns={"learning_rate": "rate"})
    return best.assign(product=best["rate"] * best["weight_decay"]).set_index("weight_decay")


def facts(table: pd.DataFrame) -> claims.Facts:
    """Return the numbers that the chapter quotes beside the claims."""
    networks = table[table["role"] == ""]
    plain = networks[networks["arm"] == WITH]
    products, angles = tuned_products(table), late_angles(table)
    distance = final_distance(table).groupby("seed").mean()
    spread = products["rate"].max() / products["rate"].min()
    return {
        "seeds": claims.count(table["seed"].nunique()),
        "steps": claims.count(networks["step"].max()),
        "rates": claims.count(plain["learning_rate"].nunique()),
        "decays": claims.count(products.index.nunique()),
        "scale": claims.fact([plain["scale"].max()], 0),
        "twin_steps": claims.count(table.loc[table["role"] != "", "step"].max()),
        "unscaled_distance": claims.fact(distance[UNSCALED], 3),
        "settled_runs": claims.fact([len(angles) / table["seed"].nunique()], 0),
        "best_rate_spread": claims.fact([spread], 0, "×"),
        "best_product_spread": claims.fact(
            [products["product"].max() / products["product"].min()], 0, "×"
        ),
        **_course(plain),
        **_ratios(table),
    }


def _ratios(table: pd.DataFrame) -> claims.Facts:
    """Growth from larger weights, held against that from the usual ones and against themselves."""
    usual, large = (
        {arm: norm_growth(table, arm)[scale].unstack("learning_rate") for arm in (WITH, WITHOUT)}
        for scale in _scales(table)
    )
    low, high = large[WITH].columns.min(), large[WITH].columns.max()
    start = table[(table["step"] == 0) & (table["scale"] == _scales(table)[1])]
    factor = {
        arm: 1
        + large[arm][high] / start[start["arm"] == arm].groupby("seed")["squared_norm"].mean()
        for arm in (WITH, WITHOUT)
    }
    return {
        "with_ratio_smallest_rate": _geometric_fact(large[WITH][low] / usual[WITH][low]),
        "with_ratio_largest_rate": _geometric_fact(large[WITH][high] / usual[WITH][high]),
        "without_ratio_smallest_rate": claims.fact(
            _finite(large[WITHOUT][low] / usual[WITHOUT][low]), 2, "×"
        ),
        "with_large_weights_factor": claims.fact(_finite(factor[WITH]), 2, "×"),
        "without_burst": claims.count((~(factor[WITHOUT] < BURST)).sum()),
    }


def _scales(table: pd.DataFrame) -> tuple[float, float]:
    """Return the usual and the largest scale of the initial weights."""
    scales = table.loc[table["role"] == "", "scale"]
    return float(scales.min()), float(scales.max())


def _geometric_fact(values: Iterable[float]) -> claims.Fact:
    """A ratio's geometric mean and its interval on the log scale, of the values above 0."""
    found = geometric((value for value in values if value > 0), 2, "×")
    return found if found["low"] is None or found["value"] < 10 else {**found, "digits": 0}


def _finite(values: Iterable[float]) -> list[float]:
    return [value for value in values if np.isfinite(value)]


def _course(plain: pd.DataFrame) -> claims.Facts:
    """Growth of the squared norm without decay: the factor by which the effective rate falls."""
    usual = plain[plain["scale"] == plain["scale"].min()].set_index(["seed", "learning_rate"])
    last = usual[usual["step"] == usual["step"].max()]["squared_norm"]
    factor = (last / usual[usual["step"] == 0]["squared_norm"]).unstack("learning_rate")
    rates = sorted(factor.columns)
    return {
        "smallest_rate_fall": claims.fact(_finite(factor[rates[0]]), 2, "×"),
        "largest_rate_fall": claims.fact(_finite(factor[rates[-1]]), 1, "×"),
    }
