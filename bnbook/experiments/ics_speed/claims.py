"""Does less internal covariate shift mean faster training? What the table says.

The claims, their measures and bounds were written after a pilot with other seeds and before the
recorded runs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from bnbook.evidence import claims
from bnbook.evidence.claims import Claim, Finding, Premise
from bnbook.tables import shift, shift_ratios
from bnbook.tables.arms import (
    FROZEN,
    MEANS_ONLY,
    NOISE,
    NOISY,
    OUTSIDE,
    VARIANCES_ONLY,
    WITH,
    WITHOUT,
)
from bnbook.tables.shift import RELU_MLP
from bnbook.tables.start import geometric

ARMS = (WITHOUT, WITH, NOISY, NOISE, OUTSIDE, FROZEN, MEANS_ONLY, VARIANCES_ONLY)
SHORT = dict(
    zip(
        ARMS,
        ("without", "with", "noisy", "noise", "outside", "frozen", "means", "variances"),
        strict=True,
    )
)
"""The arms' names in facts."""
EQUAL = 0.1
"""The rate of both arms at which the landscapes are compared, the paper's."""
BY_NETWORK = {RELU_MLP: "relu", shift.CONV: "conv"}
"""Networks whose numbers the page gives one by one, and their names in facts."""
LANDSCAPE = ("loss_range", "gradient_change", "smoothness")
SANTURKAR = "Santurkar et al. 2018"


def log_losses(table: pd.DataFrame) -> pd.DataFrame:
    """Logarithm of the loss over training at the tuned rates, mean over networks: seeds by arms."""
    return _over_networks(shift.at_tuned(shift.runs(table)), "loss")


def _over_networks(rows: pd.DataFrame, column: str) -> pd.DataFrame:
    """Mean logarithm over networks, index seed, columns arms; NaN where a network has none."""
    logs = rows.assign(shown=np.log(rows[column].astype(float)))
    wide = logs.pivot_table(
        index="seed", columns=["arm", "network"], values="shown", dropna=False, aggfunc="first"
    )
    means = {arm: wide[arm].mean(axis=1, skipna=False) for arm in rows["arm"].unique()}
    return pd.DataFrame(means)


def loss_ratio(table: pd.DataFrame, arm: str, other: str) -> pd.Series:
    """Loss over training of one arm over that of another, each tuned, per seed."""
    logs = log_losses(table)
    return pd.Series(np.exp(logs[arm] - logs[other]))


def drift_ratio(table: pd.DataFrame, arm: str, other: str) -> pd.Series:
    """Drift of moments over training of one arm over that of another, each tuned, per seed."""
    logs = _over_networks(shift.at_tuned(shift.runs(table)), "course")
    return pd.Series(np.exp(logs[arm] - logs[other]))


def correlations(table: pd.DataFrame, tuned: bool = False, learned: bool = False) -> pd.DataFrame:
    """Rank correlation of each measure with the loss over training, mean over networks, per seed.

    Over all arms and rates, or over the arms, each at its tuned rate; of all runs or those that
    learned. Positive: less shift goes with faster training.
    """
    of_runs = shift.runs(table)
    rows = shift.at_tuned(of_runs) if tuned else shift.alive(of_runs)
    rows = rows[~shift.guesses(rows)] if learned else rows
    found = {}
    for seed, own in rows.groupby("seed"):
        each = [
            {m: shift.rank_correlation(of[m], of["loss"]) for m in shift.AGREEING}
            for _, of in own.groupby("network")
        ]
        found[seed] = pd.DataFrame(each).mean(skipna=False)
    return pd.DataFrame(found).T.rename_axis("seed")


def kept_gain(table: pd.DataFrame, arm: str) -> pd.DataFrame:
    """``part`` of BN's gain in the logarithm of the loss that an arm has, and the ``whole``."""
    logs = log_losses(table)
    return pd.DataFrame({"part": logs[WITHOUT] - logs[arm], "whole": logs[WITHOUT] - logs[WITH]})


def landscapes(table: pd.DataFrame, tuned: bool = False) -> pd.DataFrame:
    """Medians over training along the gradient, of each judged run at `EQUAL` or the tuned rate."""
    keys = [*shift.KEYS]
    rows = table.drop_duplicates([*keys, "step"]).groupby(keys, sort=False)[[*LANDSCAPE]].median()
    of_runs = shift.runs(table)
    chosen = shift.at_tuned(of_runs) if tuned else shift.judged(of_runs)
    chosen = chosen if tuned else chosen[chosen["learning_rate"] == EQUAL]
    return chosen[keys].merge(rows.reset_index(), on=keys)


