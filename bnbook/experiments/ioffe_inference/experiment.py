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

import functools
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import pandas as pd

from bnbook.errors import BnbookError
from bnbook.experiments import experiment
from bnbook.experiments.ioffe_inference import claims, figures
from bnbook.tables import arms
from bnbook.training.session import Session

TITLE = "What the statistics for inference cost (Ioffe & Szegedy, section 3.1)"

CLAIMS = claims.CLAIMS
FIGURES = {
    "momentum": lambda table: figures.momentum(claims.at_tuned(table)),
    "variants": lambda table: figures.variants(claims.at_tuned(table), claims.MOMENTUM),
    "shift": lambda table: figures.shift(claims.at_tuned(table)),
}
facts = claims.facts


class Moments(NamedTuple):
    """Mean and variance of a BN layer's features, and of how many values each."""

    mean: Any
    var: Any
    values: int


Statistics = list[Moments]
"""Of each BN layer, first layer first."""


@dataclass(frozen=True)
class Config:
    """Everything that a run depends on.

    Attributes
    ----------
    data : str
        Name of a data set of images (see `bnbook.datasets`).
    examples : int
        Images seen in training, repetitions counted: steps times batch size.
    validation : int
        Training images set aside; the split does not depend on the seed.
    seeds : tuple of int
        Each sets the initial weights and the minibatches.
    learning_rates : tuple of float
        The grid, the same for all batch sizes.
    batch_sizes : tuple of int
        m.
    momenta : tuple of float
        Of the running averages, weight of the new batch.
    population : int
        Training images that the frozen network's statistics are averaged over, at most.
    widths : tuple of int
        Channels of the blocks.
    pool : int
        Side of the squares that images are averaged over.
    contrast, brightness, noise : float
        Of the shifted images: factor on the intensities, constant added to them, and standard
        deviation of Gaussian noise.
    """

    data: str
    examples: int
    validation: int
    seeds: tuple[int, ...]
    learning_rates: tuple[float, ...] = (0.03, 0.1, 0.3, 1.0)
    batch_sizes: tuple[int, ...] = (2, 4, 8, 16, 64)
    momenta: tuple[float, ...] = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
    population: int = 6000
    widths: tuple[int, ...] = (16, 32, 32)
    pool: int = 4
    contrast: float = 0.3
    brightness: float = 0.5
    noise: float = 0.5


