"""Accelerating a real network: Ioffe & Szegedy 2015, section 4.2, with a small Inception.

Seeds of their own choose Inception's rate, on shorter runs whose rate falls as far; the other
networks train at the paper's multiples of it and are not tuned, as in the paper. Networks
with the paper's changes stop after a quarter of the steps: their rate, which falls six times as
fast, has by then fallen further than the others' ever does. A run ends where it is dead.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import pandas as pd

from bnbook.errors import BnbookError
from bnbook.experiments.experiment import Experiment, check_distinct, check_known, check_positive
from bnbook.experiments.inception import claims, figures
from bnbook.setups import convnets
from bnbook.setups import inception as setup
from bnbook.setups.inception import SIZES, InceptionSetting
from bnbook.tables import inception as recipes
from bnbook.tables.inception import (
    ABLATED,
    BASELINE,
    FAST,
    INCEPTION,
    MAIN,
    MEMBERS,
    RECIPES,
    SIGMOID,
    WITH_DROPOUT,
)
from bnbook.training.session import Plan, Session

AXES = ("arms", "seeds", "learning_rates")
RUN = ("arm", "seed", "learning_rate")
ORDER = (INCEPTION, *(arm for arm in MAIN if RECIPES[arm].changes), FAST, BASELINE, SIGMOID)
"""The networks of `MAIN`: the target, the short runs, and then the long ones."""


@dataclass(frozen=True, kw_only=True)
class Config(InceptionSetting):
    """An `InceptionSetting` with the plan of runs.

    Attributes
    ----------
    ablated : int
        So many of the seeds run BN-x5 but for one change.
    short : int
        Networks with the paper's changes, all or all but one, and the runs that choose the rate,
        have a so-manieth of the steps.
    apart : int
        Added to a seed for the second of the two networks of each kind in an ensemble.
    """

    arms: tuple[str, ...] = tuple(RECIPES)
    ablated: int = 1
    short: int = 4
    apart: int = 50

    def __post_init__(self) -> None:
        """Refuse impossible values."""
        check_positive(self, (*SIZES, "short", "apart", "ablated"))
        check_distinct(self, AXES)
        check_known(self, "arms", tuple(RECIPES))
        shown = {seed + more for seed in self.seeds for more in (0, self.apart)}
        if len(self.seeds) > 1 and shown & set(self.tuning_seeds):
            raise BnbookError(
                f"seeds must not choose the rate and be shown, {sorted(shown)} and"
                f" {self.tuning_seeds} have some in common."
            )
        if not 0 < self.coolest < 1:
            raise BnbookError(f"coolest must lie in (0, 1), found {self.coolest}.")
        if list(self.learning_rates) != sorted(self.learning_rates):
            raise BnbookError(f"learning_rates must rise, found {self.learning_rates}.")


def rounds(config: Config, table: pd.DataFrame) -> list[Config]:
    """Return the single runs that come next, given the rows of those that ended.

    First those that choose Inception's rate, climbing; then all others in one round.
    """
    ended = set() if table.empty else set(table[list(RUN)].itertuples(index=False, name=None))
    scores = recipes.scores(table)
    steps = config.steps // config.short
    wanted = [
        _single(config, INCEPTION, seed, at, steps, steps)
        for seed in config.tuning_seeds
        for at in convnets.climb(config.learning_rates, scores)
    ]
    if not wanted:
        best = convnets.best(scores)
        wanted = [
            _single(config, arm, seed, best, length(config, arm), config.cooling)
            for arm, seed in planned(config)
        ]
    return [run for run in wanted if (*run.arms, *run.seeds, *run.learning_rates) not in ended]


def length(config: Config, arm: str) -> int:
    """Return the steps of an arm's runs."""
    return config.steps // (config.short if RECIPES[arm].changes else 1)


def planned(config: Config) -> list[tuple[str, int]]:
    """Return the arms and seeds that are shown, those that say most for their time first."""
    main = [(arm, seed) for seed in config.seeds for arm in ORDER]
    seconds = [seed + config.apart for seed in config.seeds]
    members = [
        (arm, seed)
        for both in zip(config.seeds, seconds, strict=True)
        for seed in both
        for arm in MEMBERS
    ]
    ablated = [(arm, seed) for seed in config.seeds[: config.ablated] for arm in ABLATED]
    return [run for run in dict.fromkeys([*main, *members, *ablated]) if run[0] in config.arms]


def _single(config: Config, arm: str, seed: int, rate: float, steps: int, cooling: int) -> Config:
    """Return a single run; it holds nothing of how many there are of its kind."""
    return replace(
        config, arms=(arm,), seeds=(seed,), learning_rates=(rate,), steps=steps, cooling=cooling,
        ablated=1,
    )  # fmt: skip


def train(runs: Sequence[Config], session: Session) -> list[pd.DataFrame]:
    """Train single runs one by one."""
    return [
        setup.table(run, session).assign(
            arm=run.arms[0], seed=run.seeds[0], learning_rate=run.learning_rates[0],
            tunes=run.seeds[0] in run.tuning_seeds,
        )[list(COLUMNS)]
        for run in runs
    ]  # fmt: skip


COLUMNS = {
    "arm": "the network; see `bnbook.tables.inception`",
    "seed": "sets initial weights, minibatches, crops, distortion and Dropout's masks",
    "learning_rate": "Inception's initial rate, of which the arm's is a multiple",
    "tunes": "whether the run chose that rate; those that did are shown nowhere",
    "step": "steps done when the row was measured",
    "loss": "mean training loss since the row before, nats",
    "test_accuracy": "of the test images, in [0, 1]; of a dead run that of guessing",
    "dead_at": "step at which the run was dead and ended, -1 if it was not",
    "dead_by": "the rule by which it was dead, of `bnbook.setups.dead.RULES`",
    "validation_accuracy": "at the end, of the images set aside to choose the rate, in [0, 1]",
    "probabilities": "in the last row, class probabilities of some test images; see"
    " `bnbook.tables.probabilities`",
}

EXPERIMENT = Experiment(
    name="inception",
    title="A small Inception accelerated: the networks of figure 3, and an ensemble of six",
    profiles={
        "quick": Config(
            data="digits", seeds=(0, 1, 2), learning_rates=(0.02, 0.05, 0.1, 0.2), side=8,
            arms=(*MAIN, *WITH_DROPOUT), train_images=1000, validation=200, test_images=300,
            kept=300, unit=2, pad=0, steps=96, cooling=96, first=8, batch_size=16, dropout=0.1,
        ),
        "standard": Config(
            data="cifar10", seeds=(0, 1, 2), validation=5000, test_images=5000,
            learning_rates=(0.0025, 0.005, 0.01, 0.02, 0.04, 0.08, 0.16), steps=10_000,
            cooling=10_000, first=100,
        ),
    },
    axes=AXES,
    train=train,
    rounds=rounds,
    columns=COLUMNS,
    claims=claims.CLAIMS,
    facts=claims.facts,
    figures=figures.FIGURES,
    plans=(Plan(members=1, precision="bfloat16", channels_last=True),),
)  # fmt: skip
