"""Bjorck et al. 2018, section 3.1: BN at the last layer only, and at other choices of layers.

One residual network of 6n + 2 layers, with BN after every convolution, without any, with one BN
layer at the output of the last residual block, and with BN at some of the convolutions, each over
the same grid of learning rates and the same seeds. At one seed all start from the same weights and
see the same minibatches. Nothing is clipped; a minibatch loss above 10^3 ends a run.

Known of the paper at second hand: the threshold, momentum and weight decay as in He et al. 2016.
Remembered: where the one layer is, Xavier's initial weights, rates divided by 10 at 50 % and 75 %.
Chosen here: the grid, what counts as usable, networks with BN at some of the layers, and at `quick`
and `standard` few and small images, narrow networks and short runs.

At `standard` a step of one network of 32 layers was timed at 2.4 ms without BN and 3.0 ms with it,
on one core, so that all runs come to about half an hour of two cores; those that diverge early
leave.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from bnbook.errors import BnbookError
from bnbook.experiments import experiment
from bnbook.experiments.bjorck_last import claims, figures
from bnbook.experiments.bjorck_last.claims import name
from bnbook.tables import usable
from bnbook.training.session import Plan, Session

TITLE = "BN at the last layer only, and at other choices of layers (Bjorck et al., section 3.1)"

CLAIMS = claims.CLAIMS
FIGURES = {
    "rates": lambda table: figures.rates(
        table, claims.tuned_rates(table), usable.shares(table)[list(claims.MAIN)]
    ),
    "places": lambda table: figures.places(claims.placed(table), claims.extremes(table)),
    "families": lambda table: figures.families(claims.placed(table), claims.extremes(table)),
}
facts = claims.facts
PLANS = (Plan(), Plan(channels_last=True))


@dataclass(frozen=True)
class Config:
    """Everything that a run depends on.

    Attributes
    ----------
    data : str
        Name of a data set of images (see `bnbook.datasets`).
    seeds : tuple of int
        Each sets the initial weights and the minibatches.
    n : int
        Residual blocks of a stage: 6n + 2 layers.
    arms : tuple of str
        Networks; see `bnbook.experiments.bjorck_last.claims.places`.
    learning_rates : tuple of float
        The grid, the same for all networks.
    side : int
        Rows and columns of the images.
    widths : tuple of int
        Channels of the three stages.
    train_images, test_images : int
        Images used, at most; 0 takes all.
    validation : int
        Training images set aside; the split does not depend on the seed.
    pad : int
        Zeros around an image from which its crop is taken, in pixels; 0: neither crop nor flip.
    steps, batch_size : int
        Updates, and images in a minibatch.
    momentum, weight_decay : float
        Of SGD.
    warm_up, clip_norm : float
        As in `bnbook.experiments.bjorck_fig1.experiment`; no arm here has either.
    points : int
        Measurements after the start, evenly spread.
    """

    data: str
    seeds: tuple[int, ...]
    n: int
    arms: tuple[str, ...]
    learning_rates: tuple[float, ...] = (
        *(0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03),
        *(0.1, 0.3, 1.0, 3.0, 10.0, 30.0),
    )
    side: int = 32
    widths: tuple[int, ...] = (16, 32, 64)
    train_images: int = 0
    validation: int = 5_000
    test_images: int = 0
    pad: int = 4
    steps: int = 2_000
    batch_size: int = 128
    momentum: float = 0.9
    weight_decay: float = 1e-4
    warm_up: float = 0.1
    clip_norm: float = 1.0
    points: int = 8


def chosen(
    only: Sequence[int], but: Sequence[int], since: Sequence[int], every: Sequence[int]
) -> tuple[str, ...]:
    """Return the paper's arms, and those of the four families with these numbers."""
    families = {"only": only, "but": but, "since": since, "every": every}
    some = [name(family, number) for family, numbers in families.items() for number in numbers]
    return (*claims.MAIN, *some)


