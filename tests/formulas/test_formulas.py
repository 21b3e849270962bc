"""The formulas against hand-worked values, complex steps, SymPy, autograd and torch's layers."""

import itertools
import math
import subprocess
import sys

import numpy as np
import pytest
import sympy
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import nn

from bnbook import formulas
from bnbook.errors import BnbookError
from bnbook.layers.norm import BatchNorm
from tests import rounding

EPS = 1e-5


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def batch(m=7, features=4, seed=0):
    """x of unequal scales and means, gamma, beta, and a random cotangent."""
    x = normal(m, features, seed=seed) * np.arange(1.0, features + 1) + 3
    gamma, beta = normal(2, features, seed=seed + 1)
    return x, gamma, beta, normal(m, features, seed=seed + 2)


def slope(function, x, direction, h=1e-6):
    """Central difference of a scalar function along a direction."""
    return (function(x + h * direction) - function(x - h * direction)) / (2 * h)


def complex_step(x, gamma, beta, eps):
    """Jacobian (output, input) of BN of one feature, from an own forward pass: no cancellation."""
    jacobian = np.empty((len(x), len(x)))
    for i in range(len(x)):
        z = x.astype(complex)
        z[i] += 1e-30j
        mu = sum(z) / len(z)
        var = sum((z - mu) ** 2) / len(z)
        jacobian[:, i] = (gamma * (z - mu) / np.sqrt(var + eps) + beta).imag / 1e-30
    return jacobian


# Algorithm 1


def test_the_four_lines_worked_out_by_hand():
    x = np.array([[-math.sqrt(3), 1.0], [math.sqrt(3), 4.0]])
    mu = formulas.minibatch_mean(x)
    var = formulas.minibatch_variance(x, mu)
    xhat = formulas.normalise(x, mu, var, 1.0)
    y = formulas.scale_and_shift(xhat, np.array([3.0, 2.0]), np.array([5.0, 0.0]))
    # Means 0 and 2.5; biased variances 3 and 2.25; roots 2 and sqrt(3.25).
    half, other = math.sqrt(3) / 2, 1.5 / math.sqrt(3.25)
    expected = np.array([[-half, -other], [half, other]])
    rounding.assert_close(mu, np.array([0, 2.5]), np.abs(x).mean(0), roundings=2)
    rounding.assert_close(var, np.array([3, 2.25]), terms=3, roundings=4)
    rounding.assert_close(xhat, expected, np.abs(expected), roundings=8)
    np.testing.assert_allclose(y, [[5 - 3 * half, -2 * other], [5 + 3 * half, 2 * other]])
    whole, _ = formulas.batch_norm_forward(x, np.array([3.0, 2.0]), np.array([5.0, 0.0]), 1.0)
    np.testing.assert_array_equal(whole, y)


def test_gamma_and_beta_can_undo_the_normalisation():
    x, *_ = batch()
    gamma, beta = np.sqrt(x.var(0) + EPS), x.mean(0)
    np.testing.assert_allclose(formulas.batch_norm_forward(x, gamma, beta, EPS)[0], x, rtol=1e-13)


def test_arguments_are_left_as_they_were():
    x, gamma, beta, dy = batch()
    before = [a.copy() for a in (x, gamma, beta, dy)]
    formulas.batch_norm_backward(dy, formulas.batch_norm_forward(x, gamma, beta, EPS)[1])
    for old, now in zip(before, (x, gamma, beta, dy), strict=True):
        np.testing.assert_array_equal(old, now)


@settings(max_examples=60, deadline=None)
@given(
    log_scale=st.floats(-6, 6),
    shift=st.floats(-3, 3),
    m=st.integers(2, 30),
    features=st.integers(1, 5),
    seed=st.integers(0, 2**31),
)
@example(log_scale=-6.0, shift=3.0, m=2, features=1, seed=0)
@example(log_scale=6.0, shift=-3.0, m=2, features=1, seed=0)
def test_moments_over_shapes_and_scales(log_scale, shift, m, features, seed):
    x = 10**log_scale * (normal(m, features, seed=seed) + shift)
    ones, zeros = np.ones(features), np.zeros(features)
    xhat, cache = formulas.batch_norm_forward(x, ones, zeros, EPS)
    mean, mean_square = formulas.normalised_moments(cache.var, EPS)
    np.testing.assert_allclose(xhat.mean(0), mean, atol=1e-10)
    np.testing.assert_allclose((xhat**2).mean(0), mean_square, rtol=1e-10)
    assert (mean_square <= 1).all()


