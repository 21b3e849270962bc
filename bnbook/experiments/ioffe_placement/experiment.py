"""Ioffe & Szegedy 2015, section 3.2: BN before or after the nonlinearity.

The network of the paper's figure 1 with logistic units, and the same with ReLU: BN right before
each nonlinearity, where the paper puts it, or right after. Both placements have the same grid of
learning rates, the same seeds, initial weights and minibatches; each one's rate is the one with the
best final validation accuracy. The paper gives a reason and shows no comparison; its reason, that
Wu is more symmetric, less sparse and more Gaussian than u, is measured in the trained networks.

Chosen here: plain SGD, the grid, He's initial weights for ReLU, a bias where BN comes after.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from bnbook.errors import BnbookError
from bnbook.experiments import experiment
from bnbook.experiments.ioffe_placement import claims, figures
from bnbook.tables.arms import AFTER, RELU, SIGMOID, WITH
from bnbook.training.session import Session

TITLE = "BN before or after the nonlinearity (Ioffe & Szegedy, section 3.2)"

CLAIMS = claims.CLAIMS
FIGURES = {
    "rates": lambda table: figures.rates(table, claims.by_nonlinearity(table)),
    "moments": lambda table: figures.moments(
        {name: claims.moments_of(table, name) for name in (SIGMOID, RELU)}
    ),
}
facts = claims.facts


@dataclass(frozen=True)
class Config:
    """Everything that a run depends on.

    Attributes
    ----------
    data : str
        Name of a data set of images (see `bnbook.datasets`).
    steps, batch_size : int
        Length of training, and images in a minibatch.
    validation : int
        Training images set aside to choose learning rates; the split does not depend on the seed.
    seeds : tuple of int
        Each sets the initial weights and the minibatches.
    learning_rates : tuple of float
        The grid, the same for all.
    nonlinearities : tuple of str
        Logistic and ReLU.
    arms : tuple of str
        BN before and after the nonlinearity.
    hidden : tuple of int
        Widths of the hidden layers, two or more.
    init_std : float
        Standard deviation of the sigmoid network's initial weights.
    probe_images : int
        Validation images through which distributions are measured, as one batch.
    """

    data: str
    steps: int
    validation: int
    seeds: tuple[int, ...]
    learning_rates: tuple[float, ...] = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
    nonlinearities: tuple[str, ...] = (SIGMOID, RELU)
    arms: tuple[str, ...] = (WITH, AFTER)
    batch_size: int = 60
    hidden: tuple[int, ...] = (100, 100, 100)
    init_std: float = 0.1
    probe_images: int = 1000


PROFILES: Mapping[str, Config] = {
    "quick": Config(
        data="mnist5k",
        steps=120,
        validation=800,
        seeds=(0, 1, 2),
        learning_rates=(0.1, 0.3, 1.0, 3.0, 10.0),
        probe_images=500,
    ),
    "standard": Config(
        data="mnist or fashion-mnist or mnist5k",
        steps=5000,
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
    config = experiment.configure("ioffe_placement", PROFILES, profile, seed, changes)
    experiment.check_positive(config, ("steps", "batch_size", "validation", "probe_images"))
    experiment.check_distinct(config, ("seeds", "learning_rates", "arms", "nonlinearities"))
    _check(config)
    return config


def _check(config: Config) -> None:
    if set(config.arms) != {WITH, AFTER}:
        raise BnbookError(f"arms must be {(WITH, AFTER)}, found {config.arms}.")
    if set(config.nonlinearities) != {SIGMOID, RELU}:
        raise BnbookError(
            f"nonlinearities must be {(SIGMOID, RELU)}, found {config.nonlinearities}."
        )
    if len(config.hidden) < 2:
        raise BnbookError(
            f"hidden must have two or more layers, so that one has another's output as its u,"
            f" found {config.hidden}."
        )


def parts(config: Config) -> list[Config]:
    """Return one config for each nonlinearity, arm, seed and learning rate."""
    return experiment.single_runs(config, ("nonlinearities", "arms", "seeds", "learning_rates"))


def fuses(part: Config) -> Config:
    """Return what runs share that train as one ensemble: all but seed and learning rate."""
    return experiment.common(part, ("seeds", "learning_rates"))


def run(config: Config, device: str = "auto") -> pd.DataFrame:
    """Train every nonlinearity, arm, seed and rate of a config.

    Parameters
    ----------
    config : Config
        From `configure`.
    device : str
        ``auto``, ``cpu`` or ``cuda``.

    Returns
    -------
    pandas.DataFrame
        One row per run, at its last step: ``nonlinearity``, ``arm``, ``seed``, ``learning_rate``,
        ``step``, ``loss`` (mean over training, nats), ``diverged_at`` (step whose loss was not
        finite, -1 for none), ``validation_accuracy``, ``test_accuracy`` (in [0, 1]), and for u, the
        input of a hidden layer after the first, and for Wu (and b, where there is one): ``u_`` and
        ``wu_skewness``, ``kurtosis`` (medians over units of the magnitudes of skewness and excess
        kurtosis) and ``sparsity`` (share of values below a twentieth of their unit's root mean
        square).
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

    from bnbook.layers import ensemble
    from bnbook.probes import measurements
    from bnbook.training import fit

    config = runs[0]
    if odd := [run for run in runs if fuses(run) != fuses(config)]:
        raise BnbookError(f"runs of one ensemble differ in seed and rate alone, found {odd[0]}.")
    device = fit.choose_device(session.device)
    (train_x, train_y), valid, test = _splits(config, device)
    seeds = [run.seeds[0] for run in runs]
    model = _network(config, seeds, train_x[0].numel()).to(device)

    def final() -> dict[str, torch.Tensor]:
        return {
            "validation_accuracy": measurements.accuracy(model, *valid),
            "test_accuracy": measurements.accuracy(model, *test),
            **distributions(model, valid[0][: config.probe_images]),
        }

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
        probes=(final,),
        at=(config.steps,),
        streams=[distinct.index(seed) for seed in seeds],
        session=session,
    )
    return _tidy(runs, history[-1])


