"""BatchNorm against torch's own, closed forms, finite differences, and its own statistics."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from bnbook.errors import BnbookError
from bnbook.layers.norm import BatchNorm, FusedBatchNorm, LeanBatchNorm
from tests import rounding

SHAPES = {"1d": (12, 5), "sequence": (6, 5, 7), "2d": (4, 5, 3, 2)}
TOLERANCE = {torch.float32: 2e-5, torch.float64: 1e-11}


def theirs_for(shape):
    return nn.BatchNorm2d if len(shape) == 4 else nn.BatchNorm1d


NORMS = [BatchNorm, FusedBatchNorm, LeanBatchNorm]


def pair(kind, shape, dtype):
    """Ours and torch's, with the same random parameters."""
    ours, theirs = kind(shape[1]).to(dtype), theirs_for(shape)(shape[1]).to(dtype)
    with torch.no_grad():
        theirs.weight.normal_()
        theirs.bias.normal_()
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


@pytest.mark.parametrize("steps", [1, 10, 100])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("kind", NORMS)
def test_agrees_with_torch_after_steps(kind, shape, dtype, steps):
    torch.manual_seed(steps)
    ours, theirs = pair(kind, shape, dtype)
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


@pytest.mark.parametrize("kind", NORMS)
@pytest.mark.parametrize("steps", [1, 10, 100])
def test_running_statistics_in_closed_form(steps, kind):
    # The same batch {0, 2} each time: mean 1, unbiased variance 2, from 0 and 1 at the start.
    layer = kind(1, momentum=0.1).double()
    x = torch.tensor([[0.0], [2.0]], dtype=torch.float64)
    for _ in range(steps):
        layer(x)
    left = 0.9**steps
    assert layer.running_mean.item() == pytest.approx(1 - left, rel=1e-12)
    assert layer.running_var.item() == pytest.approx(2 - left, rel=1e-12)


@pytest.mark.parametrize("kind", NORMS)
def test_normalised_values_in_closed_form(kind):
    layer = kind(1, eps=1.0).double()
    with torch.no_grad():
        layer.weight.fill_(3.0)
        layer.bias.fill_(5.0)
    y = layer(torch.tensor([[-1.0], [1.0]], dtype=torch.float64).mul(3**0.5))
    # The biased variance is 3, so the root is 2 and y = 5 -+ 3 sqrt(3) / 2.
    expected = torch.tensor([[-1.0], [1.0]], dtype=torch.float64) * 3 * 3**0.5 / 2 + 5
    torch.testing.assert_close(y, expected)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("kind", NORMS)
def test_gradients_against_finite_differences(kind, shape, training):
    torch.manual_seed(0)
    layer = kind(shape[1]).double().train(training)
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    cotangent = torch.randn(shape, dtype=torch.float64)
    weight = torch.randn(shape[1], dtype=torch.float64, requires_grad=True)
    bias = torch.randn(shape[1], dtype=torch.float64, requires_grad=True)

    def weighted(x, weight, bias):
        parameters = {"weight": weight, "bias": bias}
        return (cotangent * torch.func.functional_call(layer, parameters, (x,))).sum()

    assert torch.autograd.gradcheck(weighted, (x, weight, bias))


@pytest.mark.parametrize("kind", NORMS)
def test_the_gradient_through_a_sum_is_zero_and_proves_nothing(kind):
    x = torch.randn(8, 3, dtype=torch.float64, requires_grad=True)
    layer = kind(3).double()
    (through_sum,) = torch.autograd.grad(layer(x).sum(), x)
    (through_cotangent,) = torch.autograd.grad((layer(x) * torch.randn(8, 3)).sum(), x)
    s = (x.var(0, correction=0) + layer.eps).sqrt()
    terms = rounding.gradient_terms(x, torch.ones(8, 3), s)
    rounding.assert_close(through_sum, torch.zeros(8, 3), terms, roundings=3 * 8 + 20)
    assert through_cotangent.abs().max() > 1e-2


