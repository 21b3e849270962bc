"""Full whitening against BN: what the table of times, ranks and gradients says.

The claim, its measure and bound were written before any recorded run.
"""

import numpy as np
import pandas as pd

from bnbook.evidence import claims
from bnbook.evidence.claims import TIMES, Claim, Premise
from bnbook.tables.arms import BN, BN_KERNEL, CHOLESKY, LINEAR, ZCA

PAPER = "Ioffe & Szegedy 2015"
THROUGH_VECTORS, CLOSED_FORM = "through the eigenvectors", "in closed form"
FITTED = 3
"""Exponents are fitted over this many of the largest widths."""


def seconds(table: pd.DataFrame, of: tuple[str, ...] = ("forward", "backward")) -> pd.DataFrame:
    """Return the time of one forward and backward pass, or of one of the two."""
    timed = table[table["kind"] == "time"]
    taken = timed[list(of)].sum(axis="columns", skipna=False)
    both = timed.assign(seconds=taken, width=timed["width"].astype(int))
    return both.pivot_table(index=["seed", "width"], columns="arm", values="seconds")


def at_widest(table: pd.DataFrame, of: tuple[str, ...] = ("forward", "backward")) -> pd.DataFrame:
    """`seconds` at the largest width: index seed."""
    found = seconds(table, of)
    widths = found.index.get_level_values("width")
    return pd.DataFrame(found.xs(widths.max(), level="width"))


def cost_ratio(table: pd.DataFrame) -> pd.Series:
    """Time of ZCA whitening divided by time of BN at the largest width, by repetition."""
    widest = at_widest(table)
    return pd.Series(widest[ZCA] / widest[BN])


def exponents(table: pd.DataFrame, arm: str) -> pd.Series:
    """Return the slope of log time against log width over the largest widths, by repetition."""
    by_width = seconds(table)[arm].unstack("width")
    widths = np.sort(by_width.columns.to_numpy(dtype=float))[-FITTED:]
    logs = np.log(by_width[widths].to_numpy(dtype=float))
    slopes = np.polyfit(np.log(widths), logs.T, 1)[0]
    return pd.Series(slopes, index=by_width.index)


def ranks(table: pd.DataFrame) -> pd.DataFrame:
    """Ranks of covariances: columns seed, m, width, rank, and expected, which is min(m - 1, d)."""
    found = table.loc[table["kind"] == "rank", ["seed", "m", "width", "rank"]].astype(int)
    return found.assign(expected=np.minimum(found["m"] - 1, found["width"]))


def gradient_errors(table: pd.DataFrame) -> pd.DataFrame:
    """Relative errors of dx in float32: index seed and gap of two eigenvalues, columns ways."""
    rows = table[table["kind"] == "gap"]
    # A gradient that is not a number has no error that could be averaged: 1 stands for "all of it".
    errors = rows["error"].where(np.isfinite(rows["error"]), 1.0)
    return rows.assign(error=errors).pivot_table(
        index=["seed", "gap"], columns="arm", values="error"
    )


def sensitivities(table: pd.DataFrame) -> pd.DataFrame:
    """Largest gain of a gradient: index seed and smallest eigenvalue, columns layers."""
    rows = table[table["kind"] == "eigenvalue"]
    return rows.pivot_table(index=["seed", "eigenvalue"], columns="arm", values="gain")


def _wide(table: pd.DataFrame) -> claims.Finding:
    return claims.at_least(float(table["width"].max()), 512, " features")


CLAIMS = (
    Claim(
        id="ioffe.sec2.whitening_cost",
        paper=PAPER,
        section="2 and 3",
        statement="Full whitening of a layer's inputs is expensive, for it needs the covariance"
        " matrix, its inverse square root and the derivatives of both; normalising each feature"
        " alone is cheap beside it.",
        quantity="time of a forward and a backward pass of ZCA whitening divided by that of BN,"
        " same minibatch, at the largest width measured (512 features at quick, 2048 at standard)",
        measure=cost_ratio,
        bound=10.0,
        digits=0,
        premises=(Premise("the widest layer has 512 features or more", _wide),),
        revised=claims.LATER,
        **TIMES,
    ),
)
"""The paper says "expensive" and gives no number; ten times the cost of BN is our reading of it."""


def facts(table: pd.DataFrame) -> claims.Facts:
    """Return the numbers that the chapter quotes beside the claim."""
    widest, timed, found = at_widest(table), table[table["kind"] == "time"], ranks(table)
    ahead, back = at_widest(table, ("forward",)), at_widest(table, ("backward",))
    gaps, gains = gradient_errors(table), sensitivities(table)
    smallest = gaps.index.get_level_values("gap").min()
    closest = pd.DataFrame(gaps.xs(smallest, level="gap"))
    least = gains.xs(gains.index.get_level_values("eigenvalue").min(), level="eigenvalue")
    names = {"zca": ZCA, "cholesky": CHOLESKY, "bn": BN, "linear": LINEAR}
    m, both = timed["m"].iloc[0], seconds(table)
    full = timed.loc[timed["width"] < m, "width"].max()  # a covariance of m examples has rank m - 1
    whitened = both.xs(int(full), level="width")
    return {
        "batch_size": claims.count(m),
        "full_width": claims.count(full),
        "full_ratio": claims.fact(whitened[ZCA] / whitened[BN], 1, "×"),
        "narrowest": claims.count(timed["width"].min()),
        "widest": claims.count(timed["width"].max()),
        "repetitions": claims.count(timed["seed"].nunique()),
        "forward_ratio": claims.fact(ahead[ZCA] / ahead[BN], 0, "×"),
        "backward_ratio": claims.fact(back[ZCA] / back[BN], 0, "×"),
        "cholesky_ratio": claims.fact(widest[CHOLESKY] / widest[BN], 0, "×"),
        "kernel_ratio": claims.fact(widest[ZCA] / widest[BN_KERNEL], 0, "×"),
        "zca_by_linear": claims.fact(widest[ZCA] / widest[LINEAR], 1, "×"),
        "cholesky_by_linear": claims.fact(widest[CHOLESKY] / widest[LINEAR], 1, "×"),
        "bn_share": claims.fact(100 * widest[BN] / widest[LINEAR], 1, " %"),
        "kernel_share": claims.fact(100 * widest[BN_KERNEL] / widest[LINEAR], 1, " %"),
        "rank_cases": claims.count(len(found)),
        "rank_agreeing": claims.count((found["rank"] == found["expected"]).sum()),
        "smallest_gap": claims.fact([smallest], None),
        "gap_error_vectors": claims.fact([closest[THROUGH_VECTORS].median()], None),
        "gap_error_closed": claims.fact([closest[CLOSED_FORM].median()], None),
        "gain_zca": claims.fact([least[ZCA].mean()], 0, "×"),
        "gain_bn": claims.fact([least[BN].mean()], 0, "×"),
        **{
            f"{name}_exponent": claims.fact(exponents(table, arm), 2) for name, arm in names.items()
        },
    }
