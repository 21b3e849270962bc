"""Reading tables of `bnbook.setups.shift`: runs, tuned rates, and correlations of ranks."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations

import numpy as np
import pandas as pd

from bnbook.evidence import claims
from bnbook.evidence.claims import Premise
from bnbook.tables.tuning import at_no_end

SIGMOID_MLP, RELU_MLP = "sigmoid MLP", "ReLU MLP"
CONV, LINEAR_25 = "conv net", "deep linear net"
IMAGE_NETWORKS = (SIGMOID_MLP, RELU_MLP, CONV)
MEASURES = ("course", "drift", "distance", "change", "relative", "cosine")
AGREEING = {"drift": "moments", "distance": "distribution", "relative": "gradient"}
"""The three measures of one step that have no units, and what each looks at."""
TUNING = "tuning"
KEYS = ["network", "arm", "learning_rate", "seed", "role"]


def runs(table: pd.DataFrame) -> pd.DataFrame:
    """One row for each run: measures averaged over layers and steps, and its loss over training.

    ``loss`` is the mean over all steps of training. A run that diverged has an infinite loss, and
    no measures.
    """
    means = table.groupby(KEYS, sort=False)[[*MEASURES]].mean()
    once = table.drop_duplicates([*KEYS, "step"])
    trained = once[once["step"] > 0].groupby(KEYS, sort=False)
    loss = trained["loss"].mean().where(trained["loss"].count() == trained.size(), np.inf)
    diverged = table.groupby(KEYS, sort=False)["diverged_at"].max() >= 0
    loss, means = loss.where(~diverged, np.inf), means.where(~diverged)
    last = trained["validation_accuracy"].last()
    return means.assign(loss=loss, diverged=diverged, validation_accuracy=last).reset_index()


def tuned_rates(of_runs: pd.DataFrame) -> dict[tuple[str, str], float]:
    """Each network's and arm's rate: the least loss over training, mean over the tuning seeds."""
    tuning = of_runs[of_runs["role"] == TUNING]
    rates = {}
    for (network, arm), own in tuning.groupby(["network", "arm"]):
        mean = own.groupby("learning_rate")["loss"].mean()
        rates[str(network), str(arm)] = float(mean.index[int(mean.to_numpy().argmin())])
    return rates


def judged(of_runs: pd.DataFrame) -> pd.DataFrame:
    """Rows of the seeds that chose nothing."""
    return of_runs[of_runs["role"] != TUNING]


def at_tuned(of_runs: pd.DataFrame) -> pd.DataFrame:
    """Judged rows of each network and arm at its tuned rate."""
    rates, rows = tuned_rates(of_runs), judged(of_runs)
    own = [rates[key] for key in zip(rows["network"], rows["arm"], strict=True)]
    return rows[rows["learning_rate"] == own]


def alive(of_runs: pd.DataFrame) -> pd.DataFrame:
    """Judged rows of runs that have every measure."""
    rows = judged(of_runs)
    whole = np.isfinite(rows[[*AGREEING, "loss"]].to_numpy(float)).all(1)
    found: pd.DataFrame = rows.loc[~rows["diverged"] & whole]
    return found


def guesses(rows: pd.DataFrame) -> pd.Series:
    """Whether runs end below twice guessing's accuracy; those without an accuracy do not."""
    return rows["validation_accuracy"] < 2 * GUESSING


def rank_correlation(x: pd.Series, y: pd.Series) -> float:
    """Spearman's correlation; NaN with fewer than three pairs."""
    return float(x.corr(y, method="spearman")) if len(x) > 2 else float("nan")


def pairwise(values: pd.DataFrame) -> dict[tuple[str, str], float]:
    """Rank correlations of each pair of the three measures."""
    return {(a, b): rank_correlation(values[a], values[b]) for a, b in combinations(AGREEING, 2)}


def inside_premise(networks: tuple[str, ...], arms: tuple[str, ...]) -> Premise:
    """Return the premise that these arms of these networks were tuned within their grids."""

    def check(table: pd.DataFrame) -> claims.Finding:
        grids, rates = table.groupby("network")["learning_rate"], tuned_rates(runs(table))
        ends = set(grids.min().items()) | set(grids.max().items())
        out = [
            f"{network} {arm} at {rates[network, arm]:g}"
            for network in networks
            for arm in arms
            if (network, rates[network, arm]) in ends
        ]
        return at_no_end(out)

    return Premise(f"no tuned rate of {', '.join(networks)} is an end of the grid", check)


def learned_premise(
    networks: tuple[str, ...], arms: tuple[str, ...], least: float = 0.5
) -> Premise:
    """Return the premise that all tuned runs of these learn, by the images set aside."""

    def check(table: pd.DataFrame) -> claims.Finding:
        rows = at_tuned(runs(table))
        rows = rows[rows["network"].isin(networks) & rows["arm"].isin(arms)]
        worst = float(rows["validation_accuracy"].min())
        return claims.at_least(100 * worst, 100 * least, " %")

    return Premise(f"the tuned networks learn: {', '.join(networks)}", check)


GUESSING = 0.1
"""Accuracy of guessing among the images' ten classes."""


def measured_premise() -> Premise:
    """Return the premise that most judged runs of each network have every measure."""
    return _most("have every measure", alive)


def learning_premise() -> Premise:
    """Return the premise that most judged runs of each network have twice guessing's accuracy."""

    def learning(of_runs: pd.DataFrame) -> pd.DataFrame:
        rows = judged(of_runs)
        found: pd.DataFrame = rows[rows["validation_accuracy"] >= 2 * GUESSING]
        return found

    return _most("have twice the accuracy of guessing", learning)


def _most(said: str, chosen: Callable[[pd.DataFrame], pd.DataFrame]) -> Premise:
    """Return the premise that more than half of each network's judged runs are among some."""

    def check(table: pd.DataFrame) -> claims.Finding:
        of_runs = runs(table)
        every = judged(of_runs).groupby("network").size()
        share = (chosen(of_runs).groupby("network").size().reindex(every.index) / every).fillna(0)
        least = float(share.min())
        return least > 0.5, f"{100 * least:.0f} %", "more than 50 %"

    return Premise(f"more than half of each network's runs {said}", check)
