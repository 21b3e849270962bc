"""What else than BN allows large rates: the standing objections to Bjorck et al.'s figure 1.

On the map of figure 1, with its training and its grid of rates: a warm-up of the rate, the starts
of Fixup and SkipInit, GroupNorm and LayerNorm, each tuned as hard as BN. Shown apart: gradients
clipped to a norm of 1, which bounds every step and so says nothing about divergence.

Chosen here: a linear warm-up over the first tenth of the steps (He et al. 2016 warm up for 400
steps of 64,000 at a tenth of the rate); Fixup's and SkipInit's networks from He's weights, as their
authors have them, the others from Xavier's; as many groups as `bnbook.layers.norm.make_norm` takes.

Cost: a step of one network takes about 24 ms of one core at `standard`, timed over a few steps, and
a measurement about 0.4 s: 480 runs of 300 steps take about 40 minutes of two cores.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from bnbook.errors import BnbookError
from bnbook.experiments import experiment
from bnbook.experiments.bjorck_map import claims, figures
from bnbook.tables import tuning
from bnbook.training.session import Session

TITLE = "What else allows large rates: warm-up, starts, other norms (on figure 1 of Bjorck et al.)"

CLAIMS = claims.CLAIMS
FIGURES = {
    "rates": lambda table: figures.rates(table, tuning.tuned_rates(table, claims.ARMS)),
    "divergence": figures.divergence,
    "clipped": figures.clipped,
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
        The grid, the same for all arms.
    arms : tuple of str
        See `bnbook.experiments.bjorck_map.claims.ARMS`.
    pad : int
        Zeros around an image from which its crop is taken, in pixels.
    momentum, weight_decay : float
        Of SGD.
    warm_up : float
        Share of the steps over which the rate rises, in the arm with a warm-up.
    clip_norm : float
        Largest norm of a gradient, in the arm that is clipped.
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
    arms: tuple[str, ...] = claims.ARMS
    pad: int = 4
    momentum: float = 0.9
    weight_decay: float = 1e-4
    warm_up: float = 0.1
    clip_norm: float = 1.0
    points: int = 4


PROFILES: Mapping[str, Config] = {
    "quick": Config(
        data="digits",
        seeds=(0, 1, 2),
        steps=40,
        batch_size=32,
        side=8,
        train_images=800,
        test_images=0,
        validation=300,
        n=1,
        widths=(4, 8, 16),
        learning_rates=(0.063, 0.4, 2.5),
        pad=1,
    ),
    "standard": Config(
        data="cifar10 or mnist5k",
        seeds=(0, 1, 2, 3, 4),
        steps=300,
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
        points=16,
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
    config = experiment.configure("bjorck_map", PROFILES, profile, seed, changes)
    experiment.check_positive(config, ("steps", "batch_size", "side", "validation", "n", "points"))
    experiment.check_distinct(config, ("seeds", "learning_rates", "arms"))
    if set(config.arms) != set(claims.ARMS):
        raise BnbookError(f"arms must be {claims.ARMS}, found {config.arms}.")
    return config


def parts(config: Config) -> list[Config]:
    """Return one config for each arm, seed and learning rate."""
    return experiment.single_runs(config, ("arms", "seeds", "learning_rates"))


def fuses(part: Config) -> Config:
    """Return what runs share that train as one ensemble: all but seed and learning rate."""
    return experiment.common(part, ("seeds", "learning_rates"))


def run(config: Config, device: str = "auto") -> pd.DataFrame:
    """Train every arm at every rate and seed of a config.

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
