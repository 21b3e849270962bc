"""With BN: whether it is the rate that generalises, or how far a step turns the weights.

What BN follows does not see the scale of the weights before it, so that weights a times as large at
a rate a squared times as large take the same steps; weight decay, the scale and shift of BN and the
classifier apart (`ioffe_effective_rate`). One residual network with BN trains to the end at a small
rate and at a large one, as it is; at the small rate from convolutions whose weights are as much
smaller as the equivalence asks; and at the large rate from ones as much larger. So each rate stands
beside the steps of the other. All runs take as many steps.

The network and its images are those of `bjorck_dose` with Xavier's weights. The two rates are no
best ones: they lie a hundred times apart, and the small one is far below BN's best.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from bnbook.errors import BnbookError
from bnbook.experiments.bjorck_weights import claims, figures
from bnbook.experiments.experiment import Experiment, check_distinct, check_known, check_positive
from bnbook.setups.settings import RESIDUAL_SIZES, WATCHED_COLUMNS, WatchedSetting
from bnbook.tables.arms import WITH
from bnbook.training.session import Plan, Session

AXES = ("arms", "seeds", "learning_rates", "scales")


@dataclass(frozen=True, kw_only=True)
class Config(WatchedSetting):
    """A `WatchedSetting` for one network with BN, at two rates that rise.

    Attributes
    ----------
    n : int
        Residual blocks a stage, for 6n + 2 layers.
    scales : tuple of float
        Factors of the convolutions' initial weights. Of a whole config 1 alone: the others follow
        from the rates. Of a single run its own.
    """

    n: int
    arms: tuple[str, ...] = (WITH,)
    scales: tuple[float, ...] = (1.0,)

    def __post_init__(self) -> None:
        """Refuse impossible values."""
        check_positive(self, (*RESIDUAL_SIZES, "n"))
        check_distinct(self, AXES)
        check_known(self, "arms", (WITH,))
        rates = self.learning_rates
        if len(rates) > 2 or list(rates) != sorted(rates):
            raise BnbookError(f"learning_rates must be two that rise, found {rates}.")
        if min(self.scales) <= 0:
            raise BnbookError(f"scales must be positive, found {self.scales}.")


def rounds(config: Config, table: pd.DataFrame) -> list[Config]:
    """Return the single runs that are missing, seed by seed."""
    names = ["seed", "learning_rate", "scale"]
    ended = set() if table.empty else set(table[names].itertuples(index=False, name=None))
    return [
        replace(config, seeds=(seed,), learning_rates=(rate,), scales=(scale,))
        for seed in config.seeds
        for rate, scale in claims.cells(config.learning_rates)
        if (seed, rate, scale) not in ended
    ]


def train(runs: Sequence[Config], session: Session) -> list[pd.DataFrame]:
    """Train single runs one by one."""
    from bnbook.setups import residual

    return [
        residual.tables([run], session, functools.partial(network, run=run))[0].assign(
            scale=run.scales[0]
        )
        for run in runs
    ]


def network(arm: str, seeds: Sequence[int], *, run: Config, in_channels: int) -> Any:
    """Make the networks, their convolutions' weights scaled."""
    import torch

    from bnbook.setups import residual

    made = residual.network(arm, seeds, n=run.n, widths=run.widths, in_channels=in_channels)
    with torch.no_grad():
        for convolution in made.convolutions:
            convolution.weight.mul_(run.scales[0])
    return made


EXPERIMENT = Experiment(
    name="bjorck_weights",
    title="BN at a small rate from small weights, and at a large rate from large ones",
    profiles={
        "quick": Config(
            data="digits", seeds=(0, 1, 2), learning_rates=(0.002, 0.2), side=8, n=1, pad=0,
            train_images=400, validation=200, test_images=200, widths=(4, 8, 16), batch_size=32,
            points=4, steps=150,
        ),
        "standard": Config(
            data="cifar10", seeds=(0, 1, 2, 3, 4), learning_rates=(0.001, 0.1), side=16, n=5,
            pad=0, train_images=5000, validation=1000, test_images=5000, points=10, steps=4000,
        ),
    },
    axes=AXES,
    train=train,
    rounds=rounds,
    columns={
        **WATCHED_COLUMNS,
        "scale": "factor of the convolutions' initial weights",
    },
    claims=claims.CLAIMS,
    facts=claims.facts,
    figures=figures.FIGURES,
    plans=(Plan(members=1, precision="bfloat16", compiled=True, channels_last=True),),
)  # fmt: skip
