"""Small ConvNets with one or another normalisation; seeds of their own choose each cell's rate.

A cell is what is compared: an arm, at a normalisation batch size. Its rate is climbed to: the three
rates in the middle of the grid first, then on from the best while that is the last one tried, by
the mean validation accuracy of the tuning seeds; of equals the smallest is taken. The judging seeds
run at that rate alone and choose nothing.

All train with SGD with momentum, at a rate that falls in a straight line to nearly 0.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pandas as pd

from bnbook.errors import BnbookError
from bnbook.setups import images as setup
from bnbook.setups.images import ImageSetting, Splits
from bnbook.tables import choosing
from bnbook.tables.arms import BN, GROUP_NORM, INSTANCE_NORM, LATE_FROZEN, LAYER_NORM, RENORM
from bnbook.training.session import Session

if TYPE_CHECKING:
    from torch import Tensor, nn

SCORE = "validation_accuracy"
NORMS = (BN, RENORM, LATE_FROZEN, GROUP_NORM, LAYER_NORM, INSTANCE_NORM)
"""Arms that `network` makes."""
_BY_NAME = {GROUP_NORM: "group", LAYER_NORM: "layer", INSTANCE_NORM: "instance"}


@dataclass(frozen=True, kw_only=True)
class ConvSetting(ImageSetting):
    """What the training of a small ConvNet depends on; a single run has one seed and one rate.

    Attributes
    ----------
    tuning_seeds : tuple of int
        Of the runs that choose rates, none of them among `seeds`.
    train_images, test_images : int
        Images used, at most.
    examples : int
        Images seen in training, repetitions counted.
    batch_size : int
        Images of one step of SGD, whatever part of them is normalised together.
    pool : int
        Side of the squares that images are averaged over.
    widths : tuple of int
        Channels of the blocks.
    groups : int
        Of GroupNorm.
    momentum : float
        Of SGD.
    """

    tuning_seeds: tuple[int, ...] = (100,)
    train_images: int
    test_images: int
    examples: int
    batch_size: int = 32
    pool: int = 2
    widths: tuple[int, ...] = (16, 32, 32)
    groups: int = 4
    momentum: float = 0.9

    @property
    def steps(self) -> int:
        """Steps of a run."""
        return self.examples // self.batch_size

    def check_seeds(self) -> None:
        """Refuse seeds that would choose and be shown, and rates that cannot be climbed.

        Raises
        ------
        BnbookError
            With what was expected and found.
        """
        choosing.check(self)
        if list(self.learning_rates) != sorted(self.learning_rates):
            raise BnbookError(f"learning_rates must rise, found {self.learning_rates}.")

    def check_together(self, name: str, sizes: Sequence[int]) -> None:
        """Refuse numbers of images normalised together that are 1 or no part of a minibatch.

        Raises
        ------
        BnbookError
            With the field's name and what was found.
        """
        if odd := [m for m in sizes if m < 2 or self.batch_size % m]:
            raise BnbookError(
                f"{name} must be 2 or more and divide batch_size, {self.batch_size}, found"
                f" {odd[0]}."
            )


SIZES = ("train_images", "test_images", "examples", "batch_size", "pool", "validation", "groups")
"""Fields of `ConvSetting` that are 1 or more."""


def climb(grid: Sequence[float], scores: Mapping[float, float]) -> tuple[float, ...]:
    """Return the rates to try next, given the scores of those that were; none when it is over."""
    if not scores:
        middle = len(grid) // 2
        return tuple(grid[max(0, middle - 1) : middle + 2])
    at = grid.index(best(scores))
    return tuple(r for r in grid[max(0, at - 1) : at + 2] if r not in scores)


def best(scores: Mapping[float, float]) -> float:
    """Return the rate with the highest score, of equals the smallest."""
    return min(scores, key=lambda rate: (-scores[rate], rate))


def rounds(
    config: Any, table: pd.DataFrame, cells: Mapping[tuple[Any, ...], Mapping[str, Any]],
    columns: Sequence[str],
) -> list[Any]:  # fmt: skip
    """Return the single runs that come next, none when all is run.

    The config is the whole experiment. The table has the rows of the runs that ended. `cells` maps
    a cell's values in `columns` to the fields of its runs. `columns` tell the cells apart in the
    table.
    """
    runs: list[Any] = []
    for cell, changes in cells.items():
        own = _rows_of(table, cell, columns)
        done = set() if own.empty else set(zip(own["seed"], own["learning_rate"], strict=True))
        scores = {} if own.empty else _scores(own)
        rates = climb(config.learning_rates, scores)
        seeds = config.tuning_seeds
        if not rates:
            rates, seeds = (best(scores),), config.seeds
        runs += [
            replace(config, **changes, seeds=(seed,), learning_rates=(rate,))
            for seed in seeds
            for rate in rates
            if (seed, rate) not in done
        ]
    return runs


def _rows_of(table: pd.DataFrame, cell: tuple[Any, ...], columns: Sequence[str]) -> pd.DataFrame:
    if table.empty:
        return table
    chosen: pd.DataFrame = table.loc[(table[list(columns)] == list(cell)).all(axis=1)]
    return chosen


def _scores(rows: pd.DataFrame) -> dict[float, float]:
    """Mean validation accuracy of each rate that the tuning seeds tried."""
    means = rows[rows["tunes"]].groupby("learning_rate")[SCORE].mean()
    return {float(str(rate)): float(mean) for rate, mean in means.items()}


def splits(config: ConvSetting, device: Any) -> Splits:
    """Load the images, averaged over squares, grey taken for 0."""
    sizes = (config.validation, config.train_images, config.test_images)
    return _splits(config.data, config.pool, *sizes, str(device))


@functools.lru_cache(maxsize=1)
def _splits(
    data: str, pool: int, validation: float, train_images: int, test_images: int, device: str
) -> Splits:
    from torch.nn import functional

    def prepare(images: Tensor) -> Tensor:
        return functional.avg_pool2d(images, pool) - 0.5

    found = setup.splits(data, validation, "cpu", left=train_images)
    return found.first(train_images, test_images).each(prepare, device)


def network(
    arm: str,
    seeds: Sequence[int],
    in_channels: int,
    config: ConvSetting,
    batch_size: int = 0,
    classes: int = 10,
) -> Any:
    """Make a ConvNet whose normalisation sees `batch_size` images together, 0 for all of a step.

    Renormalisation leans on its running statistics, which move by a hundredth of each batch's; its
    bounds open between a quarter and a half of the steps. Late freezing begins at four fifths.
    """
    from bnbook.layers import norm, renorm
    from bnbook.networks import models

    steps, members = config.steps, len(seeds)

    def make(features: int) -> nn.Module:
        if arm == BN:
            return renorm.ReplicaBatchNorm(features, batch_size)
        if arm == RENORM:
            opening = {"begin": steps // 4, "end": steps // 2}
            return renorm.BatchRenorm(features, batch_size, momentum=0.01, **opening)
        if arm == LATE_FROZEN:
            return renorm.LateFrozenBatchNorm(features, batch_size, freeze_at=4 * steps // 5)
        groups = {"num_groups": config.groups} if arm == GROUP_NORM else {}
        return norm.make_norm(_BY_NAME[arm], features, members, **groups)

    sizes = {"in_channels": in_channels, "widths": config.widths, "num_classes": classes}
    return models.ConvNet(make, seeds, **sizes)  # type: ignore[arg-type]


def train(
    runs: Sequence[ConvSetting],
    session: Session,
    model: nn.Module,
    data: tuple[Tensor, Tensor],
    batches: Tensor,
    streams: Sequence[int],
) -> dict[str, Tensor]:
    """Train members that differ in seed and rate on these minibatches, and return the last row."""
    import torch

    from bnbook.layers import ensemble
    from bnbook.training import fit

    falling = torch.linspace(1, 0, len(batches) + 1)[:-1]
    rates = [run.learning_rates[0] for run in runs]
    optimiser = fit.SGD(rates, momentum=runs[0].momentum, schedule=falling)
    loss = ensemble.cross_entropy
    return fit.fit(
        model, *data, batches, optimiser, loss, streams=streams, drop=False, session=session
    )[-1]


def tidy(
    run: ConvSetting, rows: Sequence[Mapping[str, Any]], last: Mapping[str, Any], member: int,
    trained: Sequence[str] = ("diverged_at", "loss"), **about: Any,
) -> pd.DataFrame:  # fmt: skip
    """Return a member's rows: what it is, `about` first, how it trained, and what was measured.

    Of tensors (E,) the member's value is taken, one without axes is of all; what a row lacks is
    NaN.
    """

    def own(values: Mapping[str, Any]) -> dict[str, Any]:
        return {name: _of_member(value, member) for name, value in values.items()}

    common = {
        **about,
        "seed": run.seeds[0],
        "tunes": run.seeds[0] in run.tuning_seeds,
        "learning_rate": run.learning_rates[0],
        **own({name: last[name] for name in trained}),
    }
    return pd.DataFrame([{**common, **own(row)} for row in rows])


def _of_member(value: Any, member: int) -> Any:
    if isinstance(value, str | int):
        return value
    return (value[member] if value.dim() else value).item()


COLUMNS: Mapping[str, str] = {
    "seed": "of the initial weights and the minibatches",
    "tunes": choosing.TUNES,
    "learning_rate": "of SGD, at the first step",
    "diverged_at": "step whose loss was not finite, -1 for none",
    "loss": "mean training loss over all steps, in nats",
}
"""Columns of every table of `tidy`."""


def replica_layers(model: nn.Module) -> list[Any]:
    """Return the layers of a model whose statistics are a minibatch's."""
    from bnbook.layers.renorm import ReplicaBatchNorm

    return [layer for layer in model.modules() if isinstance(layer, ReplicaBatchNorm)]


