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
from bnbook.experiments.bjorck_noise import claims, figures
from bnbook.experiments.bjorck_noise.claims import NOISE, RUN
from bnbook.experiments.experiment import (
    Experiment,
    check_distinct,
    check_known,
    check_positive,
    is_single,
    single_runs,
)
from bnbook.setups.settings import RESIDUAL_COLUMNS, ResidualSetting
from bnbook.tables.arms import WITH, WITHOUT
from bnbook.training.session import Session

AXES = ("arms", "batch_sizes", "seeds", "learning_rates")
_START = 0x1A9C_0000  # of the random vectors that Lanczos starts from


@dataclass(frozen=True, kw_only=True)
class Config(ResidualSetting):
    """A `ResidualSetting` over sizes of the minibatch, and what is measured.

    Attributes
    ----------
    batch_sizes : tuple of int
        Images in a minibatch, rising; without BN the middle one alone.
    batch_size : int
        Of a single run, 0 in a whole config.
    n : int
        Residual blocks of a stage, for 6n + 2 layers.
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
    """

    batch_sizes: tuple[int, ...]
    batch_size: int = 0
    n: int = 1
    noise_images: int
    noise_sizes: tuple[int, ...]
    noise_draws: int = 4000
    trained_draws: int = 16
    curvature_images: int = 256
    lanczos_steps: int = 16
    points: int = 2

    def __post_init__(self) -> None:
        """Refuse impossible values."""
        check_positive(self, ("steps", "side", "validation", "n", "points", "noise_draws"))
        check_positive(self, ("trained_draws", "curvature_images", "lanczos_steps"))
        check_distinct(self, (*AXES, "noise_sizes"))
        check_known(self, "arms", (WITHOUT, WITH))
        sizes, whole = self.batch_sizes, not is_single(self, AXES)
        if list(sizes) != sorted(sizes) or (whole and len(sizes) < 2):
            raise BnbookError(f"batch_sizes must be two or more and rise, found {sizes}.")
        if not 2 <= min(self.noise_sizes) <= max(self.noise_sizes) < self.noise_images:
            raise BnbookError(
                f"noise_sizes must lie in [2, {self.noise_images}), found {self.noise_sizes}."
            )


def _split(config: Config) -> list[Config]:
    """Return one config for each run: with BN at all sizes, without BN at the middle one."""
    middle = config.batch_sizes[(len(config.batch_sizes) - 1) // 2]
    return [
        replace(part, batch_size=part.batch_sizes[0])
        for part in single_runs(config, AXES)
        if part.arms[0] == WITH or part.batch_sizes[0] == middle
    ]


def train(runs: Sequence[Config], session: Session) -> list[pd.DataFrame]:
    """Train runs that differ in seed and learning rate as one ensemble, and measure them."""
    from bnbook.setups import residual

    config = runs[0]
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


EXPERIMENT = Experiment(
    name="bjorck_noise",
    title="The noise of SGD, its bound, and generalisation (Bjorck et al., section 2.1)",
    profiles={
        "quick": Config(
            data="digits", seeds=(0, 1, 2), steps=60, batch_sizes=(4, 16, 64), side=8,
            train_images=800, validation=300, widths=(4, 8, 16), learning_rates=(0.02, 0.08, 0.32),
            noise_images=48, noise_sizes=(6, 12, 24), noise_draws=1000, trained_draws=4,
            curvature_images=128, lanczos_steps=6, pad=1, points=1,
        ),
        "standard": Config(
            data="cifar10 or mnist5k", seeds=(0, 1, 2, 3, 4), steps=1000,
            batch_sizes=(16, 64, 256), side=16, train_images=3000, test_images=2000,
            validation=500, widths=(8, 16, 32), learning_rates=(0.02, 0.08, 0.32, 1.28),
            noise_images=128, noise_sizes=(8, 16, 32, 64), pad=2,
        ),
        "paper": Config(
            data="cifar10", seeds=(0, 1, 2, 3, 4), batch_sizes=(32, 128, 512), n=18,
            learning_rates=(0.025, 0.1, 0.4), noise_images=64, noise_sizes=(8, 16, 32),
            lanczos_steps=24,
        ),
    },
    axes=AXES,
    fused=("seeds", "learning_rates"),
    train=train,
    split=_split,
    needs={"arms": (WITHOUT, WITH)},
    columns={
        **RESIDUAL_COLUMNS,
        "kind": "run, one row of each network at its last step, with losses and accuracies; or"
        " noise, one row for each measured step and size",
        "batch_size": "images in a minibatch of training",
        "eigenvalue": "largest of the Hessian of the training loss",
        "eigenvalue_error": "norm of its residual",
        "size": "b, images in a minibatch whose noise is measured",
        "images": "N, images whose gradients the noise is made of",
        "c": "C of equation 3",
        "ratio": "noise over C/b, with fixed statistics",
        "ratio_as_trained": "noise over C/b with the minibatches' own statistics, with BN only",
    },
    claims=claims.CLAIMS,
    facts=claims.facts,
    figures={"bound": figures.bound, "lines": figures.lines, "flatness": figures.flatness},
)  # fmt: skip
