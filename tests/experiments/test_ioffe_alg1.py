"""Algorithm 1's experiment: its references against closed forms, and claims that can turn red."""

from fractions import Fraction

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bnbook import formulas
from bnbook.experiments.ioffe_alg1 import claims as analysis
from bnbook.experiments.ioffe_alg1 import experiment as alg1
from bnbook.experiments.ioffe_alg1.experiment import EXPERIMENT as ALG1
from bnbook.sweeps import sweep
from tests import rounding
from tests.judging import criterion

SMALL = {"seeds": (0, 1), "sizes": (2, 10), "scales": (1e-6, 1.0, 1e6), "means": (0.0, 1e6)}
"""Changes to the quick profile that make it run in a moment."""
IMPOSSIBLE = [
    ({"sizes": (1, 3)}, r"sizes and trap_size must be at least 2, found \(1, 3\), 60"),
    ({"scales": (0.0, 1.0)}, "scales and eps must be above 0"),
    ({"eps": -1.0}, "scales and eps must be above 0"),
]
MOMENTS, BACKWARD = ALG1.claims


def table(**changes):
    return ALG1.run(ALG1.configure("quick", **{**SMALL, **changes}))


def test_both_claims_hold_to_rounding(small_table):
    for claim in ALG1.claims:
        judgement = criterion(claim, small_table)
        assert judgement.verdict == "reproduced"
        assert 0 < judgement.value < 1e-13
        assert judgement.cases == 2 * 2 * (3 * 2 + 3)


def test_every_case_has_every_check(small_table):
    counts = small_table.groupby("check").size()
    assert set(counts.index) == {*analysis.CHECKS, *analysis.THROUGH}
    assert set(counts[list(analysis.CHECKS)]) == {36}
    assert set(counts[list(analysis.THROUGH)]) == {14}


def broken(function):
    """Run the experiment with `batch_norm_backward` replaced."""

    def wrapped(monkeypatch):
        with monkeypatch.context() as patch:
            patch.setattr(formulas, "batch_norm_backward", function)
            return table(scales=(1.0,), means=(0.0,))

    return wrapped


def without_the_variance(dy, cache):
    scale = cache.gamma / np.sqrt(cache.var + cache.eps)
    return scale * (dy - dy.mean(0)), (dy * cache.xhat).sum(0), dy.sum(0)


def detached(dy, cache):
    scale = cache.gamma / np.sqrt(cache.var + cache.eps)
    return scale * dy, (dy * cache.xhat).sum(0), dy.sum(0)


def slightly_off(dy, cache):
    dx, dgamma, dbeta = (
        formulas.batch_norm_backward_simplified(dy, cache),
        (dy * cache.xhat).sum(0),
        dy.sum(0),
    )
    return dx, dgamma * (1 + 1e-9), dbeta


def undefined(dy, cache):
    return np.full_like(dy, np.nan), dy.sum(0), dy.sum(0)


@pytest.mark.parametrize("function", [without_the_variance, detached, slightly_off, undefined])
def test_the_claim_turns_red_when_an_equation_is_wrong(function, monkeypatch):
    found = broken(function)(monkeypatch)
    assert criterion(BACKWARD, found).verdict != "reproduced"
    if function is not undefined:
        assert criterion(BACKWARD, found).verdict == "not reproduced"
    assert criterion(MOMENTS, found).verdict == "reproduced"


def unbiased(x, gamma, beta, eps):
    mu, var = x.mean(0), x.var(0, ddof=1)
    xhat = (x - mu) / np.sqrt(var + eps)
    return gamma * xhat + beta, formulas.Cache(x, xhat, mu, var, gamma, eps)


def outside_the_root(x, gamma, beta, eps):
    mu, var = x.mean(0), x.var(0)
    xhat = (x - mu) / (np.sqrt(var) + eps)
    return gamma * xhat + beta, formulas.Cache(x, xhat, mu, var, gamma, eps)


def pooled(x, gamma, beta, eps):
    mu, var = np.full(x.shape[1], x.mean()), np.full(x.shape[1], x.var())
    xhat = (x - mu) / np.sqrt(var + eps)
    return gamma * xhat + beta, formulas.Cache(x, xhat, mu, var, gamma, eps)


@pytest.mark.parametrize("function", [unbiased, outside_the_root, pooled])
def test_the_moments_turn_red_when_the_transform_is_wrong(function, monkeypatch):
    monkeypatch.setattr(formulas, "batch_norm_forward", function)
    assert criterion(MOMENTS, table(means=(0.0,))).verdict == "not reproduced"


