"""How the networks of Ioffe & Szegedy 2015, section 4.2, train, by their recipes.

A run is dead by the rules of `bnbook.setups.dead`, of which the last is more patient here: half of
the run is over, and in the quarter that ends there fewer than half of the minibatches were better
than guessing. A quarter of fewer than 20 steps is too few to tell: it is taken for 20.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd

from bnbook.setups.images import ImageSetting, Splits
from bnbook.tables.inception import (
    COOLING,
    DECAY,
    DISTORTION,
    DROPOUT,
    MEMBERS,
    RECIPES,
    RESPONSE,
    SHUFFLING,
    Recipe,
)
from bnbook.training.session import Session

if TYPE_CHECKING:
    from torch import Tensor

    from bnbook.networks.inception import Inception

CLASSES = 10
"""Of every data set of images."""
LATER = 1.1
"""Step of a reading over that of the reading before."""
FASTER, LESS = 6, 5
"""By how much the rate falls faster and the L2 weight is divided (section 4.2.1)."""


@dataclass(frozen=True, kw_only=True)
class InceptionSetting(ImageSetting):
    """What the training of these networks depends on; a single run has one of each axis.

    Attributes
    ----------
    arms : tuple of str
        Of `bnbook.tables.inception.RECIPES`.
    tuning_seeds : tuple of int
        Of the runs that choose Inception's rate; none of them is shown.
    side : int
        Rows and columns of the images.
    train_images, test_images : int
        Images used, at most; 0 takes all.
    kept : int
        Test images whose class probabilities are kept, of networks that ensembles are made of.
    unit : int
        Channels that all widths are multiples of.
    pad : int
        Zeros around an image from which its crop is taken, in pixels; 0: neither crop nor flip.
    steps, batch_size : int
        Steps of the run, and images in a minibatch.
    cooling : int
        Steps after which Inception's rate has fallen to `coolest` of what it was.
    coolest : float
        As above; the fall is exponential.
    first : int
        Step of the first reading of the test accuracy; each further one is a tenth later.
    momentum : float
        Of SGD.
    weight_decay : float
        Of the weights of convolutions and of the linear layer: L2, before it is divided.
    dropout : float
        Inception's share of features set to zero before the linear layer.
    distortion, less_distortion : float
        Largest change of contrast, and of each colour's brightness in standard deviations of the
        pixels; the second with the paper's change.
    """

    arms: tuple[str, ...]
    tuning_seeds: tuple[int, ...] = (100,)
    side: int = 16
    train_images: int = 0
    test_images: int = 0
    kept: int = 2500
    unit: int = 8
    pad: int = 2
    steps: int
    batch_size: int = 64
    cooling: int
    coolest: float = 0.03
    first: int
    momentum: float = 0.9
    weight_decay: float = 5e-4
    dropout: float = 0.4
    distortion: float = 0.5
    less_distortion: float = 0.1


SIZES = ("side", "unit", "steps", "batch_size", "cooling", "first", "kept", "validation")
"""Fields of `InceptionSetting` that are 1 or more."""


def network(run: InceptionSetting, in_channels: int) -> Inception:
    """Make a single run's network; its initial weights are He's, with sigmoids Xavier's."""
    from torch import nn

    from bnbook.layers import ensemble, norm
    from bnbook.networks.inception import Inception

    recipe = RECIPES[run.arms[0]]
    return Inception(
        norm.FusedBatchNorm if recipe.bn else None,
        run.seeds,
        in_channels=in_channels,
        num_classes=CLASSES,
        unit=run.unit,
        nonlinearity=nn.Sigmoid if recipe.sigmoid else nn.ReLU,
        dropout=_dropout(run, recipe),
        response=RESPONSE not in recipe.changes,
        init_std=ensemble.xavier if recipe.sigmoid else ensemble.he,
    )


def _dropout(run: InceptionSetting, recipe: Recipe) -> float:
    if DROPOUT in recipe.changes:
        return 0.0
    return run.dropout if recipe.dropout is None else recipe.dropout


def rate(run: InceptionSetting) -> float:
    """Return the initial rate of a single run."""
    return RECIPES[run.arms[0]].factor * run.learning_rates[0]


def schedule(run: InceptionSetting) -> Tensor:
    """Return the factors of a single run's rate, (steps,)."""
    import torch

    times = FASTER if COOLING in RECIPES[run.arms[0]].changes else 1
    return run.coolest ** (times * torch.arange(run.steps) / run.cooling)


def weight_decay(run: InceptionSetting) -> float:
    """Return a single run's L2 weight."""
    return run.weight_decay / (LESS if DECAY in RECIPES[run.arms[0]].changes else 1)


def minibatches(run: InceptionSetting, total: int) -> Tensor:
    """Draw a single run's minibatches, (steps, batch_size).

    With the paper's shuffling every epoch has minibatches of its own. Without it the images of a
    minibatch stay together: the order of the minibatches alone is drawn in each epoch.
    """
    from bnbook.training import fit

    seed = run.seeds[0]
    if SHUFFLING in RECIPES[run.arms[0]].changes:
        return fit.minibatches(total, run.batch_size, run.steps, seed)
    together = total // run.batch_size
    groups = fit.minibatches(total, run.batch_size, together, seed)
    return groups[fit.minibatches(together, 1, run.steps, seed).flatten()]


