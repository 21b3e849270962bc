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
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from bnbook.errors import BnbookError
from bnbook.experiments import experiment
from bnbook.experiments.ioffe_whitening import claims, figures
from bnbook.tables.arms import BN, BN_KERNEL, CHOLESKY, LINEAR, ZCA
from bnbook.training.session import Session

TITLE = "Full whitening against batch normalisation (Ioffe & Szegedy, sections 2 and 3)"

CLAIMS = claims.CLAIMS
FIGURES = {
    "times": lambda table: figures.times(claims.seconds(table)),
    "ranks": lambda table: figures.ranks(claims.ranks(table)),
    "gradients": lambda table: figures.gradients(
        claims.gradient_errors(table), claims.sensitivities(table)
    ),
}
facts = claims.facts

Array = npt.NDArray[np.float64]
LONGEST = 0.01
"""Seconds, about, for which a fast pass is repeated within one timing."""


@dataclass(frozen=True)
class Config:
    """Everything that a run depends on.

    Attributes
    ----------
    seeds : tuple of int
        Repetitions: each draws its own numbers and times everything again.
    widths : tuple of int
        Features of the layer that is timed, d.
    batch_size : int
        Examples of the minibatch that is timed, m.
    rounds : int
        Timings of each layer and width in a repetition, of which the median is kept; the layers
        take turns.
    threads : int
        Of torch, on a CPU.
    eps : float
        On the covariance's diagonal in what is timed.
    rank_sizes, rank_widths : tuple of int
        Examples and features of the minibatches whose covariance's rank is found.
    gaps : tuple of float
        Differences of two eigenvalues near 1.
    eigenvalues : tuple of float
        Smallest eigenvalues of the covariance of two features of variance 1.
    data : str
        Nothing is read: the numbers are generated.
    """

    seeds: tuple[int, ...]
    widths: tuple[int, ...]
    rounds: int
    batch_size: int = 256
    threads: int = 1
    eps: float = 1e-3
    rank_sizes: tuple[int, ...] = (8, 32, 128)
    rank_widths: tuple[int, ...] = (4, 8, 16, 32, 64, 128, 256)
    gaps: tuple[float, ...] = (1.0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)
    eigenvalues: tuple[float, ...] = (1.0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)
    data: str = "generated"


PROFILES: Mapping[str, Config] = {
    "quick": Config(seeds=(0, 1, 2), widths=(16, 32, 64, 128, 256, 512), rounds=5),
    "standard": Config(
        seeds=tuple(range(10)), widths=(16, 32, 64, 128, 256, 512, 1024, 2048), rounds=5
    ),
}


def configure(profile: str, seed: int = 0, **changes: Any) -> Config:
    """Return a profile's config, with changes, its fields checked.

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
    config = experiment.configure("ioffe_whitening", PROFILES, profile, seed, changes)
    experiment.check_positive(config, ("rounds", "threads"))
    experiment.check_distinct(
        config, ("seeds", "widths", "rank_sizes", "rank_widths", "gaps", "eigenvalues")
    )
    if min(*config.rank_sizes, config.batch_size) < 2:
        raise BnbookError(
            "rank_sizes and batch_size must be at least 2, found"
            f" {config.rank_sizes}, {config.batch_size}."
        )
    if min(*config.gaps, *config.eigenvalues, config.eps) <= 0:
        raise BnbookError(
            "gaps, eigenvalues and eps must be above 0, found"
            f" {config.gaps}, {config.eigenvalues}, {config.eps}."
        )
    return config


def parts(config: Config) -> list[Config]:
    """Return one config for each repetition."""
    return experiment.single_runs(config, ("seeds",))


def fuses(part: Config) -> Config:
    """Return the part itself: each is timed alone."""
    return part


def run(config: Config, device: str = "auto") -> pd.DataFrame:
    """Measure every repetition of a config.

    Parameters
    ----------
    config : Config
        From `configure`.
    device : str
        ``auto``, ``cpu`` or ``cuda``: where the times are taken.

    Returns
    -------
    pandas.DataFrame
        ``seed`` and ``kind``, by which the other columns have a meaning, or NaN. "time": ``m``,
        ``width``, ``arm``, ``forward`` and ``backward`` (seconds). "rank": ``m``, ``width``,
        ``rank``. "gap": ``arm`` (how dx is computed), ``gap`` (of two eigenvalues), ``error`` (of
        dx in float32, relative to its largest component). "eigenvalue": ``arm``, ``eigenvalue``
        (the smallest), ``gain`` (largest norm of dx for dy of norm 1).
    """
    return pd.concat(train(parts(config), Session(device)), ignore_index=True)


def train(runs: Sequence[Config], session: Session) -> list[pd.DataFrame]:
    """Measure some repetitions.

    Parameters
    ----------
    runs : sequence of Config
        Of `parts`.
    session : Session
        Its device is where the times are taken.

    Returns
    -------
    list of pandas.DataFrame
        The rows of each part, as `run` describes them.
    """
    return [_of_seed(run, session.device) for run in runs]


def _of_seed(config: Config, device: str) -> pd.DataFrame:
    seed = config.seeds[0]
    rows = list(_timed(config, device))
    rows += _ranks(config, np.random.default_rng([seed, 1]))
    rows += _near_equal(config, np.random.default_rng([seed, 2]))
    rows += _near_singular(config, np.random.default_rng([seed, 3]))
    columns = ["kind", "arm", "m", "width", "forward", "backward", "rank", "gap", "error"]
    columns += ["eigenvalue", "gain"]
    table = pd.DataFrame(rows, columns=columns)
    table.insert(0, "seed", seed)
    numbers = [name for name in columns if name not in ("kind", "arm")]
    return table.astype({**dict.fromkeys(numbers, float), "arm": "string", "kind": "string"})


# Times


def _timed(config: Config, device: str) -> Iterator[dict[str, Any]]:
    """Yield the median times of every layer and width."""
    import torch

    from bnbook.training import fit

    at = fit.choose_device(device)
    generator = torch.Generator().manual_seed(config.seeds[0])
    with _threads(config.threads):
        for width in config.widths:
            x = torch.randn(config.batch_size, width, generator=generator).to(at)
            dy = torch.randn(config.batch_size, width, generator=generator).to(at)
            layers = _layers(width, config.eps, at)
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
    """Largest norm of dx for dy of norm 1, in float64 and, where possible, without eps.

    Parameters
    ----------
    x : ndarray, (m, d)
        A minibatch whose covariance has full rank.
    arm : str
        ``ZCA``, ``CHOLESKY`` or ``BN`` of `bnbook.tables.arms`; BN with eps = 1e-12.

    Returns
    -------
    float
        The largest singular value of the Jacobian.
    """
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
