"""Failing to train at 110 layers: what its table says, written before any recorded run.

A pilot of minutes with seeds that no record has (900, 901) timed the steps; it chose no bound.
"""

from functools import partial

import numpy as np
import pandas as pd

from bnbook.evidence import claims
from bnbook.evidence.claims import Claim, Finding, Premise
from bnbook.tables.arms import WITH, WITHOUT
from bnbook.tables.start import DEEP, NAMES, PAPER, significant

TIMES = 1e3
"""Times the loss of its first minibatch above which a run has diverged."""
SMALL, USUAL = 0.0001, 0.1
"""The paper's usual rates, without BN and with it (as summarised by others)."""
FEW = 10.0
"""Minibatches that are still the first few."""
APART = 10.0
"""How far apart the largest rates have to lie: two steps of the grid; a thousand in the paper.

The network without BN is asked for less, only not to diverge, so that its rate is flattered.
"""
LAST = 0.9
"""Share of the steps after which it is asked whether a run learns."""


def runs(table: pd.DataFrame) -> pd.DataFrame:
    """Return a row for each run: how it ended.

    Columns: ``arm``, ``learning_rate``, ``seed``, ``diverged_at`` and ``above_at`` (-1 for never),
    ``first_loss``, ``diverged``, ``learned`` and ``guessing``, one of the three true.
    """
    keys = ["arm", "learning_rate", "seed"]
    last = table.sort_values("step").groupby(keys).last()
    late = table[table["step"] > LAST * table["step"].max()].groupby(keys)["better"].mean()
    diverged = last["diverged_at"] >= 0
    learned = ~diverged & (late.reindex(last.index) >= 0.5)
    found = last[["diverged_at", "above_at", "first_loss"]].assign(
        diverged=diverged, learned=learned, guessing=~diverged & ~learned
    )
    return found.reset_index()


def shares(table: pd.DataFrame, what: str) -> pd.DataFrame:
    """Share of the seeds that are ``diverged``, ``learned`` or ``guessing``: index rate, arms."""
    found = runs(table).astype({what: float})
    return found.pivot_table(index="learning_rate", columns="arm", values=what)


def at(table: pd.DataFrame, arm: str, rate: float) -> pd.DataFrame:
    """Return the `runs` of an arm at a rate, by seed."""
    found = runs(table)
    return found[(found["arm"] == arm) & (found["learning_rate"] == rate)].set_index("seed")


def diverges(table: pd.DataFrame) -> pd.Series:
    """Whether the network without BN diverges at BN's usual rate, 1 or 0, by seed."""
    return at(table, WITHOUT, USUAL)["diverged"].astype(float)


def when(table: pd.DataFrame) -> pd.Series:
    """Minibatch at which the network without BN diverges at BN's usual rate, by seed."""
    steps = at(table, WITHOUT, USUAL)["diverged_at"].astype(float)
    return steps.where(steps >= 0)


def survives(table: pd.DataFrame) -> pd.Series:
    """Whether the network without BN does not diverge at its own usual rate, 1 or 0, by seed."""
    return 1 - at(table, WITHOUT, SMALL)["diverged"].astype(float)


def largest(table: pd.DataFrame) -> pd.DataFrame:
    """Largest rate of each seed (index) at which BN's network learns and at which the other lives.

    Columns ``with`` and ``without``; the second asks less, that the run does not diverge. Missing
    where there is no such rate.
    """
    found = runs(table)
    enough = np.where(found["arm"] == WITH, found["learned"], ~found["diverged"])
    rates = found["learning_rate"].where(enough).groupby([found["seed"], found["arm"]]).max()
    return rates.unstack("arm").rename(columns=NAMES)


def ratio(table: pd.DataFrame) -> pd.Series:
    """Largest rate at which BN's network learns over the largest at which the other lives."""
    rates = largest(table)
    return pd.Series(rates["with"] / rates["without"])