@settings(max_examples=40, deadline=None)
@given(
    log_scale=st.floats(-6, 6),
    m=st.integers(2, 12),
    seed=st.integers(0, 2**31),
)
@example(log_scale=-6.0, m=2, seed=1)
@example(log_scale=6.0, m=2, seed=1)
def test_backward_against_the_complex_step_over_scales(log_scale, m, seed):
    x, dy = 10**log_scale * normal(m, 1, seed=seed), normal(m, 1, seed=seed + 1)
    gamma, beta = np.array([1.7]), np.array([-0.3])
    _, cache = formulas.batch_norm_forward(x, gamma, beta, EPS)
    jacobian = complex_step(x[:, 0], 1.7, -0.3, EPS)
    expected = dy[:, 0] @ jacobian
    # The terms of dx cancel: what is left is exact to roundings of the largest of them.
    size = 1e-12 * 1.7 * np.abs(dy).max() / np.sqrt(cache.var + EPS)
    dx, _, _ = formulas.batch_norm_backward(dy, cache)
    np.testing.assert_allclose(dx[:, 0], expected, rtol=0, atol=size[0])
    simplified = formulas.batch_norm_backward_simplified(dy, cache)
    np.testing.assert_allclose(simplified[:, 0], expected, rtol=0, atol=size[0])


@pytest.mark.parametrize("constant", [0.0, 1e-6, 0.1, 1e6])
def test_a_constant_feature_gives_beta_and_a_finite_gradient(constant):
    x, dy = np.full((5, 1), constant), normal(5, 1)
    y, cache = formulas.batch_norm_forward(x, np.array([2.0]), np.array([7.0]), EPS)
    np.testing.assert_allclose(y, 7, rtol=1e-7)
    dx, dgamma, _ = formulas.batch_norm_backward(dy, cache)
    np.testing.assert_allclose(dx, 2 / math.sqrt(EPS) * (dy - dy.mean(0)), rtol=1e-6)
    np.testing.assert_allclose(dgamma, 0, atol=1e-6)


@pytest.mark.parametrize("eps", [1.0, EPS, 1e-300])
def test_two_examples_in_closed_form(eps):
    # With d half the difference, xhat = +-d / s, s = sqrt(d^2 + eps), and d xhat / dd = eps / s^3:
    # without eps two examples always become +-1, and no gradient passes.
    x, dy = np.array([[3.0], [1.0]]), np.array([[0.4], [-1.1]])
    s = math.sqrt(1 + eps)
    y, cache = formulas.batch_norm_forward(x, np.array([2.0]), np.array([0.5]), eps)
    rounding.assert_close(y, np.array([[2 / s + 0.5], [-2 / s + 0.5]]), 2 / s + 0.5, roundings=8)
    dx, dgamma, dbeta = formulas.batch_norm_backward(dy, cache)
    expected = 2 * 1.5 / 2 * eps / s**3
    terms = rounding.gradient_terms(x, 2 * dy, np.array([s]))
    rounding.assert_close(dx, np.array([[expected], [-expected]]), terms, roundings=16)
    rounding.assert_close(dgamma, np.array([1.5 / s]), 1.5 / s, roundings=16)
    rounding.assert_close(dbeta, np.array([-0.7]), terms=1.5, roundings=4)


# The backward equations


