"""Bjorck et al. 2018, section 2.1: less noise by larger minibatches, networks trained to the end.

Residual networks with BN on few images, without augmentation, for as many steps at each size of the
minibatch. BN normalises the same number of images by themselves at every size (ghost batches), so
that its own noise is the same and only SGD's differs. Seeds of their own choose the rate at the
small size, by `bnbook.setups.search`. At that rate both sizes run; the small one also at a rate
that is as many times smaller as the other minibatch is larger, which has its ratio of rate to size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pandas as pd

from bnbook.errors import BnbookError
from bnbook.experiments.bjorck_ghost import claims, figures
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
from bnbook.tables.arms import WITH
from bnbook.training.session import Plan, Session

if TYPE_CHECKING:
    from bnbook.networks import models

AXES = ("arms", "batch_sizes", "seeds", "learning_rates")


@dataclass(frozen=True, kw_only=True)
class Config(SearchSetting):
    """A `SearchSetting` for two sizes of the minibatch.

    Attributes
    ----------
    batch_sizes : tuple of int
        Images in a minibatch, the smaller first; of a single run one.
    ghost : int
        Images that BN normalises by themselves; divides the sizes.
    n : int
        Residual blocks of a stage, for 6n + 2 layers.
    """

    batch_sizes: tuple[int, ...]
    ghost: int
    arms: tuple[str, ...] = (WITH,)
    n: int = 1

    def __post_init__(self) -> None:
        """Refuse impossible values."""
        check_positive(self, (*RESIDUAL_SIZES, "ghost", "n"))
        check_distinct(self, AXES)
        check_known(self, "arms", (WITH,))
        if odd := [size for size in self.batch_sizes if size % self.ghost]:
            raise BnbookError(
                f"batch_sizes must be multiples of the {self.ghost} images of ghost, found {odd}."
            )
        if is_single(self, AXES):
            return
        self.check_search()
        if len(self.batch_sizes) > 2 or list(self.batch_sizes) != sorted(self.batch_sizes):
            raise BnbookError(f"batch_sizes must be two that rise, found {self.batch_sizes}.")


def train(runs: Sequence[Config], session: Session) -> list[pd.DataFrame]:
    """Train single runs one by one."""
    from bnbook.setups import residual

    found = []
    for run in runs:
        (size,) = run.batch_sizes

        def make(_: str, seeds: Sequence[int], of: Config = run, **sizes: Any) -> models.ResNet:
            return network(of, seeds, **sizes)

        (table,) = residual.tables([replace(run, batch_size=size)], session, make)
        found.append(table.assign(batch_size=size))
    return found


def network(config: Config, seeds: Sequence[int], **sizes: Any) -> models.ResNet:
    """Make the networks; BN moves its running statistics by the mean over all ghost batches."""
    from bnbook.layers import ensemble, renorm
    from bnbook.networks import models

    def ghost(features: int) -> renorm.ReplicaBatchNorm:
        layer = renorm.ReplicaBatchNorm(features, config.ghost)
        layer.every_replica = True
        return layer

    return models.ResNet(
        ghost, seeds, init_std=ensemble.xavier, n=config.n, widths=config.widths, **sizes
    )


def rounds(config: Config, table: pd.DataFrame) -> list[Config]:
    """Return the single runs that come next, given the rows of those that ended.

    First the search, at the small size; then the cells, seed by seed.
    """
    small = config.batch_sizes[0]
    own = table if table.empty else table[table["batch_size"] == small]
    asked = search.rounds(_of_size(config, small), own)
    if tuning := [run for run in asked if run.role == TUNING]:
        return tuning
    ended = set(table[claims.RUN].itertuples(index=False, name=None))
    return [
        search.one_run(_of_size(config, size), WITH, seed, rate, JUDGING)
        for seed in config.seeds
        for size, rate in claims.cells(claims.rate(table), config.batch_sizes)
        if (size, rate, seed, JUDGING) not in ended
    ]


def _of_size(config: Config, size: int) -> Config:
    """Return the config of one size, which holds nothing of the other."""
    return replace(config, batch_sizes=(size,))


EXPERIMENT = Experiment(
    name="bjorck_ghost",
    title="Less noise by larger minibatches with ghost batches of one size, trained to the end",
    profiles={
        "quick": Config(
            data="digits", seeds=(0, 1, 2), tuning_seeds=(100, 101), side=8, steps=120, points=1,
            batch_sizes=(16, 128), ghost=16, train_images=512, validation=200, test_images=300,
            pad=0, widths=(4, 8, 16), learning_rates=(0.05, 0.2, 0.8),
        ),
        "standard": Config(
            data="cifar10", seeds=(0, 1, 2, 3, 4), tuning_seeds=(100, 101), side=16, steps=2500,
            points=10, batch_sizes=(128, 1024), ghost=128, train_images=3072, validation=1000,
            test_images=5000, pad=0, learning_rates=(0.025, 0.05, 0.1, 0.2, 0.4, 0.8),
        ),
    },
    axes=AXES,
    train=train,
    rounds=rounds,
    columns={**SEARCH_COLUMNS, "batch_size": "images in a minibatch"},
    claims=claims.CLAIMS,
    facts=claims.facts,
    figures=figures.FIGURES,
    plans=(Plan(members=1), Plan(members=1, channels_last=True)),
)  # fmt: skip
