"""BN taken apart: closed forms, and the noise that comes again."""

import pytest
import torch
from torch.nn import functional as F

from bnbook.errors import BnbookError
from bnbook.layers import norm, partial
from bnbook.layers.outside import MEAN, VARIANCE

SHAPES = [(8, 4), (6, 4, 3, 5)]


def data(shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return 3 * torch.randn(shape, generator=generator).double() + 2


@pytest.mark.parametrize("shape", SHAPES)
def test_what_is_fixed_is_fixed_and_the_other_moment_is_left(shape):
    x = data(shape)
    over = [0, *range(2, x.dim())]
    centred = partial.PartialBatchNorm(4, (MEAN,)).double()(x)
    scaled = partial.PartialBatchNorm(4, (VARIANCE,)).double()(x)
    sd = x.std(over, correction=0)
    assert centred.mean(over).abs().max() < 1e-14
    assert torch.allclose(centred.std(over, correction=0), sd)
    assert torch.allclose(scaled.std(over, correction=0), torch.ones(4).double(), atol=1e-5)
    assert torch.allclose(scaled.mean(over), x.mean(over) / sd, rtol=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
def test_both_moments_are_batch_norm_in_values_gradients_and_evaluation(shape):
    layers = partial.PartialBatchNorm(4, (MEAN, VARIANCE)).double(), norm.BatchNorm(4).double()
    found = []
    for layer in layers:
        with torch.no_grad():
            layer.weight.copy_(torch.arange(1, 5))
            layer.bias.fill_(0.5)
        x = data(shape).requires_grad_()
        y = layer(x)
        (dx,) = torch.autograd.grad(y, x, data(shape, 1))
        found.append((y, dx, layer.eval()(data(shape, 2))))
    for mine, right in zip(*found, strict=True):
        assert torch.allclose(mine, right, rtol=1e-12, atol=1e-12)


def test_the_gradient_goes_through_the_statistic_alone_that_is_used():
    """Centred: the gradient has mean zero. Scaled: it is at right angles to x."""
    x, dy = data((9, 4)).requires_grad_(), data((9, 4), 1)
    (dx,) = torch.autograd.grad(partial.PartialBatchNorm(4, (MEAN,)).double()(x), x, dy)
    assert torch.allclose(dx, dy - dy.mean(0))
    layer = partial.PartialBatchNorm(4, (VARIANCE,), eps=1e-30).double()
    (dx,) = torch.autograd.grad(layer(x), x, dy)
    assert (dx * x).sum(0).abs().max() < 1e-12  # the output does not change along x itself
    assert dx.mean(0).abs().min() > 1e-3  # nor does it know of a mean


def test_frozen_statistics_are_the_first_batchs_for_ever():
    layer = partial.FrozenBatchNorm(4).double()
    first, later = data((8, 4)), 5 * data((8, 4), 1)
    expected = F.batch_norm(first, None, None, training=True)
    assert torch.allclose(layer(first), expected)
    mu, var = first.mean(0), first.var(0, correction=0)
    affine = (later - mu) / (var + 1e-5).sqrt()
    assert torch.allclose(layer(later), affine)
    assert torch.allclose(layer.eval()(later), affine)
    x = later.clone().requires_grad_()
    (dx,) = torch.autograd.grad(layer.train()(x).sum(), x)
    assert torch.allclose(dx, (var + 1e-5).rsqrt().expand_as(dx))  # constants to the gradient


def noise(seeds=(3, 3, 4), layer=0, before=None):
    return partial.Noise(before, seeds, layer)


def test_the_noise_has_the_papers_ranges():
    n, layer = 4000, noise(seeds=(1,))
    zeros, ones = torch.zeros(n, 60).double(), torch.ones(n, 60).double()
    shift = layer(zeros)
    layer.calls.zero_()
    scale = layer(ones) - shift
    for values, low, high in ((shift.mean(0), -0.5, 0.5), (scale.mean(0), 1.0, 1.25)):
        rim = 6 * 0.1 / n**0.5
        assert values.min() > low - rim
        assert values.max() < high + rim
        assert values.max() - values.min() > 0.8 * (high - low)
    jitter = shift - shift.mean(0)
    assert jitter.abs().max() < 0.1 + 6 * 0.1 / n**0.5
    assert jitter.std().item() == pytest.approx(0.1 / 3**0.5, rel=0.03)
    assert (scale - scale.mean(0)).std().item() == pytest.approx(0.1, rel=0.03)


def test_the_noise_is_new_at_each_call_and_comes_again_with_the_buffer():
    layer = noise()
    x = torch.ones(5, 6)
    first, second = layer(x), layer(x)
    assert not torch.equal(first, second)
    assert int(layer.calls) == 2
    layer.calls.zero_()
    assert torch.equal(layer(x), first)
    a, b, c = first.view(5, 3, 2).unbind(1)
    assert torch.equal(a, b)  # one seed
    assert not torch.equal(a, c)
    assert not torch.equal(noise(layer=1)(x), first)
    assert torch.equal(layer.eval()(x), x)


def test_a_map_has_one_draw_for_all_positions():
    y = noise(before=norm.BatchNorm(6))(data((5, 6, 2, 2)).float())
    x = norm.BatchNorm(6)(data((5, 6, 2, 2)).float())
    shift = (y[..., 0, 0] * x[..., 1, 1] - y[..., 1, 1] * x[..., 0, 0]) / (
        x[..., 1, 1] - x[..., 0, 0]
    )
    other = (y[..., 0, 1] * x[..., 1, 0] - y[..., 1, 0] * x[..., 0, 1]) / (
        x[..., 1, 0] - x[..., 0, 1]
    )
    assert (shift - other).abs().median() < 1e-4


def test_nothing_to_fix_is_refused():
    for fixes in ((), ("median",)):
        with pytest.raises(BnbookError, match="fixes must hold"):
            partial.PartialBatchNorm(4, fixes)
