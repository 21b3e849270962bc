"""Ioffe & Szegedy 2015, section 3: Algorithm 1 and its six backward equations, in float64.

A minibatch of m examples has a feature for every scale and every mean of the config, and constant
features, side by side. Each feature of each minibatch is a case.

Stated by the paper: the four lines, the six equations, and that mean and mean square of the
normalised values are 0 and 1 if eps is neglected. Chosen here because the paper does not say:
eps = 1e-5; the values, Gaussian; the scales, means and sizes that are tried.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from bnbook.errors import BnbookError
from bnbook.experiments.experiment import Experiment, check_distinct
from bnbook.experiments.ioffe_alg1 import claims, figures

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Config:
    """Everything that a run depends on."""

    seeds: tuple[int, ...]  # each sets the values, gamma, beta and the cotangent
    sizes: tuple[int, ...]  # examples in a minibatch, m
    scales: tuple[float, ...] = (1e-6, 1e-4, 1e-2, 1.0, 1e3, 1e6)  # standard deviations of features
    means: tuple[float, ...] = (0.0, 1.0, 1e3, 1e6)  # of features, in standard deviations
    constants: tuple[float, ...] = (0.0, 0.1, 1e6)  # values of features that do not vary
    eps: float = 1e-5  # added to the variance inside the square root
    trap_size: int = 60  # examples in the minibatch on which gradient checks are checked
    data: str = "generated"

    def __post_init__(self) -> None:
        check_distinct(self, ("seeds", "sizes", "scales", "means", "constants"))
        if min(self.sizes) < 2 or self.trap_size < 2:
            raise BnbookError(
                f"sizes and trap_size must be at least 2, found {self.sizes}, {self.trap_size}."
            )
        if min(self.scales) <= 0 or self.eps <= 0:
            raise BnbookError(f"scales and eps must be above 0, found {self.scales}, {self.eps}.")


PROFILES = {
    "quick": Config(seeds=(0, 1, 2), sizes=(2, 3, 10, 60, 256)),
    "standard": Config(seeds=tuple(range(10)), sizes=(2, 3, 4, 10, 32, 60, 256, 512)),
}

COLUMNS = {
    "seed": "of the values, gamma, beta and the cotangent",
    "eps": "added to the variance",
    "m": "examples in the minibatch",
    "feature": "its place in the minibatch, -1 for all",
    "std": "of the distribution, 0 for a constant feature",
    "mean": "of the distribution, or the value of a constant feature",
    "variance": "of the minibatch, exact",
    "check": "name in `bnbook.experiments.ioffe_alg1.claims`",
    "candidate": "whose dx is checked",
    "value": "what was found; of a gradient, its largest component",
    "error": "in units of the terms that are added up",
}


class _Case(NamedTuple):
    """A minibatch with its parameters and a cotangent; ``std`` and ``mean`` by feature."""

    x: Array
    gamma: Array
    beta: Array
    dy: Array
    std: Array
    mean: Array


def measure(config: Config, device: Any) -> pd.DataFrame:  # noqa: ARG001
    """Compute the cases of a seed, in float64 on the CPU whatever the device."""
    seed = config.seeds[0]
    tables = []
    for m in config.sizes:
        case = _case(config, np.random.default_rng([seed, m]), m)
        tables.append(_checked(case, config.eps).assign(m=m))
    ordinary = np.random.default_rng([seed, 0])
    tables.append(_trapped(ordinary, config).assign(m=config.trap_size))
    table = pd.concat(tables, ignore_index=True).assign(seed=seed, eps=config.eps)
    first = ["seed", "eps", "m", "feature", "std", "mean", "variance", "check", "candidate"]
    return table[[*first, "value", "error"]]


def _case(config: Config, rng: np.random.Generator, m: int) -> _Case:
    grid = [(scale, mean * scale) for scale in config.scales for mean in config.means]
    grid += [(0.0, constant) for constant in config.constants]
    std, mean = np.array(grid).T
    x = std * rng.normal(size=(m, len(std))) + mean
    gamma, beta = rng.normal(size=(2, len(std)))
    return _Case(x, gamma, beta, rng.normal(size=x.shape), std, mean)


def _exact_variance(values: Array) -> Fraction:
    """Biased variance of float64 numbers, without any rounding: they are integers over 2^k."""
    ratios = [float(value).as_integer_ratio() for value in values]
    common, m = max(below for _, below in ratios), len(ratios)
    whole = [above * (common // below) for above, below in ratios]
    return Fraction(m * sum(n * n for n in whole) - sum(whole) ** 2, (m * common) ** 2)


def _checked(case: _Case, eps: float) -> pd.DataFrame:
    """One row for every feature and check."""
    from bnbook import formulas

    x, gamma, beta, dy, std, mean = case
    _, cache = formulas.batch_norm_forward(x, gamma, beta, eps)
    exact = [_exact_variance(column) for column in x.T]
    variance = np.array([float(v) for v in exact])
    root = np.sqrt(variance + eps)
    lost = 1 + np.abs(x).max(0) / root
    squares = np.array([float(v / (v + Fraction(eps))) for v in exact])
    found = {"mean": cache.xhat.mean(0), "mean square": (cache.xhat**2).mean(0)}
    errors = {
        "mean": np.abs(found["mean"]) / lost,
        "mean square": np.abs(found["mean square"] - squares) / lost,
    }
    gradients = _gradient_errors(case, cache, eps)
    sizes = {"dx": np.abs(gamma * dy).max(0) / root, "dgamma": np.abs(dy).sum(0)}
    sizes |= {"dbeta": sizes["dgamma"], "zero term": sizes["dx"]}
    for check, (value, difference) in gradients.items():
        found[check] = value
        errors[check] = difference / (sizes[check.partition(",")[0]] * lost)
    common = {"feature": np.arange(len(std)), "std": std, "mean": mean, "variance": variance}
    return pd.concat(
        [
            pd.DataFrame(
                {**common, "check": check, "candidate": claims.TRUE,
                 "value": found[check], "error": errors[check]}
            )
            for check in errors
        ]
    )  # fmt: skip


def _gradient_errors(case: _Case, cache: Any, eps: float) -> dict[str, tuple[Array, Array]]:
    """Check -> largest component and largest difference, by feature."""
    from bnbook import formulas

    x, gamma, beta, dy, *_ = case
    six = dict(zip(("dx", "dgamma", "dbeta"), formulas.batch_norm_backward(dy, cache), strict=True))
    others = {
        "autograd": _by_autograd(x, gamma, beta, dy, eps),
        "complex step": _by_complex_step(x, gamma, beta, dy, eps),
        "one line": {"dx": formulas.batch_norm_backward_simplified(dy, cache)},
    }
    dxhat = formulas.gradient_xhat(dy, gamma)
    batch = x, cache.mu, cache.var, eps
    _, zero = formulas.gradient_mu_terms(dxhat, formulas.gradient_var(dxhat, *batch), *batch)
    share = np.abs(zero) / len(x)  # what the term adds to dx
    return {
        **{
            f"{of}, {way}": (_largest(six[of]), _largest(six[of] - other))
            for way, gradients in others.items()
            for of, other in gradients.items()
        },
        "zero term": (share, share),
    }


def _largest(values: Array) -> Array:
    """Largest absolute value of each feature, of an array by feature or by example and feature."""
    largest: Array = np.abs(np.atleast_2d(values)).max(0)
    return largest


def _by_autograd(x: Array, gamma: Array, beta: Array, dy: Array, eps: float) -> dict[str, Array]:
    """Gradients by torch's autograd, through the four lines in plain operations."""
    import torch

    leaves = [torch.tensor(value, requires_grad=True) for value in (x, gamma, beta)]
    values, scale, shift = leaves
    mu = values.sum(0) / len(values)
    var = (values - mu).pow(2).sum(0) / len(values)
    y = scale * (values - mu) / torch.sqrt(var + eps) + shift
    found = torch.autograd.grad(y, leaves, torch.tensor(dy))
    return dict(zip(("dx", "dgamma", "dbeta"), (g.numpy() for g in found), strict=True))


