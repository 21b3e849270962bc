"""Gradients of the network's outputs at initialisation: what their table says.

The claim, its measure and bound were written before the recorded runs. Bjorck et al. say in words
that without BN the network predicts one class for almost all images, and that with BN the gradients
are spread over the classes. Almost all is read as three quarters of the images at least, spread as
no class with more than half of them: a difference of 25 percentage points separates the two.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from bnbook.evidence import claims
from bnbook.evidence.claims import Claim, Premise
from bnbook.tables.arms import LAST_ONLY, WITH, WITHOUT

BOUND = 25.0
"""Percentage points above which the difference of the shares is that of almost all and spread."""


def gradient_columns(table: pd.DataFrame) -> list[str]:
    """Names of the columns that hold dL_b/dO_bj, class 0 first."""
    classes = sum(name.startswith("gradient_") for name in table.columns)
    return [f"gradient_{j}" for j in range(classes)]


def gradients(table: pd.DataFrame, arm: str, seed: int) -> np.ndarray:
    """dL_b/dO_bj of one network: images by classes, in the order of the batch."""
    own = table[(table["arm"] == arm) & (table["seed"] == seed)].sort_values("image")
    return own[gradient_columns(table)].to_numpy(dtype=float)


def top_shares(table: pd.DataFrame) -> pd.DataFrame:
    """Percentage of the images that get the most frequent prediction: seeds by arms."""
    groups = table.groupby(["seed", "arm"])["predicted"]
    return 100 * groups.agg(lambda c: c.value_counts(normalize=True).iloc[0]).unstack("arm")


def share_gap(table: pd.DataFrame) -> pd.Series:
    """`top_shares` without BN minus with BN, percentage points, per seed."""
    shares = top_shares(table)
    return pd.Series(shares[WITHOUT] - shares[WITH])


def over_networks(table: pd.DataFrame, measure: Any) -> pd.DataFrame:
    """A number for the gradients of every network: seeds by arms."""
    keys = table[["seed", "arm"]].drop_duplicates().itertuples(index=False)
    rows = [(seed, arm, measure(gradients(table, arm, seed))) for seed, arm in keys]
    return pd.DataFrame(rows, columns=["seed", "arm", "value"]).pivot_table(
        index="seed", columns="arm", values="value"
    )


def row_correlation(g: np.ndarray) -> float:
    r"""Mean correlation of the gradients of two different images; rows that are zero are left out.

    Each row sums to zero (a softmax less an indicator), so that the correlation over classes is a
    cosine, and the mean over all pairs needs the sum of the unit rows only:
    :math:`(\|\sum_b u_b\|^2 - B) / (B (B - 1))`. NaN with fewer than two rows.
    """
    norms = np.linalg.norm(g, axis=1, keepdims=True)
    unit = (g / np.where(norms > 0, norms, 1))[norms[:, 0] > 0]
    count = len(unit)
    if count < 2:
        return np.nan
    return float((np.square(unit.sum(0)).sum() - count) / (count * (count - 1)))


def surviving_share(g: np.ndarray) -> float:
    """Norm of the batch's mean gradient over the mean norm of an image's, in [0, 1]."""
    return float(np.linalg.norm(g.mean(0)) / np.linalg.norm(g, axis=1).mean())


def _many(table: pd.DataFrame) -> claims.Finding:
    return claims.at_least(float(table["image"].max() + 1), 32, " images")


CLAIMS = (
    Claim(
        id="bjorck.fig6.one_class",
        paper="Bjorck et al. 2018",
        section="3.2, figure 6",
        statement=(
            "At initialisation the network without BN predicts one class for almost all images;"
            " with BN the predictions are spread over the classes."
        ),
        quantity=(
            "share of the images that are given the most frequent class, at initialisation:"
            " without BN minus with BN"
        ),
        measure=share_gap,
        bound=BOUND,
        digits=0,
        unit=" points",
        premises=(Premise("the shares are of 32 images or more", _many),),
        revised=claims.LATER,
    ),
)


def facts(table: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """Return the numbers that the chapter quotes beside the claim, by name."""
    found = {
        "seeds": claims.fact([table["seed"].nunique()], 0),
        "batch_size": claims.fact([table["image"].max() + 1], 0),
    }
    shares = top_shares(table)
    correlations = over_networks(table, row_correlation)
    surviving = over_networks(table, surviving_share)
    per_network = table.groupby(["seed", "arm"])
    confidence = 100 * per_network["probability"].mean().unstack("arm")
    for name, arm in (("without", WITHOUT), ("with", WITH), ("last", LAST_ONLY)):
        found |= {
            f"{name}_share": claims.fact(shares[arm], 0, " %"),
            f"{name}_confidence": claims.fact(confidence[arm], 0, " %"),
            f"{name}_correlation": claims.fact(correlations[arm].dropna(), 2),
            f"{name}_surviving": claims.fact(100 * surviving[arm], 0, " %"),
        }
    return found
