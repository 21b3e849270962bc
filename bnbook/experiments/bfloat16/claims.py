"""Float32 against bfloat16: what is claimed, written before any recorded run."""

from __future__ import annotations

import math
from collections.abc import Callable

import pandas as pd

from bnbook.evidence.claims import POINTS, Facts, Finding, Premise, at_least, control, fact
from bnbook.tables import right
from bnbook.tables.arms import WITH, WITHOUT

FLOAT32, BFLOAT16 = "float32", "bfloat16"
CELL = ["arm", "learning_rate"]
LOST = -2.0
"""Points of test accuracy that bfloat16 may lose: a sixth of the 12 that the paper's figure 1 gives
to the larger rate, so that the choice of precision cannot make that effect or hide it."""
FITTED = 0.9
"""Training accuracy from which the networks with BN count as trained."""


def ends(table: pd.DataFrame) -> pd.DataFrame:
    """Return the last row of each run, with ``lives``: it neither died nor diverged."""
    last = table.sort_values("step").groupby([*CELL, "seed", "precision"], as_index=False).last()
    return last.assign(lives=(last["dead_at"] < 0) & (last["diverged_at"] < 0))


def paired(table: pd.DataFrame, value: str) -> pd.DataFrame:
    """Return a value of each run's end: index arm, rate and seed, columns the precisions."""
    return ends(table).pivot_table(
        index=[*CELL, "seed"], columns="precision", values=value, aggfunc="first"
    )


def living(table: pd.DataFrame) -> list[tuple[str, float]]:
    """Return the cells in which every run lives, in both precisions."""
    alive = ends(table).groupby(CELL)["lives"].all()
    return list(alive[alive].index)


def _in(cells: list[tuple[str, float]]) -> Callable[[pd.DataFrame], list[bool]]:
    """Return what picks these cells' rows from a table of `paired`."""
    return lambda rows: [(arm, rate) in cells for arm, rate, _ in rows.index]


def lost(table: pd.DataFrame) -> pd.DataFrame:
    """Bfloat16 minus float32 in points, seeds by test images, mean over the living cells."""
    bits, rows = paired(table, "right").dropna().loc[_in(living(table))], {}
    for seed, own in bits.groupby("seed"):
        more, less = (pd.DataFrame(map(right.unpack, own[name])) for name in (BFLOAT16, FLOAT32))
        rows[seed] = 100 * (more.astype(float) - less.astype(float)).mean()
    return pd.DataFrame(rows).T.rename_axis("seed")


def same_fate(table: pd.DataFrame) -> pd.Series:
    """Whether in every cell a seed lives in both precisions or in neither: 1 or 0."""
    alive = paired(table, "lives")
    return (alive[FLOAT32] == alive[BFLOAT16]).groupby("seed").all().astype(float)


def _fitted(table: pd.DataFrame) -> Finding:
    rows = ends(table)
    means = rows[rows["arm"] == WITH].groupby("precision")["training_accuracy"].mean()
    return at_least(100 * float(means[FLOAT32]), 100 * FITTED, " %")


def _fails(table: pd.DataFrame) -> Finding:
    rows = ends(table)
    rows = rows[(rows["precision"] == FLOAT32) & (rows["arm"] == WITHOUT)]
    shares = 1 - rows.groupby("learning_rate")["lives"].mean()
    spread = f"{100 * shares.min():.0f} % to {100 * shares.max():.0f} % of the seeds"
    return bool(shares.min() < 0.5 < shares.max()), spread, "below half at one, above it at another"


CLAIMS = (
    control(
        id="precision.accuracy",
        section="the machinery",
        statement="Training in bfloat16 costs a deep residual network less than 2 points.",
        quantity="final test accuracy in bfloat16 minus that in float32, same seeds, mean over the"
        " networks and rates that train",
        measure=lost,
        bound=LOST,
        premises=(
            Premise("with BN the networks in float32 end above 90 % training accuracy", _fitted),
        ),
        **POINTS,
    ),
    control(
        id="precision.fate",
        section="the machinery",
        statement="A network trains in bfloat16 where it does in float32, and nowhere else.",
        quantity="share of seeds for which each network and rate has the same fate in both",
        measure=same_fate,
        bound=0.5,
        scale="share",
        premises=(
            Premise("without BN the networks train at one rate and fail at another", _fails),
        ),
    ),
)


def facts(table: pd.DataFrame) -> Facts:
    """Return what the page quotes beside the claims."""
    rows = ends(table)
    accuracy = 100 * paired(table, "test_accuracy").loc[_in(living(table))]
    by_cell = (accuracy[BFLOAT16] - accuracy[FLOAT32]).groupby(CELL)
    seeds = math.sqrt(2) * accuracy[FLOAT32].groupby(CELL).std()  # of a difference, as `pair` is
    return {
        "runs": fact([float(len(rows))], 0),
        "pair": fact([float(by_cell.std().mean())], 1, " points"),
        "two_seeds": fact([float(seeds.mean())], 1, " points"),
    }
