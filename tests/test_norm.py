"""BatchNorm against torch's own, closed forms, finite differences, and its own statistics."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from bnbook.errors import BnbookError
from bnbook.norm import BatchNorm

SHAPES = {"1d": (12, 5), "sequence": (6, 5, 7), "2d": (4, 5, 3, 2)}
TOLERANCE = {torch.float32: 2e-5, torch.float64: 1e-11}


def theirs_for(shape):
    return nn.BatchNorm2d if len(shape) == 4 else nn.BatchNorm1d


def pair(shape, dtype):
    """Ours and torch's, with the same random parameters."""
    ours, theirs = BatchNorm(shape[1]).to(dtype), theirs_for(shape)(shape[1]).to(dtype)
    with torch.no_grad():
        theirs.weight.normal_()
        theirs.bias.normal_()
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


@pytest.mark.parametrize("steps", [1, 10, 100])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_agrees_with_torch_after_steps(shape, dtype, steps):
    torch.manual_seed(steps)
    ours, theirs = pair(shape, dtype)
    close = {"rtol": TOLERANCE[dtype], "atol": TOLERANCE[dtype]}
    for _ in range(steps):
        x = 2 * torch.randn(shape, dtype=dtype) + 3
        cotangent = torch.randn(shape, dtype=dtype)
        outcomes = []
        for layer in (ours, theirs):
            inputs = x.clone().requires_grad_()
            y = layer(inputs)
            gradients = torch.autograd.grad(
                (y * cotangent).sum(), [inputs, layer.weight, layer.bias]
            )
            outcomes.append((y, *gradients))
    for mine, reference in zip(*outcomes, strict=True):
        torch.testing.assert_close(mine, reference, **close)
    torch.testing.assert_close(ours.running_mean, theirs.running_mean, **close)
    torch.testing.assert_close(ours.running_var, theirs.running_var, **close)
    assert ours.num_batches_tracked == theirs.num_batches_tracked == steps
    ours.eval()
    theirs.eval()
    torch.testing.assert_close(ours(x), theirs(x), **close)


@pytest.mark.parametrize("steps", [1, 10, 100])
def test_running_statistics_in_closed_form(steps):
    # The same batch {0, 2} each time: mean 1, unbiased variance 2, from 0 and 1 at the start.
    layer = BatchNorm(1, momentum=0.1).double()
    x = torch.tensor([[0.0], [2.0]], dtype=torch.float64)
    for _ in range(steps):
        layer(x)
    left = 0.9**steps
    assert layer.running_mean.item() == pytest.approx(1 - left, rel=1e-12)
    assert layer.running_var.item() == pytest.approx(2 - left, rel=1e-12)


def test_normalised_values_in_closed_form():
    layer = BatchNorm(1, eps=1.0).double()
    with torch.no_grad():
        layer.weight.fill_(3.0)
        layer.bias.fill_(5.0)
    y = layer(torch.tensor([[-1.0], [1.0]], dtype=torch.float64).mul(3**0.5))
    # The biased variance is 3, so the root is 2 and y = 5 -+ 3 sqrt(3) / 2.
    expected = torch.tensor([[-1.0], [1.0]], dtype=torch.float64) * 3 * 3**0.5 / 2 + 5
    torch.testing.assert_close(y, expected)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_gradients_against_finite_differences(shape, training):
    torch.manual_seed(0)
    layer = BatchNorm(shape[1]).double().train(training)
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    cotangent = torch.randn(shape, dtype=torch.float64)
    weight = torch.randn(shape[1], dtype=torch.float64, requires_grad=True)
    bias = torch.randn(shape[1], dtype=torch.float64, requires_grad=True)

    def weighted(x, weight, bias):
        parameters = {"weight": weight, "bias": bias}
        return (cotangent * torch.func.functional_call(layer, parameters, (x,))).sum()

    assert torch.autograd.gradcheck(weighted, (x, weight, bias))


def test_the_gradient_through_a_sum_is_zero_and_proves_nothing():
    x = torch.randn(8, 3, dtype=torch.float64, requires_grad=True)
    layer = BatchNorm(3).double()
    (through_sum,) = torch.autograd.grad(layer(x).sum(), x)
    (through_cotangent,) = torch.autograd.grad((layer(x) * torch.randn(8, 3)).sum(), x)
    assert through_sum.abs().max() < 1e-14
    assert through_cotangent.abs().max() > 1e-2


@settings(max_examples=60, deadline=None)
@given(
    scale=st.floats(1e-3, 1e3),
    shift=st.floats(-10, 10),
    n=st.integers(2, 40),
    features=st.integers(1, 6),
    seed=st.integers(0, 2**31),
)
def test_first_two_moments(scale, shift, n, features, seed):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, features, dtype=torch.float64, generator=generator)
    var = x.var(0, unbiased=False)
    layer = BatchNorm(features, eps=1e-5).double()
    y = layer(scale * (x + shift))
    expected = scale**2 * var / (scale**2 * var + 1e-5)
    torch.testing.assert_close(y.mean(0), torch.zeros(features).double(), atol=1e-9, rtol=0)
    torch.testing.assert_close(y.var(0, unbiased=False), expected, rtol=1e-6, atol=1e-12)


def test_state_dicts_load_both_ways():
    ours, theirs = BatchNorm(4), nn.BatchNorm2d(4)
    theirs(torch.randn(3, 4, 2, 2))
    assert ours.load_state_dict(theirs.state_dict()).missing_keys == []
    assert theirs.load_state_dict(ours.state_dict()).unexpected_keys == []
    assert {n: (t.shape, t.dtype) for n, t in ours.state_dict().items()} == {
        n: (t.shape, t.dtype) for n, t in theirs.state_dict().items()
    }


def test_evaluation_depends_on_no_batch_mate_and_moves_nothing():
    layer = BatchNorm(3)
    layer(torch.randn(10, 3))
    layer.eval()
    before = {name: t.clone() for name, t in layer.state_dict().items()}
    x = torch.randn(5, 3)
    torch.testing.assert_close(layer(x)[:1], layer(x[:1]), rtol=0, atol=0)
    assert all(torch.equal(before[name], t) for name, t in layer.state_dict().items())


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"num_features": 0}, "num_features must be at least 1 and whole, found 0"),
        ({"num_features": 3, "eps": 0.0}, "eps must be positive, found 0.0"),
        ({"num_features": 3, "momentum": 1.5}, "momentum must lie in [0, 1] or be None, found 1.5"),
    ],
)
def test_impossible_parameters(arguments, says):
    with pytest.raises(BnbookError) as error:
        BatchNorm(**arguments)
    assert says in str(error.value)


@pytest.mark.parametrize("shape", [(1, 3), (1, 3, 1, 1)])
def test_one_value_has_no_variance(shape):
    layer = BatchNorm(3)
    with pytest.raises(BnbookError, match="two or more values to have a variance, found 1"):
        layer(torch.ones(shape))
    assert layer.num_batches_tracked == 0
    assert layer.eval()(torch.ones(shape)).shape == shape


def test_one_image_has_many_positions():
    assert BatchNorm(3)(torch.randn(1, 3, 2, 2)).abs().max() > 0.1


@pytest.mark.parametrize("shape", [(3,), (4, 2), (2, 3, 1, 1, 1)])
def test_shapes_that_do_not_fit(shape):
    with pytest.raises(BnbookError, match=r"x must have shape \(N, 3\)"):
        BatchNorm(3)(torch.ones(shape))
