"""Bjorck et al. 2018, section 2.1: the noise of SGD, by rate and size of the minibatch.

Residual networks with BN over rates and sizes of the minibatch, all for the same number of steps,
and networks without BN at the middle size. At the start, half way and at the end each network's
gradient noise is measured and held against the bound of equation 3; at the end the largest
eigenvalue of the Hessian of its training loss, as a measure of flatness, by Lanczos.

The noise of equation 3 is that of a loss which is a sum over examples. With BN it is one only when
the statistics are fixed, as they are in evaluation; beside it stands the noise of steps with the
minibatches' own statistics, for which the derivation does not hold.

Chosen here: equal numbers of steps, so that at one rate only the noise differs; sizes and rates
whose ratios coincide; everything else as in `bjorck_fig1`.

Cost: at `standard` a step of one network takes about 4, 14 and 61 ms of one core at 16, 64 and 256
images, timed over a few steps, and the measurements of four networks some 15 s: 80 runs of 1000
steps take about 25 minutes of two cores.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from bnbook.errors import BnbookError
from bnbook.experiments import experiment
from bnbook.experiments.bjorck_noise import claims, figures
from bnbook.experiments.bjorck_noise.claims import NOISE, RUN
from bnbook.tables.arms import WITH, WITHOUT
from bnbook.training.session import Session

TITLE = "The noise of SGD, its bound, and generalisation (Bjorck et al., section 2.1)"

CLAIMS = claims.CLAIMS
FIGURES = {
    "bound": lambda table: figures.bound(claims.noise(table), claims.finite_population),
    "lines": lambda table: figures.lines(claims.runs(table), claims.along_lines(table)),
    "flatness": lambda table: figures.flatness(claims.runs(table)),
}
facts = claims.facts

_START = 0x1A9C_0000  # of the random vectors that Lanczos starts from


@dataclass(frozen=True)
class Config:
    """Everything that a run depends on.

    Attributes
    ----------
    data : str
        Name of a data set of images (see `bnbook.datasets`).
    seeds : tuple of int
        Each sets the initial weights and the minibatches.
    steps : int
        Length of training, the same for all sizes of the minibatch.
    batch_sizes : tuple of int
        Images in a minibatch; without BN the middle one alone.
    batch_size : int
        Of a single run, 0 in a whole config.
    side : int
        Rows and columns of the images.
    train_images, test_images : int
        Images used, at most; 0 takes all.
    validation : int
        Training images set aside to choose the rate.
    n : int
        Residual blocks of a stage, for 6n + 2 layers.
    widths : tuple of int
        Channels of the stages.
    learning_rates : tuple of float
        The grid.
    noise_images : int
        N, training images whose gradients the noise is made of.
    noise_sizes : tuple of int
        b, sizes of the minibatches of which the noise is measured.
    noise_draws : int
        Minibatches of each size, from the images' own gradients.
    trained_draws : int
        Minibatches of each size, with statistics of their own.
    curvature_images : int
        Training images of the loss whose Hessian is taken.
    lanczos_steps : int
        Products with the Hessian.
    arms : tuple of str
        With and without BN.
    pad : int
        Zeros around an image from which its crop is taken, in pixels.
    momentum, weight_decay : float
        Of SGD.
    warm_up, clip_norm : float
        As in `bnbook.experiments.bjorck_fig1.experiment`; no arm here has either.
    points : int
        Measurements after the start, evenly spread.
    """

    data: str
    seeds: tuple[int, ...]
    steps: int
    batch_sizes: tuple[int, ...]
    side: int
    train_images: int
    test_images: int
    validation: int
    n: int
    widths: tuple[int, ...]
    learning_rates: tuple[float, ...]
    noise_images: int
    noise_sizes: tuple[int, ...]
    noise_draws: int = 4000
    trained_draws: int = 16
    curvature_images: int = 256
    lanczos_steps: int = 16
    arms: tuple[str, ...] = (WITHOUT, WITH)
    batch_size: int = 0
    pad: int = 4
    momentum: float = 0.9
    weight_decay: float = 1e-4
    warm_up: float = 0.1
    clip_norm: float = 1.0
    points: int = 2


PROFILES: Mapping[str, Config] = {
    "quick": Config(
        data="digits",
        seeds=(0, 1, 2),
        steps=60,
        batch_sizes=(4, 16, 64),
        side=8,
        train_images=800,
        test_images=0,
        validation=300,
        n=1,
        widths=(4, 8, 16),
        learning_rates=(0.02, 0.08, 0.32),
        noise_images=48,
        noise_sizes=(6, 12, 24),
        noise_draws=1000,
        trained_draws=4,
        curvature_images=128,
        lanczos_steps=6,
        pad=1,
        points=1,
    ),
    "standard": Config(
        data="cifar10 or mnist5k",
        seeds=(0, 1, 2, 3, 4),
        steps=1000,
        batch_sizes=(16, 64, 256),
        side=16,
        train_images=3000,
        test_images=2000,
        validation=500,
        n=1,
        widths=(8, 16, 32),
        learning_rates=(0.02, 0.08, 0.32, 1.28),
        noise_images=128,
        noise_sizes=(8, 16, 32, 64),
        pad=2,
    ),
    "paper": Config(
        data="cifar10",
        seeds=(0, 1, 2, 3, 4),
        steps=64_000,
        batch_sizes=(32, 128, 512),
        side=32,
        train_images=0,
        test_images=0,
        validation=5000,
        n=18,
        widths=(16, 32, 64),
        learning_rates=(0.025, 0.1, 0.4),
        noise_images=64,
        noise_sizes=(8, 16, 32),
        lanczos_steps=24,
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
    config = experiment.configure("bjorck_noise", PROFILES, profile, seed, changes)
    experiment.check_positive(config, ("steps", "side", "validation", "n", "points"))
    experiment.check_positive(config, ("noise_draws", "trained_draws", "curvature_images"))
    experiment.check_positive(config, ("lanczos_steps",))
    experiment.check_distinct(
        config, ("seeds", "learning_rates", "arms", "batch_sizes", "noise_sizes")
    )
    _check(config)
    return config


def _check(config: Config) -> None:
    if set(config.arms) != {WITHOUT, WITH}:
        raise BnbookError(f"arms must be {(WITHOUT, WITH)}, found {config.arms}.")
    if list(config.batch_sizes) != sorted(config.batch_sizes) or len(config.batch_sizes) < 2:
        raise BnbookError(f"batch_sizes must be two or more and rise, found {config.batch_sizes}.")
    if not 2 <= min(config.noise_sizes) <= max(config.noise_sizes) < config.noise_images:
        raise BnbookError(
            f"noise_sizes must lie in [2, {config.noise_images}), found {config.noise_sizes}."
        )


def parts(config: Config) -> list[Config]:
    """Return one config for each run: with BN at all sizes, without BN at the middle one."""
    middle = config.batch_sizes[(len(config.batch_sizes) - 1) // 2]
    axes = ("arms", "batch_sizes", "seeds", "learning_rates")
    return [
        replace(part, batch_size=part.batch_sizes[0])
        for part in experiment.single_runs(config, axes)
        if part.arms[0] == WITH or part.batch_sizes[0] == middle
    ]


def fuses(part: Config) -> Config:
    """Return what runs share that train as one ensemble: all but seed and learning rate."""
    return experiment.common(part, ("seeds", "learning_rates"))


def run(config: Config, device: str = "auto") -> pd.DataFrame:
    """Train and measure every network of a config.

    Parameters
    ----------
    config : Config
        From `configure`.
    device : str
        ``auto``, ``cpu`` or ``cuda``.

    Returns
    -------
    pandas.DataFrame
        Of each network, ``arm``, ``seed``, ``learning_rate``, ``batch_size``, ``step`` and
        ``diverged_at`` with one row of the ``kind`` run: ``loss``, ``training_accuracy``,
        ``validation_accuracy``, ``test_accuracy``, ``eigenvalue``, ``eigenvalue_error`` (the norm
        of the residual) at the last step; and at each measured step one row of the kind noise for
        each ``size`` b of the minibatch: ``images`` N, ``c`` (C of equation 3), ``ratio`` (noise
        over C/b, with fixed statistics) and, with BN, ``ratio_as_trained`` (with the minibatches'
        own).
    """
    groups = experiment.ensembles(parts(config), fuses)
    tables = [table for group in groups for table in train(group, Session(device))]
    return pd.concat(tables, ignore_index=True)


def train(runs: Sequence[Config], session: Session) -> list[pd.DataFrame]:
    """Train runs that differ in seed and learning rate as one ensemble, and measure them.

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

    config = runs[0]
    experiment.check_fused(runs, fuses)
    make = functools.partial(residual.network, n=config.n, widths=config.widths)
    history = residual.train(runs, session, make, lambda *of: _probes(config, *of))
    return [_table(run, history, member) for member, run in enumerate(runs)]


