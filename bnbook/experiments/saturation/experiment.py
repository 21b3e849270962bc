"""Saturating nonlinearities: how deep a network of sigmoids or tanhs still trains, and why.

Fully connected networks of several depths, with and without BN before each nonlinearity, train by
plain SGD. For each the rate and the size of the initial weights, Xavier's or four times as large,
are chosen together from one grid by seeds that judge nothing. Saturated activations and gradients
are measured layer by layer on one batch of training images, before training and on the way.

Chosen here: everything. The paper's section 1 argues and shows no experiment; its Inception network
of sigmoids (section 4.2.2) is in another chapter. Four times Xavier's weights make up for the
sigmoid's slope, which is a quarter at most.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import TYPE_CHECKING, Any

import pandas as pd

from bnbook.experiments.experiment import Experiment, check_distinct, check_known, check_positive
from bnbook.experiments.saturation import claims, figures
from bnbook.setups.images import ImageSetting
from bnbook.tables import choosing
from bnbook.tables.arms import SIGMOID, WITH, WITHOUT
from bnbook.training.session import Session

if TYPE_CHECKING:
    from torch import Tensor

AXES = ("nonlinearities", "depths", "arms", "starts", "seeds", "learning_rates")


@dataclass(frozen=True, kw_only=True)
class Config(ImageSetting):
    """What a run depends on. A single run has one value on each axis.

    Attributes
    ----------
    tuning_seeds : tuple of int
        Of the runs that choose rates and starts, none of them among `seeds`.
    nonlinearities, arms : tuple of str
        The networks.
    depths : tuple of int
        Hidden layers, rising.
    starts : tuple of float
        Standard deviation of the initial weights over Xavier's.
    width : int
        Units of a hidden layer.
    pool : int
        Side of the squares that images are averaged over.
    steps, batch_size, points : int
        Length of training, images in a minibatch, and measurements after the start.
    probe_images : int
        Training images on which saturation is measured, as one batch.
    """

    tuning_seeds: tuple[int, ...]
    steps: int
    nonlinearities: tuple[str, ...] = claims.NONLINEARITIES
    depths: tuple[int, ...]
    arms: tuple[str, ...] = (WITHOUT, WITH)
    starts: tuple[float, ...] = (1.0, 4.0)
    width: int = 50
    pool: int = 2
    batch_size: int = 50
    points: int = 4
    probe_images: int = 200

    def __post_init__(self) -> None:
        """Refuse impossible values."""
        check_positive(self, ("steps", "width", "pool", "batch_size", "points", "probe_images"))
        check_distinct(self, AXES)
        check_known(self, "arms", (WITHOUT, WITH))
        check_known(self, "nonlinearities", claims.NONLINEARITIES)
        choosing.check(self)


def rounds(config: Config, table: pd.DataFrame) -> list[Config]:
    """Return the runs to make next: all that tune, then each network as they chose."""
    done = set() if table.empty else set(table[claims.RUN].itertuples(index=False, name=None))
    cells = list(product(config.nonlinearities, config.depths, config.arms))
    grid = product(config.starts, config.tuning_seeds, config.learning_rates)
    wanted = [(*cell, *run) for cell, run in product(cells, grid)]
    if set(wanted) <= done:
        chosen = claims.chosen(table)
        wanted = [
            (*cell, chosen[cell][0], s, chosen[cell][1]) for cell in cells for s in config.seeds
        ]
    missing: list[dict[str, Any]] = [
        {axis: (value,) for axis, value in zip(AXES, run, strict=True)}
        for run in wanted
        if run not in done
    ]
    return [replace(config, **run) for run in missing]


def train(runs: Sequence[Config], session: Session) -> list[pd.DataFrame]:
    """Train runs that differ in seed and rate as one ensemble, and measure them."""
    from torch.nn import functional as F  # noqa: N812

    from bnbook.layers import ensemble
    from bnbook.probes import saturation, shift
    from bnbook.setups import images as setup
    from bnbook.setups import residual
    from bnbook.training import fit

    one, device = runs[0], fit.choose_device(session.device)
    images = setup.splits(
        one.data, one.validation, device, lambda x: 2 * F.avg_pool2d(x, one.pool) - 1
    )
    model = network(one, [run.seeds[0] for run in runs], images.train[0][0].numel()).to(device)
    layers = shift.layers_of(model.hidden)
    x, y = (each[: one.probe_images] for each in images.train)

    def saturated() -> dict[str, Tensor]:
        def objective() -> Tensor:
            return ensemble.cross_entropy(model(x), y)

        return saturation.measure(model, layers, objective)._asdict()

    def held() -> dict[str, Tensor]:
        scores = model(images.validation[0])
        return {
            "validation": ensemble.cross_entropy(scores, images.validation[1]),
            **setup.accuracies(model, images)(),
        }

    history = setup.train(
        runs, session, model, images, one.batch_size, one.steps,
        probes=(saturated, held), at=residual.measured_steps(one.steps, one.points), drop=False,
    )  # fmt: skip
    return [_table(run, history, member) for member, run in enumerate(runs)]


def network(run: Config, seeds: Sequence[int], num_inputs: int) -> Any:
    """Make a run's networks; at one seed all start from the same Gaussian draws, scaled."""
    from torch import nn

    from bnbook.layers import ensemble, norm
    from bnbook.networks import models

    kinds = {SIGMOID: nn.Sigmoid, claims.TANH: nn.Tanh}
    (start,) = run.starts
    return models.MLP(
        norm.BatchNorm if run.arms[0] == WITH else None,
        seeds,
        num_inputs=num_inputs,
        hidden=(run.width,) * run.depths[0],
        init_std=lambda layer: start * ensemble.xavier(layer),
        nonlinearity=kinds[run.nonlinearities[0]],
    )


