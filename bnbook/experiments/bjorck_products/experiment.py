"""Bjorck et al. 2018, section 4: products of random matrices, and real networks' Jacobians.

Products of 1 to 4 Gaussian matrices, and one of more, at several sizes: their singular values, the
small ones not lost to rounding, against the law of theorem 1 under three readings. Beside them the
Jacobian from image to scores of networks at initialisation: residual and plain, with BN and
without, of several depths up to the paper's 110 layers, Xavier's weights.

As we recall the paper: figure 8 has N = 1000, standard Gaussian entries and ten repetitions. Chosen
here: the readings, the distances, the further sizes; of the networks everything but their depth:
images, Jacobians at single images with BN's statistics those of a batch and held fixed.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from bnbook import formulas
from bnbook.errors import BnbookError
from bnbook.experiments import experiment
from bnbook.experiments.bjorck_products import claims, figures
from bnbook.experiments.bjorck_products.claims import (
    HISTOGRAM,
    IDENTITY,
    NETWORK,
    PLAIN,
    PRODUCT,
    PRODUCTS,
    RESIDUAL,
)
from bnbook.tables.arms import WITH, WITHOUT
from bnbook.training.session import Session

if TYPE_CHECKING:
    from torch import Tensor

TITLE = "Products of random matrices and networks' Jacobians (Bjorck et al., section 4)"

CLAIMS = claims.CLAIMS
FIGURES = {
    "density": figures.density,
    "tails": figures.tails,
    "distances": figures.distances,
    "networks": lambda table: figures.networks(claims.spread(table)),
    "spectra": lambda table: figures.spectra(claims.spectra(table)),
}
facts = claims.facts

Row = dict[str, Any]

SINGULAR_BINS = np.linspace(0, 4, 21)
"""Edges of the bins of singular values."""
SQUARED_BINS = np.geomspace(1e-6, 18, 23)
"""Edges of the bins of squared singular values."""


@dataclass(frozen=True)
class Config:
    """Everything that a run depends on.

    Attributes
    ----------
    data : str
        Name of a data set (see `bnbook.datasets`) whose images the networks see.
    seeds : tuple of int
        Each sets the matrices, the networks' weights and the batch.
    sizes : tuple of int
        Rows N of the matrices.
    matrices : tuple of int
        Numbers M of matrices in a product, `bnbook.experiments.bjorck_products.claims.PRODUCTS`
        among them.
    n : tuple of int
        Residual blocks of a stage: 6n + 2 layers.
    batch : int
        Images that BN's statistics are of.
    examples : int
        Images of the batch at which Jacobians are taken.
    widths : tuple of int
        Channels of the stages.
    kinds : tuple of str
        What is measured: products of matrices, networks.
    """

    data: str
    seeds: tuple[int, ...]
    sizes: tuple[int, ...]
    batch: int
    matrices: tuple[int, ...] = (*PRODUCTS, 16)
    n: tuple[int, ...] = (1, 3, 9, 18)
    examples: int = 2
    widths: tuple[int, ...] = (16, 32, 64)
    kinds: tuple[str, ...] = (PRODUCT, NETWORK)


PROFILES: Mapping[str, Config] = {
    "quick": Config(data="digits", seeds=(0, 1, 2), sizes=(50, 100, 200), batch=64),
    "standard": Config(
        data="cifar10 or mnist5k", seeds=tuple(range(10)), sizes=(100, 200, 500, 1000), batch=128
    ),
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
    config = experiment.configure("bjorck_products", PROFILES, profile, seed, changes)
    experiment.check_positive(config, ("batch", "examples"))
    experiment.check_distinct(config, ("seeds", "sizes", "matrices", "n", "kinds"))
    for name in ("sizes", "n"):
        if len(getattr(config, name)) < 2:
            raise BnbookError(f"{name} must be two or more, found {getattr(config, name)}.")
    if min(config.sizes) < 10:
        raise BnbookError(f"sizes must be at least 10, found {config.sizes}.")
    if not set(PRODUCTS) <= set(config.matrices):
        raise BnbookError(f"matrices must hold {PRODUCTS}, found {config.matrices}.")
    if set(config.kinds) != {PRODUCT, NETWORK}:
        raise BnbookError(f"kinds must be {(PRODUCT, NETWORK)}, found {config.kinds}.")
    if config.examples > config.batch:
        raise BnbookError(f"examples must be at most {config.batch}, found {config.examples}.")
    return config


def parts(config: Config) -> list[Config]:
    """Return one config for each kind and seed."""
    return experiment.single_runs(config, ("kinds", "seeds"))


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
        ``auto``, ``cpu`` or ``cuda``; products are decomposed on the CPU.

    Returns
    -------
    pandas.DataFrame
        Rows of four kinds, ``measured``, each with its ``seed``.

        *product*: ``size`` and ``M``; ``distance`` (Kolmogorov's, of the squared singular values
        from the law), ``distance_unsquared`` (the singular values themselves taken for x),
        ``distance_next`` (the law of M + 1), ``wasserstein``; ``q10`` ... ``q99`` (quantiles of the
        squares); of the singular values ``tail`` (largest over median), ``condition`` (largest over
        smallest) and ``condition_formed`` (the same from the product formed in float64).
        *histogram*, at the largest size: ``M``, ``quantity`` (``s``, singular values, or ``x``,
        their squares), ``low``, ``high``, ``density``.
        *identity*: ``error``, the largest relative difference of two densities.
        *network*: ``arm``, ``wiring``, ``n``, ``image``, ``image_size`` (pixels a side), and of the
        Jacobian's K singular values ``tail``, ``condition`` and ``largest``.
    """
    return pd.concat(train(parts(config), Session(device)), ignore_index=True)


