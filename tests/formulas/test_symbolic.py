"""The symbolic identities hold, agree with the formulas in numbers, and wrong ones do not hold."""

from dataclasses import replace

import numpy as np
import pytest
import sympy
from sympy import Rational

from bnbook import formulas
from bnbook.errors import BnbookError
from bnbook.formulas import symbolic


@pytest.mark.parametrize("m", [2, 3, 4])
def test_every_identity_holds_exactly(m):
    left = symbolic.identities(m)
    assert len(left) == 14
    assert all(value == 0 for value in left.values()), left


def unbiased(t):
    """The second equation with m - 1 in the place of m, as if the variance were unbiased."""
    six = symbolic.six_equations(t)
    return replace(six, dvar=six.dvar * Rational(t.m - 1, t.m))


def without_the_mean(t):
    """The fourth equation without its third term."""
    six = symbolic.six_equations(t)
    share = sum(six.dmu) / t.m
    return replace(six, dx=tuple(each - share for each in six.dx))


def without_the_variance(t):
    """The fourth equation without its second term."""
    six = symbolic.six_equations(t)
    shares = [six.dvar * 2 * (x - t.mu) / t.m for x in t.x]
    return replace(six, dx=tuple(e - share for e, share in zip(six.dx, shares, strict=True)))


def eps_outside(t):
    """The fifth equation with eps outside the root."""
    xhat = [(x - t.mu) / (sympy.sqrt(t.var) + t.eps) for x in t.x]
    wrong = sum(d * h for d, h in zip(t.dy, xhat, strict=True))
    return replace(symbolic.six_equations(t), dgamma=wrong)


@pytest.mark.parametrize(
    ("wrong", "broken"),
    [
        (unbiased, {"equation 2, d var"}),
        (eps_outside, {"equation 5, d gamma"}),
        (
            without_the_mean,
            {"equation 4, dx", "the one line is equation 4", "dx sums to 0",
             "dx of a summed output is 0", "dx of summed squares is of order eps"},
        ),
        (
            without_the_variance,
            {"equation 4, dx", "the one line is equation 4",
             "dx of summed squares is of order eps"},
        ),
    ],
)  # fmt: skip
def test_a_wrong_equation_leaves_a_residual(wrong, broken):
    left = symbolic.identities(3, wrong)
    assert {name for name, value in left.items() if value != 0} == broken


def test_the_residual_is_zero_only_for_zero():
    t = symbolic.transform(2)
    root = sympy.sqrt(t.var + t.eps)
    assert symbolic.residual(t, root**2 - t.var - t.eps) == 0
    assert symbolic.residual(t, root / (t.var + t.eps) - 1 / root) == 0
    assert symbolic.residual(t, root - 1) != 0
    assert symbolic.residual(t, t.x[0] / root**3 - t.x[0] / root) != 0
    assert symbolic.residual(t, sympy.Integer(0)) == 0


@pytest.mark.parametrize("m", [2, 3, 4])
def test_the_expressions_are_the_formulas(m):
    rng = np.random.default_rng(m)
    x, dy = rng.normal(size=(2, m, 1)) + 1
    t = symbolic.transform(m)
    six = symbolic.six_equations(t)
    letters = [*t.x, *t.dy, t.gamma, t.beta, t.eps]
    numbers = [*x[:, 0], *dy[:, 0], 1.5, -0.5, 0.2]
    y, *dx = (
        sympy.lambdify(letters, expressions)(*numbers)
        for expressions in (t.y, six.dx, symbolic.one_line(t))
    )
    dgamma, dbeta = sympy.lambdify(letters, [six.dgamma, six.dbeta])(*numbers)
    expected, cache = formulas.batch_norm_forward(x, np.array([1.5]), np.array([-0.5]), 0.2)
    np.testing.assert_allclose(y, expected[:, 0], rtol=1e-13)
    found = formulas.batch_norm_backward(dy, cache)
    for each in dx:
        np.testing.assert_allclose(each, found[0][:, 0], rtol=1e-9, atol=1e-14)
    np.testing.assert_allclose([dgamma, dbeta], np.ravel(found[1:]), rtol=1e-12)


def test_the_table():
    table = symbolic.table((2,))
    assert list(table.columns) == ["m = 2"]
    assert set(table["m = 2"]) == {"0"}
    assert "the second term of equation 3 is 0" in table.index


@pytest.mark.parametrize("m", [1, 0, 2.0, True, "3"])
def test_m_is_checked(m):
    with pytest.raises(BnbookError, match="m must be a whole number, at least 2, found"):
        symbolic.transform(m)
