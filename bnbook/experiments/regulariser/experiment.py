"""BN as a regulariser: a factorial of BN, Dropout and L2, and the noise of BN's minibatches alone.

Fully connected networks that learn their few training images by heart, so that what differs is how
they generalise. Eight networks have BN or not, Dropout or not, L2 or not, and weak Dropout stands
beside them. In others BN normalises parts of the same minibatch by themselves, which changes
nothing but its noise; in the last the minibatches are composed once and for all, and their order
alone is drawn anew each epoch. At one seed all start from the same weights. Each network's rate is
chosen by other seeds than those that judge, from one grid.

Chosen here: everything but the questions, which are of the paper's sections 3.4 and 4.2.1. Dropout
follows every nonlinearity; L2 is of the weights alone, and not of gamma, beta and biases.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd

from bnbook.errors import BnbookError
from bnbook.experiments.experiment import Experiment, check_distinct, check_known, check_positive
from bnbook.experiments.regulariser import claims, figures
from bnbook.setups.images import ImageSetting
from bnbook.tables import choosing, right
from bnbook.training.session import Session

if TYPE_CHECKING:
    from torch import Tensor, nn

    from bnbook.setups.images import Splits

AXES = ("arms", "seeds", "learning_rates")
_COMPOSED = 0xC0_0000  # keeps the composition of minibatches apart from a seed's other draws


@dataclass(frozen=True, kw_only=True)
class Config(ImageSetting):
    """What a run depends on. A single run has one arm, seed and rate.

    Attributes
    ----------
    tuning_seeds : tuple of int
        Of the runs that choose rates, none of them among `seeds`.
    arms : tuple of str
        The networks, of `bnbook.experiments.regulariser.claims.ARMS`.
    train_images, test_images : int
        Images used, at most.
    steps, batch_size, points : int
        Length of training, images in a minibatch, and measurements after the start.
    dropout, weak_dropout : float
        Shares of the activations dropped.
    weight_decay : float
        Of L2.
    momentum : float
        Of SGD; the rate falls in a straight line to nearly 0.
    hidden : tuple of int
        Widths of the hidden layers.
    pool : int
        Side of the squares that images are averaged over.
    """

    tuning_seeds: tuple[int, ...]
    steps: int
    train_images: int
    test_images: int
    arms: tuple[str, ...] = tuple(claims.ARMS)
    batch_size: int = 64
    points: int = 5
    dropout: float = 0.5
    weak_dropout: float = 0.2
    weight_decay: float = 3e-3
    momentum: float = 0.9
    hidden: tuple[int, ...] = (100, 100, 100)
    pool: int = 2

    def __post_init__(self) -> None:
        """Refuse impossible values."""
        check_positive(self, ("steps", "train_images", "test_images", "points", "pool"))
        check_distinct(self, AXES)
        check_known(self, "arms", tuple(claims.ARMS))
        choosing.check(self)
        for arm in self.arms:
            together = claims.ARMS[arm].together
            if together and self.batch_size % together:
                raise BnbookError(
                    f"batch_size must be a multiple of the {together} images of {arm!r}, found"
                    f" {self.batch_size}."
                )


def train(runs: Sequence[Config], session: Session) -> list[pd.DataFrame]:
    """Train runs that differ in seed and rate as one ensemble, and measure them."""
    import torch

    from bnbook.layers import ensemble
    from bnbook.setups import residual
    from bnbook.training import fit

    one, device = runs[0], fit.choose_device(session.device)
    images = splits(
        one.data, one.pool, one.validation, one.train_images, one.test_images, str(device)
    )
    seeds = [run.seeds[0] for run in runs]
    model = network(one, seeds, images.train[0][0].numel()).to(device)
    arm = claims.ARMS[one.arms[0]]
    compose = fixed_minibatches if arm.fixed else fit.minibatches
    batches, streams = _streams(compose, len(images.train[1]), one, seeds)
    history = fit.fit(
        model, *images.train, batches,
        fit.SGD(
            [run.learning_rates[0] for run in runs], momentum=one.momentum, weights_only=True,
            weight_decay=one.weight_decay if arm.decay else 0.0,
            schedule=torch.linspace(1, 0, one.steps + 1)[:-1],
        ),
        ensemble.cross_entropy, [measure(model, images)],
        residual.measured_steps(one.steps, one.points), streams=streams, drop=False,
        session=session,
    )  # fmt: skip
    return [_table(run, history, member) for member, run in enumerate(runs)]


@functools.lru_cache(maxsize=1)
def splits(
    data: str, pool: int, validation: float, train_images: int, test_images: int, device: str
) -> Splits:
    """Load images, averaged over squares, grey taken for 0; few of them to train on."""
    from torch.nn import functional as F  # noqa: N812

    from bnbook.setups import images

    found = images.splits(data, validation, "cpu", left=train_images)
    return found.first(train_images, test_images).each(
        lambda x: F.avg_pool2d(x, pool) - 0.5, device
    )


def network(config: Config, seeds: Sequence[int], num_inputs: int) -> Any:
    """Make an arm's networks, for several seeds: He's initial weights, Dropout after each ReLU."""
    from torch import nn

    from bnbook.layers import ensemble, renorm
    from bnbook.layers.dropout import Dropout
    from bnbook.networks import models

    arm = claims.ARMS[config.arms[0]]
    shares = {claims.NONE: 0.0, claims.WEAK: config.weak_dropout, claims.FULL: config.dropout}
    made: list[nn.Module] = []

    def nonlinearity() -> nn.Module:
        made.append(nn.Sequential(nn.ReLU(), Dropout(shares[arm.dropout], seeds, len(made))))
        return made[-1]

    def normalised(features: int) -> nn.Module:
        layer = renorm.ReplicaBatchNorm(features, arm.together)
        layer.every_replica = True
        return layer

    return models.MLP(
        normalised if arm.bn else None, seeds, num_inputs=num_inputs, hidden=config.hidden,
        init_std=ensemble.he, nonlinearity=nonlinearity,
    )  # fmt: skip


def fixed_minibatches(num_examples: int, batch_size: int, steps: int, seed: int) -> Tensor:
    """Indices of minibatches that are composed once; their order is drawn anew each epoch.

    As `bnbook.training.fit.minibatches`, whose images are shuffled each epoch: the examples that
    fill no whole minibatch are left out, here the same ones throughout.
    """
    import torch

    per_epoch = num_examples // batch_size
    generator = torch.Generator().manual_seed(_COMPOSED + seed)
    composed = torch.randperm(num_examples, generator=generator)[: per_epoch * batch_size]
    epochs = [torch.randperm(per_epoch, generator=generator) for _ in range(-(-steps // per_epoch))]
    return composed.view(per_epoch, batch_size)[torch.cat(epochs)[:steps]]


def _streams(
    compose: Callable[[int, int, int, int], Tensor],
    num_examples: int,
    config: Config,
    seeds: Sequence[int],
) -> tuple[Tensor, list[int]]:
    """Return the minibatches of each seed and which of them a member sees, as `fit` takes them."""
    import torch

    distinct = sorted(set(seeds))
    each = [compose(num_examples, config.batch_size, config.steps, seed) for seed in distinct]
    return torch.stack(each, 1), [distinct.index(seed) for seed in seeds]


def measure(model: Any, images: Splits) -> Callable[[], dict[str, Tensor]]:
    """Return the probe of losses and accuracies, and of which test images are right."""
    import torch

    from bnbook.layers import ensemble
    from bnbook.probes import measurements

    def probe() -> dict[str, Tensor]:
        found, hits = {}, {}
        for name, (x, y) in zip(("training", "validation", "test"), images, strict=True):
            hits[name] = measurements.right(model, x, y)
            found[f"{name}_accuracy"] = measurements.share(hits[name])
            with measurements.undisturbed(model), torch.no_grad():
                model.eval()
                found[f"{name}_loss"] = ensemble.cross_entropy(model(x), y)
        return {**found, "right": hits["test"]}

    return probe


def _table(run: Config, history: Sequence[Mapping[str, Tensor]], member: int) -> pd.DataFrame:
    """Return a run's rows, one for each measured step; one that diverged guesses from there on.

    Which test images were right is kept of the runs that judge, in their last row.
    """
    rows: list[dict[str, Any]] = []
    tunes = run.seeds[0] in run.tuning_seeds
    for row in history:
        own = {name: float(row[name][member]) for name in MEASURED}
        diverged = int(row["diverged_at"][member])
        if diverged >= 0:
            own = {n: 0.1 if n.endswith("accuracy") else float("inf") for n in MEASURED}
        rows.append(
            {
                "arm": run.arms[0],
                "seed": run.seeds[0],
                "learning_rate": run.learning_rates[0],
                "tunes": tunes,
                "step": int(row["step"]),
                "diverged_at": diverged,
                "validation": 1 - own["validation_accuracy"],
                **own,
                "right": "",
            }
        )
    if not tunes and rows[-1]["diverged_at"] < 0:
        rows[-1]["right"] = right.pack(history[-1]["right"][member].tolist())
    return pd.DataFrame(rows)


MEASURED = (
    "training_loss", "training_accuracy", "validation_accuracy", "test_loss", "test_accuracy",
)  # fmt: skip

COLUMNS = {
    "arm": "the network; see `bnbook.experiments.regulariser.claims.ARMS`",
    "seed": "sets initial weights, minibatches and what is dropped",
    "learning_rate": "of SGD, at the first step",
    "tunes": choosing.TUNES,
    "step": "steps done when the row was measured",
    "diverged_at": "step whose loss was not finite, -1 for none so far",
    "validation": "error on images set aside, in [0, 1], by which rates are chosen",
    "training_loss": "of all training images in evaluation mode, nats",
    "training_accuracy": "of all training images in evaluation mode, in [0, 1]",
    "validation_accuracy": "in [0, 1]",
    "test_loss": "nats",
    "test_accuracy": "in [0, 1]",
    "right": f"of the runs that judge and lived, {right.COLUMN}",
}

EXPERIMENT = Experiment(
    name="regulariser",
    title="BN as a regulariser: Dropout, L2, noise and the composition of minibatches",
    profiles={
        "quick": Config(
            data="digits", seeds=(0, 1, 2), tuning_seeds=(100,), validation=300, train_images=320,
            test_images=360, steps=150, batch_size=32, hidden=(32, 32), pool=1, points=1,
            learning_rates=(0.01, 0.1, 1.0),
        ),
        "standard": Config(
            data="mnist or mnist5k", seeds=tuple(range(8)), tuning_seeds=(100, 101),
            validation=2000, train_images=1024, test_images=10_000, steps=960,
            learning_rates=(0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0),
        ),
    },
    axes=AXES,
    fused=("seeds", "learning_rates"),
    train=train,
    rounds=choosing.rounds,
    needs={"arms": tuple(claims.ARMS)},
    columns=COLUMNS,
    claims=claims.CLAIMS,
    facts=claims.facts,
    figures=figures.FIGURES,
)  # fmt: skip
