"""What leaks from one image of a minibatch to the others through BN's statistics.

A label that belongs to a whole scene is given to each of its images: of a scene labelled 1 three in
four images are of class 1 and the others of class 0; of a scene labelled 0 the other way round. So
by itself an image allows no more than three in four right. Each replica of a minibatch
holds one scene, so that its statistics tell which class most of its images are of. All networks
train on the same minibatches: BN of each replica by itself; BN after the images have been shuffled
between replicas; BN of all replicas together; GroupNorm. The trained networks are tested on images
alone, among mates of their scene, and among any mates.

After the detector's head of Wu & Johnson 2021, whose replica holds the regions of one image. Chosen
here: the task and the network, that of `bnbook.setups.convnets`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import pandas as pd

from bnbook.errors import BnbookError
from bnbook.experiments.batch_leak import claims, figures
from bnbook.experiments.batch_leak.claims import ALIKE, ALONE, ANY, ARMS, REPLICA, SHUFFLED, SYNC
from bnbook.experiments.experiment import Experiment, check_distinct, check_known, check_positive
from bnbook.setups import convnets
from bnbook.setups.convnets import ConvSetting
from bnbook.tables.arms import BN, GROUP_NORM
from bnbook.training.session import Session

if TYPE_CHECKING:
    from torch import Tensor

AXES = ("arms", "seeds", "learning_rates")
_TEST_STREAM = 0x7E57


@dataclass(frozen=True, kw_only=True)
class Config(ConvSetting):
    """A `ConvSetting` with the images of a replica, and the share that has the scene's class."""

    arms: tuple[str, ...] = ARMS
    replica: int = 8
    share: float = claims.SHARE

    def __post_init__(self) -> None:
        check_positive(self, (*convnets.SIZES, "replica"))
        check_distinct(self, AXES)
        check_known(self, "arms", ARMS)
        self.check_seeds()
        self.check_together("replica", (self.replica,))
        if not 0.5 < self.share < 1 or self.share * self.replica % 1:
            raise BnbookError(
                f"share must lie between 0.5 and 1 and be of whole images of {self.replica}, found"
                f" {self.share}."
            )

    @property
    def together(self) -> int:
        """Images that the arm of a single run normalises together."""
        return self.batch_size if self.arms == (SYNC,) else self.replica


def rounds(config: Config, table: pd.DataFrame) -> list[Config]:
    """Return the single runs that come next."""
    cells: dict[tuple[Any, ...], Mapping[str, Any]] = {
        (arm,): {"arms": (arm,)} for arm in config.arms
    }
    return convnets.rounds(config, table, cells, ("arm",))


class Scenes(NamedTuple):
    """Images of two classes, and those again: the first half labelled 0, the second 1."""

    images: Tensor
    labels: Tensor
    classes: Tensor

    @classmethod
    def of(cls, images: Tensor, labels: Tensor) -> Scenes:
        """Take the images of classes 0 and 1."""
        import torch

        two = labels < 2
        x, classes = images[two], labels[two]
        return cls(x.repeat(2, 1, 1, 1), torch.arange(2).repeat_interleave(len(x)), classes)

    def minibatches(self, config: Config, steps: int, seed: int, *, shuffled: bool) -> Tensor:
        """Draw minibatches of scenes, one a replica, or their images shuffled between replicas.

        The result is (steps, batch_size), int64: indices of an image with its scene's label. Images
        may come twice. A seed draws the same images whether `shuffled` or not; shuffled ones come
        in random order within their minibatch.
        """
        import torch

        generator = torch.Generator().manual_seed(seed)
        replicas = steps * config.batch_size // config.replica
        label = torch.randint(2, (replicas, 1), generator=generator)
        ranks = torch.rand(replicas, config.replica, generator=generator).argsort(1)
        agrees = ranks < round(config.share * config.replica)
        of = torch.where(agrees, label, 1 - label)
        order, counts = self.classes.cpu().argsort(stable=True), self.classes.cpu().bincount()
        drawn = torch.rand(of.shape, generator=generator, dtype=torch.float64)
        found = order[of * counts[0] + (drawn * counts[of]).long()] + label * len(self.classes)
        found = found.view(steps, config.batch_size)
        mixed = torch.rand(found.shape, generator=generator).argsort(1)
        return found.gather(1, mixed) if shuffled else found


