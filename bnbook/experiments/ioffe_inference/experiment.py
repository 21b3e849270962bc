"""Ioffe & Szegedy 2015, section 3.1 and Algorithm 2: what the statistics for inference cost.

BN networks trained on minibatches of several sizes, the same number of examples seen by each. Then
the weights are frozen and only the statistics are exchanged: the running average at several
momenta, all tracked in one training, Algorithm 2's averages and their variants, and a test
minibatch's own. Each batch size's learning rate is the one with the best validation accuracy under
torch's default running average.

Chosen here because the paper has no such experiment: a ConvNet with ReLU, He's initial weights,
plain SGD at a constant rate, the grid of rates, images averaged over squares of pixels. A fully
connected network would not do: at m = 2 its normalised values are all 1 or -1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import pandas as pd

from bnbook.errors import BnbookError
from bnbook.experiments.experiment import Experiment, check_distinct, check_positive
from bnbook.experiments.ioffe_inference import claims, figures
from bnbook.setups import images as setup
from bnbook.setups.images import Splits
from bnbook.tables import arms
from bnbook.training.session import Session


class Moments(NamedTuple):
    """Mean and variance of a BN layer's features, and of how many values each."""

    mean: Any
    var: Any
    values: int


Statistics = list[Moments]
"""Of each BN layer, first layer first."""


@dataclass(frozen=True, kw_only=True)
class Config(setup.ImageSetting):
    """Everything that a run depends on."""

    learning_rates: tuple[float, ...] = (0.03, 0.1, 0.3, 1.0)
    examples: int  # images seen in training, repetitions counted: steps times batch size
    batch_sizes: tuple[int, ...] = (2, 4, 8, 16, 64)  # m
    momenta: tuple[float, ...] = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)  # of the new batch
    population: int = 6000  # training images at most, for the frozen network's statistics
    widths: tuple[int, ...] = (16, 32, 32)  # channels of the blocks
    pool: int = 4  # side of the squares that images are averaged over
    contrast: float = 0.3  # factor on the intensities of shifted images
    brightness: float = 0.5  # added to the intensities
    noise: float = 0.5  # standard deviation of Gaussian noise

    def __post_init__(self) -> None:
        check_positive(self, ("examples", "validation", "pool", "population"))
        check_distinct(self, ("seeds", "learning_rates", "batch_sizes", "momenta"))
        if min(self.batch_sizes) < claims.SMALLEST:
            raise BnbookError(
                f"batch_sizes must be at least {claims.SMALLEST}, found {self.batch_sizes}."
            )
        if not 0 < min(self.momenta) <= max(self.momenta) <= 1:
            raise BnbookError(f"momenta must lie in (0, 1], found {self.momenta}.")
        most = min(self.examples, self.validation, self.population)
        if max(self.batch_sizes) > most:
            raise BnbookError(
                f"batch_sizes must be at most examples, validation and population, found"
                f" {self.batch_sizes} and {most}."
            )


PROFILES = {
    "quick": Config(
        data="mnist5k",
        examples=1200,
        validation=800,
        seeds=(0, 1, 2),
        learning_rates=(0.03, 0.1, 0.3),
        batch_sizes=(2, 16),
        momenta=(0.001, 0.01, 0.1, 1.0),
        population=1200,
    ),
    "standard": Config(
        data="mnist or fashion-mnist or mnist5k",
        examples=20_000,
        validation=10_000,
        seeds=tuple(range(5)),
    ),
}

COLUMNS = {
    "batch_size": "m of training",
    "seed": "of the initial weights and the minibatches",
    "learning_rate": "of SGD",
    "population": "images that the frozen network's statistics are averaged over",
    "examples": "images seen in training",
    "diverged_at": "step whose loss was not finite, -1 for none",
    "momentum": "of a running average, else NaN",
    "shift": "what was done to the test images",
    "validation_accuracy": "in [0, 1], for torch's default momentum alone",
    "mean_error": "against all images as one minibatch: root mean square over the first layer's"
    " features, in standard deviations",
    "variance_error": "the same of the variance, relative",
    "variance_ratio": "mean over the first layer's features",
    "mean_error_last": "as `mean_error`, of the last BN layer",
    "variance_error_last": "as `variance_error`, of the last BN layer",
    "statistics": "with which the frozen network is evaluated: see `bnbook.tables.arms`",
    "test_accuracy": "in [0, 1]",
}


