"""From a short training to a long one: what is claimed of the table, written before the record.

Pilots of minutes with a seed of their own (10 epochs: without BN 47 in 100 test images right at
0.003, with BN 58 at 0.003 and at 0.1; one epoch: 40 with BN, and without it a run that the rule of
`bnbook.setups.dead` ended) showed that BN's lead in a short training is larger than the bound. They
chose no bound.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from bnbook.evidence import claims
from bnbook.evidence.claims import Claim, Finding, Premise
from bnbook.tables import right
from bnbook.tables.arms import WITH, WITHOUT
from bnbook.tables.rate_map import APART, FAILED, TRAINED, rate_fact
from bnbook.tables.right import by_seed
from bnbook.tables.searched import JUDGING
from bnbook.tables.two_rates import compared, inside, rates

PAPER = "Bjorck et al. 2018"
QUARTER = 0.25
"""A share of seeds that the exact interval of three of three can clear; one half it cannot."""
RUN = ["length", "arm", "learning_rate", "seed", "role"]


def named(run: Any) -> tuple[Any, ...]:
    """Return what a table calls a single run, in the order of `RUN`."""
    return (*run.lengths, *run.arms, *run.learning_rates, *run.seeds, run.role)


def shown(table: pd.DataFrame) -> pd.DataFrame:
    """Return the last rows of the runs that chose nothing."""
    rows = table[table["role"] == JUDGING].sort_values("step")
    found: pd.DataFrame = rows.groupby(RUN, as_index=False).last()
    return found


def lengths(table: pd.DataFrame) -> list[int]:
    """Return the lengths of training, in steps, rising, of the runs that are shown."""
    return sorted(int(length) for length in shown(table)["length"].unique())


def searched_at(table: pd.DataFrame) -> int:
    """Return the length at which rates were chosen; 0 before anything was searched."""
    found = table.loc[table["role"] != JUDGING, "length"]
    return 0 if found.empty else int(found.iloc[0])


def longest(table: pd.DataFrame) -> int:
    """Return the length of the claims: the longest, if longer than that of a search; else 0."""
    return max((length for length in lengths(table) if 0 < searched_at(table) < length), default=0)


def cell(table: pd.DataFrame, length: int, arm: str, rate: float) -> pd.DataFrame:
    """Return the last rows of a cell, a row for each seed that is shown."""
    runs = shown(table)
    mine = (runs["length"] == length) & (runs["arm"] == arm) & (runs["learning_rate"] == rate)
    return runs[mine].set_index("seed").sort_index()


def lead(table: pd.DataFrame, length: int) -> pd.DataFrame | pd.Series:
    """BN minus none at r0 after a training of some length, in points."""
    small = rates(table).small
    return right.lead(*(cell(table, length, arm, small) for arm in (WITH, WITHOUT)))


def gain(table: pd.DataFrame, length: int) -> pd.DataFrame | pd.Series:
    """BN at r1 minus BN at r0 after a training of some length, in points."""
    small, large = rates(table)
    return right.lead(*(cell(table, length, WITH, rate) for rate in (large, small)))


def tuned_gain(table: pd.DataFrame, length: int) -> pd.DataFrame | pd.Series:
    """BN at r1 minus none at r0 after a training of some length, in points."""
    small, large = rates(table)
    return right.lead(cell(table, length, WITH, large), cell(table, length, WITHOUT, small))


def lead_at_large(table: pd.DataFrame, length: int) -> pd.DataFrame | pd.Series:
    """BN minus none at r1 after a training of some length, in points."""
    large = rates(table).large
    return right.lead(*(cell(table, length, arm, large) for arm in (WITH, WITHOUT)))


def same_rate(table: pd.DataFrame) -> pd.DataFrame | pd.Series:
    """BN minus none at r0 after the longest training."""
    return lead(table, longest(table))


def rate_gain(table: pd.DataFrame) -> pd.DataFrame | pd.Series:
    """BN at r1 minus BN at r0 after the longest training."""
    return gain(table, longest(table))


def shrinks(table: pd.DataFrame) -> pd.DataFrame | pd.Series:
    """BN's lead at r0 at the length of the search minus after the longest training, in points."""
    return right.minus(lead(table, searched_at(table)), lead(table, longest(table)))


def failed(runs: pd.DataFrame) -> pd.Series:
    """Whether runs diverged or ended below twice the accuracy of guessing, by seed."""
    return (runs["diverged_at"] >= 0) | (runs["test_accuracy"] < FAILED)


def fails(table: pd.DataFrame) -> pd.Series:
    """Whether the network without BN failed at r1 in the longest training, 1 or 0, by seed."""
    return failed(cell(table, longest(table), WITHOUT, rates(table).large)).astype(float)


def _apart(table: pd.DataFrame) -> Finding:
    small, large = rates(table)
    return claims.at_least(large / small, APART, " times")


def _trained(table: pd.DataFrame) -> Finding:
    ends = [
        cell(table, longest(table), *one)["training_accuracy"].min()
        for one in compared(rates(table))
    ]
    least = float(np.min(ends))  # no number where a cell has not been run
    return claims.at_least(100 * least, 100 * TRAINED, " %", 1)


def _fails(table: pd.DataFrame) -> Finding:
    found = fails(table)
    return bool(found.mean() > 0.5), claims.of_seeds(found), "more than half of the seeds"


def _inside(table: pd.DataFrame) -> Finding:
    return inside(table, WITHOUT, WITH)


def _leads(table: pd.DataFrame) -> Finding:
    points = by_seed(lead(table, searched_at(table))).mean()
    return claims.at_least(float(points), 2.0, " points", 1)


