"""Dose and response: how much of BN's gain is the rate's, against growth at the start.

The residual networks of Bjorck et al. 2018, figure 1, cut to 16 x 16 images and trained to the end:
until 99 % of the training images are right, or a written limit of steps, without augmentation. The
dose is the growth of the activations at the start: 32 layers with the initial gain of the residual
branches from below Xavier's to He's, and 56 and 110 layers with Xavier's. At each dose both arms
run over a grid of rates, coarse to fine, by the plan of `bnbook.experiments.bjorck_dose.cells`; the
seeds that choose a rate are not those that are shown.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import pandas as pd

from bnbook.experiments.bjorck_dose import cells, claims, figures
from bnbook.experiments.experiment import Experiment, check_distinct, check_known, check_positive
from bnbook.setups.settings import RESIDUAL_SIZES, WATCHED_COLUMNS, WatchedSetting
from bnbook.tables.arms import WITH, WITHOUT
from bnbook.training.session import Plan, Session


@dataclass(frozen=True, kw_only=True)
class Config(WatchedSetting):
    """A `WatchedSetting` for several networks, with the plan of rates.

    Attributes
    ----------
    networks : tuple of (int, float)
        Residual blocks a stage, and the variance of the residual branches' initial weights over
        Xavier's.
    lengths : tuple of int
        Steps that a run may take, the fewest first.
    tuning_seeds : tuple of int
        The two seeds that choose rates; a single run has none of them but its own in `seeds`.
    goal : float
        Training accuracy at which a run has gone to the end, in (0, 1].
    """

    networks: tuple[tuple[int, float], ...]
    lengths: tuple[int, ...]
    tuning_seeds: tuple[int, ...] = (100, 101)
    goal: float = 0.99

    def __post_init__(self) -> None:
        """Refuse impossible values."""
        check_positive(self, RESIDUAL_SIZES)
        check_distinct(self, ("seeds", "learning_rates", "arms", "networks", "lengths"))
        check_known(self, "arms", (WITHOUT, WITH))


def train(runs: Sequence[Config], session: Session) -> list[pd.DataFrame]:
    """Train single runs of one network, arm and length as one ensemble, and measure the start."""
    from bnbook.setups import residual

    (n, gain), (length,) = runs[0].networks[0], runs[0].lengths
    make = functools.partial(residual.network, n=n, widths=runs[0].widths, gain=gain)
    growth = residual.growth(runs, make, session)
    trained = residual.tables([replace(run, steps=length) for run in runs], session, make)
    return [
        table.assign(
            n=n, gain=gain, length=length, growth=each, tunes=run.seeds[0] in run.tuning_seeds
        )
        for run, table, each in zip(runs, trained, growth, strict=True)
    ]


def rounds(config: Config, table: pd.DataFrame) -> list[Config]:
    """Return the single runs that come next, given the rows of those that ended.

    Every network has the first `cells.ALONG` seeds of the config, and one that then meets the
    premises of the claims has the first `cells.JUDGED`; there the others run without BN at BN's
    best rate, to see whether they fail. A search sees its own network alone.
    """
    ended, found = cells.ends(table), []
    for network in config.networks:
        plan = functools.partial(
            cells.wanted, ended, [network], config.learning_rates, config.lengths,
            config.tuning_seeds, goal=config.goal,
        )  # fmt: skip
        asked = plan(seeds=config.seeds[: cells.ALONG])
        if not asked and claims.meets(ended, network):
            first, others = config.seeds[: cells.JUDGED], config.seeds[cells.JUDGED :]
            asked = plan(seeds=first)
            if not asked and network == claims.judged(table):
                asked = plan(seeds=first, failing=others)
        found += asked
    return [
        replace(
            config, networks=((run.n, run.gain),), arms=(run.arm,), seeds=(run.seed,),
            learning_rates=(run.learning_rate,), lengths=(run.length,),
        )
        for run in found
    ]  # fmt: skip


COLUMNS = {
    **WATCHED_COLUMNS,
    "n": "residual blocks a stage, for 6n + 2 layers",
    "gain": "variance of the residual branches' initial weights over Xavier's",
    "length": "steps of the whole run, of which the schedule's shares are taken",
    "growth": "factor by which a block raises the second moment of the activations at the start",
    "tunes": "whether the seed chooses rates; no claim is judged by those that do",
}

_RATES = (0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3)

EXPERIMENT = Experiment(
    name="bjorck_dose",
    title="BN's gain in two parts, against growth at the start, trained to the end",
    profiles={
        "quick": Config(
            data="digits", seeds=(0, 1, 2), learning_rates=(0.003, 0.01, 0.03, 0.1, 0.3), side=8,
            train_images=400, validation=200, test_images=200, pad=0, widths=(16, 16, 16),
            batch_size=32, points=4, networks=((1, 1.0), (2, 4.0)), lengths=(40, 80),
        ),
        "standard": Config(
            data="cifar10", seeds=tuple(range(15)), learning_rates=_RATES, side=16,
            train_images=5000, validation=1000, test_images=5000, pad=0, points=40,
            lengths=(2000, 6000, 18_000),
            networks=((5, 2.0), (5, 0.5), (9, 1.0), (5, 1.7), (5, 1.4), (5, 1.0), (18, 1.0)),
        ),
        "paper": Config(
            data="cifar10", seeds=tuple(range(15)), learning_rates=_RATES, points=40,
            lengths=(64_000, 256_000, 940_000),
            networks=((18, 1.0), (18, 0.5), (9, 1.0), (9, 2.0), (5, 1.0), (5, 2.0)),
        ),
    },
    axes=("networks", "arms", "lengths", "seeds", "learning_rates"),
    train=train,
    rounds=rounds,
    searched="networks",
    columns=COLUMNS,
    claims=claims.CLAIMS,
    facts=claims.facts,
    figures={"response": figures.response, "rates": figures.rates, "curves": figures.curves},
    plans=(Plan(members=1, precision="bfloat16", compiled=True, channels_last=True),),
)  # fmt: skip
