"""What an image is worth to BN: statistics over positions, over one of them, and without any.

A ConvNet's channel has a value at every position of an image, a unit of a fully connected network
has one. So a minibatch of m images is more draws for the ConvNet's statistics; how many more is
measured by `bnbook.probes.draws`. Whether it matters is asked in two ways. Both networks train with
m images normalised together, m from 2 to the whole minibatch. And the same ConvNet trains with
statistics over one position of each image, drawn anew at each step: then it has as few draws as the
fully connected network, and nothing else is changed.

All are evaluated with the statistics of one large minibatch of training images, so that what is
compared is what training made of the weights. The minibatches of SGD are the same for all, and each
cell's rate is chosen by seeds that are not shown. Chosen here: everything; the ConvNet, the images
and the training are those of `small_batches`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from bnbook.experiments.experiment import Experiment, check_distinct, check_known, check_positive
from bnbook.experiments.positions import claims, figures
from bnbook.setups import convnets
from bnbook.setups.convnets import ConvSetting
from bnbook.tables import right
from bnbook.training.session import Session

AXES = ("arms", "batch_sizes", "seeds", "learning_rates")


@dataclass(frozen=True, kw_only=True)
class Config(ConvSetting):
    """A `ConvSetting` with the networks and the normalisation batch sizes.

    Attributes
    ----------
    arms : tuple of str
        The networks.
    batch_sizes : tuple of int
        Images normalised together, m.
    hidden : tuple of int
        Widths of the fully connected network, which has as many layers as the ConvNet.
    """

    arms: tuple[str, ...] = claims.ARMS
    batch_sizes: tuple[int, ...]
    hidden: tuple[int, ...] = (256, 256, 256)

    def __post_init__(self) -> None:
        """Refuse impossible values."""
        check_positive(self, convnets.SIZES)
        check_distinct(self, AXES)
        check_known(self, "arms", claims.ARMS)
        self.check_seeds()
        self.check_together("batch_sizes", self.batch_sizes)


def rounds(config: Config, table: pd.DataFrame) -> list[Config]:
    """Return the single runs that come next."""
    cells: dict[tuple[Any, ...], Mapping[str, Any]] = {
        (arm, m): {"arms": (arm,), "batch_sizes": (m,)}
        for arm in config.arms
        for m in config.batch_sizes
    }
    return convnets.rounds(config, table, cells, ("arm", "batch_size"))


def network(config: Config, seeds: Sequence[int], shape: Sequence[int]) -> Any:
    """Make the networks of a single run's arm for images of this shape, (C, H, W)."""
    import functools
    import math

    from torch import nn

    from bnbook.experiments.positions.layer import OnePositionBatchNorm
    from bnbook.layers import ensemble
    from bnbook.layers.renorm import ReplicaBatchNorm
    from bnbook.networks import models

    (arm,), (m,) = config.arms, config.batch_sizes
    layer = OnePositionBatchNorm if arm == claims.ONE_POSITION else ReplicaBatchNorm
    norm = functools.partial(layer, batch_size=m)
    if arm == claims.CONNECTED:
        return models.MLP(
            norm, seeds, num_inputs=math.prod(shape), hidden=config.hidden,
            init_std=ensemble.he, nonlinearity=nn.ReLU,
        )  # fmt: skip
    return models.ConvNet(norm, seeds, in_channels=shape[0], widths=config.widths)


def train(runs: Sequence[Config], session: Session) -> list[pd.DataFrame]:
    """Train runs that differ in seed and rate as one ensemble, and evaluate them."""
    from bnbook.training import fit

    config = runs[0]
    split = convnets.splits(config, fit.choose_device(session.device))
    images, labels = split.train
    seeds, (arm,), (m,) = [run.seeds[0] for run in runs], config.arms, config.batch_sizes
    model = network(config, seeds, images.shape[1:]).to(images.device)
    batches, streams = fit.streams(len(labels), config.batch_size, config.steps, seeds)
    last = convnets.train(runs, session, model, split.train, batches, streams)
    found, trained = evaluated(model, split, config), ("step", "diverged_at", "loss")
    return [
        convnets.tidy(run, rows(found, run, member), last, member, trained, arm=arm, batch_size=m)
        for member, run in enumerate(runs)
    ]