def _learns(table: pd.DataFrame) -> Finding:
    alive = ~failed(cell(table, longest(table), WITHOUT, rates(table).small))
    return bool(len(alive) and alive.all()), claims.of_seeds(alive), "all seeds"


PREMISES = (
    Premise("BN's best rate is at least a hundred times that without BN", _apart),
    Premise("neither best rate is an end of the rates that were tried", _inside),
    Premise("every compared network ends above 95 % training accuracy", _trained),
    Premise("the network without BN fails to train at BN's best rate", _fails),
)
_ABOUT = "all training images of CIFAR-10 at 16 x 16, 56 layers, crops and flips"
_POINTS: dict[str, Any] = {"digits": 1, "unit": " points"}

CLAIMS = (
    Claim(
        id="bjorck.whole.same_rate",
        paper=PAPER,
        section=f"2, figure 1; {_ABOUT}",
        statement="At the rate that suits the network without BN, BN is no better.",
        quantity="test accuracy with BN minus without, both at the best rate without BN, after the"
        " longest training",
        measure=same_rate,
        bound=2.0,
        direction="below",
        concerns="lead of BN at the best rate without it",
        premises=PREMISES,
        **_POINTS,
    ),
    Claim(
        id="bjorck.whole.rate_generalises",
        paper=PAPER,
        section=f"2, figure 1; {_ABOUT}",
        statement="With BN, the larger rate that it allows gives a higher test accuracy.",
        quantity="test accuracy with BN at its best rate minus with BN at the best rate without"
        " BN, after the longest training",
        measure=rate_gain,
        bound=0.0,
        concerns="gain of BN's larger rate",
        premises=PREMISES,
        **_POINTS,
    ),
    Claim(
        id="bjorck.whole.fails_to_train",
        paper=PAPER,
        section=f"2 and 3; {_ABOUT}",
        statement="At the rate that suits BN, the network without BN fails to train.",
        quantity="share of seeds that diverge or end near guessing without BN at BN's best rate, in"
        " the longest training",
        measure=fails,
        bound=QUARTER,
        scale="share",
        premises=PREMISES[:2],
        concerns="failure without BN at BN's best rate",
    ),
    Claim(
        id="bjorck.whole.lead_shrinks",
        paper="this book",
        section=f"a consequence of section 2, whose networks train to the end; {_ABOUT}",
        statement="BN's lead at an equal rate belongs to short training: it shrinks as one trains"
        " on.",
        quantity="lead of BN at the best rate without it, at the length at which rates are chosen"
        " minus after the longest training",
        measure=shrinks,
        bound=0.0,
        kind="control",
        premises=(
            Premise("in the short training BN leads by 2 points or more", _leads),
            Premise("without BN every seed learns at its best rate", _learns),
        ),
        **_POINTS,
    ),
)
DECIDED_BY_SEEDS = tuple(claim for claim in CLAIMS if claim.unit == " points")


def undecided(table: pd.DataFrame) -> bool:
    """Whether, premises aside, the interval of a claim in points holds its bound."""
    return any(
        claims.judge(replace(claim, premises=()), table).verdict == "inconclusive"
        for claim in DECIDED_BY_SEEDS
    )


def by_length(table: pd.DataFrame) -> pd.DataFrame:
    """Return BN's lead at r0 and its gain from r0 to r1 at every length and seed, in points.

    Columns: ``length``, ``epochs``, ``seed``, ``lead``, ``gain``.
    """
    epochs = shown(table).groupby("length")["epochs"].first()
    found = [
        pd.DataFrame({"lead": by_seed(lead(table, length)), "gain": by_seed(gain(table, length))})
        .rename_axis("seed").reset_index().assign(length=length, epochs=epochs[length])
        for length in lengths(table)
    ]  # fmt: skip
    columns = ["length", "epochs", "seed", "lead", "gain"]
    rows = [each for each in found if len(each)]
    return pd.concat(rows)[columns] if rows else pd.DataFrame(columns=columns, dtype=float)


def facts(table: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """Return the numbers that the chapter quotes beside the claims."""
    chosen, long = rates(table), longest(table)
    epochs = table.groupby("length")["epochs"].first()
    ended = {
        name: cell(table, long, arm, rate)
        for name, arm, rate in (
            ("none_small", WITHOUT, chosen.small), ("with_small", WITH, chosen.small),
            ("with_middle", WITH, chosen.middle), ("with_large", WITH, chosen.large),
            ("none_large", WITHOUT, chosen.large),
        )
    }  # fmt: skip
    short = searched_at(table)
    return {
        "small_rate": rate_fact(chosen.small),
        "middle_rate": rate_fact(chosen.middle),
        "large_rate": rate_fact(chosen.large),
        "short_epochs": claims.fact(epochs.reindex([short]), 0),
        "long_epochs": claims.fact(epochs.reindex([long]), 0),
        "short_lead": claims.fact(by_seed(lead(table, short)).dropna(), 1, " points"),
        "long_lead": claims.fact(by_seed(lead(table, long)).dropna(), 1, " points"),
        "short_gain": claims.points_fact(tuned_gain(table, short), 1),
        "long_gain": claims.points_fact(tuned_gain(table, long), 1),
        "long_lead_large": claims.points_fact(lead_at_large(table, long), 1),
        **{
            f"{name}{what}": claims.fact(100 * rows[f"{column}_accuracy"].dropna(), 1, " %")
            for name, rows in ended.items()
            for what, column in (("", "test"), ("_training", "training"))
        },
    }
