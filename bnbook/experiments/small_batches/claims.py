"""Normalisation at small minibatches: what the table says.

The claims, their measures and bounds were written before the recorded runs.
"""

from functools import partial

import pandas as pd

from bnbook.evidence import claims
from bnbook.evidence.claims import POINTS, Claim, Premise
from bnbook.tables import climbed
from bnbook.tables.arms import (
    ALGORITHM_2,
    BN,
    GROUP_NORM,
    INSTANCE_NORM,
    LATE_FROZEN,
    LAYER_NORM,
    MIXED,
    RENORM,
    RUNNING,
)

SMALLEST, LARGEST = 2, 32
"""Images normalised together at which the claims are judged: the ends of Wu & He's figure 1."""
NEEDED = (BN, RENORM, LATE_FROZEN, GROUP_NORM)
"""Arms without which nothing is judged."""
NAMES = {
    BN: "bn", RENORM: "renorm", LATE_FROZEN: "frozen", GROUP_NORM: "group", LAYER_NORM: "layer",
    INSTANCE_NORM: "instance",
}  # fmt: skip
"""The arms' names in facts."""
COMPARED = ((BN, SMALLEST), (BN, LARGEST), (RENORM, SMALLEST), (GROUP_NORM, LARGEST))
"""Cells that the claims compare."""


def error(
    table: pd.DataFrame, arm: str, m: int, statistics: str = RUNNING, of: str = "test"
) -> pd.Series:
    """Error at the rate chosen, per cent, one number per judging seed."""
    rows = climbed.judged(table)
    rows = rows[(rows["arm"] == arm) & (rows["batch_size"] == m)]
    rows = rows[rows["statistics"] == statistics].set_index("seed").sort_index()
    return pd.Series(100 * (1 - rows[f"{of}_accuracy"]))


def rise(table: pd.DataFrame) -> pd.Series:
    """Test error of BN at the smallest m less that at the largest, points."""
    return error(table, BN, SMALLEST) - error(table, BN, LARGEST)


def group_lead(table: pd.DataFrame) -> pd.Series:
    """Test error of BN at the smallest m less GroupNorm's, points."""
    return error(table, BN, SMALLEST) - error(table, GROUP_NORM, LARGEST)


def renorm_lead(table: pd.DataFrame) -> pd.Series:
    """Test error of BN less that of Batch Renormalization, at the smallest m, points."""
    return error(table, BN, SMALLEST) - error(table, RENORM, SMALLEST)


def population_cost(table: pd.DataFrame) -> pd.Series:
    """Test error under Algorithm 2's statistics less under a test minibatch's own, points."""
    return error(table, BN, SMALLEST, ALGORITHM_2) - error(table, BN, SMALLEST, MIXED)


def _inside(table: pd.DataFrame) -> claims.Finding:
    cells = {f"{arm}, m = {m}": {"arm": arm, "batch_size": m} for arm, m in COMPARED}
    return climbed.inside(table, cells)


def _learned(table: pd.DataFrame) -> claims.Finding:
    right = [100 - float(error(table, arm, m).mean()) for arm, m in COMPARED]
    return claims.at_least(min(right), 30.0, " %")


PREMISES = (
    Premise("no rate that was chosen is the first or last of the grid", _inside),
    Premise("each network compared classifies 30 % of the test images, thrice guessing", _learned),
)

_claim = partial(Claim, premises=PREMISES, **POINTS)

CLAIMS = (
    _claim(
        id="gn.small_batch",
        paper="Wu & He 2018",
        section="figure 1",
        statement="BN's error rises steeply as fewer images are normalised together; GroupNorm's"
        " does not, for it needs none (11.1 points from 32 to 2 images, ResNet-50 on ImageNet).",
        quantity=f"test error of BN at m = {SMALLEST} minus at m = {LARGEST}, each at its own rate;"
        " GroupNorm's is the same at both by construction",
        measure=rise,
        bound=1.0,
    ),
    _claim(
        id="gn.crossing",
        paper="Wu & He 2018",
        section="figure 1",
        statement="At 2 images GroupNorm is better than BN (34.7 against 24.1 % error, ResNet-50 on"
        " ImageNet).",
        quantity=f"test error of BN at m = {SMALLEST} minus that of GroupNorm",
        measure=group_lead,
        bound=0.0,
    ),
    _claim(
        id="renorm.small_batch",
        paper="Ioffe 2017",
        section="small minibatches",
        statement="Batch Renormalization is better than BN where few images are normalised"
        " together.",
        quantity=f"test error of BN minus that of Batch Renormalization, both at m = {SMALLEST}",
        measure=renorm_lead,
        bound=0.0,
    ),
    _claim(
        id="wu.population_statistics",
        paper="Wu & Johnson 2021",
        section="population and batch statistics",
        statement="A network trained with 2 images normalised together does worse at inference with"
        " population statistics than with those of test minibatches of 2 (32.5 against 26.0 %"
        " error, ResNet-50 on ImageNet).",
        quantity=f"test error of BN at m = {SMALLEST} with Algorithm 2's statistics minus that with"
        " the statistics of test minibatches of the same size",
        measure=population_cost,
        bound=0.0,
    ),
)


def facts(table: pd.DataFrame) -> claims.Facts:
    """Return the numbers that the chapter quotes beside the claims."""
    sizes = sorted(int(m) for m in table.loc[table["arm"] == BN, "batch_size"].unique())
    found = {
        "seeds": claims.count(climbed.judged(table)["seed"].nunique()),
        "steps": claims.count(table["step"].max()),
    }
    for arm, name in NAMES.items():
        for m in sizes:
            if len(own := error(table, arm, m)):
                found[f"{name}_{m}"] = claims.fact(own, 1, " %")
    for m in sizes:
        found[f"training_{m}"] = claims.fact(error(table, BN, m, MIXED, "training"), 1, " %")
    frozen = error(table, BN, SMALLEST) - error(table, LATE_FROZEN, SMALLEST)
    precise = error(table, BN, SMALLEST, ALGORITHM_2)
    return found | {
        "frozen_gain": claims.fact(frozen, 1, " points"),
        f"precise_{SMALLEST}": claims.fact(precise, 1, " %"),
        "precise_gain": claims.fact(error(table, BN, SMALLEST) - precise, 1, " points"),
        "bn_lead": claims.fact(
            error(table, GROUP_NORM, LARGEST) - error(table, BN, LARGEST), 1, " points"
        ),
    }
