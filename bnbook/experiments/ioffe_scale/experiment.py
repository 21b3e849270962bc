"""Ioffe & Szegedy 2015, section 3.3: BN((aW)u) = BN(Wu), and what eps changes, in float64.

A linear and a convolutional layer with Gaussian inputs, weights and cotangent, followed by
`bnbook.layers.norm.BatchNorm`, with weights W, drawn so that Wu has a variance of about 1, and aW.

Stated by the paper: the three equations, for which it leaves eps out. Chosen here: the sizes, the
factors, the values of eps, 1e-5 as in torch and 1e-3 as in Keras, and 1e-300 where it is neglected.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd

from bnbook import formulas
from bnbook.errors import BnbookError
from bnbook.experiments import experiment
from bnbook.experiments.ioffe_scale import claims, figures
from bnbook.experiments.ioffe_scale.claims import FIXED, NEGLECTED, RESCALED
from bnbook.training.session import Session

if TYPE_CHECKING:
    from torch import Tensor

TITLE = "A scale of the weights before BN (Ioffe & Szegedy, section 3.3)"

CLAIMS = claims.CLAIMS
FIGURES = {"gradients": figures.gradients, "departure": figures.departure}
facts = claims.facts

TINY_EPS = 1e-300
"""Neglected: against a variance of 1e-12 times the square of the weights' own it is nothing."""


@dataclass(frozen=True)
class Config:
    """Everything that a run depends on.

    Attributes
    ----------
    seeds : tuple of int
        Each sets input, weights and cotangent.
    factors : tuple of float
        Values of a, above 0.
    eps : tuple of float
        Values of eps where it is not neglected, above 0.
    batch, inputs, features : int
        Examples, inputs and outputs of the linear layer.
    channels, image, kernel : int
        Input channels, height and width of the images and of the kernel of the convolution.
    data : str
        Nothing is read: the numbers are generated.
    """

    seeds: tuple[int, ...]
    factors: tuple[float, ...] = tuple(10.0**k for k in range(-6, 7))
    eps: tuple[float, ...] = (1e-5, 1e-3)
    batch: int = 60
    inputs: int = 50
    features: int = 20
    channels: int = 3
    image: int = 8
    kernel: int = 3
    data: str = "generated"


