"""The largest stable rate, held against the map that it is derived from and against training."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bnbook.formulas.stability import largest_rate


@given(st.floats(1e-3, 1e6), st.floats(0, 0.99))
def test_a_rate_just_below_shrinks_and_one_just_above_grows(curvature, momentum):
    for factor, grows in ((0.99, False), (1.01, True)):
        rate = factor * largest_rate(curvature, momentum)
        heavy_ball = np.array(
            [[1 - rate * curvature, -rate * momentum], [curvature, momentum]]
        )  # of (w, v), v before the update
        scaled = np.array([[1, 0], [0, 1 / curvature]])
        radius = np.abs(np.linalg.eigvals(scaled @ heavy_ball @ np.linalg.inv(scaled))).max()
        assert (radius > 1) == grows


def test_a_softmax_without_a_certain_answer_is_safe_by_the_classifiers_bound():
    """With two classes at equal odds diag(p) - p p^T has the eigenvalue 1/2: the bound is met."""
    f = np.array([3.0, 4.0])
    p = np.array([0.5, 0.5])
    hessian = np.kron(np.diag(p) - np.outer(p, p), np.outer(f, f))
    top = np.linalg.eigvalsh(hessian)[-1]
    assert top == pytest.approx((f @ f) / 2)
    assert largest_rate(top, 0.9) == pytest.approx(4 * 1.9 / 25)


def test_nothing_that_curves_upwards_bounds_nothing():
    assert largest_rate(0.0, 0.9) == float("inf")
    assert largest_rate(-2.0) == float("inf")