def test_backward_against_sympy():
    x = sympy.symbols("x1:4", real=True)
    dy = sympy.symbols("d1:4", real=True)
    gamma, beta, eps = sympy.symbols("gamma beta eps", positive=True)
    mu = sum(x) / 3
    var = sum((a - mu) ** 2 for a in x) / 3
    xhat = [(a - mu) / sympy.sqrt(var + eps) for a in x]
    loss = sum(d * (gamma * h + beta) for d, h in zip(dy, xhat, strict=True))
    values = dict(zip(x, (-1, 2, 4), strict=True)) | dict(zip(dy, (3, -1, 5), strict=True))
    values |= {gamma: sympy.Rational(3, 2), beta: 7, eps: sympy.Rational(1, 9)}
    exact = [float(sympy.diff(loss, s).subs(values).evalf(30)) for s in (*x, gamma, beta)]
    _, cache = formulas.batch_norm_forward(
        np.array([[-1.0], [2.0], [4.0]]), np.array([1.5]), np.array([7.0]), 1 / 9
    )
    found = formulas.batch_norm_backward(np.array([[3.0], [-1.0], [5.0]]), cache)
    np.testing.assert_allclose(np.concatenate([part.ravel() for part in found]), exact, rtol=1e-13)


def test_the_simplified_line_follows_from_the_six_for_every_m():
    """With sums as symbols: S = sum dxhat, T = sum dxhat (x - mu), and the sum of x - mu zero."""
    m, S, T, dxhat, c = sympy.symbols("m S T dxhat c", real=True)
    s = sympy.symbols("s", positive=True)  # sqrt(var + eps)
    dvar = T * sympy.Rational(-1, 2) / s**3
    dmu = -S / s + dvar * (-2 * 0) / m
    six = dxhat / s + dvar * 2 * c / m + dmu / m
    simplified = (dxhat - S / m - (c / s) * (T / s) / m) / s
    assert sympy.simplify(six - simplified) == 0


def test_each_backward_equation_by_its_own_difference():
    """Each line is the derivative of what follows it, the statistics held or moved as it says."""
    x, gamma, beta, dy = batch()
    _, cache = formulas.batch_norm_forward(x, gamma, beta, EPS)
    mu, var = cache.mu, cache.var
    dxhat = formulas.gradient_xhat(dy, gamma)
    dvar = formulas.gradient_var(dxhat, x, mu, var, EPS)
    dmu = formulas.gradient_mu(dxhat, dvar, x, mu, var, EPS)

    def tail(x, mu, var):
        return (dy * (gamma * (x - mu) / np.sqrt(var + EPS) + beta)).sum()

    for k, unit in enumerate(np.eye(4)):
        at_var = slope(lambda v: tail(x, mu, v), var, unit)
        at_mu = slope(lambda c: tail(x, c, ((x - c) ** 2).mean(0)), mu, unit)
        assert dvar[k] == pytest.approx(at_var, rel=1e-7)
        assert dmu[k] == pytest.approx(at_mu, rel=1e-7)
    np.testing.assert_array_equal(dxhat, dy * gamma)


def test_the_second_term_of_the_mean_is_zero_up_to_rounding():
    x, gamma, beta, dy = batch(m=50)
    _, c = formulas.batch_norm_forward(x, gamma, beta, EPS)
    dxhat = formulas.gradient_xhat(dy, gamma)
    dvar = formulas.gradient_var(dxhat, x, c.mu, c.var, EPS)
    first, second = formulas.gradient_mu_terms(dxhat, dvar, x, c.mu, c.var, EPS)
    assert (np.abs(first) > 1e-2).all()
    terms = 2 * np.abs(dvar) * (np.abs(x).mean(0) + np.abs(c.mu))
    rounding.assert_close(second, 0 * second, terms, roundings=2 * len(x))
    # Away from the mean it is not: the zero is a property of the mean, not of the line.
    _, away = formulas.gradient_mu_terms(dxhat, dvar, x, c.mu + 1, c.var, EPS)
    np.testing.assert_allclose(away, 2 * dvar, rtol=1e-10)


def test_the_gradient_of_a_summed_output_is_zero_and_proves_nothing():
    x, gamma, beta, dy = batch()
    _, cache = formulas.batch_norm_forward(x, gamma, beta, EPS)
    through_sum, _, _ = formulas.batch_norm_backward(np.ones_like(x), cache)
    through_cotangent, _, _ = formulas.batch_norm_backward(dy, cache)
    terms = rounding.gradient_terms(x, gamma + 0 * x, np.sqrt(cache.var + EPS))
    rounding.assert_close(through_sum, 0 * x, terms, roundings=3 * len(x) + 20)
    assert np.abs(through_cotangent).max() > 1e-2

    def wrong(dy):
        """Three times dx, with its last term dropped."""
        return 3 * gamma / np.sqrt(cache.var + EPS) * (dy - dy.mean(0))

    rounding.assert_close(wrong(np.ones_like(x)), through_sum, 3 * terms, 3 * len(x) + 20)
    assert np.abs(wrong(dy) - through_cotangent).max() > 1e-2


