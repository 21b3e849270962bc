"""The six backward equations of section 3, and what they simplify to.

Source: Ioffe & Szegedy 2015, section 3, seen in the paper, unless a docstring says otherwise. A d
before a letter is the gradient of the loss with respect to it; sums run over the minibatch.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from bnbook.formulas import _arguments as read
from bnbook.formulas._arguments import Array
from bnbook.formulas.transform import Cache, checked


def gradient_xhat(dy: Any, gamma: Any) -> Array:
    r"""Backward equation 1: :math:`d\hat x_i = dy_i \cdot \gamma`.

    Parameters
    ----------
    dy : array_like, (m, features)
        Gradient of the loss with respect to y.
    gamma : array_like, (features,)
        Scale.

    Returns
    -------
    ndarray, (m, features)
    """
    dy = read.array("dy", dy, "m, features")
    dxhat: Array = dy * read.vector("gamma", gamma, dy.shape[1])
    return dxhat


def gradient_var(dxhat: Any, x: Any, mu: Any, var: Any, eps: float) -> Array:
    r"""Backward equation 2.

    .. math::
        d\sigma^2_B = \sum_i d\hat x_i\, (x_i - \mu_B) \cdot
        \tfrac{-1}{2} (\sigma^2_B + \epsilon)^{-3/2}

    Parameters
    ----------
    dxhat, x : array_like, (m, features)
        Gradient with respect to the normalised values; the values.
    mu, var : array_like, (features,)
        Mean and biased variance of the minibatch.
    eps : float
        Above 0.

    Returns
    -------
    ndarray, (features,)
    """
    x, mu, var, eps = _batch(x, mu, var, eps)
    dxhat = read.shaped("dxhat", dxhat, x)
    dvar: Array = (dxhat * (x - mu)).sum(0) * -0.5 * (var + eps) ** -1.5
    return dvar


def gradient_mu_terms(
    dxhat: Any, dvar: Any, x: Any, mu: Any, var: Any, eps: float
) -> tuple[Array, Array]:
    r"""Both terms of backward equation 3.

    .. math::
        d\mu_B = \sum_i d\hat x_i \frac{-1}{\sqrt{\sigma^2_B + \epsilon}}
        + d\sigma^2_B \frac{\sum_i -2 (x_i - \mu_B)}{m}

    The second is identically zero, as :math:`\sum_i (x_i - \mu_B) = 0`: the variance has its least
    value at the mean. The equation is the paper's; that its second term is zero is derived here.

    Parameters
    ----------
    dxhat, x : array_like, (m, features)
        Gradient with respect to the normalised values; the values.
    dvar, mu, var : array_like, (features,)
        Gradient with respect to the variance; mean and biased variance of the minibatch.
    eps : float
        Above 0.

    Returns
    -------
    first, second : ndarray, (features,)
        The second is zero up to rounding.
    """
    x, mu, var, eps = _batch(x, mu, var, eps)
    dxhat, dvar = read.shaped("dxhat", dxhat, x), read.vector("dvar", dvar, x.shape[1])
    first = dxhat.sum(0) * (-1 / np.sqrt(var + eps))
    second = dvar * (-2 * (x - mu)).sum(0) / len(x)
    return first, second


def gradient_mu(dxhat: Any, dvar: Any, x: Any, mu: Any, var: Any, eps: float) -> Array:
    """Backward equation 3, the sum of `gradient_mu_terms`; its parameters are the same.

    Returns
    -------
    ndarray, (features,)
    """
    first, second = gradient_mu_terms(dxhat, dvar, x, mu, var, eps)
    return first + second


def gradient_x(dxhat: Any, dvar: Any, dmu: Any, x: Any, mu: Any, var: Any, eps: float) -> Array:
    r"""Backward equation 4.

    .. math::
        dx_i = \frac{d\hat x_i}{\sqrt{\sigma^2_B + \epsilon}}
        + d\sigma^2_B \frac{2 (x_i - \mu_B)}{m} + d\mu_B \frac1m

    Parameters
    ----------
    dxhat, x : array_like, (m, features)
        Gradient with respect to the normalised values; the values.
    dvar, dmu, mu, var : array_like, (features,)
        Gradients with respect to variance and mean; mean and biased variance of the minibatch.
    eps : float
        Above 0.

    Returns
    -------
    ndarray, (m, features)
    """
    x, mu, var, eps = _batch(x, mu, var, eps)
    m, features = x.shape
    dxhat = read.shaped("dxhat", dxhat, x)
    dvar, dmu = read.vector("dvar", dvar, features), read.vector("dmu", dmu, features)
    dx: Array = dxhat / np.sqrt(var + eps) + dvar * 2 * (x - mu) / m + dmu / m
    return dx


def gradient_gamma(dy: Any, xhat: Any) -> Array:
    r"""Backward equation 5: :math:`d\gamma = \sum_i dy_i \cdot \hat x_i`.

    Parameters
    ----------
    dy, xhat : array_like, (m, features)
        Gradient with respect to y; normalised values.

    Returns
    -------
    ndarray, (features,)
    """
    xhat = read.array("xhat", xhat, "m, features")
    dgamma: Array = (read.shaped("dy", dy, xhat) * xhat).sum(0)
    return dgamma


def gradient_beta(dy: Any) -> Array:
    r"""Backward equation 6: :math:`d\beta = \sum_i dy_i`.

    Parameters
    ----------
    dy : array_like, (m, features)
        Gradient with respect to y.

    Returns
    -------
    ndarray, (features,)
    """
    dbeta: Array = read.array("dy", dy, "m, features").sum(0)
    return dbeta


def batch_norm_backward(dy: Any, cache: Cache) -> tuple[Array, Array, Array]:
    """The six backward equations, one after the other.

    Parameters
    ----------
    dy : array_like, (m, features)
        Gradient of the loss with respect to y.
    cache : Cache
        From `batch_norm_forward`.

    Returns
    -------
    dx : ndarray, (m, features)
    dgamma, dbeta : ndarray, (features,)
    """
    cache = checked(cache)
    dy = read.shaped("dy", dy, cache.x)
    batch = cache.x, cache.mu, cache.var, cache.eps
    dxhat = gradient_xhat(dy, cache.gamma)
    dvar = gradient_var(dxhat, *batch)
    dmu = gradient_mu(dxhat, dvar, *batch)
    dx = gradient_x(dxhat, dvar, dmu, *batch)
    return dx, gradient_gamma(dy, cache.xhat), gradient_beta(dy)


def batch_norm_backward_simplified(dy: Any, cache: Cache) -> Array:
    r"""The four equations of dx in one line.

    .. math::
        dx_i = \frac{\gamma}{\sqrt{\sigma^2_B + \epsilon}} \Bigl( dy_i - \frac1m \sum_j dy_j
        - \hat x_i \frac1m \sum_j dy_j \hat x_j \Bigr)

    A constant in dy is removed, so the gradient of a summed output is zero. Derived from the six
    equations, with the second term of the third gone; exact for every eps. Not in the paper.

    Parameters
    ----------
    dy : array_like, (m, features)
        Gradient of the loss with respect to y.
    cache : Cache
        From `batch_norm_forward`.

    Returns
    -------
    ndarray, (m, features)
    """
    _, xhat, _, var, gamma, eps = checked(cache)
    dy = read.shaped("dy", dy, xhat)
    within: Array = dy - dy.mean(0) - xhat * (dy * xhat).mean(0)
    return gamma / np.sqrt(var + eps) * within


def gradient_norm_squared(dy: Any, cache: Cache) -> Array:
    r"""Squared norm of dx, by feature, from dy.

    With :math:`r = \sigma^2_B / (\sigma^2_B + \epsilon)`,

    .. math::
        \lVert dx \rVert^2 = \frac{\gamma^2}{\sigma^2_B + \epsilon} \Bigl( \lVert dy \rVert^2
        - \frac1m \langle 1, dy \rangle^2 - \frac{2 - r}{m} \langle dy, \hat x \rangle^2 \Bigr) .

    Santurkar et al. 2018, theorem 4.1, is this without eps, read in notes about the paper
    (second-hand); that it is an equality when dy is taken at the output of BN was recomputed.

    Parameters
    ----------
    dy : array_like, (m, features)
        Gradient of the loss with respect to y.
    cache : Cache
        From `batch_norm_forward`.

    Returns
    -------
    ndarray, (features,)
    """
    _, xhat, _, var, gamma, eps = checked(cache)
    dy = read.shaped("dy", dy, xhat)
    m, r = len(dy), var / (var + eps)
    along = dy.sum(0) ** 2 / m + (2 - r) / m * (dy * xhat).sum(0) ** 2
    squared: Array = gamma**2 / (var + eps) * ((dy**2).sum(0) - along)
    return squared


def _batch(x: Any, mu: Any, var: Any, eps: Any) -> tuple[Array, Array, Array, float]:
    x = read.minibatch("x", x)
    mu, var = read.vector("mu", mu, x.shape[1]), read.variances("var", var, x.shape[1])
    return x, mu, var, read.positive("eps", eps)
