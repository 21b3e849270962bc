"""The noise of SGD and what it is held to do (Bjorck et al., section 2.1): what the table says.

The claims, their measures and bounds were written before the recorded runs. Whether noise
generalises is asked of networks trained to the end, by `bnbook.experiments.bjorck_ghost`.
"""

from typing import Any

import numpy as np
import pandas as pd

from bnbook.evidence import claims
from bnbook.evidence.claims import Claim
from bnbook.tables.arms import WITH
from bnbook.tables.rate_map import FAILED, rate_fact

PAPER = "Bjorck et al. 2018"
RUN, NOISE = "run", "noise"
"""Kinds of rows: a trained network, and the noise of its gradient at one size of minibatch."""


def runs(table: pd.DataFrame, arm: str = WITH) -> pd.DataFrame:
    """Rows of the trained networks of one arm."""
    return table[(table["kind"] == RUN) & (table["arm"] == arm)]


def noise(table: pd.DataFrame) -> pd.DataFrame:
    """Rows of the noise, of networks that did not diverge."""
    return table[(table["kind"] == NOISE) & (table["diverged_at"] < 0)]


def finite_population(images: Any, size: Any) -> Any:
    """Factor (N - b)/(N - 1) by which drawing b of N without replacement has less noise."""
    return (images - size) / (images - 1)


def noise_over_bound(table: pd.DataFrame) -> pd.Series:
    """Largest measured noise over the bound of equation 3, over networks and sizes, per seed."""
    measured = noise(table)
    return measured.groupby("seed")["ratio"].max()


