"""Ioffe & Szegedy 2015, sections 3.1, 3.2 and 5: other optimisers, and the shape of what BN sees.

Fully connected networks, with and without BN right before each nonlinearity, trained by SGD, by
Adagrad and by gradient descent on full batches. Each arm's rate is chosen from one grid by seeds
that are not shown. Before the first step and after the last, the distributions of u, the input of a
hidden layer, and of Wu + b, which the nonlinearity or BN receives, are compared with a Gaussian.

Chosen here: everything; the paper names the methods and shows no run of the last two, and gives no
measure of "more Gaussian".
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd

from bnbook.experiments.experiment import Experiment, check_distinct, check_known, check_positive
from bnbook.experiments.ioffe_optimisers import claims, figures
from bnbook.experiments.ioffe_optimisers.claims import ADAGRAD, FULL_BATCH
from bnbook.tables import choosing
from bnbook.tables.arms import RELU, WITH

if TYPE_CHECKING:
    from torch import Tensor, nn

    from bnbook.setups.images import Splits


@dataclass(frozen=True, kw_only=True)
class Config:
    """What a run depends on. A single run has one arm, seed and rate."""

    seeds: tuple[int, ...]
    tuning_seeds: tuple[int, ...]
    learning_rates: tuple[float, ...]  # of all three methods
    data: str
    train_images: int  # images trained on, which are a full batch
    validation: int  # training images set aside to choose by
    steps: int  # of SGD and Adagrad
    full_steps: int  # of full batches
    arms: tuple[str, ...] = claims.ARMS
    batch_size: int = 60
    hidden: tuple[int, ...] = (100, 100, 100)  # widths of the hidden layers
    init_std: float = 0.1  # standard deviation of the initial weights under sigmoids
    pool: int = 2  # side of the squares that images are averaged over
    points: int = 50  # measurements after the start, evenly spread over the steps

    def __post_init__(self) -> None:
        """Refuse impossible values."""
        sizes = ("train_images", "validation", "steps", "full_steps", "batch_size", "pool")
        check_positive(self, (*sizes, "points"))
        check_distinct(self, ("seeds", "arms", "learning_rates"))
        check_known(self, "arms", claims.ARMS)
        choosing.check(self)


SHAPES = {
    "distance": "Wasserstein distance from a Gaussian of the same two moments, in deviations",
    "skewness": "magnitude of the skewness",
    "kurtosis": "magnitude of the excess kurtosis",
    "near_zero": "share of values below a twentieth of their unit's root mean square",
}
COLUMNS = {
    "arm": "the method, the nonlinearity, and whether there is BN",
    "seed": "sets initial weights and minibatches",
    "learning_rate": "of the method",
    "tunes": choosing.TUNES,
    "step": "steps done when the row was measured",
    "loss": "loss on all training images, nats",
    "validation": "loss on what is set aside to choose rates, nats; infinite once a run diverged",
    "test_accuracy": "of the test images, in [0, 1]",
    "diverged_at": "step whose loss was not finite; -1 for none",
    **{
        f"{of}_{name}": f"of {what}, mean over units and layers after the first: {shape}; in the"
        " first and the last row"
        for of, what in (("u", "u, a layer's input"), ("wu", "Wu + b"))
        for name, shape in SHAPES.items()
    },
}


def splits(run: Config, device: Any) -> Splits:
    """Load the images as vectors, averaged over squares."""
    from torch.nn import functional

    from bnbook.setups import images

    def vectors(x: Tensor) -> Tensor:
        return functional.avg_pool2d(x, run.pool).flatten(1)

    return images.splits(run.data, run.validation, device, vectors).first(run.train_images, 0)


def network(run: Config, num_inputs: int) -> Any:
    """Return the network of a single run at its start."""
    from torch import nn

    from bnbook.layers import ensemble, norm
    from bnbook.networks.models import MLP

    _, nonlinearity, arm = claims.parts(run.arms[0])
    relu = nonlinearity == RELU
    return MLP(
        norm.FusedBatchNorm if arm == WITH else None,
        run.seeds,
        num_inputs=num_inputs,
        hidden=run.hidden,
        init_std=ensemble.he if relu else run.init_std,
        nonlinearity=nn.ReLU if relu else nn.Sigmoid,
    )


def minibatches(run: Config, images: int) -> Iterator[Any]:
    """Return the indices of each step's images, all of them for full batches."""
    from bnbook.training import fit

    if claims.parts(run.arms[0])[0] == FULL_BATCH:
        return iter([slice(None)] * run.full_steps)
    return iter(fit.minibatches(images, run.batch_size, run.steps, run.seeds[0]))


