"""Ioffe & Szegedy 2015, sections 2 and 3: what full whitening costs, and where it breaks.

Three measurements. *Times* of a forward and a backward pass of ZCA whitening, Cholesky whitening,
BN, and a linear layer of the same width, at a fixed minibatch, by width. *Ranks* of the covariance
of a minibatch, by its size and width. *Gradients* of whitening where two eigenvalues of the
covariance agree, and where the smallest goes to zero.

Stated by the paper: whitening is expensive, not everywhere differentiable, and impossible with the
statistics of a minibatch that is smaller than the layer is wide. Chosen here because the paper does
not say: the sizes; float32; one thread; statistics of the minibatch, although the paper's whitening
takes those of the whole training set, which costs more; eps on the covariance's diagonal, without
which most of these minibatches could not be whitened at all.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from bnbook.errors import BnbookError
from bnbook.experiments.experiment import Experiment, check_distinct, check_positive
from bnbook.experiments.ioffe_whitening import claims, figures
from bnbook.tables.arms import BN, BN_KERNEL, CHOLESKY, LINEAR, ZCA

Array = npt.NDArray[np.float64]
LONGEST = 0.01
"""Seconds, about, for which a fast pass is repeated within one timing."""


@dataclass(frozen=True)
class Config:
    """Everything that a run depends on."""

    seeds: tuple[int, ...]  # repetitions: each draws its own numbers and times everything again
    widths: tuple[int, ...]  # features of the layer that is timed, d
    rounds: int  # timings of each layer and width, in turns, of which the median is kept
    batch_size: int = 256  # examples of the minibatch that is timed, m
    threads: int = 1  # of torch, on a CPU
    eps: float = 1e-3  # on the covariance's diagonal in what is timed
    rank_sizes: tuple[int, ...] = (8, 32, 128)  # m of covariances whose rank is found
    rank_widths: tuple[int, ...] = (4, 8, 16, 32, 64, 128, 256)  # d of these
    gaps: tuple[float, ...] = (1.0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)  # of two eigenvalues near 1
    eigenvalues: tuple[float, ...] = (  # smallest ones, of two features of variance 1
        *(1.0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6),
    )
    data: str = "generated"

    def __post_init__(self) -> None:
        check_positive(self, ("rounds", "threads"))
        check_distinct(
            self, ("seeds", "widths", "rank_sizes", "rank_widths", "gaps", "eigenvalues")
        )
        if min(*self.rank_sizes, self.batch_size) < 2:
            raise BnbookError(
                "rank_sizes and batch_size must be at least 2, found"
                f" {self.rank_sizes}, {self.batch_size}."
            )
        if min(*self.gaps, *self.eigenvalues, self.eps) <= 0:
            raise BnbookError(
                "gaps, eigenvalues and eps must be above 0, found"
                f" {self.gaps}, {self.eigenvalues}, {self.eps}."
            )


PROFILES = {
    "quick": Config(seeds=(0, 1, 2), widths=(16, 32, 64, 128, 256, 512), rounds=5),
    "standard": Config(
        seeds=tuple(range(10)), widths=(16, 32, 64, 128, 256, 512, 1024, 2048), rounds=5
    ),
}

COLUMNS = {
    "seed": "the repetition",
    "kind": "time, rank, gap or eigenvalue; columns of another kind are NaN",
    "arm": "the layer that is timed, or how dx is computed",
    "m": "examples of the minibatch",
    "width": "features of the layer",
    "forward": "seconds of a forward pass, median",
    "backward": "seconds of a backward pass, median",
    "rank": "of the minibatch's covariance",
    "gap": "between two eigenvalues",
    "error": "of dx in float32, relative to its largest component",
    "eigenvalue": "the smallest",
    "gain": "largest norm of dx for dy of norm 1",
}


def measure(config: Config, device: Any) -> pd.DataFrame:
    """Take the times on a device, the ranks and the gradients of a repetition."""
    seed = config.seeds[0]
    rows = list(_timed(config, device))
    rows += _ranks(config, np.random.default_rng([seed, 1]))
    rows += _near_equal(config, np.random.default_rng([seed, 2]))
    rows += _near_singular(config, np.random.default_rng([seed, 3]))
    columns = [name for name in COLUMNS if name != "seed"]
    table = pd.DataFrame(rows, columns=columns)
    table.insert(0, "seed", seed)
    numbers = [name for name in columns if name not in ("kind", "arm")]
    return table.astype({**dict.fromkeys(numbers, float), "arm": "string", "kind": "string"})


# Times


def _timed(config: Config, device: Any) -> Iterator[dict[str, Any]]:
    """Yield the median times of every layer and width."""
    import torch

    generator = torch.Generator().manual_seed(config.seeds[0])
    with _threads(config.threads):
        for width in config.widths:
            x = torch.randn(config.batch_size, width, generator=generator).to(device)
            dy = torch.randn(config.batch_size, width, generator=generator).to(device)
            layers = _layers(width, config.eps, device)
            for arm, (forward, backward) in _medians(layers, x, dy, config.rounds).items():
                yield {
                    "kind": "time", "arm": arm, "m": config.batch_size, "width": width,
                    "forward": forward, "backward": backward,
                }  # fmt: skip


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """Let torch use so many threads for a while."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _layers(width: int, eps: float, device: Any) -> dict[str, Callable[..., Any]]:
    from functools import partial

    from torch import nn

    from bnbook.layers import norm, whitening

    return {
        ZCA: partial(whitening.zca, eps=eps),
        CHOLESKY: partial(whitening.cholesky, eps=eps),
        BN: norm.BatchNorm(width).to(device),
        BN_KERNEL: nn.BatchNorm1d(width).to(device),
        LINEAR: nn.Linear(width, width).to(device),
    }


