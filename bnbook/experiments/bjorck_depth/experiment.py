"""Bjorck et al. 2018, section 4: the largest usable learning rate against depth.

Residual networks of 6n + 2 layers, with BN after every convolution and without any, each over the
same grid of learning rates and the same seeds. At one seed all see the same minibatches. Nothing is
clipped; a minibatch loss above 10^3 ends a run.

Known of the paper at second hand: that shallower networks without BN allow larger rates, the
threshold, momentum and weight decay as in He et al. 2016. Remembered: Xavier's initial weights,
rates divided by 10 at 50 % and 75 %. Chosen here: the grid, what counts as usable, the depths, and
at `quick` and `standard` few and small images, narrow networks and short runs.

At `standard` a step of one network of 56 layers was timed at 4.6 ms without BN and 6.5 ms with it,
on one core, and the five depths together take about twice that, so that all runs come to about half
an hour of two cores; those that diverge early leave. A network of 110 layers without BN had not
left guessing after 600 such steps at any of three rates, and is left to `paper`.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from bnbook.errors import BnbookError
from bnbook.experiments import experiment
from bnbook.experiments.bjorck_depth import claims, figures
from bnbook.tables import tuning
from bnbook.tables.arms import WITH, WITHOUT
from bnbook.training.session import Plan, Session

TITLE = "The largest usable rate against depth (Bjorck et al., section 4)"

CLAIMS = claims.CLAIMS
FIGURES = {
    "rates": lambda table: figures.rates(
        {arm: claims.largest(table, arm) for arm in (WITHOUT, WITH)}, claims.curves(table)
    ),
    "maps": lambda table: figures.maps(claims.usable_shares(table)),
    "accuracy": lambda table: figures.accuracy(tuning.final(table)),
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
    n : tuple of int
        Residual blocks of a stage, rising: networks of 6n + 2 layers.
    learning_rates : tuple of float
        The grid, the same for all networks, rising.
    arms : tuple of str
        With and without BN.
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
    n: tuple[int, ...] = (1, 3, 5, 9, 18)
    learning_rates: tuple[float, ...] = (
        *(0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03),
        *(0.1, 0.3, 1.0, 3.0, 10.0, 30.0),
    )
    arms: tuple[str, ...] = (WITHOUT, WITH)
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


PROFILES: Mapping[str, Config] = {
    "quick": Config(
        data="digits", seeds=(0, 1, 2), n=(1, 2, 4), side=8, widths=(4, 8, 16), train_images=1200,
        validation=200, test_images=200, pad=0, steps=60, batch_size=16,
        learning_rates=tuple(2.0**k for k in range(-6, 2)),
    ),
    "standard": Config(
        data="cifar10 or mnist5k", seeds=(0, 1, 2, 3, 4), n=(1, 2, 3, 5, 9), side=8,
        widths=(4, 8, 16), train_images=3500, validation=500, test_images=500, pad=0, steps=2000,
        batch_size=32, learning_rates=tuple(2.0**k for k in range(-9, 4)),
    ),
    "paper": Config(data="cifar10", seeds=(0, 1, 2, 3, 4)),
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
    config = experiment.configure("bjorck_depth", PROFILES, profile, seed, changes)
    sizes = ("side", "validation", "steps", "batch_size", "points")
    experiment.check_positive(config, sizes)
    experiment.check_distinct(config, ("seeds", "n", "learning_rates", "arms"))
    for name in ("n", "learning_rates"):
        values = getattr(config, name)
        if min(values) <= 0 or list(values) != sorted(values):
            raise BnbookError(f"{name} must be positive and rising, found {values}.")
    if len(config.n) < 3:
        raise BnbookError(f"n must have three values or more, to fit laws; found {config.n}.")
    if set(config.arms) != {WITHOUT, WITH}:
        raise BnbookError(f"arms must be {(WITHOUT, WITH)}, found {config.arms}.")
    return config


def parts(config: Config) -> list[Config]:
    """Return one config for each arm, depth, seed and learning rate."""
    return experiment.single_runs(config, ("arms", "n", "seeds", "learning_rates"))


def fuses(part: Config) -> Config:
    """Return what runs share that train as one ensemble: all but seed and learning rate."""
    return experiment.common(part, ("seeds", "learning_rates"))


def run(config: Config, device: str = "auto") -> pd.DataFrame:
    """Train every arm, depth, seed and rate of a config.

    Parameters
    ----------
    config : Config
        From `configure`.
    device : str
        ``auto``, ``cpu`` or ``cuda``.

    Returns
    -------
    pandas.DataFrame
        One row per run and measured step: ``arm``, ``n``, ``seed``, ``learning_rate``, ``step``,
        ``loss`` (mean training loss since the row before, nats), ``diverged_at`` (step whose loss
        was above 10^3 or not finite, -1 for none), ``training_accuracy``, ``validation_accuracy``,
        ``test_accuracy`` (in [0, 1]; those of guessing from a run's divergence on).
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
    from bnbook.setups import residual

    n = runs[0].n[0]
    experiment.check_fused(runs, fuses)
    make = functools.partial(residual.network, n=n, widths=runs[0].widths)
    history = residual.train(runs, session, make)
    return [residual.table(run, history, member).assign(n=n) for member, run in enumerate(runs)]
