"""Moments and sums of gradient terms: by hand, by loops, and against autograd."""

import copy
import itertools

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from bnbook.errors import BnbookError
from bnbook.layers import ensemble, norm
from bnbook.networks import models
from bnbook.probes import moments
from tests import rounding


def batch(size=6, side=8):
    generator = torch.Generator().manual_seed(3)
    images = torch.randn((size, 3, side, side), generator=generator)
    return images, torch.randint(0, 10, (size,), generator=generator)


def resnet(layer=norm.BatchNorm, seeds=(0,)):
    return models.ResNet(layer, seeds, n=1, init_std=ensemble.xavier)


def test_moments_of_linear_layers_are_those_of_the_products():
    x = torch.tensor([[1.0, 0.0], [3.0, 4.0]], dtype=torch.float64)
    first, second = nn.Linear(2, 2, bias=False).double(), nn.Linear(2, 1, bias=False).double()
    with torch.no_grad():
        first.weight.copy_(torch.tensor([[1.0, 1.0], [2.0, 0.0]]))
        second.weight.copy_(torch.tensor([[1.0, -1.0]]))
    found = moments.channel_moments(nn.Sequential(first, second), [first, second], x)
    # W1 x = (1, 2) and (7, 6); W2 W1 x = -1 and 1.
    assert found[0].mean.tolist() == [4, 4]
    assert found[0].variance.tolist() == [9, 4]
    assert (found[1].mean.item(), found[1].variance.item()) == (0, 1)


def test_moments_take_batch_and_positions_together_and_the_biased_variance():
    layer = nn.Conv2d(3, 2, 1)
    images, _ = batch()
    (found,) = moments.channel_moments(nn.Sequential(layer), [layer], images)
    values = layer(images).transpose(0, 1).flatten(1)
    torch.testing.assert_close(found.mean, values.mean(1))
    torch.testing.assert_close(found.variance, values.var(1, correction=0))
    assert not torch.allclose(found.variance, values.var(1), rtol=1e-4)


def test_a_network_with_constant_outputs_has_no_variance():
    model = resnet(None)
    with torch.no_grad():
        model.stem.weight.zero_()
        model.stem.bias.fill_(2.0)
    (stem,) = moments.channel_moments(model, [model.stem], batch()[0])
    assert (stem.mean == 2).all()
    assert (stem.variance == 0).all()


def test_moments_are_those_of_a_training_batch_whatever_the_mode():
    model, (images, _) = resnet(), batch()
    layers = [*model.convolutions, model.output]
    seen = moments.channel_moments(model, layers, images)
    again = moments.channel_moments(model.eval(), layers, images)
    for one, other in zip(seen, again, strict=True):
        assert torch.equal(one.variance, other.variance)
    (normed,) = moments.channel_moments(model, [model.stem_norm], images)
    torch.testing.assert_close(normed.mean, torch.zeros(16), atol=1e-5, rtol=0)
    torch.testing.assert_close(normed.variance, torch.ones(16), atol=1e-3, rtol=0)


@pytest.mark.parametrize("training", [True, False])
def test_measuring_leaves_the_network_bit_by_bit(training):
    model, (images, labels) = resnet().train(training), batch()
    model(images).sum().backward()
    state, random = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    gradients = [p.grad.clone() for p in model.parameters()]
    moments.channel_moments(model, model.convolutions, images)
    moments.output_gradients(model, images, labels)
    moments.capture(model, model.convolutions, images, labels)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    for parameter, gradient in zip(model.parameters(), gradients, strict=True):
        assert torch.equal(parameter.grad, gradient)
    assert all(module.training is training for module in model.modules())
    assert all(not module._forward_hooks for module in model.modules())
    assert torch.equal(torch.get_rng_state(), random)


def test_gradients_of_the_outputs_are_softmax_less_indicator():
    model, (images, labels) = resnet(None, seeds=(0, 1)), batch()
    found = moments.output_gradients(model, images, labels)
    expected = model(images).softmax(-1) - F.one_hot(labels, 10)[:, None]
    torch.testing.assert_close(found, expected)
    rounding.assert_close(found.sum(-1), torch.zeros(6, 2), found.abs().sum(-1) + 1, roundings=20)


def test_gradients_of_the_outputs_are_those_of_each_images_loss():
    model, (images, labels) = resnet(), batch()
    found = moments.output_gradients(model, images, labels)
    outputs = model(images).detach().requires_grad_()
    F.cross_entropy(outputs[2], labels[2:3]).backward()
    torch.testing.assert_close(found[2], outputs.grad[2])
    assert (outputs.grad[3] == 0).all()


