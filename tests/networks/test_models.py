"""The networks against ones written with torch.nn, by hand and for one member."""

from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from bnbook.errors import BnbookError
from bnbook.layers import ensemble
from bnbook.layers.norm import BatchNorm, LayerNorm
from bnbook.networks.models import MLP, Block, ConvNet, ResNet

CLOSE = {"rtol": 1e-10, "atol": 1e-10}


@pytest.fixture(autouse=True, scope="module")
def _seed():
    torch.manual_seed(0)


@pytest.mark.parametrize("with_bn", [False, True])
def test_forward_equals_a_network_of_torchs_layers(with_bn):
    ours = MLP(BatchNorm if with_bn else None, (3,)).double()
    layers, width = [], 784
    for _ in range(3):
        layers.append(nn.Linear(width, 100, bias=not with_bn))
        layers += [nn.BatchNorm1d(100)] * with_bn + [nn.Sigmoid()]
        width = 100
    theirs = nn.Sequential(*layers, nn.Linear(100, 10)).double()
    values = [p.detach().reshape(-1) for p in ours.parameters()]
    with torch.no_grad():
        for parameter, value in zip(theirs.parameters(), values, strict=True):
            parameter.copy_(value.view_as(parameter))
    x = (torch.rand(20, 1, 28, 28) > 0.5).double()
    torch.testing.assert_close(ours(x)[:, 0], theirs(x.flatten(1)))


def test_shapes_and_the_missing_bias():
    model = MLP(BatchNorm, (0, 1))
    names = {name for name, _ in model.named_parameters()}
    assert {name for name in names if name.startswith("hidden.0")} == {"hidden.0.weight"}
    assert "output.bias" in names
    assert len(model.nonlinearities) == 3
    assert model(torch.rand(4, 1, 28, 28)).shape == (4, 2, 10)
    count = sum(p.numel() for p in MLP(None).parameters())
    assert count == 784 * 100 + 100 + 2 * (100 * 100 + 100) + 100 * 10 + 10


@pytest.mark.parametrize(
    ("model", "wrong"),
    [
        (MLP, {"seeds": ()}),
        (MLP, {"hidden": ()}),
        (ConvNet, {"widths": ()}),
        (ResNet, {"seeds": ()}),
    ],
)
def test_empty_arguments(model, wrong):
    with pytest.raises(BnbookError, match="must not be empty, found"):
        model(None, **wrong)


class TheirBlock(nn.Module):
    """He et al.'s block with option A, for one network."""

    def __init__(self, channels, width, stride, norm):
        super().__init__()
        bias = norm is nn.Identity
        self.stride, self.added = stride, width - channels
        self.conv1 = nn.Conv2d(channels, width, 3, stride, 1, bias=bias)
        self.norm1 = norm(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=bias)
        self.norm2 = norm(width)

    def forward(self, x):
        y = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))
        shortcut = x[:, :, :: self.stride, :: self.stride]
        zeros = torch.zeros(len(x), self.added, *shortcut.shape[2:], dtype=x.dtype)
        return F.relu(y + torch.cat([shortcut, zeros], 1))


def their_resnet(n, widths, norm, last):
    layers = [nn.Conv2d(3, widths[0], 3, padding=1, bias=norm is nn.Identity), norm(widths[0])]
    layers.append(nn.ReLU())
    channels = widths[0]
    for stage, width in enumerate(widths):
        for block in range(n):
            layers.append(TheirBlock(channels, width, 2 if stage and not block else 1, norm))
            channels = width
    layers += [last(channels), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 10)]
    return nn.Sequential(*layers).double()


def their_convnet(widths, norm):
    layers, channels = [], 3
    for width in widths:
        bias = norm is nn.Identity
        layers.append(nn.Conv2d(channels, width, 3, 2 if layers else 1, 1, bias=bias))
        layers += [norm(width), nn.ReLU()]
        channels = width
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 10)]
    return nn.Sequential(*layers).double()


def agree(ours, theirs, shared=True):
    """Each member's scores and gradients are those of the other network with its parameters."""
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    members = ours.members
    x = torch.randn(6, 3 if shared else 3 * members, 8, 8, dtype=torch.float64)
    y = ours(x)
    assert y.shape == (6, members, 10)
    cotangent = torch.randn_like(y)
    found = torch.autograd.grad((y * cotangent).sum(), list(ours.parameters()))
    for e in range(members):
        values = [p.detach().unflatten(0, (members, -1))[e] for p in ours.parameters()]
        with torch.no_grad():
            for parameter, value in zip(theirs.parameters(), values, strict=True):
                parameter.copy_(value.view_as(parameter))
        z = theirs(x if shared else x.chunk(members, 1)[e])
        torch.testing.assert_close(y[:, e], z, **CLOSE)
        expected = torch.autograd.grad((z * cotangent[:, e]).sum(), list(theirs.parameters()))
        for mine, other in zip(found, expected, strict=True):
            mine = mine.unflatten(0, (members, -1))[e]
            torch.testing.assert_close(mine.reshape(other.shape), other, **CLOSE)


@pytest.mark.parametrize("shared", [True, False], ids=["shared images", "own images"])
@pytest.mark.parametrize("where", ["nowhere", "everywhere", "last"])
def test_resnet_equals_one_of_torchs_layers(where, shared):
    norm = None if where == "nowhere" else BatchNorm
    widths = (4, 6, 9)
    ours = ResNet(norm, (0, 1), n=2, widths=widths, last_only=where == "last").double()
    theirs = their_resnet(
        2,
        widths,
        nn.BatchNorm2d if where == "everywhere" else nn.Identity,
        nn.BatchNorm2d if where == "last" else nn.Identity,
    )
    agree(ours, theirs, shared)