def _by_complex_step(
    x: Array, gamma: Array, beta: Array, dy: Array, eps: float
) -> dict[str, Array]:
    """Gradients from imaginary steps of 1e-30 in one input after another: nothing cancels."""
    step = 1e-30j

    def loss(x: Any, gamma: Any, beta: Any) -> Array:
        centred = x - x.mean(0)
        y = gamma * centred / np.sqrt((centred**2).mean(0) + eps) + beta
        found: Array = (dy * y).sum(0).imag / step.imag
        return found

    dx = np.empty_like(x)
    for i in range(len(x)):
        moved = x.astype(complex)
        moved[i] += step
        dx[i] = loss(moved, gamma, beta)
    return {"dx": dx, "dgamma": loss(x, gamma + step, beta), "dbeta": loss(x, gamma, beta + step)}


def candidates(dy: Array, cache: Any) -> dict[str, Array]:
    """Right and wrong dx of an ordinary minibatch."""
    from bnbook import formulas

    right, _, _ = formulas.batch_norm_backward(dy, cache)
    scale = cache.gamma / np.sqrt(cache.var + cache.eps)
    return {
        claims.TRUE: right,
        "three times dx": 3 * right,
        "minus dx": -right,
        "zero": np.zeros_like(right),
        "variance held fixed": scale * (dy - dy.mean(0)),
        "mean held fixed": scale * (dy - cache.xhat * (dy * cache.xhat).mean(0)),
        "both held fixed": scale * dy,
    }


def _trapped(rng: np.random.Generator, config: Config) -> pd.DataFrame:
    """Check right and wrong dx through three losses: one row for each pair."""
    from bnbook import formulas

    x = rng.normal(size=(config.trap_size, 4))
    gamma, beta = rng.uniform(0.5, 1.5, size=4), rng.normal(size=4)
    y, cache = formulas.batch_norm_forward(x, gamma, beta, config.eps)
    cotangents = (np.ones_like(y), 2 * y, rng.normal(size=y.shape))
    rows = []
    for through, dy in zip(claims.THROUGH, cotangents, strict=True):
        true = _by_complex_step(x, gamma, beta, dy, config.eps)["dx"]
        size = (np.abs(gamma * dy).max(0) / np.sqrt(cache.var + config.eps)).max()
        for name, dx in candidates(dy, cache).items():
            error = float(np.abs(dx - true).max() / size)
            rows.append(
                {"check": through, "candidate": name, "value": np.abs(dx).max(), "error": error}
            )
    return pd.DataFrame(rows).assign(feature=-1, std=1.0, mean=0.0, variance=np.nan)


EXPERIMENT = Experiment(
    name="ioffe_alg1",
    title="Algorithm 1 and its gradient, to rounding (Ioffe & Szegedy, section 3)",
    profiles=PROFILES,
    measure=measure,
    columns=COLUMNS,
    claims=claims.CLAIMS,
    facts=claims.facts,
    figures={
        "moments": figures.moments,
        "trap": lambda table: figures.trap(claims.trap(table), claims.CUSTOMARY),
    },
)
