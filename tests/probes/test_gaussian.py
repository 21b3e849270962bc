"""Shapes of distributions: closed forms, and that they know neither place nor size."""

import math

import pytest
import torch

from bnbook.probes import gaussian


def ranks(n):
    return (torch.arange(n, dtype=torch.float64) + 0.5) / n


def test_a_gaussian_is_at_distance_zero_and_has_four_per_cent_near_zero():
    found = gaussian.shapes(torch.special.ndtri(ranks(20_000))[:, None])
    assert found["distance"].item() < 1e-3
    assert found["skewness"].item() < 1e-9
    assert found["kurtosis"].item() == pytest.approx(0, abs=0.01)
    assert found["near_zero"].item() == pytest.approx(0.0399, abs=2e-4)


def test_two_spikes():
    """At -1 and 1: E ||z| - 1|| for a Gaussian z, no skewness, a kurtosis of 1 - 3."""
    found = gaussian.shapes(torch.tensor([-1.0, 1.0]).repeat(10_000)[:, None])
    density, tail = math.exp(-0.5) / math.sqrt(2 * math.pi), math.erfc(1 / math.sqrt(2)) / 2
    below = 2 * (0.5 - tail) - 2 * (1 / math.sqrt(2 * math.pi) - density)
    above = 2 * density - 2 * tail
    assert found["distance"].item() == pytest.approx(below + above, abs=1e-3)
    assert found["skewness"].item() == pytest.approx(0, abs=1e-12)
    assert found["kurtosis"].item() == pytest.approx(2, abs=1e-12)


def test_an_exponential_has_skewness_two_and_excess_six():
    found = gaussian.shapes(-torch.log1p(-ranks(1_000_000))[:, None])
    assert found["skewness"].item() == pytest.approx(2, abs=0.01)
    assert found["kurtosis"].item() == pytest.approx(6, abs=0.1)


def test_place_and_size_do_not_matter_and_units_are_apart():
    x = torch.rand(500, 2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    plain, moved = gaussian.shapes(x), gaussian.shapes(5 - 1000 * x)
    for name in ("distance", "skewness", "kurtosis"):
        assert plain[name].shape == (2, 3)
        torch.testing.assert_close(plain[name], moved[name], rtol=1e-9, atol=1e-12)
    alone = gaussian.shapes(x[:, 1, 2])
    torch.testing.assert_close(alone["distance"], plain["distance"][1, 2])


def test_a_unit_that_is_constant_has_no_shape():
    x = torch.stack([torch.full((50,), 0.1), torch.arange(50.0)], 1)
    found = gaussian.shapes(x)
    assert all(value[0].isnan() and value[1].isfinite() for value in found.values())


def test_half_of_a_relus_outputs_are_near_zero():
    found = gaussian.shapes(torch.special.ndtri(ranks(10_000)).relu()[:, None])
    assert 0.5 < found["near_zero"].item() < 0.53
