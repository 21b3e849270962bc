"""BN before or after the nonlinearity: what the table says.

The claims, their measures and bounds were written before the recorded runs.
"""

import pandas as pd

from bnbook.evidence import claims
from bnbook.evidence.claims import Claim, Premise
from bnbook.tables import right, tuning
from bnbook.tables.arms import AFTER, RELU, SIGMOID, WITH
from bnbook.tables.right import Points

PAPER = "Ioffe & Szegedy 2015"
ARMS = (WITH, AFTER)
MOMENTS = ("skewness", "kurtosis", "sparsity")


def under(table: pd.DataFrame, nonlinearity: str) -> pd.DataFrame:
    """Rows of the networks with one nonlinearity."""
    return table[table["nonlinearity"] == nonlinearity]


def tuned_rates(table: pd.DataFrame, nonlinearity: str) -> dict[str, float]:
    """Each placement's learning rate: best final validation accuracy, averaged over seeds."""
    return tuning.tuned_rates(under(table, nonlinearity), ARMS)


def by_nonlinearity(table: pd.DataFrame) -> dict[str, dict[str, float]]:
    """Return `tuned_rates` of both nonlinearities, by name."""
    return {name: tuned_rates(table, name) for name in (SIGMOID, RELU)}


def placement_gap(table: pd.DataFrame, nonlinearity: str = SIGMOID) -> Points:
    """Final test accuracy, BN before minus after the nonlinearity, points by seed and image."""
    rows, rates = under(table, nonlinearity), tuned_rates(table, nonlinearity)
    last = tuning.final(tuning.at_rates(rows, rates)).set_index("seed").sort_index()
    return right.lead(*(last[last["arm"] == arm] for arm in (WITH, AFTER)))


def _inside(table: pd.DataFrame) -> claims.Finding:
    return tuning.inside(under(table, SIGMOID), tuned_rates(table, SIGMOID))


def _trained(table: pd.DataFrame) -> claims.Finding:
    rows, rates = under(table, SIGMOID), tuned_rates(table, SIGMOID)
    final = tuning.final_by_arm(rows, rates, "test_accuracy").mean()
    return claims.at_least(100 * float(final.min()), 95.0, " %")


CLAIMS = (
    Claim(
        id="ioffe.sec3_2.placement",
        paper=PAPER,
        section="3.2",
        statement="BN belongs right before the nonlinearity. The paper gives a reason and shows no"
        " comparison; this is the consequence that can be measured.",
        quantity="final test accuracy of the sigmoid network with BN before each nonlinearity minus"
        " with BN after it, each at its tuned rate",
        measure=placement_gap,
        bound=0.0,
        unit=" points",
        premises=(
            Premise("no tuned rate is an end of the grid", _inside),
            Premise("both networks end at a test accuracy of 95 % or more", _trained),
        ),
        revised=f"{claims.IMAGES} Its premises were written when that had been seen.",
    ),
)


def facts(table: pd.DataFrame) -> claims.Facts:
    """Return the numbers that the chapter quotes beside the claims."""
    grid = sorted(table["learning_rate"].unique())
    found = {
        "seeds": claims.count(table["seed"].nunique()),
        "rates": claims.count(len(grid)),
        "smallest_rate": claims.fact([grid[0]], 2),
        "largest_rate": claims.fact([grid[-1]], 0),
        "steps": claims.count(table["step"].max()),
    }
    for nonlinearity in (SIGMOID, RELU):
        name = nonlinearity.lower()
        gap = placement_gap(table, nonlinearity)
        found[f"{name}_gap"] = claims.points_fact(gap, 2)
        if nonlinearity == SIGMOID:
            found[f"{name}_gap_seeds"] = claims.points_fact(right.by_seed(gap), 2)
        found |= _placements(table, nonlinearity) | _moments(table, nonlinearity)
    return found


def _placements(table: pd.DataFrame, nonlinearity: str) -> claims.Facts:
    rows, rates = under(table, nonlinearity), tuned_rates(table, nonlinearity)
    final = tuning.final_by_arm(rows, rates, "test_accuracy")
    found: claims.Facts = {}
    for name, arm in (("before", WITH), ("after", AFTER)):
        stem, rate = f"{nonlinearity.lower()}_{name}", rates[arm]
        usable = tuning.usable_rates(rows, arm, "test_accuracy", 0.01)
        found[f"{stem}_usable"] = claims.count(usable)
        if nonlinearity == SIGMOID:
            found[f"{stem}_rate"] = claims.fact([rate], 2 if rate < 1 else 0)
            found[f"{stem}_accuracy"] = claims.fact(100 * final[arm], 2, " %")
    return found


def moments_of(table: pd.DataFrame, nonlinearity: str) -> pd.DataFrame:
    """Skewness, excess kurtosis and sparsity of u and of Wu, BN before the nonlinearity."""
    rows, rate = under(table, nonlinearity), tuned_rates(table, nonlinearity)[WITH]
    last = tuning.final(tuning.at_rates(rows, {WITH: rate}))
    columns = [f"{of}_{moment}" for of in ("u", "wu") for moment in MOMENTS]
    return last.set_index("seed")[columns]


def _moments(table: pd.DataFrame, nonlinearity: str) -> claims.Facts:
    measured, name = moments_of(table, nonlinearity), nonlinearity.lower()
    shares = [f"{of}_sparsity" for of in ("u", "wu")]
    found = {f"{name}_{c}": claims.fact(measured[c], 2) for c in measured.columns.drop(shares)}
    if nonlinearity == RELU:
        found |= {f"{name}_{c}": claims.fact(100 * measured[c], 1, " %") for c in shares}
    return found
