"""Three measures of internal covariate shift: what the table says.

The claims, their measures and bounds were written after a pilot with other seeds and before the
recorded runs.
"""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from bnbook.evidence import claims, intervals
from bnbook.evidence.claims import Claim, Finding, Premise
from bnbook.tables import shift, shift_ratios
from bnbook.tables.arms import WITH, WITHOUT
from bnbook.tables.shift import CONV, IMAGE_NETWORKS, LINEAR_25, RELU_MLP, SIGMOID_MLP
from bnbook.tables.shift_ratios import ratio

ARMS = (WITHOUT, WITH)
SANTURKAR = "Santurkar et al. 2018"
LEARNS = 0.5
"""Validation accuracy from which on a run counts as one that learns."""
_ARMS = {"all": None, "without": WITHOUT, "with": WITH}
SHORT = {SIGMOID_MLP: "sigmoid", RELU_MLP: "relu", CONV: "conv", LINEAR_25: "linear"}


def tuned(table: pd.DataFrame, network: str, column: str) -> pd.DataFrame:
    """Values of a column at the tuned rates: index seed, columns arms."""
    rows = shift.at_tuned(shift.runs(table))
    own = rows[rows["network"] == network]
    return own.pivot_table(index="seed", columns="arm", values=column)


def learning(table: pd.DataFrame) -> tuple[str, ...]:
    """Return the networks of images of which every tuned run learns, with and without BN."""
    worst = shift.at_tuned(shift.runs(table)).groupby("network")["validation_accuracy"].min()
    return tuple(network for network in IMAGE_NETWORKS if worst[network] >= LEARNS)


def moments_ratio(table: pd.DataFrame) -> pd.Series:
    """Drift over training without BN over with, geometric mean over the networks that learn."""
    logs = [-np.log(ratio(table, network, "course")) for network in learning(table)]
    return pd.Series(np.exp(sum(logs) / len(logs))) if logs else pd.Series(dtype=float)


def least_agreement(table: pd.DataFrame) -> pd.Series:
    """Smallest of the three rank correlations over all runs, per seed."""
    return pd.Series(correlations(table).min(axis=1))


def correlations(
    table: pd.DataFrame, arm: str | None = None, learned: bool = False
) -> pd.DataFrame:
    """Rank correlations over runs, of one arm or all, of all runs or those that learned.

    Index seed, a column for each pair of measures.
    """
    rows = shift.alive(shift.runs(table))
    rows = rows[~shift.guesses(rows)] if learned else rows
    rows = rows if arm is None else rows[rows["arm"] == arm]
    found = {seed: shift.pairwise(own) for seed, own in rows.groupby("seed")}
    return pd.DataFrame(found).T.rename_axis("seed")


def effects(table: pd.DataFrame, learned: bool = False) -> pd.DataFrame:
    """With BN over without at the same network, rate and seed: columns the three measures.

    Of all pairs, or of those of which both learned.
    """
    rows = shift.alive(shift.runs(table))
    wide = (rows[~shift.guesses(rows)] if learned else rows).pivot_table(
        index=["seed", "network", "learning_rate"], columns="arm", values=list(shift.AGREEING)
    )
    return pd.DataFrame({n: wide[n, WITH] / wide[n, WITHOUT] for n in shift.AGREEING}).dropna()


def by_median(table: pd.DataFrame, column: str) -> pd.Series:
    """`ratio` of the convolutional network with medians over training and layers, not means."""
    rates, rows = shift.tuned_rates(shift.runs(table)), shift.judged(table)
    rows = rows[(rows["network"] == CONV) & rows["arm"].isin(ARMS)]
    own = [rates[CONV, arm] for arm in rows["arm"]]
    wide = rows[rows["learning_rate"] == own].groupby(["seed", "arm"])[column].median().unstack()
    return pd.Series(wide[WITH] / wide[WITHOUT])


def cosine_at_one_rate(table: pd.DataFrame) -> pd.Series:
    """`cosine_gap` with both networks at the rate that is tuned for BN."""
    of_runs = shift.runs(table)
    rows, rate = shift.judged(of_runs), shift.tuned_rates(of_runs)[LINEAR_25, WITH]
    own = rows[(rows["network"] == LINEAR_25) & (rows["learning_rate"] == rate)]
    wide = own.pivot_table(index="seed", columns="arm", values="cosine")
    return pd.Series(wide[WITH] - wide[WITHOUT])


def cosine_gap(table: pd.DataFrame) -> pd.Series:
    """Cosine of G and G' with BN less without, in the deep linear network, per seed."""
    values = tuned(table, LINEAR_25, "cosine")
    return pd.Series(values[WITH] - values[WITHOUT])


def _better(table: pd.DataFrame) -> Finding:
    share = float((ratio(table, LINEAR_25, "loss") < 1).mean())
    return claims.at_least(100 * share, 100, " % of the seeds")


def _enough(table: pd.DataFrame) -> Finding:
    return claims.at_least(float(len(learning(table))), 2, " networks")


def _tuned_inside(table: pd.DataFrame) -> Finding:
    return shift.inside_premise(learning(table), ARMS).check(table)


ENOUGH = Premise("in two or more networks of images every tuned run learns", _enough)
OF_CONV = (
    shift.learned_premise((CONV,), ARMS, LEARNS),
    shift.inside_premise((CONV,), ARMS),
)

