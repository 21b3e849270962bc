"""Whitening in torch against the formulas, and its experiment's measures on known tables."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bnbook import formulas
from bnbook.errors import BnbookError
from bnbook.experiments.ioffe_whitening import claims as analysis
from bnbook.experiments.ioffe_whitening import experiment
from bnbook.experiments.ioffe_whitening.experiment import EXPERIMENT as WHITENING
from bnbook.layers import whitening
from bnbook.tables.arms import BN, BN_KERNEL, CHOLESKY, LINEAR, ZCA
from tests import rounding
from tests.judging import criterion

SMALL = {
    "seeds": (0, 1), "widths": (4, 8, 16), "rounds": 2, "batch_size": 32,
    "rank_sizes": (4, 16), "rank_widths": (4, 8), "gaps": (1.0, 1e-6), "eigenvalues": (1.0, 1e-4),
}  # fmt: skip
"""Changes to the quick profile that make it run in about a second."""
IMPOSSIBLE = [
    ({"batch_size": 1}, "rank_sizes and batch_size must be at least 2"),
    ({"gaps": (0.0,)}, "gaps, eigenvalues and eps must be above 0"),
    ({"rounds": 0}, "rounds must be at least 1"),
]
(COST,) = WHITENING.claims
WAYS = {"zca": whitening.zca, "cholesky": whitening.cholesky}


@settings(max_examples=40, deadline=None)
@given(
    m=st.integers(2, 24),
    d=st.integers(1, 12),
    log_scale=st.floats(-3, 3),
    method=st.sampled_from(["zca", "cholesky"]),
    seed=st.integers(0, 2**31),
)
def test_torch_against_the_formulas_over_shapes_and_scales(m, d, log_scale, method, seed):
    rng, scale = np.random.default_rng(seed), 10**log_scale
    x, dy = scale * (rng.normal(size=(m, d)) + 1), rng.normal(size=(m, d))
    eps = 0.05 * scale**2
    leaf = torch.tensor(x, requires_grad=True)
    y = WAYS[method](leaf, eps)
    (dx,) = torch.autograd.grad(y, leaf, torch.tensor(dy))
    expected, cache = formulas.whiten_forward(x, method, eps)
    np.testing.assert_allclose(y.detach(), expected, atol=1e-10)
    np.testing.assert_allclose(
        dx, formulas.whiten_backward(dy, cache), atol=1e-9 * np.abs(dy).max() / scale
    )


def test_the_gradient_is_right_where_all_eigenvalues_agree():
    # The corners of a cube: the covariance is the identity. The gradient through the eigenvectors
    # is a sum of 0 times infinity there; the closed form is finite and agrees with differences.
    x = torch.tensor(list(itertools.product([-1.0, 1.0], repeat=3)), dtype=torch.float64)
    dy = torch.tensor(np.random.default_rng(0).normal(size=(8, 3)))
    found = {}
    for name, function in (("closed", whitening.zca), ("vectors", experiment._through_vectors)):
        leaf = x.clone().requires_grad_()
        (found[name],) = torch.autograd.grad(function(leaf, 0.5), leaf, dy)
    assert not torch.isfinite(found["vectors"]).all()
    way = torch.tensor(np.random.default_rng(1).normal(size=(8, 3)))
    ahead, behind = (whitening.zca(x + step * way, 0.5) for step in (1e-6, -1e-6))
    slope = (dy * (ahead - behind)).sum() / 2e-6
    assert (found["closed"] * way).sum().item() == pytest.approx(slope.item(), rel=1e-7)


@pytest.mark.parametrize("function", list(WAYS.values()))
@pytest.mark.parametrize(
    ("x", "eps", "says"),
    [
        (torch.ones(3, 2, dtype=torch.int64), 1.0, r"x must be floating point, found torch.int64"),
        (torch.ones(1, 2), 1.0, r"m >= 2, found \(1, 2\)"),
        (torch.ones(6), 1.0, r"shape \(m, d\) with m >= 2, found \(6,\)"),
        (torch.ones(3, 2), 0.0, "eps must be positive, found 0.0"),
        (torch.ones(3, 2), math.nan, "eps must be positive, found nan"),
        (torch.tensor([[1.0, 2.0], [1.0, math.nan]]), 1.0, "found nan as the mean of feature 1"),
    ],
)
def test_bad_input(function, x, eps, says):
    with pytest.raises(BnbookError, match=says):
        function(x, eps)


@settings(max_examples=40, deadline=None)
@given(
    m=st.integers(2, 30),
    d=st.integers(1, 30),
    log_scale=st.floats(-6, 6),
    seed=st.integers(0, 2**31),
)
def test_the_rank_over_shapes_and_scales(m, d, log_scale, seed):
    x = 10**log_scale * (np.random.default_rng(seed).normal(size=(m, d)) + 1)
    assert formulas.covariance_rank(x) == min(m - 1, d)


def made_up(whitened=64.0, repetitions=3):
    """Times that are known powers of the width; BN takes 1 ms a feature."""
    rows = []
    for seed in range(repetitions):
        noise = 1 + 0.01 * seed
        for width in (2, 4, 8, 16):
            for arm, power, factor in (
                (ZCA, 3, whitened / 16**2), (CHOLESKY, 2, 1), (BN, 1, 1), (BN_KERNEL, 1, 0.5),
                (LINEAR, 2, 0.25),
            ):  # fmt: skip
                taken = 1e-3 * factor * width**power * (noise if arm == ZCA else 1)
                ahead = taken / (2 if arm == BN else 4)
                rows.append(
                    {"seed": seed, "kind": "time", "arm": arm, "m": 32, "width": width,
                     "forward": ahead, "backward": taken - ahead}
                )  # fmt: skip
        rows.append({"seed": seed, "kind": "rank", "m": 4, "width": 8, "rank": 3})
        for arm, error in ((analysis.THROUGH_VECTORS, math.nan), (analysis.CLOSED_FORM, 1e-7)):
            rows.append({"seed": seed, "kind": "gap", "arm": arm, "gap": 1e-6, "error": error})
        for arm in (ZCA, CHOLESKY, BN):
            rows.append({"seed": seed, "kind": "eigenvalue", "arm": arm, "eigenvalue": 1e-4,
                         "gain": 1.0 if arm == BN else 100.0})  # fmt: skip
    return pd.DataFrame(rows)


def test_measures_on_a_table_with_known_truth():
    table = made_up()
    assert analysis.cost_ratio(table).tolist() == pytest.approx([64, 64.64, 65.28])
    for arm, power in ((ZCA, 3), (CHOLESKY, 2), (BN, 1), (LINEAR, 2)):
        assert analysis.exponents(table, arm).tolist() == pytest.approx([power] * 3)
    facts = {name: fact["value"] for name, fact in WHITENING.facts(table).items()}
    # A quarter of every pass is forward, but for BN, of which half is.
    assert facts["backward_ratio"] / facts["forward_ratio"] == pytest.approx(3)
    assert facts["bn_share"] == pytest.approx(25)
    assert facts["kernel_share"] == pytest.approx(12.5)
    assert facts["cholesky_ratio"] == pytest.approx(16)
    assert facts["widest"] == 16
    assert facts["rank_agreeing"] == facts["rank_cases"] == 3
    assert facts["gap_error_vectors"] == 1, "no number counts as all wrong"
    assert facts["gain_zca"] == 100
    assert criterion(COST, table).verdict == "reproduced"


@pytest.mark.parametrize("whitened", [1.0, 5.0, 9.0])
def test_the_claim_turns_red_when_whitening_is_cheap(whitened):
    assert criterion(COST, made_up(whitened)).verdict == "not reproduced"


def test_a_small_run(small_table):
    assert set(small_table["kind"]) == {"time", "rank", "gap", "eigenvalue"}
    seconds = analysis.seconds(small_table)
    assert seconds.shape == (6, 5)
    assert (seconds > 0).all().all()
    ranks = analysis.ranks(small_table)
    assert (ranks["rank"] == ranks["expected"]).all()
    gains = analysis.sensitivities(small_table).xs(1e-4, level="eigenvalue")
    np.testing.assert_allclose(gains[[ZCA, CHOLESKY]], 100, rtol=1e-6)
    np.testing.assert_allclose(gains[BN], 1, rtol=1e-6)
    errors = analysis.gradient_errors(small_table)
    assert errors[analysis.CLOSED_FORM].max() < 1e-5
    close = errors.xs(1e-6, level="gap")
    assert (close[analysis.THROUGH_VECTORS] > 10 * close[analysis.CLOSED_FORM]).all()


def test_threads_are_given_back():
    before = torch.get_num_threads()
    with pytest.raises(ZeroDivisionError), experiment._threads(1):
        raise ZeroDivisionError
    assert torch.get_num_threads() == before


def test_covariances_are_as_asked_for():
    cov = np.array([[2.0, 0.3], [0.3, 1.0]])
    x = experiment._with_covariance(np.random.default_rng(0), cov, 12)
    rounding.assert_close(formulas.covariance(x), cov, terms=2, roundings=4 * 12)
