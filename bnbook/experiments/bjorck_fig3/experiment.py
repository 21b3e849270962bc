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

from dataclasses import dataclass
from typing import Any

import pandas as pd

from bnbook.errors import BnbookError
from bnbook.experiments.bjorck_fig3 import claims, figures
from bnbook.experiments.experiment import Experiment, check_distinct, check_known, check_positive
from bnbook.setups.settings import FirstSteps
from bnbook.tables.arms import WITH, WITHOUT


@dataclass(frozen=True, kw_only=True)
class Config(FirstSteps):
    """`FirstSteps` and what is looked at in them.

    Attributes
    ----------
    minibatches : int
        How many minibatches of the training are looked at.
    per_decade : int
        Step sizes to a factor of ten.
    refinements : int
        How often the interval that holds the largest helpful step is halved.
    smallest, largest : int
        Exponents of ten of the first and the last step size.
    arms : tuple of str
        With and without BN.
    with_rate, without_rate : float
        Learning rates between the minibatches.
    momentum : float
        Of these updates, in [0, 1).
    """

    minibatches: int = 3
    per_decade: int = 2
    refinements: int = 3
    smallest: int = -6
    largest: int = 1
    arms: tuple[str, ...] = (WITHOUT, WITH)
    with_rate: float = 0.1
    without_rate: float = 0.0001
    momentum: float = 0.9

    def __post_init__(self) -> None:
        """Refuse impossible values."""
        check_positive(self, ("batch_size", "minibatches", "per_decade", "n"))
        check_distinct(self, ("seeds", "arms"))
        check_known(self, "arms", (WITHOUT, WITH))
        if self.refinements < 0 or not self.smallest < self.largest:
            raise BnbookError(
                "refinements must be at least 0 and smallest below largest, found"
                f" {self.refinements}, {self.smallest} and {self.largest}."
            )
        if not 0 <= self.momentum < 1 or min(self.with_rate, self.without_rate) <= 0:
            raise BnbookError(
                "momentum must lie in [0, 1) and the rates be positive, found"
                f" {self.momentum}, {self.with_rate} and {self.without_rate}."
            )

    @property
    def step_sizes(self) -> list[float]:
        """The grid of step sizes."""
        whole = range(self.per_decade * (self.largest - self.smallest) + 1)
        return [10.0 ** (self.smallest + k / self.per_decade) for k in whole]

    @property
    def rate(self) -> float:
        """The learning rate of a single arm."""
        return self.with_rate if self.arms[0] == WITH else self.without_rate


def measure(run: Config, device: Any) -> pd.DataFrame:
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


EXPERIMENT = Experiment(
    name="bjorck_fig3",
    title="The loss along the negative gradient (Bjorck et al., figure 3)",
    profiles={
        "quick": Config(
            data="mnist5k",
            seeds=(0, 1, 2),
            batch_size=8,
            minibatches=1,
            per_decade=1,
            refinements=2,
        ),
        "standard": Config(data="cifar10 or mnist5k", seeds=(0, 1, 2, 3, 4)),
    },
    axes=("arms", "seeds"),
    measure=measure,
    needs={"arms": (WITHOUT, WITH)},
    columns={
        "arm": "with or without BN",
        "seed": "sets initial weights and minibatches",
        "rate": "learning rate of the updates between the minibatches",
        "depth": "layers of the network",
        "minibatch": "updates made before it",
        "batch_size": "images in a minibatch",
        "loss": "of the minibatch before a step, nats",
        "gradient_norm": "over all parameters",
        "largest_step": "that reduces the loss; see `bnbook.probes.landscape.descend`",
        "step_size": "factor of the negative gradient",
        "loss_ratio": "loss after the step over that before; infinite or missing on overflow",
    },
    claims=claims.CLAIMS,
    facts=claims.facts,
    figures={"curves": figures.curves, "largest": figures.largest},
)
