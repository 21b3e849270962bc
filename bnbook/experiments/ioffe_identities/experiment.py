"""Ioffe & Szegedy 2015, sections 3 and 3.2: three remarks that hold exactly.

Nothing is trained. BN with gamma = sqrt(var + eps) and beta = mean gives back what it was given;
the joint covariance of a minibatch is singular unless it has more examples than features; a bias in
front of BN changes nothing and gets no gradient. The first and the third in float64, whose rounding
is told from an error by its size; the rank of the second in integers, without any rounding.

Stated by the paper: the three remarks. Chosen here: values, sizes and scales that are tried.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from bnbook.errors import BnbookError
from bnbook.experiments.experiment import Experiment, check_distinct, check_positive
from bnbook.experiments.ioffe_identities import claims, figures

Row = dict[str, Any]


@dataclass(frozen=True)
class Config:
    """Everything that a run depends on."""

    seeds: tuple[int, ...]  # each draws values, weights, biases and cotangents
    sizes: tuple[int, ...]  # examples in a minibatch, m, of the identity and the bias
    scales: tuple[float, ...] = (1e-6, 1e-4, 1e-2, 1.0, 1e3, 1e6)  # deviations of features
    means: tuple[float, ...] = (0.0, 1.0, 1e3, 1e6)  # of features, in deviations
    constants: tuple[float, ...] = (0.0, 0.1, 1e6)  # values of features that do not vary
    biases: tuple[float, ...] = (1.0, 1e3, 1e6)  # deviations of the biases
    ranked: tuple[int, ...] = (2, 3, 5, 8, 12)  # examples and features whose rank is computed
    width: int = 100  # features of the minibatches whose eigenvalues are computed
    shares: tuple[float, ...] = (0.1, 0.3, 0.6, 1.0, 1.1, 1.5, 2.0, 4.0, 10.0)  # m there, of width
    eps: float = 1e-5  # added to the variance inside the square root
    data: str = "generated"

    def __post_init__(self) -> None:
        """Refuse impossible values."""
        check_positive(self, ("width",))
        check_distinct(self, ("seeds", "sizes", "scales", "means", "constants", "biases", "ranked"))
        if min(*self.sizes, *self.ranked, *(self.width * share for share in self.shares)) < 2:
            raise BnbookError(
                "sizes, ranked and shares of width must give 2 or more examples, found"
                f" {self.sizes}, {self.ranked} and {self.shares} of {self.width}."
            )
        if min(*self.scales, *self.biases, self.eps) <= 0:
            raise BnbookError(
                f"scales, biases and eps must be above 0, found {self.scales}, {self.biases} and"
                f" {self.eps}."
            )


PROFILES = {
    "quick": Config(seeds=(0, 1, 2), sizes=(2, 3, 60)),
    "standard": Config(seeds=tuple(range(10)), sizes=(2, 3, 10, 60, 256)),
}

COLUMNS = {
    "seed": "of values, weights, biases and cotangents",
    "check": "name in `bnbook.experiments.ioffe_identities.claims`",
    "case": "what is compared",
    "m": "examples in the minibatch",
    "feature": "its place in the minibatch; of a rank or spectrum, how many there are",
    "value": "what was found, where theory says what to expect",
    "theory": "what it says",
    "error": "in units of the terms that are added up; of a rank the difference",
}


def measure(config: Config, device: Any) -> pd.DataFrame:  # noqa: ARG001
    """Compute the cases of a seed, in float64 on the CPU whatever the device."""
    (seed,) = config.seeds
    rows = [
        row
        for at, check in enumerate((_identity, _others, _ranks, _spectra, _bias))
        for row in check(config, np.random.default_rng([seed, at]))
    ]
    return pd.DataFrame(rows).assign(seed=seed).reindex(columns=list(COLUMNS))


def features(config: Config, rng: np.random.Generator, m: int) -> Any:
    """A minibatch with a feature for every scale and mean, and constant ones, (m, features)."""
    grid = [(scale, mean * scale) for scale in config.scales for mean in config.means]
    grid += [(0.0, constant) for constant in config.constants]
    std, mean = np.array(grid).T
    return std * rng.normal(size=(m, len(std))) + mean


def parameters_of_identity(x: Any, eps: float) -> tuple[Any, Any]:
    """Return the paper's gamma and beta for a minibatch."""
    from bnbook import formulas

    mu = formulas.minibatch_mean(x)
    return np.sqrt(formulas.minibatch_variance(x, mu) + eps), mu


