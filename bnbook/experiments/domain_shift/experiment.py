"""Images that differ from those of training: statistics estimated again, at once or on the way.

ConvNets with BN and with GroupNorm are trained on plain images and tested on images with less
contrast, with noise and with blur. BN's statistics are those of training, or those of a number of
unlabelled images changed alike, or each test minibatch's own. Then a stream of test images whose
contrast falls as it goes on: with BN's statistics held, moving along, or of each minibatch.

After Wu & Johnson 2021, who estimate the statistics of a ResNet-50 on ImageNet-C again, and Li et
al. 2016 (AdaBN). Chosen here: the network of `bnbook.setups.convnets`, the changes and their size.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd

from bnbook.errors import BnbookError
from bnbook.experiments.domain_shift import claims, figures
from bnbook.experiments.domain_shift.claims import ARMS, BLUR, CONTRAST, DRIFT, MOVING, NOISE, PLAIN
from bnbook.experiments.experiment import Experiment, check_distinct, check_known, check_positive
from bnbook.setups import convnets
from bnbook.setups.convnets import ConvSetting
from bnbook.tables.arms import ADAPTED, BN, MIXED, RUNNING
from bnbook.training.session import Session

if TYPE_CHECKING:
    from torch import Tensor

AXES = ("arms", "seeds", "learning_rates")


@dataclass(frozen=True, kw_only=True)
class Config(ConvSetting):
    """A `ConvSetting` with the changes of the test images."""

    arms: tuple[str, ...] = ARMS
    contrast: float = 0.3  # factor on an image's distance from its mean; at the end of the stream
    noise: float = 0.15  # standard deviation of Gaussian noise, of intensities in [0, 1]
    blur: int = 3  # side of the square that is averaged over around each pixel, odd
    adapting: tuple[int, ...]  # numbers of unlabelled images for the new statistics

    def __post_init__(self) -> None:
        check_positive(self, (*convnets.SIZES, "blur"))
        check_distinct(self, (*AXES, "adapting"))
        check_known(self, "arms", ARMS)
        self.check_seeds()
        if not 0 < self.contrast < 1 or self.noise <= 0 or not self.blur % 2:
            raise BnbookError(
                "contrast must lie between 0 and 1, noise be positive and blur odd, found"
                f" {self.contrast}, {self.noise} and {self.blur}."
            )
        if min(self.adapting) < 2 or max(self.adapting) > self.validation:
            raise BnbookError(
                f"adapting must lie from 2 to the {self.validation} validation images, found"
                f" {self.adapting}."
            )


def rounds(config: Config, table: pd.DataFrame) -> list[Config]:
    """Return the single runs that come next; rates are chosen on plain images."""
    if not table.empty:
        table = table[(table["domain"] == PLAIN) & (table["statistics"] == RUNNING)]
    cells: dict[tuple[Any, ...], Mapping[str, Any]] = {
        (arm,): {"arms": (arm,)} for arm in config.arms
    }
    return convnets.rounds(config, table, cells, ("arm",))


def changed(images: Tensor, domain: str, config: Config, seed: int = 0) -> Tensor:
    """Return images as another camera would give them; nothing is clipped."""
    import torch
    from torch.nn import functional

    if domain == CONTRAST:
        return convnets.faded(images, config.contrast)
    if domain == NOISE:
        drawn = torch.randn(images.shape, generator=torch.Generator().manual_seed(seed))
        return images + config.noise * drawn.to(images)
    if domain == BLUR:
        margin = config.blur // 2
        padded = functional.pad(images, (margin,) * 4, mode="replicate")
        return functional.avg_pool2d(padded, config.blur, stride=1)
    return images


def train(runs: Sequence[Config], session: Session) -> list[pd.DataFrame]:
    """Train runs that differ in seed and rate as one ensemble, and test them on changed images."""
    from bnbook.training import fit

    config = runs[0]
    split = convnets.splits(config, fit.choose_device(session.device))
    images, labels = split.train
    seeds, (arm,) = [run.seeds[0] for run in runs], config.arms
    model = convnets.network(arm, seeds, images.shape[1], config, config.batch_size)
    model = model.to(images.device)
    batches, streams = fit.streams(len(labels), config.batch_size, config.steps, seeds)
    last = convnets.train(runs, session, model, split.train, batches, streams)
    rows = [row for domain in claims.DOMAINS for row in _tested(model, split, domain, config)]
    rows += _along(model, split, config)
    return [convnets.tidy(run, rows, last, member, arm=arm) for member, run in enumerate(runs)]


def _tested(model: Any, split: Any, domain: str, config: Config) -> list[dict[str, Any]]:
    """Accuracies of the members, (E,) each, on one kind of images; the model stays as it is."""
    from bnbook.probes import measurements

    (images, labels), (unlabelled, own) = split.test, split.validation
    moved, held = changed(images, domain, config, 1), dict[str, Any]()
    if domain == PLAIN:
        held = {"validation_accuracy": measurements.accuracy(model, unlabelled, own)}

    def row(statistics: str, number: int = 0, right: Any = None) -> dict[str, Any]:
        right = measurements.right(model, moved, labels) if right is None else right
        return {
            "domain": domain,
            "statistics": statistics,
            "adapting": number,
            **(held if statistics == RUNNING else {}),
            "test_accuracy": measurements.share(right),
        }

    rows = [row(RUNNING)]
    if config.arms != (BN,):
        return rows
    rows.append(row(MIXED, right=convnets.right_with_mates(model, moved, labels)))
    others = changed(unlabelled, domain, config, 2)
    for number in config.adapting:
        with measurements.undisturbed(model), adapted(model, others[:number]):
            rows.append(row(ADAPTED, number))
    return rows


@contextmanager
def adapted(model: Any, images: Any) -> Iterator[None]:
    """Give a network the statistics of these images as one minibatch; its weights stay.

    On leaving, the layers' settings are put back; the statistics are the caller's to restore.
    """
    layers = convnets.replica_layers(model)
    before = [(layer.batch_size, layer.momentum, layer.every_replica) for layer in layers]
    for layer in layers:
        layer.batch_size = len(images)
    convnets.take_population(model, images, len(images))
    try:
        yield
    finally:
        for layer, held in zip(layers, before, strict=True):
            layer.batch_size, layer.momentum, layer.every_replica = held


def _along(model: Any, split: Any, config: Config) -> list[dict[str, Any]]:
    """Accuracies over the later half of a stream whose contrast falls.

    With the statistics of training, with running ones that go on with each minibatch before it is
    classified, and with each minibatch's own.
    """
    import torch

    from bnbook.probes import measurements

    images, labels = split.test
    whole = len(labels) // config.batch_size * config.batch_size
    factors = torch.linspace(1, config.contrast, whole)
    stream, labels = convnets.faded(images[:whole], factors), labels[:whole]
    found = {RUNNING: measurements.right(model, stream, labels)}
    if config.arms == (BN,):
        found[MIXED] = convnets.right_with_mates(model, stream, labels)
        found[MOVING] = _moving(model, stream, labels, config.batch_size)
    half = whole // 2
    return [
        {
            "domain": DRIFT,
            "statistics": statistics,
            "adapting": 0,
            "test_accuracy": measurements.share(right[:, half:]),
        }
        for statistics, right in found.items()
    ]


def _moving(model: Any, stream: Any, labels: Any, size: int) -> Any:
    """Say which images are right when each minibatch moves the running statistics first."""
    import torch

    from bnbook.probes import measurements

    right = []
    with measurements.undisturbed(model), torch.no_grad():
        for x, y in zip(stream.split(size), labels.split(size), strict=True):
            model.train()
            model(x)
            right.append(measurements.right(model, x, y))
    return torch.cat(right, 1)


COLUMNS = {
    "arm": "the normalisation",
    **convnets.COLUMNS,
    "domain": "what was done to the test images",
    "statistics": "with which the trained network is evaluated",
    "adapting": "unlabelled images, changed alike, that new statistics are taken of; 0 for none",
    "validation_accuracy": "in [0, 1], of plain images, else NaN",
    "test_accuracy": "in [0, 1]; of a stream over its later half",
}

EXPERIMENT = Experiment(
    name="domain_shift",
    title="Statistics estimated again on images that differ",
    profiles={
        "quick": Config(
            data="mnist5k", seeds=(0, 1, 2), learning_rates=(0.01, 0.03, 0.1, 0.3, 1.0),
            validation=320, train_images=2000, test_images=640, examples=9600, pool=4,
            widths=(8, 16, 16), adapting=(8, 32, 256), noise=0.3,
        ),
        "standard": Config(
            data="cifar10", seeds=(0, 1, 2, 3, 4), validation=2000, train_images=10_000,
            learning_rates=(0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0), test_images=4000,
            examples=20_000, adapting=(2, 8, 32, 128, 1024),
        ),
    },
    axes=AXES,
    fused=("seeds", "learning_rates"),
    train=train,
    rounds=rounds,
    needs={"arms": ARMS},
    columns=COLUMNS,
    claims=claims.CLAIMS,
    facts=claims.facts,
    figures=figures.FIGURES,
)  # fmt: skip
