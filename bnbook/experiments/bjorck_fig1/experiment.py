"""Bjorck et al. 2018, section 2 and figure 1: residual networks with and without BN, by rate.

Two networks, each over the same grid of learning rates and the same seeds. At one seed both start
from the same weights and see the same minibatches. Each network's rate is the one with the best
final validation accuracy, averaged over seeds; the test set chooses nothing. A run has diverged
when the loss of a minibatch passes 10^3 or is no number; nothing is clipped.

Of the paper, as we have it from others and from He et al. 2016: CIFAR-10, momentum 0.9, weight
decay, batches of 128, crops and flips, the rate divided by 10 at 50 % and 75 %, Xavier's weights,
110 layers. At `paper` the grid holds the rates of figure 1. Chosen here: the size of everything at
the other profiles, the grid, the validation split, a weight decay of 1e-4 (He et al.), no warm-up.

Cost: a step of one network takes about 22 ms of one core at `standard`, timed over a few steps, and
a measurement about 0.4 s: 120 runs of 400 steps take about a quarter of an hour of two cores. At
`paper` the activations of one network, counted and not measured, take some 2 GB of a GPU's memory,
so that the number of networks in an ensemble has to be given.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from bnbook.experiments.bjorck_fig1 import claims, figures
from bnbook.experiments.experiment import Experiment, check_distinct, check_known, check_positive
from bnbook.setups.settings import RATE_MAPS, RESIDUAL_COLUMNS, RESIDUAL_SIZES, ResidualSetting
from bnbook.tables.arms import WITH, WITHOUT
from bnbook.training.session import Session

AXES = ("arms", "seeds", "learning_rates")


@dataclass(frozen=True, kw_only=True)
class Config(ResidualSetting):
    """A `ResidualSetting` with `n` residual blocks a stage, for 6n + 2 layers."""

    n: int

    def __post_init__(self) -> None:
        """Refuse impossible values."""
        check_positive(self, (*RESIDUAL_SIZES, "n"))
        check_distinct(self, AXES)
        check_known(self, "arms", (WITHOUT, WITH))


def train(runs: Sequence[Config], session: Session) -> list[pd.DataFrame]:
    """Train runs that differ in seed and learning rate as one ensemble."""
    from bnbook.setups import residual

    make = functools.partial(residual.network, n=runs[0].n, widths=runs[0].widths)
    return residual.tables(runs, session, make)


EXPERIMENT = Experiment(
    name="bjorck_fig1",
    title="Residual networks with and without BN, by learning rate (Bjorck et al., figure 1)",
    profiles={
        "quick": Config(
            **RATE_MAPS["quick"], steps=80, learning_rates=(0.01, 0.063, 0.4, 2.5, 16.0)
        ),
        "standard": Config(**RATE_MAPS["standard"], steps=400),
        "paper": Config(**RATE_MAPS["paper"], points=80),
    },
    axes=AXES,
    fused=("seeds", "learning_rates"),
    train=train,
    needs={"arms": (WITHOUT, WITH)},
    columns=RESIDUAL_COLUMNS,
    claims=claims.CLAIMS,
    facts=claims.facts,
    figures={"curves": figures.curves, "gap": figures.gap, "map": figures.rate_map},
)