@pytest.mark.parametrize("layer_class", [BatchNorm, nn.BatchNorm1d])
@pytest.mark.parametrize("m", [2, 3, 40])
def test_forward_and_backward_against_the_layers(layer_class, m):
    x, gamma, beta, dy = batch(m=m, seed=m)
    layer = layer_class(4).double()
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(gamma))
        layer.bias.copy_(torch.from_numpy(beta))
    leaf = torch.tensor(x, requires_grad=True)
    theirs = layer(leaf)
    cotangent = (theirs * torch.from_numpy(dy)).sum()
    expected = torch.autograd.grad(cotangent, [leaf, layer.weight, layer.bias])
    y, cache = formulas.batch_norm_forward(x, gamma, beta, layer.eps)
    np.testing.assert_allclose(y, theirs.detach(), rtol=1e-12, atol=1e-12)
    for mine, reference in zip(formulas.batch_norm_backward(dy, cache), expected, strict=True):
        np.testing.assert_allclose(mine, reference, rtol=1e-10, atol=1e-12)
    mean, var = formulas.running_statistics(x[None], layer.momentum)
    np.testing.assert_allclose(layer.running_mean, mean, rtol=1e-12)
    np.testing.assert_allclose(layer.running_var, var, rtol=1e-12)
    evaluated = formulas.inference(x, gamma, beta, mean, var, layer.eps)
    np.testing.assert_allclose(layer.eval()(leaf).detach(), evaluated, rtol=1e-12)


def test_the_norm_of_the_gradient():
    x, gamma, beta, dy = batch()
    for eps in (EPS, 2.0):
        _, cache = formulas.batch_norm_forward(x, gamma, beta, eps)
        dx, _, _ = formulas.batch_norm_backward(dy, cache)
        squared = formulas.gradient_norm_squared(dy, cache)
        np.testing.assert_allclose(squared, (dx**2).sum(0), rtol=1e-12)


# Feature maps


def test_feature_maps_are_rows_of_their_positions():
    x, dy = normal(3, 4, 2, 5) + 1, normal(3, 4, 2, 5, seed=1)
    gamma, beta = normal(2, 4, seed=2)
    y, cache = formulas.conv_batch_norm_forward(x, gamma, beta, EPS)
    dx, dgamma, dbeta = formulas.conv_batch_norm_backward(dy, cache)
    assert len(cache.x) == formulas.effective_size(3, 2, 5) == 30
    for k in range(4):
        alone, c = formulas.batch_norm_forward(
            x[:, k].reshape(30, 1), gamma[k : k + 1], beta[k : k + 1], EPS
        )
        np.testing.assert_allclose(y[:, k].reshape(30, 1), alone, rtol=1e-13)
        back = formulas.batch_norm_backward(dy[:, k].reshape(30, 1), c)
        np.testing.assert_allclose(dx[:, k].reshape(30, 1), back[0], rtol=1e-12, atol=1e-14)
        np.testing.assert_allclose([dgamma[k], dbeta[k]], np.ravel(back[1:]), rtol=1e-12)


@pytest.mark.parametrize("layer_class", [BatchNorm, nn.BatchNorm2d])
def test_feature_maps_against_the_layers(layer_class):
    x, dy = normal(3, 4, 2, 5) + 1, normal(3, 4, 2, 5, seed=1)
    leaf = torch.tensor(x, requires_grad=True)
    theirs = layer_class(4).double()(leaf)
    (expected,) = torch.autograd.grad((theirs * torch.from_numpy(dy)).sum(), leaf)
    y, cache = formulas.conv_batch_norm_forward(x, np.ones(4), np.zeros(4), EPS)
    np.testing.assert_allclose(y, theirs.detach(), rtol=1e-11, atol=1e-13)
    dx, _, _ = formulas.conv_batch_norm_backward(dy, cache)
    np.testing.assert_allclose(dx, expected, rtol=1e-10, atol=1e-12)


