"""Networks trained on images of ten classes: what they depend on, the splits, training, tables.

Nothing here imports torch before something is trained.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import pandas as pd

from bnbook.errors import BnbookError
from bnbook.training.session import Session

if TYPE_CHECKING:
    from torch import Tensor, nn

    Split = tuple[Tensor, Tensor]


@dataclass(frozen=True, kw_only=True)
class ImageSetting:
    """What every training on images depends on."""

    data: str  # name of a data set of images (see `bnbook.datasets`)
    validation: int | float  # training images set aside, a number or, below 1, a share of them
    seeds: tuple[int, ...]  # each sets the initial weights and the minibatches
    learning_rates: tuple[float, ...]  # the grid, the same for all arms


@dataclass(frozen=True, kw_only=True)
class SigmoidSetting(ImageSetting):
    """What the training of the paper's fully connected networks depends on."""

    steps: int  # length of training
    batch_size: int = 60  # images in a minibatch
    hidden: tuple[int, ...] = (100, 100, 100)  # widths of the hidden layers
    init_std: float = 0.1  # standard deviation of the initial weights
    probe_images: int = 1000  # validation images measured as one batch


class Splits(NamedTuple):
    """Images and labels to train on, to choose by, and to report."""

    train: Split
    validation: Split
    test: Split

    def each(self, change: Callable[[Tensor], Tensor], device: Any = None) -> Splits:
        """Return them with all images changed, on a device or where they are."""
        return Splits(*((change(x).to(device), y.to(device)) for x, y in self))

    def first(self, train: int, test: int) -> Splits:
        """Return so many training and test images, at most; 0 takes all."""
        cut = slice(train or None), slice(0, None), slice(test or None)
        return Splits(*((x[of], y[of]) for (x, y), of in zip(self, cut, strict=True)))


def binary(images: Tensor) -> Tensor:
    """Return images of zeros and ones, as the paper's network takes them."""
    return (images > 0.5).float()


def splits(
    data: str,
    validation: float,
    device: Any,
    prepare: Callable[[Tensor], Tensor] = lambda images: images,
    least: int = 1,
    left: int = 1,
) -> Splits:
    """Load and split images; at least `least` are set aside, and at least `left` are left."""
    import torch

    from bnbook import datasets

    given, test = (datasets.load(data, split, device=device) for split in ("train", "test"))
    total = len(given.labels)
    count = round(validation * total) if validation < 1 else int(validation)
    if not least <= count <= total - left:
        raise BnbookError(
            f"validation must set aside from {least} to {total - left} of the {total} training"
            f" images of {data}, found {count}."
        )
    order = torch.randperm(total, generator=torch.Generator().manual_seed(0)).to(device)
    images, labels = prepare(given.images), given.labels
    kept, aside = order[count:], order[:count]
    return Splits(
        (images[kept], labels[kept]),
        (images[aside], labels[aside]),
        (prepare(test.images), test.labels),
    )


def train(
    runs: Sequence[ImageSetting],
    session: Session,
    model: nn.Module,
    images: Splits,
    batch_size: int,
    steps: int,
    **options: Any,
) -> list[dict[str, Tensor]]:
    """Train members that differ in seed and rate with plain SGD; see `bnbook.training.fit.fit`."""
    from bnbook.layers import ensemble
    from bnbook.training import fit

    seeds = [run.seeds[0] for run in runs]
    batches, streams = fit.streams(len(images.train[1]), batch_size, steps, seeds)
    return fit.fit(
        model,
        *images.train,
        batches,
        fit.SGD([run.learning_rates[0] for run in runs]),
        ensemble.cross_entropy,
        streams=streams,
        session=session,
        **options,
    )


def accuracies(model: Any, images: Splits) -> Callable[[], dict[str, Tensor]]:
    """Return the probe that measures a model's accuracies on held-out images."""
    from bnbook.probes import measurements

    return lambda: {
        "validation_accuracy": measurements.accuracy(model, *images.validation),
        "test_accuracy": measurements.accuracy(model, *images.test),
    }


def tables(
    history: Sequence[Mapping[str, Tensor]], members: Sequence[Mapping[str, Any]]
) -> list[pd.DataFrame]:
    """Return one table for each member: what it is, then a row for each row of `history`."""
    import torch

    columns = {name: torch.stack([row[name] for row in history]).cpu() for name in history[0]}
    steps = columns.pop("step").numpy()
    found = []
    for at, member in enumerate(members):
        own = {name: column[:, at].double().numpy() for name, column in columns.items()}
        table = pd.DataFrame({**member, "step": steps, **own})
        found.append(table.astype({"diverged_at": int}))
    return found