def _table(run: Config, history: Sequence[Mapping[str, Tensor]], member: int) -> pd.DataFrame:
    """Return a run's rows, one for each measured step and layer; of a tuning run two steps'.

    A run whose loss was not finite has an infinite validation loss from there on, and guesses.
    """
    tunes = run.seeds[0] in run.tuning_seeds
    key = {axis: getattr(run, name)[0] for axis, name in zip(claims.RUN, AXES, strict=True)}
    rows = []
    for row in (history[0], history[-1]) if tunes else history:
        diverged = int(row["diverged_at"][member])
        held = {name: float(row[name][member]) for name in HELD}
        if diverged >= 0:
            held = {"validation": float("inf"), **dict.fromkeys(HELD[1:], 0.1)}
        own = {"tunes": tunes, "step": int(row["step"]), "diverged_at": diverged, **held}
        for layer in range(run.depths[0]):
            measured = {name: float(row[name][member, layer]) for name in claims.MEASURED}
            rows.append({**key, **own, "layer": layer + 1, **measured})
    return pd.DataFrame(rows)


HELD = ("validation", "validation_accuracy", "test_accuracy")

COLUMNS = {
    "nonlinearity": "of the hidden layers",
    "depth": "hidden layers",
    "arm": "with BN before each nonlinearity, or without BN",
    "start": "standard deviation of the initial weights over Xavier's",
    "seed": "sets initial weights and minibatches",
    "learning_rate": "of plain SGD",
    "tunes": choosing.TUNES,
    "step": "steps done when the row was measured",
    "diverged_at": "step whose loss was not finite, -1 for none so far",
    "validation": "loss on images set aside, nats; infinite once a run diverged",
    "validation_accuracy": "of the images set aside, in [0, 1]",
    "test_accuracy": "in [0, 1]",
    "layer": "hidden layer, from 1",
    "share": "saturated activations, of all units and images, in [0, 1]; see"
    " `bnbook.probes.saturation`",
    "slope": "mean slope of the nonlinearity over its largest, in [0, 1]",
    "input_gradient": "root mean square derivative of an image's loss by the inputs to the"
    " nonlinearities",
    "weight_gradient": "norm of the gradient of the layer's weights",
}

EXPERIMENT = Experiment(
    name="saturation",
    title="Saturating nonlinearities: saturation, gradients and depth",
    profiles={
        "quick": Config(
            data="digits", seeds=(0, 1, 2), tuning_seeds=(100,), validation=300, steps=100,
            depths=(3, 12), learning_rates=(0.01, 0.1, 1.0, 10.0), pool=1, width=20, points=2,
        ),
        "standard": Config(
            data="mnist5k", seeds=(0, 1, 2, 3, 4), tuning_seeds=(100, 101), validation=500,
            steps=1000, depths=(3, 5, 8, 12, 20),
            learning_rates=(0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0),
        ),
    },
    axes=AXES,
    fused=("seeds", "learning_rates"),
    train=train,
    rounds=rounds,
    needs={"arms": (WITHOUT, WITH), "nonlinearities": claims.NONLINEARITIES},
    columns=COLUMNS,
    claims=claims.CLAIMS,
    facts=claims.facts,
    figures=figures.FIGURES,
)  # fmt: skip