def by_formulas(x: Any, gamma: Any, beta: Any, eps: float) -> Any:
    """Algorithm 1 in NumPy."""
    from bnbook import formulas

    return formulas.batch_norm_forward(x, gamma, beta, eps)[0]


def by_layer(x: Any, gamma: Any, beta: Any, eps: float) -> Any:
    """Return the output of the layer in training."""
    import torch

    from bnbook.layers.norm import BatchNorm

    layer = BatchNorm(len(gamma), eps).double()
    with torch.no_grad():
        layer.weight.copy_(torch.as_tensor(gamma))
        layer.bias.copy_(torch.as_tensor(beta))
        return layer(torch.as_tensor(x)).numpy()


def _identity(config: Config, rng: np.random.Generator) -> Iterator[Row]:
    """The transform with the paper's gamma and beta, feature by feature, computed twice."""
    for m in config.sizes:
        x = features(config, rng, m)
        gamma, beta = parameters_of_identity(x, config.eps)
        for case, transform in (("formulas", by_formulas), ("layer", by_layer)):
            y = transform(x, gamma, beta, config.eps)
            errors = np.abs(y - x).max(0) / (np.abs(x).max(0) + math.sqrt(config.eps))
            for feature, error in enumerate(errors):
                facts = {"check": claims.IDENTITY, "case": case, "m": m, "feature": feature}
                yield {**facts, "error": error}


def _others(config: Config, rng: np.random.Generator) -> Iterator[Row]:
    """How far BN is from the identity, in deviations, with the population's gamma and beta."""
    for m in config.sizes:
        x = rng.normal(size=(m, 4000))
        y = by_formulas(x, np.ones(x.shape[1]), np.zeros(x.shape[1]), 1e-12)
        value = float(np.sqrt(np.square(y - x).mean()))
        theory = math.sqrt(3 / (2 * m))
        yield {"check": claims.OTHERS, "case": "Gaussian", "m": m, "value": value, "theory": theory}


def exact_covariance(x: list[list[int]]) -> list[list[int]]:
    """m^3 times the joint covariance of a minibatch of integers, (m, features): integers too."""
    m, sums = len(x), [sum(column) for column in zip(*x, strict=True)]
    centred = [[m * value - total for value, total in zip(row, sums, strict=True)] for row in x]
    columns = list(zip(*centred, strict=True))
    return [[sum(a * b for a, b in zip(one, other, strict=True)) for other in columns]
            for one in columns]  # fmt: skip


def exact_rank(matrix: list[list[int]]) -> int:
    """Rank of a matrix of integers, without rounding."""
    from sympy import QQ
    from sympy.polys.matrices import DomainMatrix

    shape = len(matrix), len(matrix[0])
    rows = [[QQ(value) for value in row] for row in matrix]
    return int(DomainMatrix(rows, shape, QQ).rank())


def _ranks(
    config: Config,
    rng: np.random.Generator,
    scatter: Callable[[list[list[int]]], list[list[int]]] = exact_covariance,
) -> Iterator[Row]:
    """Ranks of covariances of integers, against the smaller of m - 1 and the number of features."""
    for m, width in itertools.product(config.ranked, repeat=2):
        x = rng.integers(-1000, 1000, size=(m, width)).tolist()
        rank, theory = exact_rank(scatter(x)), min(m - 1, width)
        facts = {"check": claims.RANK, "case": "integers", "m": m, "feature": width}
        yield {**facts, "value": rank, "theory": theory, "error": abs(rank - theory)}


