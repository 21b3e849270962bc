"""Bjorck et al. 2018, section 3.1: BN at the last layer only, and at other choices of layers.

One residual network of 6n + 2 layers, with BN after every convolution, without any, with one BN
layer at the output of the last residual block, and with BN at some of the convolutions, each over
the same grid of learning rates and the same seeds. At one seed all start from the same weights and
see the same minibatches. Nothing is clipped; a minibatch loss above 10^3 ends a run.

Known of the paper at second hand: the threshold, momentum and weight decay as in He et al. 2016.
Remembered: where the one layer is, Xavier's initial weights, rates divided by 10 at 50 % and 75 %.
Chosen here: the grid, what counts as usable, networks with BN at some of the layers, and at `quick`
and `standard` few and small images, narrow networks and short runs.

At `standard` a step of one network of 32 layers was timed at 2.4 ms without BN and 3.0 ms with it,
on one core, so that all runs come to about half an hour of two cores; those that diverge early
leave.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from bnbook.errors import BnbookError
from bnbook.experiments.bjorck_last import claims, figures
from bnbook.experiments.experiment import Experiment, check_distinct, check_positive, is_single
from bnbook.setups.settings import LARGEST_RATES, RESIDUAL_COLUMNS, RESIDUAL_SIZES, ResidualSetting
from bnbook.training.session import Plan, Session

AXES = ("arms", "seeds", "learning_rates")


@dataclass(frozen=True, kw_only=True)
class Config(ResidualSetting):
    """A `ResidualSetting` with `n` residual blocks a stage; `claims.places` names the arms."""

    n: int
    arms: tuple[str, ...]

    def __post_init__(self) -> None:
        """Refuse impossible values."""
        check_positive(self, (*RESIDUAL_SIZES, "n"))
        check_distinct(self, AXES)
        if min(self.learning_rates) <= 0:
            raise BnbookError(f"learning_rates must be positive, found {self.learning_rates}.")
        for arm in self.arms:
            claims.places(arm, self.n)
        only = [arm for arm in self.arms if (claims.member_of(arm) or "")[:1] == ("only",)]
        if not only and not is_single(self, AXES):
            raise BnbookError(f"arms must hold one with BN at one convolution, found {self.arms}.")


def train(runs: Sequence[Config], session: Session) -> list[pd.DataFrame]:
    """Train runs that differ in seed and learning rate as one ensemble."""
    from bnbook.layers import ensemble, norm
    from bnbook.networks import placed
    from bnbook.setups import residual

    n = runs[0].n

    def make(arm: str, seeds: Sequence[int], in_channels: int) -> placed.PlacedResNet:
        return placed.PlacedResNet(
            norm.FusedBatchNorm,
            seeds,
            claims.places(arm, n),
            n=n,
            in_channels=in_channels,
            widths=runs[0].widths,
            init_std=ensemble.xavier,
        )

    return [table.assign(n=n) for table in residual.tables(runs, session, make)]


def chosen(
    only: Sequence[int], but: Sequence[int], since: Sequence[int], every: Sequence[int]
) -> tuple[str, ...]:
    """Return the paper's arms, and those of the four families with these numbers."""
    families = {"only": only, "but": but, "since": since, "every": every}
    some = [claims.name(family, number) for family, those in families.items() for number in those]
    return (*claims.MAIN, *some)


EXPERIMENT = Experiment(
    name="bjorck_last",
    title="BN at the last layer only, and at other choices of layers (Bjorck et al., section 3.1)",
    profiles={
        "quick": Config(**LARGEST_RATES["quick"], n=2, arms=chosen((1, 7, 13), (), (10,), (4,))),
        "standard": Config(
            **LARGEST_RATES["standard"],
            n=5,
            steps=1000,
            arms=chosen((1, 6, 11, 16, 21, 26, 31), (1, 11, 21, 31), (11, 21, 27), (2, 4, 10)),
        ),
        "paper": Config(
            **LARGEST_RATES["paper"], n=18, arms=chosen((1, 37, 73, 109), (1, 109), (74,), (2, 9))
        ),
    },
    axes=AXES,
    fused=("seeds", "learning_rates"),
    train=train,
    needs={"arms": claims.MAIN},
    columns={**RESIDUAL_COLUMNS, "n": "residual blocks of a stage, for 6n + 2 layers"},
    claims=claims.CLAIMS,
    facts=claims.facts,
    figures={"rates": figures.rates, "places": figures.places, "families": figures.families},
    plans=(Plan(), Plan(channels_last=True)),
)