PROFILES: Mapping[str, Config] = {
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


def configure(profile: str, seed: int = 0, **changes: Any) -> Config:
    """Return a profile's config, with changes, its data chosen and its fields checked.

    Parameters
    ----------
    profile : str
        ``quick`` or ``standard``.
    seed : int
        Added to every seed, for runs that no record holds.
    **changes
        Fields of `Config` to replace; None leaves a field as it is.

    Returns
    -------
    Config
        Where `data` names several sets ("a or b"), the largest that this machine has.

    Raises
    ------
    BnbookError
        When the profile or a field is unknown, or a value is impossible.
    """
    config = experiment.configure("ioffe_inference", PROFILES, profile, seed, changes)
    experiment.check_positive(config, ("examples", "validation", "pool", "population"))
    experiment.check_distinct(config, ("seeds", "learning_rates", "batch_sizes", "momenta"))
    _check(config)
    return config


def _check(config: Config) -> None:
    if min(config.batch_sizes) != claims.SMALLEST:
        raise BnbookError(
            f"batch_sizes must hold {claims.SMALLEST}, the batch size of"
            f" ioffe.sec3_1.inference_gap, and none below, found {config.batch_sizes}."
        )
    if claims.MOMENTUM not in config.momenta or min(config.momenta) <= 0:
        raise BnbookError(
            f"momenta must hold {claims.MOMENTUM}, torch's default, and be above 0, found"
            f" {config.momenta}."
        )
    if max(config.momenta) > 1:
        raise BnbookError(f"momenta must be at most 1, found {config.momenta}.")
    most = min(config.examples, config.validation, config.population)
    if max(config.batch_sizes) > most:
        raise BnbookError(
            f"batch_sizes must be at most examples, validation and population, found"
            f" {config.batch_sizes} and {most}."
        )


def parts(config: Config) -> list[Config]:
    """Return one config for each batch size, seed and learning rate."""
    return experiment.single_runs(config, ("batch_sizes", "seeds", "learning_rates"))


def fuses(part: Config) -> Config:
    """Return what runs share that train as one ensemble: all but seed and learning rate."""
    return experiment.common(part, ("seeds", "learning_rates"))


def run(config: Config, device: str = "auto") -> pd.DataFrame:
    """Train every batch size, seed and rate of a config, and exchange the statistics.

    Parameters
    ----------
    config : Config
        From `configure`.
    device : str
        ``auto``, ``cpu`` or ``cuda``.

    Returns
    -------
    pandas.DataFrame
        One row per run, statistics and shift: ``batch_size``, ``seed``, ``learning_rate``,
        ``examples`` (seen in training), ``population`` (images averaged over), ``diverged_at``
        (step, -1 for none), ``statistics`` (names in `bnbook.tables.arms`),
        ``momentum`` (of a running average, else NaN), ``shift`` of the test images,
        ``test_accuracy``, ``validation_accuracy`` (in [0, 1]; the latter for torch's default
        momentum alone) and, against the statistics of all images averaged over as one minibatch,
        ``mean_error`` (root mean square over the first layer's features, in standard deviations),
        ``variance_error`` (the same, relative), ``variance_ratio`` (mean of the ratios), and
        ``mean_error_last``, ``variance_error_last`` of the last BN layer.
    """
    tables = []
    for _, runs in itertools.groupby(parts(config), lambda part: (fuses(part), part.seeds)):
        tables += train(list(runs), Session(device))
    return pd.concat(tables, ignore_index=True)


def train(runs: Sequence[Config], session: Session) -> list[pd.DataFrame]:
    """Train runs that differ in seed and learning rate as one ensemble, and measure them.

    Parameters
    ----------
    runs : sequence of Config
        Of `parts`, equal under `fuses`.
    session : Session
        Device, plan, checkpoint, deadline and progress.

    Returns
    -------
    list of pandas.DataFrame
        The rows of each run, as `run` describes them.

    Raises
    ------
    BnbookError
        When runs do not fuse.
    """
    import torch

    from bnbook.layers import ensemble
    from bnbook.networks import models
    from bnbook.training import fit

    config = runs[0]
    if odd := [run for run in runs if fuses(run) != fuses(config)]:
        raise BnbookError(f"runs of one ensemble differ in seed and rate alone, found {odd[0]}.")
    device = fit.choose_device(session.device)
    splits = _splits(config, device)
    images, labels = splits["train"]
    seeds, (m,) = [run.seeds[0] for run in runs], config.batch_sizes
    model = models.ConvNet(
        _tracking(config.momenta), seeds, in_channels=images.shape[1], widths=config.widths
    ).to(device)
    distinct, steps = sorted(set(seeds)), config.examples // m
    batches = [fit.minibatches(len(labels), m, steps, seed) for seed in distinct]
    history = fit.fit(
        model,
        images,
        labels,
        torch.stack(batches, 1) if len(distinct) > 1 else batches[0],
        fit.SGD([run.learning_rates[0] for run in runs]),
        ensemble.cross_entropy,
        streams=[distinct.index(seed) for seed in seeds],
        drop=False,
        session=session,
    )
    with torch.no_grad():
        rows = _measure(model, splits, config)
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


def _splits(config: Config, device: Any) -> dict[str, tuple[Any, Any]]:
    """Training, validation and test images with their labels."""
    import torch

    train, test = _loaded(config.data, config.pool, str(device))
    if config.validation >= len(train.labels):
        raise BnbookError(
            f"validation must lie in [1, {len(train.labels)}) for {config.data}, found"
            f" {config.validation}."
        )
    order = torch.randperm(len(train.labels), generator=torch.Generator().manual_seed(0))
    held_out, kept = order[: config.validation].to(device), order[config.validation :].to(device)
    return {
        "train": (train.images[kept], train.labels[kept]),
        "validation": (train.images[held_out], train.labels[held_out]),
        "test": (test.images, test.labels),
    }


@functools.lru_cache(maxsize=1)
def _loaded(data: str, pool: int, device: str) -> tuple[Any, Any]:
    """Both splits, images averaged over squares; the last asked for is kept for the next run."""
    from torch.nn import functional

    from bnbook import datasets

    train, test = (datasets.load(data, split, device=device) for split in ("train", "test"))
    pooled = [
        split._replace(images=functional.avg_pool2d(split.images, pool)) for split in (train, test)
    ]
    return pooled[0], pooled[1]


def norms_of(model: Any) -> list[Any]:
    """Return the BN layers of a ConvNet, first layer first."""
    return [layer for layer in model.hidden if hasattr(layer, "running_mean")]


def batch_statistics(model: Any, images: Any, m: int) -> Statistics:
    """Mean and biased variance of every minibatch at every BN layer, the network in training.

    The images are cut into minibatches in their order; a last, incomplete one is left out. All go
    through the network side by side; nothing in it changes.

    Parameters
    ----------
    model : bnbook.networks.models.ConvNet
        Of E members.
    images : Tensor, (N, C, H, W)
        At least m.
    m : int
        At least 2.

    Returns
    -------
    list of Moments
        One for each BN layer, mean and variance of shape (N // m, E*C).
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
    """Make one mean and variance of those of many minibatches.

    Parameters
    ----------
    statistics : list of Moments
        From `batch_statistics`.
    kind : str
        Of `bnbook.tables.arms`: ``ALGORITHM_2`` (m'/(m'-1) times the mean variance),
        ``NO_FACTOR``, ``POOLED`` (the variance of the batch means added instead) or ``BOTH``.

    Returns
    -------
    list of Moments
        Mean and variance of shape (E*C,).
    """
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
    """Algorithm 2 with the BN layers below already replaced by their maps.

    Parameters
    ----------
    model, images, m
        As for `batch_statistics`.

    Returns
    -------
    list of Moments
        Mean and variance of shape (E*C,).
    """
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


def _measure(
    model: Any, splits: Mapping[str, tuple[Any, Any]], config: Config
) -> list[dict[str, Any]]:
    """Evaluate the frozen members with every kind of statistics; values of a row are (E,)."""
    from bnbook.probes import measurements

    (m,), images = config.batch_sizes, splits["train"][0][: config.population]
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
                "test_accuracy": measurements.accuracy(model, *splits["test"]),
                **_errors(own, whole, model.members),
            }
        )
        if momentum == claims.MOMENTUM:
            rows[-1]["validation_accuracy"] = measurements.accuracy(model, *splits["validation"])
    found = batch_statistics(model, images, m)
    kinds = (arms.ALGORITHM_2, arms.NO_FACTOR, arms.POOLED, arms.BOTH)
    made = {kind: aggregated(found, kind) for kind in kinds}
    made |= {arms.LAYER_BY_LAYER: layer_by_layer(model, images, m), arms.WHOLE: whole}
    for kind, statistics in made.items():
        put(model, statistics)
        accuracy = measurements.accuracy(model, *splits["test"])
        errors = _errors(statistics, whole, model.members)
        rows.append({"statistics": kind, "test_accuracy": accuracy, **errors})
    rows += _with_own_statistics(model, *splits["test"], m)
    return rows + _shifted(model, splits, config, made[arms.ALGORITHM_2])


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


def _shifted(
    model: Any, splits: Mapping[str, tuple[Any, Any]], config: Config, own: Statistics
) -> list[dict[str, Any]]:
    """Evaluate on shifted test images, with the statistics of training and with new ones.

    The new ones are Algorithm 2's on shifted validation images, their labels unused.
    """
    from bnbook.probes import measurements

    rows = []
    test, labels = splits["test"]
    for shift in arms.SHIFTS:
        moved = shifted(test, shift, config, 1)
        unlabelled = shifted(splits["validation"][0], shift, config, 2)
        (m,) = config.batch_sizes
        found = batch_statistics(model, unlabelled, m)
        adapted = aggregated(found, arms.ALGORITHM_2)
        for kind, statistics in ((arms.ALGORITHM_2, own), (arms.ADAPTED, adapted)):
            put(model, statistics)
            accuracy = measurements.accuracy(model, moved, labels)
            rows.append({"statistics": kind, "shift": shift, "test_accuracy": accuracy})
    return rows


def shifted(images: Any, shift: str, config: Config, seed: int) -> Any:
    """Return images as another camera would give them; nothing is clipped.

    Parameters
    ----------
    images : Tensor
        In [0, 1].
    shift : str
        ``contrast``, ``brightness``, ``noise`` or ``inversion``.
    config : Config
        Their sizes.
    seed : int
        Of the noise.

    Returns
    -------
    Tensor
    """
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
