"""Fifteen epochs of 110 layers: the cells of figure 1 of Bjorck et al. 2018, cut short.

The paper's residual network on whole CIFAR-10 with crops and flips, with BN and without. Each arm's
rate is searched for with seeds that are shown nowhere, by the plan of `bnbook.setups.search`; then
the other seeds run both networks at both rates, r0, the best without BN, and r1, the best with it,
and the network with BN at their geometric mean too. Where the network without BN learns at no rate,
r0 is the grid's smallest, which is the paper's. A run that is dead by the rule of
`bnbook.setups.dead` ends.

Known of the paper at second hand: depth, data, momentum, weight decay, crops and flips. Remembered:
Xavier's weights. Chosen here: images of 16 x 16 pixels, 15 epochs (the paper trains to the end),
the grid, and how rates are chosen.

A step was timed at 0.16 s with BN and 0.11 s without on one core (bfloat16, compiled), so that a
run takes 16 and 11 minutes if it lives, and all about six and a half hours of one core. The record
took 13 minutes of processes that shared one H100, several networks in each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from bnbook.experiments.bjorck_epochs110 import claims, figures
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
from bnbook.tables import searched, two_rates
from bnbook.tables.arms import WITH, WITHOUT
from bnbook.training.session import Plan, Session

AXES = ("arms", "seeds", "learning_rates")


@dataclass(frozen=True, kw_only=True)
class Config(SearchSetting):
    """A `SearchSetting` of networks with `n` residual blocks a stage."""

    n: int

    def __post_init__(self) -> None:
        """Refuse impossible values."""
        check_positive(self, (*RESIDUAL_SIZES, "n"))
        check_distinct(self, AXES)
        check_known(self, "arms", (WITHOUT, WITH))
        if not is_single(self, AXES):
            self.check_search()


def train(runs: Sequence[Config], session: Session) -> list[pd.DataFrame]:
    """Train runs of one arm that differ in seed and rate."""
    import functools

    from bnbook.setups import residual

    make = functools.partial(residual.network, n=runs[0].n, widths=runs[0].widths)
    return [table.assign(n=runs[0].n) for table in residual.tables(runs, session, make)]


def rounds(config: Config, table: pd.DataFrame) -> list[Config]:
    """Return the single runs that come next: those of the search, then the cells, seed by seed."""
    if tuning := [run for run in search.rounds(config, table) if run.role == TUNING]:
        return tuning
    ran = searched.ends(table, JUDGING)[["arm", "learning_rate", "seed"]]
    ended = set(ran.itertuples(index=False, name=None))
    return [
        search.one_run(config, arm, seed, rate, JUDGING)
        for seed in config.seeds
        for arm, rate in two_rates.cells(two_rates.rates(table))
        if (arm, rate, seed) not in ended
    ]


_RATES = (0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3)
"""The grid of `bnbook.experiments.bjorck_dose`."""

EXPERIMENT = Experiment(
    name="bjorck_epochs110",
    title="Fifteen epochs of 110 layers, at both best rates (Bjorck et al., figure 1, cut short)",
    profiles={
        "quick": Config(
            data="digits", seeds=(0, 1, 2), learning_rates=(0.003, 0.03, 0.3), n=1, side=8, pad=0,
            train_images=800, validation=200, test_images=200, widths=(16, 16, 16), batch_size=32,
            steps=40, points=4, tuning_seeds=(100, 101),
        ),
        "standard": Config(
            data="cifar10", seeds=(0, 1, 2), learning_rates=_RATES, n=18, side=16, pad=2,
            steps=15 * 351, points=15, tuning_seeds=(100, 101),
        ),
        "paper": Config(
            data="cifar10", seeds=(0, 1, 2, 3, 4), learning_rates=_RATES, n=18, points=40,
        ),
    },
    axes=AXES,
    train=train,
    rounds=rounds,
    needs={"arms": (WITHOUT, WITH)},
    columns={**SEARCH_COLUMNS, "n": "residual blocks of a stage, for 6n + 2 layers"},
    claims=claims.CLAIMS,
    facts=claims.facts,
    figures={"curves": figures.curves, "rates": figures.rates},
    plans=(Plan(members=1, precision="bfloat16", compiled=True, channels_last=True),),
)  # fmt: skip
