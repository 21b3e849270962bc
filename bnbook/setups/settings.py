"""What several experiments say of their training: fields of configs and columns of tables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bnbook.errors import BnbookError
from bnbook.tables.arms import WITH, WITHOUT


@dataclass(frozen=True, kw_only=True)
class ResidualSetting:
    """How residual networks train; see `bnbook.setups.residual`. A single run has one of each axis.

    Attributes
    ----------
    data : str
        Name of a data set of images (see `bnbook.datasets`).
    side : int
        Rows and columns of the images; larger ones are averaged down, smaller ones enlarged.
    train_images, test_images : int
        Images used, at most; 0 takes all.
    validation : int
        Training images set aside to choose rates; the split does not depend on the seed.
    pad : int
        Zeros around an image from which its crop is taken, in pixels; 0: neither crop nor flip.
    widths : tuple of int
        Channels of the three stages.
    steps, batch_size : int
        Length of training, and images in a minibatch.
    seeds : tuple of int
        Each sets the initial weights and the minibatches.
    learning_rates : tuple of float
        The grid of initial rates, the same for all networks.
    arms : tuple of str
        The networks.
    momentum, weight_decay : float
        Of SGD; all parameters decay.
    warm_up : float
        Share of the steps over which the rate rises, in the arm with a warm-up.
    clip_norm : float
        Largest norm of a gradient, in the arm that is clipped.
    points : int
        Measurements after the start, evenly spread over the steps.
    """

    data: str
    seeds: tuple[int, ...]
    learning_rates: tuple[float, ...]
    arms: tuple[str, ...] = (WITHOUT, WITH)
    side: int = 32
    train_images: int = 0
    validation: int = 5_000
    test_images: int = 0
    pad: int = 4
    widths: tuple[int, ...] = (16, 32, 64)
    steps: int = 64_000
    batch_size: int = 128
    momentum: float = 0.9
    weight_decay: float = 1e-4
    warm_up: float = 0.1
    clip_norm: float = 1.0
    points: int = 10


@dataclass(frozen=True, kw_only=True)
class WatchedSetting(ResidualSetting):
    """A `ResidualSetting` whose runs are watched.

    Attributes
    ----------
    end_dead : bool
        Whether a run ends where it is dead, by the rule of `bnbook.setups.dead`.
    keep_right : bool
        Whether it is kept which test images a run that lived had right.
    """

    end_dead: bool = True
    keep_right: bool = True


@dataclass(frozen=True, kw_only=True)
class FirstSteps:
    """Bjorck et al.'s residual network at the start of training; see `bnbook.setups.first_steps`.

    Attributes
    ----------
    data : str
        Name of a data set of images (see `bnbook.datasets`).
    seeds : tuple of int
        Each sets the initial weights and the minibatches.
    batch_size : int
        Images in a minibatch.
    n : int
        Residual blocks of a stage; 18 for 110 layers.
    """

    data: str
    seeds: tuple[int, ...]
    batch_size: int = 128
    n: int = 18


TUNING, JUDGING = "tuning", "judging"
"""The roles of a run: its result chooses rates, or it is shown and chooses nothing."""


@dataclass(frozen=True, kw_only=True)
class SearchSetting(WatchedSetting):
    """A `WatchedSetting` whose rates are searched for; see `bnbook.setups.search`.

    Attributes
    ----------
    tuning_seeds : tuple of int
        Of the runs that choose rates: two or more, none of them among `seeds`.
    crossed : bool
        Whether each arm is judged at the rates of the other arms too.
    role : str
        Of a single run.
    """

    tuning_seeds: tuple[int, ...] = (100, 101, 102, 103)
    crossed: bool = True
    role: str = JUDGING

    def check_search(self) -> None:
        """Refuse a search whose judging seeds would choose, or that has nothing to choose from.

        Raises
        ------
        BnbookError
            With what was expected and found. A single run, without tuning seeds, is no search.
        """
        if not self.tuning_seeds:
            return
        if both := sorted(set(self.seeds) & set(self.tuning_seeds)):
            raise BnbookError(f"seeds must not choose rates and be shown, {both} would do both.")
        if len(set(self.tuning_seeds)) < max(2, len(self.tuning_seeds)):
            raise BnbookError(
                f"tuning_seeds must be two or more and distinct, found {self.tuning_seeds}."
            )
        rates = self.learning_rates
        if len(rates) < 2 or list(rates) != sorted(set(rates)):
            raise BnbookError(f"learning_rates must be two or more and rising, found {rates}.")


RESIDUAL_SIZES = ("side", "validation", "steps", "batch_size", "points")
"""Fields of `ResidualSetting` that are 1 or more."""

RESIDUAL_COLUMNS: Mapping[str, str] = {
    "arm": "the network",
    "seed": "sets initial weights and minibatches",
    "learning_rate": "initial rate of SGD",
    "step": "steps done when the row was measured",
    "diverged_at": "step whose minibatch loss was above 10³ or no number; -1 for none so far",
    "loss": "mean training loss since the row before, nats",
    "training_accuracy": "of some training images as they are, in [0, 1]; from a run's divergence"
    " on, as of the other two, that of guessing",
    "validation_accuracy": "of the images set aside to choose rates, in [0, 1]",
    "test_accuracy": "of the test images, in [0, 1]",
}
"""Columns of the tables of `bnbook.setups.residual.table`: one row per run and measured step."""

WATCHED_COLUMNS: Mapping[str, str] = {
    **RESIDUAL_COLUMNS,
    "jumped_at": "step whose minibatch loss was above 10³ times the one before or no number; -1 for"
    " none so far",
    "dead_at": "step at which the run was dead and ended, -1 for none so far",
    "dead_by": "the rule by which it was dead, of `bnbook.setups.dead.RULES`",
    "right": "in the last row of a run that lived, which test images were right; see"
    " `bnbook.tables.right`",
}
"""Columns of the tables of watched runs."""

SEARCH_COLUMNS: Mapping[str, str] = {
    **WATCHED_COLUMNS,
    "role": "tuning: the run chose rates; judging: it is shown, and chose nothing",
}
"""Columns of the tables of a search."""

RATE_MAPS: Mapping[str, Mapping[str, Any]] = {
    "quick": {
        "data": "digits", "seeds": (0, 1, 2), "side": 8, "train_images": 800, "validation": 300,
        "batch_size": 32, "n": 1, "widths": (4, 8, 16), "pad": 1,
    },
    "standard": {
        "data": "cifar10 or mnist5k", "seeds": (0, 1, 2, 3, 4), "side": 16, "train_images": 3000,
        "validation": 500, "test_images": 2000, "batch_size": 64, "n": 2, "widths": (8, 16, 32),
        "pad": 2, "learning_rates": (
            *(0.00025, 0.00063, 0.0016, 0.004, 0.01, 0.025),
            *(0.063, 0.16, 0.4, 1.0, 2.5, 6.3),
        ),
    },
    "paper": {
        "data": "cifar10", "seeds": (0, 1, 2, 3, 4), "n": 18, "learning_rates": (
            *(0.00003, 0.0001, 0.0003, 0.001, 0.003, 0.01),
            *(0.03, 0.1, 0.3, 1.0, 3.0, 10.0),
        ),
    },
}  # fmt: skip
"""Settings of the maps of learning rates, by profile."""

LARGEST_RATES: Mapping[str, Mapping[str, Any]] = {
    "quick": {
        "data": "digits", "seeds": (0, 1, 2), "side": 8, "widths": (4, 8, 16), "pad": 0,
        "train_images": 1200, "validation": 200, "test_images": 200, "steps": 60, "batch_size": 16,
        "learning_rates": tuple(2.0**k for k in range(-6, 2)), "points": 8,
    },
    "standard": {
        "data": "cifar10 or mnist5k", "seeds": (0, 1, 2, 3, 4), "side": 8, "widths": (4, 8, 16),
        "pad": 0, "train_images": 3500, "validation": 500, "test_images": 500, "batch_size": 32,
        "learning_rates": tuple(2.0**k for k in range(-9, 4)), "points": 8,
    },
    "paper": {
        "data": "cifar10", "seeds": (0, 1, 2, 3, 4), "points": 8, "learning_rates": (
            *(0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03),
            *(0.1, 0.3, 1.0, 3.0, 10.0, 30.0),
        ),
    },
}  # fmt: skip
"""Settings of the experiments that look for the largest usable rate, by profile."""
