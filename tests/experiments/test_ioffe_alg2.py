"""Algorithm 2 over all minibatches, BN of feature maps, folding: exact, and seen to fail."""

import itertools
import math
import statistics

import pytest
import torch

from bnbook.conformance import mutants
from bnbook.experiments.ioffe_alg2 import claims as analysis
from bnbook.experiments.ioffe_alg2 import experiment as ioffe_alg2
from bnbook.experiments.ioffe_alg2.experiment import EXPERIMENT as ALG2
from bnbook.layers import norm
from tests import rounding
from tests.judging import criterion

SMALL = {
    "seeds": (0, 1), "examples": 6, "with_replacement": 4, "batch_sizes": (2, 5), "crowd": 64,
    "draws": 8, "mate_sizes": (2, 8),
}  # fmt: skip
IMPOSSIBLE = [
    ({"batch_sizes": (1,)}, r"batch_sizes must lie in \[2, 12\]"),
    ({"batch_sizes": (13,)}, r"batch_sizes must lie in \[2, 12\]"),
    ({"mate_sizes": (3,)}, r"divide crowd = 2048, found \[3\]"),
    ({"shapes": ((1, 4, 1, 1),)}, "m p q >= 2"),
    ({"draws": 0}, "draws must be at least 1"),
]
POPULATION, CONV = ALG2.claims


def test_both_claims_are_reproduced_and_exact(small_table):
    for claim in (POPULATION, CONV):
        judged = criterion(claim, small_table)
        assert judged.verdict == "reproduced"
        assert judged.value < 1e-13
        assert judged.low is None


def test_the_identity_in_plain_python():
    """All 20 minibatches of 3 of 6 numbers: the average of 3/2 times their variance."""
    x = [0.0, 1.0, 3.0, 4.0, 8.0, 20.0]
    biased = [statistics.pvariance(batch) for batch in itertools.combinations(x, 3)]
    assert len(biased) == 20
    assert 3 / 2 * statistics.fmean(biased) == pytest.approx(statistics.variance(x), rel=1e-14)
    twice = [statistics.pvariance(batch) for batch in itertools.product(x, repeat=3)]
    assert 3 / 2 * statistics.fmean(twice) == pytest.approx(statistics.pvariance(x), rel=1e-14)


def test_without_the_factor_the_variance_is_short_by_m_minus_one_over_m(small_table):
    rows = small_table[small_table["check"] == "without the factor"]
    assert rows.groupby("m")["value"].mean().to_dict() == pytest.approx({2: 0.5, 5: 0.8})
    assert sorted(rows["count"].unique()) == [math.comb(6, 5), math.comb(6, 2)]


def test_every_case_is_there_once(small_table):
    keys = ["seed", "check", "case", "m"]
    assert not small_table.duplicated(keys).any()
    assert set(small_table["check"]) == {
        "mean", "variance", "without the factor", "with replacement", "feature maps", "shift",
        "shift, one pair a position", "fold", "bias", "evaluation", "mates",
    }  # fmt: skip
    assert len(analysis.population_errors(small_table)) == 2 * (2 * 2 * 3 + 3 * 2)
    assert len(analysis.conv_errors(small_table)) == 2 * (4 * 6 + 3)


def rerun(monkeypatch, layer):
    monkeypatch.setattr(norm, "BatchNorm", layer)
    return ALG2.run(ALG2.configure("quick", **{**SMALL, "seeds": (0,)}))


def test_a_biased_running_variance_turns_both_claims_red(monkeypatch):
    class Biased(norm.BatchNorm):
        def track(self, mu, var, m):
            super().track(mu, var * (m - 1) / m, m)

    table = rerun(monkeypatch, Biased)
    for claim in (POPULATION, CONV):
        assert criterion(claim, table).verdict == "not reproduced"
    rows = table[table["check"] == "variance"]
    assert rows.groupby("m")["value"].mean().to_dict() == pytest.approx({2: 0.5, 5: 0.8})


@pytest.mark.parametrize("mutant", [mutants.PooledStatistics, mutants.PositionsApart])
def test_wrong_statistics_of_feature_maps_turn_the_claim_red(monkeypatch, mutant):
    class Mutant(mutant):
        def __init__(self, num_features, eps=1e-5, momentum=0.1):
            super().__init__(num_features, eps, momentum or 0.1)

    table = rerun(monkeypatch, Mutant)
    assert criterion(CONV, table).verdict == "not reproduced"


def test_one_pair_a_position_does_not_commute_with_shifts(small_table):
    # Relative to the largest of them; the sums over positions go round in another order.
    shifts = small_table[small_table["check"] == "shift"]
    assert (shifts["error"] <= shifts["m"] * rounding.epsilon(float)).all()
    mixed = small_table[small_table["check"] == "shift, one pair a position"]
    assert mixed["error"].min() > 0.1


def test_folding_bias_and_evaluation_are_equal_to_rounding(small_table):
    for check in ("fold", "bias", "evaluation"):
        assert small_table.loc[small_table["check"] == check, "error"].max() < 32, check


def test_batch_mates_by_hand():
    """Minibatches of 2 give 1 and -1 whatever the data; of all there are, one fixed value."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn((64, 3), generator=generator, dtype=torch.float64)
    pairs = ioffe_alg2._normalised(x, 2, generator)
    assert torch.allclose(pairs.abs(), torch.ones_like(pairs), atol=1e-6)
    everyone = ioffe_alg2._normalised(x, 64, generator)
    assert torch.allclose(everyone, (x - x.mean(0)) / x.std(0, correction=0))


def test_the_spread_over_batch_mates_follows_theory():
    config = ALG2.configure("quick", seeds=(0, 1), crowd=2048, mate_sizes=(2, 8, 32))
    noise = analysis.mates(ALG2.run(config))
    # At m = 2 exactly: the mean of 1 - (2 Phi(z) - 1)^2 over a Gaussian z is 2/3.
    assert noise.loc[2, "value"] == pytest.approx(math.sqrt(2 / 3), rel=0.03)
    assert noise.loc[8, "value"] == pytest.approx(noise.loc[8, "theory"], rel=0.1)
    assert noise.loc[32, "value"] == pytest.approx(noise.loc[32, "theory"], rel=0.05)


def test_facts(small_table):
    facts = ALG2.facts(small_table)
    assert facts["seeds"]["value"] == 2
    assert facts["minibatches"]["value"] == 15
    assert facts["mates_64"]["value"] is None
    assert facts["fold_linear_float32"]["value"] < 32
