"""Bjorck et al. 2018, section 2 and figure 1: residual networks with and without BN, by rate.

Two networks, each over the same grid of learning rates and the same seeds. At one seed both start
from the same weights and see the same minibatches. Each network's rate is the one with the best
final validation accuracy, averaged over seeds; the test set chooses nothing. A run has diverged
when the loss of a minibatch passes 10^3 or is no number; nothing is clipped.

Of the paper, as we have it from others and from He et al. 2016: CIFAR-10, momentum 0.9, weight
decay, batches of 128, crops and flips, the rate divided by 10 at 50 % and 75 %, Xavier's weights,
110 layers. At `paper` the grid holds the rates of figure 1. Chosen here: the size of everything at
the other profiles, the grid, the validation split, a weight decay of 1e-4 (He et al.), no warm-up.

Cost: a step of one network takes about 22 ms of one core at `standard`, timed over a few steps, and
a measurement about 0.4 s: 120 runs of 400 steps take about a quarter of an hour of two cores. At
`paper` the activations of one network, counted and not measured, take some 2 GB of a GPU's memory,
so that the number of networks in an ensemble has to be given.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from bnbook.errors import BnbookError
from bnbook.experiments import experiment
from bnbook.experiments.bjorck_fig1 import claims, figures
from bnbook.tables import rate_map, tuning
from bnbook.tables.arms import WITH, WITHOUT
from bnbook.training.session import Session

TITLE = "Residual networks with and without BN, by learning rate (Bjorck et al., figure 1)"

CLAIMS = claims.CLAIMS
FIGURES = {
    "curves": lambda table: figures.curves(
        table, rate_map.small_rate(table), rate_map.large_rate(table)
    ),
    "gap": lambda table: figures.gap(
        table, rate_map.small_rate(table), float(rate_map.tuned_gap(table).mean())
    ),
    "map": lambda table: figures.rate_map(
        table, tuning.tuned_rates(table, (WITHOUT, WITH)), claims.target(table)
    ),
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
    steps, batch_size : int
        Length of training, and images in a minibatch.
    side : int
        Rows and columns of the images.
    train_images, test_images : int
        Images used, at most; 0 takes all.
    validation : int
        Training images set aside to choose rates; the split does not depend on the seed.
    n : int
        Residual blocks of a stage, for 6n + 2 layers.
    widths : tuple of int
        Channels of the stages.
    learning_rates : tuple of float
        The grid, the same for both arms.
    arms : tuple of str
        With and without BN.
    pad : int
        Zeros around an image from which its crop is taken, in pixels.
    momentum, weight_decay : float
        Of SGD.
    warm_up : float
        Share of the steps over which the rate rises, in arms that have a warm-up; here none has.
    clip_norm : float
        Largest norm of a gradient, in arms that are clipped; here none is.
    points : int
        Measurements after the start, evenly spread.
    """

    data: str
    seeds: tuple[int, ...]
    steps: int
    batch_size: int
    side: int
    train_images: int
    test_images: int
    validation: int
    n: int
    widths: tuple[int, ...]
    learning_rates: tuple[float, ...]
    arms: tuple[str, ...] = (WITHOUT, WITH)
    pad: int = 4
    momentum: float = 0.9
    weight_decay: float = 1e-4
    warm_up: float = 0.1
    clip_norm: float = 1.0
    points: int = 10


PROFILES: Mapping[str, Config] = {
    "quick": Config(
        data="digits",
        seeds=(0, 1, 2),
        steps=80,
        batch_size=32,
        side=8,
        train_images=800,
        test_images=0,
        validation=300,
        n=1,
        widths=(4, 8, 16),
        learning_rates=(0.01, 0.063, 0.4, 2.5, 16.0),
        pad=1,
    ),
    "standard": Config(
        data="cifar10 or mnist5k",
        seeds=(0, 1, 2, 3, 4),
        steps=400,
        batch_size=64,
        side=16,
        train_images=3000,
        test_images=2000,
        validation=500,
        n=2,
        widths=(8, 16, 32),
        learning_rates=(
            *(0.00025, 0.00063, 0.0016, 0.004, 0.01, 0.025),
            *(0.063, 0.16, 0.4, 1.0, 2.5, 6.3),
        ),
        pad=2,
    ),
    "paper": Config(
        data="cifar10",
        seeds=(0, 1, 2, 3, 4),
        steps=64_000,
        batch_size=128,
        side=32,
        train_images=0,
        test_images=0,
        validation=5000,
        n=18,
        widths=(16, 32, 64),
        learning_rates=(
            *(0.00003, 0.0001, 0.0003, 0.001, 0.003, 0.01),
            *(0.03, 0.1, 0.3, 1.0, 3.0, 10.0),
        ),
        points=80,
    ),
}


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
    config = experiment.configure("bjorck_fig1", PROFILES, profile, seed, changes)
    experiment.check_positive(config, ("steps", "batch_size", "side", "validation", "n", "points"))
    experiment.check_distinct(config, ("seeds", "learning_rates", "arms"))
    if set(config.arms) != {WITHOUT, WITH}:
        raise BnbookError(f"arms must be {(WITHOUT, WITH)}, found {config.arms}.")
    return config


def parts(config: Config) -> list[Config]:
    """Return one config for each arm, seed and learning rate."""
    return experiment.single_runs(config, ("arms", "seeds", "learning_rates"))


def fuses(part: Config) -> Config:
    """Return what runs share that train as one ensemble: all but seed and learning rate."""
    return experiment.common(part, ("seeds", "learning_rates"))


def run(config: Config, device: str = "auto") -> pd.DataFrame:
    """Train both arms at every rate and seed of a config.

    Parameters
    ----------
    config : Config
        From `configure`.
    device : str
        ``auto``, ``cpu`` or ``cuda``.

    Returns
    -------
    pandas.DataFrame
        One row per run and measured step: ``arm``, ``seed``, ``learning_rate``, ``step``,
        ``diverged_at`` (step whose loss was above 10^3 or no number, -1 for none), ``loss`` (mean
        training loss since the row before, nats), ``training_accuracy``, ``validation_accuracy``,
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

    experiment.check_fused(runs, fuses)
    make = functools.partial(residual.network, n=runs[0].n, widths=runs[0].widths)
    history = residual.train(runs, session, make)
    return [residual.table(run, history, member) for member, run in enumerate(runs)]
