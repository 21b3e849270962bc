r"""How the residual networks of Bjorck et al. 2018 are trained: images, networks, rate, divergence.

SGD with momentum, weight decay, random crops and flips, a rate divided by 10 at 50 % and 75 % of
the steps: the set-up of He, Zhang, Ren & Sun 2016, section 4.2, which Bjorck et al. follow; initial
weights are Xavier's. A run has diverged when the loss of a minibatch is above `THRESHOLD` or no
number. Gradients are never clipped, but in the arm that is called so.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from bnbook.layers import ensemble, norm
from bnbook.networks import models, unnormalised
from bnbook.probes import measurements, moments
from bnbook.setups import dead
from bnbook.setups.dead import THRESHOLD
from bnbook.setups.images import Splits
from bnbook.setups.images import splits as split_images
from bnbook.setups.settings import ResidualSetting, SearchSetting
from bnbook.tables import right
from bnbook.tables.arms import (
    CLIPPED,
    FIXUP,
    GROUP_NORM,
    LAYER_NORM,
    SKIPINIT,
    WARM_UP,
    WITH,
    WITHOUT,
)
from bnbook.training import augment, fit
from bnbook.training.session import Session

CLASSES = 10
"""Of every data set of images."""


@functools.lru_cache(maxsize=1)
def splits(
    data: str, side: int, train_images: int, validation: int, test_images: int, device: str
) -> Splits:
    """Load images: resized, split, each pixel's mean over training images subtracted.

    All are divided by the standard deviation of what remains. The split does not depend on a seed.
    """
    found = split_images(data, validation, "cpu", left=train_images or 1)
    found = found.first(train_images, test_images).each(lambda x: _resized(x, side))
    mean = found.train[0].mean(0)
    std = found.train[0].var(0, correction=0).mean().sqrt()
    return found.each(lambda x: (x - mean) / std, device)


def _resized(images: Tensor, side: int) -> Tensor:
    if images.shape[-1] == side:
        return images
    if images.shape[-1] % side == 0:
        return F.avg_pool2d(images, images.shape[-1] // side)
    size = (side, side)
    return F.interpolate(images, size=size, mode="bilinear", align_corners=False, antialias=True)


def network(arm: str, seeds: Sequence[int], gain: float = 1.0, **sizes: Any) -> models.ResNet:
    """Make the residual networks of an arm; `sizes` are those of `models.ResNet`.

    Equal seeds have equal initial weights in all arms but Fixup's and SkipInit's. `gain` is the
    variance of the residual branches' initial weights over Xavier's; He's is 2.
    """
    if arm == FIXUP:
        return unnormalised.FixupResNet(seeds, **sizes)
    if arm == SKIPINIT:
        return unnormalised.SkipInitResNet(seeds, **sizes)
    made = models.ResNet(_norms(len(seeds))[arm], seeds, init_std=ensemble.xavier, **sizes)
    if gain != 1:
        with torch.no_grad():
            for convolution in made.convolutions[1:]:
                convolution.weight.mul_(math.sqrt(gain))
    return made


def _norms(members: int) -> dict[str, models.Norm | None]:
    return {
        WITH: norm.FusedBatchNorm,
        GROUP_NORM: functools.partial(norm.make_norm, "group", members=members),
        LAYER_NORM: functools.partial(norm.make_norm, "layer", members=members),
        **dict.fromkeys((WITHOUT, WARM_UP, CLIPPED)),
    }


GROWTH_IMAGES = 256
"""Training images on which the growth at the start is measured."""


def growth(
    runs: Sequence[ResidualSetting], make: Callable[..., models.ResNet], session: Session
) -> list[float]:
    """Measure the factor by which a block raises the activations' second moment at the start.

    Of each run the geometric mean over the blocks after the first; `make` as for `train`.
    """
    one = runs[0]
    device = fit.choose_device(session.device)
    images, _ = splits(
        one.data, one.side, one.train_images, one.validation, one.test_images, str(device)
    ).train
    seeds = [run.seeds[0] for run in runs]
    model = make(one.arms[0], seeds, in_channels=images.shape[1]).to(device).train()
    found = moments.channel_moments(model, list(model.blocks), images[:GROWTH_IMAGES])
    first, last = (
        (each.mean.square() + each.variance).view(len(runs), -1).mean(1)
        for each in (found[0], found[-1])
    )
    factors = (last / first).double() ** (1 / (len(found) - 1))
    return [float(factor) for factor in factors]


def schedule(steps: int, warm_up: float = 0.0) -> Tensor:
    """Return the factors of the rate, (steps,): 1, 0.1 from 50 % on, 0.01 from 75 % on.

    Over the share `warm_up` of the steps the factor rises linearly to 1.
    """
    done = torch.arange(steps) / steps
    factors = torch.where(done < 0.5, 1.0, torch.where(done < 0.75, 0.1, 0.01))
    rising = max(1, round(warm_up * steps))
    ramp = ((torch.arange(steps) + 1) / rising).clamp(max=1)
    return factors * ramp


def optimiser(runs: Sequence[ResidualSetting]) -> fit.SGD:
    """Return the settings of SGD for runs of one arm, each with its rate."""
    one = runs[0]
    arm = one.arms[0]
    return fit.SGD(
        [run.learning_rates[0] for run in runs],
        momentum=one.momentum,
        weight_decay=one.weight_decay,
        schedule=schedule(one.steps, one.warm_up if arm == WARM_UP else 0.0),
        clip_norm=one.clip_norm if arm == CLIPPED else math.inf,
    )


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of each member; infinite where it is above `THRESHOLD`, which ends its run."""
    each = ensemble.cross_entropy(logits, labels)
    return each.masked_fill(each > THRESHOLD, torch.inf)