def test_one_image_with_many_positions_is_a_batch():
    y, _ = formulas.conv_batch_norm_forward(normal(1, 2, 3, 3), np.ones(2), np.zeros(2), EPS)
    rounding.assert_close(y.mean((0, 2, 3)), np.zeros(2), terms=1 + np.abs(y).max(), roundings=20)


# Section 2


def test_the_bias_grows_without_bound_while_the_loss_stands_still():
    u, b, losses = normal(1000), 0.0, []
    for _ in range(200):
        b, loss = formulas.bias_step_outside(u, b, 2.0, 0.1)
        losses.append(loss)
    # The gradient with respect to b is the mean of xhat - 2, which is -2: 0.2 a step.
    assert b == pytest.approx(40, abs=1e-10)
    assert b == pytest.approx(formulas.bias_after(200, 0.0, 2.0, 0.1), abs=1e-10)
    np.testing.assert_allclose(losses, u.var() / 2 + 2, rtol=1e-12)


def test_with_the_scale_the_steps_in_the_scale_grow_as_the_scale_shrinks():
    u, t = normal(500), 2.0
    for w in (1.0, 0.1, 0.01):
        dw, db = formulas.gradient_outside(u, w, 3.0, t, 1e-12)
        s = math.sqrt(w**2 * u.var() + 1e-12)
        assert db == pytest.approx(-t / s, rel=1e-9)
        assert dw == pytest.approx((w * u.var() / s - t * u.mean()) / s, rel=1e-9)
    w, b, losses = 1.0, 0.0, []
    for _ in range(100):
        w, b, loss = formulas.scaled_step_outside(u, w, b, t, 0.01, 1e-12)
        losses.append(loss)
    assert b > 0.01 * t * 100
    np.testing.assert_allclose(losses, 0.5 + t**2 / 2, rtol=1e-6)


def test_the_true_gradient_by_differences():
    u, target, w, b = normal(30) + 1, normal(30, seed=1), 0.7, -2.0

    def loss(w, b):
        return formulas.squared_loss(formulas.standardised(u, w, b, 0.3), target)

    dw, db = formulas.gradient_inside(u, w, b, target, 0.3)
    assert dw == pytest.approx(slope(lambda v: loss(v, b), w, 1.0), rel=1e-7)
    assert db == 0
    assert slope(lambda v: loss(w, v), b, 1.0) == pytest.approx(0, abs=1e-8)


# Whitening


@pytest.mark.parametrize("method", ["zca", "cholesky"])
def test_whitened_values_have_the_identity_for_covariance(method):
    x = normal(40, 5) @ normal(5, 5, seed=1) + 3
    y, _ = formulas.whiten_forward(x, method)
    np.testing.assert_allclose(formulas.covariance(y), np.eye(5), atol=1e-10)
    np.testing.assert_allclose(y.mean(0), 0, atol=1e-12)


def test_whitening_matrices_by_hand():
    # Eigenvalues 9 and 1 along (1, 1) and (1, -1); L = [[sqrt 5, 0], [4 / sqrt 5, 3 / sqrt 5]].
    cov = np.array([[5.0, 4.0], [4.0, 5.0]])
    zca = np.array([[2.0, -1.0], [-1.0, 2.0]]) / 3
    # Roots of eigenvalues that are 9 apart, from sums of four products.
    rounding.assert_close(formulas.whitening_matrix(cov, "zca"), zca, terms=9, roundings=16)
    root = math.sqrt(5)
    lower = np.array([[1 / root, 0], [-4 / (3 * root), root / 3]])
    rounding.assert_close(formulas.whitening_matrix(cov, "cholesky"), lower, 9, roundings=16)
    rounding.assert_close(formulas.whitening_matrix(np.eye(3)), np.eye(3), 1, roundings=16)


