"""Replicas against one process: claims, written before the recorded runs.

The bound: in float64 two orders of summing a few thousand terms differ by some 1e-14 of their size,
and a few steps of training may make a thousand times that of it. A statistic of another batch
differs by a hundredth or more, which the premise checks.
"""

from collections.abc import Callable
from functools import partial

import pandas as pd

from bnbook.evidence import claims
from bnbook.evidence.claims import Finding, Premise, exact

LOCAL, SYNC, FROZEN = "of each replica", "synchronised", "frozen"
"""How the statistics are taken."""
NORMS = (LOCAL, SYNC, FROZEN)
BOUND = 1e-9
"""Relative distance below which replicas and one process count as equal."""
DIFFERENT = 1e-3
"""Relative distance of gradients from which on two kinds of statistics count as different."""
ERRORS = ["gradient_error", "parameter_error", "statistics_error", "apart"]


def several(table: pd.DataFrame) -> pd.DataFrame:
    """Rows with two replicas or more."""
    return table[table["replicas"] > 1]


def errors(norm: str) -> Callable[[pd.DataFrame], pd.Series]:
    """Make the measure: every error of a norm, one per replicas, seed, step and quantity."""

    def measure(table: pd.DataFrame) -> pd.Series:
        rows = several(table[table["norm"] == norm])
        each = rows.set_index(["replicas", "seed", "step"])[ERRORS]
        return pd.Series(each.rename_axis(columns="quantity").stack())

    return measure


def _first_gaps(table: pd.DataFrame, norm: str) -> pd.Series:
    """Distance of the first step's gradient from that of one large minibatch."""
    rows = several(table)
    rows = rows[(rows["norm"] == norm) & (rows["step"] == rows["step"].min())]
    return pd.Series(rows.set_index(["replicas", "seed"])["large_gap"])


def _tell_apart(table: pd.DataFrame) -> Finding:
    least = float(_first_gaps(table, LOCAL).min())
    return least >= DIFFERENT, f"{least:.2g} or more", f"{DIFFERENT:g} or more"


PREMISE = Premise(
    "statistics of each replica give another gradient than one large minibatch, so that a layer"
    " that did the one for the other would be seen",
    _tell_apart,
)
QUANTITY = (
    "distance of the averaged gradient, the parameters and the running statistics from those of one"
    " process, relative, in every step, and the largest difference between two replicas' parameters"
)

_equal = partial(exact, paper="this book", section="many devices", bound=BOUND, premises=(PREMISE,))

CLAIMS = (
    _equal(
        id="beyond.syncbn_equals_large_batch",
        statement="Data-parallel training with synchronised statistics computes what one process"
        " computes on the whole minibatch, gradients included.",
        quantity=f"{QUANTITY}; the one process has torch's BN of the whole minibatch",
        measure=errors(SYNC),
    ),
    _equal(
        id="beyond.replica_equals_ghost",
        statement="Data-parallel training with statistics of each replica computes what one process"
        " computes on ghost batches, the parts of the minibatch that the replicas see.",
        quantity=f"{QUANTITY}; the one process normalises each part by its own statistics",
        measure=errors(LOCAL),
    ),
)


def step_ratio(table: pd.DataFrame, norm: str) -> pd.Series:
    """Seconds of a step with a norm over those with statistics of each replica, per seed.

    With the largest number of replicas.
    """
    rows = table[table["replicas"] == table["replicas"].max()]
    seconds = rows.groupby(["seed", "norm"])["seconds_step"].first().unstack("norm")
    return pd.Series(seconds[norm] / seconds[LOCAL])


def facts(table: pd.DataFrame) -> claims.Facts:
    """Return the numbers that the chapter quotes beside the claims, by name."""
    rows = several(table)
    sizes = rows.groupby("norm")[["messages", "numbers", "learned"]].first()
    found = {
        "least": claims.count(rows["replicas"].min()),
        "most": claims.count(rows["replicas"].max()),
        "steps": claims.count(table["step"].max()),
        "messages": claims.count(sizes["messages"][SYNC]),
        "numbers": claims.count(sizes["numbers"][SYNC]),
        "learned": claims.count(sizes["learned"][SYNC]),
        "sync_slower": claims.fact(step_ratio(table, SYNC), 1),
        "frozen_slower": claims.fact(step_ratio(table, FROZEN), 1),
        "frozen_error": claims.fact([errors(FROZEN)(table).max()], None),
    }
    for name, label in (("least", rows["replicas"].min()), ("most", rows["replicas"].max())):
        gaps = _first_gaps(table, LOCAL).xs(label, level="replicas")
        found[f"local_gap_{name}"] = claims.fact(100 * gaps, 0, " %")
    return found
