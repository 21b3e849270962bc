"""The diverging update: what its table says (Bjorck et al. 2018, figure 4).

The claim, its measure and bound were written before the recorded runs.
"""

import numpy as np
import pandas as pd

from bnbook.evidence import claims
from bnbook.evidence.claims import Claim, Premise
from bnbook.tables.arms import AS_LONG, WITH, WITHOUT
from bnbook.tables.start import DEEP, PAPER, significant

THRESHOLD = 1000.0
"""A minibatch loss above this is divergence, in nats."""
SMALLEST = 0.0001
"""Where the grid of rates begins: an edge there is not bracketed from below."""
LAYERS = (8, 44, 80)
"""The layers of the paper's figure, counted from the first convolution."""
BARS = {
    8: {"mean": 1.5},
    44: {"mean": 3900.0, "variance": 5.4e6},
    80: {"mean": 3.1e8, "variance": 5.6e16},
}
"""Where the colour bars of the paper's figure 4 end, by layer: means in size.

The variances of layer 8 fall from their start there, so that its bar says nothing of the update.
"""
MANY = 10.0
"""Growth of the variance from which a layer counts as having gone."""
NAMES = {WITHOUT: "without", WITH: "with", AS_LONG: "as_long"}
"""The arms' names in facts."""
ALL = -1
"""The channel of rows that are means over all channels of a layer."""


def profiles(table: pd.DataFrame, arm: str) -> pd.DataFrame:
    """Growth of every layer's variance along the update: index seed and fraction, columns layers.

    Mean over channels, divided by that before the update; infinite or missing on overflow.
    """
    rows = table[(table["arm"] == arm) & (table["channel"] == ALL)]
    variance = rows.pivot_table(
        index=["seed", "fraction"], columns="layer", values="variance", dropna=False
    )
    start = variance.xs(0.0, level="fraction").reindex(variance.index.get_level_values("seed"))
    return pd.DataFrame(variance / start.to_numpy())


def growth(table: pd.DataFrame, arm: str = WITHOUT, fraction: float = 1.0) -> pd.DataFrame:
    """`profiles` after the whole update or another fraction: index seed, columns the layers."""
    return pd.DataFrame(profiles(table, arm).xs(fraction, level="fraction"))


def growth_ratio(table: pd.DataFrame) -> pd.Series:
    """Growth in the last of `LAYERS` divided by growth in the first, without BN, per seed.

    Missing where no update diverged; of a network too shallow, its own probed layers count.
    """
    low, *_, high = probed(table)
    grown = growth(table)
    return pd.Series((grown[high] / grown[low]).where(diverged(table)))


def extra_decades(table: pd.DataFrame) -> pd.Series:
    """`growth_ratio` in powers of ten, per seed."""
    return pd.Series(np.log10(growth_ratio(table)))


def probed(table: pd.DataFrame) -> list[int]:
    """Return the layers whose channels are in the table, lowest first."""
    return sorted(int(layer) for layer in table.loc[table["channel"] != ALL, "layer"].unique())


def diverged(table: pd.DataFrame) -> pd.Series:
    """Whether the update took the loss without BN above `THRESHOLD`, per seed."""
    rows = table[(table["arm"] == WITHOUT) & (table["fraction"] == 1.0)]
    losses = rows.groupby("seed")["loss"].first()
    return ~(losses <= THRESHOLD) | (losses.isna())


def _all_diverged(table: pd.DataFrame) -> claims.Finding:
    found = diverged(table)
    return bool(found.all()), f"{int(found.sum())} of {len(found)} seeds", "all seeds"


CLAIMS = (
    Claim(
        id="bjorck.fig4.explosion_with_depth",
        paper=PAPER,
        section="3, figure 4",
        statement="When an update diverges without BN, the moments of the channels explode in the"
        " higher layers.",
        quantity="growth of the channels' variance over a diverging update at three times the"
        " smallest rate that diverges, mean over channels, in powers of ten: in layer 80 less in"
        " layer 8",
        measure=extra_decades,
        bound=0.0,
        digits=1,
        unit=" decades",
        premises=(DEEP, Premise("every update diverges", _all_diverged)),
        revised="An earlier record of ten other seeds applied the update at the smallest rate"
        " itself. Three times that rate was fixed after it had been seen, and before these seeds"
        " ran.",
    ),
)


def crossing(table: pd.DataFrame, arm: str = WITHOUT) -> pd.DataFrame:
    """Part of the update at which each layer's variance has grown by `MANY`, in [0, 1].

    Index seed, columns the layers; interpolated on the logarithm; missing where it never has.
    """
    grown = profiles(table, arm)
    return pd.DataFrame(
        {
            seed: {layer: reaches(run[layer].droplevel("seed"), MANY) for layer in grown.columns}
            for seed, run in grown.groupby("seed")
        }
    ).T.rename_axis(index="seed", columns="layer")


