"""Bjorck et al.'s figure 1, with and without BN at many learning rates: what its table says.

The claims, their measures and bounds were written before the recorded runs.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pandas as pd

from bnbook.evidence import claims
from bnbook.evidence.claims import Claim
from bnbook.tables import papers, rate_map, tuning
from bnbook.tables.arms import WITH, WITHOUT
from bnbook.tables.rate_map import (
    at,
    large_rate,
    rate_fact,
    rate_gain,
    same_rate_gap,
    small_rate,
    survived,
    tuned_gap,
    without_diverged,
)

PAPER = "Bjorck et al. 2018"
SHARE = 0.9
"""Of the tuned baseline's validation accuracy: the accuracy to which the map counts steps."""


def target(table: pd.DataFrame) -> float:
    """Validation accuracy that counts as reached: `SHARE` of the tuned baseline's final one."""
    final = tuning.final_by_arm(table, {WITHOUT: small_rate(table)}, "validation_accuracy")
    return SHARE * float(final[WITHOUT].mean())


def steps_at(table: pd.DataFrame, arm: str, rate: float, level: float) -> pd.Series:
    """First measured step at which one arm at one rate has a validation accuracy, per seed."""
    runs = table[(table["arm"] == arm) & (table["learning_rate"] == rate)]
    seeds = pd.Index(sorted(table["seed"].unique()), name="seed")
    reached = runs[runs["validation_accuracy"] >= level].groupby("seed")["step"].min()
    return reached.reindex(seeds).astype(float)


def rate_speedup(table: pd.DataFrame) -> pd.Series:
    """Steps with BN at `small_rate` divided by steps with BN at `large_rate`, to `target`."""
    level = target(table)
    small, large = small_rate(table), large_rate(table)
    return steps_at(table, WITH, small, level) / steps_at(table, WITH, large, level)


CLAIMS = (
    Claim(
        id="bjorck.fig1.same_rate",
        paper=PAPER,
        section="2, figure 1",
        statement="At the rate that suits the network without BN, BN is no better.",
        quantity=(
            "final test accuracy with BN minus without, both at the tuned rate of the network"
            " without BN"
        ),
        measure=same_rate_gap,
        bound=1.0,
        direction="below",
        digits=1,
        unit=" points",
        premises=rate_map.premises("same_rate"),
        revised=claims.LATER,
        concerns="lead of BN at the best rate without it",
    ),
    Claim(
        id="bjorck.fig1.higher_rate_faster",
        paper=PAPER,
        section="2, figure 1",
        statement="With BN, larger rates train faster.",
        quantity=(
            "steps with BN at the tuned rate of the network without BN, divided by steps with BN"
            " at the best larger rate, to nine tenths of the tuned baseline's validation accuracy"
        ),
        measure=rate_speedup,
        bound=1.0,
        scale="log",
        digits=1,
        unit="×",
        premises=rate_map.premises("higher_rate"),
        revised=claims.LATER,
        concerns="speed of BN's larger rate",
    ),
    Claim(
        id="bjorck.fig1.higher_rate_generalises",
        paper=PAPER,
        section="2, figure 1",
        statement="With BN, larger rates give a higher test accuracy.",
        quantity=(
            "final test accuracy with BN at the best larger rate minus with BN at the tuned rate of"
            " the network without BN"
        ),
        measure=rate_gain,
        bound=0.0,
        digits=1,
        unit=" points",
        premises=rate_map.premises("higher_rate"),
        revised=claims.LATER,
        concerns="gain of BN's larger rate",
    ),
    Claim(
        id="bjorck.fig1.unnormalised_diverges",
        paper=PAPER,
        section="2, figure 1",
        statement="The network without BN diverges at the larger rates that BN profits from.",
        quantity=(
            "share of seeds whose minibatch loss passes 10³ or stops being finite without BN, at"
            " the best larger rate of BN"
        ),
        measure=without_diverged,
        bound=0.5,
        scale="share",
        premises=rate_map.premises("diverges"),
        revised=claims.LATER + " Its interval, Student's before, is exact since.",
        concerns="failure without BN at BN's best rate",
    ),
)


def same_rate_leads(table: pd.DataFrame, column: str = "test_accuracy") -> pd.DataFrame:
    """Final accuracy with BN minus without at one rate, in points: index seed, columns rates."""
    grid = sorted(table["learning_rate"].unique())
    lead = {rate: at(table, WITH, rate, column) - at(table, WITHOUT, rate, column) for rate in grid}
    return 100 * pd.DataFrame(lead)


