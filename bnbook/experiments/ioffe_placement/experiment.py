"""Ioffe & Szegedy 2015, section 3.2: BN before or after the nonlinearity.

The network of the paper's figure 1 with logistic units, and the same with ReLU: BN right before
each nonlinearity, where the paper puts it, or right after. Both placements have the same grid of
learning rates, the same seeds, initial weights and minibatches; each one's rate is the one with the
best final validation accuracy. The paper gives a reason and shows no comparison; its reason, that
Wu is more symmetric, less sparse and more Gaussian than u, is measured in the trained networks.

Chosen here: plain SGD, the grid, He's initial weights for ReLU, a bias where BN comes after.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from bnbook.errors import BnbookError
from bnbook.experiments.experiment import Experiment, check_distinct, check_positive
from bnbook.experiments.ioffe_placement import claims, figures
from bnbook.setups import images
from bnbook.tables import right
from bnbook.tables.arms import AFTER, RELU, SIGMOID, WITH
from bnbook.training.session import Session


@dataclass(frozen=True, kw_only=True)
class Config(images.SigmoidSetting):
    """Everything that a run depends on; `init_std` is of the sigmoid network alone."""

    learning_rates: tuple[float, ...] = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
    nonlinearities: tuple[str, ...] = (SIGMOID, RELU)
    arms: tuple[str, ...] = (WITH, AFTER)  # BN before and after the nonlinearity

    def __post_init__(self) -> None:
        check_positive(self, ("steps", "batch_size", "validation", "probe_images"))
        check_distinct(self, ("seeds", "learning_rates", "arms", "nonlinearities"))
        for name, known in (("arms", (WITH, AFTER)), ("nonlinearities", (SIGMOID, RELU))):
            if unknown := set(getattr(self, name)) - set(known):
                raise BnbookError(f"{name} must be among {known}, found {sorted(unknown)}.")
        if len(self.hidden) < 2:
            raise BnbookError(
                f"hidden must have two or more layers, so that one has another's output as its u,"
                f" found {self.hidden}."
            )


PROFILES = {
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

_SHAPES = {
    "skewness": "magnitude of the skewness, median over units",
    "kurtosis": "magnitude of the excess kurtosis, median over units",
    "sparsity": "share of values below a twentieth of their unit's root mean square",
}
COLUMNS = {
    "nonlinearity": "sigmoid or ReLU",
    "arm": "BN before or after the nonlinearity",
    "seed": "of the initial weights and the minibatches",
    "learning_rate": "of SGD",
    "step": "the last one",
    "loss": "mean over training, nats",
    "diverged_at": "step whose loss was not finite, -1 for none",
    "validation_accuracy": "in [0, 1]",
    "test_accuracy": "in [0, 1]",
    **{f"u_{name}": f"of u, the input of hidden layers: {what}" for name, what in _SHAPES.items()},
    **{f"wu_{name}": f"of Wu + b: {what}" for name, what in _SHAPES.items()},
    "right": right.COLUMN,
}


def splits(config: Config, device: Any) -> images.Splits:
    """Load the images, binary as in the paper."""
    return images.splits(
        config.data, config.validation, device, images.binary, least=config.probe_images
    )


def train(runs: Sequence[Config], session: Session) -> list[pd.DataFrame]:
    """Train runs that differ in seed and learning rate as one ensemble."""
    from bnbook.probes import measurements
    from bnbook.training import fit

    config = runs[0]
    split = splits(config, fit.choose_device(session.device))
    x = split.train[0]
    model = _network(config, [run.seeds[0] for run in runs], x[0].numel()).to(x.device)
    probed = split.validation[0][: config.probe_images]
    history = images.train(
        runs, session, model, split, config.batch_size, config.steps,
        probes=(
            images.accuracies(model, split),
            lambda: distributions(model, probed),
            lambda: {"right": measurements.right(model, *split.test)},
        ),
    )  # fmt: skip
    (hits,) = [row.pop("right") for row in history]
    members = [
        {
            "nonlinearity": run.nonlinearities[0],
            "arm": run.arms[0],
            "seed": run.seeds[0],
            "learning_rate": run.learning_rates[0],
        }
        for run in runs
    ]
    found = zip(images.tables(history, members), hits.tolist(), strict=True)
    return [table.assign(right=right.pack(own)) for table, own in found]


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


def distributions(model: Any, images: Any) -> dict[str, Any]:
    """Shapes of the distributions of u and Wu over a batch, hidden layers after the first.

    u is what the linear layer receives, Wu what it hands on. Units of all these layers count
    alike; those that have one value throughout are left out.
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
    """Median magnitude of skewness and excess kurtosis over units, and the share near zero."""
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


EXPERIMENT = Experiment(
    name="ioffe_placement",
    title="BN before or after the nonlinearity (Ioffe & Szegedy, section 3.2)",
    profiles=PROFILES,
    axes=("nonlinearities", "arms", "seeds", "learning_rates"),
    fused=("seeds", "learning_rates"),
    apart=("seeds",),
    needs={"nonlinearities": (SIGMOID, RELU), "arms": (WITH, AFTER)},
    train=train,
    columns=COLUMNS,
    claims=claims.CLAIMS,
    facts=claims.facts,
    figures={
        "rates": lambda table: figures.rates(table, claims.by_nonlinearity(table)),
        "moments": lambda table: figures.moments(
            {name: claims.moments_of(table, name) for name in (SIGMOID, RELU)}
        ),
    },
)
