"""Initial weights scaled once, against BN: an argument of Bjorck et al. 2018, section 5.

Residual networks in four arms: without BN from Xavier's, from He's and from scaled initial weights
(`bnbook.networks.lsuv`), and with BN from Xavier's. All have the same grid of learning rates and
the same seeds; at one seed they see the same minibatches. Each arm's rate is the one with the best
final validation accuracy, averaged over seeds; the test set chooses nothing. The mean and the
deviation of every channel of every layer's outputs are followed through training.

As we recall the paper, and not verified: it cites scaled initial weights, which normalise at the
start only, as evidence that internal covariate shift is not what matters. Chosen here: networks,
data, Gaussian in place of orthonormal weights before the scaling, momentum 0.9, the rate divided by
10 at half and at three quarters of a run as the paper has it, no weight decay, no augmentation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd

from bnbook.errors import BnbookError
from bnbook.experiments.bjorck_lsuv import claims, figures
from bnbook.experiments.experiment import Experiment, check_distinct, check_known, check_positive
from bnbook.setups import images
from bnbook.tables.arms import HE, LSUV, WITH
from bnbook.training.session import Session

if TYPE_CHECKING:
    from torch import Tensor, nn

AXES = ("arms", "seeds", "learning_rates")


@dataclass(frozen=True, kw_only=True)
class Config:
    """Everything that a run depends on.

    Attributes
    ----------
    data : str
        Name of a data set of images (see `bnbook.datasets`).
    pool : int
        Sides of the squares of pixels that are averaged into one.
    train_images, validation, test_images : int
        Images to train on, to choose rates by and to test with; the split does not depend on the
        seed.
    n : int
        Residual blocks of a stage: 6n + 2 layers.
    widths : tuple of int
        Channels of the three stages.
    steps, batch_size : int
        Length of training, and images in a minibatch.
    seeds : tuple of int
        Each sets the initial weights and the minibatches.
    learning_rates : tuple of float
        The grid of initial rates, the same for all arms.
    arms : tuple of str
        See `bnbook.experiments.bjorck_lsuv.claims.ARMS`.
    momentum : float
        In [0, 1).
    probe_intervals : int
        Measurements of a run, besides that at the start.
    probe_images : int
        Validation images through which moments are measured, as one training batch.
    start_images : int
        Training images by which the initial weights are scaled.
    """

    data: str
    pool: int
    train_images: int
    validation: int
    test_images: int
    n: int
    steps: int
    batch_size: int
    seeds: tuple[int, ...]
    learning_rates: tuple[float, ...]
    widths: tuple[int, ...] = (4, 8, 16)
    arms: tuple[str, ...] = claims.ARMS
    momentum: float = 0.9
    probe_intervals: int = 4
    probe_images: int = 250
    start_images: int = 250

    def __post_init__(self) -> None:
        """Refuse impossible values."""
        check_positive(self, ("pool", "train_images", "validation", "test_images", "n", "steps"))
        check_positive(self, ("batch_size", "probe_intervals", "probe_images", "start_images"))
        check_distinct(self, AXES)
        check_known(self, "arms", claims.ARMS)
        if not 0 <= self.momentum < 1:
            raise BnbookError(f"momentum must lie in [0, 1), found {self.momentum}.")
        if self.probe_images > self.validation or self.start_images > self.train_images:
            raise BnbookError(
                f"probe_images must be at most validation ({self.validation}) and start_images at"
                f" most train_images ({self.train_images}), found {self.probe_images} and"
                f" {self.start_images}."
            )


def train(runs: Sequence[Config], session: Session) -> list[pd.DataFrame]:
    """Train runs that differ in seed and learning rate as one ensemble."""
    from bnbook.layers import ensemble
    from bnbook.training import fit

    config = runs[0]
    split = _splits(config, fit.choose_device(session.device))
    seeds = [run.seeds[0] for run in runs]
    model = _network(config, seeds, split.train[0][: config.start_images])
    shown = split.validation[0][: config.probe_images]
    batches, streams = fit.streams(len(split.train[1]), config.batch_size, config.steps, seeds)
    rates = [run.learning_rates[0] for run in runs]
    history = fit.fit(
        model,
        *split.train,
        batches,
        fit.SGD(rates, momentum=config.momentum, schedule=schedule(config.steps)),
        ensemble.cross_entropy,
        probes=(images.accuracies(model, split), lambda: _moments(model, shown)),
        at=probe_steps(config.steps, config.probe_intervals),
        streams=streams,
        session=session,
    )
    return _tidy(runs, history)


def schedule(steps: int) -> Tensor:
    """Return the factors of the rate, (steps,): 1, then 0.1 and 0.01 from 50 % and 75 % on."""
    import torch

    at = torch.arange(steps)
    return 0.1 ** ((2 * at >= steps).double() + (4 * at >= 3 * steps).double())


def probe_steps(steps: int, intervals: int) -> list[int]:
    """Return the steps measured: the first, and evenly `intervals` more up to the last."""
    return sorted({round(steps * k / intervals) for k in range(intervals + 1)})


def _network(config: Config, seeds: Sequence[int], first: Tensor) -> nn.Module:
    from bnbook.layers import ensemble, norm
    from bnbook.networks import lsuv, models

    arm = config.arms[0]
    model = models.ResNet(
        norm.BatchNorm if arm == WITH else None,
        seeds,
        n=config.n,
        in_channels=first.shape[1],
        widths=config.widths,
        init_std=ensemble.he if arm == HE else ensemble.xavier,
    ).to(first.device)
    if arm == LSUV:
        lsuv.scale_weights(model, first)
    return model


def _moments(model: nn.Module, shown: Tensor) -> dict[str, Tensor]:
    """Measure every channel's mean and deviation, (E, all channels), and every layer's size."""
    import torch

    from bnbook.networks import models
    from bnbook.probes import measurements

    layers = [getattr(model, "stem_norm")]  # noqa: B009, a module for type checkers
    for block in model.modules():
        if isinstance(block, models.Block):
            layers += [block.norm1, block.norm2]
    seen: list[tuple[Tensor, Tensor]] = []

    def see(_: Any, __: Any, output: Tensor) -> None:
        var, mean = torch.var_mean(output, (0, 2, 3), correction=0)
        members = getattr(model, "members")  # noqa: B009
        seen.append((mean.view(members, -1), var.view(members, -1)))

    hooks = [layer.register_forward_hook(see) for layer in layers]
    try:
        with measurements.undisturbed(model):
            model.train()
            model(shown)
    finally:
        for hook in hooks:
            hook.remove()
    sizes = {
        f"size_{number}": (mean.square() + var).mean(1).sqrt()
        for number, (mean, var) in enumerate(seen, start=1)
    }
    means, variances = (torch.cat(values, 1) for values in zip(*seen, strict=True))
    return {"means": means, "deviations": variances.sqrt(), **sizes}


def _splits(config: Config, device: Any) -> images.Splits:
    """Load and split images, each pixel less its mean."""
    from torch.nn import functional as F  # noqa: N812

    found = images.splits(config.data, config.validation, device, left=config.train_images)
    found = found.first(config.train_images, config.test_images)
    mean = found.train[0].mean(0)
    std = (found.train[0] - mean).std()
    return found.each(lambda x: F.avg_pool2d((x - mean) / std, config.pool), device)


def _tidy(runs: Sequence[Config], history: Sequence[dict[str, Any]]) -> list[pd.DataFrame]:
    """Tell the shifts of all channels from the start in place of their moments."""
    means, deviations = history[0]["means"], history[0]["deviations"]
    for row in history:
        moved = (row["means"] - means).abs() / deviations
        scaled = (row["deviations"] / deviations).log2().abs()
        row |= {"mean_shift": moved.median(-1).values, "scale_shift": scaled.median(-1).values}
        del row["means"], row["deviations"]
    members = [
        {"arm": run.arms[0], "seed": run.seeds[0], "learning_rate": run.learning_rates[0]}
        for run in runs
    ]
    return images.tables(history, members)


EXPERIMENT = Experiment(
    name="bjorck_lsuv",
    title="Initial weights scaled once, against BN (Bjorck et al., section 5)",
    profiles={
        "quick": Config(
            data="digits", pool=1, train_images=1137, validation=300, test_images=360, n=1,
            steps=60, batch_size=32, seeds=(0, 1, 2), learning_rates=(0.01, 0.03, 0.1, 0.3, 1.0),
            probe_intervals=3,
        ),
        "standard": Config(
            data="cifar10 or mnist5k", pool=2, train_images=20_000, validation=1000,
            test_images=2000, n=2, steps=500, batch_size=64, seeds=tuple(range(5)),
            learning_rates=(0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0),
        ),
    },
    axes=AXES,
    fused=("seeds", "learning_rates"),
    apart=("seeds",),
    train=train,
    needs={"arms": claims.ARMS},
    columns={
        "arm": "initial weights, and whether there is BN",
        "seed": "sets initial weights and minibatches",
        "learning_rate": "initial rate of SGD",
        "step": "steps done when the row was measured",
        "loss": "mean training loss since the row before, nats",
        "diverged_at": "step whose loss was not finite; -1 for none",
        "validation_accuracy": "of the images set aside to choose rates, in [0, 1]",
        "test_accuracy": "of the test images, in [0, 1]",
        "size_*": "root mean square of the outputs of one layer, after BN where there is BN",
        "mean_shift": "change of a channel's mean since step 0, in units of its deviation then:"
        " median over all channels of all layers",
        "scale_shift": "change of a channel's deviation since step 0, in doublings, without sign:"
        " median over all channels of all layers",
    },
    claims=claims.CLAIMS,
    facts=claims.facts,
    figures={"rates": figures.rates, "moments": figures.moments},
)  # fmt: skip
