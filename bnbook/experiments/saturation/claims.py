"""Saturating nonlinearities: what the table says.

The claims, their measures and bounds were written after a pilot with other seeds and before the
recorded runs.
"""

from collections.abc import Mapping
from itertools import product

import numpy as np
import pandas as pd

from bnbook.evidence import claims
from bnbook.evidence.claims import POINTS, TIMES, Claim, Finding, Premise
from bnbook.tables import tuning
from bnbook.tables.arms import SIGMOID, WITH, WITHOUT
from bnbook.tables.start import significant

PAPER = "Ioffe & Szegedy 2015"
TANH = "tanh"
NONLINEARITIES = (SIGMOID, TANH)
CELL = ["nonlinearity", "depth", "arm"]
RUN = [*CELL, "start", "seed", "learning_rate"]
MEASURED = ("share", "slope", "input_gradient", "weight_gradient")
"""Columns that are measured layer by layer."""
LEARNS = 0.5
"""Share of the test images that a network has right, from which on its depth counts as trained."""
CHANCE = 0.2
"""Accuracy up to which a network counts as one that guesses: twice that of guessing."""
DEEP = 20
"""Hidden layers of the network whose accuracy is judged."""
NAMES = {WITHOUT: "without", WITH: "with"}
Cell = tuple[str, int, str]


def last(table: pd.DataFrame) -> pd.DataFrame:
    """One row for each run, of its last step and first layer."""
    ends = table.groupby(RUN)["step"].transform("max")
    return table[(table["step"] == ends) & (table["layer"] == 1)]


def chosen(table: pd.DataFrame) -> dict[Cell, tuple[float, float]]:
    """Return each network's start and rate: the lowest validation loss, mean of the tuning seeds.

    Of equals the smallest start and then the smallest rate.
    """
    ends = last(table[table["tunes"]])
    ends = ends.assign(validation=ends["validation"].fillna(np.inf))
    found = {}
    for cell, own in ends.groupby(CELL):
        mean = own.groupby(["start", "learning_rate"])["validation"].mean()
        start, rate = mean.index[int(mean.to_numpy().argmin())]
        found[cell] = (float(start), float(rate))
    return found  # type: ignore[return-value]


def judged(table: pd.DataFrame) -> pd.DataFrame:
    """Rows of the seeds that choose nothing; each network ran at its start and rate alone."""
    rows: pd.DataFrame = table.loc[~table["tunes"]]
    return rows


def accuracies(table: pd.DataFrame, nonlinearity: str) -> pd.DataFrame:
    """Final test accuracy, per cent: index seed, columns depth and arm."""
    rows = last(judged(table))
    rows = rows[rows["nonlinearity"] == nonlinearity]
    return 100 * rows.pivot_table(index="seed", columns=["depth", "arm"], values="test_accuracy")


def gain(table: pd.DataFrame, nonlinearity: str = SIGMOID) -> pd.Series:
    """Test accuracy of the deepest network with BN minus without, points."""
    ends = accuracies(table, nonlinearity)
    deepest = max(table["depth"])
    return pd.Series(ends[deepest, WITH] - ends[deepest, WITHOUT])


def trained_depths(table: pd.DataFrame, nonlinearity: str) -> pd.DataFrame:
    """Largest depth that a seed's network learns at: index seed, columns arms; NaN for none."""
    right = accuracies(table, nonlinearity) >= 100 * LEARNS
    depths = right.columns.get_level_values("depth").to_numpy(float)
    reached = right.astype(float).where(right) * depths
    return reached.T.groupby(level="arm").max().T


def depth_ratio(table: pd.DataFrame, nonlinearity: str) -> pd.Series:
    """Largest trained depth with BN over that without."""
    found = trained_depths(table, nonlinearity)
    return pd.Series(found[WITH] / found[WITHOUT])


def in_training(table: pd.DataFrame, column: str) -> pd.DataFrame:
    """Mean of a column over layers and measured steps after the start, by seed and cell."""
    rows = judged(table)
    means = rows[rows["step"] > 0].groupby([*CELL, "seed"])[column].mean()
    return means.unstack(CELL)


def both_learn(table: pd.DataFrame, nonlinearity: str) -> list[int]:
    """Depths at which every judged run learns, with BN and without."""
    rows = last(judged(table))
    rows = rows[rows["nonlinearity"] == nonlinearity]
    worst = rows.groupby("depth")["test_accuracy"].min()
    return [int(depth) for depth in worst.index[worst >= LEARNS]]


