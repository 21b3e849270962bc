"""What an example is worth to a channel's statistics: closed forms, and the variance itself."""

import pytest
import torch
from torch import nn

from bnbook.layers.norm import BatchNorm
from bnbook.networks import models
from bnbook.probes.draws import draws


def found(x, chunk=500):
    layer = nn.Identity()
    (worth,) = draws(layer, [layer], x, chunk)
    return worth


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_an_example_of_one_value_is_worth_one_draw():
    for x in (normal(50, 3), normal(50, 3, 1, 1)):
        worth = found(x)
        assert worth.mean.tolist() == pytest.approx([1.0] * 3, rel=1e-12)
        assert worth.variance.tolist() == pytest.approx([1.0] * 3, rel=1e-12)


def test_positions_that_agree_are_worth_one_draw_and_independent_ones_their_number():
    alike = found(normal(50, 3, 1, 1).expand(-1, -1, 4, 5))
    assert alike.mean.tolist() == pytest.approx([1.0] * 3, rel=1e-12)
    assert alike.variance.tolist() == pytest.approx([1.0] * 3, rel=1e-12)
    free = found(normal(20_000, 2, 4, 5))
    assert free.mean.tolist() == pytest.approx([20.0] * 2, rel=0.05)  # 5 sigma: sqrt(2 / 20,000)
    assert free.variance.tolist() == pytest.approx([20.0] * 2, rel=0.05)


@pytest.mark.parametrize("rho", [0.1, 0.5])
def test_equally_correlated_positions_have_the_design_effect_of_clusters(rho):
    p = 16
    x = rho**0.5 * normal(20_000, 2, 1) + (1 - rho) ** 0.5 * normal(20_000, 2, p, seed=1)
    worth = found(x)
    assert worth.mean.tolist() == pytest.approx([p / (1 + (p - 1) * rho)] * 2, rel=0.05)
    # squares of normal values that are correlated by rho are correlated by its square
    assert worth.variance.tolist() == pytest.approx([p / (1 + (p - 1) * rho**2)] * 2, rel=0.06)


def test_neither_scale_nor_place_matters_and_a_constant_has_no_value():
    x = normal(200, 2, 6)
    one, other = found(x), found(1000 + 3 * x)
    for a, b in zip(one, other, strict=True):
        assert a.tolist() == pytest.approx(b.tolist(), rel=1e-8)
    assert found(torch.ones(20, 1, 6)).mean.isnan().all()


def test_it_is_the_variance_of_a_minibatch_mean():
    """The mean of m examples has the variance of so many independent draws."""
    x, m = normal(4000, 1, 12).cumsum(2) + normal(4000, 1, 1, seed=2), 5
    generator = torch.Generator().manual_seed(3)
    of = x.mean(2)[torch.randint(len(x), (100_000, m), generator=generator)].mean(1)
    expected = float(x.var(correction=0) / (m * of.var()))
    assert float(found(x).mean) == pytest.approx(expected, rel=0.03)


def test_a_network_is_read_in_evaluation_mode_and_left_as_it_was():
    model = models.ConvNet(BatchNorm, (0, 1), in_channels=1, widths=(4, 6))
    images = normal(30, 1, 8, 8).float()
    layers = [layer for layer in model.modules() if isinstance(layer, BatchNorm)]
    model.train()
    before = [buffer.clone() for buffer in model.buffers()]
    whole, parts = draws(model, layers, images), draws(model, layers, images, chunk=7)
    assert [worth.mean.shape for worth in whole] == [(8,), (12,)]
    for one, other in zip(whole, parts, strict=True):
        assert one.mean.tolist() == pytest.approx(other.mean.tolist(), rel=1e-4)
    assert all(torch.equal(a, b) for a, b in zip(before, model.buffers(), strict=True))
    assert model.training
    assert not any(layer._forward_pre_hooks for layer in layers)
