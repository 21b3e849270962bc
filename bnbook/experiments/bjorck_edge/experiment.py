"""The largest rate that trains: against depth, against growth, and against what the start predicts.

Residual networks of 8 to 110 layers with Xavier's weights, with BN and without, and without BN 32
layers whose branches start smaller or larger, the doses of `bjorck_dose`. Each runs for a few
hundred steps at a constant rate; what counts as training, and how the largest such rate is found,
is told in `bnbook.experiments.bjorck_edge.search`. Before, the start is measured, and two rates are
predicted from it: that which the classifier's curvature allows, whatever its softmax says, and that
which the largest eigenvalue of the whole network's Hessian allows.

Known of the paper at second hand: that shallower networks without BN allow larger rates, the
threshold, momentum and weight decay as in He et al. 2016. Remembered: Xavier's initial weights.
Chosen here: the depths, the grid, the length of the runs and what counts as training.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import pandas as pd

from bnbook.errors import BnbookError
from bnbook.experiments.bjorck_edge import claims, figures, search
from bnbook.experiments.experiment import (
    Experiment,
    check_distinct,
    check_known,
    check_positive,
    is_single,
)
from bnbook.setups.settings import RESIDUAL_SIZES, ResidualSetting
from bnbook.tables.arms import WITH, WITHOUT
from bnbook.training.session import Plan, Session

AXES = ("networks", "arms", "seeds", "learning_rates")


@dataclass(frozen=True, kw_only=True)
class Config(ResidualSetting):
    """A `ResidualSetting` for several networks, with the search for the edge.

    Attributes
    ----------
    networks : tuple of (int, float)
        Residual blocks a stage, and the variance of the residual branches' initial weights over
        Xavier's. With BN those with Xavier's weights run alone.
    learning_rates : tuple of float
        The grid, rising; a single run at the rate 0 only measures the start.
    within : float
        Largest ratio of the rate above the edge, which does not train, to the edge.
    """

    networks: tuple[tuple[int, float], ...]
    within: float = 1.4

    def __post_init__(self) -> None:
        """Refuse impossible values."""
        check_positive(self, RESIDUAL_SIZES)
        check_distinct(self, AXES)
        rates = self.learning_rates
        if list(rates) != sorted(rates) or (rates[0] <= 0 and not is_single(self, AXES)):
            raise BnbookError(f"learning_rates must be positive and rising, found {rates}.")
        if self.within <= 1:
            raise BnbookError(f"within must be more than 1, found {self.within}.")
        check_known(self, "arms", (WITHOUT, WITH))


def train(runs: Sequence[Config], session: Session) -> list[pd.DataFrame]:
    """Measure the start of single runs, or train them, one by one."""
    return [_one(run, session) for run in runs]


def _one(run: Config, session: Session) -> pd.DataFrame:
    from bnbook.setups import edge, residual

    (n, gain), rate = run.networks[0], run.learning_rates[0]
    make = functools.partial(residual.network, n=n, widths=run.widths, gain=gain)
    said = {"arm": run.arms[0], "n": n, "gain": gain, "seed": run.seeds[0], "learning_rate": rate}
    measured: dict[str, float] = dict.fromkeys(edge.MEASURED, math.nan)
    if rate:
        found = edge.run(run, make, session)
        excess = [found[name] for name in edge.EXCESS]
        came_to = search.outcome(found["diverged_at"] >= 0, excess, found["spread"])
        said |= {"step": run.steps, "outcome": came_to}
    else:
        found, said = edge.start(run, make, session), said | {"step": 0, "outcome": search.START}
    return pd.DataFrame([{**said, **measured, **found}])


def rounds(config: Config, table: pd.DataFrame) -> list[Config]:
    """Return the single runs that come next, given the rows of those that ended."""
    return [
        replace(
            config, networks=((run.n, run.gain),), arms=(run.arm,), seeds=(run.seed,),
            learning_rates=(run.learning_rate,),
        )
        for run in search.wanted(
            table, config.networks, config.arms, config.seeds,
            config.learning_rates, config.within,
        )
    ]  # fmt: skip


COLUMNS = {
    "arm": "the network",
    "n": "residual blocks a stage, for 6n + 2 layers",
    "gain": "variance of the residual branches' initial weights over Xavier's",
    "seed": "sets initial weights and minibatches",
    "learning_rate": "constant rate of SGD; 0: only the start was measured",
    "step": "steps of the run",
    "outcome": "start, or what the run came to; see `bnbook.experiments.bjorck_edge.search`",
    "diverged_at": "step whose minibatch loss was above 10³ times the first or no number; -1 for"
    " none; no number at the start",
    "loss": "of the first minibatch before any update, nats",
    "half": "loss on training images after half of the steps, less that of the best constant guess,"
    " nats",
    "later": "the same after three quarters of the steps",
    "end": "the same after all steps",
    "spread": "standard deviation of an output over these images at the end, nats",
    "growth": "factor by which a block raises the second moment of the activations at the start",
    "size": "mean squared norm of the features at the start, in the first minibatch",
    "sharpness": "largest eigenvalue of the whole Hessian at the start, in the first minibatch",
    "residual": "error of the sharpness: some eigenvalue is as near",
    "classifier_rate": "largest rate that the classifier's bound at the start allows",
    "network_rate": "largest rate that the sharpness at the start allows",
}
_GRID = (
    *(0.00001, 0.0000316, 0.0001, 0.000316, 0.001, 0.00316, 0.01),
    *(0.0316, 0.1, 0.316, 1.0, 3.16, 10.0),
)
_DEPTHS = ((1, 1.0), (3, 1.0), (5, 1.0), (9, 1.0), (18, 1.0))
_DOSES = ((5, 2.0), (5, 0.5), (5, 1.4), (5, 1.7))

EXPERIMENT = Experiment(
    name="bjorck_edge",
    title="The largest rate that trains, against depth, growth and what the start predicts",
    profiles={
        "quick": Config(
            data="digits", seeds=(0, 1, 2), learning_rates=_GRID[8:], side=8, train_images=300,
            validation=200, test_images=200, pad=0, widths=(4, 8, 16), batch_size=32, steps=20,
            networks=((1, 1.0), (2, 1.0), (1, 2.0)), within=1.8,
        ),
        "standard": Config(
            data="cifar10", seeds=(0, 1, 2), learning_rates=_GRID, side=16, train_images=5000,
            validation=1000, test_images=1000, pad=0, steps=200,
            networks=(*_DEPTHS[:3], *_DOSES, *_DEPTHS[3:]),
        ),
        "paper": Config(
            data="cifar10", seeds=(0, 1, 2, 3, 4), learning_rates=_GRID, pad=0, steps=1000,
            networks=(*_DEPTHS, *_DOSES), within=1.2,
        ),
    },
    axes=AXES,
    train=train,
    rounds=rounds,
    searched="networks",
    columns=COLUMNS,
    claims=claims.CLAIMS,
    facts=claims.facts,
    figures={
        "depth": figures.depth, "predicted": figures.predicted, "outcomes": figures.outcomes,
    },
    plans=(Plan(members=1, precision="bfloat16", compiled=True, channels_last=True),),
)  # fmt: skip
