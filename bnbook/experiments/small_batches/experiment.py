"""Normalisation at small minibatches: BN, its cures, and norms that need no batch.

Small ConvNets with BN, Batch Renormalization, BN frozen late, GroupNorm, LayerNorm and
InstanceNorm, all on the same minibatches of SGD. What varies is how many images of a minibatch are
normalised together, m, as when a minibatch is spread over devices. Each cell, a norm at an m, has a
rate chosen by seeds that are not shown. BN networks are evaluated with three statistics: the
running average, Algorithm 2's, and those of test minibatches of m.

After Wu & Johnson 2021, who hold the minibatch of SGD and vary the normalisation batch; Wu & He
2018 vary both. Chosen here: network, images averaged over squares, momentum, the falling rate, the
steps at which renormalisation's bounds open and BN is frozen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from bnbook.experiments.experiment import (
    Experiment,
    check_distinct,
    check_known,
    check_positive,
)
from bnbook.experiments.small_batches import claims, figures
from bnbook.setups import convnets
from bnbook.setups.convnets import ConvSetting
from bnbook.tables.arms import ALGORITHM_2, BN, LATE_FROZEN, MIXED, RENORM, RUNNING
from bnbook.training.session import Session

AXES = ("arms", "batch_sizes", "seeds", "learning_rates")


@dataclass(frozen=True, kw_only=True)
class Config(ConvSetting):
    """A `ConvSetting` with the norms and the normalisation batch sizes."""

    arms: tuple[str, ...] = convnets.NORMS
    batch_sizes: tuple[int, ...]  # m; norms that need no batch have the largest

    def __post_init__(self) -> None:
        check_positive(self, convnets.SIZES)
        check_distinct(self, AXES)
        check_known(self, "arms", convnets.NORMS)
        self.check_seeds()
        self.check_together("batch_sizes", self.batch_sizes)


def cells(config: Config) -> dict[tuple[str, int], Mapping[str, Any]]:
    """Return what is compared: BN at each m, its cures at the ends, norms of an image once."""
    sizes = config.batch_sizes
    of = {BN: sizes, RENORM: (min(sizes), max(sizes)), LATE_FROZEN: (min(sizes), max(sizes))}
    return {
        (arm, m): {"arms": (arm,), "batch_sizes": (m,)}
        for arm in config.arms
        for m in dict.fromkeys(of.get(arm, (max(sizes),)))
    }


def rounds(config: Config, table: pd.DataFrame) -> list[Config]:
    """Return the single runs that come next; rates are chosen with the running average."""
    table = table if table.empty else table[table["statistics"] == RUNNING]
    return convnets.rounds(config, table, cells(config), ("arm", "batch_size"))


def train(runs: Sequence[Config], session: Session) -> list[pd.DataFrame]:
    """Train runs that differ in seed and rate as one ensemble, and evaluate them."""
    from bnbook.training import fit

    config = runs[0]
    split = convnets.splits(config, fit.choose_device(session.device))
    images, labels = split.train
    seeds, (arm,), (m,) = [run.seeds[0] for run in runs], config.arms, config.batch_sizes
    model = convnets.network(arm, seeds, images.shape[1], config, m).to(images.device)
    batches, streams = fit.streams(len(labels), config.batch_size, config.steps, seeds)
    last = convnets.train(runs, session, model, split.train, batches, streams)
    rows = evaluated(model, split, arm, config)
    return [
        convnets.tidy(
            run, rows, last, member, ("step", "diverged_at", "loss"), arm=arm, batch_size=m
        )
        for member, run in enumerate(runs)
    ]


def evaluated(model: Any, split: Any, arm: str, config: Config) -> list[dict[str, Any]]:
    """Accuracies of the members, (E,) each, with each kind of statistics."""
    from bnbook.probes import measurements

    some = {
        "training": tuple(part[: config.test_images] for part in split.train),
        "validation": split.validation,
        "test": split.test,
    }
    named = {f"{name}_accuracy": data for name, data in some.items()}

    def alone() -> dict[str, Any]:
        return {name: measurements.accuracy(model, *data) for name, data in named.items()}

    rows = [{"statistics": RUNNING, **alone()}]
    if arm != BN:
        return rows
    with_mates = {
        name: measurements.share(convnets.right_with_mates(model, *data))
        for name, data in named.items()
    }
    convnets.take_population(model, split.train[0][: config.test_images])
    return [*rows, {"statistics": MIXED, **with_mates}, {"statistics": ALGORITHM_2, **alone()}]


COLUMNS = {
    "arm": "the normalisation",
    "batch_size": "images normalised together, m; of no account where a norm needs no batch",
    "seed": "of the initial weights and the minibatches",
    "tunes": "whether the seed chooses rates; those that do are shown nowhere",
    "learning_rate": "of SGD, at the first step",
    "step": "steps of the run",
    "diverged_at": "step whose loss was not finite, -1 for none",
    "loss": "mean training loss over all steps, in nats",
    "statistics": "with which the trained network is evaluated: see `bnbook.tables.arms`",
    "training_accuracy": "in [0, 1], of training images as many as test images",
    "validation_accuracy": "in [0, 1]",
    "test_accuracy": "in [0, 1]",
}

EXPERIMENT = Experiment(
    name="small_batches",
    title="Normalisation at small minibatches",
    profiles={
        "quick": Config(
            data="mnist5k", seeds=(0, 1, 2), learning_rates=(0.01, 0.03, 0.1, 0.3, 1.0),
            validation=320, train_images=2000, test_images=640, examples=4000, pool=4,
            widths=(8, 16, 16), batch_sizes=(2, 32),
        ),
        "standard": Config(
            data="cifar10", seeds=(0, 1, 2, 3, 4), validation=2000, train_images=10_000,
            learning_rates=(0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0), test_images=4000,
            examples=20_000, batch_sizes=(2, 4, 8, 32),
        ),
    },
    axes=AXES,
    fused=("seeds", "learning_rates"),
    train=train,
    rounds=rounds,
    needs={"arms": claims.NEEDED, "batch_sizes": (claims.SMALLEST, claims.LARGEST)},
    columns=COLUMNS,
    claims=claims.CLAIMS,
    facts=claims.facts,
    figures=figures.FIGURES,
)  # fmt: skip