PROFILES: Mapping[str, Config] = {
    "quick": Config(
        data="digits", seeds=(0, 1, 2), n=2, arms=chosen((1, 7, 13), (), (10,), (4,)),
        side=8, widths=(4, 8, 16), train_images=1200, validation=200, test_images=200, pad=0,
        steps=60, batch_size=16, learning_rates=tuple(2.0**k for k in range(-6, 2)),
    ),
    "standard": Config(
        data="cifar10 or mnist5k", seeds=(0, 1, 2, 3, 4), n=5,
        arms=chosen((1, 6, 11, 16, 21, 26, 31), (1, 11, 21, 31), (11, 21, 27), (2, 4, 10)),
        side=8, widths=(4, 8, 16), train_images=3500, validation=500, test_images=500, pad=0,
        steps=1000, batch_size=32, learning_rates=tuple(2.0**k for k in range(-9, 4)),
    ),
    "paper": Config(
        data="cifar10", seeds=(0, 1, 2, 3, 4), n=18,
        arms=chosen((1, 37, 73, 109), (1, 109), (74,), (2, 9)), steps=64_000,
    ),
}  # fmt: skip


def configure(profile: str, seed: int = 0, **changes: Any) -> Config:
    """Return a profile's config, with changes, its data chosen and its fields checked.

    Parameters
    ----------
    profile : str
        ``quick``, ``standard`` or ``paper``.
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
    config = experiment.configure("bjorck_last", PROFILES, profile, seed, changes)
    sizes = ("side", "validation", "steps", "batch_size", "points")
    experiment.check_positive(config, sizes)
    experiment.check_distinct(config, ("seeds", "learning_rates", "arms"))
    if config.n < 1 or min(config.learning_rates) <= 0:
        raise BnbookError(
            f"n and learning_rates must be positive, found {config.n} and {config.learning_rates}."
        )
    if missing := set(claims.MAIN) - set(config.arms):
        raise BnbookError(f"arms must hold {claims.MAIN}, found none of {sorted(missing)}.")
    if not any(arm in config.arms for arm in chosen(range(1, 6 * config.n + 2), (), (), ())[3:]):
        raise BnbookError(f"arms must hold one with BN at one convolution, found {config.arms}.")
    for arm in config.arms:
        claims.places(arm, config.n)
    return config


def parts(config: Config) -> list[Config]:
    """Return one config for each arm, seed and learning rate."""
    return experiment.single_runs(config, ("arms", "seeds", "learning_rates"))


def fuses(part: Config) -> Config:
    """Return what runs share that train as one ensemble: all but seed and learning rate."""
    return experiment.common(part, ("seeds", "learning_rates"))


def run(config: Config, device: str = "auto") -> pd.DataFrame:
    """Train every arm, seed and rate of a config.

    Parameters
    ----------
    config : Config
        From `configure`.
    device : str
        ``auto``, ``cpu`` or ``cuda``.

    Returns
    -------
    pandas.DataFrame
        One row per run and measured step: ``arm``, ``n`` (blocks of a stage), ``seed``,
        ``learning_rate``, ``step``, ``loss`` (mean training loss since the row before, nats),
        ``diverged_at`` (step whose loss was above 10^3 or not finite, -1 for none),
        ``training_accuracy``, ``validation_accuracy``, ``test_accuracy`` (in [0, 1]; those of
        guessing from a run's divergence on).
    """
    groups = experiment.ensembles(parts(config), fuses)
    tables = [table for group in groups for table in train(group, Session(device))]
    return pd.concat(tables, ignore_index=True)


def train(runs: Sequence[Config], session: Session) -> list[pd.DataFrame]:
    """Train runs that differ in seed and learning rate as one ensemble.

    Parameters
    ----------
    runs : sequence of Config
        Of `parts`, equal under `fuses`.
    session : Session
        Device, plan, checkpoint, deadline and progress.

    Returns
    -------
    list of pandas.DataFrame
        The rows of each run, as `run` describes them.

    Raises
    ------
    BnbookError
        When runs do not fuse.
    """
    from bnbook.layers import ensemble, norm
    from bnbook.networks import placed
    from bnbook.setups import residual

    n = runs[0].n
    experiment.check_fused(runs, fuses)

    def make(arm: str, seeds: Sequence[int], in_channels: int) -> placed.PlacedResNet:
        return placed.PlacedResNet(
            norm.FusedBatchNorm,
            seeds,
            claims.places(arm, n),
            n=n,
            in_channels=in_channels,
            widths=runs[0].widths,
            init_std=ensemble.xavier,
        )

    history = residual.train(runs, session, make)
    return [residual.table(run, history, member).assign(n=n) for member, run in enumerate(runs)]
