"""Bjorck et al. 2018, figure 2: gradients of the middle convolution at initialisation.

Two networks with the same convolutions and the same minibatches, with BN and without. The entries
of the gradient of one kernel are kept as a histogram in units of their own standard deviation,
with the numbers that give it its scale.

Known of the paper at second hand: a 110-layer residual network for CIFAR-10, layer 55, with BN on
the left and without on the right, heavier tails without. Chosen here: batches of 128, Xavier's
initial weights, the seeds, and what counts as a tail.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd

from bnbook.experiments import experiment
from bnbook.experiments.bjorck_fig2 import claims, figures
from bnbook.tables.arms import WITH, WITHOUT
from bnbook.tables.start import check_start
from bnbook.training.session import Session

if TYPE_CHECKING:
    from torch import Tensor

TITLE = "Gradients of the middle layer at initialisation (Bjorck et al., figure 2)"

CLAIMS = claims.CLAIMS
FIGURES = {"histograms": figures.histograms, "tails": figures.tails}
facts = claims.facts

WIDEST, BINS = 10.0, 80
"""Half the width of the histograms, in standard deviations, and how many bins they have."""


@dataclass(frozen=True)
class Config:
    """Everything that a run depends on.

    Attributes
    ----------
    data : str
        Name of a data set of images (see `bnbook.datasets`).
    seeds : tuple of int
        Each sets the initial weights and the minibatches.
    batch_size, minibatches : int
        Images in a minibatch, and how many of these.
    arms : tuple of str
        With and without BN.
    n : int
        Residual blocks of a stage: 6n + 2 layers.
    layer : int
        The convolution whose kernel is looked at, counted from 1.
    """

    data: str
    seeds: tuple[int, ...]
    batch_size: int = 128
    minibatches: int = 2
    arms: tuple[str, ...] = (WITHOUT, WITH)
    n: int = 18
    layer: int = 55


PROFILES: Mapping[str, Config] = {
    "quick": Config(data="mnist5k", seeds=(0, 1, 2), batch_size=8, minibatches=1),
    "standard": Config(data="cifar10 or mnist5k", seeds=(0, 1, 2, 3, 4)),
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
        Where `data` names several sets ("a or b"), the largest that this machine has.

    Raises
    ------
    BnbookError
        When the profile or a field is unknown, or a value is impossible.
    """
    config = experiment.configure("bjorck_fig2", PROFILES, profile, seed, changes)
    experiment.check_positive(config, ("batch_size", "minibatches", "n"))
    experiment.check_distinct(config, ("seeds", "arms"))
    check_start(config.arms, (config.layer,), config.n)
    return config


def parts(config: Config) -> list[Config]:
    """Return one config for each arm and seed."""
    return experiment.single_runs(config, ("arms", "seeds"))


def fuses(part: Config) -> Config:
    """Return the part itself: each is measured alone."""
    return part


def run(config: Config, device: str = "auto") -> pd.DataFrame:
    """Measure every arm and seed of a config.

    Parameters
    ----------
    config : Config
        From `configure`.
    device : str
        ``auto``, ``cpu`` or ``cuda``.

    Returns
    -------
    pandas.DataFrame
        One row per arm, seed, minibatch and bin: ``arm``, ``seed``, ``minibatch``, ``depth``,
        ``layer``, ``batch_size``, ``loss`` (nats), of the entries of the kernel's gradient
        ``mean``, ``std``, ``rms``, ``kurtosis`` (excess), ``median_distance`` and
        ``p999_distance`` (median and 99.9th percentile of their distances from the mean), and of
        the histogram ``bin``, ``low``, ``high`` (edges, in standard deviations from the mean; the
        outermost hold all beyond), ``count``.
    """
    return pd.concat(train(parts(config), Session(device)), ignore_index=True)


def train(runs: Sequence[Config], session: Session) -> list[pd.DataFrame]:
    """Measure arms and seeds, one after the other.

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
    return [_measure(run, device) for run in runs]


def _measure(run: Config, device: Any) -> pd.DataFrame:
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
    """Describe a distribution.

    Parameters
    ----------
    entries : Tensor
        Of any shape, not all equal.

    Returns
    -------
    dict
        ``mean``, ``std`` (biased), ``rms``, ``kurtosis`` (excess: 0 for a Gaussian),
        ``median_distance`` and ``p999_distance`` (from the mean).
    """
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
    """Count entries in bins of their own standard deviations from the mean.

    Parameters
    ----------
    entries : Tensor
        Of any shape, not all equal.

    Returns
    -------
    dict
        ``bin``, ``low``, ``high``, ``count``: arrays of length `BINS`; what lies beyond `WIDEST`
        is counted in the outermost.
    """
    import numpy as np

    x = entries.double().flatten().cpu().numpy()
    z = np.clip((x - x.mean()) / x.std(), -WIDEST, WIDEST)
    count, edges = np.histogram(z, BINS, (-WIDEST, WIDEST))
    return {"bin": np.arange(BINS), "low": edges[:-1], "high": edges[1:], "count": count}