def landscape_ratio(table: pd.DataFrame, column: str, tuned: bool = False) -> pd.Series:
    """Value without BN over with, geometric mean over networks, per seed."""
    logs = _over_networks(landscapes(table, tuned), column)
    return pd.Series(np.exp(logs[WITHOUT] - logs[WITH]))


def _gains(table: pd.DataFrame) -> Finding:
    return claims.at_least(float((1 / loss_ratio(table, WITH, WITHOUT)).mean()), 1.1, " times", 2)


def _moves(table: pd.DataFrame) -> Finding:
    return claims.at_least(float(drift_ratio(table, NOISY, WITHOUT).mean()), 1.0, " times", 2)


def _unsettled(table: pd.DataFrame) -> Finding:
    return claims.at_least(float(drift_ratio(table, NOISY, WITH).mean()), 3.0, " times", 1)


def _inside(arms: tuple[str, ...]) -> Premise:
    """Return the premise that these arms' tuned rates are no ends of their grids."""

    def check(table: pd.DataFrame) -> Finding:
        networks = tuple(table["network"].unique())
        return shift.inside_premise(networks, arms).check(table)

    return Premise(f"no tuned rate is an end of the grid: {', '.join(arms)}", check)


GAINS = Premise(
    "BN trains faster: the loss over training without it is 1.1 times that with", _gains
)


def _least(table: pd.DataFrame) -> Finding:
    worst = float(shift.at_tuned(shift.runs(table))["validation_accuracy"].min())
    return claims.at_least(100 * worst, 100 * 2 * shift.GUESSING, " %")


LEARN = Premise(
    "at its tuned rate every run of every arm has twice the accuracy of guessing", _least
)


def _measure(function: Callable[..., Any], *given: Any) -> Callable[[pd.DataFrame], Any]:
    return lambda table: function(table, *given)


CLAIMS = (
    Claim(
        id="santurkar.noisy_bn",
        paper=SANTURKAR,
        section="2.1, figure 2",
        statement="BN with noise that unsettles distributions still trains faster than no BN.",
        quantity=(
            "loss over training of noisy BN over that without BN, each at its tuned rate, geometric"
            " mean over networks"
        ),
        measure=_measure(loss_ratio, NOISY, WITHOUT),
        bound=1.0,
        direction="below",
        scale="log",
        unit="×",
        premises=(
            Premise("with noisy BN moments drift more over training than without BN", _moves),
            GAINS,
            _inside((WITHOUT, NOISY)),
        ),
    ),
    Claim(
        id="ics.noise_costs_little",
        paper="this book",
        section="less shift, faster training",
        statement="BN keeps most of its gain in speed when noise unsettles what it has fixed.",
        quantity=(
            "share of BN's gain that noisy BN has, in the logarithm of the loss over training, each"
            " arm at its tuned rate, mean over networks"
        ),
        measure=_measure(kept_gain, NOISY),
        bound=0.5,
        scale="ratio",
        kind="control",
        premises=(
            Premise("with the noise moments drift 3 times as much as with BN alone", _unsettled),
            GAINS,
            _inside((WITHOUT, WITH, NOISY)),
        ),
    ),
    Claim(
        id="ics.predicts_speed",
        paper="this book",
        section="less shift, faster training",
        statement="Over arms and rates, networks whose moments drift less train faster.",
        quantity=(
            "rank correlation over all arms and rates of the drift of moments in one step with the"
            " loss over training, mean over networks"
        ),
        measure=lambda table: correlations(table)["drift"],
        bound=0.5,
        kind="control",
        premises=(shift.learning_premise(), shift.measured_premise()),
        revised=claims.LATER,
    ),
    Claim(
        id="ics.predicts_tuned",
        paper="this book",
        section="less shift, faster training",
        statement="So do arms whose moments drift less when each has its own rate.",
        quantity=(
            "rank correlation over arms, each at its tuned rate, of the drift of moments in one"
            " step with the loss over training, mean over networks"
        ),
        measure=lambda table: correlations(table, tuned=True)["drift"],
        bound=0.5,
        kind="control",
        premises=(LEARN,),
        revised=claims.LATER,
    ),
    Claim(
        id="ics.means_only",
        paper="this book",
        section="the best case of the explanation",
        statement="Fixing means alone has most of BN's gain in speed.",
        quantity=(
            "share of BN's gain that means only have, in the logarithm of the loss over training,"
            " each arm at its tuned rate, mean over networks"
        ),
        measure=_measure(kept_gain, MEANS_ONLY),
        bound=0.5,
        scale="ratio",
        kind="control",
        premises=(GAINS, _inside((WITHOUT, WITH, MEANS_ONLY))),
    ),
    Claim(
        id="santurkar.landscape",
        paper=SANTURKAR,
        section="3.1, figure 4(a)",
        statement="Along the gradient the loss varies less with BN.",
        quantity=(
            "range of the loss at half to four times the rate along the gradient, median over"
            " training: without BN over with, both at rate 0.1, geometric mean over networks"
        ),
        measure=_measure(landscape_ratio, "loss_range"),
        bound=1.0,
        scale="log",
        digits=1,
        unit="×",
        premises=(GAINS,),
    ),
    Claim(
        id="santurkar.smoothness",
        paper=SANTURKAR,
        section="3.1, figure 4(c)",
        statement="With BN the loss is effectively smoother along the gradient.",
        quantity=(
            "largest change of the gradient over the length of the way, at half to four times the"
            " rate, median over training: without BN over with, both at rate 0.1, geometric mean"
            " over networks"
        ),
        measure=_measure(landscape_ratio, "smoothness"),
        bound=1.0,
        scale="log",
        digits=1,
        unit="×",
        premises=(GAINS,),
    ),
)