def readings(run: InceptionSetting) -> list[int]:
    """Return the steps after which a run is measured: the same for all runs, but for their last."""
    found, next_one = {0, run.steps}, float(run.first)
    while next_one < run.steps:
        found.add(round(next_one))
        next_one *= LATER
    return sorted(found)


def distorted(x: Tensor, most: float, seed: int, step: int) -> Tensor:
    """Change contrast and colours of each image: x (1 + most a) + most b, a and b within 1.

    a is of the image, b of each of its channels; both depend on seed and step alone.
    """
    import torch

    generator = torch.Generator().manual_seed(_COLOURS + 1_000_003 * seed + step)
    drawn = 2 * torch.rand(len(x), 1 + x.shape[1], 1, 1, generator=generator) - 1
    contrast, colours = drawn.to(x).split([1, x.shape[1]], 1)
    return x * (1 + most * contrast) + most * colours  # type: ignore[no-any-return]


_COLOURS = 0xC0_0000  # keeps a seed's colours apart from its weights, minibatches and masks


def transform(run: InceptionSetting, device: str) -> Callable[[Tensor, int], Tensor]:
    """Return a single run's augmentation: crop, flip, and distortion of contrast and colours."""
    from bnbook.training import augment

    less = DISTORTION in RECIPES[run.arms[0]].changes
    most, seed = run.less_distortion if less else run.distortion, run.seeds[0]
    crops = augment.crops(run.steps, run.batch_size, seed, run.pad).to(device)

    def shaken(x: Tensor, step: int) -> Tensor:
        moved = augment.crop_and_flip(x, crops[step], run.pad) if run.pad else x
        return distorted(moved, most, seed, step)

    return shaken


def table(run: InceptionSetting, session: Session) -> pd.DataFrame:
    """Train a single run: its rows, one for each reading; see `COLUMNS`."""
    from bnbook.layers import ensemble
    from bnbook.probes import measurements
    from bnbook.setups import dead, residual
    from bnbook.training import fit

    device = str(fit.choose_device(session.device))
    images = residual.splits(
        run.data, run.side, run.train_images, int(run.validation), run.test_images, device
    )
    model = network(run, images.train[0].shape[1]).to(device)
    optimiser = fit.SGD(
        [rate(run)], momentum=run.momentum, weight_decay=weight_decay(run),
        schedule=schedule(run), weights_only=True,
    )  # fmt: skip
    history = fit.fit(
        model, *images.train, minibatches(run, len(images.train[1])), optimiser,
        ensemble.cross_entropy,
        probes=(lambda: {"test_accuracy": measurements.accuracy(model, *images.test)},),
        at=readings(run),
        transform=transform(run, device),
        ends=functools.partial(dead.ends, classes=CLASSES, steps=_patient(run)),
        session=session,
    )  # fmt: skip
    end = dead.dead(history[-1]["losses"][0], CLASSES, _patient(run))
    found = pd.DataFrame(
        {
            "step": [int(row["step"]) for row in history],
            "loss": [float(row["loss"][0]) for row in history],
            "test_accuracy": [float(row["test_accuracy"][0]) for row in history],
        }
    )
    found = found.assign(dead_at=end.step if end else -1, dead_by=end.rule if end else "")
    if end:
        found.loc[found["step"] >= end.step, "test_accuracy"] = 1 / CLASSES
    ended = _at_the_end(run, model, images, dead=end is not None)
    found["validation_accuracy"] = ended["validation_accuracy"]
    found["probabilities"] = [""] * (len(found) - 1) + [ended["probabilities"]]
    return found


def _patient(run: InceptionSetting) -> int:
    """Return the steps of which a tenth, the rule's window, is a quarter of the run's, or 20."""
    return 10 * max(run.steps // 4, 20)


def _at_the_end(
    run: InceptionSetting, model: Inception, images: Splits, *, dead: bool
) -> dict[str, float | str]:
    """Measure the trained network: validation accuracy, and what an ensemble needs of a member.

    Probabilities are kept of networks that ensembles are made of.
    """
    import torch

    from bnbook.probes import measurements
    from bnbook.tables import probabilities

    if dead:
        return {"validation_accuracy": 1 / CLASSES, "probabilities": ""}
    found: dict[str, float | str] = {
        "validation_accuracy": float(measurements.accuracy(model, *images.validation)[0]),
        "probabilities": "",
    }
    if run.arms[0] in MEMBERS:
        x, y = (each[: run.kept] for each in images.test)
        with torch.no_grad(), measurements.undisturbed(model):
            model.eval()
            p = torch.cat([model(some)[:, 0].softmax(-1) for some in x.split(1000)])
        found["probabilities"] = probabilities.pack(p.double().cpu().numpy(), y.cpu().numpy())
    return found
