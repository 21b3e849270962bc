"""LeanBatchNorm against BatchNorm: values, gradients of two orders, statistics, what it keeps."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.autograd.graph import saved_tensors_hooks

from bnbook import formulas
from bnbook.errors import BnbookError
from bnbook.layers import lean
from bnbook.layers.norm import BatchNorm, LeanBatchNorm

SHAPES = {"1d": (7, 4), "sequence": (5, 4, 3), "2d": (3, 4, 2, 5), "m = 2": (2, 4)}
CLOSE = {"rtol": 1e-10, "atol": 1e-10}


def pair(features, dtype=torch.float64, **settings):
    """Both layers with the same random parameters."""
    plain = BatchNorm(features, **settings).to(dtype)
    for parameter in plain.parameters():
        nn.init.normal_(parameter)
    ours = LeanBatchNorm(features, **settings).to(dtype)
    ours.load_state_dict(plain.state_dict())
    return plain, ours


def gradients(layer, x, cotangent, second):
    """Output, gradients of its product with the cotangent, and theirs with another one."""
    leaves = [x.clone().requires_grad_(), cotangent.clone().requires_grad_()]
    leaves += layer.parameters()
    y = layer(leaves[0])
    first = torch.autograd.grad((y * leaves[1]).sum(), leaves, create_graph=True)
    loss = sum((g * torch.cos(second * (1 + k) + torch.arange(g.numel()).view_as(g))).sum()
               for k, g in enumerate(first))  # fmt: skip
    return y, *first, *torch.autograd.grad(loss, leaves, allow_unused=True, materialize_grads=True)


@pytest.mark.parametrize("settings", [{}, {"affine": False}, {"momentum": None, "eps": 0.1}])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_values_and_gradients_of_two_orders_are_those_of_batch_norm(shape, settings):
    torch.manual_seed(0)
    plain, ours = pair(4, **settings)
    for step in range(3):
        x = (step + 2) * torch.randn(shape, dtype=torch.float64) + 3
        cotangent = torch.randn_like(x)
        found, expected = (gradients(layer, x, cotangent, step) for layer in (ours, plain))
        for mine, theirs in zip(found, expected, strict=True):
            torch.testing.assert_close(mine, theirs, **CLOSE)
    for mine, theirs in zip(ours.buffers(), plain.buffers(), strict=True):
        torch.testing.assert_close(mine, theirs, **CLOSE)
    found, expected = (gradients(layer.eval(), x, cotangent, 9) for layer in (ours, plain))
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs, **CLOSE)


@pytest.mark.parametrize("shape", [(4, 2), (2, 2, 3), (2, 2, 2, 2)])
def test_finite_differences_of_two_orders(shape):
    torch.manual_seed(0)
    layer = LeanBatchNorm(2).double()
    arguments = [
        torch.randn(size, dtype=torch.float64, requires_grad=True) for size in (shape, 2, 2)
    ]

    def of(x, weight, bias):
        parameters = {"weight": weight, "bias": bias}
        return torch.func.functional_call(layer, parameters, (x,))

    assert torch.autograd.gradcheck(of, arguments)
    assert torch.autograd.gradgradcheck(of, arguments)


def test_the_gradient_is_the_formulas_one_line():
    torch.manual_seed(0)
    _, ours = pair(4)
    x, dy = torch.randn(2, 9, 4, dtype=torch.float64)
    leaf = x.clone().requires_grad_()
    found = torch.autograd.grad((ours(leaf) * dy).sum(), [leaf, ours.weight, ours.bias])
    gamma, beta = (p.detach().numpy() for p in (ours.weight, ours.bias))
    _, cache = formulas.batch_norm_forward(x.numpy(), gamma, beta, ours.eps)
    for mine, theirs in zip(found, formulas.batch_norm_backward(dy.numpy(), cache), strict=True):
        torch.testing.assert_close(mine, torch.tensor(theirs), **CLOSE)


def test_a_backward_pass_that_forgets_the_variance_is_seen(monkeypatch):
    right = lean._gradients

    def without_variance(dy, x, weight, mu, root):
        centred = dy - dy.mean(0)
        _, *rest = right(dy, x, weight, mu, root)
        return weight * root * centred, *rest

    plain, ours = pair(4)
    x, cotangent = torch.randn(2, 7, 4, dtype=torch.float64)
    monkeypatch.setattr(lean, "_gradients", without_variance)
    found, expected = (gradients(layer, x, cotangent, 0) for layer in (ours, plain))
    same = [torch.allclose(a, b, **CLOSE) for a, b in zip(found, expected, strict=True)]
    assert same[:5] == [True, False, True, True, True]


@settings(max_examples=40, deadline=None)
@given(mean=st.floats(-1e4, 1e4), seed=st.integers(0, 99), layer=st.sampled_from([0, 1]))
def test_a_large_mean_in_float32_costs_digits_in_proportion_not_squared(mean, seed, layer):
    """A one-pass variance would lose all digits at a mean of 10,000 standard deviations."""
    torch.manual_seed(seed)
    exact, (plain, ours) = pair(4)[0], pair(4, torch.float32)
    exact.load_state_dict(plain.state_dict())
    x, cotangent = mean + torch.randn(60, 4), torch.randn(60, 4)
    found = gradients((plain, ours)[layer], x, cotangent, 0)[:2]
    expected = gradients(exact, x.double(), cotangent.double(), 0)[:2]
    rounding = torch.finfo(torch.float32).eps * (abs(mean) + 50) * (1 + exact.weight.abs().max())
    for mine, right in zip(found, expected, strict=True):
        assert (mine - right).abs().max() < rounding


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_in_with_statistics_and_gradients_in_float32(dtype):
    torch.manual_seed(0)
    plain, ours = pair(4, torch.float32)
    x = (3 * torch.randn(50, 4) + 100).to(dtype)
    cotangent = torch.randn(50, 4).to(dtype)
    mu, var = lean.moments(x)
    assert mu.dtype == var.dtype == torch.float32
    leaf = x.clone().requires_grad_()
    y = ours(leaf)
    to_x, to_weight, to_bias = torch.autograd.grad(y, [leaf, ours.weight, ours.bias], cotangent)
    assert (y.dtype, to_x.dtype, to_weight.dtype) == (dtype, dtype, torch.float32)
    z, *expected = gradients(plain, x.float(), cotangent.float(), 0)[:5]
    torch.testing.assert_close(y, z.to(dtype))
    torch.testing.assert_close(to_x, expected[0].to(dtype))
    torch.testing.assert_close((to_weight, to_bias), (expected[2], expected[3]))
    torch.testing.assert_close(ours.running_var, plain.running_var)


def kept(layer, x):
    """Bytes of the distinct storages kept for the backward pass, the input's own left out."""
    sizes = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        y = layer(x)
    own = [x, *layer.parameters()]
    for tensor in own:
        sizes.pop(tensor.untyped_storage().data_ptr(), None)
    assert y.requires_grad
    return sum(sizes.values())


