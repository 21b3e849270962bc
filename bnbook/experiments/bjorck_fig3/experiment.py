"""Bjorck et al. 2018, figure 3: the loss along the negative gradient, at many step sizes.

Two networks with the same convolutions and the same minibatches, with BN and without, each in the
first minibatches of its training: at initialisation and after the first updates. On each minibatch
the loss is followed along the negative gradient of that minibatch, and the largest step that still
reduces it is found. BN takes the statistics of the minibatch at every step size; nothing that is
measured moves its running statistics.

Known of the paper at second hand: step sizes up to 10 on the horizontal axis, the relative loss new
over old, several minibatches and networks, rates of 0.1 with BN and 0.0001 without. Chosen here:
the grid, how the largest step is found, momentum 0.9 as in He et al. without weight decay and
augmentation in these few updates.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from bnbook.errors import BnbookError
from bnbook.experiments import experiment
from bnbook.experiments.bjorck_fig3 import claims, figures
from bnbook.tables.arms import WITH, WITHOUT
from bnbook.tables.start import check_start
from bnbook.training.session import Session

TITLE = "The loss along the negative gradient (Bjorck et al., figure 3)"

CLAIMS = claims.CLAIMS
FIGURES = {
    "curves": figures.curves,
    "largest": lambda table: figures.largest(claims.searches(table)),
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
    batch_size, minibatches : int
        Images in a minibatch, and how many minibatches of the training are looked at.
    per_decade : int
        Step sizes to a factor of ten.
    refinements : int
        How often the interval that holds the largest helpful step is halved.
    smallest, largest : int
        Exponents of ten of the first and the last step size.
    arms : tuple of str
        With and without BN.
    n : int
        Residual blocks of a stage: 6n + 2 layers.
    with_rate, without_rate : float
        Learning rates between the minibatches.
    momentum : float
        In [0, 1).
    """

    data: str
    seeds: tuple[int, ...]
    batch_size: int = 128
    minibatches: int = 3
    per_decade: int = 2
    refinements: int = 3
    smallest: int = -6
    largest: int = 1
    arms: tuple[str, ...] = (WITHOUT, WITH)
    n: int = 18
    with_rate: float = 0.1
    without_rate: float = 0.0001
    momentum: float = 0.9

    @property
    def step_sizes(self) -> list[float]:
        """The grid of step sizes."""
        whole = range(self.per_decade * (self.largest - self.smallest) + 1)
        return [10.0 ** (self.smallest + k / self.per_decade) for k in whole]

    @property
    def rate(self) -> float:
        """The learning rate of a single arm."""
        return self.with_rate if self.arms[0] == WITH else self.without_rate


PROFILES: Mapping[str, Config] = {
    "quick": Config(
        data="mnist5k", seeds=(0, 1, 2), batch_size=8, minibatches=1, per_decade=1, refinements=2
    ),
    "standard": Config(data="cifar10 or mnist5k", seeds=(0, 1, 2, 3, 4)),
}


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
    config = experiment.configure("bjorck_fig3", PROFILES, profile, seed, changes)
    experiment.check_positive(config, ("batch_size", "minibatches", "per_decade", "n"))
    experiment.check_distinct(config, ("seeds", "arms"))
    check_start(config.arms, (1,), config.n)
    if config.refinements < 0 or not config.smallest < config.largest:
        raise BnbookError(
            "refinements must be at least 0 and smallest below largest, found"
            f" {config.refinements}, {config.smallest} and {config.largest}."
        )
    if not 0 <= config.momentum < 1 or min(config.with_rate, config.without_rate) <= 0:
        raise BnbookError(
            "momentum must lie in [0, 1) and the rates be positive, found"
            f" {config.momentum}, {config.with_rate} and {config.without_rate}."
        )
    return config


def parts(config: Config) -> list[Config]:
    """Return one config for each arm and seed."""
    return experiment.single_runs(config, ("arms", "seeds"))


def fuses(part: Config) -> Config:
    """Return the part itself: each is measured alone."""
    return part


def run(config: Config, device: str = "auto") -> pd.DataFrame:
    """Measure every arm and seed of a config.

    Parameters
    ----------
    config : Config
        From `configure`.
    device : str
        ``auto``, ``cpu`` or ``cuda``.

    Returns
    -------
    pandas.DataFrame
        One row per arm, seed, minibatch and step size: ``arm``, ``seed``, ``minibatch`` (updates
        made before it), ``rate`` (of these), ``depth``, ``batch_size``, ``loss`` (before, nats),
        ``gradient_norm`` (over all parameters), ``largest_step`` (that reduces the loss:
        `bnbook.probes.landscape.descend`), ``step_size``, ``loss_ratio`` (new over old; infinite or
        missing where the numbers overflow).
    """
    return pd.concat(train(parts(config), Session(device)), ignore_index=True)


def train(runs: Sequence[Config], session: Session) -> list[pd.DataFrame]:
    """Measure arms and seeds, one after the other.

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


def _measure(run: Config, device: Any) -> pd.DataFrame:
    """Look at the first minibatches of one training run."""
    from bnbook.probes import landscape
    from bnbook.setups import first_steps

    arm, seed = run.arms[0], run.seeds[0]
    model = first_steps.network(arm, seed, run.n, device)
    labels = {"arm": arm, "seed": seed, "rate": run.rate, "depth": model.depth}
    batches = first_steps.minibatches(run.data, run.batch_size, run.minibatches, seed, device)
    velocity: list[Any] = []
    tables = []
    for number, batch in enumerate(batches):
        objective = first_steps.objective(model, batch)
        loss, gradients = landscape.gradient(model, objective)
        course = landscape.descend(
            model, objective, loss, gradients, run.step_sizes, run.refinements
        )
        found = {
            "minibatch": number,
            "batch_size": run.batch_size,
            "loss": loss,
            "gradient_norm": landscape.norm(gradients),
            "largest_step": course.largest,
            "step_size": course.steps,
            "loss_ratio": [after / loss for after in course.losses],
        }
        tables.append(pd.DataFrame({**labels, **found}))
        velocity = [
            g if not velocity else run.momentum * v + g
            for g, v in zip(gradients, velocity or gradients, strict=True)
        ]
        landscape.shift(model, velocity, -run.rate)
    return pd.concat(tables, ignore_index=True)