def test_terms_of_a_kernels_gradient_by_hand():
    inputs = torch.tensor([[[[1.0, -2.0], [3.0, 0.0]]], [[[2.0, 2.0], [-1.0, 1.0]]]])
    gradient = torch.tensor([[[[1.0, 1.0], [1.0, 2.0]]], [[[-1.0, 0.5], [1.0, 0.0]]]])
    found = moments.contributions(inputs, gradient, 1)
    # Image 1: 1 - 2 + 3 + 0 = 2, absolute 6; image 2: -2 + 1 - 1 + 0 = -2, absolute 4.
    assert found.total.item() == 0
    assert found.by_image.item() == 4
    assert found.absolute.item() == 10
    assert found.terms == 8


@pytest.mark.parametrize(("stride", "padding"), [(1, 1), (2, 1), (1, 0)])
def test_sums_of_terms_one_by_one(stride, padding):
    torch.manual_seed(1)
    inputs = torch.randn(3, 2, 5, 5, dtype=torch.float64)
    kernel = torch.randn(4, 2, 3, 3, dtype=torch.float64, requires_grad=True)
    outputs = F.conv2d(inputs, kernel, stride=stride, padding=padding)
    gradient = torch.randn_like(outputs)
    outputs.backward(gradient)
    padded = F.pad(inputs, (padding,) * 4)
    terms = torch.zeros(4, 2, 3, 3, 3, *outputs.shape[2:], dtype=torch.float64)
    for o, i, p, q, b, x, y in itertools.product(*map(range, terms.shape)):
        pixel = padded[b, i, stride * x + p, stride * y + q]
        terms[o, i, p, q, b, x, y] = gradient[b, o, x, y] * pixel
    found = moments.contributions(inputs, gradient, 3, stride, padding, chunk=2)
    torch.testing.assert_close(found.total, terms.sum((4, 5, 6)))
    torch.testing.assert_close(found.total, kernel.grad)
    torch.testing.assert_close(found.absolute, terms.abs().sum((4, 5, 6)))
    torch.testing.assert_close(found.by_image, terms.sum((5, 6)).abs().sum(4))
    assert found.terms == terms[0, 0, 0, 0].numel()


def test_terms_of_one_sign_do_not_cancel_and_opposite_ones_do():
    ones = torch.ones(4, 1, 3, 3)
    found = moments.contributions(ones, ones, 1)
    assert found.total.item() == found.by_image.item() == found.absolute.item() == 36
    signs = torch.tensor([1.0, -1.0, 1.0, -1.0]).view(4, 1, 1, 1)
    found = moments.contributions(ones, signs * ones, 1)
    assert (found.total.item(), found.by_image.item(), found.absolute.item()) == (0, 36, 36)


@pytest.mark.parametrize("layer", [None, norm.BatchNorm])
def test_captured_terms_add_up_to_the_gradient_of_training(layer):
    model, (images, labels) = resnet(layer), batch()
    captured = moments.capture(model, model.convolutions, images, labels)
    F.cross_entropy(model(images)[:, 0], labels).backward()
    for conv, seen in zip(model.convolutions, captured, strict=True):
        torch.testing.assert_close(seen.kernel_gradient, conv.weight.grad[0])
        sums = moments.contributions(
            seen.inputs, seen.output_gradient, 3, conv.stride, conv.padding
        )
        torch.testing.assert_close(sums.total.float(), conv.weight.grad[0], atol=1e-6, rtol=1e-4)
        assert (sums.total.abs() <= sums.by_image * (1 + 1e-12)).all()
        assert (sums.by_image <= sums.absolute * (1 + 1e-5)).all()


def test_bn_makes_the_gradient_of_its_input_sum_to_zero():
    images, labels = batch()
    for layer, zero in ((norm.BatchNorm, True), (None, False)):
        model = resnet(layer)
        (seen,) = moments.capture(model, [model.stem], images, labels)
        sums = seen.output_gradient.double().sum((0, 2, 3)).abs()
        sizes = seen.output_gradient.double().abs().sum((0, 2, 3))
        assert bool(((sums / sizes).max() < 1e-5).item()) is zero


def test_impossible_measurements():
    images, labels = batch()
    with pytest.raises(BnbookError, match="the model must have 1 member, found 2"):
        moments.capture(resnet(seeds=(0, 1)), [], images, labels)
    layer = nn.Linear(2, 2)
    with pytest.raises(BnbookError, match=r"used once in a pass, found \[2\] uses"):
        moments.channel_moments(nn.Sequential(layer, layer), [layer], torch.ones(3, 2))
    with pytest.raises(BnbookError, match=r"give 4 positions, the gradient of shape .* has 9"):
        moments.contributions(torch.ones(1, 1, 4, 4), torch.ones(1, 1, 3, 3), 3)
