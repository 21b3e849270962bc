"""Gradients of the network's outputs at initialisation: what their table says.

Bjorck et al. say in words that without BN the network predicts one class for almost all images.
Their picture says more: with BN too a class is favoured, but softly. What differs is that without
BN the softmax is saturated, the rows are alike, and their mean is large. Three claims judge these;
the share of the favoured class is a fact. They were written after ten other seeds had been seen,
and before the hundred of the record ran.
"""

from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from bnbook.evidence import claims
from bnbook.evidence.claims import Claim, Premise
from bnbook.tables.arms import LAST_ONLY, WITH, WITHOUT

CERTAIN = 10.0
"""Percentage points of probability from which on one network counts as more certain."""
REVISED = (
    "An earlier record of ten other seeds judged the share of the favoured class instead: without"
    " BN 12 points more than with it, -6 to 30, inconclusive against 25. The claim was changed"
    " after that, and after the paper's picture could be read; these seeds ran later."
)


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


def certainty(table: pd.DataFrame) -> pd.DataFrame:
    """Mean probability of the predicted class, per cent: seeds by arms."""
    return pd.DataFrame(100 * table.groupby(["seed", "arm"])["probability"].mean().unstack("arm"))


def certainty_gap(table: pd.DataFrame) -> pd.Series:
    """`certainty` without BN minus with BN, percentage points, per seed."""
    found = certainty(table)
    return pd.Series(found[WITHOUT] - found[WITH])


def correlation_gap(table: pd.DataFrame) -> pd.Series:
    """`row_correlation` without BN minus with BN, per seed."""
    found = over_networks(table, row_correlation)
    return pd.Series(found[WITHOUT] - found[WITH])


def mean_gradient_ratio(table: pd.DataFrame) -> pd.Series:
    """Norm of the minibatch's mean gradient without BN over that with BN, per seed."""
    found = over_networks(table, mean_norm)
    return pd.Series(found[WITHOUT] / found[WITH])


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


def mean_norm(g: np.ndarray) -> float:
    """Norm of the minibatch's mean gradient, in nats for each unit of an output."""
    return float(np.linalg.norm(g.mean(0)))


def surviving_share(g: np.ndarray) -> float:
    """Norm of the minibatch's mean gradient over the mean norm of an image's, in [0, 1]."""
    return mean_norm(g) / float(np.linalg.norm(g, axis=1).mean())


def _many(table: pd.DataFrame) -> claims.Finding:
    return claims.at_least(float(table["image"].max() + 1), 32, " images")


_claim = partial(
    Claim,
    paper="Bjorck et al. 2018",
    section="3.2, figure 6",
    premises=(Premise("the minibatch has 32 images or more", _many),),
    revised=REVISED,
)

CLAIMS = (
    _claim(
        id="bjorck.fig6.saturated",
        statement="At the start the network without BN is certain of its class; with BN it favours"
        " one softly.",
        quantity="mean probability of the predicted class at the start: without BN minus with BN",
        measure=certainty_gap,
        bound=CERTAIN,
        digits=0,
        unit=" points",
    ),
    _claim(
        id="bjorck.fig6.alike",
        statement="At the start the gradients of different images are more alike without BN.",
        quantity="mean correlation of two images' gradients by the outputs at the start: without"
        " BN minus with BN",
        measure=correlation_gap,
        bound=0.0,
    ),
    _claim(
        id="bjorck.fig6.mean_gradient",
        statement="At the start the gradient of a minibatch by the outputs is larger without BN,"
        " since its images push the same way.",
        quantity="norm of a minibatch's mean gradient by the outputs at the start, without BN over"
        " with BN",
        measure=mean_gradient_ratio,
        bound=1.0,
        scale="log",
        unit=" times",
    ),
)


def facts(table: pd.DataFrame) -> claims.Facts:
    """Return the numbers that the chapter quotes beside the claim, by name."""
    found = {
        "seeds": claims.count(table["seed"].nunique()),
        "batch_size": claims.count(table["image"].max() + 1),
    }
    shares = top_shares(table)
    correlations = over_networks(table, row_correlation)
    surviving = over_networks(table, surviving_share)
    confidence = certainty(table)
    for name, arm in (("without", WITHOUT), ("with", WITH), ("last", LAST_ONLY)):
        found |= {
            f"{name}_share": claims.fact(shares[arm], 0, " %"),
            f"{name}_confidence": claims.fact(confidence[arm], 0, " %"),
            f"{name}_correlation": claims.fact(correlations[arm].dropna(), 2),
            f"{name}_surviving": claims.fact(100 * surviving[arm], 0, " %"),
        }
    return found