def shaken(crops: Tensor, pad: int) -> Callable[[Tensor, int], Tensor]:
    """Return the augmentation: crops and flips that depend on the step and the place in the batch.

    Members share them, whatever their minibatches, so that it does not matter which are left.
    """

    def transform(x: Tensor, step: int) -> Tensor:
        if x.dim() == 4:
            return augment.crop_and_flip(x, crops[step], pad)
        side_by_side = x.transpose(0, 1).flatten(1, 2)
        moved = augment.crop_and_flip(side_by_side, crops[step], pad)
        own: Tensor = moved.unflatten(1, (len(x), -1))
        return own.transpose(0, 1)

    return transform


def measured_steps(steps: int, points: int) -> list[int]:
    """Return the steps measured: 0, then evenly, the last one at the end."""
    return sorted({round(steps * k / points) for k in range(points + 1)})


def train(
    runs: Sequence[ResidualSetting],
    session: Session,
    make: Callable[..., models.ResNet],
    probes: Callable[[models.ResNet, Splits], Sequence[fit.Probe]] = lambda *_: (),
) -> list[dict[str, Tensor]]:
    """Train runs that differ in seed and rate as one ensemble, and measure accuracies.

    `make` takes an arm, the members' seeds and ``in_channels``; `probes` makes further probes from
    the model and the images. The training accuracy is of as many training images, as they are, as
    there are for validation; with ``keep_right`` there is ``right``, for each test image.
    """
    one = runs[0]
    device = fit.choose_device(session.device)
    images = splits(
        one.data, one.side, one.train_images, one.validation, one.test_images, str(device)
    )
    seeds = [run.seeds[0] for run in runs]
    model = make(one.arms[0], seeds, in_channels=images.train[0].shape[1]).to(device)
    total = len(images.train[1])
    batches, streams = fit.streams(total, one.batch_size, one.steps, seeds)
    crops = augment.crops(one.steps, one.batch_size, 0, one.pad).to(device)
    end_dead = getattr(one, "end_dead", False)
    return fit.fit(
        model,
        *images.train,
        batches,
        optimiser(runs),
        ensemble.cross_entropy if end_dead else cross_entropy,
        probes=(_accuracies(one, model, images), *probes(model, images)),
        at=measured_steps(one.steps, one.points),
        streams=streams,
        transform=shaken(crops, one.pad) if one.pad else None,
        ends=functools.partial(dead.ends, classes=CLASSES, steps=one.steps) if end_dead else None,
        session=session,
    )


def _accuracies(run: ResidualSetting, model: nn.Module, images: Splits) -> fit.Probe:
    shown = [part[: len(images.validation[1])] for part in images.train]
    measured = {
        "training_accuracy": (shown[0], shown[1]),
        "validation_accuracy": images.validation,
        "test_accuracy": images.test,
    }
    keep_right = getattr(run, "keep_right", False)

    def probe() -> dict[str, Tensor]:
        found = {name: measurements.right(model, *of) for name, of in measured.items()}
        kept = {"right": found["test_accuracy"]} if keep_right else {}
        return kept | {name: measurements.share(each) for name, each in found.items()}

    return probe


def table(
    run: ResidualSetting, history: Sequence[Mapping[str, Tensor]], member: int
) -> pd.DataFrame:
    """Return the rows of one run; see `RESIDUAL_COLUMNS` and `WATCHED_COLUMNS`.

    From its divergence on, or from its death, a run has the accuracies of guessing among ten
    classes. With ``keep_right``, the last row of a run that lived has which test images were right,
    as `bnbook.tables.right.pack` writes it.
    """
    names = ("loss", "training_accuracy", "validation_accuracy", "test_accuracy")
    rows = pd.DataFrame(
        {
            "arm": run.arms[0],
            "seed": run.seeds[0],
            "learning_rate": run.learning_rates[0],
            "step": [int(row["step"]) for row in history],
            "diverged_at": [int(row["diverged_at"][member]) for row in history],
            **{name: [float(row[name][member]) for row in history] for name in names},
        }
    )
    over = rows["diverged_at"] >= 0
    if getattr(run, "end_dead", False):
        rows = rows.assign(**_ends(history[-1]["losses"][member], rows["step"].tolist(), run.steps))
        over = (rows["diverged_at"] >= 0) | (rows["dead_at"] >= 0)
    rows.loc[over, list(names[1:])] = 1 / CLASSES
    if getattr(run, "keep_right", False):
        last = "" if over.iloc[-1] else right.pack(history[-1]["right"][member].tolist())
        rows["right"] = [""] * (len(rows) - 1) + [last]
    if isinstance(run, SearchSetting):
        rows["role"] = run.role
    return rows


def _ends(losses: Tensor, measured: Sequence[int], steps: int) -> dict[str, list[Any]]:
    """Return the columns that say how a run ended, as known at each measured step."""
    end = dead.dead(losses, CLASSES, steps)
    losses = losses[: end.step] if end else losses
    found = {
        "diverged_at": dead.diverged_at(losses),
        "jumped_at": dead.jumped_at(losses),
        "dead_at": end.step if end else -1,
    }
    by = {n: [at if 0 <= at <= step else -1 for step in measured] for n, at in found.items()}
    return {**by, "dead_by": [end.rule if end and end.step <= step else "" for step in measured]}


def tables(
    runs: Sequence[ResidualSetting], session: Session, make: Callable[..., models.ResNet]
) -> list[pd.DataFrame]:
    """Train runs that differ in seed and rate as one ensemble: the `table` of each."""
    history = train(runs, session, make)
    return [table(run, history, member) for member, run in enumerate(runs)]
