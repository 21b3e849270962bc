"""BN of feature maps: Algorithm 1 over all examples and positions.

Source: Ioffe & Szegedy 2015, section 3.2, seen in the paper.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from bnbook.errors import BnbookError
from bnbook.formulas import _arguments as read
from bnbook.formulas._arguments import Array
from bnbook.formulas.backward import batch_norm_backward
from bnbook.formulas.transform import Cache, batch_norm_forward, checked


def effective_size(m: int, p: int, q: int) -> int:
    """Section 3.2: a feature map of p x q positions has m' = m p q values in a minibatch of m.

    Parameters
    ----------
    m, p, q : int
        Examples, rows and columns, each at least 1.
    """
    return read.count("m", m, 1) * read.count("p", p, 1) * read.count("q", q, 1)


def conv_batch_norm_forward(x: Any, gamma: Any, beta: Any, eps: float) -> tuple[Array, Cache]:
    """Section 3.2: Algorithm 1 over the m' = m p q values of each feature map.

    Parameters
    ----------
    x : array_like, (m, features, p, q)
        The minibatch, m p q >= 2.
    gamma, beta : array_like, (features,)
        One pair for each feature map, not for each position.
    eps : float
        Above 0.

    Returns
    -------
    y : ndarray, (m, features, p, q)
    cache : Cache
        With rows (m', features), for `conv_batch_norm_backward`.
    """
    x = read.array("x", x, "m, features, p, q")
    if x[:, 0].size < 2:
        raise BnbookError(
            "x must have m' = m*p*q >= 2 values of each feature, for one value has no variance;"
            f" found m' = 1, shape {x.shape}."
        )
    y, cache = batch_norm_forward(_rows(x), gamma, beta, eps)
    return _maps(y, x.shape), cache


def conv_batch_norm_backward(dy: Any, cache: Cache) -> tuple[Array, Array, Array]:
    """Section 3.2: the six backward equations over the m' = m p q values of each feature map.

    Parameters
    ----------
    dy : array_like, (m, features, p, q)
        Gradient of the loss with respect to y.
    cache : Cache
        From `conv_batch_norm_forward`.

    Returns
    -------
    dx : ndarray, (m, features, p, q)
    dgamma, dbeta : ndarray, (features,)
    """
    dy = read.array("dy", dy, "m, features, p, q")
    if _rows(dy).shape != checked(cache).x.shape:
        raise BnbookError(
            f"dy must have the shape of y, {cache.x.shape[0]} values of each of"
            f" {cache.x.shape[1]} features, found shape {dy.shape}."
        )
    dx, dgamma, dbeta = batch_norm_backward(_rows(dy), cache)
    return _maps(dx, dy.shape), dgamma, dbeta


def _rows(x: Array) -> Array:
    """(m, features, p, q) -> (m p q, features)."""
    return np.moveaxis(x, 1, -1).reshape(-1, x.shape[1])


def _maps(rows: Array, shape: tuple[int, ...]) -> Array:
    """(m p q, features) -> (m, features, p, q)."""
    return np.moveaxis(rows.reshape(shape[0], *shape[2:], shape[1]), -1, 1)
