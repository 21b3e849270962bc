"""One BN layer, and a scaled start, where BN is needed (Bjorck et al. 2018, sections 3.1 and 5).

A residual network of 32 layers whose branches start from large weights, so that its activations
grow by half or more a block: without BN, with BN everywhere, with one BN layer before the
classifier, and without BN from weights scaled once, layer by layer (LSUV; Mishkin & Matas 2016).
Each is trained to the end on a fixed subset of images without augmentation: until 99 % of the
training images are right, at the shortest of the config's lengths that suffices; a run that
diverges is not lengthened, one that guesses may be slow and is.

Each arm's rate is searched for with seeds that are shown nowhere (`bnbook.setups.search`). The
other seeds then run it, and climb the grid to the largest rate that trains
(`bnbook.setups.climbing`).

Second-hand of the paper: one BN layer at the end brings two thirds of BN's gain. Remembered: where
it is, and that a start that is scaled once is said to lose little. Chosen here: the networks, the
images, the lengths, and what counts as training.

Weights of 1.7 times Xavier's variance: the tuning runs of `bjorck_dose` show that with He's, twice
Xavier's, the network without BN is not trained to the end in 18,000 steps, and with 1.7 it is. A
step of BN's network was timed at 0.06 s of one core; the whole is some ten hours of one core.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from bnbook.errors import BnbookError
from bnbook.experiments.bjorck_one_layer import claims, figures
from bnbook.experiments.experiment import (
    Experiment,
    check_distinct,
    check_known,
    check_positive,
    is_single,
)
from bnbook.setups import climbing
from bnbook.setups.settings import RESIDUAL_SIZES, SEARCH_COLUMNS, SearchSetting
from bnbook.tables.arms import LAST_ONLY, LSUV, WITH
from bnbook.training.session import Plan, Session

if TYPE_CHECKING:
    from bnbook.networks import models

AXES = ("arms", "seeds", "learning_rates")
START_IMAGES = 256
"""Training images by which the scaled start's weights are scaled."""


@dataclass(frozen=True, kw_only=True)
class Config(SearchSetting):
    """A `SearchSetting` of one network, trained to the end.

    Attributes
    ----------
    n : int
        Residual blocks a stage, for 6n + 2 layers.
    gain : float
        Variance of the residual branches' initial weights over Xavier's; He's is 2.
    lengths : tuple of int
        Steps that a run may take, the fewest first; `steps` is the last of them.
    goal : float
        Training accuracy at which a run has gone to the end, in (0, 1].
    """

    n: int
    lengths: tuple[int, ...]
    gain: float = 2.0
    goal: float = 0.99
    arms: tuple[str, ...] = claims.ARMS
    crossed: bool = False

    def __post_init__(self) -> None:
        """Refuse impossible values."""
        check_positive(self, (*RESIDUAL_SIZES, "n"))
        check_distinct(self, (*AXES, "lengths"))
        check_known(self, "arms", claims.ARMS)
        if not is_single(self, AXES):
            self.check_search()
        if self.steps != self.lengths[-1]:
            raise BnbookError(
                f"steps must be the last of lengths, found {self.steps} and {self.lengths}."
            )


def network(arm: str, seeds: Sequence[int], *, run: Config, in_channels: int) -> models.ResNet:
    """Make the networks of an arm; equal seeds have equal weights but for the scaled start's."""
    import torch

    from bnbook.layers import ensemble, norm
    from bnbook.networks import lsuv, models
    from bnbook.setups import residual

    made = models.ResNet(
        norm.FusedBatchNorm if arm in (WITH, LAST_ONLY) else None,
        seeds,
        n=run.n,
        last_only=arm == LAST_ONLY,
        in_channels=in_channels,
        widths=run.widths,
        init_std=ensemble.xavier,
    )
    with torch.no_grad():
        for convolution in made.convolutions[1:]:
            convolution.weight.mul_(math.sqrt(run.gain))
    if arm == LSUV:
        images, _ = residual.splits(
            run.data, run.side, run.train_images, run.validation, run.test_images, "cpu"
        ).train
        lsuv.scale_weights(made, images[:START_IMAGES])
    return made


