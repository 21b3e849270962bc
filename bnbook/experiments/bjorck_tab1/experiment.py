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

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from bnbook.errors import BnbookError
from bnbook.experiments import experiment
from bnbook.experiments.bjorck_tab1 import claims, figures
from bnbook.tables.arms import WITH, WITHOUT
from bnbook.training.session import Session

TITLE = "Cancellation in a kernel's gradient at initialisation (Bjorck et al., table 1)"

CLAIMS = claims.CLAIMS
FIGURES = {
    "cancellation": lambda table: figures.cancellation(
        table,
        claims.cancellation(table),
        (claims.within_images(table), claims.between_images(table)),
    ),
}
facts = claims.facts

Row = dict[str, Any]


@dataclass(frozen=True)
class Config:
    """Everything that a run depends on.

    Attributes
    ----------
    data : str
        Name of a data set of images (see `bnbook.datasets`).
    seeds : tuple of int
        Each sets the initial weights and the minibatch.
    batch_size : int
        Images, an even number: two halves are compared.
    n : int
        Residual blocks of a stage; 18 for 110 layers.
    layers : tuple of int
        Convolutions, 1 the first of all.
    """

    data: str
    seeds: tuple[int, ...]
    batch_size: int = 128
    n: int = 18
    layers: tuple[int, ...] = (18, 54, 90)


PROFILES: Mapping[str, Config] = {
    "quick": Config(data="mnist5k", seeds=(0, 1, 2), batch_size=16),
    "standard": Config(data="cifar10 or mnist5k", seeds=tuple(range(10))),
}


def configure(profile: str, seed: int = 0, **changes: Any) -> Config:
    """Return a profile's config, with changes, its data chosen and its fields checked.

    Parameters
    ----------
    profile : str
        ``quick`` or ``standard``.
    seed : int
        Added to every seed, for runs that no record holds.
    **changes
        Fields of `Config` to replace; None leaves a field as it is.

    Returns
    -------
    Config

    Raises
    ------
    BnbookError
        When the profile or a field is unknown, or a value is impossible.
    """
    config = experiment.configure("bjorck_tab1", PROFILES, profile, seed, changes)
    experiment.check_positive(config, ("batch_size", "n"))
    experiment.check_distinct(config, ("seeds", "layers"))
    last = 6 * config.n + 1
    if not 1 <= min(config.layers) <= max(config.layers) <= last:
        raise BnbookError(f"layers must lie in [1, {last}], found {config.layers}.")
    if config.batch_size % 2:
        raise BnbookError(f"batch_size must be even, found {config.batch_size}.")
    return config


def parts(config: Config) -> list[Config]:
    """Return one config for each seed."""
    return experiment.single_runs(config, ("seeds",))


def fuses(part: Config) -> Config:
    """Return the part itself: each is measured alone."""
    return part


def run(config: Config, device: str = "auto") -> pd.DataFrame:
    """Measure every seed of a config.

    Parameters
    ----------
    config : Config
        From `configure`.
    device : str
        ``auto``, ``cpu`` or ``cuda``.

    Returns
    -------
    pandas.DataFrame
        One row per network and layer: ``arm``, ``seed``, ``layer``, ``batch_size``, ``terms`` (in
        each sum); averages over the kernel's parameters ``a`` (sum of absolute values), ``b``
        (absolute value of the sum) and ``c`` (sum over images of the absolute value of an image's
        sum), of the loss averaged over the batch; ``agreement`` (cosine of the gradients from the
        two halves of the batch), ``zero_sum`` (absolute value of the sum over images and positions
        of the output's gradient, over the sum of absolute values, each averaged over channels),
        ``error`` (largest difference of the terms' sum from autograd's gradient, relative to the
        latter's largest entry).
    """
    return pd.concat(train(parts(config), Session(device)), ignore_index=True)


def train(runs: Sequence[Config], session: Session) -> list[pd.DataFrame]:
    """Measure seeds, one after the other.

    Parameters
    ----------
    runs : sequence of Config
        Of `parts`.
    session : Session
        Its device is used.

    Returns
    -------
    list of pandas.DataFrame
        The rows of each, as `run` describes them.
    """
    from bnbook.training import fit

    device = fit.choose_device(session.device)
    return [pd.DataFrame(list(_rows(one, device))) for one in runs]


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
