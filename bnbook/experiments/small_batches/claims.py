"""Normalisation at small minibatches: what the table says.

The claims and their bounds were written before the recorded runs; of these the first had other
measures, by seed alone, and one number of groups in GroupNorm.
"""

from functools import partial

import pandas as pd

from bnbook.evidence import claims
from bnbook.evidence.claims import POINTS, Claim, Premise
from bnbook.tables import climbed, right
from bnbook.tables.arms import (
    ALGORITHM_2,
    BN,
    INSTANCE_NORM,
    LATE_FROZEN,
    LAYER_NORM,
    MIXED,
    RENORM,
    RUNNING,
    of_groups,
)

SMALLEST, LARGEST = 2, 32
"""Images normalised together at which the claims are judged: the ends of Wu & He's figure 1."""
GROUPS = {of_groups(groups): groups for groups in (2, 4, 8, 16)}
"""Arms of GroupNorm and their numbers of groups, rising; LayerNorm has one."""
ARMS = (BN, RENORM, LATE_FROZEN, *GROUPS, LAYER_NORM, INSTANCE_NORM)
"""All arms."""
NEEDED = (BN, RENORM, LATE_FROZEN, of_groups(2), of_groups(4))
"""Arms without which nothing is judged."""
NAMES = {
    BN: "bn", RENORM: "renorm", LATE_FROZEN: "frozen", LAYER_NORM: "layer",
    INSTANCE_NORM: "instance",
}  # fmt: skip
"""The arms' names in facts; GroupNorm's is that of the number of groups."""

Points = pd.DataFrame | pd.Series
"""A difference of two accuracies by seed and test image, or by seed where no images are kept."""


def group_norm(table: pd.DataFrame) -> str:
    """Return the arm of GroupNorm that the tuning seeds choose, each at the rate that suits it.

    By validation accuracy; of equals the one with the fewest groups.
    """
    rows = table[table["tunes"] & table["arm"].isin(list(GROUPS))]
    means = rows.groupby(["arm", "learning_rate"])["validation_accuracy"].mean()
    best = means.groupby("arm").max()
    return max(GROUPS, key=lambda arm: best.get(arm, 0.0))


def cell(table: pd.DataFrame, arm: str, m: int, statistics: str = RUNNING) -> pd.DataFrame:
    """Rows of a cell at the rate chosen, one for each judging seed, which is the index."""
    rows = climbed.judged(table)
    rows = rows[(rows["arm"] == arm) & (rows["batch_size"] == m)]
    return rows[rows["statistics"] == statistics].set_index("seed").sort_index()


def error(
    table: pd.DataFrame, arm: str, m: int, statistics: str = RUNNING, of: str = "test"
) -> pd.Series:
    """Error at the rate chosen, per cent, one number per judging seed."""
    return pd.Series(100 * (1 - cell(table, arm, m, statistics)[f"{of}_accuracy"]))


def rise(table: pd.DataFrame) -> Points:
    """Test error of BN at the smallest m less that at the largest, points."""
    return right.lead(cell(table, BN, LARGEST), cell(table, BN, SMALLEST))


def group_lead(table: pd.DataFrame) -> Points:
    """Test error of BN at the smallest m less GroupNorm's, points."""
    return right.lead(cell(table, group_norm(table), LARGEST), cell(table, BN, SMALLEST))


def bn_lead(table: pd.DataFrame, m: int) -> Points:
    """Test error of GroupNorm less BN's at an m, points."""
    return right.lead(cell(table, BN, m), cell(table, group_norm(table), LARGEST))


def renorm_lead(table: pd.DataFrame) -> Points:
    """Test error of BN less that of Batch Renormalization, at the smallest m, points."""
    return right.lead(cell(table, RENORM, SMALLEST), cell(table, BN, SMALLEST))


def frozen_gain(table: pd.DataFrame) -> Points:
    """Test error of BN less that of BN frozen late, at the smallest m, points."""
    return right.lead(cell(table, LATE_FROZEN, SMALLEST), cell(table, BN, SMALLEST))


def precise_gain(table: pd.DataFrame) -> Points:
    """Test error of BN under the running average less under Algorithm 2's statistics, points."""
    return right.lead(cell(table, BN, SMALLEST, ALGORITHM_2), cell(table, BN, SMALLEST))


def population_cost(table: pd.DataFrame) -> Points:
    """Test error under Algorithm 2's statistics less under a test minibatch's own, points."""
    return right.lead(*(cell(table, BN, SMALLEST, kind) for kind in (MIXED, ALGORITHM_2)))


def compared(table: pd.DataFrame) -> tuple[tuple[str, int], ...]:
    """Return the cells that the claims compare."""
    return (BN, SMALLEST), (BN, LARGEST), (RENORM, SMALLEST), (group_norm(table), LARGEST)


def _inside(table: pd.DataFrame) -> claims.Finding:
    cells = {f"{arm}, m = {m}": {"arm": arm, "batch_size": m} for arm, m in compared(table)}
    return climbed.inside(table, cells)


def _learned(table: pd.DataFrame) -> claims.Finding:
    found = [100 - float(error(table, arm, m).mean()) for arm, m in compared(table)]
    return claims.at_least(min(found), 30.0, " %")


PREMISES = (
    Premise("no rate that was chosen is the first or last of the grid", _inside),
    Premise("each network compared classifies 30 % of the test images, thrice guessing", _learned),
)

_claim = partial(
    Claim,
    premises=PREMISES,
    revised="A first record of the same seeds had one seed to choose rates and four groups in"
    " GroupNorm, and was judged over seeds alone; in this one three seeds choose, the number of"
    " groups too, and test images are resampled with seeds.",
    **POINTS,
)

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
        quantity=f"test error of BN at m = {SMALLEST} minus that of GroupNorm, whose number of"
        " groups is chosen as rates are",
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
        "tuning_seeds": claims.count(table.loc[table["tunes"], "seed"].nunique()),
        "steps": claims.count(table["step"].max()),
        "groups": claims.count(GROUPS[group_norm(table)]),
        "group": claims.fact(error(table, group_norm(table), LARGEST), 1, " %"),
    }
    for arm, groups in GROUPS.items():
        if len(own := error(table, arm, LARGEST)):
            found[f"groups_{groups}"] = claims.fact(own, 1, " %")
    for arm, name in NAMES.items():
        for m in sizes:
            if len(own := error(table, arm, m)):
                found[f"{name}_{m}"] = claims.fact(own, 1, " %")
    for m in sizes:
        found[f"bn_lead_{m}"] = claims.points_fact(bn_lead(table, m), 1)
        found[f"training_{m}"] = claims.fact(error(table, BN, m, MIXED, "training"), 1, " %")
    precise = error(table, BN, SMALLEST, ALGORITHM_2)
    return found | {
        "frozen_gain": claims.points_fact(frozen_gain(table), 1),
        f"precise_{SMALLEST}": claims.fact(precise, 1, " %"),
        "precise_gain": claims.points_fact(precise_gain(table), 1),
    }