def _spectra(config: Config, rng: np.random.Generator) -> Iterator[Row]:
    """Smallest over largest eigenvalue of covariances, and distances after whitening."""
    width = config.width
    for share in config.shares:
        m = round(share * width)
        x = rng.normal(size=(m, width))
        centred = x - x.mean(0)
        values = np.linalg.eigvalsh(centred.T @ centred / m)
        root = math.sqrt(width / m)
        theory = ((1 - root) / (1 + root)) ** 2 if m > width else 0.0
        facts = {"m": m, "feature": width, "case": "Gaussian"}
        yield {
            "check": claims.SPECTRUM, **facts, "value": max(0.0, values[0] / values[-1]),
            "theory": theory,
        }  # fmt: skip
        far = whitened_distances(centred) / math.sqrt(2 * m)
        yield {
            "check": claims.DISTANCES, **facts, "value": float(far.std()), "theory": np.nan,
            "error": float(np.abs(far - 1).max()),
        }  # fmt: skip


def whitened_distances(centred: Any) -> Any:
    """Distances between all pairs of examples after whitening within what their span leaves."""
    left, values, _ = np.linalg.svd(centred, full_matrices=False)
    kept = left[:, values > 1e-10 * values[0]] * math.sqrt(len(centred))
    squares = np.square(kept).sum(1)
    pairs = np.triu_indices(len(kept), 1)
    apart = squares[:, None] + squares[None, :] - 2 * kept @ kept.T
    return np.sqrt(np.maximum(apart[pairs], 0))


def _bias(
    config: Config, rng: np.random.Generator, make: Callable[..., Any] | None = None
) -> Iterator[Row]:
    """A bias in front of BN: what it changes in training and inference, and its gradient."""
    import torch

    from bnbook.layers.norm import BatchNorm

    kinds: dict[str, tuple[int, ...]] = {"linear": (6,), "convolution": (6, 4, 4)}
    for m, size, (kind, shape) in itertools.product(config.sizes, config.biases, kinds.items()):
        plain, dy = (torch.as_tensor(rng.normal(size=(m, *shape))) for _ in range(2))
        b = torch.as_tensor(size * rng.normal(size=6)).requires_grad_()
        shifted = plain + b.view(-1, *(1,) * (plain.dim() - 2))
        layers = [(make or BatchNorm)(6, eps=config.eps, momentum=1.0).double() for _ in range(2)]
        (y, without), (gradient,) = (
            [layer(x) for layer, x in zip(layers, (shifted, plain), strict=True)],
            torch.autograd.grad(layers[0](shifted), b, dy),
        )
        inferred = [layer.eval()(x) for layer, x in zip(layers, (shifted, plain), strict=True)]
        over = (0, *range(2, plain.dim()))
        root = (plain.var(over, correction=0) + config.eps).sqrt()
        lost = 1 + shifted.abs().amax(over) / root
        found = {
            "training": (y - without).abs().amax(over) / lost,
            "inference": (inferred[0] - inferred[1]).abs().amax(over) / lost,
            "gradient": gradient.abs() / (dy.abs().sum(over) / root * lost),
        }
        for what, errors in found.items():
            for feature, error in enumerate(errors.detach().numpy()):
                facts = {"check": claims.BIAS, "case": f"{what}, {kind}, size {size:g}", "m": m}
                yield {**facts, "feature": feature, "error": float(error)}


EXPERIMENT = Experiment(
    name="ioffe_identities",
    title="The identity, the singular covariance and the bias (Ioffe & Szegedy, sections 3, 3.2)",
    profiles=PROFILES,
    measure=measure,
    columns=COLUMNS,
    claims=claims.CLAIMS,
    facts=claims.facts,
    figures={"spectrum": figures.spectrum},
)
