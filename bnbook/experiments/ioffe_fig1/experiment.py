"""Ioffe & Szegedy 2015, section 4.1 and figure 1: a sigmoid network with and without BN.

Two arms, each over the same grid of learning rates and the same seeds. At one seed both arms see
the same minibatches and start from the same weights. Each arm's rate is the one with the best
final validation accuracy, averaged over seeds; the test set chooses nothing.

Stated by the paper: 3 hidden layers of 100 logistic units, binary 28x28 input, small random
Gaussian weights, batches of 60, 50,000 steps, cross-entropy. Chosen here because the paper does
not say: plain SGD, the grid of rates, a weight std of 0.1, eps 1e-5, no BN at the output, a
validation split, the seeds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd

from bnbook.errors import BnbookError
from bnbook.experiments.experiment import Experiment, check_distinct, check_positive
from bnbook.experiments.ioffe_fig1 import claims, figures
from bnbook.setups import images
from bnbook.tables.arms import WITH, WITHOUT
from bnbook.training.session import Session

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Config(images.SigmoidSetting):
    """Everything that a run depends on."""

    learning_rates: tuple[float, ...] = (
        *(0.01, 0.02, 0.05, 0.1, 0.2, 0.5),
        *(1.0, 2.0, 5.0, 10.0, 20.0, 50.0),
    )
    arms: tuple[str, ...] = (WITHOUT, WITH)
    probe_intervals: int = 50  # no gap between measurements is longer than a run divided by this
    percentiles: tuple[float, ...] = (15.0, 50.0, 85.0)  # levels shown in figure 1(b, c)
    unit: int = 0  # the named unit of the last hidden layer, fixed before any run

    def __post_init__(self) -> None:
        check_positive(
            self, ("steps", "batch_size", "validation", "probe_intervals", "probe_images")
        )
        check_distinct(self, ("seeds", "learning_rates", "arms"))
        if not self.hidden:
            raise BnbookError("hidden must not be empty.")
        if unknown := set(self.arms) - {WITHOUT, WITH}:
            raise BnbookError(f"arms must be among {(WITHOUT, WITH)}, found {sorted(unknown)}.")
        if not 0 <= self.unit < self.hidden[-1]:
            raise BnbookError(f"unit must lie in [0, {self.hidden[-1]}), found {self.unit}.")


PROFILES = {
    "quick": Config(
        data="mnist5k",
        steps=800,
        validation=800,
        seeds=(0, 1, 2),
        probe_intervals=20,
        probe_images=300,
    ),
    "standard": Config(
        data="mnist or fashion-mnist or mnist5k",
        steps=50_000,
        validation=10_000,
        seeds=tuple(range(10)),
    ),
}

COLUMNS = {
    "arm": "with or without BN",
    "seed": "of the initial weights and the minibatches",
    "learning_rate": "of SGD",
    "step": "updates done",
    "loss": "mean training loss since the row before, nats",
    "diverged_at": "step whose loss was not finite, -1 for none",
    "validation_accuracy": "in [0, 1]",
    "test_accuracy": "in [0, 1]",
    **{
        f"{which}_p{level}": f"{level}th percentile of the input to {what}"
        for level in (15, 50, 85)
        for which, what in (
            ("unit", "the named sigmoid of the last hidden layer"),
            ("pooled", "all sigmoids of the last hidden layer"),
        )
    },
    "movement": "of the run as a whole: `bnbook.probes.measurements.movement`",
}


def probe_steps(steps: int, intervals: int) -> list[int]:
    """Return the steps measured: 30 % apart early on, then evenly, `intervals` to the whole run."""
    at, step = {0, steps}, 10.0
    while step < steps:
        at.add(round(step))
        step += min(0.3 * step, steps / intervals)
    return sorted(at)


def splits(config: Config, device: Any) -> images.Splits:
    """Load the images, binary as in the paper."""
    return images.splits(
        config.data, config.validation, device, images.binary, least=config.probe_images
    )


def train(runs: Sequence[Config], session: Session) -> list[pd.DataFrame]:
    """Train runs that differ in seed and learning rate as one ensemble."""
    import torch

    from bnbook.layers import norm
    from bnbook.networks import models
    from bnbook.probes import measurements
    from bnbook.training import fit

    config = runs[0]
    split = splits(config, fit.choose_device(session.device))
    x = split.train[0]
    model = models.MLP(
        norm.BatchNorm if config.arms[0] == WITH else None,
        seeds=[run.seeds[0] for run in runs],
        num_inputs=x[0].numel(),
        hidden=config.hidden,
        init_std=config.init_std,
    ).to(x.device)
    probed = split.validation[0][: config.probe_images]

    def sigmoid_inputs() -> dict[str, Tensor]:
        z = measurements.inputs_to(model.nonlinearities[-1], model, probed)
        units = measurements.percentiles(z, config.percentiles)
        pooled = measurements.percentiles(z.transpose(1, 2).flatten(0, 1), config.percentiles)
        named = zip(config.percentiles, units[:, :, config.unit], pooled, strict=True)
        columns = {
            f"{which}_p{level:g}": value
            for level, unit, pool in named
            for which, value in (("unit", unit), ("pooled", pool))
        }
        return {"tracks": units.transpose(0, 1), **columns}

    history = images.train(
        runs, session, model, split, config.batch_size, config.steps,
        probes=(images.accuracies(model, split), sigmoid_inputs),
        at=probe_steps(config.steps, config.probe_intervals),
    )  # fmt: skip
    tracks = torch.stack([row.pop("tracks") for row in history])
    steps = torch.stack([row["step"] for row in history]).to(tracks.device)
    moved = measurements.movement(tracks.transpose(1, 2), steps).tolist()
    members = [
        {"arm": run.arms[0], "seed": run.seeds[0], "learning_rate": run.learning_rates[0]}
        for run in runs
    ]
    found = zip(images.tables(history, members), moved, strict=True)
    return [table.assign(movement=movement) for table, movement in found]


EXPERIMENT = Experiment(
    name="ioffe_fig1",
    title="A sigmoid network with and without batch normalisation (Ioffe & Szegedy, figure 1)",
    profiles=PROFILES,
    axes=("arms", "seeds", "learning_rates"),
    fused=("seeds", "learning_rates"),
    apart=("seeds",),
    needs={"learning_rates": (claims.COMMON_RATE,)},
    train=train,
    columns=COLUMNS,
    claims=claims.CLAIMS,
    facts=claims.facts,
    figures={
        "accuracy": lambda table: figures.accuracy(table, claims.tuned_rates(table)),
        "percentiles": lambda table: figures.percentiles(table, claims.tuned_rates(table)),
        "speed": lambda table: figures.speed(
            claims.speedups(table), claims.paper_speedups(), 100 * claims.level(table)
        ),
        "rates": lambda table: figures.rate_map(
            table, claims.tuned_rates(table), claims.MAP_TARGET, claims.FAILED
        ),
    },
)