CLAIMS = (
    Claim(
        id="ioffe.ics.moments",
        paper="Ioffe & Szegedy 2015",
        section="1 and 2",
        statement="BN reduces internal covariate shift: the distributions of inputs change less.",
        quantity=(
            "drift of mean and standard deviation of the inputs to the nonlinearities between"
            " measurements in training, in units of their spread: without BN over with, each at its"
            " tuned rate, geometric mean of the networks of images of which both arms learn"
        ),
        measure=moments_ratio,
        bound=1.0,
        scale="log",
        digits=1,
        unit="×",
        premises=(
            ENOUGH,
            Premise("none of their tuned rates is an end of the grid", _tuned_inside),
        ),
        revised=(
            "At first all three networks of images had to learn; while the record grew it was seen"
            " that the sigmoid network without BN does not in so few steps, and it was left out."
        ),
    ),
    Claim(
        id="ics.measures_agree",
        paper="this book",
        section="what shift could mean",
        statement="Three measures of internal covariate shift put networks in the same order.",
        quantity=(
            "smallest of the three rank correlations over runs, of all networks, arms and rates,"
            " between drift of moments, distance of distributions and relative change of gradient"
        ),
        measure=least_agreement,
        bound=0.5,
        kind="control",
        premises=(ENOUGH, shift.measured_premise()),
        revised=claims.LATER,
    ),
    Claim(
        id="santurkar.ics_gradient",
        paper=SANTURKAR,
        section="2.2, figure 3",
        statement="By the gradient form BN does not reduce shift: it is as large, or larger.",
        quantity=(
            "length of G - G' with BN over without in the convolutional network, each at its tuned"
            " rate, mean over training and layers"
        ),
        measure=lambda table: ratio(table, CONV, "change"),
        bound=1.0,
        scale="log",
        unit="×",
        premises=OF_CONV,
    ),
    Claim(
        id="santurkar.ics_relative",
        paper=SANTURKAR,
        section="2.2, figure 3",
        statement="Nor does it when the change is counted in units of the gradient.",
        quantity=(
            "length of G - G' over that of G, with BN over without in the convolutional network,"
            " each at its tuned rate, mean over training and layers"
        ),
        measure=lambda table: ratio(table, CONV, "relative"),
        bound=1.0,
        scale="log",
        unit="×",
        premises=OF_CONV,
    ),
    Claim(
        id="santurkar.deep_linear",
        paper=SANTURKAR,
        section="2.2, figure 3",
        statement="In a deep linear network BN makes G and G' less alike, though it trains better.",
        quantity="cosine of G and G' with BN less that without, each at its tuned rate",
        measure=cosine_gap,
        bound=0.0,
        direction="below",
        premises=(
            Premise(
                "the deep linear network's loss over training is lower with BN, in every seed",
                _better,
            ),
            shift.inside_premise((LINEAR_25,), ARMS),
        ),
    ),
)


def _factor(samples: pd.Series) -> dict[str, Any]:
    """Geometric mean of ratios with its interval; no number where a seed has none."""
    if not (np.isfinite(samples) & (samples > 0)).all():
        return claims.fact([float("nan")], 2, "×")
    if len(samples) < 2:
        return claims.fact(samples, 2, "×")
    value, low, high = intervals.interval(samples.tolist(), "log")
    return {"value": value, "low": low, "high": high, "digits": 2, "unit": "×"}


def facts(table: pd.DataFrame) -> dict[str, Any]:
    """Return what the page quotes beside the claims."""
    of_runs = shift.runs(table)
    found = {}
    for network, short in SHORT.items():
        for arm, which in ((WITHOUT, "without"), (WITH, "with")):
            cosines = tuned(table, network, "cosine")[arm].dropna()
            found[f"{short}_{which}_cosine"] = claims.fact(cosines, 2)
        for column in ("distance", "relative", "loss"):
            found[f"{short}_{column}"] = _factor(ratio(table, network, column))
    every = {name: correlations(table, arm) for name, arm in _ARMS.items()}
    every["learned"] = correlations(table, learned=True)
    for name, pairs in every.items():
        for a, b in combinations(shift.AGREEING, 2):
            found[f"{name}_{a}_{b}"] = claims.fact(pairs[a, b].dropna(), 2)
    found["learned_least"] = claims.fact(every["learned"].min(axis=1).dropna(), 2)
    same, learned = effects(table), effects(table, learned=True)
    lower = 100 * (learned["relative"] < 1).mean()
    found["learned_reduced"] = claims.fact([lower], 0, " %")
    for measure in shift.AGREEING:
        found[f"reduced_{measure}"] = claims.fact([100 * (same[measure] < 1).mean()], 0, " %")
    lived, judged = shift.alive(of_runs), shift.judged(of_runs)
    return {
        **found,
        **shift_ratios.facts(table),
        "conv_change_median": _factor(by_median(table, "change")),
        "conv_relative_median": _factor(by_median(table, "relative")),
        "linear_one_rate": claims.fact(cosine_at_one_rate(table).dropna(), 2),
        "pairs": claims.fact([len(same)], 0),
        "learned_pairs": claims.fact([len(learned)], 0),
        "guessing": claims.fact([shift.guesses(lived).sum()], 0),
        "seeds": claims.fact([judged["seed"].nunique()], 0),
        "tuning": claims.fact([of_runs["seed"].nunique() - judged["seed"].nunique()], 0),
        "rates": claims.fact([of_runs.groupby("network")["learning_rate"].nunique().max()], 0),
        "runs": claims.fact([len(judged)], 0),
        "lost": claims.fact([len(judged) - len(lived)], 0),
        "steps": claims.fact([table["step"].max()], 0),
    }
