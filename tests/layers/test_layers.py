"""Layers with a member axis, GroupNorm and LayerNorm: each member against torch.nn."""

from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from bnbook.errors import BnbookError
from bnbook.layers import ensemble
from bnbook.layers.norm import (
    BatchNorm,
    FusedBatchNorm,
    GroupNorm,
    InstanceNorm,
    LayerNorm,
    LeanBatchNorm,
    make_norm,
)

CLOSE = {"rtol": 1e-11, "atol": 1e-11}
SHAPES = {"1d": (6,), "sequence": (6, 5), "2d": (6, 3, 2)}


@pytest.fixture(autouse=True, scope="module")
def _seed():
    torch.manual_seed(0)


def randomise(module):
    """Every parameter Gaussian, so that none is neutral."""
    for parameter in module.parameters():
        nn.init.normal_(parameter)
    return module.double()


def copy_member(ours, theirs, member, members):
    """Give torch's layer the parameters of one member, matched by order."""
    with torch.no_grad():
        for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
            other.copy_(mine.unflatten(0, (members, -1))[member].view_as(other))


def gradients(module, x, cotangent):
    """Output and the gradients of its product with the cotangent, input first."""
    leaf = x.clone().requires_grad_()
    y = module(leaf)
    y = y[0] if isinstance(y, tuple) else y  # torch's RNN returns its last state as well
    return y, *torch.autograd.grad((y * cotangent).sum(), [leaf, *module.parameters()])


def agree_per_member(ours, make_theirs, x, members, shared=False):
    """Values and gradients of each member are those of torch's layer, to 1e-11."""
    cotangent = torch.randn_like(ours(x))
    y, to_x, *to_parameters = gradients(ours, x, cotangent)
    from_all = torch.zeros_like(x)
    for e in range(members):
        theirs = make_theirs().double()
        copy_member(ours, theirs, e, members)
        x_e = x if shared else x.chunk(members, 1)[e]
        z, to_x_e, *rest = gradients(theirs, x_e, cotangent.chunk(members, 1)[e])
        torch.testing.assert_close(y.chunk(members, 1)[e], z, **CLOSE)
        from_all += to_x_e if shared else 0
        if not shared:
            torch.testing.assert_close(to_x.chunk(members, 1)[e], to_x_e, **CLOSE)
        for mine, other in zip(to_parameters, rest, strict=True):
            mine = mine.unflatten(0, (members, -1))[e]
            torch.testing.assert_close(mine.reshape(other.shape), other, **CLOSE)
    if shared:
        torch.testing.assert_close(to_x, from_all, **CLOSE)


@settings(max_examples=40, deadline=None)
@given(
    members=st.integers(1, 4),
    channels=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    kernel=st.integers(1, 3),
    stride=st.integers(1, 3),
    padding=st.integers(0, 2),
    bias=st.booleans(),
    shared=st.booleans(),
    size=st.tuples(st.integers(1, 3), st.integers(3, 6), st.integers(3, 6)),
)
def test_convolution(members, channels, kernel, stride, padding, bias, shared, size):
    inside, outside = channels
    ours = ensemble.Conv2d(members, inside, outside, kernel, stride, padding, bias=bias)
    n, height, width = size
    x = torch.randn(n, inside * (1 if shared else members), height, width, dtype=torch.float64)
    make = partial(nn.Conv2d, inside, outside, kernel, stride, padding, bias=bias)
    agree_per_member(randomise(ours), make, x, members, shared or members == 1)


@pytest.mark.parametrize("laid_out", [False, True], ids=["plain kernels", "channels-last kernels"])
@pytest.mark.parametrize("members", [1, 3])
def test_channels_last_changes_no_value(members, laid_out):
    layer = randomise(ensemble.Conv2d(members, 2, 4, 3, padding=1))
    x = torch.randn(5, 2 * members, 6, 6, dtype=torch.float64)
    cotangent = torch.randn(5, 4 * members, 6, 6, dtype=torch.float64)
    expected = gradients(layer, x, cotangent)
    if laid_out:
        assert ensemble.channels_last(layer) is layer
        kernels = layer.weight.flatten(0, 1)
        assert kernels.data_ptr() == layer.weight.data_ptr()
        assert kernels.is_contiguous(memory_format=torch.channels_last)
    found = gradients(layer, x.to(memory_format=torch.channels_last), cotangent)
    assert found[0].is_contiguous(memory_format=torch.channels_last)
    for mine, other in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, other, **CLOSE)


