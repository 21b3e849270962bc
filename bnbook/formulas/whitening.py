r"""Full whitening, which section 2 describes and section 3 gives up for one variance a feature.

Source: Ioffe & Szegedy 2015, section 2: :math:`Cov[x] = E[x x^T] - E[x] E[x]^T` and the output
:math:`Cov[x]^{-1/2} (x - E[x])`, seen in the paper. Section 3 remarks that the covariance of a
minibatch is singular when m is less than the number of activations. The Cholesky variant and both
backward passes are derived here.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from bnbook.errors import BnbookError
from bnbook.formulas import _arguments as read
from bnbook.formulas._arguments import Array

METHODS = ("zca", "cholesky")


class WhiteningCache(NamedTuple):
    """What `whiten_backward` needs.

    Attributes
    ----------
    centred : ndarray, (m, d)
        x minus its mean.
    cov : ndarray, (d, d)
        Covariance, with eps on its diagonal.
    root : ndarray, (d, d)
        The whitening matrix V: y = V (x - E[x]).
    method : str
        "zca" or "cholesky".
    """

    centred: Array
    cov: Array
    root: Array
    method: str


def covariance(x: Any) -> Array:
    r"""Covariance of a minibatch, :math:`\frac1m \sum_i (x_i - \mu_B)(x_i - \mu_B)^T`.

    Biased, as the variance in Algorithm 1. Its rank is at most m - 1.

    Parameters
    ----------
    x : array_like, (m, d)
        The minibatch, m >= 2.

    Returns
    -------
    ndarray, (d, d)
    """
    x = read.minibatch("x", x, "m, d")
    centred = x - x.mean(0)
    cov: Array = centred.T @ centred / len(x)
    return cov


def covariance_rank(x: Any) -> int:
    """Rank of the covariance of a minibatch, at most min(m - 1, d).

    Found from the singular values of the centred minibatch, which is twice as sharp in digits as
    the covariance's own: those below max(m, d) roundings of the largest count as zero.

    Parameters
    ----------
    x : array_like, (m, d)
        The minibatch, m >= 2.
    """
    x = read.minibatch("x", x, "m, d")
    values = np.linalg.svd(x - x.mean(0), compute_uv=False)
    # The rounding of x itself, not only of what is left after the mean is gone.
    noise = max(x.shape) * np.finfo(float).eps * max(values[0], float(np.abs(x).max()))
    return int((values > noise).sum())


def whitening_matrix(cov: Any, method: str = "zca") -> Array:
    r"""V with :math:`V\, Cov\, V^T = I`.

    "zca" is the symmetric :math:`Cov^{-1/2}` of the paper; "cholesky" is :math:`L^{-1}` with
    :math:`Cov = L L^T`, cheaper and dependent on the order of the features. The two differ by a
    rotation.

    Parameters
    ----------
    cov : array_like, (d, d)
        Symmetric, positive definite.
    method : str
        "zca" or "cholesky".

    Returns
    -------
    ndarray, (d, d)

    Raises
    ------
    BnbookError
        When cov is not square, not symmetric or not positive definite beyond rounding.
    """
    cov = read.array("cov", cov, "d, d")
    if cov.shape[0] != cov.shape[1] or not np.allclose(cov, cov.T, rtol=1e-10, atol=0):
        raise BnbookError(f"cov must be a symmetric matrix (d, d), found shape {cov.shape}.")
    values, vectors = np.linalg.eigh(cov)
    rank = int((values > len(cov) * np.finfo(float).eps * values[-1]).sum())
    if rank < len(cov):
        raise _singular("cov", rank, len(cov))
    if _method(method) == "zca":
        root: Array = vectors / np.sqrt(values) @ vectors.T
        return root
    inverse: Array = np.linalg.inv(np.linalg.cholesky(cov))
    return inverse


def whiten_forward(
    x: Any, method: str = "zca", eps: float | None = None
) -> tuple[Array, WhiteningCache]:
    r"""Section 2: :math:`y_i = V (x_i - E[x])`, statistics over the minibatch.

    Parameters
    ----------
    x : array_like, (m, d)
        The minibatch, m >= 2.
    method : str
        "zca" or "cholesky"; see `whitening_matrix`.
    eps : float, optional
        Added to the covariance's diagonal, above 0; the paper has none. Without it the minibatch
        needs m > d.

    Returns
    -------
    y : ndarray, (m, d)
        Mean zero; covariance the identity, without eps.
    cache : WhiteningCache
        For `whiten_backward`.

    Raises
    ------
    BnbookError
        When the covariance is singular and eps was not given.
    """
    x = read.minibatch("x", x, "m, d")
    cov, rank = covariance(x), covariance_rank(x)
    if eps is not None:
        cov = cov + read.positive("eps", eps) * np.eye(len(cov))
    elif rank < x.shape[1]:
        raise _singular(f"the covariance of x, of shape {x.shape},", rank, x.shape[1])
    root, centred = whitening_matrix(cov, method), x - x.mean(0)
    return centred @ root.T, WhiteningCache(centred, cov, root, method)


def whiten_backward(dy: Any, cache: WhiteningCache) -> Array:
    r"""Gradient of the loss through `whiten_forward`, the statistics included.

    With :math:`dV = \sum_i dy_i (x_i - \mu)^T` and the gradient :math:`dC` of the covariance from
    it, :math:`dx_i = c_i - \bar c`, :math:`c_i = V^T dy_i + \frac1m (dC + dC^T)(x_i - \mu)`.

    For "zca", in the eigenvectors U of the covariance with eigenvalues :math:`\lambda`,
    :math:`(U^T dC\, U)_{kl} = - (U^T dV\, U)_{kl} / (\sqrt{\lambda_k \lambda_l}
    (\sqrt{\lambda_k} + \sqrt{\lambda_l}))`, finite when eigenvalues agree.
    For "cholesky", :math:`dC = - V^T\, \Phi(dV\, V^T)\, V`, with :math:`\Phi` the lower
    triangle, its diagonal halved.

    Parameters
    ----------
    dy : array_like, (m, d)
        Gradient of the loss with respect to y.
    cache : WhiteningCache
        From `whiten_forward`.

    Returns
    -------
    ndarray, (m, d)
    """
    if not isinstance(cache, WhiteningCache):
        raise BnbookError(
            "cache must be a WhiteningCache, as the forward pass returns, found"
            f" {type(cache).__name__}."
        )
    dy = read.shaped("dy", dy, cache.centred, "m, d")
    through = _through_zca if cache.method == "zca" else _through_cholesky
    dcov = through(dy.T @ cache.centred, cache)
    dcentred = dy @ cache.root + cache.centred @ (dcov + dcov.T) / len(dy)
    dx: Array = dcentred - dcentred.mean(0)
    return dx


def _through_zca(droot: Array, cache: WhiteningCache) -> Array:
    values, vectors = np.linalg.eigh(cache.cov)
    roots = np.sqrt(values)
    slopes = -1 / (np.outer(roots, roots) * np.add.outer(roots, roots))
    inner: Array = slopes * (vectors.T @ droot @ vectors)
    dcov: Array = vectors @ inner @ vectors.T
    return dcov


def _through_cholesky(droot: Array, cache: WhiteningCache) -> Array:
    # V C V^T = I: a change C' of C changes V by -Phi(V C' V^T) V.
    inner: Array = np.tril(droot @ cache.root.T)
    inner[np.diag_indices_from(inner)] /= 2
    dcov: Array = -cache.root.T @ inner @ cache.root
    return dcov


def _method(method: str) -> str:
    if method not in METHODS:
        raise BnbookError(f"method must be one of {', '.join(METHODS)}, found {method!r}.")
    return method


def _singular(what: str, rank: int, d: int) -> BnbookError:
    return BnbookError(
        f"{what} must have full rank d = {d} to be whitened, found rank {rank}. A minibatch of m"
        " examples gives at most m - 1: use more examples than features, or pass eps, which is"
        " added to the diagonal."
    )
