"""At which rates 110 layers fail to train (Bjorck et al. 2018, sections 1.2 and 3).

The paper's residual network, with BN and without, for the first 200 minibatches at a grid of
constant rates. A run *diverges* where the loss of a minibatch is no number or above 10^3 times that
of its first minibatch, and ends there: without BN the first loss itself can be above 10^3 at this
depth, so the paper's threshold is counted from the loss at the start. A run *learns* when most of
the minibatches in the last tenth of its steps have a loss better than guessing. One that does
neither is still guessing.

Known of the paper at second hand: the depth, the data, momentum, weight decay, crops and flips, the
rates 0.1 and 0.0001. Remembered: Xavier's weights. Chosen here: images of 16 x 16 pixels, the
grid, 200 steps, and what counts as learning.

A step was timed at 0.16 s with BN and 0.11 s without on one core (bfloat16, compiled); runs that
diverge end within 50 steps. The whole is about an hour of one core; the record took 5 minutes
of processes that shared one H100.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd

from bnbook.experiments.bjorck_layers110 import claims, figures
from bnbook.experiments.experiment import Experiment, check_distinct, check_known, check_positive
from bnbook.setups.settings import RESIDUAL_SIZES, ResidualSetting
from bnbook.tables.arms import WITH, WITHOUT
from bnbook.training.session import Plan, Session

if TYPE_CHECKING:
    from torch import Tensor

AXES = ("seeds", "arms", "learning_rates")
"""Whole seeds first, so that a record that is still growing says something of every claim."""
_RATES = (0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3)
"""The grid of `bnbook.experiments.bjorck_dose`."""


@dataclass(frozen=True, kw_only=True)
class Config(ResidualSetting):
    """A `ResidualSetting` of `n` residual blocks a stage, whose rate stays as it begins."""

    n: int

    def __post_init__(self) -> None:
        """Refuse impossible values."""
        check_positive(self, (*RESIDUAL_SIZES, "n"))
        check_distinct(self, AXES)
        check_known(self, "arms", (WITHOUT, WITH))


def train(runs: Sequence[Config], session: Session) -> list[pd.DataFrame]:
    """Train runs that differ in rate and seed as one ensemble, and keep every minibatch's loss."""
    from bnbook.layers import ensemble
    from bnbook.setups import residual
    from bnbook.training import augment, fit

    one, seeds = runs[0], [run.seeds[0] for run in runs]
    device = fit.choose_device(session.device)
    images, labels = residual.splits(
        one.data, one.side, one.train_images, one.validation, one.test_images, str(device)
    ).train
    model = residual.network(
        one.arms[0], seeds, n=one.n, widths=one.widths, in_channels=images.shape[1]
    ).to(device)
    batches, streams = fit.streams(len(labels), one.batch_size, one.steps, seeds)
    crops = augment.crops(one.steps, one.batch_size, 0, one.pad).to(device)
    history = fit.fit(
        model,
        images,
        labels,
        batches,
        fit.SGD(
            [run.learning_rates[0] for run in runs],
            momentum=one.momentum,
            weight_decay=one.weight_decay,
        ),
        ensemble.cross_entropy,
        at=(0, one.steps),  # of a run that ends before its last step the first row is left
        streams=streams,
        transform=residual.shaken(crops, one.pad) if one.pad else None,
        ends=lambda losses: _beyond(losses).any(0),
        session=session,
    )
    return [_rows(run, history[-1]["losses"][at]) for at, run in enumerate(runs)]


def _beyond(losses: Tensor) -> Tensor:
    """Say at which steps a loss, (steps, ...), is no number or above 10^3 times the first."""
    return ~(losses <= claims.TIMES * losses[0])


def _rows(run: Config, losses: Tensor) -> pd.DataFrame:
    """Return the rows of one run by the losses of its minibatches, (steps,)."""
    from bnbook.setups import dead, residual

    beyond = _beyond(losses)
    diverged_at = int(beyond.long().argmax()) + 1 if bool(beyond.any()) else -1
    lived = losses[: diverged_at - 1] if diverged_at > 0 else losses
    guessing = math.log(residual.CLASSES) - dead.MARGIN
    measured = residual.measured_steps(run.steps, run.points)
    rows = []
    for before, step in itertools.pairwise(measured):
        since = losses[before:step] if step <= len(lived) else losses[:0]
        rows.append({
            "arm": run.arms[0], "seed": run.seeds[0], "learning_rate": run.learning_rates[0],
            "n": run.n, "step": step, "diverged_at": diverged_at if diverged_at <= step else -1,
            "above_at": _first(losses[:step] > dead.THRESHOLD),
            "first_loss": float(losses[0]),
            "loss": float(since.log().mean().exp()) if len(since) else math.nan,
            "better": float((since < guessing).double().mean()) if len(since) else 0.0,
        })  # fmt: skip
    return pd.DataFrame(rows)


def _first(found: Tensor) -> int:
    """Return the place, from 1, of the first True; -1 for none."""
    return 1 + int(found.long().argmax()) if bool(found.any()) else -1


COLUMNS = {
    "arm": "the network",
    "seed": "sets initial weights and minibatches",
    "learning_rate": "rate of SGD, constant",
    "n": "residual blocks of a stage, for 6n + 2 layers",
    "step": "steps done at the end of the row's minibatches",
    "diverged_at": "step whose minibatch loss was above 10³ times the first or no number, which"
    " ended the run; -1 for none so far",
    "above_at": "step whose minibatch loss was above 10³, the other reading; -1 for none so far",
    "first_loss": "loss of the first minibatch, before any update, nats",
    "loss": "geometric mean of the minibatches' losses since the row before, nats; missing once"
    " diverged",
    "better": "share of these minibatches whose loss was better than guessing; 0 once diverged",
}

EXPERIMENT = Experiment(
    name="bjorck_layers110",
    title="Failing to train at 110 layers, against the rate (Bjorck et al., sections 1.2 and 3)",
    profiles={
        "quick": Config(
            data="digits", seeds=(0, 1, 2), learning_rates=(0.0001, 0.1, 1.0), side=8, pad=0,
            train_images=1200, validation=200, test_images=200, widths=(16, 16, 16), batch_size=16,
            steps=40, points=4, n=6,
        ),
        "standard": Config(
            data="cifar10", seeds=tuple(range(10)), side=16, pad=2, steps=200, points=20, n=18,
            learning_rates=_RATES,
        ),
        "paper": Config(
            data="cifar10", seeds=tuple(range(10)), steps=200, points=20, n=18,
            learning_rates=_RATES,
        ),
    },
    axes=AXES,
    fused=("seeds", "learning_rates"),
    apart=("seeds",),
    train=train,
    needs={"arms": (WITHOUT, WITH), "learning_rates": (claims.SMALL, claims.USUAL)},
    columns=COLUMNS,
    claims=claims.CLAIMS,
    facts=claims.facts,
    figures={"shares": figures.shares, "losses": figures.losses},
    plans=(Plan(members=1, precision="bfloat16", compiled=True, channels_last=True),),
)  # fmt: skip
