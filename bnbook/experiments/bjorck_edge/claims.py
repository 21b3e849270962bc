"""The largest rate that trains: what its table says (Bjorck et al. 2018, section 4).

Claims, measures and bounds were written before the recorded runs. A pilot of fourteen runs on one
other seed had been seen; it fixed the length of the runs and what counts as training, and no bound.
The criterion of `bjorck.depth` and of the laws is that of an earlier record, of narrow networks on
a grid of rates.
"""

import math
from collections.abc import Callable
from functools import partial

import numpy as np
import pandas as pd

from bnbook.evidence import claims
from bnbook.evidence.claims import TIMES, Claim, Finding, Premise, control
from bnbook.experiments.bjorck_edge import search
from bnbook.tables.arms import WITH, WITHOUT
from bnbook.tables.start import DEEP, NAMES, PAPER, geometric, significant

LAWS = ("power", "exponential")
"""A power of the number of layers, 6n + 2, or an exponential in that of residual blocks, 3n."""
PREDICTIONS = {"classifier_rate": "classifier", "network_rate": "sharpness"}
"""Column with a predicted rate -> what it is predicted from, in ids and facts."""
DEPTHS, GAINS = (1, 3, 5, 9, 18), (0.5, 1.0, 1.4, 1.7, 2.0)
"""Residual blocks a stage, and gains at one depth, of the numbers that the chapter quotes."""
STEEPER = 0.003
"""Another `search.FALL`, in nats, to see how much hangs on it."""
SPAN = 2.0
"""Decades that the predictions must span for a slope to be read off."""


def by_depth(table: pd.DataFrame, arm: str, column: str = "rate") -> pd.DataFrame:
    """Return the edges of an arm with Xavier's weights: index seed, columns n, rising."""
    found = search.edges(table).reset_index()
    own = found[(found["arm"] == arm) & (found["gain"] == 1)]
    return own.pivot(index="seed", columns="n", values=column)


def abscissa(n: np.ndarray, law: str) -> np.ndarray:
    """Return what the logarithm of the rate is linear in: log of the layers, or the blocks."""
    return np.log(6 * n + 2) if law == "power" else 3.0 * n


def line(rates: pd.Series, law: str) -> tuple[float, float]:
    """Slope and intercept of a law for one seed, by least squares on the logarithm."""
    return _line(abscissa(rates.index.to_numpy(dtype=float), law), np.log(rates.to_numpy(float)))


