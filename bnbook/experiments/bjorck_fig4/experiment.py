"""Bjorck et al. 2018, figure 4: the update that diverges, applied bit by bit.

A network without BN trains by plain SGD, nothing clipped, at one rate after the other, the smallest
first, until an update takes the loss of the next minibatch above 10^3. That update is applied from
0 to 100 % of its size, and the mean and variance of every channel are recorded on that next
minibatch. For contrast a BN network with the same convolutions trains on the same minibatches at
the same rate, and the update with the same number is applied in the same way; once as it is, and
once made as long as the diverging one.

Known of the paper at second hand: the threshold, layers 8, 44 and 80 of 110, heat maps of channel
means and variances. Chosen here: the rates, the number of updates, plain SGD, and that a layer is
its convolution's output, before any normalisation.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pandas as pd

from bnbook.errors import BnbookError
from bnbook.experiments import experiment
from bnbook.experiments.bjorck_fig4 import claims, figures
from bnbook.tables.arms import AS_LONG, WITH, WITHOUT
from bnbook.tables.start import check_start
from bnbook.training.session import Session

if TYPE_CHECKING:
    from torch import Tensor

    from bnbook.networks.models import ResNet
    from bnbook.setups.first_steps import Batch

TITLE = "The update that diverges (Bjorck et al., figure 4)"

CLAIMS = claims.CLAIMS
FIGURES = {
    "maps": lambda table: figures.maps(table, claims.middle_seed(table)),
    "steepest": lambda table: figures.maps(table, claims.steepest_seed(table)),
    "profile": lambda table: figures.profile(
        {arm: claims.profiles(table, arm) for arm in claims.NAMES}, claims.probed(table)
    ),
    "loss": lambda table: figures.loss(table, claims.THRESHOLD),
}
facts = claims.facts


@dataclass(frozen=True)
class Config:
    """Everything that a run depends on.

    Attributes
    ----------
    data : str
        Name of a data set of images (see `bnbook.datasets`).
    seeds : tuple of int
        Each sets the initial weights and the minibatches.
    batch_size : int
        Images in a minibatch.
    learning_rates : tuple of float
        Tried from the smallest on.
    updates : int
        Updates at each rate, at most.
    fractions : int
        Into how many equal parts the update is cut.
    beyond : tuple of float
        Multiples of the diverging update, above 1, that are applied besides: what it would have
        been at larger rates.
    n : int
        Residual blocks of a stage: 6n + 2 layers.
    layers : tuple of int
        Convolutions whose channels are recorded one by one, counted from 1.
    """

    data: str
    seeds: tuple[int, ...]
    batch_size: int = 128
    learning_rates: tuple[float, ...] = (0.0001, 0.0003, 0.001, 0.003, 0.01, 0.1)
    updates: int = 5
    fractions: int = 10
    beyond: tuple[float, ...] = (3.0, 10.0)
    n: int = 18
    layers: tuple[int, ...] = claims.LAYERS


PROFILES: Mapping[str, Config] = {
    "quick": Config(
        data="mnist5k", seeds=(0, 1, 2), batch_size=8, updates=2, fractions=5,
    ),
    "standard": Config(data="cifar10 or mnist5k", seeds=tuple(range(10))),
}  # fmt: skip


def configure(profile: str, seed: int = 0, **changes: Any) -> Config:
    """Return a profile's config, with changes, its data chosen and its fields checked.

    Parameters
    ----------
    profile : str
        ``quick`` or ``standard``.
    seed : int
        Added to every seed, for runs that no record holds.
    **changes
        Fields of `Config` to replace; None leaves a field as it is.

    Returns
    -------
    Config
        Where `data` names several sets ("a or b"), the largest that this machine has.

    Raises
    ------
    BnbookError
        When the profile or a field is unknown, or a value is impossible.
    """
    config = experiment.configure("bjorck_fig4", PROFILES, profile, seed, changes)
    experiment.check_positive(config, ("batch_size", "updates", "fractions", "n"))
    experiment.check_distinct(config, ("seeds", "learning_rates", "layers"))
    check_start((WITHOUT, WITH), config.layers, config.n)
    if not all(multiple > 1 for multiple in config.beyond):
        raise BnbookError(f"beyond must be above 1, found {config.beyond}.")
    rates = config.learning_rates
    if min(rates) <= 0 or list(rates) != sorted(rates):
        raise BnbookError(f"learning_rates must be positive and rising, found {rates}.")
    return config


def parts(config: Config) -> list[Config]:
    """Return one config for each seed."""
    return experiment.single_runs(config, ("seeds",))


def fuses(part: Config) -> Config:
    """Return the part itself: each is measured alone."""
    return part


def run(config: Config, device: str = "auto") -> pd.DataFrame:
    """Measure every seed of a config.

    Parameters
    ----------
    config : Config
        From `configure`.
    device : str
        ``auto``, ``cpu`` or ``cuda``.

    Returns
    -------
    pandas.DataFrame
        One row per arm, seed, applied fraction, layer and channel: ``arm``, ``seed``,
        ``learning_rate``, ``update`` (its number), ``length`` (distance that it moves the
        parameters), ``depth``, ``batch_size``, ``fraction`` (in [0, 1]; without BN also those of
        `Config.beyond`), ``loss`` (nats, on the minibatch after the update's own), ``layer``,
        ``channel`` (-1 for all: every layer has this row), ``mean`` (of all channels, the mean of
        its absolute value) and ``variance`` (of all, its mean) of the convolution's outputs.
        Infinite or missing where the numbers overflow. When no update diverged, the last one at
        the largest rate.
    """
    return pd.concat(train(parts(config), Session(device)), ignore_index=True)


def train(runs: Sequence[Config], session: Session) -> list[pd.DataFrame]:
    """Measure seeds, one after the other.

    Parameters
    ----------
    runs : sequence of Config
        Of `parts`.
    session : Session
        Its device is used.

    Returns
    -------
    list of pandas.DataFrame
        The rows of each, as `run` describes them.
    """
    from bnbook.training import fit

    device = fit.choose_device(session.device)
    return [_measure(run, device) for run in runs]


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


def _measure(run: Config, device: Any) -> pd.DataFrame:
    from bnbook.setups import first_steps

    seed = run.seeds[0]
    batches = first_steps.minibatches(run.data, run.batch_size, run.updates + 1, seed, device)
    update = diverging(run, batches)
    other = _update(run, WITH, update.rate, batches, update.number)
    factor = update.length / other.length
    longer = replace(other, change=[factor * change for change in other.change])
    arms = {WITHOUT: update, WITH: other, AS_LONG: longer}
    tables = [_applied(run, arm, one, batches) for arm, one in arms.items()]
    return pd.concat(tables, ignore_index=True)


def diverging(run: Config, batches: Sequence[Batch]) -> Update:
    """Find the first update that diverges without BN, at the smallest rate that has one.

    Parameters
    ----------
    run : Config
        Of one seed.
    batches : sequence of (Tensor, Tensor)
        One more than updates.

    Returns
    -------
    Update
        The last one at the largest rate when none diverges.
    """
    for rate in run.learning_rates:
        update = _update(run, WITHOUT, rate, batches, None)
        if update.diverges:
            break
    return update


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
    for fraction in [*fractions, *(run.beyond if arm == WITHOUT else ())]:
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
