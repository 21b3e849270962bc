"""BN in fully connected networks: what the table says.

The claims, their measures and bounds were written before the recorded runs.
"""

from functools import partial

import pandas as pd

from bnbook.evidence import claims
from bnbook.evidence.claims import TIMES, Premise, control
from bnbook.tables import choosing, right
from bnbook.tables.arms import BN, LAYER_NORM, WITHOUT
from bnbook.tables.right import Points

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


def speed(table: pd.DataFrame, task: str) -> pd.Series:
    """Steps without BN over those with it, to the training loss at which the worse one ends."""
    steps = choosing.steps_to(table, "loss", [arm(task, norm) for norm in (WITHOUT, BN)])
    return pd.Series(steps[arm(task, WITHOUT)] / steps[arm(task, BN)])


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
    return found | {"gain_images_bn_seeds": claims.points_fact(alone, 1)}