def train(runs: Sequence[Config], session: Session) -> list[pd.DataFrame]:
    """Measure parts, one after the other.

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
    tables = []
    for one in runs:
        if one.kinds[0] == PRODUCT:
            rows = [_identity(one), *_products(one)]
        else:
            rows = list(_networks(one, device))
        tables.append(pd.DataFrame([{"seed": one.seeds[0], **row} for row in rows]))
    return tables


def _identity(run: Config) -> Row:
    """Hold the law of one matrix against Marchenko and Pastur's at values of the whole support."""
    generator = np.random.default_rng(run.seeds[0])
    x = formulas.fuss_catalan_quantile(generator.uniform(size=200), 1)
    x = np.concatenate([x, np.exp(generator.uniform(np.log(1e-12), 0, size=200))])
    theirs = formulas.marchenko_pastur_density(x)
    errors = np.abs(formulas.fuss_catalan_density(x, 1) / theirs - 1)
    return {"measured": IDENTITY, "M": 1, "error": float(errors.max())}


def _products(run: Config) -> Iterator[Row]:
    import torch

    from bnbook.probes import spectra

    for size, M in itertools.product(run.sizes, run.matrices):
        generator = torch.Generator().manual_seed(_key(run.seeds[0], size, M))
        matrices = spectra.gaussian_matrices(size, M, generator)
        found = spectra.product_singular_values(matrices).numpy()
        formed = torch.linalg.svdvals(_formed(matrices)).numpy()
        yield {
            "measured": PRODUCT,
            "size": size,
            "M": M,
            **summary(found, M),
            "condition_formed": formed[0] / formed[-1],
        }
        if size == max(run.sizes):
            yield from _histograms(found, M)


def _key(seed: int, size: int, M: int) -> int:
    """Keep the matrices of different products apart."""
    return int(np.random.SeedSequence([seed, size, M]).generate_state(1)[0])


def _formed(matrices: Sequence[Tensor]) -> Tensor:
    product = matrices[0]
    for matrix in matrices[1:]:
        product = product @ matrix
    return product


def summary(s: Any, M: int) -> Row:
    """Summarise the singular values of a product of M matrices and hold them against the law.

    Parameters
    ----------
    s : ndarray, (N,)
        Singular values, falling, in units of the root of the product of the variances.
    M : int
        Matrices in the product.

    Returns
    -------
    dict
        As `run` describes the rows of products.
    """
    x = s**2
    quantiles = np.quantile(x, claims.LEVELS)
    return {
        "distance": claims.kolmogorov(x, M),
        "distance_unsquared": claims.kolmogorov(s, M),
        "distance_next": claims.kolmogorov(x, M + 1),
        "wasserstein": claims.wasserstein(x, M),
        **{f"q{100 * q:.0f}": v for q, v in zip(claims.LEVELS, quantiles, strict=True)},
        "tail": s[0] / np.median(s),
        "condition": s[0] / s[-1],
    }


def _histograms(s: Any, M: int) -> Iterator[Row]:
    for quantity, values, edges in (("s", s, SINGULAR_BINS), ("x", s**2, SQUARED_BINS)):
        counts = np.histogram(values, edges)[0]
        for low, high, count in zip(edges[:-1], edges[1:], counts, strict=True):
            yield {
                "measured": HISTOGRAM, "M": M, "quantity": quantity, "low": low, "high": high,
                "density": count / len(s) / (high - low),
            }  # fmt: skip


def _networks(run: Config, device: Any) -> Iterator[Row]:
    """Singular values of the Jacobians of networks of one seed."""
    import torch

    from bnbook.layers import ensemble, norm
    from bnbook.networks import models
    from bnbook.probes import spectra

    images = _images(run, device)
    for n, wiring, arm in itertools.product(run.n, (RESIDUAL, PLAIN), (WITHOUT, WITH)):
        model = models.ResNet(
            norm.BatchNorm if arm == WITH else None,
            run.seeds,
            n=n,
            in_channels=images.shape[1],
            widths=run.widths,
            init_std=ensemble.xavier,
        ).to(device, torch.float64)
        shortcuts = wiring == RESIDUAL
        spectra.hold_statistics(model, images, shortcuts)
        found = spectra.jacobians(model, images[: run.examples], shortcuts)
        for image, s in enumerate(torch.linalg.svdvals(found).tolist()):
            yield {
                "measured": NETWORK, "arm": arm, "wiring": wiring, "n": n, "image": image,
                "image_size": images.shape[-1], "tail": s[0] / float(np.median(s)),
                "condition": s[0] / s[-1], "largest": s[0],
            }  # fmt: skip


def _images(run: Config, device: Any) -> Tensor:
    """Return a seed's batch, float64, each pixel less its mean over the training images."""
    import torch

    from bnbook import datasets

    images = datasets.load(run.data, "train", device=device).images
    if run.batch > len(images):
        raise BnbookError(f"batch must be at most {len(images)}, found {run.batch}.")
    generator = torch.Generator().manual_seed(run.seeds[0])
    chosen = torch.randperm(len(images), generator=generator)[: run.batch].to(device)
    batch: Tensor = images[chosen] - images.mean(0)
    return batch.double()
