"""Ioffe & Szegedy 2015, figure 1: the settings that give its curves.

With which rate and initial weights was the figure made? The paper states neither its learning rate
nor the size of its initial weights. Here its network is trained at many pairs of the two, called
settings, and those are looked for whose test accuracy is nearest to the paper's curve.

1. Coarse: a grid of standard deviations and rates, with the first tuning seed.
2. Finer, without BN, once for each further tuning seed: at each standard deviation the nearest rate
   of the round before and its neighbours, at half the distance in the logarithm. The nearest
   setting of the last round is the likely one.
3. Judging, with seeds that decide nothing and longer runs: the likely setting, without BN with the
   rates next to it in the last round too; and each network at its best setting, that of the highest
   validation accuracy in the coarse round.

Chosen here: plain SGD at a constant rate, eps 1e-5, no BN at the output, biases that start at 0,
one standard deviation for all layers, and that the first 12,100 of the paper's 50,000 steps decide.
Three things were changed while the search ran, before any run judged. The grids go on to a larger
standard deviation and a smaller rate, for the nearest run lay at their end. The finer rounds are
without BN alone, for the curve with BN is near that of most settings. And they go along the rates
of each standard deviation, for a square around the nearest setting left nearer ones out that the
pilot had seen.

Timed at `standard`: 0.3 ms of one core a step of a member, in all about 6 minutes of one core.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import TYPE_CHECKING

import pandas as pd

from bnbook.errors import BnbookError
from bnbook.experiments.experiment import Experiment, check_distinct, check_known, check_positive
from bnbook.experiments.ioffe_settings import claims, figures
from bnbook.setups import images
from bnbook.tables import choosing, drawn
from bnbook.tables.arms import WITH, WITHOUT
from bnbook.training.session import Session

if TYPE_CHECKING:
    from torch import Tensor

    from bnbook.networks.models import MLP

AXES = ("arms", "seeds", "stds", "learning_rates")


@dataclass(frozen=True, kw_only=True)
class Config(images.ImageSetting):
    """What a run depends on. A single run has one arm, seed, standard deviation and rate."""

    tuning_seeds: tuple[int, ...]  # one for each round of the search, rising
    stds: tuple[float, ...]  # standard deviations of the initial weights, evenly apart in the log
    steps: int  # length of the runs that judge
    search_steps: int  # length of the runs that search
    scale: float = 1.0  # how many of the paper's steps one of ours stands for
    arms: tuple[str, ...] = claims.ARMS
    batch_size: int = 60
    hidden: tuple[int, ...] = (100, 100, 100)  # widths of the hidden layers
    probe_images: int = 1000  # test images that pass as one batch, for the percentiles
    test_images: int = 0  # at most; 0 takes all

    def __post_init__(self) -> None:
        """Refuse impossible values."""
        check_positive(self, ("steps", "search_steps", "scale", "batch_size", "probe_images"))
        check_distinct(self, AXES)
        check_known(self, "arms", claims.ARMS)
        choosing.check(self)
        for name in ("stds", "learning_rates", "tuning_seeds"):
            values = getattr(self, name)
            if min(values) < 0 or list(values) != sorted(set(values)):
                raise BnbookError(f"{name} must be positive and rising, found {values}.")
        if len(self.tuning_seeds) < 2:
            raise BnbookError(f"tuning_seeds must be two or more, found {self.tuning_seeds}.")


Run = tuple[str, int, float, float]
"""Arm, seed, standard deviation, rate."""


def rounds(config: Config, table: pd.DataFrame) -> list[Config]:
    """Return the runs to make next: round after round of the search, then those that judge."""
    done = set() if table.empty else set(table[claims.RUN].itertuples(index=False, name=None))
    for number, seed in enumerate(config.tuning_seeds):
        asked = [
            (arm, seed, std, rate)
            for arm in (config.arms if number == 0 else (WITHOUT,))
            for std, rate in _searched(config, table, number)
        ]
        if missing := [run for run in asked if run not in done]:
            return [_single(config, run, config.search_steps) for run in missing]
    missing = [run for run in _judging(config, table) if run not in done]
    return [_single(config, run, config.steps) for run in missing]


def _single(config: Config, run: Run, steps: int) -> Config:
    arm, seed, std, rate = run
    return replace(
        config, arms=(arm,), seeds=(seed,), stds=(std,), learning_rates=(rate,), steps=steps
    )


def _searched(config: Config, table: pd.DataFrame, number: int) -> list[claims.Setting]:
    """Return the settings of a round of the search, from 0."""
    if number == 0:
        return list(product(config.stds, config.learning_rates))
    nearest = claims.nearest_at_each(table, config.tuning_seeds[number - 1])
    grid = config.learning_rates
    return [(std, each) for std, rate in nearest for each in around(grid, rate, number)]


def around(grid: Sequence[float], value: float, number: int) -> tuple[float, ...]:
    """Return a value and its neighbours at a grid's distance, halved so often in the logarithm."""
    apart = (grid[1] / grid[0]) ** (0.5**number)
    return tuple(float(f"{each:.3g}") for each in (value / apart, value, value * apart))


