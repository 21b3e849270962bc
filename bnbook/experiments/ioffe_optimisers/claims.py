"""BN with other optimisers, and the shape of what it receives: what the table says.

The claims, their measures and bounds were written before the recorded runs, after a pilot with
other seeds.
"""

from itertools import product

import pandas as pd

from bnbook.evidence import claims
from bnbook.evidence.claims import TIMES, Claim, Premise
from bnbook.tables import choosing
from bnbook.tables.arms import RELU, SIGMOID, WITH, WITHOUT

PAPER = "Ioffe & Szegedy 2015"
SGD, ADAGRAD, FULL_BATCH = "SGD", "Adagrad", "full batches"
METHODS = (SGD, ADAGRAD, FULL_BATCH)
NETWORKS = ((SGD, RELU), (ADAGRAD, RELU), (FULL_BATCH, RELU), (SGD, SIGMOID))
"""What is trained, each with and without BN: the methods under ReLU, and sigmoids with SGD."""
SPARSE = 8.0
"""Share of values near zero above which units count as sparse, twice a Gaussian's, per cent."""


def arm(method: str, nonlinearity: str, norm: str) -> str:
    """Return an arm's name."""
    return f"{method} | {nonlinearity} | {norm}"


def parts(name: str) -> tuple[str, str, str]:
    """Return an arm's method, nonlinearity and norm."""
    method, nonlinearity, norm = name.split(" | ")
    return method, nonlinearity, norm


ARMS = tuple(arm(*network, norm) for network in NETWORKS for norm in (WITHOUT, WITH))


def pair(method: str, nonlinearity: str = RELU) -> list[str]:
    """Return the arms of a network without and with BN."""
    return [arm(method, nonlinearity, norm) for norm in (WITHOUT, WITH)]


def speed(table: pd.DataFrame, method: str) -> pd.Series:
    """Steps without BN over those with it, to the training loss at which the worse one ends."""
    without, with_bn = pair(method)
    steps = choosing.steps_to(table, "loss", [without, with_bn])
    return pd.Series(steps[without] / steps[with_bn])


def course(table: pd.DataFrame, method: str) -> pd.Series:
    """Training loss averaged over the measured steps, with BN over without, per seed.

    A network that falls fast and then stalls is not taken for a fast one.
    """
    rows = choosing.shown(table)
    rows = rows[rows["step"] > 0]
    means = rows.pivot_table(index="seed", columns="arm", values="loss", aggfunc="mean")
    without, with_bn = pair(method)
    return pd.Series(means[with_bn] / means[without])


def best_course(table: pd.DataFrame, method: str) -> pd.Series:
    """`course` on the seeds that choose, each arm at the rate at which it is lowest.

    Rates are chosen by validation loss, and `course` is of the training loss.
    """
    run = ["arm", "seed", "learning_rate"]
    rows = table[table["tunes"] & (table["step"] > 0)]
    rows = rows[rows.groupby(run)["diverged_at"].transform("max") < 0]
    means = rows.groupby(run)["loss"].mean()
    lowest = means.groupby(["seed", "arm"]).min().unstack("arm").reindex(columns=pair(method))
    without, with_bn = pair(method)
    return pd.Series(lowest[with_bn] / lowest[without])


def shape(table: pd.DataFrame, column: str, name: str, *, start: bool = False) -> pd.Series:
    """Return a column of the runs shown of an arm, at the end or at the start, per seed."""
    rows = choosing.shown(table)
    rows = rows[rows["arm"] == name]
    rows = rows[rows["step"] == 0] if start else choosing.last(rows)
    return pd.Series(rows.set_index("seed").sort_index()[column])


def closer(table: pd.DataFrame, nonlinearity: str) -> pd.Series:
    """Distance from a Gaussian of u over that of Wu, with BN, per seed."""
    name = arm(SGD, nonlinearity, WITH)
    u, wu = (shape(table, f"{of}_distance", name) for of in ("u", "wu"))
    return pd.Series(u / wu)


def sparsest(table: pd.DataFrame) -> pd.Series:
    """Share of inputs of nonlinearities near zero, the largest of the networks, per cent."""
    names = [arm(SGD, g, norm) for g in (RELU, SIGMOID) for norm in (WITHOUT, WITH)]
    shares = pd.DataFrame({name: shape(table, "wu_near_zero", name) for name in names})
    return 100 * shares.max(axis=1, skipna=False)


