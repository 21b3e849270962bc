"""Bjorck et al. 2018, figure 4: the update that diverges, applied bit by bit.

A network without BN trains by plain SGD, nothing clipped. The smallest rate at which one of its
first updates takes the loss of the next minibatch above 10^3 is its edge, found by bisection. At a
stated multiple of the edge, the first update that diverges is applied from 0 to 100 % of its size,
and the mean and variance of every channel are recorded on the next minibatch. For contrast a BN
network with the same convolutions trains on the same minibatches at the same rate, and the update
with the same number is applied in the same way; once as it is, and once made as long as the
diverging one.

Known of the paper at second hand: the threshold, layers 8, 44 and 80 of 110; from the picture: heat
maps of channel means and variances, and their ranges. Chosen here: the multiple of the edge, the
number of updates, plain SGD, and that a layer is its convolution's output, before any
normalisation. At the edge itself little happens to the moments, since the loss has only just passed
10^3; the paper's variances of 10^16 lie far beyond it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pandas as pd

from bnbook.errors import BnbookError
from bnbook.experiments.bjorck_fig4 import claims, figures
from bnbook.experiments.experiment import Experiment, check_distinct, check_positive
from bnbook.setups.settings import FirstSteps
from bnbook.tables.arms import AS_LONG, WITH, WITHOUT
from bnbook.tables.start import check_layers

if TYPE_CHECKING:
    from torch import Tensor

    from bnbook.networks.models import ResNet
    from bnbook.setups.first_steps import Batch


@dataclass(frozen=True, kw_only=True)
class Config(FirstSteps):
    """`FirstSteps`, and how the update that diverges is looked for and applied.

    Attributes
    ----------
    learning_rates : tuple of float
        Tried from the smallest on, until one diverges.
    halvings : int
        Bisections, in the logarithm, between the rate that diverges and the one before it.
    times : float
        The rate of the update that is applied, over the smallest one that was found to diverge.
    updates : int
        Updates at each rate, at most.
    fractions : int
        Into how many equal parts the update is cut.
    layers : tuple of int
        Convolutions whose channels are recorded one by one, counted from 1.
    """

    learning_rates: tuple[float, ...] = (0.0001, 0.0003, 0.001, 0.003, 0.01, 0.1)
    halvings: int = 4
    times: float = 3.0
    updates: int = 5
    fractions: int = 10
    layers: tuple[int, ...] = claims.LAYERS

    def __post_init__(self) -> None:
        """Refuse impossible values."""
        check_positive(self, ("batch_size", "updates", "fractions", "n"))
        check_distinct(self, ("seeds", "learning_rates", "layers"))
        check_layers(self.layers, self.n)
        if self.times < 1 or self.halvings < 0:
            found = f"{self.times} and {self.halvings}"
            raise BnbookError(f"times must be at least 1 and halvings at least 0, found {found}.")
        rates = self.learning_rates
        if min(rates) <= 0 or list(rates) != sorted(rates):
            raise BnbookError(f"learning_rates must be positive and rising, found {rates}.")


@dataclass(frozen=True)
class Update:
    """An update that is not yet made.

    Attributes
    ----------
    model : ResNet
        Before it.
    change : list of Tensor
        What it adds to the parameters.
    rate : float
        The learning rate.
    number : int
        From 1.
    diverges : bool
        Whether the next minibatch's loss after it is above the threshold, or not finite.
    """

    model: ResNet
    change: list[Tensor]
    rate: float
    number: int
    diverges: bool

    @property
    def length(self) -> float:
        """Distance that it moves the parameters."""
        from bnbook.probes import landscape

        return landscape.norm(self.change)


def measure(run: Config, device: Any) -> pd.DataFrame:
    """Apply the diverging update of one seed, and its two counterparts with BN."""
    from bnbook.setups import first_steps

    seed = run.seeds[0]
    batches = first_steps.minibatches(run.data, run.batch_size, run.updates + 1, seed, device)
    smallest = edge(run, batches)
    update = _update(run, WITHOUT, run.times * smallest, batches, None)
    other = _update(run, WITH, update.rate, batches, update.number)
    factor = update.length / other.length
    longer = replace(other, change=[factor * change for change in other.change])
    arms = {WITHOUT: update, WITH: other, AS_LONG: longer}
    tables = [_applied(run, arm, one, batches) for arm, one in arms.items()]
    return pd.concat(tables, ignore_index=True).assign(edge=smallest)


def edge(run: Config, batches: Sequence[Batch]) -> float:
    """Find the smallest rate at which an update diverges without BN, to the width of a bisection.

    When none of the rates diverges, the largest; when the smallest does, that.
    """

    def diverges(rate: float) -> bool:
        return _update(run, WITHOUT, rate, batches, None).diverges

    calm = list(itertools.takewhile(lambda rate: not diverges(rate), run.learning_rates))
    if len(calm) in (0, len(run.learning_rates)):
        return run.learning_rates[min(len(calm), len(run.learning_rates) - 1)]
    low, high = calm[-1], run.learning_rates[len(calm)]
    for _ in range(run.halvings):
        middle = math.sqrt(low * high)
        low, high = (low, middle) if diverges(middle) else (middle, high)
    return high


def _update(
    run: Config, arm: str, rate: float, batches: Sequence[Batch], wanted: int | None
) -> Update:
    """Train up to the update that is wanted, or up to the first that diverges; do not make it."""
    from bnbook.probes import landscape
    from bnbook.setups import first_steps

    model = first_steps.network(arm, run.seeds[0], run.n, batches[0][0].device)
    for number, (batch, following) in enumerate(itertools.pairwise(batches), start=1):
        _, gradients = landscape.gradient(model, first_steps.objective(model, batch))
        change = [-rate * g for g in gradients]
        after = landscape.loss_after(model, first_steps.objective(model, following), change, 1.0)
        update = Update(model, change, rate, number, not after <= claims.THRESHOLD)
        last = update.diverges if wanted is None else number == wanted
        if last or number == len(batches) - 1:
            break
        landscape.shift(model, change)
    return update


def _applied(run: Config, arm: str, update: Update, batches: Sequence[Batch]) -> pd.DataFrame:
    """Apply the update in parts, and record the moments on the next minibatch."""
    from bnbook.probes import landscape
    from bnbook.setups import first_steps

    model = update.model
    objective = first_steps.objective(model, batches[update.number])
    tables = []
    fractions = [part / run.fractions for part in range(run.fractions + 1)]
    for fraction in fractions:
        with landscape.displaced(model, update.change, fraction):
            loss, moments = landscape.channel_moments(model, model.convolutions, objective)
        rows = [
            row for layer, found in enumerate(moments, 1)
            for row in _rows(layer, *found, layer in run.layers)
        ]  # fmt: skip
        columns = ["layer", "channel", "mean", "variance"]
        tables.append(pd.DataFrame(rows, columns=columns).assign(fraction=fraction, loss=loss))
    return pd.concat(tables, ignore_index=True).assign(
        arm=arm, seed=run.seeds[0], learning_rate=update.rate, update=update.number,
        length=update.length, depth=model.depth, batch_size=run.batch_size,
    )  # fmt: skip


def _rows(
    layer: int, mean: Tensor, variance: Tensor, each: bool
) -> list[tuple[int, int, float, float]]:
    """Layer, channel, mean and variance: of all channels together, and of each if asked for."""
    rows = [(layer, claims.ALL, mean.abs().mean().item(), variance.mean().item())]
    if each:
        pairs = zip(mean.tolist(), variance.tolist(), strict=True)
        rows += [(layer, channel, *pair) for channel, pair in enumerate(pairs)]
    return rows


EXPERIMENT = Experiment(
    name="bjorck_fig4",
    title="The update that diverges (Bjorck et al., figure 4)",
    profiles={
        "quick": Config(
            data="mnist5k", seeds=(0, 1, 2), batch_size=8, updates=2, fractions=5, halvings=2
        ),
        "standard": Config(data="cifar10", seeds=tuple(range(10, 30)), updates=3),
    },
    measure=measure,
    columns={
        "layer": "number of the convolution, from 1",
        "channel": "number of the channel, from 0; -1 for all, in every layer",
        "mean": "of the channel's outputs; of all channels, the mean of its absolute value",
        "variance": "of the channel's outputs; of all channels, its mean; infinite or missing"
        " where the numbers overflow",
        "fraction": "of the update that is applied",
        "loss": "on the minibatch after the update's own, nats",
        "arm": "without BN, with it, with it and the update as long",
        "seed": "sets initial weights and minibatches",
        "learning_rate": "of the update",
        "update": "number of the update, from 1",
        "length": "distance that the update moves the parameters",
        "depth": "layers of the network",
        "batch_size": "images in a minibatch",
        "edge": "smallest rate found at which an update diverges; where none does the largest",
    },
    claims=claims.CLAIMS,
    facts=claims.facts,
    figures={
        "maps": figures.maps,
        "profile": figures.profile,
        "loss": figures.loss,
    },
)
