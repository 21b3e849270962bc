r"""Algorithm 1 in SymPy, differentiated, against the six backward equations.

The four lines stand here as expressions in symbols :math:`x_1 \dots x_m`, gamma, beta and eps, the
loss as :math:`\sum_i dy_i\, y_i` with symbols dy: to first order every loss is of this form. Its
derivatives are SymPy's. The equations are written out beside it, and each difference is brought to
a normal form in which it is zero if and only if the identity holds.

Source: Ioffe & Szegedy 2015, section 3. That a term of the third equation is zero, the one-line
form and the factor var / (var + eps) are derived here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import pandas as pd
import sympy
from sympy import Expr, Rational, Symbol

from bnbook.errors import BnbookError

ROOT = Symbol("s", positive=True)
"""Stands for sqrt(var + eps) in normal forms."""


@dataclass(frozen=True)
class Transform:
    """Algorithm 1 over m symbols.

    Attributes
    ----------
    x, dy : tuple of Symbol
        Values, and gradient of the loss with respect to y.
    gamma, beta, eps : Symbol
        Scale, shift; the constant inside the root, positive.
    mu, var : Expr
        Lines 1 and 2.
    xhat, y : tuple of Expr
        Lines 3 and 4.
    """

    x: tuple[Symbol, ...]
    dy: tuple[Symbol, ...]
    gamma: Symbol
    beta: Symbol
    eps: Symbol
    mu: Expr
    var: Expr
    xhat: tuple[Expr, ...]
    y: tuple[Expr, ...]

    @property
    def m(self) -> int:
        """Number of values."""
        return len(self.x)

    @property
    def loss(self) -> Expr:
        """The sum of dy y."""
        return _sum(d * y for d, y in zip(self.dy, self.y, strict=True))


@dataclass(frozen=True)
class Backward:
    """Gradients, each a formula in the letters of a `Transform`.

    Attributes
    ----------
    dxhat, dx : tuple of Expr
        Equations 1 and 4.
    dvar, dgamma, dbeta : Expr
        Equations 2, 5 and 6.
    dmu : tuple of Expr
        Both terms of equation 3.
    """

    dxhat: tuple[Expr, ...]
    dvar: Expr
    dmu: tuple[Expr, Expr]
    dx: tuple[Expr, ...]
    dgamma: Expr
    dbeta: Expr


def transform(m: int) -> Transform:
    """Write Algorithm 1 over symbols.

    Parameters
    ----------
    m : int
        Number of values, 2 or more; the expressions grow as its square.

    Raises
    ------
    BnbookError
        When m is no whole number above 1.
    """
    if not isinstance(m, int) or isinstance(m, bool) or m < 2:
        raise BnbookError(f"m must be a whole number, at least 2, found {m!r}.")
    x = sympy.symbols(f"x1:{m + 1}", real=True)
    dy = sympy.symbols(f"dy1:{m + 1}", real=True)
    gamma, beta = sympy.symbols("gamma beta", real=True)
    eps = Symbol("eps", positive=True)
    mu = _sum(x) / m
    var = _sum((each - mu) ** 2 for each in x) / m
    xhat = tuple((each - mu) / sympy.sqrt(var + eps) for each in x)
    y = tuple(gamma * each + beta for each in xhat)
    return Transform(x, dy, gamma, beta, eps, mu, var, xhat, y)


def six_equations(t: Transform) -> Backward:
    """Write the six backward equations as the paper has them.

    Parameters
    ----------
    t : Transform
        Whose letters they use.
    """
    m, away = t.m, [each - t.mu for each in t.x]
    dxhat = tuple(d * t.gamma for d in t.dy)
    dvar = _sum(
        d * c * Rational(-1, 2) * (t.var + t.eps) ** Rational(-3, 2)
        for d, c in zip(dxhat, away, strict=True)
    )
    first = _sum(d * -1 / sympy.sqrt(t.var + t.eps) for d in dxhat)
    second = dvar * _sum(-2 * c for c in away) / m
    dx = tuple(
        d / sympy.sqrt(t.var + t.eps) + dvar * 2 * c / m + (first + second) / m
        for d, c in zip(dxhat, away, strict=True)
    )
    dgamma = _sum(d * h for d, h in zip(t.dy, t.xhat, strict=True))
    return Backward(dxhat, dvar, (first, second), dx, dgamma, _sum(t.dy))


def one_line(t: Transform) -> tuple[Expr, ...]:
    r"""Write dx in one line; see `bnbook.formulas.batch_norm_backward_simplified`.

    Parameters
    ----------
    t : Transform
        Whose letters it uses.

    Returns
    -------
    tuple of Expr
        :math:`dx_i = \gamma/\sqrt{\sigma^2 + \epsilon}\,
        (dy_i - \overline{dy} - \hat x_i\, \overline{dy\, \hat x})`.
    """
    mean = _sum(t.dy) / t.m
    along = _sum(d * h for d, h in zip(t.dy, t.xhat, strict=True)) / t.m
    scale = t.gamma / sympy.sqrt(t.var + t.eps)
    return tuple(scale * (d - mean - h * along) for d, h in zip(t.dy, t.xhat, strict=True))


def residual(t: Transform, difference: Expr) -> Expr:
    """Bring an expression to a normal form: zero if and only if the expression is.

    Every root is a power of s = sqrt(var + eps), and s squared is a polynomial in x and eps. So the
    expression is (A + B s) / s^k with polynomials A and B, which vanish with it: s itself is no
    polynomial.

    Parameters
    ----------
    t : Transform
        Whose letters the expression has.
    difference : Expr
        A sum of products of x, dy, gamma, beta, eps and half powers of var + eps.

    Returns
    -------
    Expr
        The numerator A + B s.
    """
    inside = t.var + t.eps
    rooted = difference.replace(
        lambda e: e.is_Pow and e.base == inside and (2 * e.exp).is_Integer,
        lambda e: ROOT ** (2 * e.exp),
    )
    numerator = sympy.expand(rooted)
    least = min(term.as_coeff_exponent(ROOT)[1] for term in numerator.as_ordered_terms())
    polynomial = sympy.Poly(sympy.expand(numerator * ROOT ** max(0, -int(least))), ROOT)
    reduced = _sum(
        coefficient * inside ** (power // 2) * ROOT ** (power % 2)
        for (power,), coefficient in polynomial.terms()
    )
    return sympy.expand(reduced)


def identities(
    m: int, equations: Callable[[Transform], Backward] = six_equations
) -> dict[str, Expr]:
    """Return what is left of every identity for one m.

    Parameters
    ----------
    m : int
        Number of values.
    equations : callable
        Gives the equations to be checked; the paper's unless told otherwise.

    Returns
    -------
    dict
        Identity, in words -> residual, 0 where it holds.
    """
    t = transform(m)
    checked = {**_moments(t), **_equations(t, equations(t)), **_consequences(t, equations(t))}
    return {
        name: _sum(residual(t, difference) ** 2 for difference in differences)
        for name, differences in checked.items()
    }


def table(sizes: Iterable[int] = (2, 3, 4)) -> pd.DataFrame:
    """Check every identity for several m.

    Parameters
    ----------
    sizes : iterable of int
        The m.

    Returns
    -------
    pandas.DataFrame
        Index identity; one column for each m: the residual, as text.
    """
    return pd.DataFrame(
        {f"m = {m}": {name: str(left) for name, left in identities(m).items()} for m in sizes}
    ).rename_axis("identity")


def _moments(t: Transform) -> dict[str, list[Expr]]:
    squares = _sum(h**2 for h in t.xhat) / t.m
    restored = {t.gamma: sympy.sqrt(t.var + t.eps), t.beta: t.mu}
    return {
        "the normalised values sum to 0": [_sum(t.xhat)],
        "their mean square is var / (var + eps)": [squares - t.var / (t.var + t.eps)],
        "gamma = sqrt(var + eps), beta = mu give y = x": [
            y.subs(restored) - x for y, x in zip(t.y, t.x, strict=True)
        ],
    }


def _equations(t: Transform, found: Backward) -> dict[str, list[Expr]]:
    """Each equation against the derivative of all that follows it in the algorithm."""
    hats = sympy.symbols(f"h1:{t.m + 1}", real=True)
    mu, var = Symbol("mu", real=True), Symbol("var", positive=True)
    after_xhat = _sum(d * (t.gamma * h + t.beta) for d, h in zip(t.dy, hats, strict=True))
    held = [(x - mu) / sympy.sqrt(var + t.eps) for x in t.x]
    after_var = after_xhat.subs(dict(zip(hats, held, strict=True)))
    after_mu = after_var.subs(var, _sum((x - mu) ** 2 for x in t.x) / t.m)
    dvar = sympy.diff(after_var, var).subs({var: t.var}).subs({mu: t.mu})
    dmu = sympy.diff(after_mu, mu).subs({mu: t.mu})
    return {
        "equation 1, d xhat": [
            e - sympy.diff(after_xhat, h) for e, h in zip(found.dxhat, hats, strict=True)
        ],
        "equation 2, d var": [found.dvar - dvar],
        "equation 3, d mu": [found.dmu[0] + found.dmu[1] - dmu],
        "equation 4, dx": [e - sympy.diff(t.loss, x) for e, x in zip(found.dx, t.x, strict=True)],
        "equation 5, d gamma": [found.dgamma - sympy.diff(t.loss, t.gamma)],
        "equation 6, d beta": [found.dbeta - sympy.diff(t.loss, t.beta)],
    }


def _consequences(t: Transform, found: Backward) -> dict[str, list[Expr]]:
    ones: dict[Any, Any] = dict.fromkeys(t.dy, 1)
    squares: dict[Any, Any] = dict(zip(t.dy, (2 * y for y in t.y), strict=True))
    through_squares = [
        2 * t.gamma**2 * t.eps * h / (t.var + t.eps) ** Rational(3, 2) for h in t.xhat
    ]
    return {
        "the second term of equation 3 is 0": [found.dmu[1]],
        "the one line is equation 4": [
            line - e for line, e in zip(one_line(t), found.dx, strict=True)
        ],
        "dx sums to 0": [_sum(found.dx)],
        "dx of a summed output is 0": [e.subs(ones) for e in found.dx],
        "dx of summed squares is of order eps": [
            e.subs(squares) - small for e, small in zip(found.dx, through_squares, strict=True)
        ],
    }


def _sum(terms: Iterable[Any]) -> Expr:
    return sympy.Add(*terms)
