r"""Batch normalisation with a backward pass of its own, which keeps what it needs and no more.

Autograd differentiates line after line and keeps what each line needs. Worked out on paper, the six
backward equations of Ioffe & Szegedy 2015, section 3, are one line,

.. math::
    \frac{\partial l}{\partial x_i} = \frac{\gamma}{\sqrt{\sigma^2 + \epsilon}} \Bigl(
    \frac{\partial l}{\partial y_i} - \Bigl\langle \frac{\partial l}{\partial y} \Bigr\rangle
    - \hat x_i \Bigl\langle \frac{\partial l}{\partial y} \hat x \Bigr\rangle \Bigr) ,

with :math:`\langle \cdot \rangle` the mean over the m values of a feature. It needs the input, as
it was given, and three numbers for each feature: :math:`\mu`, :math:`\sigma^2` and
:math:`\gamma`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of each feature, at least in float32.

    Parameters
    ----------
    x : Tensor, (N, C, ...)

    Returns
    -------
    mu, var : Tensor, (1, C, 1...)
        As many axes as x.
    """
    var, mu = torch.var_mean(_in_full(x), _over(x), correction=0, keepdim=True)
    return mu, var


def normalise(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, mu: Tensor, var: Tensor, eps: float
) -> Tensor:
    r"""Return :math:`\gamma (x - \mu) / \sqrt{\sigma^2 + \epsilon} + \beta`.

    The gradient counts that the statistics depend on x.

    Parameters
    ----------
    x : Tensor, (N, C, ...)
        Floating point.
    weight, bias : Tensor, (C,), or None
        :math:`\gamma` and :math:`\beta`; None for 1 and 0.
    mu, var : Tensor, (1, C, 1...)
        The `moments` of x. No gradient goes to them.
    eps : float
        Above 0.

    Returns
    -------
    Tensor, of the shape and type of x
    """
    y: Tensor = _Normalise.apply(x, weight, bias, mu, var, eps)
    return y


class _Normalise(torch.autograd.Function):
    """`normalise`; what it keeps is x, weight, mu and var."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        x: Tensor, weight: Tensor | None, bias: Tensor | None, mu: Tensor, var: Tensor, eps: float
    ) -> Tensor:
        centred, root = _in_full(x) - mu, (var + eps).rsqrt()
        if weight is None or bias is None:
            return (centred * root).to(x.dtype)
        return torch.addcmul(_along(x, bias), centred, _along(x, weight) * root).to(x.dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ARG004
        x, weight, _, mu, var, ctx.eps = inputs
        ctx.save_for_backward(x, weight, mu, var)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mu, var = ctx.saved_tensors
        if torch.is_grad_enabled():  # to be differentiated again: the statistics depend on x
            mu, var = moments(x)
        dx, dweight, dbias = _gradients(dy, x, weight, mu, (var + ctx.eps).rsqrt())
        return dx, dweight, dbias, None, None, None


def _gradients(
    dy: Tensor, x: Tensor, weight: Tensor | None, mu: Tensor, root: Tensor
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Return the gradients of x, weight and bias, by the one line and its two sums."""
    over, m = _over(x), x.numel() // x.shape[1]
    dy, centred = _in_full(dy), _in_full(x) - mu
    sum_dy = dy.sum(over, keepdim=True)
    sum_dy_xhat = (dy * centred).sum(over, keepdim=True) * root
    slope = root if weight is None else _along(x, weight) * root
    level, tilt = -slope * sum_dy / m, -slope * root * sum_dy_xhat / m
    dx = torch.addcmul(torch.addcmul(level, dy, slope), centred, tilt).to(x.dtype)
    if weight is None:
        return dx, None, None
    return dx, sum_dy_xhat.flatten().to(weight), sum_dy.flatten().to(weight)


def _in_full(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _over(x: Tensor) -> tuple[int, ...]:
    """All axes but the features'."""
    return (0, *range(2, x.dim()))


def _along(x: Tensor, vector: Tensor) -> Tensor:
    """Shape a vector of features to multiply x."""
    return vector.view(1, -1, *(1,) * (x.dim() - 2))