def train(runs: Sequence[Config], session: Session) -> list[pd.DataFrame]:
    """Train runs that differ in seed and rate as one ensemble, and test them."""
    import torch

    from bnbook.training import fit

    config = runs[0]
    split = convnets.splits(config, fit.choose_device(session.device))
    training = Scenes.of(*split.train)
    images = training.images
    seeds, (arm,) = [run.seeds[0] for run in runs], config.arms
    norm = GROUP_NORM if arm == GROUP_NORM else BN
    model = convnets.network(norm, seeds, images.shape[1], config, config.together, 2)
    model = model.to(images.device)
    distinct, shuffled = sorted(set(seeds)), arm == SHUFFLED
    each = [
        training.minibatches(config, config.steps, seed, shuffled=shuffled) for seed in distinct
    ]
    batches = torch.stack(each, 1) if len(each) > 1 else each[0]
    streams = [distinct.index(seed) for seed in seeds]
    data = images, training.labels.to(images.device)
    last = convnets.train(runs, session, model, data, batches, streams)
    rows = tested(model, split, config)
    return [convnets.tidy(run, rows, last, member, arm=arm) for member, run in enumerate(runs)]


def tested(model: Any, split: Any, config: Config) -> list[dict[str, Any]]:
    """Accuracies of the members, (E,) each, alone and among mates."""
    from bnbook.probes import measurements

    def drawn(part: tuple[Tensor, Tensor], *, shuffled: bool) -> tuple[Tensor, Tensor]:
        scenes, steps = Scenes.of(*part), config.test_images // config.batch_size
        of = scenes.minibatches(config, steps, _TEST_STREAM, shuffled=shuffled).flatten()
        return scenes.images[of], scenes.labels[of]

    validation, test = (drawn(part, shuffled=False) for part in (split.validation, split.test))
    alone = {
        "mates": ALONE,
        "validation_accuracy": measurements.accuracy(model, *validation),
        "test_accuracy": measurements.accuracy(model, *test),
    }
    if config.arms == (GROUP_NORM,):
        return [alone]
    rows = [
        {
            "mates": mates,
            "test_accuracy": measurements.share(
                convnets.right_with_mates(model, *drawn(split.test, shuffled=shuffled))
            ),
        }
        for mates, shuffled in ((ALIKE, False), (ANY, True))
    ]
    return [alone, *rows]


COLUMNS = {
    "arm": "what is normalised together",
    **convnets.COLUMNS,
    "mates": "alone, with the running statistics, or among which images, with the minibatch's own",
    "validation_accuracy": "in [0, 1], of images alone, else NaN",
    "test_accuracy": "in [0, 1], share of images of new scenes whose scene's label is found",
}

EXPERIMENT = Experiment(
    name="batch_leak",
    title="What leaks between the images of a minibatch",
    profiles={
        "quick": Config(
            data="mnist5k", seeds=(0, 1, 2),
            learning_rates=(0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0),
            validation=1000, train_images=3000, test_images=640, examples=6400, pool=4,
            widths=(8, 16, 16),
        ),
        "standard": Config(
            data="mnist or fashion-mnist or mnist5k", seeds=(5, 6, 7, 8, 9),
            tuning_seeds=(100, 101, 102), validation=5000, train_images=20_000,
            learning_rates=(0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0),
            test_images=8000, examples=32_000, pool=4,
        ),
    },
    axes=AXES,
    fused=("seeds", "learning_rates"),
    train=train,
    rounds=rounds,
    needs={"arms": (REPLICA, SHUFFLED, SYNC, GROUP_NORM)},
    columns=COLUMNS,
    claims=claims.CLAIMS,
    facts=claims.facts,
    figures=figures.FIGURES,
)  # fmt: skip
