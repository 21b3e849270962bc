"""The diverging update: what its table says (Bjorck et al. 2018, figure 4).

The claim, its measure and bound were written before the recorded runs.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from bnbook import claims
from bnbook.analysis.bjorck_start import PAPER, geometric
from bnbook.arms import WITH, WITHOUT
from bnbook.claims import Claim

THRESHOLD = 1000.0
"""A minibatch loss above this is divergence, in nats."""
LAYERS = (8, 44, 80)
"""The layers of the paper's figure, counted from the first convolution."""
MANY = 10.0
"""Growth of the variance from which a layer counts as having gone."""
ALL = -1
"""The channel of rows that are means over all channels of a layer."""


def profiles(table: pd.DataFrame, arm: str) -> pd.DataFrame:
    """Growth of every layer's variance along the update.

    Parameters
    ----------
    table : pandas.DataFrame
        The experiment's table.
    arm : str
        The network.

    Returns
    -------
    pandas.DataFrame
        Index ``seed`` and ``fraction``, columns the layers: mean over channels of the variance,
        divided by what it was before the update. Infinite or missing where the numbers overflow.
    """
    rows = table[(table["arm"] == arm) & (table["channel"] == ALL)]
    variance = rows.pivot_table(
        index=["seed", "fraction"], columns="layer", values="variance", dropna=False
    )
    start = variance.xs(0.0, level="fraction").reindex(variance.index.get_level_values("seed"))
    return pd.DataFrame(variance / start.to_numpy())


def growth(table: pd.DataFrame, arm: str = WITHOUT) -> pd.DataFrame:
    """`profiles` after the whole update: index seed, columns the layers."""
    return pd.DataFrame(profiles(table, arm).xs(1.0, level="fraction"))


def growth_ratio(table: pd.DataFrame) -> pd.Series:
    """Growth in the last of `LAYERS` divided by growth in the first, without BN, per seed.

    Parameters
    ----------
    table : pandas.DataFrame
        The experiment's table; of a network too shallow for `LAYERS`, its own probed layers count.

    Returns
    -------
    pandas.Series
        Index seed; missing where no update diverged.
    """
    low, *_, high = probed(table)
    grown = growth(table)
    return pd.Series((grown[high] / grown[low]).where(diverged(table)))


def probed(table: pd.DataFrame) -> list[int]:
    """Return the layers whose channels are in the table, lowest first."""
    return sorted(int(layer) for layer in table.loc[table["channel"] != ALL, "layer"].unique())


def diverged(table: pd.DataFrame) -> pd.Series:
    """Whether the update took the loss without BN above `THRESHOLD`, per seed."""
    rows = table[(table["arm"] == WITHOUT) & (table["fraction"] == 1.0)]
    losses = rows.groupby("seed")["loss"].first()
    return ~(losses <= THRESHOLD) | (losses.isna())


CLAIMS = (
    Claim(
        id="bjorck.fig4.explosion_with_depth",
        paper=PAPER,
        section="3, figure 4",
        statement=(
            "When an update diverges without BN, the moments of the channels explode in the higher"
            " layers."
        ),
        quantity=(
            "growth of the channels' variance over the diverging update, mean over channels: in"
            " layer 80 divided by in layer 8"
        ),
        measure=growth_ratio,
        bound=1.0,
        scale="log",
        digits=1,
        unit="×",
    ),
)


def crossing(table: pd.DataFrame, arm: str = WITHOUT) -> pd.DataFrame:
    """Smallest applied fraction at which each layer's variance has grown by `MANY`.

    Returns
    -------
    pandas.DataFrame
        Index seed, columns the layers; missing where it never has.
    """
    gone = ~(profiles(table, arm) <= MANY)
    return gone.groupby("seed").agg(_first_true)


def _first_true(gone: pd.Series) -> float:
    fractions = gone.index.get_level_values("fraction")[gone.to_numpy()]
    return float(fractions.min()) if len(fractions) else np.nan


def first_layer(table: pd.DataFrame) -> pd.Series:
    """Return the lowest of the layers that go at the smallest fraction, without BN, per seed."""
    at = crossing(table)
    first = at.eq(at.min(axis="columns"), axis="index")
    return pd.Series(
        first.idxmax(axis="columns").where(at.notna().any(axis="columns")), dtype=float
    )


def facts(table: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """Return the numbers that the chapter quotes beside the claim.

    Parameters
    ----------
    table : pandas.DataFrame
        The experiment's table.

    Returns
    -------
    dict
        Name -> ``value``, ``digits``, ``unit`` and, for means over seeds, ``low``, ``high``.
    """
    plain = table[table["arm"] == WITHOUT]
    whole = plain[plain["fraction"] == 1.0].groupby("seed").first()
    start = plain[plain["fraction"] == 0.0].groupby("seed").first()
    normalised = table[table["arm"] == WITH]
    ends = {
        "start": normalised[normalised["fraction"] == 0.0].groupby("seed")["loss"].first(),
        "end": normalised[normalised["fraction"] == 1.0].groupby("seed")["loss"].first(),
    }
    found = {
        "seeds": claims.fact([table["seed"].nunique()], 0),
        "depth": claims.fact([plain["depth"].iloc[0]], 0),
        "batch_size": claims.fact([plain["batch_size"].iloc[0]], 0),
        "diverged": claims.fact([int(diverged(table).sum())], 0),
        "smallest_rate": claims.fact([whole["learning_rate"].min()], None),
        "largest_rate": claims.fact([whole["learning_rate"].max()], None),
        "first_update": claims.fact([whole["update"].min()], 0),
        "last_update": claims.fact([whole["update"].max()], 0),
        "loss_before": geometric(start["loss"], 0),
        "loss_after": geometric(whole["loss"], None),
        "with_loss_before": geometric(ends["start"], 1),
        "with_loss_after": geometric(ends["end"], 1),
        "first_layer": claims.fact(first_layer(table).dropna(), 0),
        "rank_correlation": claims.fact(_rank_correlation(table), 2),
        "logit_growth": geometric(_last(growth(table)), None, "×"),
    }
    at = crossing(table)
    for place, layer in zip(("low", "middle", "high"), probed(table), strict=False):
        found |= {
            f"{place}_layer": claims.fact([layer], 0),
            f"{place}_growth": geometric(growth(table)[layer], None, "×"),
            f"with_{place}_growth": geometric(growth(table, WITH)[layer], 2, "×"),
            f"{place}_fraction": claims.fact(100 * at[layer].dropna(), 0, " %"),
            f"{place}_gone": claims.fact([int(at[layer].notna().sum())], 0),
        }
    return found


def _last(grown: pd.DataFrame) -> pd.Series:
    return pd.Series(grown[max(grown.columns)])


def _rank_correlation(table: pd.DataFrame) -> list[float]:
    """Spearman's correlation of a layer's growth with its number, without BN, per seed."""
    grown = growth(table)
    layers = pd.Series(grown.columns, index=grown.columns, dtype=float)
    return [float(row.corr(layers, method="spearman")) for _, row in grown.iterrows()]