def _with_lives(table: pd.DataFrame) -> Finding:
    dead = at(table, WITH, USUAL)["diverged"]
    return bool(len(dead)) and not dead.any(), claims.of_seeds(dead), "none"


def _diverged(table: pd.DataFrame) -> Finding:
    dead = diverges(table)
    return bool(len(dead)) and bool(dead.all()), claims.of_seeds(dead), "all seeds"


def _inside(table: pd.DataFrame) -> Finding:
    rates, grid = largest(table), table["learning_rate"]
    out = int((rates["without"] >= grid.max()).sum() + rates.isna().sum().sum())
    return out == 0, f"{out} seeds", "none"


WITH_LIVES = Premise("with BN no run diverges at that rate", _with_lives)
DIVERGED = Premise("the network without BN diverges at 0.1 at every seed", _diverged)
INSIDE = Premise(
    "at every seed BN's network learns at some rate, and the other lives at one and not at the"
    " grid's largest",
    _inside,
)

_claim = partial(Claim, paper=PAPER)

CLAIMS = (
    _claim(
        id="bjorck.layers110.diverges",
        section="1.2 and 3; 110 layers, the first 200 minibatches",
        statement="At the usual rate of the network with BN, 0.1, the one without BN diverges.",
        quantity="share of seeds that diverge without BN at rate 0.1 within 200 minibatches",
        measure=diverges,
        bound=0.5,
        scale="share",
        premises=(DEEP, WITH_LIVES),
    ),
    _claim(
        id="bjorck.layers110.early",
        section="3; 110 layers, the first 200 minibatches",
        statement="Where the network without BN diverges, it does so in the first few minibatches.",
        quantity="minibatch at which the network without BN diverges at rate 0.1",
        measure=when,
        bound=FEW,
        direction="below",
        digits=0,
        unit=" minibatches",
        premises=(DEEP, DIVERGED),
    ),
    _claim(
        id="bjorck.layers110.small_rate",
        section="2; 110 layers, the first 200 minibatches",
        statement="At the rate to which it has to fall, 0.0001, the network without BN does not"
        " diverge.",
        quantity="share of seeds that do not diverge without BN at rate 0.0001",
        measure=survives,
        bound=0.5,
        scale="share",
        premises=(DEEP, DIVERGED),
    ),
    _claim(
        id="bjorck.layers110.rates",
        section="2 and 3; 110 layers, the first 200 minibatches",
        statement="BN allows far larger rates.",
        quantity="largest rate at which the network with BN learns within 200 minibatches, over the"
        " largest at which the one without BN does not even diverge",
        measure=ratio,
        bound=APART,
        digits=0,
        premises=(DEEP, INSIDE),
        concerns="BN's largest rate at 110 layers over that without",
        **claims.TIMES,
    ),
)


def facts(table: pd.DataFrame) -> claims.Facts:
    """Return the numbers that the chapter quotes beside the claims, by name."""
    found, rates = runs(table), largest(table)
    other = (found["above_at"] >= 0) & ~found["diverged"]  # no number diverges by both readings
    said = {
        "seeds": claims.count(table["seed"].nunique()),
        "steps": claims.count(table["step"].max()),
        "rates": claims.count(table["learning_rate"].nunique()),
        "runs": claims.count(len(found)),
        "other_reading": claims.count(other.sum()),
    }
    for arm, short in NAMES.items():
        own = found[found["arm"] == arm]
        first = own.groupby("seed")["first_loss"].first()
        named = {short: rates[short]} if short in rates else {}
        said |= {
            f"{short}_first_least": claims.fact(first.nsmallest(1), 1),
            f"{short}_first_most": claims.fact(first.nlargest(1), 1),
            f"{short}_runs": claims.count(len(own)),
            f"{short}_largest": significant(named.get(short, pd.Series(dtype=float)).dropna()),
            f"{short}_learned_usual": claims.count(at(table, arm, USUAL)["learned"].sum()),
        }
        said |= {
            f"{short}_{what}": claims.count(own[what].sum())
            for what in ("diverged", "learned", "guessing")
        }
    return said