def take_population(model: nn.Module, images: Tensor, chunk: int = 512) -> None:
    """Put Algorithm 2's statistics in place of the running ones, the weights as they are.

    Averages over replicas of the layers' size that these images are cut into, in their order; the
    images that fill no whole replica are left out.
    """
    import torch

    layers = replica_layers(model)
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum, layer.every_replica = None, True
    model.train()
    with torch.no_grad():
        for part in in_replicas(images, layers[0].batch_size, chunk):
            model(part)
    model.eval()


def right_with_mates(model: nn.Module, images: Tensor, labels: Tensor, chunk: int = 512) -> Tensor:
    """Say which images are classified correctly when each replica has its own statistics.

    As a network in training, or one whose eval() was forgotten. The images are cut into replicas in
    their order; those that fill none are left out. (E, N), bool; the model stays as it is.
    """
    import torch

    from bnbook.probes import measurements

    m = replica_layers(model)[0].batch_size
    with measurements.undisturbed(model), torch.no_grad():
        model.train()
        parts = zip(in_replicas(images, m, chunk), in_replicas(labels, m, chunk), strict=True)
        found = [model(x).nan_to_num().argmax(-1) == y[:, None] for x, y in parts]
    return torch.cat(found).T


def faded(images: Tensor, factors: Tensor | float) -> Tensor:
    """Bring each image's pixels nearer to its mean, by one factor or by its own (N,)."""
    import torch

    mean = images.mean((1, 2, 3), keepdim=True)
    return mean + torch.as_tensor(factors).to(images).view(-1, 1, 1, 1) * (images - mean)


def in_replicas(values: Tensor, m: int, chunk: int) -> Any:
    """Cut into chunks of whole replicas of m, about so many values each; 0 takes each for one."""
    size = max(m, chunk // m * m) if m else chunk
    return (values[: len(values) // m * m] if m else values).split(size)
