"""The noise of SGD in networks trained to the end: what is claimed, written before the record."""

import math
from collections.abc import Sequence

import pandas as pd

from bnbook.evidence import claims
from bnbook.evidence.claims import POINTS, Claim, Finding, Premise, control
from bnbook.tables import right, searched, tuning
from bnbook.tables.arms import WITH
from bnbook.tables.rate_map import rate_fact
from bnbook.tables.searched import JUDGING

PAPER = "Bjorck et al. 2018"
RUN = ["batch_size", "learning_rate", "seed", "role"]
Cell = tuple[int, float]
"""A size of the minibatch and a rate."""
KNOWN = 99.0
"""Training accuracy, per cent, that every compared network has to reach."""
GAIN = 0.5
"""Points of test accuracy that the larger rate has to bring, or there is nothing to explain."""


def rate(table: pd.DataFrame) -> float:
    """Return the rate that was chosen, at the small size; NaN before anything was searched."""
    return (searched.chosen(table) if len(table) else {}).get(WITH, math.nan)


def cells(of: float, sizes: Sequence[int]) -> list[Cell]:
    """Return what is compared: the rate at both sizes, and at the small one its fraction.

    The fraction is as small as the other minibatch is large, so that rate over size is the same.
    """
    small, large = sizes
    return [(small, of), (large, of), (small, of * small / large)]


def shown(table: pd.DataFrame) -> pd.DataFrame:
    """Return the last rows of the runs that chose nothing."""
    rows = table[table["role"] == JUDGING].sort_values("step")
    return rows.groupby(RUN, as_index=False).last()


def cell(table: pd.DataFrame, which: int) -> pd.DataFrame:
    """Return the last rows of a cell by its place in `cells`, a row for each seed."""
    runs = shown(table)
    sizes = sorted(int(size) for size in runs["batch_size"].unique())
    if len(sizes) < 2:
        return runs.iloc[:0].set_index("seed")
    size, at = cells(rate(table), sizes)[which]
    mine = (runs["batch_size"] == size) & (runs["learning_rate"] == at)
    return runs[mine].set_index("seed").sort_index()


NOISY, LARGE, SLOW = range(3)
"""Places of the cells: the small minibatch, the large one, and the small one's small rate."""


def noise_gain(table: pd.DataFrame) -> pd.DataFrame | pd.Series:
    """Small minibatch minus large, at one rate and as many steps, in points of test accuracy."""
    return right.lead(cell(table, NOISY), cell(table, LARGE))


def rate_gain(table: pd.DataFrame) -> pd.DataFrame | pd.Series:
    """The rate minus its fraction, both at the small minibatch, in points of test accuracy."""
    return right.lead(cell(table, NOISY), cell(table, SLOW))


def share(table: pd.DataFrame) -> pd.DataFrame:
    """What the noise of the minibatch brings, and what the rate brings, in points, by seed."""
    accuracy = [100 * cell(table, which)["test_accuracy"] for which in (NOISY, LARGE, SLOW)]
    noisy, large, slow = accuracy
    return pd.DataFrame({"part": noisy - large, "whole": noisy - slow})


def _known(*which: int) -> Premise:
    """Premise: these cells know their training images at the end."""

    def check(table: pd.DataFrame) -> Finding:
        least = [cell(table, each)["training_accuracy"].min() for each in which]
        worst = math.nan if any(map(math.isnan, least)) else min(least)
        return claims.at_least(100 * float(worst), KNOWN, " %", 1)

    return Premise("every compared network ends above 99 % training accuracy", check)


def _inside(table: pd.DataFrame) -> Finding:
    tuned = searched.ends(table, searched.TUNING)
    ends = (tuned["learning_rate"].min(), tuned["learning_rate"].max())
    return tuning.at_no_end([f"{rate(table):g}"] if rate(table) in ends else [])


def _pays(table: pd.DataFrame) -> Finding:
    return claims.at_least(float(share(table)["whole"].mean()), GAIN, " points", 1)


INSIDE = Premise("the tuned rate is no end of what was tried", _inside)

CLAIMS = (
    Claim(
        id="bjorck.sec2_1.noise_generalises",
        paper=PAPER,
        section="2.1",
        statement="The noise of SGD is what makes BN's network generalise better.",
        quantity="final test accuracy with the small minibatch minus with the large one, with BN,"
        " at one rate, for as many steps, BN's ghost batches of one size",
        measure=noise_gain,
        bound=0.0,
        premises=(INSIDE, _known(NOISY, LARGE)),
        revised="Asked before of a short training, whose record tested nothing and had been seen.",
        **POINTS,
    ),
    control(
        id="bjorck.sec2_1.noise_is_the_rate",
        section="a consequence of section 2.1, whose noise grows with the rate",
        statement="What a larger rate brings is its noise: less noise by a larger minibatch takes"
        " most of it away.",
        quantity="what the small minibatch brings over the large one, at one rate, over what that"
        " rate brings over the one with the large minibatch's ratio of rate to size",
        measure=share,
        bound=0.5,
        scale="ratio",
        premises=(
            INSIDE,
            _known(NOISY, LARGE, SLOW),
            Premise(f"the larger rate brings {GAIN} points or more", _pays),
        ),
    ),
)


def facts(table: pd.DataFrame) -> claims.Facts:
    """Return the numbers that the chapter quotes beside the claims."""
    runs = shown(table)
    sizes = sorted(int(size) for size in table["batch_size"].unique())
    at = rate(table)
    named = {"noisy": NOISY, "large": LARGE, "slow": SLOW}
    slow = cells(at, sizes)[SLOW][1] if len(sizes) == 2 else math.nan
    return {
        "small_batch": claims.fact(sizes[:1], 0),
        "large_batch": claims.fact(sizes[1:], 0),
        "rate": rate_fact(at),
        "slow_rate": rate_fact(slow),
        "steps": claims.count(int(table["step"].max())),
        "seeds": claims.count(runs["seed"].nunique()),
        "rate_gain": claims.fact(share(table)["whole"].dropna(), 1, " points"),
        **{
            f"{name}{what}": claims.fact(
                100 * cell(table, which)[f"{column}_accuracy"].dropna(), 1, " %"
            )
            for name, which in named.items()
            for what, column in (("", "test"), ("_training", "training"))
        },
    }