def measure(run: Config, device: Any) -> pd.DataFrame:
    """Train one network and measure it on the way; a run ends where its loss is not finite."""
    import torch

    from bnbook.layers import ensemble
    from bnbook.setups import residual

    data = splits(run, device)
    x, y = data.train
    model = network(run, x.shape[1]).to(device)
    adagrad = claims.parts(run.arms[0])[0] == ADAGRAD
    make = torch.optim.Adagrad if adagrad else torch.optim.SGD
    optimiser = make(model.parameters(), lr=run.learning_rates[0])
    batches = list(minibatches(run, len(y)))
    at, last = set(residual.measured_steps(len(batches), run.points)), len(batches)
    rows = {0: measured(model, data) | shapes(model, data.validation[0])}
    for step, batch in enumerate(batches, 1):
        model.train()
        optimiser.zero_grad()
        loss = ensemble.cross_entropy(model(x[batch]), y[batch]).sum()
        loss.backward()
        optimiser.step()
        if not math.isfinite(float(loss.detach())):
            rows[step] = {"validation": math.inf}
            break
        if step in at:
            rows[step] = measured(model, data)
    lived = last in rows and math.isfinite(rows[last]["validation"])
    if lived:
        rows[last] |= shapes(model, data.validation[0])
    table = pd.DataFrame(
        {
            "arm": run.arms[0], "seed": run.seeds[0], "learning_rate": run.learning_rates[0],
            "tunes": run.seeds[0] in run.tuning_seeds, "step": step,
            "diverged_at": -1 if lived else max(rows), **row,
        }
        for step, row in rows.items()
    )  # fmt: skip
    return table.reindex(columns=list(COLUMNS))


def measured(model: nn.Module, data: Splits) -> dict[str, float]:
    """Losses and accuracy of a network as it stands, in evaluation."""
    import torch

    from bnbook.layers import ensemble
    from bnbook.probes import measurements

    with measurements.undisturbed(model), torch.no_grad():
        model.eval()
        losses = [float(ensemble.cross_entropy(model(x), y)) for x, y in data[:2]]
    return {
        "loss": losses[0],
        "validation": math.inf if math.isnan(losses[1]) else losses[1],
        "test_accuracy": float(measurements.accuracy(model, *data.test)),
    }


def shapes(model: Any, images: Tensor) -> dict[str, float]:
    """Shapes of the distributions of u and Wu + b, means over units and layers after the first.

    The images pass as one training batch; a unit that is constant has no shape.
    """
    import torch

    from bnbook.layers.ensemble import Linear
    from bnbook.probes import gaussian, measurements

    layers = model.layers()
    linear = [at for at, layer in enumerate(layers) if isinstance(layer, Linear)][1:-1]
    found = {}
    for of, places in (("u", linear), ("wu", [at + 1 for at in linear])):
        values = torch.cat([measurements.inputs_to(layers[at], model, images) for at in places], -1)
        for name, each in gaussian.shapes(values).items():
            found[f"{of}_{name}"] = float(each.nanmean())
    return found


EXPERIMENT = Experiment(
    name="ioffe_optimisers",
    title="BN with SGD, Adagrad and full batches, and the shape of its input"
    " (Ioffe & Szegedy, sections 3.1, 3.2 and 5)",
    profiles={
        "quick": Config(
            data="digits", seeds=(0, 1, 2), tuning_seeds=(100,), train_images=800, validation=300,
            steps=120, full_steps=60, learning_rates=(0.01, 0.1, 1.0), hidden=(32, 32), pool=1,
            points=20,
        ),
        "standard": Config(
            data="mnist5k", seeds=(10, 11, 12, 13, 14), tuning_seeds=(100,),
            train_images=3000, validation=1000, steps=600, full_steps=150,
            learning_rates=(0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0),
        ),
    },
    axes=("arms", "seeds", "learning_rates"),
    measure=measure,
    rounds=choosing.rounds,
    needs={"arms": claims.ARMS},
    columns=COLUMNS,
    claims=claims.CLAIMS,
    facts=claims.facts,
    figures=figures.FIGURES,
)  # fmt: skip
