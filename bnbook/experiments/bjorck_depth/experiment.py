"""Bjorck et al. 2018, section 4: the largest usable learning rate against depth.

Residual networks of 6n + 2 layers, with BN after every convolution and without any, each over the
same grid of learning rates and the same seeds. At one seed all see the same minibatches. Nothing is
clipped; a minibatch loss above 10^3 ends a run.

Known of the paper at second hand: that shallower networks without BN allow larger rates, the
threshold, momentum and weight decay as in He et al. 2016. Remembered: Xavier's initial weights,
rates divided by 10 at 50 % and 75 %. Chosen here: the grid, what counts as usable, the depths, and
at `quick` and `standard` few and small images, narrow networks and short runs.

At `standard` a step of one network of 56 layers was timed at 4.6 ms without BN and 6.5 ms with it,
on one core, and the five depths together take about twice that, so that all runs come to about half
an hour of two cores; those that diverge early leave. A network of 110 layers without BN had not
left guessing after 600 such steps at any of three rates, and is left to `paper`.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from bnbook.errors import BnbookError
from bnbook.experiments.bjorck_depth import claims, figures
from bnbook.experiments.experiment import (
    Experiment,
    check_distinct,
    check_known,
    check_positive,
    is_single,
)
from bnbook.setups.settings import LARGEST_RATES, RESIDUAL_COLUMNS, RESIDUAL_SIZES, ResidualSetting
from bnbook.tables.arms import WITH, WITHOUT
from bnbook.training.session import Plan, Session

AXES = ("arms", "n", "seeds", "learning_rates")


@dataclass(frozen=True, kw_only=True)
class Config(ResidualSetting):
    """A `ResidualSetting` at rising depths and rates: 6n + 2 layers for `n` blocks a stage."""

    n: tuple[int, ...]

    def __post_init__(self) -> None:
        """Refuse impossible values."""
        check_positive(self, RESIDUAL_SIZES)
        check_distinct(self, AXES)
        for name in ("n", "learning_rates"):
            values = getattr(self, name)
            if min(values) <= 0 or list(values) != sorted(values):
                raise BnbookError(f"{name} must be positive and rising, found {values}.")
        if len(self.n) < 3 and not is_single(self, AXES):
            raise BnbookError(f"n must have three values or more, to fit laws; found {self.n}.")
        check_known(self, "arms", (WITHOUT, WITH))


def train(runs: Sequence[Config], session: Session) -> list[pd.DataFrame]:
    """Train runs that differ in seed and learning rate as one ensemble."""
    from bnbook.setups import residual

    (n,) = runs[0].n
    make = functools.partial(residual.network, n=n, widths=runs[0].widths)
    return [table.assign(n=n) for table in residual.tables(runs, session, make)]


EXPERIMENT = Experiment(
    name="bjorck_depth",
    title="The largest usable rate against depth (Bjorck et al., section 4)",
    profiles={
        "quick": Config(**LARGEST_RATES["quick"], n=(1, 2, 4)),
        "standard": Config(**LARGEST_RATES["standard"], n=(1, 2, 3, 5, 9), steps=2000),
        "paper": Config(**LARGEST_RATES["paper"], n=(1, 3, 5, 9, 18), steps=2000),
    },
    axes=AXES,
    fused=("seeds", "learning_rates"),
    train=train,
    needs={"arms": (WITHOUT, WITH)},
    columns={**RESIDUAL_COLUMNS, "n": "residual blocks of a stage, for 6n + 2 layers"},
    claims=claims.CLAIMS,
    facts=claims.facts,
    figures={"rates": figures.rates, "maps": figures.maps, "accuracy": figures.accuracy},
    plans=(Plan(), Plan(channels_last=True)),
)
