"""Internal covariate shift against speed, over networks that have more or less of it.

Arms: without BN; with BN; BN followed by noise that moves its outputs' distributions at every step;
the same noise without BN; BN's statistics taken out of the gradient; frozen at the first batch; BN
that fixes means only, or variances only. Each trains over the same grid of rates, from the same
weights on the same minibatches at one seed. As they train, the shift of the next step is measured
(`bnbook.probes.shift`), and the loss along the gradient (`bnbook.probes.along`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import Any

import pandas as pd

from bnbook.errors import BnbookError
from bnbook.experiments.experiment import (
    Experiment,
    check_distinct,
    check_known,
    check_positive,
    is_single,
    single_runs,
)
from bnbook.experiments.ics_speed import claims, figures
from bnbook.setups import shift
from bnbook.tables.arms import (
    FROZEN,
    MEANS_ONLY,
    NOISE,
    NOISY,
    OUTSIDE,
    VARIANCES_ONLY,
    WITH,
    WITHOUT,
)
from bnbook.tables.shift import CONV, RELU_MLP
from bnbook.training.session import Session

AXES = ("networks", "arms", "seeds", "learning_rates")


@dataclass(frozen=True, kw_only=True)
class Config(shift.ShiftSetting):
    """A `bnbook.setups.shift.ShiftSetting` over the arms, with the noise's size.

    Attributes
    ----------
    n_mu, n_sigma, jitter : float
        Of `bnbook.layers.partial.Noise`.
    multiples : tuple of float
        Steps along the gradient, in units of the rate.
    """

    networks: tuple[str, ...] = (RELU_MLP, CONV)
    arms: tuple[str, ...] = claims.ARMS
    n_mu: float = 0.5
    n_sigma: float = 1.25
    jitter: float = 0.1
    multiples: tuple[float, ...] = (0.5, 1.0, 2.0, 4.0)

    def __post_init__(self) -> None:
        """Refuse impossible values."""
        check_positive(self, ("steps", "points", "batch_size", "probe_images", "layers", "side"))
        check_distinct(self, (*AXES, "multiples"))
        check_known(self, "arms", claims.ARMS)
        check_known(self, "networks", (RELU_MLP, CONV))
        self.check_shift()
        if claims.EQUAL not in self.learning_rates and not is_single(self, AXES):
            raise BnbookError(
                f"learning_rates must hold {claims.EQUAL}, at which the landscapes are compared,"
                f" found {self.learning_rates}."
            )


def norm_of(config: Config, seeds: Sequence[int]) -> Callable[[int], Any] | None:
    """Return what makes the norm layers of a single run's arm, or None."""
    from bnbook.layers import norm, outside
    from bnbook.layers import partial as apart

    layers = count()

    def noise(make: Callable[[int], Any] | None, num_features: int) -> apart.Noise:
        before = None if make is None else make(num_features)
        return apart.Noise(before, seeds, next(layers), config.n_mu, config.n_sigma, config.jitter)

    found: dict[str, Callable[[int], Any] | None] = {
        WITHOUT: None,
        WITH: norm.BatchNorm,
        NOISY: partial(noise, norm.BatchNorm),
        NOISE: partial(noise, None),
        OUTSIDE: outside.BatchNormOutside,
        FROZEN: apart.FrozenBatchNorm,
        MEANS_ONLY: partial(apart.PartialBatchNorm, fixes=(outside.MEAN,)),
        VARIANCES_ONLY: partial(apart.PartialBatchNorm, fixes=(outside.VARIANCE,)),
    }
    return found[config.arms[0]]


def train(runs: Sequence[Config], session: Session) -> list[pd.DataFrame]:
    """Train runs that differ in seed and learning rate as one ensemble."""
    from bnbook.probes import along

    config = runs[0]

    def landscape(model: Any, objective: Any, rates: Any) -> Callable[[], dict[str, Any]]:
        if config.arms[0] == FROZEN:  # by the batch that is measured, before the first step
            model.train()
            objective()
        return lambda: along.walk(model, objective, rates, config.multiples)._asdict()

    return shift.train(runs, session, partial(norm_of, config), landscape)


EXPERIMENT = Experiment(
    name="ics_speed",
    title="Internal covariate shift against the speed of training",
    profiles={
        "quick": Config(
            data="digits", seeds=(0, 1, 2, 3, 4), networks=(RELU_MLP,), steps=60, points=3,
            learning_rates=(0.03, 0.1, 0.3, 1.0, 3.0), layers=2,
        ),
        "standard": Config(
            data="mnist5k", seeds=tuple(range(7)), steps=200, points=5,
            learning_rates=(0.03, 0.1, 0.3, 1.0, 3.0), train_images=4000, validation=500,
            widths=(4, 8), probe_images=128,
        ),
    },
    axes=AXES,
    fused=("seeds", "learning_rates"),
    split=lambda config: shift.split(config, single_runs(config, AXES)),
    train=train,
    needs={"arms": claims.ARMS, "networks": (RELU_MLP,)},
    columns={
        **shift.COLUMNS,
        "loss_range": "largest less smallest loss along the gradient, nats",
        "gradient_change": "largest change of the gradient along it",
        "smoothness": "largest change of the gradient over the way and the gradient's length",
    },
    claims=claims.CLAIMS,
    facts=claims.facts,
    figures={"speed": figures.speed, "predicts": figures.predicts, "landscape": figures.landscape},
)  # fmt: skip
