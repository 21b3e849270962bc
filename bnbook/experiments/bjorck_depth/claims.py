"""The largest usable rate against depth: what its table says (Bjorck et al. 2018, section 4).

The claims, their measures and bounds, and the criterion that chooses between the two laws, were
written before the recorded runs.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from bnbook.evidence import claims
from bnbook.evidence.claims import Claim, Premise
from bnbook.tables import rate_map, tuning, usable
from bnbook.tables.arms import WITH, WITHOUT
from bnbook.tables.start import NAMES, significant
from bnbook.tables.usable import PAPER

LAWS = ("power", "exponential")
"""A power of the number of layers, 6n + 2, or an exponential in that of residual blocks, 3n."""


def largest(table: pd.DataFrame, arm: str) -> pd.DataFrame:
    """Largest usable rate of an arm: index seed, columns n, rising."""
    found: pd.DataFrame = usable.largest(table[table["arm"] == arm], "n")
    return found


def unbroken(table: pd.DataFrame, arm: str) -> pd.DataFrame:
    """`usable.unbroken` of an arm: index seed, columns n, rising."""
    return usable.unbroken(table[table["arm"] == arm], "n")


def abscissa(n: np.ndarray, law: str) -> np.ndarray:
    """Return what the logarithm of the rate is linear in: log of the layers, or the blocks."""
    return np.log(6 * n + 2) if law == "power" else 3.0 * n


def line(rates: pd.Series, law: str) -> tuple[float, float]:
    """Slope and intercept of a law for one seed, by least squares on the logarithm."""
    x = abscissa(rates.index.to_numpy(dtype=float), law)
    y = np.log(rates.to_numpy(dtype=float))
    centred = x - x.mean()
    slope = float(centred @ y / (centred @ centred))
    return slope, float(y.mean() - slope * x.mean())


def exponents(table: pd.DataFrame, arm: str) -> pd.Series:
    """Slope of the logarithm of the largest usable rate against that of depth, per seed."""
    return _each(largest(table, arm), lambda rates: line(rates, "power")[0])


def decays(table: pd.DataFrame, arm: str) -> pd.Series:
    """Factor of the largest usable rate for each further residual block, per seed."""
    return _each(largest(table, arm), lambda rates: math.exp(line(rates, "exponential")[0]))


def exponent_difference(table: pd.DataFrame) -> pd.Series:
    """`exponents` without BN minus with BN, per seed."""
    return pd.Series(exponents(table, WITHOUT) - exponents(table, WITH))


def errors(table: pd.DataFrame, arm: str) -> pd.DataFrame:
    """How far each law misses a depth that it was not fitted to: index seed, columns `LAWS`.

    Root of the mean square over depths of the error of the logarithm, in decades.
    """
    rates = largest(table, arm)
    return pd.DataFrame({law: _each(rates, partial(_left_out, law=law)) for law in LAWS})


def _each(rates: pd.DataFrame, value: Callable[[pd.Series], float]) -> pd.Series:
    """Apply a function to the largest usable rates of each seed."""
    return pd.Series({seed: value(row) for seed, row in rates.iterrows()}).rename_axis("seed")


def _left_out(rates: pd.Series, law: str) -> float:
    misses = []
    for n, rate in rates.items():
        slope, intercept = line(rates.drop(n), law)
        predicted = intercept + slope * abscissa(np.array(float(str(n))), law)
        misses.append(float(predicted - np.log(rate)) / np.log(10))
    return float(np.sqrt(np.mean(np.square(misses))))


def error_ratio(table: pd.DataFrame) -> pd.Series:
    """`errors` of the power law divided by those of the exponential, without BN, per seed.

    No number where the exponential misses by rounding alone, as it does when the rates on the grid
    of a quick run lie on a line.
    """
    found = errors(table, WITHOUT)
    missed = found["exponential"].where(found["exponential"] > 1e-9)
    return pd.Series(found["power"] / missed)


def deepest(table: pd.DataFrame) -> pd.DataFrame:
    """Rows of the deepest network."""
    rows: pd.DataFrame = table[table["n"] == table["n"].max()]
    return rows


def same_rate_gap(table: pd.DataFrame) -> pd.Series:
    """`rate_map.same_rate_gap` of the deepest network."""
    return rate_map.same_rate_gap(deepest(table))


def rate_gain(table: pd.DataFrame) -> pd.Series:
    """`rate_map.rate_gain` of the deepest network."""
    return rate_map.rate_gain(deepest(table))


def without_diverged(table: pd.DataFrame) -> pd.Series:
    """`rate_map.without_diverged` of the deepest network."""
    return rate_map.without_diverged(deepest(table))


def _whole_grid(table: pd.DataFrame) -> claims.Finding:
    rates = pd.concat([largest(table, arm) for arm in NAMES])
    none, beyond = (
        int(rates.isna().sum().sum()),
        int((rates >= table["learning_rate"].max()).sum().sum()),
    )
    return none + beyond == 0, f"{none} without one, {beyond} at the grid's end", "neither"


def _no_gaps(table: pd.DataFrame) -> claims.Finding:
    gaps = [(largest(table, arm) != unbroken(table, arm)).sum().sum() for arm in NAMES]
    return sum(gaps) == 0, f"gaps in {sum(gaps)} of {2 * largest(table, WITH).size}", "none"


PREMISES = (
    Premise("every network has a usable rate, and none at the end of the grid", _whole_grid),
    Premise("the usable rates of a network and seed have no gap", _no_gaps),
)
"""What the claims about the largest usable rate need."""


CLAIMS = (
    Claim(
        id="bjorck.depth",
        paper=PAPER,
        section="4 and appendix",
        statement=(
            "Without BN shallower networks allow larger learning rates; BN takes this limit away."
        ),
        quantity=(
            "slope of the logarithm of the largest usable learning rate against that of depth,"
            " without BN minus with BN"
        ),
        measure=exponent_difference,
        bound=0.0,
        direction="below",
        premises=PREMISES,
        revised=claims.LATER,
    ),
    Claim(
        id="bjorck.depth.law",
        paper="this book",
        section="what the growth of the activations at the start lets one expect",
        statement=(
            "Without BN the largest usable rate falls exponentially with the number of residual"
            " blocks, as activations grow at the start, and not as a power of depth."
        ),
        quantity=(
            "error of a power law divided by that of an exponential, without BN, each depth"
            " predicted from the others"
        ),
        measure=error_ratio,
        bound=1.0,
        scale="log",
        unit="×",
        kind="control",
        premises=PREMISES,
        revised=claims.LATER,
    ),
    Claim(
        id="bjorck.depth.same_rate",
        paper=PAPER,
        section="2, figure 1, at this experiment's greatest depth",
        statement=(
            "In a deep network, at the rate that suits the network without BN, BN is no better."
        ),
        quantity=(
            "final test accuracy with BN minus without, both at the tuned rate of the network"
            " without BN, in the deepest networks"
        ),
        measure=same_rate_gap,
        bound=1.0,
        direction="below",
        digits=1,
        unit=" points",
        premises=rate_map.premises("same_rate", deepest),
        revised=claims.LATER,
        concerns="lead of BN at the best rate without it",
    ),
    Claim(
        id="bjorck.depth.higher_rate_generalises",
        paper=PAPER,
        section="2, figure 1, at this experiment's greatest depth",
        statement="In a deep network with BN, larger rates give a higher test accuracy.",
        quantity=(
            "final test accuracy with BN at the best larger rate minus with BN at the tuned rate of"
            " the network without BN, in the deepest networks"
        ),
        measure=rate_gain,
        bound=0.0,
        digits=1,
        unit=" points",
        premises=rate_map.premises("higher_rate", deepest),
        revised=claims.LATER,
        concerns="gain of BN's larger rate",
    ),
    Claim(
        id="bjorck.depth.unnormalised_diverges",
        paper=PAPER,
        section="2, figure 1, at this experiment's greatest depth",
        statement="A deep network without BN diverges at the larger rates that BN profits from.",
        quantity=(
            "share of seeds whose minibatch loss passes 10³ or stops being finite without BN, at"
            " the best larger rate of BN, in the deepest networks"
        ),
        measure=without_diverged,
        bound=0.5,
        scale="share",
        premises=rate_map.premises("diverges", deepest),
        revised=claims.LATER + " Its interval, Student's before, is exact since.",
        concerns="divergence without BN at BN's rate",
    ),
)


def curves(table: pd.DataFrame) -> pd.DataFrame:
    """Each arm's fitted laws: ``arm``, ``law``, ``layers``, ``rate`` (geometric mean)."""
    tables = []
    for arm in NAMES:
        rates = largest(table, arm).dropna()
        n = np.geomspace(table["n"].min(), table["n"].max(), 50)
        for law in LAWS if len(rates) else ():
            fitted = [line(row, law) for _, row in rates.iterrows()]
            logs = np.mean([b + slope * abscissa(n, law) for slope, b in fitted], axis=0)
            columns = {"arm": arm, "law": law, "layers": 6 * n + 2, "rate": np.exp(logs)}
            tables.append(pd.DataFrame(columns))
    return pd.concat(tables) if tables else pd.DataFrame(columns=["arm", "law", "layers", "rate"])