@settings(max_examples=60, deadline=None)
@given(
    kind=st.sampled_from(NORMS),
    exponent=st.floats(-6, 6),
    shift=st.floats(-10, 10),
    n=st.integers(2, 40),
    features=st.integers(1, 6),
    positions=st.sampled_from([(), (1,), (5,), (2, 3)]),
    eps=st.sampled_from([1e-5, 1e-3, 1.0]),
    seed=st.integers(0, 2**31),
)
def test_first_two_moments(kind, exponent, shift, n, features, positions, eps, seed):
    """Mean 0 and variance s^2/(s^2 + eps), from scales of 1e-6, all eps, to 1e6."""
    generator, scale = torch.Generator().manual_seed(seed), 10.0**exponent
    x = torch.randn(n, features, *positions, dtype=torch.float64, generator=generator)
    over = (0, *range(2, x.dim()))
    var = x.var(over, correction=0)
    y = kind(features, eps=eps).double()(scale * (x + shift))
    expected = scale**2 * var / (scale**2 * var + eps)
    torch.testing.assert_close(y.mean(over), torch.zeros(features).double(), atol=1e-9, rtol=0)
    torch.testing.assert_close(y.var(over, correction=0), expected, rtol=1e-6, atol=1e-12)


@settings(max_examples=40, deadline=None)
@given(
    kind=st.sampled_from(NORMS),
    dtype=st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64]),
    value=st.floats(-1e4, 1e4),
    n=st.integers(2, 9),
)
def test_a_constant_feature_gives_the_shift(kind, dtype, value, n):
    """Its variance is 0; eps keeps the output and the gradients finite."""
    layer = kind(2).to(torch.promote_types(dtype, torch.float32))
    with torch.no_grad():
        layer.bias.copy_(torch.tensor([3.0, -1.0]))
    x = torch.full((n, 2), value).to(dtype)
    x[:, 1] = torch.arange(n) % 2
    x.requires_grad_()
    y = layer(x)
    # Four roundings, of x, of the mean and of their products, each divided by the root of eps.
    rounding = 4 * layer.eps**-0.5 * torch.finfo(layer.weight.dtype).eps * (1 + abs(value))
    assert (y.detach()[:, 0].float() - 3).abs().max() <= rounding
    (to_x,) = torch.autograd.grad(y, x, torch.randn_like(y))
    assert to_x.isfinite().all()
    assert layer.running_var[0] <= 0.9 + rounding**2