def reference_batch(table: pd.DataFrame) -> int:
    """Middle batch size, the lower of two: the one at which the rate is tuned."""
    sizes = sorted(runs(table)["batch_size"].unique())
    return int(sizes[(len(sizes) - 1) // 2])


def tuned_rate(table: pd.DataFrame) -> float:
    """Rate with the best validation accuracy at the reference batch size, over seeds."""
    found = runs(table)
    found = found[found["batch_size"] == reference_batch(table)]
    mean = found.groupby("learning_rate")["validation_accuracy"].mean()
    return float(mean.index[int(mean.argmax())])


def batch_accuracies(table: pd.DataFrame, column: str = "test_accuracy") -> pd.DataFrame:
    """Values at the tuned rate: index seed, columns the batch sizes."""
    found = runs(table)
    found = found[found["learning_rate"] == tuned_rate(table)]
    return found.pivot_table(index="seed", columns="batch_size", values=column)


def small_batch_gain(table: pd.DataFrame) -> pd.Series:
    """Test accuracy with the smallest minibatch minus with the largest, in points, per seed."""
    final = batch_accuracies(table)
    return pd.Series(100 * (final.iloc[:, 0] - final.iloc[:, -1]))


CLAIMS = (
    Claim(
        id="bjorck.eq3.noise_bound",
        paper=PAPER,
        section="2.1, equation 3",
        statement="The noise of an SGD step is at most α² C / |B|.",
        quantity="mean square of the noise of a step, measured over random minibatches, divided by"
        " α² C / |B|: the largest over trained networks and sizes of the minibatch",
        measure=noise_over_bound,
        bound=1.0,
        direction="below",
        digits=3,
        kind="identity",
    ),
)


def scaled(table: pd.DataFrame, power: int = 1) -> pd.DataFrame:
    """Runs with their noise scale α^power/|B| in the column ``scale``, equal where it is equal."""
    found = runs(table)
    noise_scale = found["learning_rate"] ** power / found["batch_size"]
    return found.assign(scale=_rounded(noise_scale))


def along_lines(table: pd.DataFrame, column: str = "test_accuracy") -> pd.DataFrame:
    """Runs by their noise scale: index the ratio α/|B|, columns the batch sizes, means."""
    return scaled(table).pivot_table(index="scale", columns="batch_size", values=column)


def on_lines(table: pd.DataFrame, power: int = 1) -> pd.DataFrame:
    """Runs of `scaled` whose noise scale two or more batch sizes share at their seed."""
    found = scaled(table, power)
    shared = found.groupby(["seed", "scale"])["batch_size"].transform("count") > 1
    return pd.DataFrame(found[shared])


def share_between(found: pd.DataFrame, column: str) -> pd.Series:
    """Share of the variance of test accuracy that lies between the values of a column, per seed."""
    accuracy, seeds = found["test_accuracy"], found["seed"]
    within = accuracy - accuracy.groupby([seeds, found[column]]).transform("mean")
    whole = accuracy - accuracy.groupby(seeds).transform("mean")
    return 1 - (within**2).groupby(seeds).sum() / (whole**2).groupby(seeds).sum()


def share_by_chance(found: pd.DataFrame, column: str) -> pd.Series:
    """`share_between` as it is on average when a column says nothing: (k - 1)/(runs - 1).

    For k values of the column, the mean over all ways to hand the accuracies to the runs.
    """
    groups = found.groupby("seed")[column]
    return pd.Series((groups.nunique() - 1) / (groups.count() - 1))


def share_between_lines(table: pd.DataFrame) -> pd.Series:
    """Share of the variance of test accuracy that lies between values of α/|B|, per seed.

    Only values of α/|B| are taken that two or more batch sizes share.
    """
    return share_between(on_lines(table), "scale")


def flatness_slope(table: pd.DataFrame, least: float = 0.0) -> pd.Series:
    """Slope of the logarithm of the top eigenvalue on that of α/|B|, per seed.

    Over the runs that do not diverge and end with this test accuracy or more.
    """
    found = runs(table)
    kept = (found["diverged_at"] < 0) & (found["eigenvalue"] > 0)
    found = found[kept & (found["test_accuracy"] >= least)]
    slopes = {}
    for seed, group in found.groupby("seed"):
        x = np.log((group["learning_rate"] / group["batch_size"]).to_numpy(float))
        if len(set(x)) > 1:
            slopes[seed] = float(np.polyfit(x, np.log(group["eigenvalue"].to_numpy()), 1)[0])
    return pd.Series(slopes, dtype=float)


def facts(table: pd.DataFrame) -> claims.Facts:
    """Return the numbers that the chapter quotes beside the claims, by name."""
    measured, trained = noise(table), runs(table)
    expected = finite_population(measured["images"], measured["size"])
    error = (measured["ratio"] / expected - 1).groupby(measured["seed"]).mean()
    as_trained = measured.dropna(subset="ratio_as_trained")
    whole = as_trained.groupby("seed")["ratio_as_trained"].max()
    final, gaps = batch_accuracies(table), batch_accuracies(table, "training_accuracy")
    eigen = batch_accuracies(table, "eigenvalue")
    alive = trained[trained["diverged_at"] < 0]
    relative = (alive["eigenvalue_error"] / alive["eigenvalue"]).max()
    lines, squares = on_lines(table), on_lines(table, 2)
    return {
        "seeds": claims.count(trained["seed"].nunique()),
        "steps": claims.count(trained["step"].max()),
        "rate": rate_fact(tuned_rate(table)),
        "reference_batch": claims.count(reference_batch(table)),
        "smallest_batch": claims.count(int(trained["batch_size"].min())),
        "largest_batch": claims.count(int(trained["batch_size"].max())),
        "noise_images": claims.count(measured["images"].max()),
        "networks": claims.count(len(measured[["arm", "seed", "learning_rate", "batch_size"]]
                                     .drop_duplicates())),
        "finite_population_error": claims.fact(100 * error, 2, " %"),
        "most_noise": claims.fact([measured["ratio"].max()], 3),
        "as_trained": claims.fact(whole, 2),
        "most_as_trained": claims.fact([whole.max()], 3),
        "small_batch_behind": claims.fact(-small_batch_gain(table), 1, " points"),
        "small_batch_accuracy": claims.fact(100 * final.iloc[:, 0], 1, " %"),
        "large_batch_accuracy": claims.fact(100 * final.iloc[:, -1], 1, " %"),
        "small_batch_training": claims.fact(100 * gaps.iloc[:, 0], 1, " %"),
        "large_batch_training": claims.fact(100 * gaps.iloc[:, -1], 1, " %"),
        "small_batch_eigenvalue": claims.fact(eigen.iloc[:, 0].dropna(), 1),
        "large_batch_eigenvalue": claims.fact(eigen.iloc[:, -1].dropna(), 1),
        "eigenvalue_error": claims.fact([100 * relative], 3, " %"),
        "between_lines": claims.fact(share_between_lines(table), 2),
        "between_lines_chance": claims.fact([share_by_chance(lines, "scale").mean()], 2),
        "between_rates": claims.fact(share_between(lines, "learning_rate"), 2),
        "between_rates_chance": claims.fact([share_by_chance(lines, "learning_rate").mean()], 2),
        "between_sizes": claims.fact(share_between(lines, "batch_size"), 2),
        "between_sizes_chance": claims.fact([share_by_chance(lines, "batch_size").mean()], 2),
        "between_squares": claims.fact(share_between(squares, "scale").dropna(), 2),
        "between_squares_chance": claims.fact([share_by_chance(squares, "scale").mean()], 2),
        "flatness_slope": claims.fact(flatness_slope(table), 2),
        "flatness_slope_learned": claims.fact(flatness_slope(table, FAILED), 2),
    }  # fmt: skip


def _rounded(values: pd.Series) -> pd.Series:
    """Two significant digits in the logarithm, so that equal ratios compare equal."""
    return pd.Series(10.0 ** (np.log10(values)).round(2), index=values.index)
