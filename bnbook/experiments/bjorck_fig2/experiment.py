"""Bjorck et al. 2018, figure 2: gradients of the middle convolution at initialisation.

Two networks with the same convolutions and the same minibatches, with BN and without. The entries
of the gradient of one kernel are kept as a histogram in units of their own standard deviation,
with the numbers that give it its scale.

Known of the paper at second hand: a 110-layer residual network for CIFAR-10, layer 55, with BN on
the left and without on the right, heavier tails without. Chosen here: batches of 128, Xavier's
initial weights, the seeds, and what counts as a tail.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd

from bnbook.experiments.bjorck_fig2 import claims, figures
from bnbook.experiments.experiment import Experiment, check_distinct, check_known, check_positive
from bnbook.setups.settings import FirstSteps
from bnbook.tables.arms import WITH, WITHOUT
from bnbook.tables.start import check_layers

if TYPE_CHECKING:
    from torch import Tensor

WIDEST, BINS = 10.0, 80
"""Half the width of the histograms, in standard deviations, and how many bins they have."""


@dataclass(frozen=True, kw_only=True)
class Config(FirstSteps):
    """`FirstSteps`, how many minibatches, and the convolution whose kernel is looked at."""

    minibatches: int = 2
    arms: tuple[str, ...] = (WITHOUT, WITH)
    layer: int = 55

    def __post_init__(self) -> None:
        """Refuse impossible values."""
        check_positive(self, ("batch_size", "minibatches", "n"))
        check_distinct(self, ("seeds", "arms"))
        check_known(self, "arms", (WITHOUT, WITH))
        check_layers((self.layer,), self.n)


def measure(run: Config, device: Any) -> pd.DataFrame:
    """Measure the gradients of one arm and seed."""
    from bnbook.probes import landscape
    from bnbook.setups import first_steps

    arm, seed = run.arms[0], run.seeds[0]
    model = first_steps.network(arm, seed, run.n, device)
    weight = first_steps.convolution(model, run.layer).weight
    position = [p is weight for p in model.parameters()].index(True)
    batches = first_steps.minibatches(run.data, run.batch_size, run.minibatches, seed, device)
    tables = []
    for number, batch in enumerate(batches):
        loss, gradients = landscape.gradient(model, first_steps.objective(model, batch))
        labels = {"arm": arm, "seed": seed, "minibatch": number, "depth": model.depth}
        about = {"layer": run.layer, "batch_size": run.batch_size, "loss": loss}
        found = {**summary(gradients[position]), **histogram(gradients[position])}
        tables.append(pd.DataFrame({**labels, **about, **found}))
    return pd.concat(tables, ignore_index=True)


def summary(entries: Tensor) -> dict[str, float]:
    """Describe a distribution of entries that are not all equal; see the experiment's columns."""
    import torch

    x = entries.double().flatten()
    mean, std = x.mean(), x.std(correction=0)
    distance = (x - mean).abs()
    levels = torch.tensor([0.5, 0.999], dtype=x.dtype, device=x.device)
    median, p999 = torch.quantile(distance, levels).tolist()
    return {
        "mean": mean.item(),
        "std": std.item(),
        "rms": x.square().mean().sqrt().item(),
        "kurtosis": ((x - mean) / std).pow(4).mean().item() - 3,
        "median_distance": median,
        "p999_distance": p999,
    }


def histogram(entries: Tensor) -> dict[str, Any]:
    """Count entries in bins of their standard deviation; the outermost hold all beyond."""
    import numpy as np

    x = entries.double().flatten().cpu().numpy()
    z = np.clip((x - x.mean()) / x.std(), -WIDEST, WIDEST)
    count, edges = np.histogram(z, BINS, (-WIDEST, WIDEST))
    return {"bin": np.arange(BINS), "low": edges[:-1], "high": edges[1:], "count": count}


EXPERIMENT = Experiment(
    name="bjorck_fig2",
    title="Gradients of the middle layer at initialisation (Bjorck et al., figure 2)",
    profiles={
        "quick": Config(data="mnist5k", seeds=(0, 1, 2), batch_size=8, minibatches=1),
        "standard": Config(data="cifar10 or mnist5k", seeds=(0, 1, 2, 3, 4)),
    },
    axes=("arms", "seeds"),
    measure=measure,
    needs={"arms": (WITHOUT, WITH)},
    columns={
        "arm": "with or without BN",
        "seed": "sets initial weights and minibatches",
        "minibatch": "number of the minibatch, from 0",
        "depth": "layers of the network",
        "layer": "convolution whose kernel it is, from 1",
        "batch_size": "images in a minibatch",
        "loss": "of the minibatch, nats",
        "mean": "of the entries of the kernel's gradient",
        "std": "their standard deviation",
        "rms": "root of their mean square",
        "kurtosis": "excess; 0 for a Gaussian",
        "median_distance": "median of the entries' distances from their mean",
        "p999_distance": "99.9th percentile of these distances",
        "bin": "number of the histogram's bin, from 0",
        "low": "its lower edge, in standard deviations from the mean",
        "high": "its upper edge; the outermost bins hold all beyond",
        "count": "entries in it",
    },
    claims=claims.CLAIMS,
    facts=claims.facts,
    figures={"histograms": figures.histograms, "tails": figures.tails},
)
