"""Bjorck et al. 2018, table 1: what cancels in a kernel's gradient at initialisation.

A residual network of 110 layers with Xavier's initial weights, with and without BN, at its start.
The gradient of a kernel is a sum over the images of a minibatch and the positions of the output
(equation 5); compared are the sum of the terms' absolute values and the absolute value of their
sum, at a convolution in each stage. Both networks of a seed have the same weights and see the same
minibatch.

Stated by the paper, as we recall it: the layers, the two sums, their averages over the kernel's
parameters. Chosen here: how layers are counted, standardised images, seeds, the split into what
cancels within an image and what between images, and the agreement of two halves of the minibatch.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pandas as pd

from bnbook.errors import BnbookError
from bnbook.experiments.bjorck_tab1 import claims, figures
from bnbook.experiments.experiment import Experiment, check_distinct, check_positive
from bnbook.setups.settings import FirstSteps
from bnbook.tables.arms import WITH, WITHOUT
from bnbook.tables.start import check_layers

Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Config(FirstSteps):
    """`FirstSteps`, with an even number of images, two halves of which are compared.

    Attributes
    ----------
    layers : tuple of int
        Convolutions, 1 the first of all.
    """

    layers: tuple[int, ...] = (18, 54, 90)

    def __post_init__(self) -> None:
        """Refuse impossible values."""
        check_positive(self, ("batch_size", "n"))
        check_distinct(self, ("seeds", "layers"))
        check_layers(self.layers, self.n)
        if self.batch_size % 2:
            raise BnbookError(f"batch_size must be even, found {self.batch_size}.")


def measure(run: Config, device: Any) -> pd.DataFrame:
    """Measure the sums of both networks of one seed."""
    return pd.DataFrame(list(_rows(run, device)))


def _rows(run: Config, device: Any) -> Iterator[Row]:
    from bnbook.probes import moments
    from bnbook.setups import first_steps

    (seed,) = run.seeds
    ((images, labels),) = first_steps.minibatches(run.data, run.batch_size, 1, seed, device)
    for arm in (WITHOUT, WITH):
        model = first_steps.network(arm, seed, run.n, device)
        chosen = [first_steps.convolution(model, number) for number in run.layers]
        captured = moments.capture(model, chosen, images, labels)
        for number, layer, found in zip(run.layers, chosen, captured, strict=True):
            yield {
                "arm": arm, "seed": seed, "layer": number, "batch_size": run.batch_size,
                **_sums(layer, found),
            }  # fmt: skip


def _sums(layer: Any, found: Any) -> Row:
    import torch

    from bnbook.probes import moments

    half = len(found.inputs) // 2
    size = layer.weight.shape[-1]
    first, second = (
        moments.contributions(some, g, size, layer.stride, layer.padding)
        for some, g in zip(found.inputs.split(half), found.output_gradient.split(half), strict=True)
    )
    total = first.total + second.total
    gradient = found.output_gradient.double()
    expected = found.kernel_gradient.double()
    return {
        "terms": first.terms + second.terms,
        "a": float((first.absolute + second.absolute).mean()),
        "b": float(total.abs().mean()),
        "c": float((first.by_image + second.by_image).mean()),
        "agreement": float(
            torch.cosine_similarity(first.total.flatten(), second.total.flatten(), dim=0)
        ),
        "zero_sum": float(
            gradient.sum((0, 2, 3)).abs().mean() / gradient.abs().sum((0, 2, 3)).mean()
        ),
        "error": float((total - expected).abs().max() / expected.abs().max()),
    }


EXPERIMENT = Experiment(
    name="bjorck_tab1",
    title="Cancellation in a kernel's gradient at initialisation (Bjorck et al., table 1)",
    profiles={
        "quick": Config(data="mnist5k", seeds=(0, 1, 2), batch_size=16),
        "standard": Config(data="cifar10 or mnist5k", seeds=tuple(range(10))),
    },
    measure=measure,
    columns={
        "arm": "with or without BN",
        "seed": "sets initial weights and minibatch",
        "layer": "convolution whose kernel it is, from 1",
        "batch_size": "images in the minibatch",
        "terms": "terms of each sum of equation 5",
        "a": "sum of the terms' absolute values, mean over the kernel's parameters; as b and c of"
        " the loss averaged over the batch",
        "b": "absolute value of their sum, mean over the parameters",
        "c": "sum over images of the absolute value of an image's sum, mean over the parameters",
        "agreement": "cosine of the gradients from the two halves of the batch",
        "zero_sum": "absolute sum over images and positions of the output's gradient, over the sum"
        " of absolute values, each averaged over channels",
        "error": "largest difference of the terms' sum from autograd's gradient, relative to the"
        " latter's largest entry",
    },
    claims=claims.CLAIMS,
    facts=claims.facts,
    figures={"cancellation": figures.cancellation},
)