def train(runs: Sequence[Config], session: Session) -> list[pd.DataFrame]:
    """Train single runs, each to the end, and measure the growth at its start."""
    from bnbook.setups import residual

    tables = []
    for run in runs:
        make = functools.partial(network, run=run)
        (growth,) = residual.growth([run], make, session)
        table = _to_the_end(run, session, make)
        tables.append(table.assign(n=run.n, growth=growth))
    return tables


def _to_the_end(
    run: Config, session: Session, make: functools.partial[models.ResNet]
) -> pd.DataFrame:
    """Train at one length after the other until a run has gone to the end or diverged."""
    from bnbook.setups import residual

    table, left = pd.DataFrame(), list[Path | None]()
    for length in run.lengths:
        path = session.checkpoint and session.checkpoint.with_name(
            f"{session.checkpoint.stem}.{length}.checkpoint"
        )
        own = replace(_suited(session, run.arms[0]), checkpoint=path)
        (table,) = residual.tables([replace(run, steps=length, lengths=(length,))], own, make)
        table, left = table.assign(length=length), [*left, path]
        if _is_over(table.iloc[-1], run.goal):
            break
    for path in filter(None, left):
        path.unlink(missing_ok=True)
    return table


def _suited(session: Session, arm: str) -> Session:
    """Do without compiling where our kernels do not apply: torch would take minutes for it."""
    from bnbook.training import fit

    on_cpu = fit.choose_device(session.device).type == "cpu"
    plan = replace(session.plan, compiled=session.plan.compiled and arm != LAST_ONLY)
    return replace(session, plan=plan) if on_cpu else session


def _is_over(last: pd.Series, goal: float) -> bool:
    """Whether more steps would change nothing: all is learned, or the run diverged."""
    from bnbook.setups import dead

    diverged = last["dead_at"] >= 0 and last["dead_by"] != dead.RULES[-1]
    return bool(diverged or last["training_accuracy"] >= goal)


def rounds(config: Config, table: pd.DataFrame) -> list[Config]:
    """Return the single runs that come next, given the rows of those that ended."""
    return climbing.rounds(config, table, claims.TRAINED)


EXPERIMENT = Experiment(
    name="bjorck_one_layer",
    title="One BN layer, and a scaled start, in a network that needs BN, trained to the end",
    profiles={
        "quick": Config(
            data="digits", seeds=(0, 1, 2), learning_rates=(0.01, 0.1, 1.0), n=1, side=8, pad=0,
            train_images=400, validation=200, test_images=200, widths=(16, 16, 16), batch_size=32,
            lengths=(30, 60), steps=60, points=2, tuning_seeds=(100, 101),
        ),
        "standard": Config(
            data="cifar10", seeds=(0, 1, 2, 3, 4), n=5, side=16, train_images=5000,
            validation=1000, test_images=5000, pad=0, points=20, gain=1.7,
            lengths=(2000, 6000, 18_000), steps=18_000,
            learning_rates=(0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0),
            tuning_seeds=(100, 101),
        ),
        "paper": Config(
            data="cifar10", seeds=(0, 1, 2, 3, 4), n=18, gain=1.0, points=40,
            lengths=(64_000, 256_000, 940_000), steps=940_000,
            learning_rates=(0.00003, 0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0),
        ),
    },
    axes=AXES,
    train=train,
    split=climbing.shown,
    rounds=rounds,
    needs={"arms": claims.ARMS},
    columns={
        **SEARCH_COLUMNS,
        "length": "steps of the whole run, of which the schedule's shares are taken",
        "n": "residual blocks a stage, for 6n + 2 layers",
        "growth": "factor by which a block raises the second moment of the activations at the"
        " start",
    },
    claims=claims.CLAIMS,
    facts=claims.facts,
    figures={"shares": figures.shares, "rates": figures.rates},
    plans=(Plan(members=1, precision="bfloat16", compiled=True, channels_last=True),),
)  # fmt: skip