PROFILES: Mapping[str, Config] = {
    "quick": Config(seeds=(0, 1, 2)),
    "standard": Config(seeds=tuple(range(10)), inputs=200, features=100, channels=16),
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
    config = experiment.configure("ioffe_scale", PROFILES, profile, seed, changes)
    experiment.check_positive(config, ("inputs", "features", "channels", "kernel"))
    experiment.check_distinct(config, ("seeds", "factors", "eps"))
    if config.batch < 2:
        raise BnbookError(f"batch must be at least 2, found {config.batch}.")
    if config.image < config.kernel:
        raise BnbookError(
            f"image must be at least kernel, found {config.image} and {config.kernel}."
        )
    for name in ("factors", "eps"):
        if min(getattr(config, name)) <= 0:
            raise BnbookError(f"{name} must be above 0, found {getattr(config, name)}.")
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
        One row per ``seed``, ``layer`` ("linear", "convolution"), ``rule`` (what becomes of eps:
        see `bnbook.experiments.ioffe_scale.claims`), ``eps`` and ``a``. Differences between aW and
        W, as shares of the larger of the two's largest entry: ``output``, ``input_gradient`` and
        ``weight_gradient`` (times a), and ``closed_form``, of the output at aW from its closed
        form (where eps is the same for both). Of the gradient at aW: ``cosine`` (largest, of a
        feature with its weights), ``norm_after_step`` (largest relative error of the squared norm
        after a step of SGD), ``output_size``, ``input_gradient_size`` and ``weight_gradient_size``
        (norms, relative to those at W).
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
    return [_measure(run, device) for run in runs]


def _measure(run: Config, device: Any) -> pd.DataFrame:
    import torch

    generator = torch.Generator().manual_seed(run.seeds[0])
    out = run.image - run.kernel + 1
    shapes = {
        "linear": ((run.batch, run.inputs), (run.features, run.inputs), (run.batch, run.features)),
        "convolution": (
            (run.batch, run.channels, run.image, run.image),
            (run.features, run.channels, run.kernel, run.kernel),
            (run.batch, run.features, out, out),
        ),
    }
    rows = []
    for layer, sizes in shapes.items():
        u, W, dy = (
            torch.randn(size, generator=generator, dtype=torch.float64).to(device) for size in sizes
        )
        W /= W[0].numel() ** 0.5
        for a in run.factors:
            for rule, eps, own in _rules(run.eps, a):
                numbers = _compare(u, W, dy, a, eps, own)
                case = {"seed": run.seeds[0], "layer": layer, "rule": rule, "eps": eps, "a": a}
                rows.append({**case, **numbers})
    return pd.DataFrame(rows)


def _rules(values: Sequence[float], a: float) -> list[tuple[str, float, float]]:
    """Name, eps for aW, and eps for W."""
    rescaled = [(RESCALED, eps, formulas.rescaled_eps(eps, a)) for eps in values]
    fixed = [(FIXED, eps, eps) for eps in values]
    return [(NEGLECTED, TINY_EPS, TINY_EPS), *rescaled, *fixed]


def _compare(
    u: Tensor, W: Tensor, dy: Tensor, a: float, eps: float, own: float
) -> dict[str, float]:
    """Compare the layer with weights aW and eps to that with weights W and an eps of its own."""
    y, du, dW, var = _layer(u, W, dy, own)
    y_a, du_a, dW_a, _ = _layer(u, a * W, dy, eps)
    per_feature = (1, -1, *(1,) * (y.dim() - 2))
    factor = y.new_tensor(formulas.scale_factor(var.cpu().numpy(), a, eps)).view(per_feature)
    return {
        "output": _difference(y_a, y),
        "input_gradient": _difference(du_a, du),
        "weight_gradient": _difference(a * dW_a, dW),
        "closed_form": _difference(y_a, factor * y) if own == eps else math.nan,
        **_step(a * W, dW_a),
        "output_size": float(y_a.norm() / y.norm()),
        "input_gradient_size": float(du_a.norm() / du.norm()),
        "weight_gradient_size": float(dW_a.norm() / dW.norm()),
    }


def _layer(u: Tensor, W: Tensor, dy: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return BN(Wu), its gradients with respect to u and W, and the variance of Wu."""
    import torch
    from torch.nn import functional as F  # noqa: N812

    from bnbook.layers.norm import BatchNorm

    u, W = u.detach().requires_grad_(), W.detach().requires_grad_()
    x = F.linear(u, W) if u.dim() == 2 else F.conv2d(u, W)
    y = BatchNorm(len(W), eps).to(u)(x)
    du, dW = torch.autograd.grad(y, (u, W), dy)
    over = (0, *range(2, x.dim()))
    return y.detach(), du, dW, x.detach().var(over, correction=0)


def _difference(one: Tensor, other: Tensor) -> float:
    """Largest difference, as a share of the largest entry of either."""
    return float((one - other).abs().max() / max(one.abs().max(), other.abs().max()))


def _step(W: Tensor, dW: Tensor) -> dict[str, float]:
    """Angle of the gradient to the weights, and the norms after a step about as long as they."""
    w, dw = W.flatten(1), dW.flatten(1)
    squared, steps = w.square().sum(1), dw.square().sum(1)
    cosine = (w * dw).sum(1).abs() / (squared * steps).sqrt()
    alpha = (squared.sum() / steps.sum()).sqrt()
    after, expected = (w - alpha * dw).square().sum(1), squared + alpha**2 * steps
    return {
        "cosine": float(cosine.max()),
        "norm_after_step": float((after / expected - 1).abs().max()),
    }