def usable_shares(table: pd.DataFrame) -> pd.DataFrame:
    """Share of seeds whose run is usable: index arm and learning rate, columns n."""
    arms = {arm: usable.shares(rows, "n") for arm, rows in table.groupby("arm")}
    return pd.concat(arms, names=["arm"])


def facts(table: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """Return the numbers that the chapter quotes beside the claims, by name."""
    n = sorted(table["n"].unique())
    found = usable.setting(table) | {
        "depths": claims.fact([len(n)], 0),
        "shallowest": claims.fact([6 * n[0] + 2], 0),
        "deepest": claims.fact([6 * n[-1] + 2], 0),
    }
    slopes: dict[str, pd.Series] = {}
    for arm, short in NAMES.items():
        rates = largest(table, arm)
        missed = errors(table, arm)
        whole = unbroken(table, arm)
        slopes[arm] = _each(whole, lambda rates: line(rates, "power")[0])
        found |= {
            f"{short}_shallow_rate": significant(rates[n[0]].dropna()),
            f"{short}_deep_rate": significant(rates[n[-1]].dropna()),
            f"{short}_fall": significant((rates[n[0]] / rates[n[-1]]).dropna()),
            f"{short}_exponent": claims.fact(exponents(table, arm).dropna(), 2),
            f"{short}_decay": claims.fact(decays(table, arm).dropna(), 3),
            f"{short}_power_error": claims.fact(missed["power"].dropna(), 2, " decades"),
            f"{short}_exponential_error": claims.fact(
                missed["exponential"].dropna(), 2, " decades"
            ),
            f"{short}_unbroken_shallow": significant(whole[n[0]].dropna()),
            f"{short}_unbroken_deep": significant(whole[n[-1]].dropna()),
            f"{short}_unbroken_fall": significant((whole[n[0]] / whole[n[-1]]).dropna()),
            f"{short}_none": claims.fact([int(rates.isna().sum().sum())], 0),
            f"{short}_edge": claims.fact(
                [sum(usable.on_edge(table, rates[size]) for size in n)], 0
            ),
        }
    found["unbroken_difference"] = claims.fact((slopes[WITHOUT] - slopes[WITH]).dropna(), 2)
    for size in n:
        layers, rows = 6 * size + 2, table[table["n"] == size]
        rise = unbroken(table, WITH)[size] / unbroken(table, WITHOUT)[size]
        found |= {
            f"rise_{layers}": significant(rise.dropna()),
            f"same_rate_{layers}": _points(rate_map.same_rate_gap(rows)),
            f"without_unbroken_{layers}": significant(unbroken(table, WITHOUT)[size].dropna()),
            f"with_unbroken_{layers}": significant(unbroken(table, WITH)[size].dropna()),
        }
    for size, short in ((n[0], "shallow"), (n[-1], "deep")):
        found |= _as_in_figure_1(table[table["n"] == size], short)
    return found


def _as_in_figure_1(table: pd.DataFrame, short: str) -> dict[str, dict[str, Any]]:
    """Describe one depth by the rates and gaps of figure 1."""
    rates = tuning.tuned_rates(table, (WITHOUT, WITH))
    final = tuning.final_by_arm(table, rates, "test_accuracy")
    found = {
        f"{short}_same_rate": _points(rate_map.same_rate_gap(table)),
        f"{short}_gain": _points(rate_map.rate_gain(table)),
        f"{short}_tuned_gap": _points(rate_map.tuned_gap(table)),
    }
    for arm, name in NAMES.items():
        found |= {
            f"{name}_{short}_tuned": rate_map.rate_fact(rates[arm]),
            f"{name}_{short}_accuracy": claims.fact(100 * final[arm].dropna(), 1, " %"),
            f"{name}_{short}_survives": rate_map.rate_fact(rate_map.survived(table, arm)),
        }
    return found


def _points(gaps: pd.Series) -> dict[str, Any]:
    return claims.fact(gaps.dropna(), 1, " points")
