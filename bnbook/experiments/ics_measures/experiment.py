"""Internal covariate shift: three measures on the same runs.

Four networks train with and without BN over a grid of rates: fully connected ones of sigmoids and
of ReLUs, a convolutional one in the style of VGG, and the deep linear one of Santurkar et al. 2018.
As they train the shift of the next step is measured on one batch, in the three ways of
`bnbook.probes.shift`. At one seed both arms start from the same weights and see the same
minibatches. Each arm's rate is the one at which it trains fastest with the tuning seeds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from bnbook.experiments.experiment import (
    Experiment,
    check_distinct,
    check_known,
    check_positive,
    single_runs,
)
from bnbook.experiments.ics_measures import claims, figures
from bnbook.setups import shift
from bnbook.tables.arms import WITH, WITHOUT
from bnbook.training.session import Session

AXES = ("networks", "arms", "seeds", "learning_rates")


@dataclass(frozen=True, kw_only=True)
class Config(shift.ShiftSetting):
    """A `bnbook.setups.shift.ShiftSetting` over networks with and without BN."""

    networks: tuple[str, ...] = shift.NETWORKS
    arms: tuple[str, ...] = (WITHOUT, WITH)

    def __post_init__(self) -> None:
        """Refuse impossible values."""
        check_positive(self, ("steps", "points", "batch_size", "probe_images", "layers", "side"))
        check_distinct(self, AXES)
        check_known(self, "arms", (WITHOUT, WITH))
        check_known(self, "networks", shift.NETWORKS)
        self.check_shift()


def train(runs: Sequence[Config], session: Session) -> list[pd.DataFrame]:
    """Train runs that differ in seed and learning rate as one ensemble."""
    from bnbook.layers import norm

    make = norm.BatchNorm if runs[0].arms[0] == WITH else None
    return shift.train(runs, session, lambda _: make)


EXPERIMENT = Experiment(
    name="ics_measures",
    title="Internal covariate shift: three measures on the same runs",
    profiles={
        "quick": Config(
            data="digits", seeds=(0, 1, 2, 3, 4), learning_rates=(0.03, 0.1, 0.3, 1.0, 3.0),
            steps=60, points=3, widths=(4, 8),
        ),
        "standard": Config(
            data="mnist5k", seeds=tuple(range(7)), steps=300, points=6,
            learning_rates=(0.03, 0.1, 0.3, 1.0, 3.0, 10.0), train_images=4000, validation=500,
            hidden=(100, 100, 100), examples=300, probe_images=128, layers=4,
        ),
    },
    axes=AXES,
    fused=("seeds", "learning_rates"),
    split=lambda config: shift.split(config, single_runs(config, AXES)),
    train=train,
    needs={"arms": (WITHOUT, WITH), "networks": shift.NETWORKS},
    columns=shift.COLUMNS,
    claims=claims.CLAIMS,
    facts=claims.facts,
    figures={"measures": figures.measures, "agree": figures.agree, "depth": figures.depth},
)  # fmt: skip
