"""Karakida, Akaho & Amari 2019: the largest eigenvalue of the Fisher information at the start.

Fully connected ReLU networks of several widths, as they are drawn: with BN nowhere, at the last
layer, at one hidden layer, at all of these, at every layer, with LayerNorm at every layer, and with
outputs that are only centred or only scaled. Networks of one seed have the same weights and the
same inputs; nothing is trained.

Stated by the paper's abstract: a random start, the Fisher information, wide networks, BN at the
last layer against the middle hidden ones, and that width and number of samples have to meet a
condition. As we recall the paper and not verified: Gaussian inputs, outputs whose errors are
squared, and that the last layer is that of the outputs. Chosen here: ReLU, He's weights, as many
inputs as the width, three hidden layers, ten outputs, gamma and beta among the parameters; and
beside the paper's setting images in place of Gaussian inputs, and the softmax's Fisher information.

The Fisher information is Gauss and Newton's matrix of these losses, see `bnbook.probes.fisher`; its
largest eigenvalue is Lanczos's, with the distance at most to the nearest one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd

from bnbook.errors import BnbookError
from bnbook.experiments.experiment import Experiment, check_distinct, check_positive
from bnbook.experiments.karakida_sharpness import claims, figures
from bnbook.experiments.karakida_sharpness.claims import (
    CENTRED,
    EVERYWHERE,
    GAUSSIAN,
    HIDDEN,
    IMAGES,
    LAST_HIDDEN,
    LAYER_NORMS,
    MIDDLE,
    SCALED,
    SOFTMAX,
)
from bnbook.tables.arms import LAST_ONLY, WITHOUT

if TYPE_CHECKING:
    from torch import Tensor

Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Config:
    """Everything that a run depends on.

    Attributes
    ----------
    data : str
        Name of a data set (see `bnbook.datasets`) whose images the networks see.
    seeds : tuple of int
        Each sets the weights, the Gaussian inputs and the images.
    widths : tuple of int
        Of the hidden layers and of the Gaussian inputs, and the number of inputs.
    hidden : int
        Hidden layers.
    outputs : int
        Of the network.
    products : int
        With the Fisher information, for its largest eigenvalue by Lanczos.
    """

    data: str
    seeds: tuple[int, ...]
    widths: tuple[int, ...]
    hidden: int = 3
    outputs: int = 10
    products: int = 20

    def __post_init__(self) -> None:
        """Refuse impossible values."""
        check_positive(self, ("outputs", "products"))
        check_distinct(self, ("seeds", "widths"))
        if self.hidden < 2:
            raise BnbookError(f"hidden must be at least 2, found {self.hidden}.")
        if min(self.widths) < 4:
            raise BnbookError(f"widths must be at least 4, found {self.widths}.")


COLUMNS = {
    "seed": "of weights, Gaussian inputs and images",
    "width": "of the hidden layers; as many inputs",
    "case": "Gaussian inputs; images; images and softmax",
    "arm": "what is normalised",
    "eigenvalue": "largest of the Fisher information, mean over inputs",
    "error": "by Lanczos, an eigenvalue is no farther than this",
}


def norms(arm: str, hidden: int) -> Mapping[int, Any]:
    """Return what is put at which layer, from 1; `hidden` + 1 is that of the outputs."""
    from bnbook.layers.norm import BatchNorm, LayerNorm
    from bnbook.layers.outside import MEAN, VARIANCE
    from bnbook.layers.partial import PartialBatchNorm

    last = hidden + 1
    every = range(1, last + 1)
    placed: dict[str, Mapping[int, Any]] = {
        WITHOUT: {},
        LAST_ONLY: {last: BatchNorm},
        MIDDLE: {(hidden + 1) // 2: BatchNorm},
        LAST_HIDDEN: {hidden: BatchNorm},
        HIDDEN: dict.fromkeys(every[:-1], BatchNorm),
        EVERYWHERE: dict.fromkeys(every, BatchNorm),
        LAYER_NORMS: dict.fromkeys(every, LayerNorm),
        CENTRED: {last: lambda features: PartialBatchNorm(features, {MEAN})},
        SCALED: {last: lambda features: PartialBatchNorm(features, {VARIANCE})},
    }
    return placed[arm]


def measure(run: Config, device: Any) -> pd.DataFrame:
    """Measure every network of a seed and a width."""
    return pd.DataFrame(list(_rows(run, device)))


_INPUT_STREAM = 0x4A8A_0000  # keeps a seed's inputs apart from its weights
_START_STREAM = 0x4A8B_0000  # and from where Lanczos starts


def _rows(run: Config, device: Any) -> Iterator[Row]:
    (seed,), (width,) = run.seeds, run.widths
    seen = {GAUSSIAN: _normal(seed, width), IMAGES: _images(run)}
    for case in (GAUSSIAN, IMAGES, SOFTMAX):
        x = seen[IMAGES if case == SOFTMAX else case].to(device)
        for arm in claims.ARMS if case == GAUSSIAN else claims.SHOWN:
            found = _top(run, arm, x, "softmax" if case == SOFTMAX else "gaussian")
            yield {"seed": seed, "width": width, "case": case, "arm": arm, **found}


def _normal(seed: int, width: int) -> Tensor:
    import torch

    generator = torch.Generator().manual_seed(_INPUT_STREAM + seed)
    return torch.randn(width, width, generator=generator)


def _images(run: Config) -> Tensor:
    """As many images as the width: pixels less their means, over the deviation of what is left."""
    from bnbook import datasets
    from bnbook.training import fit

    images, _ = datasets.load(run.data)
    std = images.var(0, correction=0).mean().sqrt()
    (chosen,) = fit.minibatches(len(images), run.widths[0], 1, run.seeds[0])
    return ((images[chosen] - images.mean(0)) / std).flatten(1)


def _top(run: Config, arm: str, x: Tensor, loss: str) -> Row:
    """Return the largest eigenvalue of one network's Fisher information."""
    import torch

    from bnbook.networks.dense import PlacedMLP
    from bnbook.probes import curvature, fisher

    hidden = (run.widths[0],) * run.hidden
    model = PlacedMLP(
        norms(arm, run.hidden), run.seeds, num_inputs=x.shape[1], hidden=hidden,
        num_classes=run.outputs,
    ).to(x.device).train()  # fmt: skip
    parameters = list(model.parameters())
    number = sum(p.numel() for p in parameters)
    generator = torch.Generator().manual_seed(_START_STREAM + run.seeds[0])
    begin = torch.randn(1, number, generator=generator).to(x.device)
    product = curvature.hessian(fisher.LOSSES[loss](model(x)), parameters)
    top = curvature.largest_eigenvalue(product, begin, min(run.products, number))
    return {"eigenvalue": top.value.item(), "error": top.error.item()}


EXPERIMENT = Experiment(
    name="karakida_sharpness",
    title="Sharpness of wide networks at their start, BN placed anywhere (Karakida et al. 2019)",
    profiles={
        "quick": Config(data="digits", seeds=(0, 1, 2), widths=(16, 32, 64)),
        "standard": Config(data="mnist5k", seeds=(0, 1, 2, 3, 4), widths=(64, 128, 256, 512)),
        "paper": Config(
            data="mnist5k", seeds=tuple(range(10)), widths=(64, 128, 256, 512, 1024, 2048),
            products=30,
        ),
    },
    axes=("widths", "seeds"),
    measure=measure,
    columns=COLUMNS,
    claims=claims.CLAIMS,
    facts=claims.facts,
    figures={"widths": figures.widths},
)  # fmt: skip