def test_it_keeps_the_input_and_two_numbers_for_each_feature():
    x = torch.randn(50, 4, 3, requires_grad=True)
    assert kept(LeanBatchNorm(4), x) == 2 * 4 * 4  # mean and variance; gamma is the layer's own
    assert kept(BatchNorm(4), x) > x.numel() * 4
    half = torch.randn(50, 4, 3, dtype=torch.bfloat16, requires_grad=True)
    assert kept(LeanBatchNorm(4), half) == 2 * 4 * 4


def test_gradients_that_nobody_wants():
    layer = LeanBatchNorm(3)
    y = layer(torch.randn(5, 3))
    to_weight = torch.autograd.grad(y.square().sum(), layer.weight)
    assert to_weight[0].shape == (3,)
    for parameter in layer.parameters():
        parameter.requires_grad_(False)
    assert not layer(torch.randn(5, 3)).requires_grad


def test_it_refuses_what_batch_norm_refuses():
    with pytest.raises(BnbookError, match="two or more values"):
        LeanBatchNorm(3)(torch.ones(1, 3))
    with pytest.raises(BnbookError, match="floating point, found dtype"):
        LeanBatchNorm(3)(torch.ones(2, 3, dtype=torch.int64))
    assert LeanBatchNorm(3).eval()(torch.ones(1, 3)).shape == (1, 3)


def test_it_keeps_channels_last():
    x = torch.randn(3, 4, 5, 5).to(memory_format=torch.channels_last).requires_grad_()
    y = LeanBatchNorm(4)(x)
    (to_x,) = torch.autograd.grad(y.square().sum(), x)
    for made in (y, to_x):
        assert made.is_contiguous(memory_format=torch.channels_last)
