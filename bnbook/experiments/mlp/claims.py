"""BN in fully connected networks: what the table says.

The claims, their measures and bounds were written before the recorded runs.
"""

import math
from functools import partial

import pandas as pd

from bnbook.evidence import claims
from bnbook.evidence.claims import TIMES, Premise, control
from bnbook.tables import choosing, right
from bnbook.tables.arms import BN, LAYER_NORM, WITHOUT
from bnbook.tables.right import Points
from bnbook.tables.start import geometric

RAW, TABLE, IMAGES = "raw table", "table", "images"
"""What is learned: a table as it is, the same with standardised columns, and images."""
TASKS, NORMS = (RAW, TABLE, IMAGES), (WITHOUT, BN, LAYER_NORM)


def arm(task: str, norm: str) -> str:
    """Return an arm's name."""
    return f"{task} | {norm}"


def parts(name: str) -> tuple[str, str]:
    """Return an arm's task and norm."""
    task, norm = name.split(" | ")
    return task, norm


ARMS = tuple(arm(task, norm) for task in TASKS for norm in NORMS)


def speed(table: pd.DataFrame, task: str, norm: str = BN) -> pd.Series:
    """Steps without a norm over those with one, to the training loss of the worse one's end."""
    steps = choosing.steps_to(table, "loss", [arm(task, each) for each in (WITHOUT, norm)])
    return pd.Series(steps[arm(task, WITHOUT)] / steps[arm(task, norm)])


def tuning_runs(table: pd.DataFrame, task: str, norm: str) -> pd.DataFrame:
    """Rows of an arm's runs at all rates, of the seed that chooses; without those that diverged."""
    own = table[table["tunes"] & (table["arm"] == arm(task, norm))]
    diverged = own.groupby(["seed", "learning_rate"])["diverged_at"].transform("max") >= 0
    rows: pd.DataFrame = own.loc[~diverged]
    return rows


def tuning_losses(table: pd.DataFrame, task: str, norm: str) -> pd.Series:
    """Last training losses of `tuning_runs`, means over the seeds that choose: index rate."""
    ends = choosing.last(tuning_runs(table, task, norm))
    return pd.Series(ends.groupby("learning_rate")["loss"].mean())


def fastest(table: pd.DataFrame, task: str) -> pd.Series:
    """`speed` on the seeds that choose, each network at whichever rate of the grid is fastest.

    Rates are chosen by validation loss, and `speed` is of the training loss, for which another rate
    may be better. Here the level is the lowest training loss that both networks end at.
    """
    runs = {norm: tuning_runs(table, task, norm) for norm in (WITHOUT, BN)}
    lowest = {norm: choosing.last(own).groupby("seed")["loss"].min() for norm, own in runs.items()}
    level = pd.DataFrame(lowest).max(axis=1, skipna=False)
    steps = {
        norm: own[own["loss"] <= own["seed"].map(level)].groupby("seed")["step"].min()
        for norm, own in runs.items()
    }
    return pd.Series(steps[WITHOUT] / steps[BN], dtype=float)


def gain(table: pd.DataFrame, task: str) -> Points:
    """Test accuracy with BN minus without, points by seed and test example."""
    last = choosing.last(choosing.shown(table)).set_index("seed").sort_index()
    return right.lead(*(last[last["arm"] == arm(task, norm)] for norm in (BN, WITHOUT)))


def _premises(task: str) -> tuple[Premise, ...]:
    def inside(table: pd.DataFrame) -> claims.Finding:
        return choosing.inside(table, [arm(task, norm) for norm in (WITHOUT, BN)])

    def learned(table: pd.DataFrame) -> claims.Finding:
        ends = choosing.ends(table, "test_accuracy")[[arm(task, n) for n in (WITHOUT, BN)]]
        return claims.at_least(100 * float(ends.min().min()), 85.0, " %")

    return (
        Premise("neither chosen rate is an end of the grid", inside),
        Premise("both networks end at 85 % test accuracy or more at every seed", learned),
    )


_STEPS = "steps to one training loss without BN over those with it, each at its own rate;"

_faster = partial(control, section="fully connected networks", bound=1.0, **TIMES)

CLAIMS = (
    _faster(
        id="beyond.mlp",
        statement="BN speeds up the training of a fully connected network on images.",
        quantity=f"{_STEPS} digits, the level the worse network's last one",
        measure=lambda table: speed(table, IMAGES),
        premises=_premises(IMAGES),
    ),
    _faster(
        id="beyond.mlp_table",
        statement="BN speeds up the training of a fully connected network on a standardised table.",
        quantity=f"{_STEPS} columns of mean 0 and variance 1, the level the worse network's last",
        measure=lambda table: speed(table, TABLE),
        premises=_premises(TABLE),
    ),
)


def facts(table: pd.DataFrame) -> claims.Facts:
    """Return what the page quotes beside the claims."""
    found = {}
    ends = choosing.ends(table, "test_accuracy")
    rates = choosing.chosen(table)
    losses = choosing.ends(table, "loss").mean()
    for task in TASKS:
        for norm in NORMS:
            name, own = f"{task} {norm}".lower().replace(" ", "_"), arm(task, norm)
            found[f"accuracy_{name}"] = claims.fact(100 * ends[own], 1, " %")
            found[f"rate_{name}"] = claims.fact([rates[own]], 3)
        own_losses = losses.reindex([arm(task, norm) for norm in NORMS])
        found |= claims.loss_facts(task, own_losses, 4, " nats")
        found[f"gain_{task.replace(' ', '_')}_bn"] = claims.points_fact(gain(table, task), 1)
    alone = right.by_seed(gain(table, IMAGES))
    found["speed_images_layernorm"] = geometric(speed(table, IMAGES, LAYER_NORM), 2, "×")
    found["gain_images_bn_seeds"] = claims.points_fact(alone, 1)
    for task in (IMAGES, TABLE):
        found[f"fastest_{task}"] = claims.fact(fastest(table, task), 2, "×")
    for task, norm, name in ((IMAGES, WITHOUT, "images_without_bn"), (TABLE, BN, "table_bn")):
        of_rates = tuning_losses(table, task, norm)
        chosen, lowest = of_rates.get(rates[arm(task, norm)], math.nan), of_rates.min()
        at = float(of_rates.index[int(of_rates.argmin())]) if len(of_rates) else math.nan
        found[f"tuning_loss_{name}"] = claims.fact([chosen], 4, " nats")
        found[f"lowest_loss_{name}"] = claims.fact([lowest], 4, " nats")
        found[f"lowest_rate_{name}"] = claims.fact([at], 3)
    own = tuning_losses(table, TABLE, WITHOUT).get(rates[arm(TABLE, WITHOUT)], math.nan)
    return found | {"tuning_loss_table_without_bn": claims.fact([own], 4, " nats")}
