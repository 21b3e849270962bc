"""Whole CIFAR-10 at 16 x 16: accuracy against rate, from a short training to a long one.

The residual networks of Bjorck et al. 2018, figure 1, with 56 layers and Xavier's initial weights,
on all training images with crops and flips. Each length of training is a run of its own, whose rate
falls at half and at three quarters of it. Seeds of their own choose the best rates without BN and
with it, r0 and r1, by `bnbook.setups.search`; then other seeds run the cells at these rates at
every length. What is run next, `rounds`, depends on the config and on the runs that ended alone.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product

import pandas as pd

from bnbook.errors import BnbookError
from bnbook.experiments.bjorck_whole import claims, figures
from bnbook.experiments.experiment import (
    Experiment,
    check_distinct,
    check_known,
    check_positive,
    is_single,
)
from bnbook.setups import search
from bnbook.setups.settings import (
    JUDGING,
    RESIDUAL_SIZES,
    SEARCH_COLUMNS,
    TUNING,
    SearchSetting,
)
from bnbook.tables import two_rates
from bnbook.tables.arms import WITH, WITHOUT
from bnbook.training.session import Plan, Session

ENDS = ("jumped_at", "dead_at", "dead_by")
"""Columns of runs that end where they are dead; these do not."""
AXES = ("arms", "lengths", "seeds", "learning_rates")


@dataclass(frozen=True, kw_only=True)
class Config(SearchSetting):
    """A `SearchSetting` for several lengths of training.

    Attributes
    ----------
    lengths : tuple of int
        Steps of a run, rising.
    searched_at : int
        The length at which rates are chosen, one of `lengths` and not the longest.
    first : int
        Seeds that run every cell. The others run those that claims compare, at the lengths that
        they compare, if with the first ones a claim is inconclusive.
    n : int
        Residual blocks of a stage, for 6n + 2 layers.
    end_dead : bool
        Not here: the rule would end slow runs of a short training, which are to be seen.
    """

    lengths: tuple[int, ...]
    searched_at: int
    first: int = 3
    n: int = 9
    end_dead: bool = False

    def __post_init__(self) -> None:
        """Refuse impossible values."""
        check_positive(self, (*RESIDUAL_SIZES, "first", "n"))
        check_distinct(self, AXES)
        check_known(self, "arms", (WITHOUT, WITH))
        if is_single(self, AXES):
            return
        self.check_search()
        if list(self.lengths) != sorted(self.lengths):
            raise BnbookError(f"lengths must rise, found {self.lengths}.")
        if self.searched_at not in self.lengths:
            raise BnbookError(
                f"searched_at must be one of {self.lengths}, found {self.searched_at}."
            )


def train(runs: Sequence[Config], session: Session) -> list[pd.DataFrame]:
    """Train single runs of one arm and length as one ensemble."""
    from bnbook.setups import residual

    one, length = runs[0], runs[0].lengths[0]
    make = functools.partial(residual.network, n=one.n, widths=one.widths)
    trained = residual.tables([replace(run, steps=length) for run in runs], session, make)
    images = residual.splits(
        one.data, one.side, one.train_images, one.validation, one.test_images, "cpu"
    )
    epochs = length * one.batch_size / len(images.train[1])
    return [table.assign(length=length, epochs=epochs) for table in trained]


def rounds(config: Config, table: pd.DataFrame) -> list[Config]:
    """Return the single runs that come next, given the rows of those that ended."""
    ended = set() if table.empty else set(table[claims.RUN].itertuples(index=False, name=None))
    for stage in _stages(config, table):
        left = [run for run in dict.fromkeys(stage) if claims.named(run) not in ended]
        if left:
            return left
    return []


def _stages(config: Config, table: pd.DataFrame) -> Iterator[list[Config]]:
    """Yield the stages of the plan, each when those before have ended.

    1. The map of rates at the lengths below the search's, with the first seed, so that a record
       shows something from the start; and the search.
    2. The cells, seed by seed, and the map at the length of the search.
    3. If with these seeds a claim is inconclusive: what the claims compare, with the other seeds.
    """
    grid = [(arm, rate) for rate in config.learning_rates for arm in config.arms]
    shorter = [length for length in config.lengths if length < config.searched_at]
    own = table if table.empty else table[table["length"] == config.searched_at]
    search_for = search.rounds(_of_length(config, config.searched_at), own)
    tuning = [run for run in search_for if run.role == TUNING]
    yield [*_shown(config, shorter, config.seeds[:1], grid), *tuning]
    first, others = config.seeds[: config.first], config.seeds[config.first :]
    cells = two_rates.cells(two_rates.rates(table))
    yield [
        *_shown(config, config.lengths, first, cells),
        *_shown(config, [config.searched_at], config.seeds[:1], grid),
    ]
    if claims.undecided(table):
        ends = [config.searched_at, config.lengths[-1]]
        yield list(_shown(config, ends, others, two_rates.compared(two_rates.rates(table))))


def _shown(
    config: Config, lengths: Sequence[int], seeds: Sequence[int], cells: Sequence[two_rates.Cell]
) -> Iterator[Config]:
    """Yield the runs of some cells that are shown, and choose nothing."""
    for seed, length, (arm, rate) in product(seeds, lengths, cells):
        yield search.one_run(_of_length(config, length), arm, seed, rate, JUDGING)


def _of_length(config: Config, length: int) -> Config:
    """Return the config of one length, which holds nothing of the others."""
    return replace(config, lengths=(length,), searched_at=length, first=1)


COLUMNS = {
    **{name: said for name, said in SEARCH_COLUMNS.items() if name not in ENDS},
    "length": "steps of the whole run, of which the schedule's shares are taken",
    "epochs": "the same, in passes through the training images",
}

_RATES = (0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3)

EXPERIMENT = Experiment(
    name="bjorck_whole",
    title="Accuracy against rate on all training images, from a short training to a long one",
    profiles={
        "quick": Config(
            data="digits", seeds=(0, 1, 2), learning_rates=(0.03, 0.1, 0.3, 1.0), side=8,
            train_images=400, validation=100, test_images=200, pad=1, widths=(16, 16, 16),
            batch_size=32, points=1, n=1, tuning_seeds=(100, 101), lengths=(24, 96),
            searched_at=24,
        ),
        "standard": Config(
            data="cifar10", seeds=(0, 1, 2, 3, 4), learning_rates=_RATES, side=16, points=4,
            pad=2, tuning_seeds=(100, 101), lengths=(351, 1053, 3510, 14_040), searched_at=3510,
        ),
        "paper": Config(
            data="cifar10", seeds=(0, 1, 2, 3, 4), learning_rates=_RATES, points=10, n=18,
            lengths=(3510, 14_040, 64_000, 256_000), searched_at=14_040,
        ),
    },
    axes=AXES,
    train=train,
    rounds=rounds,
    columns=COLUMNS,
    claims=claims.CLAIMS,
    facts=claims.facts,
    figures=figures.FIGURES,
    plans=(Plan(members=1, precision="bfloat16", compiled=True, channels_last=True),),
)  # fmt: skip
