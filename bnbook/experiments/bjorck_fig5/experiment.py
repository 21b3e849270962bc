"""Bjorck et al. 2018, figure 5: channel means and variances at initialisation against depth.

A residual network of 110 layers with Xavier's initial weights, with and without BN, at its start:
the moments of the channels of every convolution's output, before BN, and of every residual block's
output. Both networks of a seed have the same weights and are shown the same minibatch, and, apart
from it, the same Gaussian noise in place of images.

Stated by the paper, as we have it from others: the network, the initial weights, moments against
depth on a log scale. Chosen here: which tensor a layer's moments are taken of, standardised images,
noise as the input that holds no data, seeds.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pandas as pd

from bnbook.experiments.bjorck_fig5 import claims, figures
from bnbook.experiments.bjorck_fig5.claims import BLOCK, IMAGES, LAYER, NOISE
from bnbook.experiments.experiment import Experiment, check_distinct, check_positive
from bnbook.setups.settings import FirstSteps
from bnbook.tables.arms import WITH, WITHOUT

Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Config(FirstSteps):
    """`FirstSteps`; a seed sets the noise too."""

    def __post_init__(self) -> None:
        """Refuse impossible values."""
        check_positive(self, ("batch_size", "n"))
        check_distinct(self, ("seeds",))


def measure(run: Config, device: Any) -> pd.DataFrame:
    """Measure the moments of both networks of one seed."""
    return pd.DataFrame(list(_rows(run, device)))


_NOISE_STREAM = 0x4015_E000  # keeps a seed's noise apart from its weights and minibatch


def _rows(run: Config, device: Any) -> Iterator[Row]:
    import torch

    from bnbook.setups import first_steps

    (seed,) = run.seeds
    ((images, _),) = first_steps.minibatches(run.data, run.batch_size, 1, seed, device)
    generator = torch.Generator().manual_seed(_NOISE_STREAM + seed)
    noise = torch.randn(images.shape, generator=generator).to(device)
    for arm in (WITHOUT, WITH):
        model = first_steps.network(arm, seed, run.n, device)
        for inputs, shown in ((IMAGES, images), (NOISE, noise)):
            for row in _network_rows(model, shown):
                yield {
                    "arm": arm, "seed": seed, "inputs": inputs, **row,
                    "batch_size": run.batch_size,
                    "input_second": float(shown.square().mean()),
                }  # fmt: skip


def _network_rows(model: Any, images: Any) -> Iterator[Row]:
    """Moments of every layer's and every block's output."""
    from bnbook.probes import moments

    outputs = [
        *((LAYER, number, layer)
          for number, layer in enumerate([*model.convolutions, model.output], start=1)),
        *((BLOCK, number, block) for number, block in enumerate(model.blocks, start=1)),
    ]  # fmt: skip
    measured = moments.channel_moments(model, [module for *_, module in outputs], images)
    for (kind, index, _), (mean, variance) in zip(outputs, measured, strict=True):
        mean, variance = mean.double().cpu(), variance.double().cpu()
        yield {
            "kind": kind,
            "index": index,
            "mean": float(mean.abs().mean()),
            "mean_std": float(mean.abs().std()),
            "largest_mean": float(mean.abs().max()),
            "variance": float(variance.mean()),
            "variance_std": float(variance.std()),
            "second": float((mean.square() + variance).mean()),
        }


EXPERIMENT = Experiment(
    name="bjorck_fig5",
    title="Channel moments at initialisation against depth (Bjorck et al., figure 5)",
    profiles={
        "quick": Config(data="mnist5k", seeds=(0, 1, 2), batch_size=16),
        "standard": Config(data="cifar10 or mnist5k", seeds=tuple(range(10))),
    },
    measure=measure,
    columns={
        "arm": "with or without BN",
        "seed": "sets initial weights, minibatch and noise",
        "inputs": "images, or Gaussian noise in their place",
        "kind": "layer, a convolution's output before BN; or block, a residual block's output",
        "index": "number of the layer or block, from 1",
        "mean": "absolute mean of a channel, mean over channels",
        "mean_std": "its standard deviation over channels",
        "largest_mean": "its largest over channels",
        "variance": "variance of a channel, mean over channels",
        "variance_std": "its standard deviation over channels",
        "second": "mean square of a channel, mean over channels",
        "batch_size": "images",
        "input_second": "mean square of the input",
    },
    claims=claims.CLAIMS,
    facts=claims.facts,
    figures={"moments": figures.moments, "growth": figures.growth},
)
