"""Algorithm 1.

Source of all: Ioffe & Szegedy 2015, section 3, seen in the paper, unless a docstring says
otherwise. Each feature is normalised on its own, over the m values that it has in the minibatch.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from bnbook.errors import BnbookError
from bnbook.formulas import _arguments as read
from bnbook.formulas._arguments import Array


class Cache(NamedTuple):
    """What the backward pass needs of the forward pass.

    Attributes
    ----------
    x, xhat : ndarray, (m, features)
        The values and the normalised values.
    mu, var, gamma : ndarray, (features,)
        The minibatch's mean and biased variance, and the scale.
    eps : float
        Added to the variance inside the square root.
    """

    x: Array
    xhat: Array
    mu: Array
    var: Array
    gamma: Array
    eps: float


def minibatch_mean(x: Any) -> Array:
    r"""Algorithm 1, line 1: :math:`\mu_B = \frac1m \sum_i x_i`.

    Parameters
    ----------
    x : array_like, (m, features)
        The minibatch, m >= 2.

    Returns
    -------
    ndarray, (features,)
    """
    mean: Array = read.minibatch("x", x).mean(0)
    return mean


def minibatch_variance(x: Any, mu: Any) -> Array:
    r"""Algorithm 1, line 2: :math:`\sigma^2_B = \frac1m \sum_i (x_i - \mu_B)^2`.

    Biased: divided by m, not m - 1.

    Parameters
    ----------
    x : array_like, (m, features)
        The minibatch, m >= 2.
    mu : array_like, (features,)
        Its mean.

    Returns
    -------
    ndarray, (features,)
        At least 0.
    """
    x = read.minibatch("x", x)
    mu = read.vector("mu", mu, x.shape[1])
    var: Array = ((x - mu) ** 2).mean(0)
    return var


def normalise(x: Any, mu: Any, var: Any, eps: float) -> Array:
    r"""Algorithm 1, line 3: :math:`\hat x_i = (x_i - \mu_B) / \sqrt{\sigma^2_B + \epsilon}`.

    Parameters
    ----------
    x : array_like, (m, features)
        The values; one row is enough, for the statistics are given.
    mu, var : array_like, (features,)
        Mean and variance, the latter at least 0.
    eps : float
        Above 0; the paper gives no value.

    Returns
    -------
    ndarray, (m, features)
    """
    x = read.array("x", x, "m, features")
    mu, var = read.vector("mu", mu, x.shape[1]), read.variances("var", var, x.shape[1])
    normalised: Array = (x - mu) / np.sqrt(var + read.positive("eps", eps))
    return normalised


def scale_and_shift(xhat: Any, gamma: Any, beta: Any) -> Array:
    r"""Algorithm 1, line 4: :math:`y_i = \gamma \hat x_i + \beta`.

    With :math:`\gamma = \sqrt{\sigma^2_B + \epsilon}` and :math:`\beta = \mu_B` the whole
    transform is the identity.

    Parameters
    ----------
    xhat : array_like, (m, features)
        Normalised values.
    gamma, beta : array_like, (features,)
        Scale and shift.

    Returns
    -------
    ndarray, (m, features)
    """
    xhat = read.array("xhat", xhat, "m, features")
    gamma = read.vector("gamma", gamma, xhat.shape[1])
    y: Array = gamma * xhat + read.vector("beta", beta, xhat.shape[1])
    return y


def batch_norm_forward(x: Any, gamma: Any, beta: Any, eps: float) -> tuple[Array, Cache]:
    """Algorithm 1, lines 1 to 4.

    Parameters
    ----------
    x : array_like, (m, features)
        The minibatch, m >= 2.
    gamma, beta : array_like, (features,)
        Scale and shift.
    eps : float
        Above 0; the paper gives no value.

    Returns
    -------
    y : ndarray, (m, features)
    cache : Cache
        For `batch_norm_backward`.

    Raises
    ------
    BnbookError
        When a shape, a type or a value is not as above; all formulas raise it so.
    """
    mu = minibatch_mean(x)
    var = minibatch_variance(x, mu)
    xhat = normalise(x, mu, var, eps)
    y = scale_and_shift(xhat, gamma, beta)
    gamma = read.vector("gamma", gamma, xhat.shape[1])
    return y, Cache(read.minibatch("x", x), xhat, mu, var, gamma, float(eps))


def normalised_moments(var: Any, eps: float) -> tuple[Array, Array]:
    r"""Mean and mean square of the normalised values of a minibatch, in closed form.

    :math:`\frac1m \sum_i \hat x_i = 0` and
    :math:`\frac1m \sum_i \hat x_i^2 = \sigma^2_B / (\sigma^2_B + \epsilon)`. The paper has 1 for
    the second, "if we neglect eps"; the factor is derived here.

    Parameters
    ----------
    var : array_like, (features,)
        Biased variance of the minibatch, at least 0.
    eps : float
        Above 0.

    Returns
    -------
    mean, mean_square : ndarray, (features,)
        The second in [0, 1].
    """
    var = read.array("var", var, "features")
    var = read.variances("var", var, len(var))
    return np.zeros_like(var), var / (var + read.positive("eps", eps))


def checked(cache: Any) -> Cache:
    """Return a cache that a forward pass has made, or say what was found in its place."""
    if not isinstance(cache, Cache):
        raise BnbookError(
            f"cache must be a Cache, as the forward pass returns, found {type(cache).__name__}."
        )
    return cache