@pytest.mark.parametrize("shared", [True, False], ids=["shared images", "own images"])
@pytest.mark.parametrize("norm", [None, BatchNorm], ids=["without", "with BN"])
def test_convnet_equals_one_of_torchs_layers(norm, shared):
    ours = ConvNet(norm, (0, 1), widths=(4, 6)).double()
    agree(ours, their_convnet((4, 6), nn.Identity if norm is None else nn.BatchNorm2d), shared)


def test_mlp_takes_images_of_each_member():
    model = MLP(BatchNorm, (0, 1), num_inputs=12, hidden=(5,)).double()
    x = torch.rand(7, 2, 3, 2, 2, dtype=torch.float64)
    for e in range(2):
        alone = MLP(BatchNorm, (e,), num_inputs=12, hidden=(5,)).double()
        torch.testing.assert_close(model(x.flatten(1, 2))[:, e], alone(x[:, e])[:, 0], **CLOSE)


@pytest.mark.parametrize(("n", "depth", "millions"), [(3, 20, 0.27), (5, 32, 0.46), (18, 110, 1.7)])
def test_depth_and_parameters_of_table_6(n, depth, millions):
    model = ResNet(BatchNorm, n=n)
    assert model.depth == depth
    count = sum(p.numel() for p in model.parameters())
    assert count / 1e6 == pytest.approx(millions, abs=0.05 if n == 18 else 0.005)
    if n == 3:
        convolutions = 9 * (3 * 16 + 6 * 16 * 16 + (16 + 5 * 32) * 32 + (32 + 5 * 64) * 64)
        assert count == convolutions + 2 * 7 * 16 + 2 * 6 * (32 + 64) + 64 * 10 + 10


def test_places_of_the_norm_in_a_resnet():
    def norms(model):
        return [name for name, layer in model.named_modules() if isinstance(layer, BatchNorm)]

    assert len(norms(ResNet(BatchNorm, n=2))) == 13
    assert norms(ResNet(BatchNorm, n=2, last_only=True)) == ["last_norm"]
    assert norms(ResNet(None, n=2, last_only=True)) == []
    assert all(c.bias is None for c in ResNet(BatchNorm).convolutions)
    assert all(c.bias is not None for c in ResNet(BatchNorm, last_only=True).convolutions)


def test_placement_and_norm_leave_the_initial_weights_as_they_are():
    models = [
        ResNet(None, (5,)),
        ResNet(BatchNorm, (5,)),
        ResNet(BatchNorm, (5,), last_only=True),
        ResNet(LayerNorm, (5,)),
    ]
    for layers in zip(*(m.convolutions for m in models), strict=True):
        assert all(torch.equal(layers[0].weight, layer.weight) for layer in layers[1:])
    assert all(torch.equal(models[0].output.weight, m.output.weight) for m in models[1:])


@pytest.mark.parametrize("stride", [1, 2])
def test_the_shortcut_of_a_network_alone_appends_zeros_and_keeps_channels_last(stride):
    block = Block(1, 4, 6, stride, None)
    x = torch.randn(2, 4, 6, 8)
    for given in (x, x.to(memory_format=torch.channels_last)):
        found = block._shortcut(given)
        assert torch.equal(found[:, :4], x[:, :, ::stride, ::stride])
        assert not found[:, 4:].any()
        assert found.shape[1] == 6
        assert found.is_contiguous() == given.is_contiguous()
    assert found.is_contiguous(memory_format=torch.channels_last)


def test_a_resnet_keeps_channels_last():
    model = ensemble.channels_last(ResNet(partial(LayerNorm, members=2), (0, 1), n=1)).double()
    x = torch.randn(4, 3, 8, 8, dtype=torch.float64)
    layouts = []
    for block in model.blocks:
        block.register_forward_hook(
            lambda _m, _i, y: layouts.append(y.is_contiguous(memory_format=torch.channels_last))
        )
    scores = model(x.to(memory_format=torch.channels_last))
    assert layouts == [True] * 3
    torch.testing.assert_close(scores, model(x), **CLOSE)


@pytest.mark.parametrize("side", [8, 7])
@pytest.mark.parametrize("members", [1, 2])
def test_the_gradient_of_a_shortcut_is_that_of_every_second_pixel_in_the_images_layout(
    side, members
):
    block = Block(members, 3, 5, 2, None)
    for layout in (torch.channels_last, torch.contiguous_format):
        x = torch.randn(4, 3 * members, side, side).contiguous(memory_format=layout)
        x.requires_grad_()
        y = block._shortcut(x)
        per_member = y.unflatten(1, (members, -1))
        assert torch.equal(per_member[:, :, :3].flatten(1, 2), x[:, :, ::2, ::2])
        assert not per_member[:, :, 3:].any()
        cotangent = torch.randn(y.shape).contiguous(memory_format=layout)
        (found,) = torch.autograd.grad(y, x, cotangent)
        expected = torch.zeros_like(x)
        kept = cotangent.unflatten(1, (members, -1))[:, :, :3].flatten(1, 2)
        expected[:, :, ::2, ::2] = kept
        assert torch.equal(found, expected)
        assert found.is_contiguous(memory_format=layout)


@pytest.mark.parametrize("wrong", [{"n": 0}, {"widths": (8, 4)}])
def test_impossible_resnets(wrong):
    with pytest.raises(BnbookError, match="n must be at least 1 and widths must not fall"):
        ResNet(None, **wrong)
