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

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from bnbook.errors import BnbookError
from bnbook.experiments import experiment
from bnbook.experiments.ioffe_fig1 import claims, figures
from bnbook.tables.arms import WITH, WITHOUT
from bnbook.training.session import Session

TITLE = "A sigmoid network with and without batch normalisation (Ioffe & Szegedy, figure 1)"

CLAIMS = claims.CLAIMS
FIGURES = {
    "accuracy": lambda table: figures.accuracy(table, claims.tuned_rates(table)),
    "equal_rates": figures.equal_rates,
    "percentiles": lambda table: figures.percentiles(table, claims.tuned_rates(table)),
    "rates": lambda table: figures.rate_map(
        table, claims.tuned_rates(table), claims.MAP_TARGET, claims.FAILED
    ),
}
facts = claims.facts


@dataclass(frozen=True)
class Config:
    """Everything that a run depends on.

    Attributes
    ----------
    data : str
        Name of a data set of 28x28 images (see `bnbook.datasets`).
    steps, batch_size : int
        Length of training, and images in a minibatch.
    validation : int
        Training images set aside to choose learning rates; the split does not depend on the seed.
    seeds : tuple of int
        Each sets the initial weights and the minibatches.
    learning_rates : tuple of float
        The grid, the same for both arms.
    arms : tuple of str
        With and without BN.
    hidden : tuple of int
        Widths of the hidden layers.
    init_std : float
        Standard deviation of the initial weights.
    probe_intervals : int
        The longest gap between measurements is a run's length divided by this.
    probe_images : int
        Validation images through which the sigmoids' inputs are measured, as one batch.
    percentiles : tuple of float
        Levels shown in figure 1(b, c).
    unit : int
        The named unit of the last hidden layer, fixed before any run.
    """

    data: str
    steps: int
    validation: int
    seeds: tuple[int, ...]
    learning_rates: tuple[float, ...] = (
        *(0.01, 0.02, 0.05, 0.1, 0.2, 0.5),
        *(1.0, 2.0, 5.0, 10.0, 20.0, 50.0),
    )
    arms: tuple[str, ...] = (WITHOUT, WITH)
    batch_size: int = 60
    hidden: tuple[int, ...] = (100, 100, 100)
    init_std: float = 0.1
    probe_intervals: int = 50
    probe_images: int = 1000
    percentiles: tuple[float, ...] = (15.0, 50.0, 85.0)
    unit: int = 0


