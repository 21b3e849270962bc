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
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from bnbook import formulas
from bnbook.errors import BnbookError
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
from bnbook.experiments.experiment import Experiment, check_distinct, check_known, check_positive
from bnbook.tables.arms import WITH, WITHOUT

if TYPE_CHECKING:
    from torch import Tensor

Row = dict[str, Any]

SINGULAR_BINS = np.linspace(0, 4, 21)
"""Edges of the bins of singular values."""
SQUARED_BINS = np.geomspace(1e-6, 18, 23)
"""Edges of the bins of squared singular values."""


@dataclass(frozen=True, kw_only=True)
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

    def __post_init__(self) -> None:
        """Refuse impossible values."""
        check_positive(self, ("batch", "examples"))
        check_distinct(self, ("seeds", "sizes", "matrices", "n", "kinds"))
        check_known(self, "kinds", (PRODUCT, NETWORK))
        for name in ("sizes", "n"):
            if len(getattr(self, name)) < 2:
                raise BnbookError(f"{name} must be two or more, found {getattr(self, name)}.")
        if min(self.sizes) < 10:
            raise BnbookError(f"sizes must be at least 10, found {self.sizes}.")
        if self.examples > self.batch:
            raise BnbookError(f"examples must be at most {self.batch}, found {self.examples}.")


def measure(run: Config, device: Any) -> pd.DataFrame:
    """Measure the products, on the CPU, or the networks of one seed."""
    if run.kinds[0] == PRODUCT:
        rows = [_identity(run), *_products(run)]
    else:
        rows = list(_networks(run, device))
    return pd.DataFrame([{"seed": run.seeds[0], **row} for row in rows])


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
    """Hold the singular values of a product of M matrices, falling, against the law.

    In units of the root of the product of the variances; see the experiment's columns.
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


EXPERIMENT = Experiment(
    name="bjorck_products",
    title="Products of random matrices and networks' Jacobians (Bjorck et al., section 4)",
    profiles={
        "quick": Config(data="digits", seeds=(0, 1, 2), sizes=(50, 100, 200), batch=64),
        "standard": Config(
            data="cifar10 or mnist5k",
            seeds=tuple(range(10)),
            sizes=(100, 200, 500, 1000),
            batch=128,
        ),
    },
    axes=("kinds", "seeds"),
    measure=measure,
    needs={"kinds": (PRODUCT, NETWORK), "matrices": PRODUCTS},
    columns={
        "seed": "sets the matrices, the networks' weights and the batch",
        "measured": "kind of the row: product; histogram, of products of the largest size;"
        " identity, of the law; network, of a Jacobian. Other kinds' columns are missing",
        "M": "matrices in the product",
        "error": "of the identity: largest relative difference of two densities",
        "size": "N, rows of the matrices",
        "distance": "Kolmogorov's, of the squared singular values from the law",
        "distance_unsquared": "the same, the singular values themselves taken for x",
        "distance_next": "the same as distance, from the law of M + 1",
        "wasserstein": "Wasserstein's distance of the squared singular values from the law",
        "q*": "quantiles of the squared singular values, per cent",
        "tail": "largest over median singular value",
        "condition": "largest over smallest singular value",
        "condition_formed": "the same from the product formed in float64",
        "quantity": "of the histogram: s, singular values; x, their squares",
        "low": "lower edge of the bin",
        "high": "upper edge of the bin",
        "density": "share of the values in the bin, over its width",
        "arm": "with or without BN",
        "wiring": "residual or plain",
        "n": "residual blocks of a stage, for 6n + 2 layers",
        "image": "number of the image at which the Jacobian is taken",
        "image_size": "its pixels a side",
        "largest": "largest singular value of the Jacobian",
    },
    claims=claims.CLAIMS,
    facts=claims.facts,
    figures={
        "density": figures.density,
        "tails": figures.tails,
        "distances": figures.distances,
        "networks": figures.networks,
        "spectra": figures.spectra,
    },
)
