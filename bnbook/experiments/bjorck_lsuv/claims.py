"""Initial weights scaled once, against BN: what the table says (Bjorck et al., section 5).

The claim, its measure and bound were written before the recorded runs.
"""

import numpy as np
import pandas as pd

from bnbook.evidence import claims
from bnbook.evidence.claims import Claim, Premise
from bnbook.tables import tuning
from bnbook.tables.arms import HE, LSUV, WITH, WITHOUT
from bnbook.tables.rate_map import FAILED, same_rate_gap

PAPER = "Bjorck et al. 2018"
ARMS = (WITHOUT, HE, LSUV, WITH)
NAMES = {WITHOUT: "without", HE: "he", LSUV: "lsuv", WITH: "with"}
"""The arms' names in facts."""
SHIFTS = ("mean_shift", "scale_shift")
"""How far the moments of the layers' outputs are from where they were at the start."""


def tuned_rates(table: pd.DataFrame) -> dict[str, float]:
    """Each arm's learning rate: best final validation accuracy, averaged over seeds."""
    return tuning.tuned_rates(table, ARMS)


def accuracies(table: pd.DataFrame) -> pd.DataFrame:
    """Final test accuracy in per cent of each arm at its tuned rate: index seed, columns arms."""
    return 100 * tuning.final_by_arm(table, tuned_rates(table), "test_accuracy")


def share_of_gain(table: pd.DataFrame) -> pd.DataFrame:
    """Points of final test accuracy that the scaled start and BN gain, per seed: part and whole."""
    final = accuracies(table)
    part, whole = final[LSUV] - final[WITHOUT], final[WITH] - final[WITHOUT]
    return pd.DataFrame({"part": part, "whole": whole})


GAIN = 1.0
"""Points of test accuracy that BN has to gain for a share of it to be told."""


def _gain(table: pd.DataFrame) -> claims.Finding:
    return claims.at_least(share_of_gain(table)["whole"].mean(), GAIN, " points", 1)


PREMISES = (
    Premise("no tuned rate is an end of the grid", lambda t: tuning.inside(t, tuned_rates(t))),
    Premise("BN gains at least a point over the network without it", _gain),
    Premise(
        "every compared network ends above 95 % training accuracy",
        lambda table: tuning.trained(table, list(tuned_rates(table).items()), 0.95),
    ),
)


CLAIMS = (
    Claim(
        id="bjorck.sec5.lsuv",
        paper=PAPER,
        section="5",
        statement="Initial weights scaled once so that every layer's outputs have variance 1 do"
        " nearly as well as BN, though they normalise at the start only (as we recall the remark;"
        " not verified here).",
        quantity="share of BN's gain in final test accuracy over the network without BN, Xavier's"
        " initial weights, that the scaled start brings, each at its tuned rate",
        measure=share_of_gain,
        bound=0.5,
        concerns="share of BN's gain in accuracy of a scaled start",
        scale="ratio",
        premises=PREMISES,
        revised=(
            claims.LATER + " Its value was a mean of each seed's share before, over the seeds where"
            " BN gains; it is a ratio of means since."
        ),
    ),
)


def shifts(table: pd.DataFrame, column: str) -> pd.DataFrame:
    """Final shift of the moments of each arm at its tuned rate: index seed; NaN if not finite."""
    finite = table.assign(**{column: table[column].where(np.isfinite(table[column]))})
    return tuning.final_by_arm(finite, tuned_rates(table), column)


def profile(table: pd.DataFrame, arm: str, step: int) -> pd.DataFrame:
    """Root mean square of the layers' outputs of an arm at its tuned rate at one step.

    Columns ``seed``, ``layer`` (from 1) and ``size``; rows that are not finite are left out.
    """
    rows = tuning.at_rates(table, {arm: tuned_rates(table)[arm]})
    columns = [name for name in rows if str(name).startswith("size_")]
    long = rows[rows["step"] == step].melt("seed", columns, "layer", "size")
    long = long.loc[np.isfinite(long["size"])]
    return pd.DataFrame(long.assign(layer=long["layer"].str.removeprefix("size_").astype(int)))


def facts(table: pd.DataFrame) -> claims.Facts:
    """Return the numbers that the chapter quotes beside the claims, by name."""
    rates, final = tuned_rates(table), accuracies(table)
    grid = sorted(table["learning_rate"].unique())
    found = {
        "seeds": claims.count(table["seed"].nunique()),
        "rates": claims.count(len(grid)),
        "smallest_rate": claims.fact([grid[0]], 3),
        "largest_rate": claims.fact([grid[-1]], 0 if grid[-1] >= 1 else 1),
        "steps": claims.count(table["step"].max()),
        "layers": claims.count(sum(str(name).startswith("size_") for name in table)),
        "gain": claims.fact(final[WITH] - final[WITHOUT], 1, " points"),
        "same_rate": claims.fact(same_rate_gap(table), 1, " points"),
        "gap": claims.fact(final[WITH] - final[LSUV], 1, " points"),
        "he_guess": claims.count((final[HE] < 100 * FAILED).sum()),
        "he_learned": claims.fact(final.loc[final[HE] >= 100 * FAILED, HE], 1, " %"),
    }
    for arm, name in NAMES.items():
        found |= {
            f"{name}_rate": claims.fact([rates[arm]], 3 if rates[arm] < 0.1 else 1),
            f"{name}_accuracy": claims.fact(final[arm], 1, " %"),
            f"{name}_usable": claims.count(tuning.usable_rates(table, arm, "test_accuracy", 0.02)),
        }
        for column in SHIFTS:
            found[f"{name}_{column}"] = claims.fact(shifts(table, column)[arm].dropna(), 2)
    for where, step in (("start", 0), ("end", int(table["step"].max()))):
        mean = profile(table, LSUV, step).groupby("layer")["size"].mean()
        found |= {
            f"lsuv_least_{where}": claims.fact([float(mean.min())], 2),
            f"lsuv_most_{where}": claims.fact([float(mean.max())], 2),
        }
    return found
