"""What else than BN allows large rates: the standing objections to Bjorck et al.'s figure 1.

On the map of figure 1, with its training and its grid of rates: a warm-up of the rate, the starts
of Fixup and SkipInit, GroupNorm and LayerNorm, each tuned as hard as BN. Shown apart: gradients
clipped to a norm of 1, which bounds every step and so says nothing about divergence.

Chosen here: a linear warm-up over the first tenth of the steps (He et al. 2016 warm up for 400
steps of 64,000 at a tenth of the rate); Fixup's and SkipInit's networks from He's weights, as their
authors have them, the others from Xavier's; GroupNorm with groups of 2, 4, 8 or 16 channels, or
with 2 or 4 groups in every layer.

Cost: a step of one network takes about 24 ms of one core at `standard`, timed over a few steps, and
a measurement about 0.4 s: 780 runs of 300 steps take about 65 minutes of two cores.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from bnbook.experiments.bjorck_map import claims, figures
from bnbook.experiments.experiment import Experiment, check_distinct, check_known, check_positive
from bnbook.setups.settings import RATE_MAPS, RESIDUAL_COLUMNS, RESIDUAL_SIZES, ResidualSetting
from bnbook.tables.arms import of_channels, of_groups
from bnbook.training.session import Session

AXES = ("arms", "seeds", "learning_rates")


@dataclass(frozen=True, kw_only=True)
class Config(ResidualSetting):
    """A `ResidualSetting` with `n` residual blocks a stage, for 6n + 2 layers."""

    n: int
    arms: tuple[str, ...] = claims.ARMS
    points: int = 4

    def __post_init__(self) -> None:
        """Refuse impossible values."""
        check_positive(self, (*RESIDUAL_SIZES, "n"))
        check_distinct(self, AXES)
        check_known(self, "arms", claims.ARMS)


def network(arm: str, seeds: Sequence[int], **sizes: Any) -> Any:
    """Make the networks of an arm, of GroupNorm with the arm's groups; `sizes` as of `ResNet`."""
    from bnbook.layers import ensemble, norm
    from bnbook.networks import models
    from bnbook.setups import residual

    def grouped(features: int) -> Any:
        members = len(seeds)
        return norm.GroupNorm(claims.groups(arm, features // members), features, members)

    if arm in claims.GROUP_NORMS:
        return models.ResNet(grouped, seeds, init_std=ensemble.xavier, **sizes)
    return residual.network(arm, seeds, **sizes)


def train(runs: Sequence[Config], session: Session) -> list[pd.DataFrame]:
    """Train runs that differ in seed and learning rate as one ensemble."""
    from bnbook.setups import residual

    make = functools.partial(network, n=runs[0].n, widths=runs[0].widths)
    return residual.tables(runs, session, make)


EXPERIMENT = Experiment(
    name="bjorck_map",
    title="What else allows large rates: warm-up, starts, other norms (on figure 1 of Bjorck"
    " et al.)",
    profiles={
        "quick": Config(
            **RATE_MAPS["quick"], steps=40, learning_rates=(0.063, 0.4, 2.5),
            arms=(*claims.NEEDED, of_channels(8), of_groups(2)),
        ),
        "standard": Config(**RATE_MAPS["standard"], steps=300),
        "paper": Config(**RATE_MAPS["paper"], points=16),
    },
    axes=AXES,
    fused=("seeds", "learning_rates"),
    train=train,
    needs={"arms": claims.NEEDED},
    columns=RESIDUAL_COLUMNS,
    claims=claims.CLAIMS,
    facts=claims.facts,
    figures={"rates": figures.rates},
)  # fmt: skip