def _network(config: Config, seeds: Sequence[int], num_inputs: int) -> Any:
    from torch import nn

    from bnbook.layers import ensemble, norm
    from bnbook.networks import models

    relu = config.nonlinearities[0] == RELU
    return models.MLP(
        norm.BatchNorm,
        seeds,
        num_inputs=num_inputs,
        hidden=config.hidden,
        init_std=ensemble.he if relu else config.init_std,
        nonlinearity=nn.ReLU if relu else nn.Sigmoid,
        after=config.arms[0] == AFTER,
    )


def _splits(config: Config, device: Any) -> list[tuple[Any, Any]]:
    """Training, validation and test images, binary as in the paper's network, and labels."""
    import torch

    train, test = _loaded(config.data, str(device))
    if not config.probe_images <= config.validation < len(train.labels):
        raise BnbookError(
            f"validation must lie in [probe_images, {len(train.labels)}) for {config.data},"
            f" found {config.validation} with probe_images {config.probe_images}."
        )
    order = torch.randperm(len(train.labels), generator=torch.Generator().manual_seed(0))
    held_out, kept = order[: config.validation].to(device), order[config.validation :].to(device)
    return [
        (train.images[kept], train.labels[kept]),
        (train.images[held_out], train.labels[held_out]),
        (test.images, test.labels),
    ]


@functools.lru_cache(maxsize=1)
def _loaded(data: str, device: str) -> tuple[Any, Any]:
    """Both splits, images binary; the last asked for is kept for the next run."""
    from bnbook import datasets

    train, test = (datasets.load(data, split, device=device) for split in ("train", "test"))
    binary = [split._replace(images=(split.images > 0.5).float()) for split in (train, test)]
    return binary[0], binary[1]


def distributions(model: Any, images: Any) -> dict[str, Any]:
    """Shapes of the distributions of u and Wu over a batch, hidden layers after the first.

    u is what the linear layer receives, Wu what it hands on. Units of all these layers count
    alike; those that have one value throughout are left out.

    Parameters
    ----------
    model : bnbook.networks.models.MLP
        Of E members.
    images : Tensor, (N, ...)
        The batch, through the network as in training.

    Returns
    -------
    dict
        ``u_skewness`` to ``wu_sparsity``, (E,) each.
    """
    import torch

    from bnbook.layers.ensemble import Linear
    from bnbook.probes import measurements

    layers = model.layers()
    linear = [at for at, layer in enumerate(layers) if isinstance(layer, Linear)][1:-1]
    taken = {"u": linear, "wu": [at + 1 for at in linear]}
    found = {}
    for name, places in taken.items():
        values = [measurements.inputs_to(layers[at], model, images) for at in places]
        for moment, value in shape_of(torch.cat(values, -1)).items():
            found[f"{name}_{moment}"] = value
    return found


def shape_of(values: Any) -> dict[str, Any]:
    """Median magnitude of skewness and excess kurtosis over units, and the share near zero.

    Parameters
    ----------
    values : Tensor, (N, E, C)
        Of C units of E members.

    Returns
    -------
    dict
        ``skewness``, ``kurtosis``, ``sparsity``, (E,) each. A Gaussian of mean zero has 0, 0 and
        0.04.
    """
    values = values.double()
    centred = values - values.mean(0)
    variance = centred.square().mean(0)
    skewness = (centred**3).mean(0) / variance**1.5
    kurtosis = (centred**4).mean(0) / variance**2 - 3
    near = values.abs() < 0.05 * values.square().mean(0).sqrt()
    share = near.double().mean(0)
    flat = variance <= 1e-12
    return {
        "skewness": skewness.abs().masked_fill(flat, float("nan")).nanmedian(-1).values,
        "kurtosis": kurtosis.abs().masked_fill(flat, float("nan")).nanmedian(-1).values,
        "sparsity": share.masked_fill(flat, float("nan")).nanmean(-1),
    }


def _tidy(runs: Sequence[Config], row: dict[str, Any]) -> list[pd.DataFrame]:
    step = int(row.pop("step"))
    columns = {name: values.cpu().double().tolist() for name, values in row.items()}
    return [
        pd.DataFrame(
            [
                {
                    "nonlinearity": run.nonlinearities[0],
                    "arm": run.arms[0],
                    "seed": run.seeds[0],
                    "learning_rate": run.learning_rates[0],
                    "step": step,
                    **{name: values[member] for name, values in columns.items()},
                }
            ]
        ).astype({"diverged_at": int})
        for member, run in enumerate(runs)
    ]