def reaches(values: pd.Series, level: float) -> float:
    """Index at which positive values first exceed a level, interpolated on their logarithm.

    The first index where they begin above, NaN where they never do; what is not finite exceeds.
    """
    above = ~(values <= level).to_numpy()
    if not above.any():
        return float("nan")
    at = int(above.argmax())
    index = values.index.to_numpy(dtype=float)
    if at == 0 or not np.isfinite(values.iloc[at]):
        return float(index[at])
    low, high = np.log(values.iloc[at - 1]), np.log(values.iloc[at])
    share = (np.log(level) - low) / (high - low)
    return float(index[at - 1] + share * (index[at] - index[at - 1]))


def first_layer(table: pd.DataFrame) -> pd.Series:
    """Return the layer that goes first without BN, per seed; missing where none goes."""
    at = crossing(table)
    at = at[at.notna().any(axis="columns")]
    return pd.Series(at.idxmin(axis="columns"), dtype=float)


def largest_moments(table: pd.DataFrame, layer: int) -> pd.DataFrame:
    """Largest absolute mean and largest variance of a layer's channels after the whole update.

    Without BN; index seed, columns ``mean`` and ``variance``: what the ends of the colour bars of
    the paper's figure 4 say.
    """
    rows = table[(table["arm"] == WITHOUT) & (table["fraction"] == 1.0)]
    own = rows[(rows["layer"] == layer) & (rows["channel"] != ALL)].assign(
        mean=lambda found: found["mean"].abs()
    )
    return pd.DataFrame(own.groupby("seed")[["mean", "variance"]].max())


def losses(table: pd.DataFrame, arm: str, fraction: float) -> pd.Series:
    """Loss of a network with a fraction of the update applied, per seed."""
    rows = table[(table["arm"] == arm) & (table["fraction"] == fraction)]
    return pd.Series(rows.groupby("seed")["loss"].first())


def best_fraction(table: pd.DataFrame) -> pd.Series:
    """Part of the update, of those applied, with the smallest loss without BN, per seed."""
    rows = table[table["arm"] == WITHOUT]
    by_fraction = rows.groupby(["seed", "fraction"])["loss"].first().unstack("fraction")
    return pd.Series(by_fraction.idxmin(axis="columns"), dtype=float)


def middle_seed(table: pd.DataFrame) -> int:
    """Return the seed in the middle by `growth_ratio`; the first when none diverged."""
    ratios = growth_ratio(table).dropna().sort_values()
    return int(ratios.index[len(ratios) // 2] if len(ratios) else table["seed"].min())


def facts(table: pd.DataFrame) -> claims.Facts:
    """Return the numbers that the chapter quotes beside the claim, by name."""
    updates = table[table["arm"] == WITHOUT].groupby("seed").first()
    best = best_fraction(table)
    grown, longer = growth(table), growth(table, AS_LONG)
    first, last = first_layer(table), max(grown.columns)
    found = {
        "seeds": claims.count(table["seed"].nunique()),
        "depth": claims.count(updates["depth"].iloc[0]),
        "batch_size": claims.count(updates["batch_size"].iloc[0]),
        "diverged": claims.count(diverged(table).sum()),
        "smallest_rate": significant([updates["learning_rate"].min()]),
        "largest_rate": significant([updates["learning_rate"].max()]),
        "began_above": claims.fact([int((losses(table, WITHOUT, 0.0) > THRESHOLD).sum())], 0),
        "at_smallest": claims.fact([int(np.isclose(updates["edge"], SMALLEST).sum())], 0),
        "least_loss_after": significant([losses(table, WITHOUT, 1.0).min()]),
        "helped": claims.fact([int((best > 0).sum())], 0),
        "best_fraction": claims.fact(100 * best, 0, " %"),
        "last_first": claims.count((first == last).sum()),
        "layers_gone": claims.fact(crossing(table).notna().sum(axis="columns"), 0),
        "rank_correlation": claims.fact(_rank_correlation(grown), 2),
        "last_growth": significant(grown[last]),
        "as_long_bottom_growth": significant(longer[min(longer.columns)]),
    }
    for arm, name in NAMES.items():
        for when, fraction in (("before", 0.0), ("after", 1.0)):
            found[f"{name}_loss_{when}"] = significant(losses(table, arm, fraction))
    at = crossing(table)
    for place, layer in zip(("low", "middle", "high"), probed(table), strict=False):
        found[f"{place}_gone"] = claims.count(at[layer].notna().sum())
        for column in ("mean", "variance"):
            most = largest_moments(table, layer)[column]
            found[f"{place}_most_{column}"] = significant(most)
            if column in BARS.get(layer, {}):
                beyond = int((most >= BARS[layer][column]).sum())
                found[f"{place}_beyond_{column}"] = claims.count(beyond)
        for arm, name in NAMES.items():
            found[f"{name}_{place}_growth"] = significant(growth(table, arm)[layer])
    return found


def _rank_correlation(grown: pd.DataFrame) -> list[float]:
    """Spearman's correlation of a layer's growth with its number, per seed."""
    layers = pd.Series(grown.columns, index=grown.columns, dtype=float)
    return [float(row.corr(layers, method="spearman")) for _, row in grown.iterrows()]