@settings(max_examples=30, deadline=None)
@given(kind=st.sampled_from(NORMS), a=st.floats(-100, 100), b=st.floats(-100, 100))
def test_a_minibatch_of_two_is_a_sign(kind, a, b):
    """With m = 2, xhat is +-d / sqrt(d^2 + eps), d half the difference; running variance 2 d^2."""
    layer, d = kind(1, momentum=1.0).double(), (a - b) / 2
    y = layer(torch.tensor([[a], [b]], dtype=torch.float64))
    expected = torch.tensor([[d], [-d]], dtype=torch.float64) / (d * d + 1e-5) ** 0.5
    torch.testing.assert_close(y.detach(), expected, rtol=1e-9, atol=1e-9)
    assert layer.running_var.item() == pytest.approx(2 * d * d, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("steps", [1, 10, 100])
@pytest.mark.parametrize("kind", NORMS)
def test_momentum_none_weighs_every_minibatch_alike(kind, steps):
    """Minibatch t is {t - 1, t + 1}: mean t, unbiased variance 2; the start is forgotten."""
    layer = kind(1, momentum=None).double()
    theirs = nn.BatchNorm1d(1, momentum=None).double()
    for t in range(1, steps + 1):
        x = torch.tensor([[t - 1.0], [t + 1.0]], dtype=torch.float64)
        layer(x)
        theirs(x)
    assert layer.running_mean.item() == pytest.approx((steps + 1) / 2, rel=1e-12)
    assert layer.running_var.item() == pytest.approx(2, rel=1e-12)
    assert layer.num_batches_tracked == theirs.num_batches_tracked == steps
    torch.testing.assert_close(layer.running_mean, theirs.running_mean)


@pytest.mark.parametrize("kind", NORMS)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("settings", [{"affine": False}, {"track_running_stats": False},
                                      {"affine": False, "track_running_stats": False}])  # fmt: skip
def test_without_scale_or_running_statistics_as_torch(kind, settings, training):
    ours, theirs = kind(3, **settings).double(), nn.BatchNorm1d(3, **settings).double()
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    for layer in (ours, theirs):
        layer(torch.arange(15.0).view(5, 3).double())
    x = torch.randn(5, 3, dtype=torch.float64)
    torch.testing.assert_close(ours.train(training)(x), theirs.train(training)(x))
    assert len(list(ours.parameters())) == (2 if settings.get("affine", True) else 0)
    if not training and "track_running_stats" in settings:
        with pytest.raises(BnbookError, match="two or more values"):
            ours(x[:1])


@pytest.mark.parametrize("kind", [BatchNorm, FusedBatchNorm, LeanBatchNorm])
@pytest.mark.parametrize("own", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("given", [torch.float16, torch.bfloat16, torch.float32])
def test_the_seventy_thousandth_batch_still_counts(kind, own, given):
    """float16 ends at 65,504, bfloat16 counts to 256 only; 1/70,000 is a number in both."""
    layer = kind(1, momentum=None).to(own)
    layer.num_batches_tracked.fill_(70_000 - 1)
    layer(torch.tensor([[999.0], [1001.0]]).to(given))
    mean = torch.tensor([999.0, 1001.0]).to(given).double().mean().item()
    rounding = 4 * torch.finfo(own).eps + 2.0**-24 / (1 / 70_000)  # the weight may be subnormal
    assert layer.running_mean.item() == pytest.approx(mean / 70_000, rel=rounding)


TYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


@pytest.mark.parametrize("own", TYPES)
@pytest.mark.parametrize("given", TYPES)
@pytest.mark.parametrize("kind", [BatchNorm, FusedBatchNorm, LeanBatchNorm])
def test_any_two_types_go_together(kind, given, own):
    """Input and layer of different types: torch's kernel refuses eleven of the sixteen pairs."""
    torch.manual_seed(0)
    layer = kind(3).to(own)
    with torch.no_grad():
        layer.weight.uniform_(0.5, 2)
        layer.bias.normal_()
    exact = BatchNorm(3).double()
    exact.load_state_dict(layer.state_dict())
    for training in (True, False):
        x = torch.randn(40, 3).to(given)
        dy = torch.randn(40, 3).to(given)
        found = _outcome(layer.train(training), x, dy)
        right = _outcome(exact.train(training), x.double(), dy.double())
        assert found[0].dtype == found[1].dtype == given
        assert layer.weight.dtype == layer.running_mean.dtype == own
        # Each of the 40 terms of a sum and each of a few operations rounds once, in the coarser
        # of the two types.
        eps = max(torch.finfo(given).eps, torch.finfo(own).eps)
        for mine, theirs in zip(found, right, strict=True):
            error = (mine.double() - theirs).abs().max()
            assert error <= 8 * eps * theirs.abs().max() * 40**0.5


def _outcome(layer, x, dy):
    leaf = x.clone().requires_grad_()
    y = layer(leaf)
    leaves = [leaf, layer.weight, layer.bias]
    statistics = [layer.running_mean.clone(), layer.running_var.clone()]
    return [y.detach(), *torch.autograd.grad((y * dy).sum(), leaves), *statistics]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("whole", [False, True], ids=["input", "input and layer"])
@pytest.mark.parametrize("kind", [BatchNorm, LeanBatchNorm])
def test_half_precision_has_statistics_in_float32(kind, whole, dtype):
    """A mean of 100 with deviations of 1: bfloat16 has no digit for the squares."""
    torch.manual_seed(0)
    x = (100 + torch.randn(500, 3)).to(dtype)
    layer, exact = kind(3), BatchNorm(3).double()
    layer = layer.to(dtype) if whole else layer
    y, expected = layer(x), exact(x.double())
    assert y.dtype == dtype
    torch.testing.assert_close(y.double(), expected, rtol=2 * torch.finfo(dtype).eps, atol=1e-2)
    kept = layer.running_var.double()
    assert layer.running_var.dtype == (dtype if whole else torch.float32)
    rounding = torch.finfo(layer.running_var.dtype).eps + 1e-6
    torch.testing.assert_close(kept, exact.running_var, rtol=rounding, atol=0)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("kind", NORMS)
def test_channels_last_changes_no_value(kind, training):
    torch.manual_seed(0)
    layer = kind(4).double().train(training)
    x, cotangent = torch.randn(2, 3, 4, 5, 6, dtype=torch.float64)
    outcomes = []
    for layout in (torch.contiguous_format, torch.channels_last):
        leaf = x.to(memory_format=layout).requires_grad_()
        y = layer(leaf)
        outcomes.append((y, *torch.autograd.grad((y * cotangent).sum(), [leaf, layer.weight])))
        assert y.is_contiguous(memory_format=layout)
    for plain, laid_out in zip(*outcomes, strict=True):
        torch.testing.assert_close(laid_out, plain, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("kind", NORMS)
@pytest.mark.parametrize("shape", [(4, 2), (2, 2, 3), (2, 2, 2, 2)])
def test_second_gradients_against_finite_differences(shape, kind, training):
    torch.manual_seed(0)
    layer = kind(2).double().train(training)
    sizes = (shape, (2,), (2,))
    arguments = [torch.randn(size, dtype=torch.float64, requires_grad=True) for size in sizes]

    def of(x, weight, bias):
        parameters = {"weight": weight, "bias": bias}
        return torch.func.functional_call(layer, parameters, (x,))

    assert torch.autograd.gradgradcheck(of, arguments)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("kind", NORMS)
def test_what_is_not_finite_spreads_over_its_feature_and_no_further(kind, value):
    """It is passed on, not refused: a look at every value would wait for a GPU at every layer."""
    layer, x = kind(3), torch.randn(5, 3)
    x[2, 1] = value
    y = layer(x)
    assert y[:, 1].isnan().all()
    assert y[:, [0, 2]].isfinite().all()
    assert layer.running_mean.isfinite().tolist() == [True, False, True]


@pytest.mark.parametrize("kind", NORMS)
def test_state_dicts_load_both_ways(kind):
    ours, theirs = kind(4), nn.BatchNorm2d(4)
    theirs(torch.randn(3, 4, 2, 2))
    assert ours.load_state_dict(theirs.state_dict()).missing_keys == []
    assert theirs.load_state_dict(ours.state_dict()).unexpected_keys == []
    assert {n: (t.shape, t.dtype) for n, t in ours.state_dict().items()} == {
        n: (t.shape, t.dtype) for n, t in theirs.state_dict().items()
    }


@pytest.mark.parametrize("kind", NORMS)
def test_evaluation_depends_on_no_batch_mate_and_moves_nothing(kind):
    layer = kind(3)
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
        ({"num_features": 3.0}, "num_features must be at least 1 and whole, found 3.0"),
        ({"num_features": True}, "num_features must be at least 1 and whole, found True"),
        ({"num_features": "3"}, "num_features must be at least 1 and whole, found '3'"),
        ({"num_features": 3, "eps": 0.0}, "eps must be positive, found 0.0"),
        ({"num_features": 3, "eps": -1e-5}, "eps must be positive, found -1e-05"),
        ({"num_features": 3, "eps": math.nan}, "eps must be positive, found nan"),
        ({"num_features": 3, "eps": None}, "eps must be positive, found None"),
        ({"num_features": 3, "momentum": 1.5}, "momentum must lie in [0, 1] or be None, found 1.5"),
        ({"num_features": 3, "momentum": -0.1}, "[0, 1] or be None, found -0.1"),
        ({"num_features": 3, "momentum": math.nan}, "[0, 1] or be None, found nan"),
        ({"num_features": 3, "momentum": "0.1"}, "[0, 1] or be None, found '0.1'"),
    ],
)
@pytest.mark.parametrize("kind", NORMS)
def test_impossible_parameters(kind, arguments, says):
    with pytest.raises(BnbookError) as error:
        kind(**arguments)
    assert says in str(error.value)


@pytest.mark.parametrize("shape", [(1, 3), (1, 3, 1, 1)])
@pytest.mark.parametrize("kind", NORMS)
def test_one_value_has_no_variance(kind, shape):
    layer = kind(3)
    with pytest.raises(BnbookError, match="two or more values to have a variance, found 1"):
        layer(torch.ones(shape))
    assert layer.num_batches_tracked == 0
    assert layer.eval()(torch.ones(shape)).shape == shape


@pytest.mark.parametrize("kind", NORMS)
def test_one_image_has_many_positions(kind):
    assert kind(3)(torch.randn(1, 3, 2, 2)).abs().max() > 0.1


@pytest.mark.parametrize("shape", [(3,), (4, 2), (2, 3, 1, 1, 1)])
def test_shapes_that_do_not_fit(shape):
    for kind in NORMS:
        with pytest.raises(BnbookError, match=r"x must have shape \(N, 3\)"):
            kind(3)(torch.ones(shape))


@pytest.mark.parametrize(
    ("x", "says"),
    [
        (torch.ones(2, 3, dtype=torch.int64), "floating point, found dtype torch.int64; try"),
        (torch.ones(2, 3, dtype=torch.complex64), "floating point, found dtype torch.complex64"),
        (torch.ones(2, 3, dtype=torch.bool), "floating point, found dtype torch.bool"),
        (torch.ones(0, 3), "found 0, x of shape (0, 3)"),
        ([[1.0, 2.0, 3.0]], "x must be a torch.Tensor, found list"),
    ],
)
@pytest.mark.parametrize("kind", NORMS)
def test_inputs_that_are_refused(kind, x, says):
    layer = kind(3)
    with pytest.raises(BnbookError) as error:
        layer(x)
    assert says in str(error.value)
    assert layer.num_batches_tracked == 0


# What users bring: old checkpoints, half precision, extreme values


@pytest.mark.parametrize("kind", [*NORMS, nn.BatchNorm1d])
def test_checkpoints_of_before_batches_were_counted_load(kind):
    old = {"0.weight": torch.full((3,), 2.0), "0.bias": torch.zeros(3),
           "0.running_mean": torch.ones(3), "0.running_var": torch.ones(3)}  # fmt: skip
    model = nn.Sequential(kind(3))
    model[0](torch.randn(4, 3))
    assert model.load_state_dict(old) == ([], [])
    assert model[0].running_mean.tolist() == [1, 1, 1]
    assert model[0].num_batches_tracked == 1, "kept, as in torch"


@pytest.mark.parametrize("kind", NORMS)
def test_the_running_variance_of_half_precision_is_cast_last(kind):
    """Values of +-300: 0.9 + 0.1 * 90,000 * 64/63 = 9143.8; float16 ends at 65,504."""
    layer = kind(1).half()
    layer(torch.tensor([[300.0], [-300.0]]).half().repeat(32, 1))
    right = 0.9 + 0.1 * 300**2 * 64 / 63
    assert layer.running_var.item() == pytest.approx(right, rel=2.0**-11)
    assert layer.running_var.dtype == torch.float16


LARGEST = {torch.float16: 65504.0, torch.bfloat16: 1e17}


@pytest.mark.parametrize("dtype", LARGEST)
@pytest.mark.parametrize("kind", [BatchNorm, LeanBatchNorm])
def test_half_precision_over_its_range(kind, dtype):
    """Constant features give the shift; two values give signs; float16 up to its largest."""
    large = LARGEST[dtype]
    layer = kind(3)
    with torch.no_grad():
        layer.bias.copy_(torch.tensor([5.0, 0, 0]))
    x = torch.tensor([[large, large, 1.0], [large, -large, -1.0]], dtype=dtype).repeat(500, 1)
    x.requires_grad_()
    y = layer(x)
    expected = torch.tensor([[5.0, 1, 1], [5, -1, -1]]).repeat(500, 1)
    torch.testing.assert_close(y.float(), expected, rtol=1e-5, atol=0)
    (to_x,) = torch.autograd.grad(y, x, torch.randn_like(y))
    assert to_x.isfinite().all()
    given = x.detach()[0, 1].double().item()
    assert layer.running_mean[0].item() == pytest.approx(0.1 * given, rel=1e-6)
    assert layer.running_var[1].item() == pytest.approx(0.1 * given**2 * 1000 / 999, rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", NORMS)
def test_a_mean_costs_its_share_of_the_precision(kind, dtype):
    """The documented range: a mean of a standard deviations costs a share of 2 eps a."""
    eps = torch.finfo(dtype).eps
    x = torch.randn(64, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for mean in (1.0, 1e2, 1e4):
        given = (x + mean).to(dtype)
        exact = given.double() - given.double().mean()
        exact /= (exact.square().mean() + 1e-5).sqrt()
        off = (kind(1).to(dtype)(given).double() - exact).abs().max().item()
        assert off <= 8 * eps * (1 + mean)


@pytest.mark.parametrize("shape", [(64, 1), (8, 1, 5, 5)])
@pytest.mark.parametrize("kind", NORMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_deviations_up_to_the_root_of_the_largest_number(kind, dtype, shape):
    """The documented range of each layer, to a factor of two; beyond it beta, and never NaN."""
    m = math.prod(shape)
    whatever_m = kind is LeanBatchNorm and dtype == torch.float32  # the sum is of doubles
    limit = torch.finfo(dtype).max ** 0.5 / (1 if whatever_m else m**0.5)
    signs = torch.ones(shape, dtype=dtype)
    signs[: shape[0] // 2] = -1
    for share, right in ((0.7, True), (2.0, whatever_m and None), (1.5 * m**0.5, False)):
        layer = kind(1).to(dtype)
        with torch.no_grad():
            layer.bias.fill_(3.0)
        x = (share * limit * signs).requires_grad_()
        y = layer(x)
        (to_x,) = torch.autograd.grad(y, x, torch.randn_like(y))
        assert to_x.isfinite().all()
        if right:
            torch.testing.assert_close(y, 3 + signs, rtol=4 * torch.finfo(dtype).eps, atol=0)
            assert layer.running_var.isfinite().all()
        elif right is False:
            assert (y == 3).all()
            assert layer.running_var.isinf().all()
        assert y.isfinite().all()


CONSTANTS = (1.0, 100.0, 1e4, 1e7, 7.3e9, 1e15, 1e30)


@pytest.mark.parametrize("shape", [(64, 1), (8, 1, 5, 5)])
@pytest.mark.parametrize("value", CONSTANTS)
def test_constant_features_far_from_zero(value, shape):
    """The documented limits: exact in the lean layer and in half precision, not in the others."""
    x = torch.full(shape, value)
    assert LeanBatchNorm(1)(x).abs().max() == 0
    assert BatchNorm(1)(x.bfloat16()).abs().max() == 0
    rounding = 2**-24 * value / 1e-5**0.5
    assert BatchNorm(1)(x).abs().max() <= min(1.0 + 1e-6, rounding)
    assert FusedBatchNorm(1)(x).abs().max() <= 64 * rounding, "its statistics are nobody's choice"


@pytest.mark.parametrize("shape", [(3,), (999,), (60, 12, 12)])
def test_a_constant_feature_is_off_by_the_error_of_its_mean(shape):
    """Of values with all their digits; beyond few of them the error is more than one rounding."""
    torch.manual_seed(0)
    value = torch.rand(200) * 10 ** torch.empty(200).uniform_(-1, 7)
    x = value.view(1, -1, *[1] * (len(shape) - 1)).repeat(shape[0], 1, *shape[1:])
    off = BatchNorm(200)(x).transpose(0, 1).flatten(1).abs().amax(1)
    error = (x.mean((0, *range(2, x.dim()))) - value).double()
    expected = error.abs() / (error**2 + 1e-5).sqrt()
    torch.testing.assert_close(off.double(), expected, rtol=1e-5, atol=1e-12)
    assert off.max() <= 1 + 1e-6
    roundings = (error.abs() / (2**-24 * value)).max()
    assert roundings <= 2 if len(x) == 3 else roundings > 3
    assert LeanBatchNorm(200)(x).abs().max() == 0


def test_where_the_sum_of_the_values_is_infinite():
    x = torch.full((64, 1), 3e38)
    assert BatchNorm(1)(x).isnan().all()
    assert LeanBatchNorm(1)(x).abs().max() == 0
    assert BatchNorm(1).double()(x.double()).abs().max() == 0


@pytest.mark.parametrize("kind", NORMS)
def test_all_three_are_batch_normalisation_to_torch(kind):
    assert isinstance(kind(3), nn.modules.batchnorm._BatchNorm)
    assert str(kind(3)) == (
        f"{kind.__name__}(3, eps=1e-05, momentum=0.1, affine=True, track_running_stats=True)"
    )


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own, in forward mode
@pytest.mark.parametrize("argnums", [0, (0, 1, 2)])
@pytest.mark.parametrize("kind", NORMS)
def test_second_and_third_derivatives_in_every_mode(kind, argnums):
    """Forward over backward, forward twice, backward over forward: those of backward twice.

    Backward twice is plain autograd's, row after row, which finite differences confirm above.
    """
    torch.manual_seed(0)
    layer = kind(2).double()
    x, cotangent = torch.randn(2, 4, 2, dtype=torch.float64)
    weight, bias = torch.randn(2, 2, dtype=torch.float64)

    def loss(x, weight, bias):
        state = {"weight": weight, "bias": bias}
        state |= {name: buffer.clone() for name, buffer in layer.named_buffers()}
        return (torch.func.functional_call(layer, state, (x,)).tanh() * cotangent).sum()

    f, b = torch.func.jacfwd, torch.func.jacrev
    at = x, weight, bias
    right = b(b(loss, argnums, chunk_size=1), argnums, chunk_size=1)(*at)
    for outer, inner in ((b, b), (f, b), (f, f), (b, f)):
        torch.testing.assert_close(outer(inner(loss, argnums), argnums)(*at), right)
    third = b(b(b(loss)))(*at)
    torch.testing.assert_close(f(f(b(loss)))(*at), third)


def test_third_derivatives_of_the_kernel_are_wrong_as_its_docstring_says():
    """Should torch mend it, this fails, and the docstring and the table of conventions go."""
    torch.manual_seed(0)
    x = torch.randn(6, 2, dtype=torch.float64, requires_grad=True)
    found = []
    for kind in NORMS:
        y = (kind(2).double()(x).tanh() * torch.arange(12.0).view(6, 2)).sum()
        for _ in range(3):
            (g,) = torch.autograd.grad(y, x, create_graph=True)
            y = g.square().sum()
            found.append(g.detach())
    right, fused, lean = found[:3], found[3:6], found[6:]
    torch.testing.assert_close(lean, right)
    torch.testing.assert_close(fused[:2], right[:2])
    assert (fused[2] - right[2]).abs().max() > 0.1 * right[2].abs().max()
