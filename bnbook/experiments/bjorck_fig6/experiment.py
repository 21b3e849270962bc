"""Bjorck et al. 2018, figure 6: gradients of the network's outputs at initialisation.

A residual network of 110 layers with Xavier's initial weights, with and without BN, at its start:
for each image b of a minibatch and each class j the derivative of the image's loss by the output
O_bj. The networks of a seed have the same weights and see the same minibatch. The third has BN at
one place, after the last residual block: it centres the features that the classifier gets.

Stated by the paper, as we have it from others: the network, the initial weights, the quantity.
Chosen here: standardised images, the share of one class as its number, seeds, the third network.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd

from bnbook.errors import BnbookError
from bnbook.experiments.bjorck_fig6 import claims, figures
from bnbook.experiments.experiment import Experiment, check_distinct, check_positive
from bnbook.setups.settings import FirstSteps
from bnbook.tables.arms import LAST_ONLY, WITH, WITHOUT


@dataclass(frozen=True, kw_only=True)
class Config(FirstSteps):
    """`FirstSteps`, with two images or more, whose gradients are compared."""

    def __post_init__(self) -> None:
        """Refuse impossible values."""
        check_positive(self, ("n",))
        check_distinct(self, ("seeds",))
        if self.batch_size < 2:
            raise BnbookError(f"batch_size must be at least 2, found {self.batch_size}.")


def measure(run: Config, device: Any) -> pd.DataFrame:
    """Measure the gradients of the outputs of the three networks of one seed."""
    from bnbook.probes import moments
    from bnbook.setups import first_steps

    (seed,) = run.seeds
    ((images, labels),) = first_steps.minibatches(run.data, run.batch_size, 1, seed, device)
    tables = []
    for arm in (WITHOUT, WITH, LAST_ONLY):
        if arm == LAST_ONLY:
            model = _normalised_last(seed, run.n, device)
        else:
            model = first_steps.network(arm, seed, run.n, device)
        gradients = moments.output_gradients(model, images, labels)[:, 0].double().cpu()
        tables.append(_tidy(gradients, labels.cpu()).assign(arm=arm, seed=seed))
    return pd.concat(tables, ignore_index=True)


def _normalised_last(seed: int, n: int, device: Any) -> Any:
    from bnbook.layers import ensemble, norm
    from bnbook.networks import models

    return models.ResNet(norm.BatchNorm, (seed,), n=n, last_only=True, init_std=ensemble.xavier).to(
        device
    )


def _tidy(gradients: Any, labels: Any) -> pd.DataFrame:
    """One row for each image; the softmax is the gradient plus the indicator of the label."""
    from torch.nn import functional as F  # noqa: N812

    softmax = gradients + F.one_hot(labels, gradients.shape[1])
    probability, predicted = softmax.max(1)
    columns = {f"gradient_{j}": column.numpy() for j, column in enumerate(gradients.T)}
    return pd.DataFrame(
        {
            "image": range(len(labels)),
            "label": labels.numpy(),
            "predicted": predicted.numpy(),
            "probability": probability.numpy(),
            **columns,
        }
    )


EXPERIMENT = Experiment(
    name="bjorck_fig6",
    title="Gradients of the outputs at initialisation (Bjorck et al., figure 6)",
    profiles={
        "quick": Config(data="mnist5k", seeds=(0, 1, 2), batch_size=32),
        "standard": Config(data="cifar10", seeds=tuple(range(10, 110))),
    },
    measure=measure,
    columns={
        "image": "number of the image, from 0",
        "label": "its class",
        "predicted": "class of the largest output",
        "probability": "that the network gives that class",
        "gradient_*": "of the image's loss by one of the ten outputs, nats",
        "arm": "without BN, with it, with it at the last layer only",
        "seed": "sets initial weights and minibatch",
    },
    claims=claims.CLAIMS,
    facts=claims.facts,
    figures={"heatmap": figures.heatmap, "shares": figures.shares},
)