@pytest.mark.parametrize("eps", [None, 0.1])
@pytest.mark.parametrize("method", ["zca", "cholesky"])
def test_whitening_backward_by_differences(method, eps):
    x, dy, direction = normal(8, 3), normal(8, 3, seed=1), normal(8, 3, seed=2)
    dx = formulas.whiten_backward(dy, formulas.whiten_forward(x, method, eps)[1])
    there = slope(lambda v: (dy * formulas.whiten_forward(v, method, eps)[0]).sum(), x, direction)
    assert (dx * direction).sum() == pytest.approx(there, rel=1e-7)


def test_whitening_backward_against_autograd():
    x, dy = normal(8, 3), normal(8, 3, seed=1)
    leaf = torch.tensor(x, requires_grad=True)
    centred = leaf - leaf.mean(0)
    values, vectors = torch.linalg.eigh(centred.T @ centred / 8)
    y = centred @ (vectors * values.rsqrt()) @ vectors.T
    (expected,) = torch.autograd.grad((y * torch.from_numpy(dy)).sum(), leaf)
    mine, cache = formulas.whiten_forward(x)
    np.testing.assert_allclose(mine, y.detach(), rtol=1e-11)
    np.testing.assert_allclose(formulas.whiten_backward(dy, cache), expected, rtol=1e-9)


def test_whitening_backward_is_finite_where_eigenvalues_agree():
    x = np.array(list(itertools.product([-1.0, 1.0], repeat=3)))
    dx = formulas.whiten_backward(normal(8, 3), formulas.whiten_forward(x)[1])
    assert np.isfinite(dx).all()


def test_whitening_one_feature_is_batch_norm():
    x, dy, eps = normal(6, 1), normal(6, 1, seed=1), 0.2
    y, cache = formulas.batch_norm_forward(x, np.ones(1), np.zeros(1), eps)
    for method in ("zca", "cholesky"):
        white, other = formulas.whiten_forward(x, method, eps)
        np.testing.assert_allclose(white, y, rtol=1e-13)
        back = formulas.whiten_backward(dy, other)
        np.testing.assert_allclose(
            back, formulas.batch_norm_backward(dy, cache)[0], rtol=1e-11, atol=1e-14
        )


@pytest.mark.parametrize(("m", "d", "rank"), [(3, 8, 2), (8, 8, 7), (9, 8, 8), (40, 8, 8)])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_the_rank_of_a_minibatch_is_at_most_m_minus_1(m, d, rank, scale):
    x = scale * normal(m, d)
    assert formulas.covariance_rank(x) == rank
    if rank < d:
        with pytest.raises(BnbookError, match=rf"full rank d = {d}.*found rank {rank}.*pass eps"):
            formulas.whiten_forward(x)
        y, _ = formulas.whiten_forward(x, eps=scale**2)
        assert np.linalg.eigvalsh(formulas.covariance(y))[0] < 1e-8
    else:
        formulas.whiten_forward(x)


# Algorithm 2


def test_population_statistics_by_hand():
    # Batches {0, 2} and {4, 10}: means 1 and 7, biased variances 1 and 9.
    x = np.array([[[0.0], [2.0]], [[4.0], [10.0]]])
    mean, var = formulas.population_statistics(x)
    assert (mean[0], var[0]) == (4, 10)  # 2 / 1 times (1 + 9) / 2
    mean, var = formulas.pooled_statistics(x)
    assert (mean[0], var[0]) == (4, 14)  # (1 + 9) / 2 and 9, the variance of {1, 7}
    np.testing.assert_array_equal(formulas.batch_statistics(x), [[[1], [7]], [[1], [9]]])


def test_pooled_statistics_are_those_of_all_values():
    x = normal(6, 5, 3) * 100 + 1e4
    mean, var = formulas.pooled_statistics(x)
    np.testing.assert_allclose(mean, x.reshape(30, 3).mean(0), rtol=1e-14)
    np.testing.assert_allclose(var, x.reshape(30, 3).var(0), rtol=1e-12)


def test_population_statistics_are_unbiased():
    # Every minibatch of two independent draws from {0, 1, 5}: mean 2, variance 14 / 3.
    x = np.array(list(itertools.product([0.0, 1.0, 5.0], repeat=2)))[..., None]
    mean, var = formulas.population_statistics(x)
    np.testing.assert_allclose([mean[0], var[0]], [2, 14 / 3], rtol=1e-14)


