"""Ioffe & Szegedy 2015, section 3.3: BN((aW)u) = BN(Wu), and what eps changes, in float64.

A linear and a convolutional layer with Gaussian inputs, weights and cotangent, followed by
`bnbook.layers.norm.BatchNorm`, with weights W, drawn so that Wu has a variance of about 1, and aW.

Stated by the paper: the three equations, for which it leaves eps out. Chosen here: the sizes, the
factors, the values of eps, 1e-5 as in torch and 1e-3 as in Keras, and 1e-300 where it is neglected.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd

from bnbook import formulas
from bnbook.errors import BnbookError
from bnbook.experiments.experiment import Experiment, check_distinct, check_positive
from bnbook.experiments.ioffe_scale import claims, figures
from bnbook.experiments.ioffe_scale.claims import FIXED, NEGLECTED, RESCALED

if TYPE_CHECKING:
    from torch import Tensor

TINY_EPS = 1e-300
"""Neglected: against a variance of 1e-12 times the square of the weights' own it is nothing."""


@dataclass(frozen=True)
class Config:
    """Everything that a run depends on."""

    seeds: tuple[int, ...]  # each sets input, weights and cotangent
    factors: tuple[float, ...] = tuple(10.0**k for k in range(-6, 7))  # values of a, above 0
    eps: tuple[float, ...] = (1e-5, 1e-3)  # where it is not neglected, above 0
    batch: int = 60  # examples
    inputs: int = 50  # of the linear layer
    features: int = 20  # outputs of the linear layer, output channels of the convolution
    channels: int = 3  # input channels of the convolution
    image: int = 8  # height and width of its images
    kernel: int = 3  # height and width of its kernel
    data: str = "generated"

    def __post_init__(self) -> None:
        check_positive(self, ("inputs", "features", "channels", "kernel"))
        check_distinct(self, ("seeds", "factors", "eps"))
        if self.batch < 2:
            raise BnbookError(f"batch must be at least 2, found {self.batch}.")
        if self.image < self.kernel:
            raise BnbookError(
                f"image must be at least kernel, found {self.image} and {self.kernel}."
            )
        for name in ("factors", "eps"):
            if min(getattr(self, name)) <= 0:
                raise BnbookError(f"{name} must be above 0, found {getattr(self, name)}.")


PROFILES = {
    "quick": Config(seeds=(0, 1, 2)),
    "standard": Config(seeds=tuple(range(10)), inputs=200, features=100, channels=16),
}

_SHARE = "largest difference between aW and W, as a share of the larger of the largest entries"
COLUMNS = {
    "seed": "of input, weights and cotangent",
    "layer": "linear or convolution",
    "rule": "what becomes of eps: see `bnbook.experiments.ioffe_scale.claims`",
    "eps": "at aW",
    "a": "factor of the weights",
    "output": _SHARE,
    "input_gradient": _SHARE,
    "weight_gradient": f"{_SHARE}; the gradient at aW times a",
    "closed_form": "that of the output at aW from its closed form, where eps is the same for both",
    "cosine": "of the gradient at aW with the weights, the largest of a feature",
    "norm_after_step": "largest relative error of the squared norm after a step of SGD at aW",
    "output_size": "norm at aW over norm at W",
    "input_gradient_size": "norm at aW over norm at W",
    "weight_gradient_size": "norm at aW over norm at W",
}


def measure(run: Config, device: Any) -> pd.DataFrame:
    """Compare the layers with weights aW and W at a seed."""
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


EXPERIMENT = Experiment(
    name="ioffe_scale",
    title="A scale of the weights before BN (Ioffe & Szegedy, section 3.3)",
    profiles=PROFILES,
    measure=measure,
    columns=COLUMNS,
    claims=claims.CLAIMS,
    facts=claims.facts,
    figures={"departure": figures.departure},
)