def _inside(names: list[str]) -> Premise:
    return Premise(
        "no chosen rate is an end of the grid", lambda table: choosing.inside(table, names)
    )


def _learned(names: list[str], level: float) -> Premise:
    def check(table: pd.DataFrame) -> claims.Finding:
        least = choosing.ends(table, "test_accuracy")[names].min().min()
        return claims.at_least(100 * float(least), level, " %")

    said = "the network" if len(names) == 1 else "each network"
    return Premise(f"{said} ends at {level:.0f} % test accuracy or more at every seed", check)


def _faster(method: str, name: str, statement: str) -> Claim:
    """Return the claim that BN lowers the loss over training by a method."""
    without, _ = pair(method)
    return Claim(
        id=f"ioffe.sec3_1.{name}",
        paper=PAPER,
        section="3.1",
        statement=statement,
        quantity=f"training loss averaged over training by {method}, with BN over without, each at"
        " its own rate",
        measure=lambda table: course(table, method),
        bound=1.0,
        direction="below",
        premises=(_inside(pair(method)), _learned([without], 85.0)),
        **TIMES,
    )


def _gaussian(nonlinearity: str, name: str) -> Claim:
    own = [arm(SGD, nonlinearity, WITH)]
    return Claim(
        id=f"ioffe.sec3_2.gaussian_{name}",
        paper=PAPER,
        section="3.2",
        statement="Wu + b is more symmetric and less sparse, more Gaussian, than u, the output of"
        f" another nonlinearity (here {nonlinearity}).",
        quantity="distance from a Gaussian of a unit's values of u over that of Wu, means over"
        f" units of the hidden layers after the first, trained {nonlinearity} network with BN",
        measure=lambda table: closer(table, nonlinearity),
        bound=1.0,
        premises=(_inside(own), _learned(own, 85.0)),
        **TIMES,
    )


CLAIMS = (
    _faster(
        ADAGRAD, "adagrad",
        "A BN network can be trained by variants of SGD such as Adagrad; what can be measured: BN"
        " speeds up that training too.",
    ),
    _faster(
        FULL_BATCH, "full_batch",
        "A BN network can be trained by gradient descent on full batches; what can be measured: BN"
        " speeds up that training too.",
    ),
    _gaussian(RELU, "relu"),
    _gaussian(SIGMOID, "sigmoid"),
    Claim(
        id="ioffe.sec5.not_sparse",
        paper=PAPER,
        section="5",
        statement="The inputs of nonlinearities are not sparse, with BN or without it.",
        quantity="share of a unit's inputs below a twentieth of their root mean square, mean over"
        " units, the largest of the trained ReLU and sigmoid networks with and without BN; a"
        " Gaussian's is 4 %",
        measure=sparsest,
        bound=SPARSE,
        direction="below",
        digits=1,
        unit=" %",
        premises=(_learned([*pair(SGD), *pair(SGD, SIGMOID)], 70.0),),
    ),
)  # fmt: skip


def facts(table: pd.DataFrame) -> claims.Facts:
    """Return what the page quotes beside the claims."""
    shown = choosing.shown(table)
    found = {
        "seeds": claims.count(shown["seed"].nunique()),
        "rates": claims.count(table["learning_rate"].nunique()),
        "steps": claims.count(table["step"].max()),
        "full_steps": claims.count(shown.loc[shown["arm"] == pair(FULL_BATCH)[1], "step"].max()),
        "diverged": claims.count((choosing.last(table)["diverged_at"] >= 0).sum()),
        "sgd_course": claims.fact(course(table, SGD), 2, "×"),
    }
    norms = {"without": WITHOUT, "with": WITH}
    accuracies = choosing.ends(table, "test_accuracy")
    for method in METHODS:
        name = method.lower().replace(" ", "_")
        found[f"{name}_speed"] = claims.fact(speed(table, method), 2, "×")
        found[f"{name}_best_course"] = claims.fact(best_course(table, method), 2, "×")
        for which, norm in norms.items():
            own = 100 * accuracies[arm(method, RELU, norm)]
            found[f"{name}_{which}"] = claims.fact(own, 1, " %")
    for nonlinearity, which, of in product((RELU, SIGMOID), norms, ("u", "wu")):
        distance = shape(table, f"{of}_distance", arm(SGD, nonlinearity, norms[which]))
        found[f"{nonlinearity.lower()}_{which}_{of}_distance"] = claims.fact(distance, 2)
    return found