@pytest.mark.parametrize("steps", [1, 10, 100])
def test_running_statistics_in_closed_form(steps):
    x = np.tile([[0.0], [2.0]], (steps, 1, 1))  # mean 1, unbiased variance 2
    mean, var = formulas.running_statistics(x, 0.1)
    left = 0.9**steps
    np.testing.assert_allclose([mean[0], var[0]], [1 - left, 2 - left], rtol=1e-12)
    mean, var = formulas.running_statistics(x, 0.1, np.array([1.0]), np.array([2.0]))
    np.testing.assert_allclose([mean[0], var[0]], [1, 2], rtol=1e-12)
    np.testing.assert_allclose(formulas.running_average(np.zeros(1), np.ones(1), 0.25), [0.25])


def test_inference_by_hand():
    slope_, intercept = formulas.inference_affine(
        np.array([6.0]), np.array([1.0]), np.array([10.0]), np.array([3.0]), 1.0
    )
    assert (slope_[0], intercept[0]) == (3, -29)  # 6 / 2 and 1 - 3 * 10
    y = formulas.inference(np.array([[11.0]]), *(np.array([v]) for v in (6.0, 1.0, 10.0, 3.0)), 1.0)
    assert y[0, 0] == 4


@pytest.mark.parametrize("bias", [True, False])
def test_folding_into_a_linear_layer(bias):
    W, u = normal(4, 6), normal(9, 6, seed=1)
    b = normal(4, seed=2) if bias else None
    gamma, beta, mean = normal(3, 4, seed=3)
    var = normal(4, seed=4) ** 2
    x = u @ W.T + (0 if b is None else b)
    expected = formulas.inference(x, gamma, beta, mean, var, EPS)
    folded, shift = formulas.fold_linear(W, b, gamma, beta, mean, var, EPS)
    np.testing.assert_allclose(u @ folded.T + shift, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("bias", [True, False])
def test_folding_into_a_convolution(bias):
    torch.manual_seed(0)
    conv = nn.Conv2d(3, 4, (3, 2), stride=2, padding=1, bias=bias).double()
    norm = BatchNorm(4).double()
    for values in (norm.weight, norm.bias, norm.running_mean):
        nn.init.normal_(values)
    nn.init.uniform_(norm.running_var)
    u = torch.randn(2, 3, 7, 6, dtype=torch.float64)
    expected = norm.eval()(conv(u)).detach()
    parts = (norm.weight, norm.bias, norm.running_mean, norm.running_var)
    K, b = formulas.fold_conv(
        conv.weight.detach().numpy(),
        conv.bias.detach().numpy() if bias else None,
        *(part.detach().numpy() for part in parts),
        norm.eps,
    )
    found = nn.functional.conv2d(u, torch.from_numpy(K), torch.from_numpy(b), stride=2, padding=1)
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)


# Section 3.3


@pytest.mark.parametrize("a", [0.01, 1.0, 7.0, 1e3])
def test_scale_invariance_with_its_exact_eps(a):
    u, W, dy, eps = normal(9, 5), normal(3, 5, seed=1), normal(9, 3, seed=2), 0.1
    y, cache = formulas.linear_batch_norm(u, a * W, eps)
    smaller, other = formulas.linear_batch_norm(u, W, formulas.rescaled_eps(eps, a))
    np.testing.assert_allclose(y, smaller, rtol=1e-12)
    du, dW = formulas.linear_batch_norm_backward(dy, u, a * W, cache)
    du_other, dW_other = formulas.linear_batch_norm_backward(dy, u, W, other)
    np.testing.assert_allclose(du, du_other, rtol=1e-10, atol=1e-13)
    np.testing.assert_allclose(dW, dW_other / a, rtol=1e-10, atol=1e-13 / a)
    same_eps, plain = formulas.linear_batch_norm(u, W, eps)
    factor = formulas.scale_factor(plain.var, a, eps)
    np.testing.assert_allclose(y, factor * same_eps, rtol=1e-12)