def test_convolution_of_images_that_do_not_fit():
    layer = ensemble.Conv2d(3, 2, 4, 3)
    for shape in [(5, 4, 6, 6), (5, 2, 6)]:
        with pytest.raises(BnbookError, match=r"\(N, 2, H, W\), or 3 times as many channels"):
            layer(torch.ones(shape))


def test_weights_start_from_the_seed_alone():
    def model(norm, seeds):
        layers = nn.Sequential(
            ensemble.Conv2d(len(seeds), 3, 5, 3),
            norm(5 * len(seeds)),
            ensemble.Linear(len(seeds), 4, 6),
        )
        ensemble.initialise(layers, seeds, ensemble.he)
        return layers

    together, alone = model(BatchNorm, (7, 8, 7)), model(nn.Identity, (8,))
    for at in (0, 2):
        ours, single = together[at].weight, alone[at].weight
        assert torch.equal(ours[1], single[0])
        assert torch.equal(ours[0], ours[2])
        assert not torch.equal(ours[0], ours[1])


def test_standard_deviations_of_xavier_and_he_count_kernel_positions():
    linear, conv = ensemble.Linear(2, 6, 12), ensemble.Conv2d(2, 2, 6, 5)
    assert ensemble.xavier(linear) == pytest.approx((2 / 18) ** 0.5)
    assert ensemble.he(linear) == pytest.approx((2 / 6) ** 0.5)
    assert ensemble.xavier(conv) == pytest.approx((2 / (8 * 25)) ** 0.5)
    assert ensemble.he(conv) == pytest.approx((2 / 50) ** 0.5)
    reference = torch.empty(6, 2, 5, 5)
    assert torch.nn.init._calculate_fan_in_and_fan_out(reference) == (50, 150)
    ensemble.initialise(wide := ensemble.Conv2d(1, 50, 60, 3), (0,), ensemble.he)
    assert wide.weight.std().item() == pytest.approx((2 / 450) ** 0.5, rel=0.02)


def test_cross_entropy_with_labels_of_their_own():
    logits, labels = torch.randn(6, 3, 4), torch.randint(0, 4, (6, 3))
    expected = [nn.functional.cross_entropy(logits[:, e], labels[:, e]) for e in range(3)]
    torch.testing.assert_close(ensemble.cross_entropy(logits, labels), torch.stack(expected))


@settings(max_examples=40, deadline=None)
@given(
    members=st.integers(1, 3),
    groups=st.integers(1, 3),
    per_group=st.integers(2, 4),
    positions=st.sampled_from([(), (3,), (2, 3)]),
    n=st.integers(1, 4),
    eps=st.floats(1e-5, 1),
)
def test_group_norm(members, groups, per_group, positions, n, eps):
    features = groups * per_group
    ours = randomise(GroupNorm(groups, members * features, members, eps))
    x = 3 * torch.randn(n, members * features, *positions, dtype=torch.float64) + 1
    agree_per_member(ours, partial(nn.GroupNorm, groups, features, eps), x, members)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_layer_norm(shape):
    ours = randomise(LayerNorm(3 * 6, members=3))
    x = 3 * torch.randn(4, 3 * shape[0], *shape[1:], dtype=torch.float64) + 1
    agree_per_member(ours, partial(nn.GroupNorm, 1, 6), x, 3)
    if len(shape) == 1:
        agree_per_member(ours, partial(nn.LayerNorm, 6), x, 3)
        return
    # In feature maps, torch's LayerNorm over all three axes before its own scale and shift.
    plain = nn.LayerNorm(shape, elementwise_affine=False)
    for e, x_e in enumerate(x.chunk(3, 1)):
        columns = (slice(6 * e, 6 * e + 6), *(None,) * (len(shape) - 1))
        expected = plain(x_e) * ours.weight[columns] + ours.bias[columns]
        torch.testing.assert_close(ours(x)[:, columns[0]], expected, **CLOSE)


