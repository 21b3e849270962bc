"""Fine-tuning a BN network: statistics that stand against statistics that move.

A ConvNet is trained on one half of the classes and fine-tuned on few images of the other half, as
they are or with less contrast. BN's statistics move with minibatches of m images, as in training;
or stand as they are; or are estimated once on the new images and then stand. Weights, scales and
shifts learn in all of them, on the same minibatches of SGD, of which m images are normalised
together; the last layer starts anew.

Chosen here: everything. Who fine-tunes detectors freezes BN; see also Wu & Johnson 2021.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd

from bnbook.experiments.experiment import Experiment, check_distinct, check_known, check_positive
from bnbook.experiments.finetune_frozen import claims, figures
from bnbook.experiments.finetune_frozen.claims import (
    ESTIMATED,
    FROZEN,
    MODES,
    MOVING,
    PLAIN,
    TARGETS,
)
from bnbook.setups import convnets
from bnbook.setups.convnets import ConvSetting
from bnbook.tables.arms import ALGORITHM_2, RUNNING
from bnbook.training.session import Session

if TYPE_CHECKING:
    from torch import Tensor, nn

AXES = ("targets", "modes", "batch_sizes", "seeds", "learning_rates")
HALF = 5
"""Classes of the source, and of the target."""


@dataclass(frozen=True, kw_only=True)
class Config(ConvSetting):
    """A `ConvSetting` of the fine-tuning, with the training before it.

    `train_images` counts the images of all classes from which those of either half are taken.
    """

    targets: tuple[str, ...] = TARGETS
    modes: tuple[str, ...] = MODES
    batch_sizes: tuple[int, ...]  # m; statistics that stand have the largest
    source_examples: int  # images seen in training on the source
    source_rate: float = 0.1  # of that training
    target_images: int  # of the target's classes
    contrast: float = 0.3  # factor on the distance from an image's mean

    def __post_init__(self) -> None:
        check_positive(self, (*convnets.SIZES, "source_examples", "target_images"))
        check_distinct(self, AXES)
        check_known(self, "targets", TARGETS)
        check_known(self, "modes", MODES)
        self.check_seeds()
        self.check_together("batch_sizes", self.batch_sizes)


def rounds(config: Config, table: pd.DataFrame) -> list[Config]:
    """Return the single runs that come next; rates are chosen with the running average."""
    table = table if table.empty else table[table["statistics"] == RUNNING]
    cells: dict[tuple[Any, ...], Mapping[str, Any]] = {
        (target, mode, m): {"targets": (target,), "modes": (mode,), "batch_sizes": (m,)}
        for target in config.targets
        for mode in config.modes
        for m in (config.batch_sizes if mode == MOVING else (max(config.batch_sizes),))
    }
    return convnets.rounds(config, table, cells, ("target", "mode", "batch_size"))


def halves(config: Config, target: str, device: Any) -> tuple[Any, Any]:
    """Return the splits of the source and of the target: classes 0 to 4, and 5 to 9 as 0 to 4."""
    found = convnets.splits(config, device)

    def half(part: tuple[Tensor, Tensor], last: bool) -> tuple[Tensor, Tensor]:
        images, labels = part
        of = (labels >= HALF) == last
        images = (
            convnets.faded(images[of], config.contrast) if last and target != PLAIN else images[of]
        )
        return images, labels[of] % HALF

    source, new = (type(found)(*(half(part, last) for part in found)) for last in (False, True))
    return source, new.first(config.target_images, 0)


@functools.lru_cache(maxsize=8)
def _trained(config: Config, seed: int, device: str) -> dict[str, Tensor]:
    """Train one network on the source: its state, without the last layer."""
    import torch

    from bnbook.tables.arms import BN
    from bnbook.training import fit

    split, _ = halves(config, PLAIN, torch.device(device))
    images, labels = split.train
    model = convnets.network(BN, (seed,), images.shape[1], config, config.batch_size, HALF)
    model = model.to(images.device)
    steps = config.source_examples // config.batch_size
    batches, streams = fit.streams(len(labels), config.batch_size, steps, (seed,))
    convnets.train([config], Session(device), model, split.train, batches, streams)
    state: dict[str, Tensor] = model.hidden.state_dict()
    return {name: value.clone() for name, value in state.items()}


def source_of(run: Config) -> Config:
    """Return the config of the training before: the same for all fine-tunings of a setting."""
    from dataclasses import replace

    return replace(
        run, targets=(PLAIN,), modes=(MOVING,), batch_sizes=(run.batch_size,), seeds=(0,),
        learning_rates=(run.source_rate,), tuning_seeds=(),
    )  # fmt: skip


def train(runs: Sequence[Config], session: Session) -> list[pd.DataFrame]:
    """Fine-tune runs that differ in seed and rate as one ensemble, and test them."""
    from bnbook.training import fit

    config, seeds = runs[0], [run.seeds[0] for run in runs]
    (target,), (mode,) = config.targets, config.modes
    device = fit.choose_device(session.device)
    states = [_trained(source_of(config), seed, str(device)) for seed in seeds]
    _, split = halves(config, target, device)
    images, labels = split.train
    model = started(config, seeds, images.shape[1], states).to(device)
    if mode == ESTIMATED:
        convnets.take_population(model, images)
        for layer in convnets.replica_layers(model):
            layer.freeze_at = 0
    batches, streams = fit.streams(len(labels), config.batch_size, config.steps, seeds)
    last = convnets.train(runs, session, model, split.train, batches, streams)
    rows = [{"statistics": RUNNING, **_accuracies(model, split)}]
    if mode == MOVING:
        convnets.take_population(model, images)
        rows.append({"statistics": ALGORITHM_2, **_accuracies(model, split)})
    return [
        convnets.tidy(
            run, rows, last, member, target=target, mode=mode, batch_size=config.batch_sizes[0]
        )
        for member, run in enumerate(runs)
    ]


def started(
    config: Config, seeds: Sequence[int], in_channels: int, states: Sequence[Mapping[str, Tensor]]
) -> nn.Module:
    """Make the members of a fine-tuning: the trained layers, and a last one that starts anew."""
    import torch

    from bnbook.layers import renorm
    from bnbook.networks import models

    (mode,), (m,) = config.modes, config.batch_sizes

    def norm(features: int) -> nn.Module:
        if mode == MOVING:
            return renorm.ReplicaBatchNorm(features, m)
        freeze_at = 0 if mode == FROZEN else sys.maxsize  # until they are estimated
        return renorm.LateFrozenBatchNorm(features, m, freeze_at=freeze_at)

    model = models.ConvNet(
        norm, seeds, in_channels=in_channels, widths=config.widths, num_classes=HALF
    )
    model.hidden.load_state_dict(
        {
            name: torch.cat([state[name] for state in states]) if value.dim() else value
            for name, value in states[0].items()
        }
    )
    return model


def _accuracies(model: Any, split: Any) -> dict[str, Any]:
    from bnbook.probes import measurements

    return {
        "validation_accuracy": measurements.accuracy(model, *split.validation),
        "test_accuracy": measurements.accuracy(model, *split.test),
    }


COLUMNS = {
    "target": "the images of the new classes",
    "mode": "what BN's statistics do in the fine-tuning",
    "batch_size": "images normalised together, m; of no account where statistics stand",
    **convnets.COLUMNS,
    "seed": "of the initial weights and the minibatches, before and in the fine-tuning",
    "learning_rate": "of SGD in the fine-tuning, at its first step",
    "statistics": "with which the fine-tuned network is evaluated",
    "validation_accuracy": "in [0, 1], of the target's",
    "test_accuracy": "in [0, 1], of the target's",
}

EXPERIMENT = Experiment(
    name="finetune_frozen",
    title="Fine-tuning with statistics that stand or move",
    profiles={
        "quick": Config(
            data="mnist5k", seeds=(0, 1, 2), learning_rates=(0.003, 0.01, 0.03, 0.1, 0.3),
            validation=640, train_images=3000, test_images=800, examples=1600, pool=4,
            widths=(8, 16, 16), batch_sizes=(2, 32), source_examples=6400, target_images=400,
        ),
        "standard": Config(
            data="cifar10", seeds=(0, 1, 2, 3, 4), validation=4000, train_images=20_000,
            learning_rates=(0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0), test_images=4000,
            examples=6400, batch_sizes=(2, 32), tuning_seeds=(100, 101),
            source_examples=20_000, target_images=1000,
        ),
    },
    axes=AXES,
    fused=("seeds", "learning_rates"),
    train=train,
    rounds=rounds,
    needs={
        "targets": (PLAIN,), "modes": (FROZEN, MOVING),
        "batch_sizes": (claims.SMALLEST, claims.LARGEST),
    },
    columns=COLUMNS,
    claims=claims.CLAIMS,
    facts=claims.facts,
    figures=figures.FIGURES,
)  # fmt: skip
