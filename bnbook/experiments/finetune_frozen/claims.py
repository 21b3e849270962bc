"""Fine-tuning with statistics that stand or move: what the table says.

The claims, their measures and bounds were written before the recorded runs.
"""

import pandas as pd

from bnbook.evidence import claims
from bnbook.evidence.claims import POINTS, Premise, control
from bnbook.tables import climbed
from bnbook.tables.arms import ALGORITHM_2, RUNNING

MOVING, FROZEN = "statistics move", "statistics of the source stand"
ESTIMATED = "statistics of the target stand"
MODES = (MOVING, FROZEN, ESTIMATED)
PLAIN, FADED = "other classes", "other classes, less contrast"
TARGETS = (PLAIN, FADED)
SMALLEST, LARGEST = 2, 32
"""Images normalised together at which the claims are judged."""
NAMES = {PLAIN: "plain", FADED: "faded"}
"""The targets' names in facts."""


def accuracy(
    table: pd.DataFrame, target: str, mode: str, m: int = LARGEST, statistics: str = RUNNING
) -> pd.Series:
    """Test accuracy at the rate chosen, per cent, one number per judging seed."""
    rows = climbed.judged(table)
    rows = rows[(rows["target"] == target) & (rows["mode"] == mode) & (rows["batch_size"] == m)]
    rows = rows[rows["statistics"] == statistics].set_index("seed").sort_index()
    return pd.Series(100 * rows["test_accuracy"])


def frozen_lead(table: pd.DataFrame) -> pd.Series:
    """Accuracy with the source's statistics less with statistics that move at m = 2, points."""
    return accuracy(table, PLAIN, FROZEN) - accuracy(table, PLAIN, MOVING, SMALLEST)


def shifted_cost(table: pd.DataFrame) -> pd.Series:
    """What the source's statistics cost where contrast is less, against the target's, points."""
    return accuracy(table, FADED, ESTIMATED) - accuracy(table, FADED, FROZEN)


def _inside(*cells: tuple[str, str, int]) -> Premise:
    named = {
        f"{target}, {mode}, m = {m}": {"target": target, "mode": mode, "batch_size": m}
        for target, mode, m in cells
    }
    return Premise(
        "no rate that was chosen is the first or last of the grid",
        lambda table: climbed.inside(table, named),
    )


CLAIMS = (
    control(
        id="beyond.finetune_frozen",
        section="fine-tuning",
        statement="Where 2 images are normalised together, fine-tuning with BN's statistics frozen"
        " is better than with statistics that move.",
        quantity="test accuracy on new classes after fine-tuning with the source's statistics,"
        f" minus that with statistics that move with minibatches of {SMALLEST}",
        measure=frozen_lead,
        bound=0.0,
        premises=(_inside((PLAIN, FROZEN, LARGEST), (PLAIN, MOVING, SMALLEST)),),
        **POINTS,
    ),
    control(
        id="beyond.finetune_shifted",
        section="fine-tuning",
        statement="Where the new images differ from those of the source, the statistics to freeze"
        " are those of the new images.",
        quantity="test accuracy on new classes with less contrast, after fine-tuning with"
        " statistics estimated once on the new images, minus that with the source's",
        measure=shifted_cost,
        bound=0.0,
        premises=(_inside((FADED, FROZEN, LARGEST), (FADED, ESTIMATED, LARGEST)),),
        **POINTS,
    ),
)


def facts(table: pd.DataFrame) -> claims.Facts:
    """Return the numbers that the chapter quotes beside the claims."""
    moving = table[table["mode"] == MOVING]
    sizes = sorted(int(m) for m in moving["batch_size"].unique())
    found = {"seeds": claims.count(climbed.judged(table)["seed"].nunique())}
    for target, name in NAMES.items():
        if target not in set(table["target"]):
            continue
        found |= {
            f"{name}_frozen": claims.fact(accuracy(table, target, FROZEN), 1, " %"),
            f"{name}_estimated": claims.fact(accuracy(table, target, ESTIMATED), 1, " %"),
        }
        for m in sizes:
            found |= {
                f"{name}_moving_{m}": claims.fact(accuracy(table, target, MOVING, m), 1, " %"),
                f"{name}_precise_{m}": claims.fact(
                    accuracy(table, target, MOVING, m, ALGORITHM_2), 1, " %"
                ),
            }
    lead = accuracy(table, PLAIN, MOVING, LARGEST) - accuracy(table, PLAIN, FROZEN)
    return found | {"moving_lead": claims.fact(lead, 1, " points")}