def _line(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Slope and intercept of a line by least squares; NaN where a value or the line is missing."""
    if not len(x) or x.max() - x.min() <= 1e-9 * abs(x).max():
        return math.nan, math.nan
    centred = x - x.mean()
    slope = float(centred @ y / (centred @ centred))
    return slope, float(y.mean() - slope * x.mean())


def exponents(table: pd.DataFrame, arm: str) -> pd.Series:
    """Slope of the logarithm of the edge against that of depth, per seed."""
    return _each(by_depth(table, arm), lambda rates: line(rates, "power")[0])


def exponent_difference(table: pd.DataFrame) -> pd.Series:
    """`exponents` without BN minus with BN, per seed."""
    return pd.Series(exponents(table, WITHOUT) - exponents(table, WITH))


def errors(table: pd.DataFrame, arm: str) -> pd.DataFrame:
    """How far each law misses a depth that it was not fitted to: index seed, columns `LAWS`.

    Root of the mean square over depths of the error of the logarithm, in decades.
    """
    rates = by_depth(table, arm)
    return pd.DataFrame({law: _each(rates, partial(_left_out, law=law)) for law in LAWS})


def _each(rates: pd.DataFrame, value: Callable[[pd.Series], float]) -> pd.Series:
    """Apply a function to the edges of each seed."""
    found = {seed: value(row) for seed, row in rates.iterrows()}
    return pd.Series(found, dtype=float).rename_axis("seed")


def _left_out(rates: pd.Series, law: str) -> float:
    misses = []
    for n, rate in rates.items():
        slope, intercept = line(rates.drop(n), law)
        predicted = intercept + slope * abscissa(np.array(float(str(n))), law)
        misses.append(float(predicted - np.log(rate)) / np.log(10))
    return float(np.sqrt(np.mean(np.square(misses))))


def error_ratio(table: pd.DataFrame) -> pd.Series:
    """`errors` of the power law divided by those of the exponential, without BN, per seed.

    No number where the exponential misses by rounding alone.
    """
    found = errors(table, WITHOUT)
    return pd.Series(found["power"] / found["exponential"].where(found["exponential"] > 1e-9))


def rise(table: pd.DataFrame, n: int) -> pd.Series:
    """Edge with BN divided by the edge without, at one depth, per seed."""
    both = [by_depth(table, arm) for arm in (WITH, WITHOUT)]
    return pd.Series(both[0][n] / both[1][n]) if n in both[0] and n in both[1] else _nothing()


def deepest_rise(table: pd.DataFrame) -> pd.Series:
    """`rise` of the deepest network."""
    return rise(table, int(table["n"].max()))


def _nothing() -> pd.Series:
    return pd.Series(dtype=float)


def doses(table: pd.DataFrame) -> pd.DataFrame:
    """Return the edges without BN of the depth that runs with most gains."""
    found = search.edges(table).reset_index()
    found = found[found["arm"] == WITHOUT]
    if found.empty:
        return found
    n = found.groupby("n")["gain"].nunique().idxmax()
    return found[found["n"] == n]


def against_growth(table: pd.DataFrame) -> pd.Series:
    """Slope of the logarithm of the edge against that of the growth, one depth, per seed."""
    slopes = {}
    for seed, own in doses(table).groupby("seed"):
        slopes[seed] = _line(*(np.log(own[name].to_numpy(float)) for name in ("growth", "rate")))[0]
    return pd.Series(slopes, dtype=float).rename_axis("seed")


def fits(table: pd.DataFrame, prediction: str, arm: str = WITHOUT) -> pd.DataFrame:
    """Hold the edges of all networks of an arm against a prediction, per seed.

    Columns: ``slope`` of the logarithm of the edge against that of the prediction, ``intercept`` of
    that line at a predicted rate of 1, ``level``, the mean logarithm of edge over prediction,
    and ``single``, the root of its mean square, in which errors do not cancel; all but the first in
    decades.
    """
    found, rows = search.edges(table).reset_index(), {}
    found = found[found["arm"] == arm].dropna(subset=[prediction, "rate"])
    for seed, own in found.groupby("seed"):
        x, y = (np.log10(own[name].to_numpy(float)) for name in (prediction, "rate"))
        off = y - x
        rows[seed] = (*_line(x, y), float(off.mean()), float(np.sqrt(np.square(off).mean())))
    names = ["slope", "intercept", "level", "single"]
    return pd.DataFrame.from_dict(rows, orient="index", columns=names).rename_axis("seed")


def slope_error(table: pd.DataFrame, prediction: str) -> pd.Series:
    """Distance of the slope of `fits` from 1, without BN, per seed; see `_off`."""
    return _off(fits(table, prediction)["slope"] - 1)


def level_error(table: pd.DataFrame, prediction: str) -> pd.Series:
    """Distance of the level of `fits` from 0, without BN, in decades, per seed; see `_off`."""
    return _off(fits(table, prediction)["level"])


def _off(values: pd.Series) -> pd.Series:
    """Turn the sign of all values, if need be, so that their mean is a distance from 0.

    A value on the other side of 0 stays negative. Taken without its sign it would not cancel, and
    the values would lie closer together than they do.
    """
    return values * float(np.sign(values.mean()))


def _found(table: pd.DataFrame, arms: tuple[str, ...]) -> Finding:
    edges = search.edges(table).reset_index()
    edges = edges[edges["arm"].isin(arms)]
    none, beyond = int(edges["rate"].isna().sum()), int(edges["above"].isna().sum())
    said = f"{none} without one, {beyond - none} at the grid's end, of {len(edges)}"
    return beyond == 0 and len(edges) > 0, said, "none"


def _span(table: pd.DataFrame, prediction: str) -> Finding:
    edges = search.edges(table).reset_index()
    rates = edges.loc[edges["arm"] == WITHOUT, prediction].groupby(edges["seed"])
    spans = np.log10(rates.max() / rates.min())
    return claims.at_least(float(spans.min()), SPAN, " decades", 1)


def _sharp(table: pd.DataFrame) -> Finding:
    edges = search.edges(table).reset_index()
    own = edges[edges["arm"] == WITHOUT]
    worst = float((own["residual"] / own["sharpness"]).max())
    return worst <= 0.1, f"{100 * worst:.1f} %", "10 % or less"


def _deep(table: pd.DataFrame) -> Finding:
    return DEEP.check(table[table["n"] == table["n"].max()])


BOTH = Premise(
    "every network and seed has an edge, and none at the end of the grid",
    partial(_found, arms=(WITHOUT, WITH)),
)
PLAIN = Premise(
    "every network without BN and seed has an edge, and none at the end of the grid",
    partial(_found, arms=(WITHOUT,)),
)
SPANS = {
    name: Premise("the predictions span two decades", partial(_span, prediction=name))
    for name in PREDICTIONS
}
SHARP = Premise("the sharpness is known to a tenth", _sharp)

REVISED = (
    "Its criterion is older than its data: it was first held against narrow networks on a grid of"
    " rates, where gaps between usable rates failed its premise. The rate is since the largest"
    " below which none tried within a factor of ten breaks, and the runs are new."
)

AVERAGED = (
    "That it is so on average over networks, as it is measured, was left out of its statement"
    " before; the criterion is the same."
)

SIGNED = (
    "The distance is that of the mean over seeds; before, each seed's was taken without its sign,"
    " which can make the interval too narrow."
)

_expected = partial(
    control, section="what the start lets one expect of the largest rate", direction="below"
)

CLAIMS = (
    Claim(
        id="bjorck.depth",
        paper=PAPER,
        section="4 and appendix",
        statement="Without BN shallower networks allow larger learning rates, and more so than with"
        " BN.",
        quantity="slope of the logarithm of the largest rate that trains against that of depth,"
        " without BN minus with BN",
        measure=exponent_difference,
        bound=0.0,
        direction="below",
        premises=(BOTH,),
        revised=REVISED,
    ),
    Claim(
        id="bjorck.depth.larger_rates",
        paper=PAPER,
        section="abstract and 3, at the paper's depth",
        statement="BN allows far larger learning rates.",
        quantity="largest rate that trains with BN divided by that without, in the deepest"
        " networks; the paper's own rates are a thousand apart",
        measure=deepest_rise,
        bound=100.0,
        digits=0,
        premises=(Premise(DEEP.statement, _deep), BOTH),
        concerns="BN's largest rate at 110 layers over that without",
        **TIMES,
    ),
    control(
        id="bjorck.depth.law",
        section="what the growth of the activations at the start lets one expect",
        statement="Without BN the largest usable rate falls exponentially with the number of"
        " residual blocks, as activations grow at the start, and not as a power of depth.",
        quantity="error of a power law divided by that of an exponential, without BN, each depth"
        " predicted from the others",
        measure=error_ratio,
        bound=1.0,
        premises=(PLAIN,),
        revised=REVISED,
        **TIMES,
    ),
    control(
        id="bjorck.edge.growth",
        section="a consequence of sections 3 and 4: growth at the start holds the rate down",
        statement="At one depth and without BN, the more activations grow at the start, the smaller"
        " is the largest rate that trains.",
        quantity="slope of the logarithm of the largest rate against that of the growth a block,"
        " doses of one depth",
        measure=against_growth,
        bound=0.0,
        direction="below",
        premises=(PLAIN,),
    ),
    _expected(
        id="bjorck.edge.classifier_slope",
        statement="Across networks without BN the largest rate that trains is proportional to that"
        " which the classifier's curvature at the start allows.",
        quantity="distance from 1 of the slope of the logarithm of the measured rate against that"
        " of the predicted one; a quarter is a decade over four decades",
        revised=SIGNED,
        measure=partial(slope_error, prediction="classifier_rate"),
        bound=0.25,
        premises=(PLAIN, SPANS["classifier_rate"]),
    ),
    _expected(
        id="bjorck.edge.classifier_level",
        statement="On average over networks the largest rate that trains without BN is that which"
        " the classifier's curvature at the start allows, to half a decade.",
        revised=f"{AVERAGED} {SIGNED}",
        quantity="distance from 0 of the mean logarithm of measured over predicted rate",
        measure=partial(level_error, prediction="classifier_rate"),
        bound=0.5,
        unit=" decades",
        premises=(PLAIN,),
    ),
    _expected(
        id="bjorck.edge.sharpness_slope",
        statement="Across networks without BN the largest rate that trains is proportional to that"
        " which the sharpness of the whole network at the start allows.",
        quantity="distance from 1 of the slope of the logarithm of the measured rate against that"
        " of the predicted one; a quarter is a decade over four decades",
        revised=SIGNED,
        measure=partial(slope_error, prediction="network_rate"),
        bound=0.25,
        premises=(PLAIN, SPANS["network_rate"], SHARP),
    ),
    _expected(
        id="bjorck.edge.sharpness_level",
        statement="On average over networks the largest rate that trains without BN is that which"
        " the sharpness of the whole network at the start allows, to half a decade.",
        revised=f"{AVERAGED} {SIGNED}",
        quantity="distance from 0 of the mean logarithm of measured over predicted rate",
        measure=partial(level_error, prediction="network_rate"),
        bound=0.5,
        unit=" decades",
        premises=(PLAIN, SHARP),
    ),
)


def but_deepest(table: pd.DataFrame) -> pd.Series:
    """`exponent_difference` without the deepest networks, per seed: how much rests on them."""
    return exponent_difference(table[table["n"] < table["n"].max()])


def failures(table: pd.DataFrame, arm: str, read: pd.DataFrame | None = None) -> pd.Series:
    """What the run at the rate above the edge came to, of each network and seed of an arm.

    `read` is the same table with the outcomes to be read, such as `asked_to_fall`'s.
    """
    said = search.outcomes(table if read is None else read)
    edges = search.edges(table).reset_index()
    own = edges[(edges["arm"] == arm) & edges["above"].notna()]
    keys = own[[*search.NETWORK, "seed", "above"]].itertuples(index=False)
    return pd.Series([said[(*key[:4],)][key[4]] for key in keys], dtype=object)


def asked_to_fall(table: pd.DataFrame, fall: float) -> pd.DataFrame:
    """Say anew which runs are on their way and which are stuck, with `search.FALL` another one."""
    falls = table["half"] - table["end"] >= fall
    falls &= (table["half"] > table["later"]) & (table["later"] > table["end"])
    on_its_way = falls & (table["spread"] >= search.SPREAD)
    quiet = table["outcome"].isin((search.ON_ITS_WAY, search.STUCK))
    again = np.where(on_its_way, search.ON_ITS_WAY, search.STUCK)
    return table.assign(outcome=table["outcome"].where(~quiet, again))


def facts(table: pd.DataFrame) -> claims.Facts:
    """Return the numbers that the chapter quotes beside the claims, by name.

    Those of `DEPTHS` and `GAINS` are there, without a value, before the record holds them.
    """
    sizes, own = sorted(table["n"].unique()), doses(table)
    steeper = asked_to_fall(table, STEEPER)
    found = {
        "seeds": claims.count(table["seed"].nunique()),
        "steps": claims.count(table["step"].max()),
        "depths": claims.count(len(sizes)),
        "shallowest": claims.count(6 * sizes[0] + 2),
        "deepest": claims.count(6 * sizes[-1] + 2),
        "dose_layers": claims.fact([6 * own["n"].iloc[0] + 2] if len(own) else [], 0),
        "but_deepest": claims.fact(but_deepest(table).dropna(), 2),
        "fall_more": claims.fact([STEEPER], 3),
        "rise_fall_more": significant(deepest_rise(steeper).dropna()),
        "law_fall_more": geometric(error_ratio(steeper).dropna(), 2, "×"),
    }
    for arm, short in NAMES.items():
        found |= _of_arm(table, arm, short)
    for size in sorted({*DEPTHS, *sizes}):
        found[f"rise_{6 * size + 2}"] = significant(rise(table, size).dropna())
    for gain in sorted({*GAINS, *own["gain"]}):
        rows = own[own["gain"] == gain]
        found |= {
            f"dose_{str(gain).replace('.', '_')}_{name}": significant(rows[name].dropna())
            for name in ("rate", "growth", *PREDICTIONS)
        }
    return found


def _of_arm(table: pd.DataFrame, arm: str, short: str) -> claims.Facts:
    rates, missed, above = by_depth(table, arm), errors(table, arm), failures(table, arm)
    slow = failures(table, arm, asked_to_fall(table, 0.0))
    falls = _end(rates, 0) / _end(rates, -1)
    blocks = _each(rates, lambda own: math.exp(line(own, "exponential")[0]))
    found = {
        f"{short}_fall": significant(falls.dropna()),
        f"{short}_block": significant(blocks.dropna()),
        f"{short}_exponent": claims.fact(exponents(table, arm).dropna(), 2),
        f"{short}_power_error": claims.fact(missed["power"].dropna(), 2, " decades"),
        f"{short}_exponential_error": claims.fact(missed["exponential"].dropna(), 2, " decades"),
        f"{short}_edges": claims.count(len(above)),
        f"{short}_diverge": claims.count((above == search.DIVERGED).sum()),
        f"{short}_still_falling": claims.count((slow == search.ON_ITS_WAY).sum()),
    }
    for size in sorted({*DEPTHS, *rates.columns}):
        own = rates[size] if size in rates else _nothing()
        found[f"{short}_{6 * size + 2}"] = significant(own.dropna())
    for column, name in PREDICTIONS.items():
        fitted, over = fits(table, column, arm), rates / by_depth(table, arm, column)
        found |= {
            f"{short}_{name}_slope": claims.fact(fitted["slope"].dropna(), 2),
            f"{short}_{name}_level": significant(10 ** fitted["level"].dropna()),
            f"{short}_{name}_intercept": claims.fact(fitted["intercept"].dropna(), 2, " decades"),
            f"{short}_{name}_shallowest": significant(_end(over, 0).dropna()),
            f"{short}_{name}_deepest": significant(_end(over, -1).dropna()),
        }
        if arm == WITHOUT:
            single = claims.fact(fitted["single"].dropna(), 2, " decades")
            found[f"{short}_{name}_single"] = single
    return found | _deepest_runs(table, arm, short)


def _end(rates: pd.DataFrame, place: int) -> pd.Series:
    """Return the column of the shallowest networks, at 0, or of the deepest, at -1."""
    return rates[rates.columns[place]] if len(rates) else _nothing()


def _deepest_runs(table: pd.DataFrame, arm: str, short: str) -> claims.Facts:
    """Count the deepest networks' runs of an arm that train, and those of them that learned."""
    own = table.loc[(table["n"] == table["n"].max()) & (table["arm"] == arm), "outcome"]
    return {
        f"{short}_deepest_train": claims.count(own.isin(search.TRAINS).sum()),
        f"{short}_deepest_learned": claims.count((own == search.LEARNED).sum()),
    }
