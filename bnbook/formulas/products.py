r"""Products of Gaussian random matrices: the Fuss-Catalan law (Bjorck et al. 2018, section 4).

Let :math:`X = X_1 X_2 \cdots X_M` with independent N x N Gaussian matrices of mean 0 and variance
:math:`\sigma_i^2 / N`. As N grows, the eigenvalues of :math:`X X^T`, which are the *squared*
singular values of X, in units of :math:`\prod_i \sigma_i^2`, follow the law whose density
:math:`\rho_M(x)` is here. What stands in the paper is as recalled (not verified there); tests hold
the law against its moments and other closed forms.

x is written through an angle :math:`0 < \varphi < \pi / (M + 1)`, falling from the upper edge to 0.
Near x = 0, where the density is infinite, everything is computed from
:math:`\psi = \pi / (M + 1) - \varphi` instead, so that small values keep their digits.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from bnbook.errors import BnbookError
from bnbook.formulas._arguments import Array, array, count

_HALVINGS = 80  # of an interval at most 744 wide: to the last digit of a float64


def fuss_catalan_edge(M: int) -> float:
    r"""Upper edge of the support, :math:`(M + 1)^{M + 1} / M^M`.

    Source: Bjorck et al. 2018, section 4, theorem 1.

    Parameters
    ----------
    M : int
        Matrices in the product, at least 1.

    Raises
    ------
    BnbookError
        When M is no whole number or below 1.
    """
    M = count("M", M, 1)
    return (M + 1) * (1 + 1 / M) ** M


def fuss_catalan_moment(M: int, k: int) -> int:
    r"""The k-th moment of the law, the Fuss-Catalan number :math:`\binom{(M+1)k}{k} / (Mk + 1)`.

    Source: Penson & Zyczkowski 2011, equation 1.

    Parameters
    ----------
    M : int
        Matrices in the product, at least 1.
    k : int
        At least 0.

    Returns
    -------
    int
        1 for k = 0 (the mass) and k = 1 (the mean).

    Raises
    ------
    BnbookError
        When an argument is no whole number or too small.
    """
    M, k = count("M", M, 1), count("k", k, 0)
    return math.comb((M + 1) * k, k) // (M * k + 1)


def fuss_catalan_x(phi: Any, M: int) -> Array:
    r"""The value x that belongs to an angle.

    .. math::
        x(\varphi) = \frac{\sin^{M+1}((M+1)\varphi)}{\sin\varphi\, \sin^M(M\varphi)}

    Source: Bjorck et al. 2018, section 4, theorem 1.

    Parameters
    ----------
    phi : array_like of float, (n,)
        In (0, pi/(M+1)).
    M : int
        Matrices in the product, at least 1.

    Returns
    -------
    ndarray, (n,)
        In (0, `fuss_catalan_edge`), falling in `phi`.

    Raises
    ------
    BnbookError
        When an argument is out of range.
    """
    M = count("M", M, 1)
    phi = _angles("phi", phi, M)
    return np.exp(_log_x(phi, np.pi / (M + 1) - phi, M))


def fuss_catalan_phi(x: Any, M: int) -> Array:
    """The angle that belongs to a value: the inverse of `fuss_catalan_x`.

    Parameters
    ----------
    x : array_like of float, (n,)
        In (0, `fuss_catalan_edge`).
    M : int
        Matrices in the product, at least 1.

    Returns
    -------
    ndarray, (n,)
        In (0, pi/(M+1)).

    Raises
    ------
    BnbookError
        When an argument is out of range.
    """
    M = count("M", M, 1)
    found = array("x", x, "n")
    _within("x", found, fuss_catalan_edge(M))
    return _both_angles(found, M)[0]


def fuss_catalan_density_phi(phi: Any, M: int) -> Array:
    r"""The density at the value that belongs to an angle, as the theorem writes it.

    .. math::
        \rho_M(x(\varphi)) = \frac{1}{\pi x}\,
            \frac{\sin((M+1)\varphi)}{\sin(M\varphi)}\, \sin\varphi

    Source: Bjorck et al. 2018, section 4, theorem 1.

    Parameters
    ----------
    phi : array_like of float, (n,)
        In (0, pi/(M+1)).
    M : int
        Matrices in the product, at least 1.

    Returns
    -------
    ndarray, (n,)

    Raises
    ------
    BnbookError
        When an argument is out of range.
    """
    x = fuss_catalan_x(phi, M)
    phi = np.asarray(phi, dtype=float)
    density: Array = np.sin((M + 1) * phi) / np.sin(M * phi) * np.sin(phi) / (np.pi * x)
    return density


def fuss_catalan_density_phi_simplified(phi: Any, M: int) -> Array:
    r"""The same density with x inserted.

    .. math::
        \rho_M(x(\varphi)) = \frac{\sin^2\varphi\, \sin^{M-1}(M\varphi)}{\pi \sin^M((M+1)\varphi)}

    Parameters
    ----------
    phi : array_like of float, (n,)
        In (0, pi/(M+1)).
    M : int
        Matrices in the product, at least 1.

    Returns
    -------
    ndarray, (n,)

    Raises
    ------
    BnbookError
        When an argument is out of range.
    """
    M = count("M", M, 1)
    phi = _angles("phi", phi, M)
    return _density(phi, np.pi / (M + 1) - phi, M)


def fuss_catalan_density(x: Any, M: int) -> Array:
    r"""The density :math:`\rho_M(x)` of the squared singular values.

    Source: Bjorck et al. 2018, section 4, theorem 1.

    Parameters
    ----------
    x : array_like of float, (n,)
        Squared singular values, in units of the product of the variances.
    M : int
        Matrices in the product, at least 1.

    Returns
    -------
    ndarray, (n,)
        0 outside the support, infinite at x = 0.

    Raises
    ------
    BnbookError
        When x is not finite or M is out of range.
    """
    M = count("M", M, 1)
    found = array("x", x, "n")
    density = np.where(found == 0, np.inf, 0.0)
    inside = (found > 0) & (found < fuss_catalan_edge(M))
    density[inside] = _density(*_both_angles(found[inside], M), M)
    return density


def fuss_catalan_cdf(x: Any, M: int) -> Array:
    r"""The share of the law at or below x, in closed form.

    .. math::
        F_M(x(\varphi)) = 1 - \frac1\pi \left[ (M+1)\varphi
            - M\, \frac{\sin\varphi\, \sin((M+1)\varphi)}{\sin(M\varphi)} \right]

    With :math:`w = z G(z)` and :math:`z = w^{M+1} / (w - 1)` the integral of the Stieltjes
    transform G is :math:`M w - \log(w - 1)`; its imaginary part at the support is the bracket.

    Parameters
    ----------
    x : array_like of float, (n,)
        Squared singular values, in units of the product of the variances.
    M : int
        Matrices in the product, at least 1.

    Returns
    -------
    ndarray, (n,)
        In [0, 1]; of small x to full relative accuracy.

    Raises
    ------
    BnbookError
        When x is not finite or M is out of range.
    """
    M = count("M", M, 1)
    found = array("x", x, "n")
    edge = fuss_catalan_edge(M)
    share = (found >= edge).astype(float)
    inside = (found > 0) & (found < edge)
    share[inside] = _share_below(*_both_angles(found[inside], M), M)
    return share


def fuss_catalan_quantile(q: Any, M: int) -> Array:
    """The value that a share q of the law lies below: the inverse of `fuss_catalan_cdf`.

    Parameters
    ----------
    q : array_like of float, (n,)
        In [0, 1].
    M : int
        Matrices in the product, at least 1.

    Returns
    -------
    ndarray, (n,)

    Raises
    ------
    BnbookError
        When an argument is out of range.
    """
    M = count("M", M, 1)
    share = array("q", q, "n")
    if ((share < 0) | (share > 1)).any():
        raise BnbookError(f"q must lie in [0, 1], found {share.min()} to {share.max()}.")
    middle = np.array([np.pi / (2 * (M + 1))])
    phi, psi = _solve(_share_below, share, float(_share_below(middle, middle, M)[0]), M)
    with np.errstate(divide="ignore"):
        x = np.exp(_log_x(phi, psi, M))
    return np.where(share == 0, 0.0, np.where(share == 1, fuss_catalan_edge(M), x))


def singular_value_density(s: Any, M: int) -> Array:
    r"""The density :math:`2 s\, \rho_M(s^2)` of the singular values themselves.

    Parameters
    ----------
    s : array_like of float, (n,)
        Singular values, above 0, in units of the root of the product of the variances.
    M : int
        Matrices in the product, at least 1. For M = 1 it is the quarter circle.

    Returns
    -------
    ndarray, (n,)

    Raises
    ------
    BnbookError
        When an argument is out of range.
    """
    found = array("s", s, "n")
    _within("s", found, math.inf)
    return 2 * found * fuss_catalan_density(found**2, M)


def marchenko_pastur_density(x: Any) -> Array:
    r"""Density of the squared singular values of one square Gaussian matrix.

    .. math::
        \rho_1(x) = \frac{1}{2\pi} \sqrt{\frac{4 - x}{x}}, \qquad 0 < x < 4

    Source: Marchenko & Pastur 1967, for as many rows as columns.

    Parameters
    ----------
    x : array_like of float, (n,)
        Squared singular values, in units of the variance.

    Returns
    -------
    ndarray, (n,)
        0 outside the support, infinite at x = 0.

    Raises
    ------
    BnbookError
        When x is not finite.
    """
    found = array("x", x, "n")
    density = np.where(found == 0, np.inf, 0.0)
    inside = (found > 0) & (found < 4)
    density[inside] = np.sqrt((4 - found[inside]) / found[inside]) / (2 * np.pi)
    return density


def _angles(name: str, value: Any, M: int) -> Array:
    found = array(name, value, "n")
    _within(name, found, np.pi / (M + 1))
    return found


def _within(name: str, found: Array, top: float) -> None:
    if (found <= 0).any() or (found >= top).any():
        raise BnbookError(
            f"{name} must lie in (0, {top:.6g}), found {found.min()} to {found.max()}."
        )


def _sine(phi: Array, psi: Array, M: int) -> Array:
    """Compute sin((M+1) phi), equal to sin((M+1) psi), from the smaller angle."""
    found: Array = np.sin((M + 1) * np.minimum(phi, psi))
    return found


def _log_x(phi: Array, psi: Array, M: int) -> Array:
    top = (M + 1) * np.log(_sine(phi, psi, M))
    found: Array = top - np.log(np.sin(phi)) - M * np.log(np.sin(M * phi))
    return found


def _density(phi: Array, psi: Array, M: int) -> Array:
    found: Array = np.sin(phi) ** 2 / np.pi / _sine(phi, psi, M)
    return found * (np.sin(M * phi) / _sine(phi, psi, M)) ** (M - 1)


def _share_below(phi: Array, psi: Array, M: int) -> Array:
    bulge = M * np.sin(phi) * _sine(phi, psi, M) / np.sin(M * phi)
    found: Array = ((M + 1) * psi + bulge) / np.pi
    return found


def _both_angles(x: Array, M: int) -> tuple[Array, Array]:
    """Return phi and psi at values inside the support."""
    middle = np.array([np.pi / (2 * (M + 1))])
    return _solve(_log_x, np.log(x), float(_log_x(middle, middle, M)[0]), M)


def _solve(
    function: Callable[[Array, Array, int], Array], target: Array, at_middle: float, M: int
) -> tuple[Array, Array]:
    """Find phi and psi at which a function that rises in psi has given values, by bisection.

    The smaller of the two angles is the one that is searched, on a log scale, so that it has full
    relative accuracy.
    """
    total = np.pi / (M + 1)
    lower = target < at_middle
    low = np.full(target.shape, -744.0)
    high = np.full(target.shape, math.log(total / 2))
    for _ in range(_HALVINGS):
        log_small = (low + high) / 2
        small = np.exp(log_small)
        phi, psi = np.where(lower, total - small, small), np.where(lower, small, total - small)
        with np.errstate(divide="ignore"):
            beyond = (function(phi, psi, M) > target) == lower
        low, high = np.where(beyond, low, log_small), np.where(beyond, log_small, high)
    return phi, psi