def test_the_trap(small_table):
    found = analysis.trap(small_table)
    assert found.index[0] == analysis.TRUE
    assert (found.loc[analysis.TRUE] < 1e-13).all()
    wrong = found.drop(index=analysis.TRUE) < analysis.CUSTOMARY
    assert wrong["sum"].to_dict() == {
        "three times dx": True,
        "minus dx": True,
        "zero": True,
        "variance held fixed": True,
        "mean held fixed": False,
        "both held fixed": False,
    }
    assert wrong["sum of squares"].sum() == 3
    assert not wrong["random cotangent"].any()


def test_facts(small_table):
    facts = ALG1.facts(small_table)
    values = {name: fact["value"] for name, fact in facts.items()}
    assert values["cases"] == 36
    assert (values["smallest_m"], values["largest_m"]) == (2, 10)
    assert (values["wrong"], values["wrong_pass_sum"]) == (6, 4)
    assert values["wrong_pass_cotangent"] == 0
    assert 0 < values["backward_roundings"] < 100
    # Mean square 1 / (1 + eps) at a variance near 1.
    assert 1 < values["ordinary_shortfall"] < 100


@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=2, max_size=12))
def test_the_exact_variance_is_that_of_rational_numbers(values):
    exact = [Fraction(value) for value in values]
    mean = sum(exact) / len(exact)
    expected = sum((value - mean) ** 2 for value in exact) / len(exact)
    assert alg1._exact_variance(np.array(values)) == expected


def test_the_complex_step_in_closed_form():
    # Two examples: dx = +-gamma (dy1 - dy2) / 2 * eps / s^3 with d = 1, s^2 = 1 + eps.
    x, dy = np.array([[3.0], [1.0]]), np.array([[0.4], [-1.1]])
    found = alg1._by_complex_step(x, np.array([2.0]), np.array([0.5]), dy, 0.25)
    other = alg1._by_autograd(x, np.array([2.0]), np.array([0.5]), dy, 0.25)
    expected = 2 * 1.5 / 2 * 0.25 / 1.25**1.5
    for gradients in (found, other):
        # Terms of size 3 / s, and a few operations on each.
        for name, value in (
            ("dx", [[expected], [-expected]]), ("dgamma", [1.5 / 1.25**0.5]), ("dbeta", [-0.7]),
        ):  # fmt: skip
            rounding.assert_close(gradients[name], np.array(value), terms=3, roundings=16)


def test_central_differences_agree():
    """A fourth derivation, with its own and larger error."""
    rng = np.random.default_rng(0)
    x, dy, way = rng.normal(size=(3, 20, 3))
    gamma, beta = rng.normal(size=(2, 3))
    _, cache = formulas.batch_norm_forward(x, gamma, beta, 1e-5)
    dx, _, _ = formulas.batch_norm_backward(dy, cache)

    def loss(x):
        return (dy * formulas.batch_norm_forward(x, gamma, beta, 1e-5)[0]).sum()

    slope = (loss(x + 1e-5 * way) - loss(x - 1e-5 * way)) / 2e-5
    assert (dx * way).sum() == pytest.approx(slope, rel=1e-8)


@settings(max_examples=50, deadline=None)
@given(
    m=st.integers(2, 40),
    log_scale=st.floats(-6, 6),
    mean=st.floats(-1e3, 1e3),
    seed=st.integers(0, 2**31),
)
def test_gamma_and_beta_restore_the_identity_over_scales(m, log_scale, mean, seed):
    x = 10**log_scale * (np.random.default_rng(seed).normal(size=(m, 3)) + mean)
    mu = formulas.minibatch_mean(x)
    gamma = np.sqrt(formulas.minibatch_variance(x, mu) + 1e-5)
    y, _ = formulas.batch_norm_forward(x, gamma, mu, 1e-5)
    np.testing.assert_allclose(y, x, rtol=0, atol=1e-13 * np.abs(x).max())


def test_a_sweep_gives_the_same_table(small, small_table, tmp_path):
    swept = sweep.sweep(ALG1, small, cache=tmp_path, quiet=True)
    pd.testing.assert_frame_equal(swept.table, small_table, check_dtype=False)
    other = ALG1.run(ALG1.configure("quick", seed=1, **SMALL))
    pd.testing.assert_frame_equal(
        other[other["seed"] == 1].reset_index(drop=True),
        small_table[small_table["seed"] == 1].reset_index(drop=True),
    )