def _probes(config: Config, model: Any, images: Any) -> list[Any]:
    """Return what measures the noise and the curvature of the members as they stand."""
    import torch

    from bnbook.layers import ensemble
    from bnbook.probes import curvature, gradient_noise, measurements

    shown = [part[: config.noise_images] for part in images.train]
    wide = [part[: config.curvature_images] for part in images.train]

    def noise() -> dict[str, torch.Tensor]:
        gradients = gradient_noise.per_example(model, *shown)
        c = gradient_noise.spread(gradients)
        ratio = gradient_noise.over_bound(gradients, config.noise_sizes, config.noise_draws)
        trained = torch.full_like(ratio, torch.nan)
        if config.arms[0] == WITH:
            trained = gradient_noise.as_trained_over_bound(
                model, (shown[0], shown[1]), c, config.noise_sizes, config.trained_draws
            )
        return {"c": c, "ratio": ratio, "ratio_as_trained": trained}

    def flatness() -> dict[str, torch.Tensor]:
        parameters = list(model.parameters())
        with measurements.undisturbed(model), torch.enable_grad():
            model.eval()
            product = curvature.hessian(ensemble.cross_entropy(model(wide[0]), wide[1]), parameters)
            size = sum(p.numel() for p in parameters) // model.members
            generator = torch.Generator().manual_seed(_START)
            start = torch.randn((1, size), generator=generator).to(parameters[0])
            found = curvature.largest_eigenvalue(
                product, start.repeat(model.members, 1), config.lanczos_steps
            )
        return {"eigenvalue": found.value, "eigenvalue_error": found.error}

    return [noise, flatness]


def _table(run: Config, history: Sequence[Mapping[str, Any]], member: int) -> pd.DataFrame:
    from bnbook.setups import residual

    rows = residual.table(run, history, member).assign(kind=RUN, batch_size=run.batch_size)
    last = rows.tail(1).assign(
        **{name: float(history[-1][name][member]) for name in ("eigenvalue", "eigenvalue_error")}
    )
    keys = rows[["arm", "seed", "learning_rate", "batch_size", "step", "diverged_at"]]
    measured = [
        {
            **dict(keys.iloc[at]), "kind": NOISE, "size": size, "images": run.noise_images,
            "c": float(row["c"][member]),
            "ratio": float(row["ratio"][member, which]),
            "ratio_as_trained": float(row["ratio_as_trained"][member, which]),
        }
        for at, row in enumerate(history)
        for which, size in enumerate(run.noise_sizes)
    ]  # fmt: skip
    return pd.concat([last, pd.DataFrame(measured)], ignore_index=True)