def _medians(
    layers: Mapping[str, Callable[..., Any]], x: Any, dy: Any, rounds: int
) -> dict[str, tuple[float, float]]:
    """Median seconds forward and backward; every round begins with the next layer."""
    names = list(layers)
    for name in names:
        _pass(layers[name], x, dy, 2)  # the first passes of all are slower
    calls = {name: _calls(sum(_pass(layers[name], x, dy, 1))) for name in names}
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    for turn in range(rounds):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            found[name].append(_pass(layers[name], x, dy, calls[name]))
    return {
        name: (float(np.median([f for f, _ in each])), float(np.median([b for _, b in each])))
        for name, each in found.items()
    }


def _calls(seconds: float) -> int:
    """How often to repeat a pass that takes so long."""
    return int(np.clip(LONGEST / seconds, 1, 50))


def _pass(layer: Callable[..., Any], x: Any, dy: Any, calls: int) -> tuple[float, float]:
    """Mean seconds of a forward and of a backward pass, to the layer's input and parameters."""
    import torch

    leaves = [x.detach().requires_grad_(), *getattr(layer, "parameters", list)()]
    forward = backward = 0.0
    for _ in range(calls):
        begun = _now(x)
        y = layer(leaves[0])
        between = _now(x)
        torch.autograd.grad(y, leaves, dy)
        forward, backward = forward + between - begun, backward + _now(x) - between
    return forward / calls, backward / calls


def _now(x: Any) -> float:
    """Seconds, once the device of x has done what it was given."""
    if x.is_cuda:
        import torch

        torch.cuda.synchronize(x.device)
    return time.perf_counter()


# Ranks


def _ranks(config: Config, rng: np.random.Generator) -> list[dict[str, Any]]:
    from bnbook import formulas

    return [
        {
            "kind": "rank", "m": m, "width": width,
            "rank": formulas.covariance_rank(rng.normal(size=(m, width)) + 1),
        }
        for m in config.rank_sizes
        for width in config.rank_widths
    ]  # fmt: skip


# Gradients


def _with_covariance(rng: np.random.Generator, cov: Array, m: int) -> Array:
    """Draw m examples whose covariance is exactly, up to rounding, the one given."""
    noise = rng.normal(size=(m, len(cov)))
    orthonormal, _ = np.linalg.qr(noise - noise.mean(0))
    x: Array = np.sqrt(m) * orthonormal @ np.linalg.cholesky(cov).T
    return x


