"""Gradients at initialisation: what their table says (Bjorck et al. 2018, figure 2).

The claims, their measures and bounds were written before the recorded runs.
"""

from functools import partial

import pandas as pd

from bnbook.evidence import claims
from bnbook.evidence.claims import TIMES, Claim
from bnbook.tables.arms import WITH, WITHOUT
from bnbook.tables.start import DEEP, NAMES, PAPER, by_arm, geometric, significant

GAUSSIAN_TAIL = 3.2905 / 0.6745
"""99.9th percentile of the absolute value of a Gaussian variable over its median."""


def kernels(table: pd.DataFrame) -> pd.DataFrame:
    """One row for each arm, seed and minibatch; ``tail``: p999 over median distance."""
    rows = table[table["bin"] == 0]
    return rows.assign(tail=rows["p999_distance"] / rows["median_distance"])


def tail_ratio(table: pd.DataFrame) -> pd.Series:
    """Tail without BN divided by tail with BN, per seed: geometric mean over minibatches."""
    tails = by_arm(kernels(table), "tail")
    return pd.Series(tails[WITHOUT] / tails[WITH])


def size_ratio(table: pd.DataFrame) -> pd.Series:
    """Root mean square without BN divided by with BN, per seed: geometric mean over minibatches."""
    sizes = by_arm(kernels(table), "rms")
    return pd.Series(sizes[WITHOUT] / sizes[WITH])


_claim = partial(
    Claim,
    paper=PAPER,
    section="3, figure 2",
    bound=1.0,
    premises=(DEEP,),
    revised=claims.LATER,
    **TIMES,
)

CLAIMS = (
    _claim(
        id="bjorck.fig2.heavy_tails",
        statement="At initialisation the gradients of the middle convolution's kernel have heavier"
        " tails without BN.",
        quantity="99.9th percentile of the entries' distances from their mean, in units of the"
        " median distance: without BN divided by with BN, geometric mean over minibatches",
        measure=tail_ratio,
    ),
    _claim(
        id="bjorck.fig2.larger",
        statement="At initialisation these gradients are larger without BN.",
        quantity="root mean square of the kernel's gradient: without BN divided by with BN,"
        " geometric mean over minibatches",
        measure=size_ratio,
        digits=0,
    ),
)


def facts(table: pd.DataFrame) -> claims.Facts:
    """Return the numbers that the chapter quotes beside the claims, by name."""
    rows = kernels(table)
    found = {
        "seeds": claims.count(rows["seed"].nunique()),
        "minibatches": claims.count(rows["minibatch"].nunique()),
        "batch_size": claims.count(rows["batch_size"].iloc[0]),
        "layer": claims.count(rows["layer"].iloc[0]),
        "depth": claims.count(rows["depth"].iloc[0]),
        "entries": claims.count(_first_histogram(table)["count"].sum()),
        "gaussian_tail": claims.fact([GAUSSIAN_TAIL], 1),
    }
    kurtosis = rows.pivot_table(index="seed", columns="arm", values="kurtosis", aggfunc="median")
    offset = rows.assign(offset=rows["mean"].abs() / rows["std"])
    offsets = offset.pivot_table(index="seed", columns="arm", values="offset")
    lowest = rows.pivot_table(index="seed", columns="arm", values="mean", aggfunc="min")
    for arm, name in NAMES.items():
        found |= {
            f"{name}_rms": significant(by_arm(rows, "rms")[arm]),
            f"{name}_tail": geometric(by_arm(rows, "tail")[arm], 1),
            f"{name}_kurtosis": claims.fact(kurtosis[arm], 1),
            f"{name}_offset": claims.fact(offsets[arm], 3),
            f"{name}_positive": claims.count(lowest[arm].gt(0).sum()),
            f"{name}_loss": significant(by_arm(rows, "loss")[arm]),
        }
    return found


def _first_histogram(table: pd.DataFrame) -> pd.DataFrame:
    """Rows of the first seed and minibatch, without BN."""
    rows = table[table["arm"] == WITHOUT]
    for column in ("seed", "minibatch"):
        rows = rows[rows[column] == rows[column].min()]
    return rows
