r"""Full whitening of a minibatch in torch, forward and backward, as cheap as we could make it.

What `bnbook.layers.norm.BatchNorm` is compared with. Independent of `bnbook.formulas.whitening`;
tests hold the two against each other.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from bnbook.errors import BnbookError


def zca(x: Tensor, eps: float) -> Tensor:
    r"""Whiten with the symmetric inverse root: :math:`y_i = C^{-1/2} (x_i - \mu)`.

    :math:`C = \frac1m \sum_i (x_i - \mu)(x_i - \mu)^T + \epsilon I`. The gradient goes through
    :math:`\mu` and :math:`C`. It is computed in closed form, which is finite where eigenvalues of C
    agree; through the eigenvectors, as autograd would, it is not.

    Source: Ioffe & Szegedy 2015, section 2, where there is no eps; the derivative is derived in
    `bnbook.formulas.whiten_backward`.

    Parameters
    ----------
    x : Tensor, (m, d)
        The minibatch: floating point, finite, m >= 2.
    eps : float
        Added to the covariance's diagonal, above 0.

    Returns
    -------
    Tensor, (m, d)

    Raises
    ------
    BnbookError
        When an argument is not as above.
    """
    _check(x, eps)
    y: Tensor = _ZCA.apply(x, eps)
    return y


def cholesky(x: Tensor, eps: float) -> Tensor:
    r"""Whiten with a triangular matrix: :math:`y_i = L^{-1} (x_i - \mu)` with :math:`C = L L^T`.

    The gradient with respect to :math:`x_i` is, with :math:`P = \sum_i dy_i y_i^T` and S the
    symmetric matrix that has P's lower triangle,

    .. math::
        L^{-T} \Bigl( dy_i - \frac1m \sum_j dy_j - \frac1m S\, y_i \Bigr) :

    BN's one line with matrices in the place of numbers. (The mean of y is zero.)

    Parameters
    ----------
    x : Tensor, (m, d)
        The minibatch: floating point, finite, m >= 2.
    eps : float
        Added to the covariance's diagonal, above 0.

    Returns
    -------
    Tensor, (m, d)

    Raises
    ------
    BnbookError
        When an argument is not as above.
    """
    _check(x, eps)
    y: Tensor = _Cholesky.apply(x, eps)
    return y


def _check(x: Tensor, eps: float) -> None:
    if not x.is_floating_point():
        raise BnbookError(f"x must be floating point, found {x.dtype}; x.float() makes it so.")
    if x.dim() != 2 or len(x) < 2 or x.shape[1] < 1:
        raise BnbookError(f"x must have shape (m, d) with m >= 2, found {tuple(x.shape)}.")
    if not eps > 0:
        raise BnbookError(f"eps must be positive, found {eps}.")


def _centred(x: Tensor) -> Tensor:
    mu = x.mean(0)
    if not torch.isfinite(mu).all():
        bad = int((~torch.isfinite(mu)).nonzero()[0])
        raise BnbookError(f"x must be finite, found {mu[bad].item()} as the mean of feature {bad}.")
    return x - mu


def _covariance(centred: Tensor, eps: float) -> Tensor:
    cov = centred.T @ centred / len(centred)
    cov.diagonal().add_(eps)
    return cov


class _ZCA(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, eps: float) -> Tensor:
        centred = _centred(x)
        values, vectors = torch.linalg.eigh(_covariance(centred, eps))
        # The covariance's own eigenvalues are at least 0; rounding can put them below.
        roots = values.clamp_min(eps).sqrt()
        root = (vectors / roots) @ vectors.T
        ctx.save_for_backward(centred, vectors, roots, root)
        y: Tensor = centred @ root
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None]:
        centred, vectors, roots, root = ctx.saved_tensors
        slopes = -1 / (torch.outer(roots, roots) * (roots[:, None] + roots))
        inner = slopes * (vectors.T @ (dy.T @ centred) @ vectors)
        dcov = vectors @ (inner + inner.T) @ vectors.T
        dcentred = dy @ root + centred @ dcov / len(dy)
        return dcentred - dcentred.mean(0), None


class _Cholesky(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, eps: float) -> Tensor:
        centred = _centred(x)
        lower = torch.linalg.cholesky(_covariance(centred, eps))
        y: Tensor = torch.linalg.solve_triangular(lower.T, centred, upper=True, left=False)
        ctx.save_for_backward(y, lower)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None]:
        y, lower = ctx.saved_tensors
        below = (dy.T @ y).tril()
        symmetric = below + below.tril(-1).T
        within = dy - dy.mean(0) - y @ symmetric / len(dy)
        return torch.linalg.solve_triangular(lower, within, upper=False, left=False), None