def share_difference(table: pd.DataFrame, nonlinearity: str = SIGMOID) -> pd.Series:
    """Saturated activations with BN minus without, points, mean of the depths that both learn."""
    shares = 100 * in_training(table, "share")[nonlinearity]
    pairs = [shares[d, WITH] - shares[d, WITHOUT] for d in both_learn(table, nonlinearity)]
    return pd.Series(sum(pairs) / len(pairs)) if pairs else pd.Series(dtype=float)


def before_training(table: pd.DataFrame) -> pd.DataFrame:
    """Rows of the start, one for each network, start, seed and layer, whatever rate follows."""
    rows = table[table["step"] == 0]
    return rows.drop_duplicates([*CELL, "start", "seed", "layer"])


def evenness(table: pd.DataFrame, cell: Cell, start: float) -> pd.Series:
    """Gradient at the first layer over that at the last before training, by seed."""
    rows = before_training(table)
    rows = rows[(rows[CELL] == list(cell)).all(axis=1) & (rows["start"] == start)]
    wide = rows.pivot_table(index="seed", columns="layer", values="input_gradient")
    return pd.Series(wide[1] / wide[cell[1]])


def _guesses(table: pd.DataFrame) -> Finding:
    """No tuning run without BN learned, at any start or rate."""
    rows = last(table[table["tunes"]])
    deepest = rows["depth"] == max(table["depth"])
    own = rows[deepest & (rows["nonlinearity"] == SIGMOID) & (rows["arm"] == WITHOUT)]
    best = float(own["validation_accuracy"].max())
    return best <= CHANCE, f"{100 * best:.0f} %", f"{100 * CHANCE:.0f} % or less"


def _deep(table: pd.DataFrame) -> Finding:
    return claims.at_least(float(table["depth"].max()), DEEP, " layers")


def _inside(cells: Mapping[Cell, tuple[float, float]], table: pd.DataFrame) -> Finding:
    rates = {" ".join(map(str, cell)): rate for cell, (_, rate) in cells.items()}
    return tuning.inside(table, rates)


def _deepest_inside(table: pd.DataFrame) -> Finding:
    cell = (SIGMOID, max(table["depth"]), WITH)
    return _inside({cell: chosen(table)[cell]}, table)


def _learning_inside(nonlinearity: str | None = None) -> Premise:
    """Premise: the networks that learn have their rates within the grid."""

    def check(table: pd.DataFrame) -> Finding:
        learned = last(judged(table)).groupby(CELL)["test_accuracy"].min() >= LEARNS
        return _inside(
            {
                cell: found
                for cell, found in chosen(table).items()
                if learned.get(cell, False) and nonlinearity in (None, cell[0])
            },
            table,
        )

    return Premise("no rate of a network that learns is an end of the grid", check)


def _shallow(nonlinearity: str) -> Premise:
    def check(table: pd.DataFrame) -> Finding:
        ends = accuracies(table, nonlinearity)
        least = min(float(ends[min(table["depth"]), arm].min()) for arm in NAMES)
        return claims.at_least(least, 100 * LEARNS, " %")

    return Premise("the shallowest network learns at every seed, with BN and without", check)


def _limited(nonlinearity: str) -> Premise:
    def check(table: pd.DataFrame) -> Finding:
        reached = trained_depths(table, nonlinearity)[WITHOUT].max()
        return bool(reached < table["depth"].max()), f"{reached:g} layers", "less than the deepest"

    return Premise("without BN the deepest network learns at no seed", check)


def _enough(nonlinearity: str) -> Premise:
    def check(table: pd.DataFrame) -> Finding:
        return claims.at_least(float(len(both_learn(table, nonlinearity))), 2, " depths")

    return Premise("at two depths or more every network learns, with BN and without", check)


def _depth_claim(name: str, nonlinearity: str) -> Claim:
    return Claim(
        id=name,
        paper=PAPER,
        section="1",
        statement=f"With BN deeper networks of {nonlinearity}s become trainable.",
        quantity=f"largest number of hidden {nonlinearity} layers at which a network has half of"
        " the test images right, with BN over without, each at its own rate and start",
        measure=lambda table: depth_ratio(table, nonlinearity),
        bound=1.0,
        digits=1,
        premises=(
            Premise(f"the deepest network has {DEEP} hidden layers", _deep),
            _shallow(nonlinearity),
            _limited(nonlinearity),
            _learning_inside(nonlinearity),
        ),
        **TIMES,
    )


