r"""Statistics for inference, the affine map that they make, and folding it into a layer.

Source: Ioffe & Szegedy 2015, section 3.1 and Algorithm 2, seen in the paper, unless a docstring
says otherwise. Minibatches are given as one array of shape (k, m, features), k batches of m.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from bnbook.formulas import _arguments as read
from bnbook.formulas._arguments import Array

_BATCHES = "k, m, features"


def batch_statistics(x: Any) -> tuple[Array, Array]:
    """Mean and biased variance of each minibatch: Algorithm 1, lines 1 and 2, k times.

    Parameters
    ----------
    x : array_like, (k, m, features)
        k minibatches of m >= 2 examples.

    Returns
    -------
    mu_B, var_B : ndarray, (k, features)
    """
    x = read.minibatch("x", x, _BATCHES)
    mu = x.mean(1)
    return mu, ((x - mu[:, None]) ** 2).mean(1)


def population_statistics(x: Any) -> tuple[Array, Array]:
    r"""Algorithm 2, step 10.

    .. math::
        E[x] \leftarrow E_B[\mu_B], \qquad Var[x] \leftarrow \tfrac{m}{m-1} E_B[\sigma^2_B]

    over minibatches of the trained network, its weights frozen. For independent examples both are
    unbiased. The numbering of the steps follows the paper's listing.

    Parameters
    ----------
    x : array_like, (k, m, features)
        k minibatches of m >= 2 examples.

    Returns
    -------
    E, Var : ndarray, (features,)
    """
    mu, var = batch_statistics(x)
    m = np.shape(x)[1]
    return mu.mean(0), m / (m - 1) * var.mean(0)


def pooled_statistics(x: Any) -> tuple[Array, Array]:
    r"""Mean and biased variance of all k m values, from those of the minibatches.

    .. math::
        E[x] = E_B[\mu_B], \qquad
        Var[x] = E_B[\sigma^2_B] + E_B[\mu_B^2] - E_B[\mu_B]^2

    The law of total variance, exact: the second part is the variance of the batch means, which
    Algorithm 2 replaces by the factor m/(m-1). "Precise BN" aggregates so; as recalled from Wu &
    Johnson 2021 (not verified). The variance of the means is computed about their mean, which
    loses no digits.

    Parameters
    ----------
    x : array_like, (k, m, features)
        k minibatches of m >= 2 examples.

    Returns
    -------
    E, Var : ndarray, (features,)
    """
    mu, var = batch_statistics(x)
    return mu.mean(0), var.mean(0) + ((mu - mu.mean(0)) ** 2).mean(0)


def running_average(old: Any, new: Any, momentum: float) -> Array:
    r"""The moving average that section 3.1 mentions: :math:`v \leftarrow v + \rho (v_B - v)`.

    `momentum`, :math:`\rho`, weighs the new batch, as in torch; the paper gives no formula.

    Parameters
    ----------
    old, new : array_like, (features,)
        The average so far and the minibatch's statistic.
    momentum : float
        In [0, 1].

    Returns
    -------
    ndarray, (features,)
    """
    old = read.array("old", old, "features")
    moved: Array = old + read.share("momentum", momentum) * (
        read.vector("new", new, len(old)) - old
    )
    return moved


def running_statistics(
    x: Any, momentum: float, mean: Any = None, var: Any = None
) -> tuple[Array, Array]:
    r"""Running mean and variance after k minibatches.

    The variance averages the unbiased :math:`\frac{m}{m-1} \sigma^2_B`. The start keeps a weight
    of :math:`(1 - \rho)^k`. torch's convention; the paper gives no formula.

    Parameters
    ----------
    x : array_like, (k, m, features)
        k minibatches of m >= 2 examples, in their order.
    momentum : float
        Weight of the new batch, in [0, 1].
    mean, var : array_like, (features,), optional
        At the start; 0 and 1 unless given.

    Returns
    -------
    mean, var : ndarray, (features,)
    """
    mu_B, var_B = batch_statistics(x)
    m, features = np.shape(x)[1:]
    mean = np.zeros(features) if mean is None else read.vector("mean", mean, features)
    var = np.ones(features) if var is None else read.variances("var", var, features)
    for batch_mean, batch_var in zip(mu_B, var_B, strict=True):
        mean = running_average(mean, batch_mean, momentum)
        var = running_average(var, m / (m - 1) * batch_var, momentum)
    return mean, var


def inference_affine(gamma: Any, beta: Any, mean: Any, var: Any, eps: float) -> tuple[Array, Array]:
    r"""Algorithm 2, step 11: BN at inference is one affine map a feature.

    .. math::
        y = \frac{\gamma}{\sqrt{Var[x] + \epsilon}}\, x
        + \Bigl( \beta - \frac{\gamma E[x]}{\sqrt{Var[x] + \epsilon}} \Bigr)

    Parameters
    ----------
    gamma, beta : array_like, (features,)
        Scale and shift of the layer.
    mean, var : array_like, (features,)
        E[x] and Var[x], the latter at least 0.
    eps : float
        Above 0.

    Returns
    -------
    slope, intercept : ndarray, (features,)
    """
    gamma = read.array("gamma", gamma, "features")
    beta, mean = (read.vector(n, v, len(gamma)) for n, v in (("beta", beta), ("mean", mean)))
    var = read.variances("var", var, len(gamma))
    slope: Array = gamma / np.sqrt(var + read.positive("eps", eps))
    return slope, beta - slope * mean


def inference(x: Any, gamma: Any, beta: Any, mean: Any, var: Any, eps: float) -> Array:
    """Algorithm 2, step 11, applied; the other parameters are those of `inference_affine`.

    Parameters
    ----------
    x : array_like, (m, features)
        Any number of examples; each is treated alone.

    Returns
    -------
    ndarray, (m, features)
    """
    x = read.array("x", x, "m, features")
    gamma = read.vector("gamma", gamma, x.shape[1])
    slope, intercept = inference_affine(gamma, beta, mean, var, eps)
    y: Array = slope * x + intercept
    return y


def fold_linear(
    W: Any, b: Any, gamma: Any, beta: Any, mean: Any, var: Any, eps: float
) -> tuple[Array, Array]:
    r"""A linear layer and the BN after it, at inference, as one linear layer.

    .. math::
        W' = \frac{\gamma}{\sqrt{Var[x] + \epsilon}} W, \qquad
        b' = \frac{\gamma}{\sqrt{Var[x] + \epsilon}} (b - E[x]) + \beta

    Follows from Algorithm 2, step 11, with :math:`x = W u + b`; derived.

    Parameters
    ----------
    W : array_like, (features, inputs)
        Weights; x = W u + b.
    b : array_like, (features,), or None
        Bias, if the layer has one.
    gamma, beta, mean, var : array_like, (features,)
        As for `inference_affine`.
    eps : float
        Above 0.

    Returns
    -------
    W, b : ndarray, (features, inputs) and (features,)
    """
    return _fold(read.array("W", W, "features, inputs"), b, (gamma, beta, mean, var, eps))


def fold_conv(
    K: Any, b: Any, gamma: Any, beta: Any, mean: Any, var: Any, eps: float
) -> tuple[Array, Array]:
    """A convolution and the BN after it, at inference, as one convolution.

    As `fold_linear`, one factor for each output feature map; padding and stride do not matter, as
    the map follows the convolution.

    Parameters
    ----------
    K : array_like, (features, inputs, rows, columns)
        Kernels.
    b : array_like, (features,), or None
        Bias, if the layer has one.
    gamma, beta, mean, var : array_like, (features,)
        As for `inference_affine`.
    eps : float
        Above 0.

    Returns
    -------
    K, b : ndarray, (features, inputs, rows, columns) and (features,)
    """
    kernels = read.array("K", K, "features, inputs, rows, columns")
    return _fold(kernels, b, (gamma, beta, mean, var, eps))


def _fold(W: Array, b: Any, norm: tuple[Any, Any, Any, Any, float]) -> tuple[Array, Array]:
    features = len(W)
    read.vector("gamma", norm[0], features)
    slope, intercept = inference_affine(*norm)
    b = np.zeros(features) if b is None else read.vector("b", b, features)
    return slope.reshape(-1, *(1,) * (W.ndim - 1)) * W, slope * b + intercept