def facts(table: pd.DataFrame) -> dict[str, Any]:
    """Return what the page quotes beside the claims."""
    of_runs = shift.runs(table)
    judged, lived, tuned = shift.judged(of_runs), shift.alive(of_runs), shift.at_tuned(of_runs)
    found: dict[str, Any] = {}
    for arm, short in SHORT.items():
        own = tuned[tuned["arm"] == arm]
        found[f"{short}_loss"] = claims.fact([_geometric(own["loss"])], 2, " nats")
        found[f"{short}_accuracy"] = claims.fact([100 * own["validation_accuracy"].mean()], 1, " %")
        for column in ("course", "drift", "distance"):
            found[f"{short}_{column}"] = claims.fact([_geometric(own[column])], 3)
        if arm not in (WITHOUT, WITH):
            parts = kept_gain(table, arm)
            found[f"{short}_gain"] = claims.ratio_fact(parts["part"], parts["whole"], 2)
    for name, at_tuned in (("all", False), ("tuned", True)):
        each = correlations(table, at_tuned)
        for measure in shift.AGREEING:
            found[f"{name}_{measure}"] = claims.fact(each[measure].dropna(), 2)
        medians = landscapes(table, at_tuned)
        for column in LANDSCAPE:
            found[f"{name}_{column}"] = _ratio(landscape_ratio(table, column, at_tuned))
            for arm in (WITHOUT, WITH):
                value = _geometric(medians.loc[medians["arm"] == arm, column])
                found[f"{name}_{SHORT[arm]}_{column}"] = claims.fact([value], 2)
    found["learned_drift"] = claims.fact(correlations(table, learned=True)["drift"].dropna(), 2)
    for network, name in BY_NETWORK.items():
        found |= _of_network(table[table["network"] == network], name)
    found["noisy_drifts"] = _ratio(drift_ratio(table, NOISY, WITHOUT))
    return {
        **found,
        **shift_ratios.facts(table),
        "moments": geometric(drift_ratio(table, WITHOUT, WITH), 1, "×"),
        "relu_relative": geometric(shift_ratios.ratio(table, RELU_MLP, "relative"), 2, "×"),
        "seeds": claims.fact([judged["seed"].nunique()], 0),
        "tuning": claims.fact([of_runs["seed"].nunique() - judged["seed"].nunique()], 0),
        "rates": claims.fact([judged["learning_rate"].nunique()], 0),
        "runs": claims.fact([len(judged)], 0),
        "lost": claims.fact([len(judged) - len(lived)], 0),
        "guessing": claims.fact([shift.guesses(lived).sum()], 0),
        "steps": claims.fact([table["step"].max()], 0),
    }


def _of_network(table: pd.DataFrame, name: str) -> dict[str, Any]:
    """Describe one network at tuned rates; without values where a record does not hold it."""
    if table.empty:
        empty = ("tuned_loss_range", *(f"{SHORT[arm]}_drift" for arm in (NOISY, WITHOUT)))
        return {f"{each}_{name}": claims.fact([], 2) for each in empty}
    tuned = shift.at_tuned(shift.runs(table))
    found = {f"tuned_loss_range_{name}": _ratio(landscape_ratio(table, "loss_range", tuned=True))}
    for arm in (NOISY, WITHOUT):
        drift = _geometric(tuned.loc[tuned["arm"] == arm, "drift"])
        found[f"{SHORT[arm]}_drift_{name}"] = claims.fact([drift], 2)
    return found


def _geometric(values: pd.Series) -> float:
    """Geometric mean; no number where one is not finite and positive."""
    x = values.to_numpy(float)
    return float(np.exp(np.log(x).mean())) if (np.isfinite(x) & (x > 0)).all() else float("nan")


def _ratio(samples: pd.Series) -> dict[str, Any]:
    """Geometric mean of ratios."""
    return claims.fact([_geometric(samples)], 2, "×")
