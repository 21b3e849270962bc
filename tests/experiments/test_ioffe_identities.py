"""Three remarks that hold exactly: each check on closed forms, and mutants that it must catch."""

from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from bnbook import formulas
from bnbook.experiments.ioffe_identities import claims
from bnbook.experiments.ioffe_identities import experiment as module
from bnbook.experiments.ioffe_identities.experiment import EXPERIMENT
from bnbook.layers.norm import BatchNorm
from bnbook.layers.outside import BatchNormOutside
from bnbook.layers.partial import PartialBatchNorm
from tests.judging import criterion

SMALL = {"seeds": (0, 1), "sizes": (2, 3), "ranked": (2, 3), "width": 10, "shares": (0.5, 1.0, 2.0)}
IMPOSSIBLE = [
    ({"sizes": (1,)}, "2 or more examples"),
    ({"width": 10, "shares": (0.1,)}, "2 or more examples"),
    ({"eps": 0.0}, "above 0"),
    ({"biases": (-1.0,)}, "above 0"),
]
IDENTITY, SINGULAR, BIAS = EXPERIMENT.claims


def test_all_three_hold_in_every_case(small_table):
    for claim in EXPERIMENT.claims:
        assert criterion(claim, small_table).verdict == "reproduced", claim.id
    cases = small_table.groupby("check").size()
    features = 6 * 4 + 3
    assert cases[claims.IDENTITY] == 2 * 2 * 2 * features
    assert cases[claims.RANK] == 2 * 2 * 2
    assert cases[claims.BIAS] == 2 * 2 * 3 * 2 * 3 * 6


@pytest.mark.parametrize(
    "wrong",
    {
        "without eps": lambda x: (x.std(0), x.mean(0)),
        "unbiased": lambda x: (np.sqrt(x.var(0, ddof=1) + 1e-5), x.mean(0)),
        "eps outside the root": lambda x: (x.std(0) + 1e-5, x.mean(0)),
        "no mean": lambda x: (np.sqrt(x.var(0) + 1e-5), 0 * x.mean(0)),
    }.items(),
    ids=lambda pair: pair[0],
)
def test_other_parameters_are_no_identity(small, monkeypatch, wrong):
    monkeypatch.setattr(module, "parameters_of_identity", lambda x, _: wrong[1](x))
    assert criterion(IDENTITY, EXPERIMENT.run(small, "cpu")).verdict == "not reproduced"


def test_a_layer_with_unbiased_variance_is_no_identity(small, monkeypatch):
    def wrong(x, gamma, beta, eps):
        return gamma * (x - x.mean(0)) / np.sqrt(x.var(0, ddof=1) + eps) + beta

    monkeypatch.setattr(module, "by_layer", wrong)
    assert criterion(IDENTITY, EXPERIMENT.run(small, "cpu")).verdict == "not reproduced"


def test_the_exact_covariance_is_the_formulas():
    x = np.random.default_rng(0).integers(-9, 9, size=(5, 3))
    found = np.array(module.exact_covariance(x.tolist())) / 5**3
    np.testing.assert_allclose(found, formulas.covariance(x.astype(float)), rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize(
    ("matrix", "rank"),
    [([[1, 2], [2, 4]], 1), ([[0, 0], [0, 0]], 0), ([[10**20, 1], [1, 0]], 2),
     ([[10**20, 10**20 + 1], [10**20 - 1, 10**20]], 2), ([[1, 0, 0], [0, 1, 0]], 2)],
)  # fmt: skip
def test_the_rank_is_exact(matrix, rank):
    assert module.exact_rank(matrix) == rank


def ranks(config, scatter):
    rows = list(module._ranks(config, np.random.default_rng(0), scatter))
    return max(row["error"] for row in rows)


def about_zero(x):
    return (np.array(x).T @ np.array(x)).tolist()


def with_a_ridge(x):
    return (np.array(module.exact_covariance(x)) + np.eye(len(x[0]), dtype=int)).tolist()


def test_another_scatter_has_another_rank(small):
    assert ranks(small, module.exact_covariance) == 0
    assert ranks(small, about_zero) == 1
    assert ranks(small, with_a_ridge) == 2


def test_eigenvalues_and_distances_tell_on_which_side_of_the_width_a_minibatch_is(small_table):
    spectrum = claims.spectra(small_table)["value"]
    assert spectrum[5] < 1e-14
    assert spectrum[10] < 1e-14
    assert spectrum[20] > 1e-3
    far = small_table[small_table["check"] == claims.DISTANCES].groupby("m")["error"].max()
    assert far[10] < 1e-6
    assert far[20] > 0.1


def test_whitened_examples_are_all_equally_far_apart():
    x = np.array([[0.0, 0, 0, 0], [1, 0, 0, 0], [0, 7, 1, 0], [2, 2, 2, 0]])
    far = module.whitened_distances(x - x.mean(0))
    np.testing.assert_allclose(far, np.full(6, np.sqrt(8)), rtol=1e-12)


def test_with_other_mates_the_identity_is_off_by_what_theory_says():
    config = EXPERIMENT.configure("quick", seeds=(0,), sizes=(64, 256))
    spread = 4 * 0.5 * np.sqrt(10) / 3 / np.sqrt(4000)  # of the root, four standard errors
    for row in module._others(config, np.random.default_rng(0)):
        assert row["value"] == pytest.approx(row["theory"], rel=spread + 1 / row["m"])


class Pooled(nn.Module):
    """Statistics pooled over the features: a bias of each is then seen."""

    def __init__(self, features, eps, momentum):
        super().__init__()
        self.eps = eps

    def forward(self, x):
        return (x - x.mean()) / (x.var(correction=0) + self.eps).sqrt()


@pytest.mark.parametrize(
    "wrong",
    [partial(BatchNormOutside, outside=("mean",)), partial(PartialBatchNorm, fixes=("variance",)),
     Pooled],
    ids=["mean outside the gradient", "variance alone", "pooled"],
)  # fmt: skip
def test_a_bias_that_is_not_cancelled_is_found(small, wrong):
    def worst(make):
        found = module._bias(small, np.random.default_rng(0), make)
        return max(row["error"] for row in found)

    assert worst(BatchNorm) < claims.BOUND
    assert worst(wrong) > 1e-3


def test_the_sign_and_size_of_a_bias_do_not_matter_but_its_digits_do():
    layer = BatchNorm(1, eps=1e-5).double()
    x = torch.randn(50, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        errors = [float((layer(x + b) - layer(x)).abs().max()) for b in (1.0, -1.0, 1e8)]
    assert max(errors[:2]) < 1e-14
    assert 1e-10 < errors[2] < 1e-7


def test_facts(small_table):
    facts = EXPERIMENT.facts(small_table)
    assert facts["width"]["value"] == 10
    assert facts["smallest_at_twice"]["value"] > 1e-3
