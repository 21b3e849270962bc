"""Measures of shift with BN over without, each at its best rate or at the next-best one.

Two records train the same kinds of networks and measure the same; a ratio between arms depends on
both rates. Where the second-best rate of an arm is nearly as good, another pair of runs could have
been compared.
"""

from __future__ import annotations

import math

import pandas as pd

from bnbook.evidence import claims
from bnbook.tables import shift
from bnbook.tables.arms import WITH, WITHOUT
from bnbook.tables.rate_map import rate_fact
from bnbook.tables.shift import CONV, TUNING
from bnbook.tables.start import geometric

BEST, NEXT = 0, 1
"""Places of rates in the order of the loss over training."""


def losses(of_runs: pd.DataFrame, network: str, arm: str) -> pd.Series:
    """Loss over training by rate, mean over the tuning seeds, best first; of equals the smallest.

    Rates at which a tuning run diverged are left out.
    """
    own = of_runs[(of_runs["role"] == TUNING) & (of_runs["network"] == network)]
    mean = own[own["arm"] == arm].groupby("learning_rate")["loss"].mean()
    return mean[mean < math.inf].sort_values(kind="stable")


def ratio(
    table: pd.DataFrame, network: str, column: str, without: int = BEST, with_bn: int = BEST
) -> pd.Series:
    """Value with BN over that without, per judging seed, each at the rate in its place.

    Empty where an arm has no rate in that place.
    """
    of_runs = shift.runs(table)
    rows = shift.judged(of_runs)
    values = {}
    for arm, place in ((WITHOUT, without), (WITH, with_bn)):
        found = losses(of_runs, network, arm).index
        if place >= len(found):
            return pd.Series(dtype=float)
        own = (rows["network"] == network) & (rows["arm"] == arm)
        at = own & (rows["learning_rate"] == found[place])
        values[arm] = rows[at].set_index("seed")[column]
    return pd.Series(values[WITH] / values[WITHOUT])


def facts(table: pd.DataFrame) -> claims.Facts:
    """Describe what the ratio of relative changes of gradients in the conv net depends on.

    The ratio at the best rates and with one arm at its next-best; of each arm both rates, the loss
    at the next-best over that at the best, by the tuning seeds, and the least validation accuracy
    of a judged run at the best.
    """
    of_runs = shift.runs(table)
    tuned = shift.at_tuned(of_runs)
    found = {
        f"conv_{name}": geometric(ratio(table, CONV, "relative", *places), 2, "×")
        for name, places in (
            ("relative", (BEST, BEST)),
            ("without_next_relative", (NEXT, BEST)),
            ("with_next_relative", (BEST, NEXT)),
        )
    }
    for name, arm in (("without", WITHOUT), ("with", WITH)):
        ordered = losses(of_runs, CONV, arm)
        ends = [float(rate) for rate in ordered.index[: NEXT + 1]]
        best, runner_up = (ends + [math.nan] * 2)[: NEXT + 1]
        own = tuned[(tuned["network"] == CONV) & (tuned["arm"] == arm)]
        found |= {
            f"conv_{name}_rate": rate_fact(best),
            f"conv_{name}_next": rate_fact(runner_up),
            f"conv_{name}_next_loss": claims.fact(
                ordered.iloc[NEXT : NEXT + 1] / ordered.min(), 3, "×"
            ),
            f"conv_{name}_least": claims.fact([100 * own["validation_accuracy"].min()], 0, " %"),
        }
    return found
