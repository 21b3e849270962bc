"""BN as a regulariser: what the table says.

The claims, their measures and bounds were written after a pilot with other seeds and before the
recorded runs. That differences take the test images as drawn was decided after a first record.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import pandas as pd

from bnbook.evidence import claims
from bnbook.evidence.claims import POINTS, Claim, Finding, Premise
from bnbook.tables import choosing, right
from bnbook.tables.arms import WITH, WITHOUT
from bnbook.tables.rate_map import rate_fact
from bnbook.tables.right import Points

PAPER = "Ioffe & Szegedy 2015"
NONE, WEAK, FULL = "", "weak Dropout", "Dropout"
L2 = "L2"


class Arm(NamedTuple):
    """What a network has.

    Attributes
    ----------
    bn : bool
        Whether there is BN before each nonlinearity.
    dropout : str
        `NONE`, `WEAK` or `FULL`.
    decay : bool
        Whether the weights decay.
    together : int
        Images of a minibatch that BN normalises together; 0 for all.
    fixed : bool
        Whether the minibatches are composed once and for all.
    """

    bn: bool
    dropout: str = NONE
    decay: bool = False
    together: int = 0
    fixed: bool = False


SIZES = (4, 8, 16, 32)
"""Images normalised together, where these are fewer than the minibatch."""
FEW = 8
"""Of these, the size that is judged."""


def name(arm: Arm) -> str:
    """Return what an arm is called."""
    parts = [WITH if arm.bn else WITHOUT, arm.dropout, L2 * arm.decay]
    parts += [f"{arm.together} together"] * bool(arm.together)
    parts += ["fixed minibatches"] * arm.fixed
    return ", ".join(part for part in parts if part)


FACTORIAL = tuple(
    Arm(bn, dropout, decay)
    for bn in (False, True)
    for decay in (False, True)
    for dropout in (NONE, WEAK, FULL)
)
COMPOSED = (Arm(False, fixed=True), Arm(True, fixed=True), Arm(True, together=FEW, fixed=True))
ARMS = {name(arm): arm for arm in (*FACTORIAL, *(Arm(True, together=m) for m in SIZES), *COMPOSED)}
"""All arms, by name."""
HEART = 99.0
"""Training accuracy, per cent, from which on a network counts as one that knows its images."""
DROPOUT_GAIN = 0.5
"""Points of test accuracy that Dropout has to bring without BN, or there is nothing to replace."""


def ends(table: pd.DataFrame, column: str) -> pd.DataFrame:
    """Last values of a column, per cent, each arm at its rate: index judging seed, columns arms."""
    return 100 * choosing.ends(table, column)


def gap(table: pd.DataFrame) -> pd.DataFrame:
    """Training accuracy less test accuracy, points: index seed, columns arms."""
    return ends(table, "training_accuracy") - ends(table, "test_accuracy")


def gap_closed(table: pd.DataFrame) -> Points:
    """Gap without BN minus gap with it, nothing else in either, points.

    Both gaps are to accuracies of all training images, which are not drawn.
    """
    known = ends(table, "training_accuracy")
    return difference(table, Arm(True), Arm(False)).add(known[WITHOUT] - known[WITH], axis=0)


def difference(table: pd.DataFrame, one: Arm, other: Arm) -> Points:
    """Test accuracy of one arm minus that of another, points by seed and test image."""
    rows = choosing.last(choosing.shown(table)).set_index("seed").sort_index()
    return right.lead(*(rows[rows["arm"] == name(arm)] for arm in (one, other)))


def dropout_gain(table: pd.DataFrame, bn: bool, decay: bool = False) -> Points:
    """What Dropout brings: the better of its two strengths minus none, points of test accuracy.

    The strength is chosen as rates are, by the seeds that judge nothing.
    """
    arms = {name(Arm(bn, strength, decay)): Arm(bn, strength, decay) for strength in (WEAK, FULL)}
    best = arms[choosing.better(table, list(arms))]
    return difference(table, best, Arm(bn, NONE, decay))


def dropout_interaction(table: pd.DataFrame) -> Points:
    """What Dropout brings with BN minus what it brings without, points."""
    return right.minus(dropout_gain(table, True), dropout_gain(table, False))


def noise_gain(table: pd.DataFrame) -> Points:
    """Test accuracy with few images normalised together minus with the minibatch, points."""
    return difference(table, Arm(True, together=FEW), Arm(True))


def shuffling_gain(table: pd.DataFrame, bn: bool = True, together: int = 0) -> Points:
    """Test accuracy with minibatches composed anew each epoch minus composed once, points."""
    arm = Arm(bn, together=together)
    return difference(table, arm, arm._replace(fixed=True))


def _inside(*arms: Arm) -> Premise:
    names = [name(arm) for arm in arms]
    return Premise(
        "no rate chosen for the networks compared is an end of the grid",
        lambda table: choosing.inside(table, names),
    )


def _by_heart(*arms: Arm) -> Premise:
    """Premise: these networks know their training images at the end."""

    def check(table: pd.DataFrame) -> Finding:
        known = ends(table, "training_accuracy")[[name(arm) for arm in arms]]
        return claims.at_least(float(known.min().min()), HEART, " %", 1)

    return Premise(f"each has {HEART:g} % or more of its training images right", check)


def _dropout_pays(table: pd.DataFrame) -> Finding:
    gained = right.by_seed(dropout_gain(table, False)).mean()
    return claims.at_least(float(gained), DROPOUT_GAIN, " points", 1)


_BARE, _NORMALISED = Arm(False), Arm(True)
_DROPPED = [Arm(bn, strength) for bn in (False, True) for strength in (WEAK, FULL)]


def _claim(
    claim: str,
    section: str,
    statement: str,
    quantity: str,
    measure: Callable[[pd.DataFrame], Points],
    premises: Sequence[Premise],
    **options: Any,
) -> Claim:
    return Claim(
        id=claim, paper=PAPER, section=section, statement=statement, quantity=quantity,
        measure=measure, bound=0.0, premises=tuple(premises), revised=claims.IMAGES, **POINTS,
        **options,
    )  # fmt: skip


CLAIMS = (
    _claim(
        "ioffe.sec3_4.regularises",
        "3.4",
        "BN regularises: what a network knows of its training images carries over to others.",
        "training minus test accuracy without BN, less the same with BN, without Dropout and L2,"
        " each network at its own rate",
        gap_closed,
        (_by_heart(_BARE, _NORMALISED), _inside(_BARE, _NORMALISED)),
    ),
    _claim(
        "ioffe.sec3_4.noise",
        "3.4",
        "It does so as an example's output depends on its minibatch: more of that noise helps.",
        f"test accuracy with {FEW} images normalised together minus with the whole minibatch, whose"
        " images SGD sees alike, each at its own rate",
        noise_gain,
        (
            _by_heart(_NORMALISED, Arm(True, together=FEW)),
            _inside(_NORMALISED, Arm(True, together=FEW)),
        ),
    ),
    _claim(
        "ioffe.sec3_4.dropout",
        "3.4",
        "In a network with BN Dropout can be removed or reduced: it brings less than without BN.",
        "test accuracy that Dropout brings with BN minus that it brings without, each network at"
        " its own rate and the better of two strengths",
        dropout_interaction,
        (
            Premise(f"Dropout brings {DROPOUT_GAIN} points or more without BN", _dropout_pays),
            _inside(_BARE, _NORMALISED, *_DROPPED),
        ),
        direction="below",
    ),
    _claim(
        "ioffe.sec4_2_1.shuffling",
        "4.2.1",
        "With BN it pays to compose minibatches anew each epoch (about 1 % of accuracy).",
        "test accuracy with minibatches composed anew each epoch minus composed once and for all,"
        " with BN, each at its own rate",
        shuffling_gain,
        (
            _by_heart(_NORMALISED, Arm(True, fixed=True)),
            _inside(_NORMALISED, Arm(True, fixed=True)),
        ),
    ),
    _claim(
        "ioffe.sec4_2_1.shuffling_few",
        "4.2.1",
        "It pays where BN normalises few images together.",
        "test accuracy with minibatches composed anew each epoch minus composed once and for all,"
        f" with {FEW} images normalised together, each at its own rate",
        lambda table: shuffling_gain(table, together=FEW),
        (
            _by_heart(Arm(True, together=FEW)),
            _inside(Arm(True, together=FEW), Arm(True, together=FEW, fixed=True)),
        ),
    ),
)


PRINTED = {
    "without": _BARE,
    "with": _NORMALISED,
    "without_weak_dropout": Arm(False, WEAK),
    **{f"with_{m}": Arm(True, together=m) for m in SIZES},
}
"""The arms whose accuracy the page prints, by their names in facts."""


def same_rate(table: pd.DataFrame) -> pd.Series:
    """BN minus none at the rate chosen without it, points of test accuracy; seeds that choose."""
    rate = choosing.chosen(table)[WITHOUT]
    rows = choosing.last(table[table["tunes"] & (table["learning_rate"] == rate)])
    with_bn, without = (
        rows[rows["arm"] == arm].set_index("seed")["test_accuracy"] for arm in (WITH, WITHOUT)
    )
    return pd.Series(100 * (with_bn - without), dtype=float)


def facts(table: pd.DataFrame) -> claims.Facts:
    """Return what the page quotes beside the claims."""
    accuracy, apart, rates = ends(table, "test_accuracy"), gap(table), choosing.chosen(table)
    found = {
        f"{which}_accuracy": claims.fact(accuracy[name(arm)], 1, " %")
        for which, arm in PRINTED.items()
    }
    for which, bn in (("without", False), ("with", True)):
        bare = name(Arm(bn))
        found |= {
            f"{which}_gap": claims.fact(apart[bare], 1, " points"),
            f"{which}_rate": rate_fact(rates[bare]),
            f"dropout_{which}": claims.points_fact(dropout_gain(table, bn), 1),
            f"dropout_l2_{which}": claims.points_fact(dropout_gain(table, bn, decay=True), 1),
            f"l2_{which}": claims.points_fact(difference(table, Arm(bn, decay=True), Arm(bn)), 1),
        }
    return found | {
        "same_rate": claims.fact([same_rate(table).mean()], 1, " points"),
        "shuffling_without": claims.points_fact(shuffling_gain(table, bn=False), 1),
        "bn_accuracy": claims.points_fact(difference(table, _NORMALISED, _BARE), 1),
        "bn_accuracy_fixed": claims.points_fact(
            difference(table, Arm(True, fixed=True), Arm(False, fixed=True)), 1
        ),
        **{
            f"{what}_{over}": claims.points_fact(points, 2)
            for what, gained in (("noise", noise_gain(table)), ("shuffling", shuffling_gain(table)))
            for over, points in (("both", gained), ("seeds", right.by_seed(gained)))
        },
        "seeds": claims.count(choosing.shown(table)["seed"].nunique()),
        "tuning": claims.count(table.loc[table["tunes"], "seed"].nunique()),
        "rates": claims.count(table["learning_rate"].nunique()),
    }
