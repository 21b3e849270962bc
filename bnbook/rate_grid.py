"""Short training of residual networks, all rates of a grid and all seeds as one ensemble.

Nothing is clipped. A member whose minibatch loss is above a threshold, or not finite, has diverged
and leaves the ensemble.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from bnbook import augment, datasets, ensemble, measurements, models, training
from bnbook.errors import BnbookError
from bnbook.session import Session

SCHEDULE = ((0.5, 0.1), (0.75, 0.01))
"""Share of training from which the rate has which factor: 50 % and 75 %, a tenth each time."""
MEASURED = (0.05, 0.3, 1.0)
"""Shares of training after which the networks are measured, and diverged ones leave."""


class Settings(Protocol):
    """What an experiment's config has to say about training; see `fit`."""

    @property
    def data(self) -> str:
        """Name of a data set of images."""

    @property
    def side(self) -> int:
        """Rows and columns to which the images are resized."""

    @property
    def images(self) -> int:
        """Training images used, at most."""

    @property
    def validation(self) -> int:
        """Further training images set aside."""

    @property
    def test(self) -> int:
        """Test images used, at most."""

    @property
    def augmented(self) -> bool:
        """Whether training images are cropped and flipped at random."""

    @property
    def steps(self) -> int:
        """Updates."""

    @property
    def batch_size(self) -> int:
        """Images in a minibatch."""

    @property
    def momentum(self) -> float:
        """Of SGD."""

    @property
    def weight_decay(self) -> float:
        """Of SGD."""


@dataclass(frozen=True)
class Splits:
    """Images and labels to train on, to choose rates by, and to report."""

    train: tuple[Tensor, Tensor]
    validation: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]


def splits(config: Settings, device: torch.device) -> Splits:
    """Load a data set, cut it down, and prepare its images.

    Each pixel has its mean over the training images subtracted, and all are divided by the standard
    deviation of what remains.

    Parameters
    ----------
    config : Settings
        Which images, how many, of what size.
    device : torch.device
        Where to put them.

    Returns
    -------
    Splits
        Images (N, C, side, side). Which are set aside does not depend on a seed.

    Raises
    ------
    BnbookError
        When the data set has too few images.
    """
    train, test = (datasets.load(config.data, split) for split in ("train", "test"))
    wanted = config.images + config.validation
    if wanted > len(train.labels):
        raise BnbookError(
            f"images and validation must come to at most {len(train.labels)} for {config.data},"
            f" found {config.images} and {config.validation}."
        )
    order = torch.randperm(len(train.labels), generator=torch.Generator().manual_seed(0))
    kept, held_out = order[: config.images], order[config.images : wanted]
    some = torch.arange(len(test.labels))[: config.test]
    parts = [(train, kept), (train, held_out), (test, some)]
    images = [_resized(split.images[chosen], config.side) for split, chosen in parts]
    mean = images[0].mean(0)
    std = images[0].var(0, correction=0).mean().sqrt()
    ready = [
        (((x - mean) / std).to(device), split.labels[chosen].to(device))
        for x, (split, chosen) in zip(images, parts, strict=True)
    ]
    return Splits(*ready)


def _resized(images: Tensor, side: int) -> Tensor:
    if images.shape[-1] == side:
        return images
    return F.interpolate(images, size=(side, side), mode="bilinear", antialias=True)


def schedule(steps: int) -> Tensor:
    """Return the factor of the learning rate at each step, (steps,): see `SCHEDULE`."""
    factor = torch.ones(steps)
    for share, value in SCHEDULE:
        factor[round(share * steps) :] = value
    return factor


def marked(threshold: float) -> Callable[[Tensor, Tensor], Tensor]:
    """Return the cross-entropy of each member, infinite where it is above a threshold.

    Parameters
    ----------
    threshold : float
        In nats. Losses up to it are left as they are, and so are their gradients.

    Returns
    -------
    callable
        ``(logits, labels) -> (E,)``; `bnbook.training.fit` takes members with an infinite loss out.
    """

    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        each = ensemble.cross_entropy(logits, labels)
        return each.masked_fill(each > threshold, torch.inf)

    return loss


def fit(
    make: Callable[[int], models.ResNet],
    config: Settings,
    seeds: Sequence[int],
    rates: Sequence[float],
    threshold: float,
    session: Session,
) -> list[dict[str, Tensor]]:
    """Train the members of a network by SGD with momentum, and measure their accuracy.

    Parameters
    ----------
    make : callable
        Channels of an image -> network of E members.
    config : Settings
        Data and training.
    seeds : sequence of int, length E
        Of the members' minibatches.
    rates : sequence of float, length E
        Their learning rates, multiplied by `schedule`.
    threshold : float
        A minibatch loss above it is divergence, in nats.
    session : Session
        Device, plan, checkpoint, deadline and progress.

    Returns
    -------
    list of dict
        Rows of `bnbook.training.fit`, with ``validation_accuracy`` and ``test_accuracy``, at the
        steps of `measured_at`.
    """
    device = training.choose_device(session.device)
    images = splits(config, device)
    model = make(images.train[0].shape[1]).to(device)

    def accuracies() -> dict[str, Tensor]:
        return {
            "validation_accuracy": measurements.accuracy(model, *images.validation),
            "test_accuracy": measurements.accuracy(model, *images.test),
        }

    total = len(images.train[1])
    batches, streams = training.streams(total, config.batch_size, config.steps, seeds)
    return training.fit(
        model,
        *images.train,
        batches,
        training.SGD(rates, config.momentum, config.weight_decay, schedule(config.steps)),
        marked(threshold),
        probes=(accuracies,),
        at=measured_at(config.steps),
        streams=streams,
        transform=_crops(config, min(seeds), device) if config.augmented else None,
        session=session,
    )


def measured_at(steps: int) -> list[int]:
    """Return the steps after which networks are measured: see `MEASURED`."""
    return sorted({max(1, round(share * steps)) for share in MEASURED})


def _crops(config: Settings, seed: int, device: torch.device) -> Callable[[Tensor, int], Tensor]:
    """Return the augmentation: at each step the same crops and flips for every member's images."""
    drawn = augment.crops(config.steps, config.batch_size, seed).to(device)

    def transform(x: Tensor, step: int) -> Tensor:
        if x.dim() == 4:
            return augment.crop_and_flip(x, drawn[step])
        each = x.flatten(0, 1)
        cut = augment.crop_and_flip(each, drawn[step].repeat(len(x), 1))
        return cut.view_as(x)

    return transform


def tables(
    history: Sequence[dict[str, Tensor]], labels: Sequence[Mapping[str, Any]]
) -> list[pd.DataFrame]:
    """Turn the rows of `fit` into a table for each member.

    Parameters
    ----------
    history : sequence of dict
        Of `fit`.
    labels : sequence of mapping, length E
        Columns that say which run a member is.

    Returns
    -------
    list of pandas.DataFrame
        The labels, then ``step``, ``loss``, ``diverged_at`` and the measurements.
    """
    steps = [int(row["step"]) for row in history]
    columns = {
        name: torch.stack([row[name] for row in history]).double().cpu().numpy()
        for name in history[0]
        if name != "step"
    }
    return [
        pd.DataFrame(
            {**label, "step": steps, **{name: each[:, e] for name, each in columns.items()}}
        ).astype({"diverged_at": int})
        for e, label in enumerate(labels)
    ]