def _near_equal(config: Config, rng: np.random.Generator) -> list[dict[str, Any]]:
    """Errors of dx in float32 where two of four eigenvalues differ by a gap."""
    import torch

    from bnbook import formulas
    from bnbook.layers import whitening

    rows = []
    for gap in config.gaps:
        turned, _ = np.linalg.qr(rng.normal(size=(4, 4)))
        cov = turned @ np.diag([0.5, 1.0, 1.0 + gap, 4.0]) @ turned.T
        single = torch.tensor(_with_covariance(rng, cov, 32), dtype=torch.float32)
        dy = torch.tensor(rng.normal(size=(32, 4)), dtype=torch.float32)
        _, cache = formulas.whiten_forward(single.double().numpy(), eps=config.eps)
        true = formulas.whiten_backward(dy.double().numpy(), cache)
        for arm, function in (
            (claims.THROUGH_VECTORS, _through_vectors),
            (claims.CLOSED_FORM, whitening.zca),
        ):
            leaf = single.clone().requires_grad_()
            (dx,) = torch.autograd.grad(function(leaf, config.eps), leaf, dy)
            error = np.abs(dx.double().numpy() - true).max() / np.abs(true).max()
            rows.append({"kind": "gap", "arm": arm, "gap": gap, "error": float(error)})
    return rows


def _through_vectors(x: Any, eps: float) -> Any:
    """ZCA whitening whose gradient autograd finds through eigenvalues and eigenvectors."""
    import torch

    centred = x - x.mean(0)
    cov = centred.T @ centred / len(x) + eps * torch.eye(x.shape[1], dtype=x.dtype)
    values, vectors = torch.linalg.eigh(cov)
    return centred @ (vectors * values.rsqrt()) @ vectors.T


def _near_singular(config: Config, rng: np.random.Generator) -> list[dict[str, Any]]:
    """Largest gain of the gradient of two features of variance 1, by their smallest eigenvalue."""
    rows = []
    for smallest in config.eigenvalues:
        correlation = 1 - smallest
        x = _with_covariance(rng, np.array([[1.0, correlation], [correlation, 1.0]]), 8)
        for arm in (ZCA, CHOLESKY, BN):
            rows.append(
                {"kind": "eigenvalue", "arm": arm, "eigenvalue": smallest, "gain": gain(x, arm)}
            )
    return rows


def gain(x: Array, arm: str) -> float:
    """Largest norm of dx for dy of norm 1, in float64 and, where possible, without eps."""
    from bnbook import formulas

    if arm == BN:
        ones, zeros = np.ones(x.shape[1]), np.zeros(x.shape[1])
        _, plain = formulas.batch_norm_forward(x, ones, zeros, 1e-12)
        rows = [formulas.batch_norm_backward(dy, plain)[0] for dy in _units(x)]
    else:
        _, cache = formulas.whiten_forward(x, "zca" if arm == ZCA else "cholesky")
        rows = [formulas.whiten_backward(dy, cache) for dy in _units(x)]
    return float(np.linalg.norm(np.array([row.ravel() for row in rows]), 2))


def _units(x: Array) -> Iterator[Array]:
    """Yield every dy that has a single 1."""
    for unit in np.eye(x.size):
        yield unit.reshape(x.shape)


EXPERIMENT = Experiment(
    name="ioffe_whitening",
    title="Full whitening against batch normalisation (Ioffe & Szegedy, sections 2 and 3)",
    profiles=PROFILES,
    measure=measure,
    columns=COLUMNS,
    claims=claims.CLAIMS,
    facts=claims.facts,
    figures={
        "times": lambda table: figures.times(claims.seconds(table)),
        "ranks": lambda table: figures.ranks(claims.ranks(table)),
        "gradients": lambda table: figures.gradients(
            claims.gradient_errors(table), claims.sensitivities(table)
        ),
    },
)
