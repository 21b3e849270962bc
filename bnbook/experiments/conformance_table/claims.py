"""Which check catches which mutant: what the table of the conformance checks says.

The claims, their measures and bounds were written before any recorded run. Both are about this
book's own checks: that each bug of the list is seen, and that nothing is seen where nothing is
wrong.
"""

from functools import partial

import pandas as pd

from bnbook.evidence import claims
from bnbook.evidence.claims import exact

MUTANT, LAYER = "mutant", "layer"
"""Kinds of rows: a layer that was broken on purpose, and one that is meant to be right."""
TRAP = "input gradient through a sum"
"""The check that proves next to nothing; `bnbook.conformance.TRAP`, without torch."""


def matrix(table: pd.DataFrame, kind: str = MUTANT) -> pd.DataFrame:
    """Return in which share of the seeds a check fails a layer."""
    rows = table[table["kind"] == kind].astype({"caught": float})
    found = rows.pivot_table(index="layer", columns="check", values="caught", aggfunc="mean")
    return found.loc[rows["layer"].unique(), rows["check"].unique()]


def _failing(table: pd.DataFrame, kind: str) -> pd.Series:
    """Count the checks that fail each layer at each seed."""
    rows = table[table["kind"] == kind]
    return rows.groupby(["seed", "layer"], sort=False)["caught"].sum().astype(float)


def escaped(table: pd.DataFrame) -> pd.Series:
    """Return 1 for each seed and mutant that no check catches, else 0."""
    return (_failing(table, MUTANT) == 0).astype(float)


def failing(table: pd.DataFrame) -> pd.Series:
    """Return the number of checks that fail each layer that is meant to be right, at each seed."""
    return _failing(table, LAYER)


_check = partial(exact, paper="this book", section="a control of our own", bound=0.5, digits=0)

CLAIMS = (
    _check(
        id="conformance.mutants.caught",
        statement="No mutant passes every check.",
        quantity="1 for a mutant that no check catches, else 0, at each seed",
        measure=escaped,
    ),
    _check(
        id="conformance.layers.pass",
        statement="This book's layers, torch's and the plain sample pass every check.",
        quantity="checks that fail a layer, at each seed",
        measure=failing,
    ),
)


def facts(table: pd.DataFrame) -> claims.Facts:
    """Return the numbers that the chapter quotes beside the claims."""
    found = matrix(table)
    caught = found > 0
    of_output, of_gradient = caught["training output"], caught["input gradient"]
    gradient_alone = of_gradient & ~of_output
    counts = {
        "checks": found.shape[1],
        "mutants": found.shape[0],
        "layers": matrix(table, LAYER).shape[0],
        "seeds": table["seed"].nunique(),
        "seen_in_outputs": of_output.sum(),
        "unseen_in_outputs": (~of_output).sum(),
        "wrong_gradients": gradient_alone.sum(),
        "wrong_gradients_in_a_sum": caught.loc[gradient_alone, TRAP].sum(),
        "caught_once": (caught.sum(axis=1) == 1).sum(),
        "checks_that_caught": caught.any(axis=0).sum(),
        "undecided": ((found > 0) & (found < 1)).sum().sum(),
    }
    return {name: claims.count(count) for name, count in counts.items()}
