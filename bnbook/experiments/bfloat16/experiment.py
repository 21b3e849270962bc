"""The same deep residual networks trained in float32 and in bfloat16: accuracy and fate.

In bfloat16 images and the factors of products are rounded to 8 binary digits; sums, statistics,
gradients of parameters and the parameters stay float32 (`bnbook.training.deep`). The records of
deep networks are made in bfloat16; this experiment says what that changes.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import pandas as pd

from bnbook.experiments.bfloat16 import claims, figures
from bnbook.experiments.experiment import (
    Experiment,
    check_distinct,
    check_known,
    check_positive,
    single_runs,
)
from bnbook.setups.settings import RESIDUAL_SIZES, WATCHED_COLUMNS, WatchedSetting
from bnbook.tables.arms import WITH, WITHOUT
from bnbook.training.session import Plan, Session


@dataclass(frozen=True, kw_only=True)
class Config(WatchedSetting):
    """A `WatchedSetting` in several precisions.

    Attributes
    ----------
    n : int
        Residual blocks a stage, for 6n + 2 layers.
    bn_rates : tuple of float
        The rates that are run with BN too; those of `learning_rates` all are without it.
    precisions : tuple of str
        ``float32`` and ``bfloat16``.
    """

    n: int
    bn_rates: tuple[float, ...]
    precisions: tuple[str, ...] = (claims.FLOAT32, claims.BFLOAT16)

    def __post_init__(self) -> None:
        """Refuse impossible values."""
        check_positive(self, (*RESIDUAL_SIZES, "n"))
        check_distinct(self, ("seeds", "learning_rates", "arms", "precisions"))
        check_known(self, "arms", (WITHOUT, WITH))
        check_known(self, "precisions", (claims.FLOAT32, claims.BFLOAT16))


def split(config: Config) -> list[Config]:
    """Return the single runs: with BN at its own rates alone."""
    return [
        run
        for run in single_runs(config, AXES)
        if run.arms == (WITHOUT,) or run.learning_rates[0] in run.bn_rates
    ]


def train(runs: Sequence[Config], session: Session) -> list[pd.DataFrame]:
    """Train single runs of one arm, rate and precision as one ensemble."""
    from bnbook.setups import residual

    one = runs[0]
    (precision,) = one.precisions
    make = functools.partial(residual.network, n=one.n, widths=one.widths)
    own = replace(session, plan=replace(PLAN, precision=precision))
    trained = residual.tables(runs, own, make)
    return [table.assign(precision=precision, n=one.n) for table in trained]


AXES = ("arms", "learning_rates", "seeds", "precisions")
PLAN = Plan(members=1, compiled=True, channels_last=True)
"""How both precisions are computed; each run states its own precision."""

EXPERIMENT = Experiment(
    name="bfloat16",
    title="Deep networks in float32 and in bfloat16",
    profiles={
        "quick": Config(
            data="digits", seeds=(0, 1, 2), learning_rates=(0.1, 3.0), side=8, train_images=400,
            validation=200, test_images=200, pad=0, widths=(16, 16, 16), batch_size=32, points=4,
            n=1, steps=60, bn_rates=(0.1,),
        ),
        "standard": Config(
            data="cifar10", seeds=(0, 1, 2), learning_rates=(0.003, 0.01, 0.03, 0.1),
            bn_rates=(0.1,), side=16, train_images=2500, validation=1000, test_images=5000, pad=0,
            points=10, n=9, steps=2000,
        ),
    },
    axes=AXES,
    split=split,
    train=train,
    columns={
        **WATCHED_COLUMNS,
        "precision": "of images and of the factors of products",
        "n": "residual blocks a stage, for 6n + 2 layers",
    },
    claims=claims.CLAIMS,
    facts=claims.facts,
    figures={"pairs": figures.pairs},
    needs={"precisions": (claims.FLOAT32, claims.BFLOAT16)},
    plans=(PLAN,),
)  # fmt: skip