def splits(config: Config, device: Any) -> Splits:
    """Load the images, averaged over squares."""
    from torch.nn import functional

    def pooled(images: Any) -> Any:
        return functional.avg_pool2d(images, config.pool)

    return setup.splits(config.data, config.validation, device, pooled)


def train(runs: Sequence[Config], session: Session) -> list[pd.DataFrame]:
    """Train runs that differ in seed and rate as one ensemble, and exchange their statistics."""
    import torch

    from bnbook.networks import models
    from bnbook.training import fit

    config = runs[0]
    split = splits(config, fit.choose_device(session.device))
    images, labels = split.train
    seeds, (m,) = [run.seeds[0] for run in runs], config.batch_sizes
    model = models.ConvNet(
        _tracking(config.momenta), seeds, in_channels=images.shape[1], widths=config.widths
    ).to(images.device)
    history = setup.train(runs, session, model, split, m, config.examples // m, drop=False)
    with torch.no_grad():
        rows = _measure(model, split, config)
    population = min(len(labels), config.population)
    return _tidy(runs, rows, history[-1]["diverged_at"].tolist(), population)


def _tracking(momenta: Sequence[float]) -> Any:
    """Return a BN layer that keeps running statistics at several momenta at once."""
    import torch
    from torch import Tensor

    from bnbook.layers.norm import BatchNorm

    class Tracking(BatchNorm):
        """`BatchNorm` with ``means`` and ``variances`` of shape (C, momenta) in place of its own.

        These stay at their start until `put` fills them.
        """

        means: Tensor
        variances: Tensor

        def __init__(self, num_features: int) -> None:
            super().__init__(num_features)
            self.weights = torch.tensor(momenta)
            self.register_buffer("means", torch.zeros(num_features, len(momenta)))
            self.register_buffer("variances", torch.ones(num_features, len(momenta)))

        @torch.no_grad()
        def track(self, mu: Tensor, var: Tensor, m: int) -> None:
            weights = self.weights = self.weights.to(mu)
            self.means.lerp_(mu.view(-1, 1), weights)
            self.variances.lerp_(var.view(-1, 1) * (m / (m - 1)), weights)

    return Tracking


def norms_of(model: Any) -> list[Any]:
    """Return the BN layers of a ConvNet, first layer first."""
    return [layer for layer in model.hidden if hasattr(layer, "running_mean")]


def batch_statistics(model: Any, images: Any, m: int) -> Statistics:
    """Mean and biased variance of every minibatch at every BN layer, the network in training.

    The images are cut into minibatches in their order; a last, incomplete one is left out. All go
    through the network side by side; nothing in it changes.
    """
    return _grouped(model, images, m)[0]


def _grouped(model: Any, images: Any, m: int) -> tuple[Statistics, Any]:
    """Statistics of minibatches, and the network's outputs when it uses them."""
    x = images[: len(images) // m * m]
    found = []
    for layer in model.hidden:
        if not hasattr(layer, "running_mean"):
            x = layer(x)
            continue
        mean, var, values = _in_groups(x, m)
        found.append(Moments(mean, var, values))
        shaped = [v.repeat_interleave(m, 0)[..., None, None] for v in (mean, var)]
        x = _normalised(layer, x, *shaped)
    return found, model.output(x.mean((2, 3))).view(len(x), model.members, -1)


def _in_groups(x: Any, m: int) -> tuple[Any, Any, int]:
    """Mean, biased variance and number of values of a feature in each minibatch of m.

    By the law of total variance, from each image's own: its positions lie side by side in memory.
    """
    positions = x.flatten(2)
    mean, var = (v.unflatten(0, (-1, m)) for v in _moments_of_images(positions))
    return mean.mean(1), var.mean(1) + mean.var(1, correction=0), m * positions.shape[2]


def _moments_of_images(positions: Any) -> tuple[Any, Any]:
    mean = positions.mean(2)
    return mean, (positions - mean[..., None]).square().mean(2)


def _normalised(layer: Any, x: Any, mean: Any, var: Any) -> Any:
    gamma, beta = layer.weight[:, None, None], layer.bias[:, None, None]
    return gamma * (x - mean) * (var + layer.eps).rsqrt() + beta


def aggregated(statistics: Statistics, kind: str) -> Statistics:
    """Make one mean and variance of those of many minibatches."""
    unbiased = kind in (arms.ALGORITHM_2, arms.BOTH)
    pooled = kind in (arms.POOLED, arms.BOTH)
    return [
        Moments(
            mean.mean(0),
            var.mean(0) * (n / (n - 1) if unbiased else 1)
            + (mean.var(0, correction=0) if pooled else 0),
            n,
        )
        for mean, var, n in statistics
    ]


def layer_by_layer(model: Any, images: Any, m: int) -> Statistics:
    """Algorithm 2 with the BN layers below already replaced by their maps."""
    x = images[: len(images) // m * m]
    found: Statistics = []
    for layer in model.hidden:
        if not hasattr(layer, "running_mean"):
            x = layer(x)
            continue
        found += aggregated([Moments(*_in_groups(x, m))], arms.ALGORITHM_2)
        x = _normalised(layer, x, *(v[:, None, None] for v in found[-1][:2]))
    return found


def put(model: Any, statistics: Statistics) -> None:
    """Give a model's BN layers the statistics that they use in evaluation."""
    for layer, (mean, var, _) in zip(norms_of(model), statistics, strict=True):
        layer.running_mean.copy_(mean)
        layer.running_var.copy_(var)


def _measure(model: Any, split: Splits, config: Config) -> list[dict[str, Any]]:
    """Evaluate the frozen members with every kind of statistics; values of a row are (E,)."""
    from bnbook.probes import measurements

    (m,), images = config.batch_sizes, split.train[0][: config.population]
    everything = batch_statistics(model, images, len(images))
    whole = aggregated(everything, arms.ALGORITHM_2)
    rows = []
    for at, momentum in enumerate(config.momenta):
        own = [Moments(layer.means[:, at], layer.variances[:, at], m) for layer in norms_of(model)]
        put(model, own)
        rows.append(
            {
                "statistics": arms.RUNNING,
                "momentum": momentum,
                "test_accuracy": measurements.accuracy(model, *split.test),
                **_errors(own, whole, model.members),
            }
        )
        if momentum == claims.MOMENTUM:
            rows[-1]["validation_accuracy"] = measurements.accuracy(model, *split.validation)
    found = batch_statistics(model, images, m)
    kinds = (arms.ALGORITHM_2, arms.NO_FACTOR, arms.POOLED, arms.BOTH)
    made = {kind: aggregated(found, kind) for kind in kinds}
    made |= {arms.LAYER_BY_LAYER: layer_by_layer(model, images, m), arms.WHOLE: whole}
    for kind, statistics in made.items():
        put(model, statistics)
        accuracy = measurements.accuracy(model, *split.test)
        errors = _errors(statistics, whole, model.members)
        rows.append({"statistics": kind, "test_accuracy": accuracy, **errors})
    rows += _with_own_statistics(model, *split.test, m)
    return rows + _shifted(model, split, config, made[arms.ALGORITHM_2])


def _errors(statistics: Statistics, whole: Statistics, members: int) -> dict[str, Any]:
    """Return how far statistics are from one large minibatch's, in the first and last layer."""
    found = {}
    for where, at in (("", 0), ("_last", -1)):
        (mean, var, _), (true_mean, true_var, _) = statistics[at], whole[at]
        off = ((mean - true_mean) / true_var.sqrt()).view(members, -1)
        ratio = (var / true_var).view(members, -1)
        found[f"mean_error{where}"] = off.square().mean(1).sqrt()
        found[f"variance_error{where}"] = (ratio - 1).square().mean(1).sqrt()
        if not where:
            found["variance_ratio"] = ratio.mean(1)
    return found


def _with_own_statistics(model: Any, images: Any, labels: Any, m: int) -> list[dict[str, Any]]:
    """Leave out eval(): test minibatches of m normalised with their own statistics."""
    rows = []
    orders = {arms.MIXED: slice(None), arms.SORTED: labels.argsort(stable=True)}
    for kind, order in orders.items():
        _, scores = _grouped(model, images[order], m)
        right = scores.argmax(-1) == labels[order][: len(scores), None]
        rows.append({"statistics": kind, "test_accuracy": right.double().mean(0)})
    return rows


def _shifted(model: Any, split: Splits, config: Config, own: Statistics) -> list[dict[str, Any]]:
    """Evaluate on shifted test images, with the statistics of training and with new ones.

    The new ones are Algorithm 2's on shifted validation images, their labels unused.
    """
    from bnbook.probes import measurements

    rows = []
    test, labels = split.test
    for shift in arms.SHIFTS:
        moved = shifted(test, shift, config, 1)
        unlabelled = shifted(split.validation[0], shift, config, 2)
        (m,) = config.batch_sizes
        found = batch_statistics(model, unlabelled, m)
        adapted = aggregated(found, arms.ALGORITHM_2)
        for kind, statistics in ((arms.ALGORITHM_2, own), (arms.ADAPTED, adapted)):
            put(model, statistics)
            accuracy = measurements.accuracy(model, moved, labels)
            rows.append({"statistics": kind, "shift": shift, "test_accuracy": accuracy})
    return rows


def shifted(images: Any, shift: str, config: Config, seed: int) -> Any:
    """Return images as another camera would give them; nothing is clipped."""
    import torch

    if shift == "contrast":
        return config.contrast * images
    if shift == "brightness":
        return images + config.brightness
    if shift == "inversion":
        return 1 - images
    drawn = torch.randn(images.shape, generator=torch.Generator().manual_seed(seed))
    return images + config.noise * drawn.to(images)


def _tidy(
    runs: Sequence[Config],
    rows: Sequence[dict[str, Any]],
    diverged: Sequence[int],
    population: int,
) -> list[pd.DataFrame]:
    named = ("statistics", "momentum", "shift")
    blank = {"momentum": math.nan, "shift": arms.NO_SHIFT, "validation_accuracy": math.nan}
    errors = ("mean_error", "variance_error", "variance_ratio")
    last = ("mean_error_last", "variance_error_last")
    blank |= dict.fromkeys((*errors, *last), math.nan)
    tables = []
    for member, run in enumerate(runs):
        own = [{k: v if k in named else float(v[member]) for k, v in row.items()} for row in rows]
        about = {
            "batch_size": run.batch_sizes[0],
            "seed": run.seeds[0],
            "learning_rate": run.learning_rates[0],
            "population": population,
            "examples": run.examples // run.batch_sizes[0] * run.batch_sizes[0],
            "diverged_at": int(diverged[member]),
        }
        tables.append(pd.DataFrame([{**about, **blank, **row} for row in own]))
    return tables


EXPERIMENT = Experiment(
    name="ioffe_inference",
    title="What the statistics for inference cost (Ioffe & Szegedy, section 3.1)",
    profiles=PROFILES,
    axes=("batch_sizes", "seeds", "learning_rates"),
    fused=("seeds", "learning_rates"),
    apart=("seeds",),
    needs={"batch_sizes": (claims.SMALLEST,), "momenta": (claims.MOMENTUM,)},
    train=train,
    columns=COLUMNS,
    claims=claims.CLAIMS,
    facts=claims.facts,
    figures={
        "momentum": lambda table: figures.momentum(claims.at_tuned(table)),
        "variants": lambda table: figures.variants(claims.at_tuned(table), claims.MOMENTUM),
        "shift": lambda table: figures.shift(claims.at_tuned(table)),
    },
)