def _share_claim(name: str, nonlinearity: str) -> Claim:
    return Claim(
        id=name,
        paper=PAPER,
        section="1",
        statement=f"BN keeps the inputs of {nonlinearity}s out of the saturated regime.",
        quantity=f"saturated activations of {nonlinearity}s (slope below a tenth of its largest)"
        " with BN minus without, mean over layers, training and the depths that learn with and"
        " without",
        measure=lambda table: share_difference(table, nonlinearity),
        bound=0.0,
        direction="below",
        premises=(_enough(nonlinearity), _learning_inside(nonlinearity)),
        **POINTS,
    )


CLAIMS = (
    Claim(
        id="ioffe.saturation",
        paper=PAPER,
        section="abstract, 1 and 4.2.2",
        statement="With BN a network of saturating nonlinearities trains that otherwise stays at"
        " chance (Inception with sigmoids: 69.8 % with BN, at most 0.1 % without).",
        quantity="test accuracy of the deepest sigmoid network with BN minus without, each at its"
        " own rate and start",
        measure=gain,
        bound=50.0,
        premises=(
            Premise(f"the deepest network has {DEEP} hidden layers", _deep),
            Premise("without BN it guesses, at every start and rate that was tried", _guesses),
            Premise("its rate with BN is no end of the grid", _deepest_inside),
        ),
        **POINTS,
    ),
    _depth_claim("ioffe.saturation.depth", SIGMOID),
    _depth_claim("ioffe.saturation.tanh", TANH),
    _share_claim("ioffe.saturation.share", SIGMOID),
    _share_claim("ioffe.saturation.share_tanh", TANH),
)


def facts(table: pd.DataFrame) -> claims.Facts:
    """Return what the page quotes beside the claims."""
    found: claims.Facts = {}
    shallowest, deepest = int(min(table["depth"])), int(max(table["depth"]))
    sizes = sorted(set(table["start"]))
    shares = 100 * in_training(table, "share")
    for nonlinearity, (arm, name) in product(NONLINEARITIES, NAMES.items()):
        cell, stem = (nonlinearity, deepest, arm), f"{nonlinearity}_deepest_{name}"
        ends = accuracies(table, nonlinearity)[deepest, arm]
        found[f"{stem}_accuracy"] = claims.fact(ends, 1, " %")
        found[f"{stem}_share"] = claims.fact(shares[cell], 1, " %")
        found[f"{nonlinearity}_{shallowest}_{name}_share"] = claims.fact(
            shares[nonlinearity, shallowest, arm], 1, " %"
        )
        for size in sizes:
            found[f"{stem}_evenness_{size:g}"] = significant(evenness(table, cell, size))
    for size in sizes:
        at_start = _share_at_start(table, (SIGMOID, deepest, WITHOUT), size)
        found[f"sigmoid_deepest_without_share_{size:g}"] = claims.fact(at_start, 1, " %")
        found[f"sigmoid_without_depth_{size:g}"] = claims.count(_tuned_depth(table, size))
    for nonlinearity in NONLINEARITIES:
        depths = trained_depths(table, nonlinearity)[WITHOUT]
        found[f"{nonlinearity}_without_depth"] = claims.fact(depths.dropna(), 0)
    return found | {
        "seeds": claims.count(judged(table)["seed"].nunique()),
        "tuning": claims.count(table.loc[table["tunes"], "seed"].nunique()),
        "rates": claims.count(table["learning_rate"].nunique()),
        "steps": claims.count(table["step"].max()),
        "depths": claims.count(table["depth"].nunique()),
        "deepest": claims.count(deepest),
    }


def _share_at_start(table: pd.DataFrame, cell: Cell, start: float) -> pd.Series:
    """Saturated activations before training, mean over layers, per cent, by seed."""
    rows = before_training(table)
    rows = rows[(rows[CELL] == list(cell)).all(axis=1) & (rows["start"] == start)]
    return 100 * rows.groupby("seed")["share"].mean()


def _tuned_depth(table: pd.DataFrame, start: float) -> float:
    """Largest depth at which any tuning run of sigmoids without BN learns, at one start."""
    rows = last(table[table["tunes"] & (table["start"] == start)])
    own = rows[(rows["nonlinearity"] == SIGMOID) & (rows["arm"] == WITHOUT)]
    return float(own.loc[own["validation_accuracy"] >= LEARNS, "depth"].max())
