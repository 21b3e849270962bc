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

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from bnbook.experiments import experiment
from bnbook.experiments.bjorck_fig5 import claims, figures
from bnbook.experiments.bjorck_fig5.claims import BLOCK, IMAGES, LAYER, NOISE
from bnbook.tables.arms import WITH, WITHOUT
from bnbook.training.session import Session

TITLE = "Channel moments at initialisation against depth (Bjorck et al., figure 5)"

CLAIMS = claims.CLAIMS
FIGURES = {
    "moments": figures.moments,
    "growth": lambda table: figures.growth(table, claims.wide_limit),
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
        Each sets the initial weights, the minibatch and the noise.
    batch_size : int
        Images.
    n : int
        Residual blocks of a stage; 18 for 110 layers.
    """

    data: str
    seeds: tuple[int, ...]
    batch_size: int = 128
    n: int = 18


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
    config = experiment.configure("bjorck_fig5", PROFILES, profile, seed, changes)
    experiment.check_positive(config, ("batch_size", "n"))
    experiment.check_distinct(config, ("seeds",))
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
        One row per output: ``arm``, ``seed``, ``inputs`` (images, noise), ``kind`` (layer, block),
        ``index`` (number of the layer or block, from 1), ``batch_size``, ``input_second`` (mean
        square of the input); over channels, ``mean`` and ``mean_std`` (of the absolute channel
        mean), ``largest_mean``, ``variance``, ``variance_std``, ``second`` (mean square).
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
