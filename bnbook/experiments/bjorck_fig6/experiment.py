"""Bjorck et al. 2018, figure 6: gradients of the network's outputs at initialisation.

A residual network of 110 layers with Xavier's initial weights, with and without BN, at its start:
for each image b of a minibatch and each class j the derivative of the image's loss by the output
O_bj. The networks of a seed have the same weights and see the same minibatch. The third has BN at
one place, after the last residual block: it centres the features that the classifier gets.

Stated by the paper, as we have it from others: the network, the initial weights, the quantity.
Chosen here: standardised images, the share of one class as its number, seeds, the third network.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from bnbook.errors import BnbookError
from bnbook.experiments import experiment
from bnbook.experiments.bjorck_fig6 import claims, figures
from bnbook.tables.arms import LAST_ONLY, WITH, WITHOUT
from bnbook.training.session import Session

TITLE = "Gradients of the outputs at initialisation (Bjorck et al., figure 6)"

CLAIMS = claims.CLAIMS
FIGURES = {
    "heatmap": lambda table: figures.heatmap(table, claims.gradients),
    "shares": lambda table: figures.shares(
        claims.top_shares(table), claims.over_networks(table, claims.row_correlation)
    ),
}
facts = claims.facts


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
        Images, at least 2.
    n : int
        Residual blocks of a stage; 18 for 110 layers.
    """

    data: str
    seeds: tuple[int, ...]
    batch_size: int = 128
    n: int = 18


PROFILES: Mapping[str, Config] = {
    "quick": Config(data="mnist5k", seeds=(0, 1, 2), batch_size=32),
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
    config = experiment.configure("bjorck_fig6", PROFILES, profile, seed, changes)
    experiment.check_positive(config, ("n",))
    experiment.check_distinct(config, ("seeds",))
    if config.batch_size < 2:
        raise BnbookError(f"batch_size must be at least 2, found {config.batch_size}.")
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
        One row per network and image: ``arm``, ``seed``, ``image`` (from 0), ``label``,
        ``predicted`` (class of the largest output), ``probability`` (that the network gives it),
        ``gradient_0`` ... ``gradient_9`` (of the image's loss, in nats, by the outputs).
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
    return [pd.concat(_tables(one, device), ignore_index=True) for one in runs]


def _tables(run: Config, device: Any) -> list[pd.DataFrame]:
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
    return tables


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
