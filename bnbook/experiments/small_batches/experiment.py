"""Normalisation at small minibatches: BN, its cures, and norms that need no batch.

Small ConvNets with BN, Batch Renormalization, BN frozen late, GroupNorm, LayerNorm and
InstanceNorm, all on the same minibatches of SGD. What varies is how many images of a minibatch are
normalised together, m, as when a minibatch is spread over devices. Each cell, a norm at an m, has a
rate chosen by seeds that are not shown, and so has GroupNorm its number of groups: LayerNorm is the
same layer with one group, InstanceNorm with as many as there are channels. BN networks are
evaluated with three statistics: the running average, Algorithm 2's, and those of test minibatches
of m.

After Wu & Johnson 2021, who hold the minibatch of SGD and vary the normalisation batch; Wu & He
2018 vary both. Chosen here: network, images averaged over squares, momentum, the falling rate, the
steps at which renormalisation's bounds open and BN is frozen.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from bnbook.errors import BnbookError
from bnbook.experiments.experiment import (
    Experiment,
    check_distinct,
    check_known,
    check_positive,
)
from bnbook.experiments.small_batches import claims, figures
from bnbook.setups import convnets
from bnbook.setups.convnets import ConvSetting
from bnbook.tables import right
from bnbook.tables.arms import (
    ALGORITHM_2,
    BN,
    GROUP_NORM,
    INSTANCE_NORM,
    LATE_FROZEN,
    LAYER_NORM,
    MIXED,
    RENORM,
    RUNNING,
)
from bnbook.training.session import Session

AXES = ("arms", "batch_sizes", "seeds", "learning_rates")


@dataclass(frozen=True, kw_only=True)
class Config(ConvSetting):
    """A `ConvSetting` with the norms and the normalisation batch sizes.

    Each arm of GroupNorm has a number of groups of its own, in place of ``groups``.
    """

    arms: tuple[str, ...] = claims.ARMS
    batch_sizes: tuple[int, ...]  # m; norms that need no batch have the largest

    def __post_init__(self) -> None:
        check_positive(self, convnets.SIZES)
        check_distinct(self, AXES)
        check_known(self, "arms", claims.ARMS)
        self.check_seeds()
        self.check_together("batch_sizes", self.batch_sizes)
        for arm in set(self.arms) & set(claims.GROUPS):
            if odd := [width for width in self.widths if width % claims.GROUPS[arm]]:
                raise BnbookError(
                    f"widths must be multiples of the groups of {arm!r}, found {odd[0]}."
                )


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


def network(arm: str, seeds: Sequence[int], in_channels: int, config: Config, m: int) -> Any:
    """Make an arm's networks, of GroupNorm with the arm's number of groups."""
    if arm in claims.GROUPS:
        arm, config = GROUP_NORM, replace(config, groups=claims.GROUPS[arm])
    return convnets.network(arm, seeds, in_channels, config, m)


def train(runs: Sequence[Config], session: Session) -> list[pd.DataFrame]:
    """Train runs that differ in seed and rate as one ensemble, and evaluate them."""
    from bnbook.training import fit

    config = runs[0]
    split = convnets.splits(config, fit.choose_device(session.device))
    images, labels = split.train
    seeds, (arm,), (m,) = [run.seeds[0] for run in runs], config.arms, config.batch_sizes
    model = network(arm, seeds, images.shape[1], config, m).to(images.device)
    batches, streams = fit.streams(len(labels), config.batch_size, config.steps, seeds)
    last = convnets.train(runs, session, model, split.train, batches, streams)
    rows, trained = evaluated(model, split, arm, config), ("step", "diverged_at", "loss")
    return [
        convnets.tidy(run, kept(rows, run, member), last, member, trained, arm=arm, batch_size=m)
        for member, run in enumerate(runs)
    ]


def kept(rows: Sequence[Mapping[str, Any]], run: Config, member: int) -> list[dict[str, Any]]:
    """Return the rows with which test images a member has right, if its run is shown."""
    tunes = run.seeds[0] in run.tuning_seeds
    return [
        {**row, "right": "" if tunes else right.pack(row["right"][member].tolist())} for row in rows
    ]


def evaluated(model: Any, split: Any, arm: str, config: Config) -> list[dict[str, Any]]:
    """Accuracies of the members, (E,) each, with each kind of statistics; ``right`` is (E, N)."""
    from bnbook.probes import measurements

    some = {
        "training": tuple(part[: config.test_images] for part in split.train),
        "validation": split.validation,
        "test": split.test,
    }

    def row(statistics: str, hits: Callable[..., Any] = measurements.right) -> dict[str, Any]:
        found = {name: hits(model, *data) for name, data in some.items()}
        shares = {f"{name}_accuracy": measurements.share(each) for name, each in found.items()}
        return {"statistics": statistics, **shares, "right": found["test"]}

    rows = [row(RUNNING)]
    if arm != BN:
        return rows
    rows.append(row(MIXED, convnets.right_with_mates))
    convnets.take_population(model, split.train[0][: config.test_images])
    return [*rows, row(ALGORITHM_2)]


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
    "right": "of a seed that is shown, which test images were right; see `bnbook.tables.right`",
}

EXPERIMENT = Experiment(
    name="small_batches",
    title="Normalisation at small minibatches",
    profiles={
        "quick": Config(
            data="mnist5k", seeds=(0, 1, 2), learning_rates=(0.01, 0.03, 0.1, 0.3, 1.0),
            validation=320, train_images=2000, test_images=640, examples=4000, pool=4,
            widths=(8, 16, 16), batch_sizes=(2, 32),
            arms=(*claims.NEEDED, LAYER_NORM, INSTANCE_NORM),
        ),
        "standard": Config(
            data="cifar10", seeds=(0, 1, 2, 3, 4), validation=2000, train_images=10_000,
            tuning_seeds=(100, 101, 102),
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