@pytest.mark.parametrize("norm", [partial(GroupNorm, 2), LayerNorm], ids=["GN", "LN"])
def test_group_norm_in_closed_form_and_alike_in_evaluation(norm):
    layer = norm(4, members=2 if norm is LayerNorm else 1, eps=1.0).double()
    with torch.no_grad():
        layer.weight.fill_(3.0)
        layer.bias.fill_(5.0)
    # Pairs (-a, a) and (9 - a, 9 + a), a = sqrt(3): variance 3, root 2, y = 5 -+ 3 sqrt(3) / 2.
    a = 3**0.5
    x = torch.tensor([[-a, a, 9 - a, 9 + a], [0, 0, 0, 0]], dtype=torch.float64)
    expected = torch.tensor([[-1.0, 1, -1, 1], [0, 0, 0, 0]]).double() * 1.5 * a + 5
    torch.testing.assert_close(layer(x), expected)
    torch.testing.assert_close(layer(x[:1]), expected[:1])
    torch.testing.assert_close(layer.eval()(x), expected)
    assert not list(layer.buffers())


def test_group_norm_loads_torchs_state():
    for ours, theirs in [(GroupNorm(2, 6), nn.GroupNorm(2, 6)), (LayerNorm(6), nn.LayerNorm(6))]:
        assert ours.load_state_dict(theirs.state_dict()).missing_keys == []
        assert theirs.load_state_dict(ours.state_dict()).unexpected_keys == []


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: GroupNorm(4, 6), "found 6 features, 1 members and 4 groups"),
        (lambda: GroupNorm(0, 6), "num_groups must be at least 1 and whole, found 0"),
        (lambda: GroupNorm(1.5, 6), "num_groups must be at least 1 and whole, found 1.5"),
        (lambda: GroupNorm(2, 6, members=0), "members must be at least 1 and whole, found 0"),
        (lambda: GroupNorm(2, 6.0), "num_features must be at least 1 and whole, found 6.0"),
        (lambda: InstanceNorm(7, members=2), "found 7 features and 2 members"),
        (lambda: InstanceNorm(6, members="2"), "members must be at least 1 and whole, found '2'"),
        (lambda: InstanceNorm(6, eps=-1.0), "eps must be positive, found -1.0"),
        (lambda: InstanceNorm(6)(torch.ones(2, 6)), "two or more values to have a variance"),
        (lambda: InstanceNorm(6)(torch.ones(2, 6, 1)), "x of shape (2, 6, 1) in 6 groups"),
        (lambda: LayerNorm(6)(torch.ones(2, 6, dtype=torch.int64)), "found dtype torch.int64"),
        (lambda: make_norm("bach", 6), "one of batch, layer, group, instance, none, found 'bach'"),
        (lambda: make_norm(None, 6), "found None"),
        (lambda: make_norm("none", 0), "num_features must be at least 1 and whole, found 0"),
        (lambda: make_norm("none", 7, 2), "found 7 features and 2 members"),
        (lambda: make_norm("layer", 6, momentum=0.1), "must be among eps, found momentum"),
        (lambda: make_norm("none", 6, eps=0.1), "must be among none, found eps"),
        (lambda: make_norm("batch", 6, eps=0.0), "eps must be positive, found 0.0"),
        (lambda: LayerNorm(7, members=2), "found 7 features, 2 members and 1 groups"),
        (lambda: LayerNorm(0), "num_features must be at least 1 and whole, found 0"),
        (lambda: LayerNorm(6, eps=0.0), "eps must be positive, found 0.0"),
        (lambda: LayerNorm(6)(torch.ones(2, 5)), "x must have shape (N, 6)"),
        (lambda: GroupNorm(6, 6)(torch.ones(2, 6)), "two or more values to have a variance"),
    ],
)
def test_group_norm_errors(make, says):
    with pytest.raises(BnbookError) as error:
        make()
    assert says in str(error.value)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_fused_batch_norm_is_batch_norm(shape):
    plain = randomise(BatchNorm(6, eps=1e-3, momentum=0.3))
    fused = FusedBatchNorm(6, eps=1e-3, momentum=0.3).double()
    fused.load_state_dict(plain.state_dict())
    for _ in range(10):
        x = 2 * torch.randn(4, *shape, dtype=torch.float64) + 3
        cotangent = torch.randn_like(x)
        pairs = zip(gradients(plain, x, cotangent), gradients(fused, x, cotangent), strict=True)
        for mine, other in pairs:
            torch.testing.assert_close(other, mine, **CLOSE)
    for mine, other in zip(plain.buffers(), fused.buffers(), strict=True):
        torch.testing.assert_close(other, mine, **CLOSE)
    assert fused.num_batches_tracked == 10
    before = fused.running_var.clone()
    torch.testing.assert_close(fused.eval()(x), plain.eval()(x), **CLOSE)
    assert torch.equal(fused.running_var, before)