def evaluated(model: Any, split: Any, config: Config) -> list[dict[str, Any]]:
    """Evaluate with the statistics of one large minibatch: a row for each normalised layer.

    Accuracies, (E,), are of the whole network and the same in all rows; ``right`` is (E, N).
    """
    from bnbook.probes import measurements
    from bnbook.probes.draws import draws

    images = split.train[0][: config.test_images]
    layers = convnets.replica_layers(model)
    for layer in layers:
        layer.batch_size, layer.one_position = len(images), False
    convnets.take_population(model, images, len(images))
    some = {
        "training": tuple(part[: config.test_images] for part in split.train),
        "validation": split.validation,
        "test": split.test,
    }
    hits = {name: measurements.right(model, *data) for name, data in some.items()}
    shares = {f"{name}_accuracy": measurements.share(each) for name, each in hits.items()}
    return [
        {
            "layer": at,
            "draws_of_mean": worth.mean.view(model.members, -1).nanmedian(1).values,
            "draws_of_variance": worth.variance.view(model.members, -1).nanmedian(1).values,
            **shares,
            "right": hits["test"],
        }
        for at, worth in enumerate(draws(model, layers, images), start=1)
    ]


def rows(found: Sequence[Mapping[str, Any]], run: Config, member: int) -> list[dict[str, Any]]:
    """Return a member's rows; the first says which test images were right, if its run is shown."""
    shown = run.seeds[0] not in run.tuning_seeds
    packed = right.pack(found[0]["right"][member].tolist()) if shown else ""
    return [{**row, "right": packed if row["layer"] == 1 else ""} for row in found]


COLUMNS = {
    "arm": "the network, and over what its statistics are taken",
    "batch_size": "images normalised together, m",
    "seed": "of the initial weights and the minibatches",
    "tunes": "whether the seed chooses rates; those that do are shown nowhere",
    "learning_rate": "of SGD, at the first step",
    "step": "steps of the run",
    "diverged_at": "step whose loss was not finite, -1 for none",
    "loss": "mean training loss over all steps, in nats",
    "layer": "normalised layer, from 1; accuracies are of the whole network",
    "draws_of_mean": "independent draws that an image is worth to a channel's mean, median over the"
    " layer's channels",
    "draws_of_variance": "the same for its variance",
    "training_accuracy": "in [0, 1], of training images as many as test images",
    "validation_accuracy": "in [0, 1]",
    "test_accuracy": "in [0, 1]",
    "right": "in a shown run's first row, which test images were right; see `bnbook.tables.right`",
}

EXPERIMENT = Experiment(
    name="positions",
    title="What an image is worth to BN's statistics",
    profiles={
        "quick": Config(
            data="mnist5k", seeds=(0, 1, 2), learning_rates=(0.01, 0.03, 0.1, 0.3, 1.0),
            validation=320, train_images=2000, test_images=640, examples=4000, pool=4,
            widths=(8, 16, 16), hidden=(32, 32, 32), batch_sizes=(2, 8, 32),
        ),
        "standard": Config(
            data="cifar10", seeds=(0, 1, 2, 3, 4), validation=2000, train_images=10_000,
            tuning_seeds=(100, 101, 102),
            learning_rates=(0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0),
            test_images=4000, examples=20_000, batch_sizes=(2, 4, 8, 32),
        ),
    },
    axes=AXES,
    fused=("seeds", "learning_rates"),
    train=train,
    rounds=rounds,
    needs={"arms": claims.ARMS, "batch_sizes": (claims.SMALLEST, claims.FEW, claims.LARGEST)},
    columns=COLUMNS,
    claims=claims.CLAIMS,
    facts=claims.facts,
    figures=figures.FIGURES,
)  # fmt: skip