def _judging(config: Config, table: pd.DataFrame) -> list[Run]:
    """Return the runs of the seeds that judge."""
    std, rate = likely = claims.likely(table)
    rates = around(config.learning_rates, rate, len(config.tuning_seeds) - 1)
    settings = {WITHOUT: [(std, each) for each in rates], WITH: [likely]}
    return [
        (arm, seed, *setting)
        for arm in config.arms
        for seed in config.seeds
        for setting in dict.fromkeys([*settings[arm], claims.best(table, arm)])
    ]


def measured_steps(config: Config) -> list[int]:
    """Return the steps measured: 500 and then 2,000 of the paper's apart, and where it bends."""
    last = round(config.steps * config.scale)
    bends = [round(step) for arm in claims.ARMS for step in drawn.accuracy(arm, last).corners]
    at = [*range(0, 3000, 500), *range(3000, last, 2000), *bends, last]
    return sorted({round(step / config.scale) for step in at})


def network(runs: Sequence[Config], num_inputs: int) -> MLP:
    """Make the runs' networks; at one seed all start from the same Gaussian draws, scaled."""
    import torch

    from bnbook.layers import ensemble, norm
    from bnbook.networks import models

    model = models.MLP(
        norm.BatchNorm if runs[0].arms[0] == WITH else None,
        seeds=[run.seeds[0] for run in runs],
        num_inputs=num_inputs,
        hidden=runs[0].hidden,
        init_std=1.0,
    )
    with torch.no_grad():
        for layer in model.modules():
            if isinstance(layer, ensemble.Layer):
                for member, run in enumerate(runs):
                    layer.weight[member] *= run.stds[0]
    return model


def train(runs: Sequence[Config], session: Session) -> list[pd.DataFrame]:
    """Train runs that differ in seed, standard deviation and rate as one ensemble."""
    from bnbook.training import fit

    config = runs[0]
    split = images.splits(
        config.data, config.validation, fit.choose_device(session.device), images.binary
    ).first(0, config.test_images)
    x, shown = split.train[0], split.test[0][: config.probe_images]
    model = network(runs, x[0].numel()).to(x.device)
    history = images.train(
        runs, session, model, split, config.batch_size, config.steps,
        probes=(images.accuracies(model, split), inputs(model, shown)),
        at=measured_steps(config),
    )  # fmt: skip
    members = [
        {
            "arm": run.arms[0], "seed": run.seeds[0], "std": run.stds[0],
            "learning_rate": run.learning_rates[0], "tunes": run.seeds[0] in run.tuning_seeds,
            "training_images": len(x),
        }
        for run in runs
    ]  # fmt: skip
    return [
        table.assign(paper_step=config.scale * table["step"])[list(COLUMNS)]
        for table in images.tables(history, members)
    ]


def inputs(model: MLP, shown: Tensor) -> Callable[[], dict[str, Tensor]]:
    """Return the probe of what the last hidden layer's sigmoids receive from some images."""
    from bnbook.probes import measurements

    def probe() -> dict[str, Tensor]:
        z = measurements.inputs_to(model.nonlinearities[-1], model, shown)
        low, middle, high = measurements.percentiles(z, (15.0, 50.0, 85.0))
        return {
            "spread": measurements.percentiles((high - low).T, (50.0,))[0],
            "centre": middle.square().mean(1).sqrt(),
        }

    return probe


COLUMNS = {
    "arm": "with or without BN",
    "seed": "of the initial weights and the minibatches",
    "std": "standard deviation of the initial weights",
    "learning_rate": "of SGD",
    "tunes": "whether the seed searches; those that do judge nothing",
    "training_images": "images trained on",
    "step": "updates done",
    "paper_step": "the same on the axis of the paper's figure 1(a)",
    "loss": "mean training loss since the row before, nats",
    "diverged_at": "step whose loss was not finite, -1 for none",
    "validation_accuracy": "in [0, 1]",
    "test_accuracy": "in [0, 1]",
    "spread": "85th less 15th percentile of the input to a sigmoid of the last hidden layer, median"
    " over its units",
    "centre": "50th percentile of the same, root mean square over the units",
}


EXPERIMENT = Experiment(
    name="ioffe_settings",
    title="The rate and initial weights of Ioffe & Szegedy's figure 1, read off its curves",
    profiles={
        "quick": Config(
            data="mnist5k", seeds=(0, 1, 2), tuning_seeds=(100, 101), validation=500, steps=100,
            search_steps=75, scale=161.0, stds=(0.1, 0.2), learning_rates=(0.3, 1.0, 3.0),
            probe_images=200, test_images=500,
        ),
        "standard": Config(
            data="mnist", seeds=(0, 1, 2, 3, 4), tuning_seeds=(100, 101, 102), validation=5_000,
            steps=16_100, search_steps=12_100, stds=(0.025, 0.05, 0.1, 0.2),
            learning_rates=(0.018, 0.06, 0.2, 0.6, 2.0, 6.0),
        ),
    },
    axes=AXES,
    fused=("seeds", "stds", "learning_rates"),
    apart=("seeds",),
    train=train,
    rounds=rounds,
    needs={"arms": claims.ARMS},
    columns=COLUMNS,
    claims=claims.CLAIMS,
    facts=claims.facts,
    figures={"search": lambda table: figures.search(**claims.shown(table))},
)  # fmt: skip
