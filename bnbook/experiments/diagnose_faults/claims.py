"""What `bnbook.diagnose` finds in networks with a planted fault, and in healthy ones.

Claims, measures and bounds were written before any recorded run.
"""

from __future__ import annotations

import pandas as pd

from bnbook.evidence import claims
from bnbook.evidence.claims import Claim, Finding, Premise

BOOK = "this book"
HEALTHY = "none"
"""In place of a fault's name: a healthy network."""


def planted(table: pd.DataFrame) -> pd.DataFrame:
    """Rows of networks with a fault."""
    found: pd.DataFrame = table[table["fault"] != HEALTHY]
    return found


def healthy(table: pd.DataFrame) -> pd.DataFrame:
    """Rows of networks without one."""
    found: pd.DataFrame = table[table["fault"] == HEALTHY]
    return found


def missed(table: pd.DataFrame) -> pd.Series:
    """Return 1 for each planted fault that was not named with its layer, else 0."""
    rows = planted(table).set_index(["seed", "architecture", "fault"])
    return 1 - (rows["named"] & rows["placed"]).astype(float)


def alarmed(table: pd.DataFrame) -> pd.Series:
    """Return 1 for each seed at which anything is found on a healthy network, else 0."""
    return (healthy(table).groupby("seed")["alarms"].sum() > 0).astype(float)


def _finds(table: pd.DataFrame) -> Finding:
    share = 1 - missed(table).mean()
    return claims.at_least(100 * float(share), 90, " %", 1)


FINDS = Premise("of the planted faults nine in ten are named with their layer", _finds)
"""A diagnosis that finds nothing has no false alarms either."""

CLAIMS = (
    Claim(
        id="diagnose.faults.named",
        paper=BOOK,
        section="a control of our own",
        statement="Every planted fault is named, with the layer where it was planted.",
        quantity="1 for a planted fault that no finding names with its layer, else 0",
        measure=missed,
        bound=0.5,
        direction="below",
        digits=0,
        exact=True,
        kind="identity",
    ),
    Claim(
        id="diagnose.healthy.alarms",
        paper=BOOK,
        section="a control of our own",
        statement="On healthy networks hardly anything is found.",
        quantity="1 for a seed with a finding, a note included, on any of its healthy networks",
        measure=alarmed,
        bound=0.1,
        direction="below",
        scale="share",
        kind="control",
        premises=(FINDS,),
        revised=claims.LATER,
    ),
)


def hits(table: pd.DataFrame) -> pd.DataFrame:
    """Share of the seeds at which a fault is named with its layer: rows faults, by architecture."""
    rows = planted(table)
    rows = rows.assign(hit=(rows["named"] & rows["placed"]).astype(float))
    found = rows.pivot_table(index="fault", columns="architecture", values="hit", aggfunc="mean")
    return found.loc[rows["fault"].unique(), rows["architecture"].unique()]


def facts(table: pd.DataFrame) -> dict:
    """Return the numbers that the chapter quotes beside the claims."""
    rows, sound = planted(table), healthy(table)
    counts = {
        "faults": rows["fault"].nunique(),
        "planted": len(rows),
        "named": rows["named"].sum(),
        "placed": (rows["named"] & rows["placed"]).sum(),
        "missed": missed(table).sum(),
        "healthy": len(sound),
        "alarms_on_healthy": sound["alarms"].sum(),
        "alarms_beside": rows["alarms"].sum(),
        "seeds": table["seed"].nunique(),
        "planted_seeds": rows["seed"].nunique(),
    }
    found = {name: claims.fact([float(count)], 0) for name, count in counts.items()}
    return found | {"most_passes": claims.fact([float(table["passes"].max())], 1)}