def test_fused_batch_norm_refuses_what_batch_norm_refuses():
    with pytest.raises(BnbookError, match="two or more values"):
        FusedBatchNorm(3)(torch.ones(1, 3))
    with pytest.raises(BnbookError, match=r"x must have shape \(N, 3\)"):
        FusedBatchNorm(3)(torch.ones(2, 4))


@settings(max_examples=40, deadline=None)
@given(
    members=st.integers(1, 3),
    features=st.integers(1, 4),
    positions=st.sampled_from([(2,), (7,), (2, 3)]),
    n=st.integers(1, 4),
    exponent=st.floats(-6, 6),
    eps=st.floats(1e-5, 1),
)
def test_instance_norm(members, features, positions, n, exponent, eps):
    ours = randomise(InstanceNorm(members * features, members, eps))
    x = 10**exponent * torch.randn(n, members * features, *positions, dtype=torch.float64) + 1
    make = nn.InstanceNorm1d if len(positions) == 1 else nn.InstanceNorm2d
    agree_per_member(ours, partial(make, features, eps, affine=True), x, members)


def test_instance_norm_in_closed_form_and_each_example_alone():
    layer = InstanceNorm(2, eps=1.0).double()
    with torch.no_grad():
        layer.weight.fill_(3.0)
        layer.bias.fill_(5.0)
    a = 3**0.5  # pairs of variance 3: the root is 2
    x = torch.tensor([[[-a, a], [9 - a, 9 + a]], [[7.0, 7.0], [0, 0]]], dtype=torch.float64)
    expected = torch.tensor([[[-1.0, 1], [-1, 1]], [[0, 0], [0, 0]]]).double() * 1.5 * a + 5
    torch.testing.assert_close(layer(x), expected)
    torch.testing.assert_close(layer.eval()(x[:1]), expected[:1])
    assert not list(layer.buffers())
    theirs = nn.InstanceNorm1d(2, affine=True)
    assert layer.load_state_dict(theirs.state_dict()).missing_keys == []


@pytest.mark.parametrize("members", [1, 3])
@pytest.mark.parametrize(
    ("name", "kind"),
    {
        "batch": BatchNorm,
        "layer": LayerNorm,
        "group": GroupNorm,
        "instance": InstanceNorm,
        "none": nn.Identity,
    }.items(),
)
def test_norms_by_name(name, kind, members):
    """What they are, and that no member's output depends on another's input."""
    layer = make_norm(name, 8 * members, members)
    assert type(layer) is kind
    layer = randomise(layer)
    x = torch.randn(5, 8 * members, 3, dtype=torch.float64)
    alone = randomise(make_norm(name, 8))
    copy_member(layer, alone, members - 1, members)
    torch.testing.assert_close(layer(x)[:, -8:], alone(x[:, -8:]), **CLOSE)


def test_settings_reach_the_layer():
    assert make_norm("batch", 4, momentum=None, eps=0.1).momentum is None
    assert make_norm("group", 12, 2, num_groups=3).num_groups == 3
    assert make_norm("instance", 4, eps=0.1).eps == 0.1


@pytest.mark.parametrize(
    ("features", "groups"), [(1, 1), (2, 1), (6, 3), (7, 1), (64, 32), (16, 8), (96, 32)]
)
def test_groups_have_two_features_or_more_where_nothing_is_said(features, groups):
    assert make_norm("group", 2 * features, 2).num_groups == groups


@pytest.mark.parametrize(
    "norm", [BatchNorm, FusedBatchNorm, LeanBatchNorm, LayerNorm, InstanceNorm]
)
def test_norms_keep_channels_last(norm):
    x = torch.randn(3, 4, 5, 5).to(memory_format=torch.channels_last)
    assert norm(4)(x).is_contiguous(memory_format=torch.channels_last)
