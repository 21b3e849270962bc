"""Standardised weights, clipped gradients and SELU: equations, known variances, members apart."""

import math

import pytest
import torch

from bnbook.layers import ensemble, members
from bnbook.networks import models, normaliser_free
from bnbook.networks.normaliser_free import StandardisedConv2d, clip_gradient

MAKERS = [normaliser_free.NormaliserFreeResNet, normaliser_free.SelfNormalisingResNet]
SIZES = {"n": 2, "in_channels": 1, "widths": (4, 4, 8)}


def images(count=3):
    return torch.randn(count, 1, 8, 8, generator=torch.Generator().manual_seed(5))


def clipped_by_hand(weight, gradient, limit):
    """Rule of the paper, row by row, without autograd."""
    found = gradient.clone()
    for index in torch.cartesian_prod(*(torch.arange(n) for n in weight.shape[:2])).tolist():
        w, g = weight[tuple(index)], gradient[tuple(index)]
        most = limit * max(w.norm().item(), 1e-3)
        if g.norm().item() > most:
            found[tuple(index)] = g * most / g.norm()
    return found


def test_a_gradient_is_clipped_row_by_row_and_its_value_passes_as_it_is():
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(2, 5, 3, generator=generator, dtype=torch.float64)
    weight[0, 0] = 0  # counts as 0.001 long
    weight.requires_grad_()
    gradient = torch.randn(weight.shape, generator=generator, dtype=torch.float64)
    gradient *= torch.tensor([1e-4, 1.0, 1e-2, 10.0, 0.0]).view(1, 5, 1)
    y = clip_gradient(weight, 0.1)
    assert torch.equal(y, weight)
    (found,) = torch.autograd.grad(y, weight, gradient)
    expected = clipped_by_hand(weight.detach(), gradient, 0.1)
    torch.testing.assert_close(found, expected, rtol=1e-14, atol=0)
    assert not torch.equal(found, gradient)
    assert torch.equal(found[1, 2], gradient[1, 2])  # short enough


def test_without_a_limit_nothing_is_clipped():
    weight = torch.ones(1, 2, 3, requires_grad=True)
    (found,) = torch.autograd.grad(clip_gradient(weight, math.inf), weight, 1e9 * weight.detach())
    assert torch.equal(found, 1e9 * weight.detach())


def test_standardised_kernels_have_mean_zero_and_a_sum_of_squares_of_one():
    """Variance 1/N of N weights; the epsilon is 1e-4 of the sum of squares."""
    like = ensemble.Conv2d(2, 3, 4, 3, padding=1)
    ensemble.initialise(like, (0, 1), 0.7)
    layer = StandardisedConv2d(like)
    kernels = layer.standardised().flatten(2)
    torch.testing.assert_close(kernels.sum(2), torch.zeros(2, 4), rtol=0, atol=1e-6)
    raw = like.weight.flatten(2)
    total = (raw - raw.mean(2, keepdim=True)).square().sum(2)
    torch.testing.assert_close(kernels.square().sum(2), total / (total + 1e-4))
    with torch.no_grad():
        layer.gain.mul_(3)
    torch.testing.assert_close(layer.standardised().flatten(2), 3 * kernels)


def test_a_standardised_convolution_ignores_shift_and_scale_of_its_weights():
    like = ensemble.Conv2d(1, 1, 4, 3, padding=1)
    ensemble.initialise(like, (0,), 1.0)
    layer = StandardisedConv2d(like)
    before = layer(images())
    with torch.no_grad():
        layer.weight.mul_(5).add_(2)
    torch.testing.assert_close(layer(images()), before, rtol=1e-4, atol=1e-4)


def test_at_the_start_the_branches_are_shut():
    model = normaliser_free.NormaliserFreeResNet((0, 1), **SIZES)
    x = model.stem(images())
    for block in model.blocks:
        y = block(x)
        assert torch.equal(y, block.block._shortcut(x))
        x = y


def test_the_variance_is_as_expected():
    """With open branches and wide layers, but for some per cent that zeros at borders take away."""
    sizes = {"n": 3, "in_channels": 16, "widths": (64, 64, 128)}
    model = normaliser_free.NormaliserFreeResNet((0,), scale=1.0, alpha=0.5, **sizes).double()
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(4, 16, 48, 48, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        x = model.stem(x)[:, :, 2:-2, 2:-2]
        for block in model.blocks:
            assert x.var().item() == pytest.approx(block.expected, rel=0.12)
            x = block(x)
    ends = [block.expected for block in model.blocks]
    assert ends == pytest.approx([1, 1.25, 1.5, 1.75, 2, 2.25, 2.5, 1.5, 1.75])


def test_a_normaliser_free_block_is_its_equation_biases_included():
    torch.manual_seed(0)
    model = normaliser_free.NormaliserFreeResNet((0,), scale=0.7, alpha=0.3, **SIZES)
    outer, x = model.blocks[1], images().expand(-1, 4, -1, -1)
    first, second = outer.block.conv1, outer.block.conv2
    with torch.no_grad():
        first.bias.normal_()
        second.bias.normal_()
    w1, w2 = (conv.standardised()[0] for conv in (first, second))
    b1, b2 = (conv.bias.flatten() for conv in (first, second))
    conv = torch.nn.functional.conv2d

    def phi(values):
        return math.sqrt(2 / (1 - 1 / math.pi)) * values.clamp(min=0)

    inner = phi(conv(phi(x / math.sqrt(outer.expected)), w1, b1, padding=1))
    assert outer.expected == pytest.approx(1.09)
    torch.testing.assert_close(outer(x), x + 0.3 * 0.7 * conv(inner, w2, b2, padding=1))


def test_selu_starts_with_lecuns_weights_and_its_block_is_its_equation():
    model = normaliser_free.SelfNormalisingResNet((0,), **SIZES)
    he = models.ResNet(None, (0,), init_std=ensemble.he, **SIZES)
    torch.testing.assert_close(model.stem.weight, he.stem.weight / math.sqrt(2))
    block, x = model.blocks[0], images().expand(-1, 4, -1, -1)
    w1, w2 = (conv.weight[0] for conv in (block.block.conv1, block.block.conv2))
    conv, selu = torch.nn.functional.conv2d, torch.nn.functional.selu
    inner = conv(selu(conv(x, w1, padding=1)), w2, padding=1)
    torch.testing.assert_close(block(x), selu(inner + x))


@pytest.mark.parametrize("maker", MAKERS)
def test_members_do_not_mix_and_can_be_left_out(maker):
    model = maker((0, 1, 2), **SIZES)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(1)))
    together = model(images())
    together[:, 1].sum().backward()
    for p in model.parameters():
        apart = p.grad.unflatten(0, (3, -1))
        assert not apart[[0, 2]].any()
    members.keep(model, [2, 0], 3)
    torch.testing.assert_close(model(images()), together[:, [2, 0]], rtol=1e-4, atol=1e-5)
