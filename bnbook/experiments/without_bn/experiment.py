"""What remains of BN's gain without BN: better starts, standardised weights, SELU, mixup.

The residual network of He et al. with their initial weights, 32 layers at `standard`, on images and
for a number of steps that are small: a setting in which BN has a gain. Each arm runs over the whole
grid of rates; the first third of the seeds choose its rate and are shown nowhere.

Chosen here: few steps of SGD with momentum, the schedule of the other residual networks, no crops;
mixup with uniform weights; gradients of standardised weights clipped row by row at `clip`, which is
not tuned; Fixup's biases and factors at the rate of the weights. A second question in the same
setting: a network with BN of which gamma and beta alone learn, or as many other weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd

from bnbook.experiments.experiment import Experiment, check_distinct, check_known, check_positive
from bnbook.experiments.without_bn import claims, figures
from bnbook.setups.settings import RESIDUAL_COLUMNS, RESIDUAL_SIZES, ResidualSetting
from bnbook.tables import arms
from bnbook.training.session import Session

if TYPE_CHECKING:
    from bnbook.networks.models import ResNet

AXES = ("arms", "seeds", "learning_rates")


@dataclass(frozen=True, kw_only=True)
class Config(ResidualSetting):
    """A `ResidualSetting` with `n` residual blocks a stage, for 6n + 2 layers.

    Attributes
    ----------
    n : int
        Residual blocks of a stage.
    clip : float
        Largest norm of a row's gradient over the norm of its weights, where weights are
        standardised.
    mixup : float
        Alpha of the Beta distribution of mixup's weights; 1 is uniform.
    """

    n: int
    arms: tuple[str, ...] = claims.ARMS
    pad: int = 0
    clip: float = 0.1
    mixup: float = 1.0
    points: int = 5

    def __post_init__(self) -> None:
        """Refuse impossible values."""
        check_positive(self, (*RESIDUAL_SIZES, "n"))
        check_distinct(self, AXES)
        check_known(self, "arms", claims.ARMS)


COLUMNS = {
    **RESIDUAL_COLUMNS,
    "learned": "numbers that the network learns; all others stay as they were drawn",
}


def network(run: Config, seeds: Sequence[int], in_channels: int) -> ResNet:
    """Make the networks of an arm, for several seeds: He's initial weights but for SELU."""
    from bnbook.layers import ensemble, norm
    from bnbook.networks import frozen, models, normaliser_free, unnormalised

    arm = run.arms[0]
    sizes: dict[str, Any] = {"n": run.n, "widths": run.widths, "in_channels": in_channels}
    if arm in (arms.FIXUP, arms.FIXUP_MIXUP):
        return unnormalised.FixupResNet(seeds, **sizes)
    if arm == arms.SKIPINIT:
        return unnormalised.SkipInitResNet(seeds, **sizes)
    if arm == arms.NORMALISER_FREE:
        return normaliser_free.NormaliserFreeResNet(seeds, limit=run.clip, **sizes)
    if arm == arms.SELF_NORMALISING:
        return normaliser_free.SelfNormalisingResNet(seeds, **sizes)
    make = None if arm == arms.WITHOUT else norm.FusedBatchNorm
    model = models.ResNet(make, seeds, init_std=ensemble.he, **sizes)
    if arm == arms.AFFINE_ONLY:
        frozen.affine_only(model)
    if arm == arms.OTHERS_ONLY:
        frozen.few_weights_only(model, seeds)
    return model


def train(runs: Sequence[Config], session: Session) -> list[pd.DataFrame]:
    """Train runs that differ in seed and learning rate as one ensemble."""
    from bnbook.setups import residual
    from bnbook.training import fit
    from bnbook.training.mixup import Mixup

    one = runs[0]
    device = str(fit.choose_device(session.device))
    images = residual.splits(
        one.data, one.side, one.train_images, one.validation, one.test_images, device
    )
    seeds = [run.seeds[0] for run in runs]
    model = network(one, seeds, images.train[0].shape[1]).to(device)
    learned = sum(parameter.numel() for parameter in model.parameters()) // len(runs)
    batches, streams = fit.streams(len(images.train[1]), one.batch_size, one.steps, seeds)
    options: dict[str, Any] = {"loss": residual.cross_entropy}
    if one.arms[0] in (arms.WITH_MIXUP, arms.FIXUP_MIXUP):
        mixup = Mixup(residual.cross_entropy, one.steps, one.mixup, device)
        options = {"loss": mixup.loss, "transform": mixup.transform}
    history = fit.fit(
        model, *images.train, batches, residual.optimiser(runs),
        probes=(residual._accuracies(one, model, images),),
        at=residual.measured_steps(one.steps, one.points), streams=streams, session=session,
        **options,
    )  # fmt: skip
    tables = [residual.table(run, history, member) for member, run in enumerate(runs)]
    return [table.assign(learned=learned) for table in tables]


PROFILES = {
    "quick": Config(
        data="digits", seeds=(0, 1, 2), side=8, validation=300, test_images=300, n=3,
        widths=(4, 8, 16), steps=40, batch_size=16, learning_rates=(0.003, 0.03, 0.1, 0.4),
        points=1,
    ),
    "standard": Config(
        data="cifar10 or mnist5k", seeds=tuple(range(7)), side=8, train_images=3500,
        validation=500, test_images=1000, n=5, widths=(8, 16, 32), steps=300, batch_size=32,
        learning_rates=(0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0),
    ),
}  # fmt: skip

EXPERIMENT = Experiment(
    name="without_bn",
    title="Without BN: how much of its gain other means recover",
    profiles=PROFILES,
    axes=AXES,
    fused=("seeds", "learning_rates"),
    train=train,
    needs={"arms": claims.ARMS},
    columns=COLUMNS,
    claims=claims.CLAIMS,
    facts=claims.facts,
    figures=figures.FIGURES,
)
