r"""Section 3.3: what a scale of the weights does, and what follows for the learning rate.

Source: Ioffe & Szegedy 2015, section 3.3, seen in the paper, which neglects eps:
:math:`BN(Wu) = BN((aW)u)`, :math:`\partial BN((aW)u) / \partial u = \partial BN(Wu) / \partial u`
and :math:`\partial BN((aW)u) / \partial (aW) = \frac1a \partial BN(Wu) / \partial W`.

With eps all three become exact, for a > 0, when the right side uses :math:`\epsilon / a^2` in its
place: `rescaled_eps`. Derived here.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from bnbook.errors import BnbookError
from bnbook.formulas import _arguments as read
from bnbook.formulas._arguments import Array
from bnbook.formulas.backward import batch_norm_backward
from bnbook.formulas.transform import Cache, batch_norm_forward


def linear_batch_norm(u: Any, W: Any, eps: float) -> tuple[Array, Cache]:
    """BN(Wu), with gamma = 1 and beta = 0.

    Parameters
    ----------
    u : array_like, (m, inputs)
        The layer's input, m >= 2.
    W : array_like, (features, inputs)
        Weights.
    eps : float
        Above 0.

    Returns
    -------
    y : ndarray, (m, features)
    cache : Cache
        For `linear_batch_norm_backward`.
    """
    u, W = _product(read.minibatch("u", u, "m, inputs"), W)
    return batch_norm_forward(u @ W.T, np.ones(len(W)), np.zeros(len(W)), eps)


def linear_batch_norm_backward(dy: Any, u: Any, W: Any, cache: Cache) -> tuple[Array, Array]:
    """Gradients of the loss with respect to u and W through BN(Wu).

    Parameters
    ----------
    dy : array_like, (m, features)
        Gradient of the loss with respect to the output.
    u, W : array_like, (m, inputs) and (features, inputs)
        As given to `linear_batch_norm`.
    cache : Cache
        From it.

    Returns
    -------
    du, dW : ndarray, (m, inputs) and (features, inputs)
    """
    u, W = _product(read.minibatch("u", u, "m, inputs"), W)
    dx, _, _ = batch_norm_backward(dy, cache)
    return dx @ W, dx.T @ u


def rescaled_eps(eps: float, a: float) -> float:
    r"""The eps that makes section 3.3 exact: :math:`BN_\epsilon(aWu) = BN_{\epsilon/a^2}(Wu)`.

    Parameters
    ----------
    eps, a : float
        Above 0. With a factor -a the output would change its sign as well.

    Returns
    -------
    float
        eps / a^2.
    """
    return read.positive("eps", eps) / read.positive("a", a) ** 2


def scale_factor(var: Any, a: float, eps: float) -> Array:
    r"""What eps leaves of the invariance: :math:`\widehat{aWu} = s\, \widehat{Wu}`.

    .. math::
        s = a \sqrt{\frac{\sigma^2_B + \epsilon}{a^2 \sigma^2_B + \epsilon}}

    Derived. It is 1 for a = 1, and tends to 1 as eps vanishes.

    Parameters
    ----------
    var : array_like, (features,)
        Biased variance of Wu over the minibatch, at least 0.
    a : float
        Factor of the weights, above 0.
    eps : float
        Above 0.

    Returns
    -------
    ndarray, (features,)
    """
    var = read.array("var", var, "features")
    var = read.variances("var", var, len(var))
    a, eps = read.positive("a", a), read.positive("eps", eps)
    factor: Array = a * np.sqrt((var + eps) / (a**2 * var + eps))
    return factor


def effective_rate(alpha: float, w: Any) -> float:
    r"""Rate at which SGD turns scale-free weights: :math:`\alpha / \lVert w \rVert^2`.

    The gradient falls as :math:`1 / \lVert w \rVert`, and so does the turn that a step of given
    length makes. Derived from section 3.3; the formula as recalled from van Laarhoven 2017 (not
    verified there; that the norm sets the effective rate was seen).

    Parameters
    ----------
    alpha : float
        Learning rate, above 0.
    w : array_like, (n,)
        The weights of one feature, not all zero.
    """
    return read.positive("alpha", alpha) / _squared_norm(w)


def squared_norm_after_step(w: Any, dw: Any, alpha: float, decay: float = 0.0) -> float:
    r"""Squared norm of scale-free weights after a step of SGD.

    .. math::
        \lVert w - \alpha (dw + \lambda w) \rVert^2
        = (1 - \alpha \lambda)^2 \lVert w \rVert^2 + \alpha^2 \lVert dw \rVert^2

    as the gradient of a loss that does not depend on the norm is orthogonal to w. Without decay
    the norm can only grow. Derived from section 3.3; exact without eps.

    Parameters
    ----------
    w, dw : array_like, (n,)
        The weights of one feature and the gradient of the loss, orthogonal to them.
    alpha : float
        Learning rate, above 0.
    decay : float
        L2 coefficient, at least 0; its gradient is ``decay * w``.
    """
    squared, w = _squared_norm(w), read.array("w", w, "n")
    dw = read.shaped("dw", dw, w, "n")
    alpha, decay = read.positive("alpha", alpha), read.number("decay", decay)
    if decay < 0:
        raise BnbookError(f"decay must be at least 0, found {decay}.")
    cosine = float(w @ dw) / math.sqrt(squared * float(dw @ dw)) if dw.any() else 0.0
    if abs(cosine) > 1e-6:
        raise BnbookError(
            "dw must be orthogonal to w, as the gradient of a loss that does not depend on the"
            f" norm of w is; found a cosine of {cosine:.2g}."
        )
    return (1 - alpha * decay) ** 2 * squared + alpha**2 * float(dw @ dw)


def equivalent_decay(decay: float, a: float) -> float:
    r"""L2 on scale-free weights: :math:`L_\lambda(a w) = L_{\lambda a^2}(w)`.

    It does not regularise, it sets the scale of the weights and with it the effective rate. Seen
    in van Laarhoven 2017.

    Parameters
    ----------
    decay, a : float
        L2 coefficient and factor of the weights, above 0.

    Returns
    -------
    float
        decay * a^2.
    """
    return read.positive("decay", decay) * read.positive("a", a) ** 2


def gradient_growth_relu() -> float:
    r"""Growth of the squared gradient a layer, ReLU then BN without skips: :math:`\pi/(\pi-1)`.

    1.467, so 1.211 for the norm; for wide layers and large batches at initialisation. Yang et al.
    2019; the number read in notes about the paper (second-hand) and recomputed.
    """
    return math.pi / (math.pi - 1)


def gradient_growth_linear(batch: int) -> float:
    """Growth of the squared gradient a layer, linear then BN: (B - 2) / (B - 3).

    For wide layers at initialisation; tends to 1 with the batch. As recalled from Yang et al. 2019
    (not verified there), and recomputed.

    Parameters
    ----------
    batch : int
        B, at least 4.
    """
    size = read.count("batch", batch, 4)
    return (size - 2) / (size - 3)


def _product(u: Array, W: Any) -> tuple[Array, Array]:
    W = read.array("W", W, "features, inputs")
    if W.shape[1] != u.shape[1]:
        raise BnbookError(
            f"W must have shape (features, inputs) with inputs = {u.shape[1]}, as u has, found"
            f" shape {W.shape}."
        )
    return u, W


def _squared_norm(w: Any) -> float:
    w = read.array("w", w, "n")
    if not w.any():
        raise BnbookError(f"w must not be zero, found {len(w)} zeros.")
    return float(w @ w)