def test_scale_invariance_as_the_paper_has_it_without_eps():
    u, W, dy, a, eps = normal(9, 5), normal(3, 5, seed=1), normal(9, 3, seed=2), 8.0, 1e-300
    y, cache = formulas.linear_batch_norm(u, a * W, eps)
    plain, other = formulas.linear_batch_norm(u, W, eps)
    np.testing.assert_allclose(y, plain, rtol=1e-12)
    found = formulas.linear_batch_norm_backward(dy, u, a * W, cache)
    expected = formulas.linear_batch_norm_backward(dy, u, W, other)
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-9, atol=1e-13)
    np.testing.assert_allclose(found[1], expected[1] / a, rtol=1e-9, atol=1e-13)
    # Orthogonal to each row: the product's terms, with those of the gradient in them.
    dx = rounding.gradient_terms(u @ (a * W).T, dy, np.sqrt(cache.var + eps))
    terms = (dx.T @ np.abs(u) * np.abs(W)).sum(1)
    rounding.assert_close((found[1] * W).sum(1), np.zeros(3), terms, roundings=4 * 9 + 5 + 20)


def test_linear_gradients_by_differences():
    u, W, dy = normal(6, 4), normal(3, 4, seed=1), normal(6, 3, seed=2)
    _, cache = formulas.linear_batch_norm(u, W, EPS)
    du, dW = formulas.linear_batch_norm_backward(dy, u, W, cache)
    for at, gradient, run in (
        (u, du, lambda v: formulas.linear_batch_norm(v, W, EPS)),
        (W, dW, lambda v: formulas.linear_batch_norm(u, v, EPS)),
    ):
        direction = normal(*at.shape, seed=5)
        there = slope(lambda v, run=run: (dy * run(v)[0]).sum(), at, direction)
        assert (gradient * direction).sum() == pytest.approx(there, rel=1e-6)


def test_the_effective_rate_is_that_of_the_direction():
    """A step at w, and the step at aw with the rate times a^2, turn the weights equally."""
    u, w, dy, a, alpha = normal(9, 5), normal(1, 5, seed=1), normal(9, 1, seed=2), 3.0, 0.1

    def turned(w, alpha):
        _, cache = formulas.linear_batch_norm(u, w, 1e-300)
        _, dw = formulas.linear_batch_norm_backward(dy, u, w, cache)
        w = (w - alpha * dw)[0]
        return w / np.linalg.norm(w)

    assert formulas.effective_rate(0.1, np.array([3.0, 4.0])) == pytest.approx(0.004)
    rates = formulas.effective_rate(alpha, w[0]), formulas.effective_rate(a**2 * alpha, a * w[0])
    assert rates[0] == pytest.approx(rates[1])
    np.testing.assert_allclose(turned(w, alpha), turned(a * w, a**2 * alpha), rtol=1e-10)


@pytest.mark.parametrize("decay", [0.0, 0.2])
def test_the_norm_after_a_step_by_hand(decay):
    w, dw = np.array([3.0, 4.0]), np.array([8.0, -6.0])
    after = w - 0.5 * (dw + decay * w)
    found = formulas.squared_norm_after_step(w, dw, 0.5, decay)
    assert found == pytest.approx(after @ after, rel=1e-14)
    assert formulas.squared_norm_after_step(w, 0 * dw, 0.5) == 25


def test_constants_of_later_work():
    assert formulas.equivalent_decay(0.1, 3.0) == pytest.approx(0.9)
    assert formulas.gradient_growth_relu() == pytest.approx(1.4669, abs=1e-4)
    assert formulas.gradient_growth_linear(8) == 1.2


def test_float32_is_computed_in_float64():
    x, gamma, beta, _ = batch()
    y, _ = formulas.batch_norm_forward(x.astype(np.float32), gamma.astype(np.float32), beta, EPS)
    assert y.dtype == np.float64


def test_the_formulas_need_neither_torch_nor_the_layers():
    code = (
        "import sys, bnbook.formulas;"
        "found = {'torch', 'bnbook.layers.norm', 'pandas'} & set(sys.modules);"
        "assert not found, sorted(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