PROFILES: Mapping[str, Config] = {
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
    config = experiment.configure("ioffe_fig1", PROFILES, profile, seed, changes)
    _check(config)
    return config


def _check(config: Config) -> None:
    if claims.COMMON_RATE not in config.learning_rates:
        raise BnbookError(
            f"learning_rates must hold {claims.COMMON_RATE}, the rate of ioffe.fig1.untuned,"
            f" found {config.learning_rates}."
        )
    experiment.check_positive(
        config, ("steps", "batch_size", "validation", "probe_intervals", "probe_images")
    )
    experiment.check_distinct(config, ("seeds", "learning_rates", "arms"))
    if not config.hidden:
        raise BnbookError("hidden must not be empty.")
    if unknown := set(config.arms) - {WITHOUT, WITH}:
        raise BnbookError(f"arms must be among {(WITHOUT, WITH)}, found {sorted(unknown)}.")
    if not 0 <= config.unit < config.hidden[-1]:
        raise BnbookError(f"unit must lie in [0, {config.hidden[-1]}), found {config.unit}.")


def parts(config: Config) -> list[Config]:
    """Return one config for each arm, seed and learning rate."""
    return experiment.single_runs(config, ("arms", "seeds", "learning_rates"))


def fuses(part: Config) -> Config:
    """Return what runs share that train as one ensemble: all but seed and learning rate."""
    return experiment.common(part, ("seeds", "learning_rates"))


def probe_steps(steps: int, intervals: int) -> list[int]:
    """Return the steps measured: 30 % apart early on, then evenly, `intervals` to the whole run."""
    at, step = {0, steps}, 10.0
    while step < steps:
        at.add(round(step))
        step += min(0.3 * step, steps / intervals)
    return sorted(at)


def run(config: Config, device: str = "auto") -> pd.DataFrame:
    """Train every arm, seed and rate of a config.

    Parameters
    ----------
    config : Config
        From `configure`.
    device : str
        ``auto``, ``cpu`` or ``cuda``.

    Returns
    -------
    pandas.DataFrame
        One row per run and step: ``arm``, ``seed``, ``learning_rate``, ``step``, ``loss`` (mean
        training loss since the row before, nats), ``diverged_at`` (step whose loss was not finite,
        -1 for none), ``validation_accuracy``, ``test_accuracy`` (in [0, 1]), ``unit_p15`` ...
        ``unit_p85`` and ``pooled_p15`` ... (percentiles of the input to one named sigmoid of the
        last hidden layer, and to all of that layer), ``movement`` (of the run as a whole:
        `bnbook.probes.measurements.movement`).
    """
    tables = []
    for _, runs in itertools.groupby(parts(config), lambda part: (fuses(part), part.seeds)):
        tables += train(list(runs), Session(device))
    return pd.concat(tables, ignore_index=True)


def train(runs: Sequence[Config], session: Session) -> list[pd.DataFrame]:
    """Train runs that differ in seed and learning rate as one ensemble.

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

    from bnbook.layers import ensemble, norm
    from bnbook.networks import models
    from bnbook.probes import measurements
    from bnbook.training import fit

    config = runs[0]
    if odd := [run for run in runs if fuses(run) != fuses(config)]:
        raise BnbookError(f"runs of one ensemble differ in seed and rate alone, found {odd[0]}.")
    device = fit.choose_device(session.device)
    (train_x, train_y), (valid_x, valid_y), (test_x, test_y) = _splits(config, device)
    seeds = [run.seeds[0] for run in runs]
    model = models.MLP(
        norm.BatchNorm if config.arms[0] == WITH else None,
        seeds=seeds,
        num_inputs=train_x[0].numel(),
        hidden=config.hidden,
        init_std=config.init_std,
    ).to(device)

    def accuracies() -> dict[str, torch.Tensor]:
        return {
            "validation_accuracy": measurements.accuracy(model, valid_x, valid_y),
            "test_accuracy": measurements.accuracy(model, test_x, test_y),
        }

    def sigmoid_inputs() -> dict[str, torch.Tensor]:
        z = measurements.inputs_to(model.nonlinearities[-1], model, valid_x[: config.probe_images])
        units = measurements.percentiles(z, config.percentiles)
        pooled = measurements.percentiles(z.transpose(1, 2).flatten(0, 1), config.percentiles)
        named = zip(config.percentiles, units[:, :, config.unit], pooled, strict=True)
        columns = {
            f"{which}_p{level:g}": value
            for level, unit, pool in named
            for which, value in (("unit", unit), ("pooled", pool))
        }
        return {"tracks": units.transpose(0, 1), **columns}

    distinct = sorted(set(seeds))
    batches = [
        fit.minibatches(len(train_y), config.batch_size, config.steps, seed) for seed in distinct
    ]
    history = fit.fit(
        model,
        train_x,
        train_y,
        torch.stack(batches, 1) if len(distinct) > 1 else batches[0],
        fit.SGD([run.learning_rates[0] for run in runs]),
        ensemble.cross_entropy,
        probes=(accuracies, sigmoid_inputs),
        at=probe_steps(config.steps, config.probe_intervals),
        streams=[distinct.index(seed) for seed in seeds],
        session=session,
    )
    return _tidy(runs, history)


def _splits(config: Config, device: Any) -> list[tuple[Any, Any]]:
    """Training, validation and test images, binary as in the paper, and their labels."""
    import torch

    from bnbook import datasets

    train, test = (datasets.load(config.data, split, device=device) for split in ("train", "test"))
    if not config.probe_images <= config.validation < len(train.labels):
        raise BnbookError(
            f"validation must lie in [probe_images, {len(train.labels)}) for {config.data},"
            f" found {config.validation} with probe_images {config.probe_images}."
        )
    order = torch.randperm(len(train.labels), generator=torch.Generator().manual_seed(0))
    held_out, kept = order[: config.validation], order[config.validation :]
    binary = [(train.images > 0.5).float(), (test.images > 0.5).float()]
    return [
        (binary[0][kept.to(device)], train.labels[kept.to(device)]),
        (binary[0][held_out.to(device)], train.labels[held_out.to(device)]),
        (binary[1], test.labels),
    ]


def _tidy(runs: Sequence[Config], history: list[dict[str, Any]]) -> list[pd.DataFrame]:
    import torch

    from bnbook.probes import measurements

    steps = torch.stack([row.pop("step") for row in history])
    tracks = torch.stack([row.pop("tracks") for row in history])
    moved = measurements.movement(tracks.transpose(1, 2), steps.to(tracks.device))
    columns = {name: torch.stack([row[name] for row in history]).cpu() for name in history[0]}
    return [
        pd.DataFrame(
            {
                "arm": run.arms[0],
                "seed": run.seeds[0],
                "learning_rate": run.learning_rates[0],
                "step": steps.numpy(),
                **{name: column[:, member].double().numpy() for name, column in columns.items()},
                "movement": moved[member].item(),
            }
        ).astype({"diverged_at": int})
        for member, run in enumerate(runs)
    ]