def facts(table: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """Return the numbers that the chapter quotes beside the claims, by name."""
    rates = tuning.tuned_rates(table, (WITHOUT, WITH))
    small, large = small_rate(table), large_rate(table)
    grid, last = sorted(table["learning_rate"].unique()), tuning.final(table)
    training = same_rate_leads(table, "training_accuracy")
    leads = [claims.fact(lead.dropna(), 1) for _, lead in same_rate_leads(table).items()]
    found = {
        "rates": claims.fact([len(grid)], 0),
        "seeds": claims.fact([table["seed"].nunique()], 0),
        "steps": claims.fact([table["step"].max()], 0),
        "smallest_rate": rate_fact(float(grid[0])),
        "largest_rate": rate_fact(float(grid[-1])),
        "small_rate": rate_fact(small),
        "large_rate": rate_fact(large),
        "tuned_gap": claims.fact(tuned_gap(table), 1, " points"),
        "trained_least": claims.fact([_least_trained(table)], 0, " %"),
        "trained_most": claims.fact([_most_trained(table)], 0, " %"),
        "same_rate_training": claims.fact(_defined(training[small]), 1, " points"),
        "ahead": claims.fact([sum((lead["low"] or 0) > 0 for lead in leads)], 0),
        "behind": claims.fact([sum((lead["high"] or 0) < 0 for lead in leads)], 0),
        "largest_lead": claims.fact(_largest(lead["value"] for lead in leads), 1, " points"),
    }
    found |= _beside_paper(table)
    learns = {arm: tuning.learned(table, arm, rate_map.FAILED) for arm in (WITHOUT, WITH)}
    diverged = last["diverged_at"] >= 0
    gone = _counts(last[diverged])
    still = _counts(last[~diverged & (last["test_accuracy"] < rate_map.FAILED)])
    for name, arm in (("without", WITHOUT), ("with", WITH)):
        found |= {
            f"{name}_rate": rate_fact(rates[arm]),
            f"{name}_small_accuracy": _accuracy(table, arm, small),
            f"{name}_survives": rate_fact(survived(table, arm)),
            f"{name}_learns_from": rate_fact(min(learns[arm], default=float("nan"))),
            f"{name}_learns_to": rate_fact(max(learns[arm], default=float("nan"))),
            f"{name}_runs": claims.fact([int((last["arm"] == arm).sum())], 0),
            f"{name}_diverged": claims.fact([int(gone[arm])], 0),
            f"{name}_still": claims.fact([int(still[arm])], 0),
        }
    return found


def _beside_paper(table: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """Describe the accuracies at the end and what follows from them, beside the paper's."""
    small, tuned = rate_map.small_rate(table), tuning.tuned_rates(table, (WITH,))[WITH]
    columns = ("training_accuracy", "test_accuracy")

    def ends(arm: str, rate: float) -> pd.DataFrame:
        return pd.DataFrame({column: at(table, arm, rate, column) for column in columns})

    return papers.beside_figure_1(ends(WITHOUT, small), ends(WITH, small), ends(WITH, tuned))


def _least_trained(table: pd.DataFrame) -> float:
    """Smallest final training accuracy in per cent of the runs that the claims compare."""
    runs = {run for of_claim in rate_map.compared(table).values() for run in of_claim}
    ends = [at(table, arm, rate, "training_accuracy").min() for arm, rate in sorted(runs)]
    return 100 * float(min(ends))


def _most_trained(table: pd.DataFrame) -> float:
    return 100 * float(tuning.final(table)["training_accuracy"].max())


def _largest(values: Iterable[float | None]) -> list[float]:
    found = [value for value in values if value is not None]
    return [max(found)] if found else []


def _counts(runs: pd.DataFrame) -> pd.Series:
    return runs["arm"].value_counts().reindex((WITHOUT, WITH), fill_value=0)


def _accuracy(table: pd.DataFrame, arm: str, rate: float) -> dict[str, Any]:
    return claims.fact(_defined(100 * at(table, arm, rate, "test_accuracy")), 1, " %")


def _defined(values: pd.Series) -> list[float]:
    return [float(value) for value in values.dropna()]
