"""SkipInit and Fixup: identity at the start, known growth, members apart."""

import math

import pytest
import torch

from bnbook.layers import ensemble, members
from bnbook.networks import models, unnormalised

MAKERS = [unnormalised.SkipInitResNet, unnormalised.FixupResNet]
SIZES = {"n": 2, "in_channels": 1, "widths": (4, 4, 8)}


def images(count=3):
    return torch.randn(count, 1, 8, 8, generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize("maker", MAKERS)
def test_at_the_start_blocks_are_their_shortcuts(maker):
    """ReLU leaves what is not negative as it is, so nothing grows with depth."""
    model = maker((0, 1), **SIZES)
    x = model.stem(images()).relu()
    for block in model.blocks:
        y = block(x)
        torch.testing.assert_close(y, block.block._shortcut(x), rtol=0, atol=0)
        x = y


def test_fixup_starts_with_scores_of_zero_and_scaled_kernels():
    model = unnormalised.FixupResNet((0,), **SIZES)
    assert torch.equal(model(images()), torch.zeros(3, 1, 10))
    plain = models.ResNet(None, (0,), init_std=ensemble.he, **SIZES)
    for block, other in zip(model.blocks, plain.blocks, strict=True):
        torch.testing.assert_close(block.block.conv1.weight, other.conv1.weight / math.sqrt(6))
        assert not block.block.conv2.weight.any()
    assert torch.equal(model.stem.weight, plain.stem.weight)


def test_skipinit_at_one_is_the_plain_network():
    model = unnormalised.SkipInitResNet((0, 3), scale=1.0, **SIZES)
    plain = models.ResNet(None, (0, 3), init_std=ensemble.he, **SIZES)
    torch.testing.assert_close(model(images()), plain(images()))


def test_fixups_branch_is_its_equation():
    """With biases and factors drawn at random, against the equation written with torch alone."""
    model = unnormalised.FixupResNet((0,), **SIZES)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())))
    (block, *_), x = model.blocks, images().expand(-1, 4, -1, -1)
    c1, c2, c3, c4 = (c.item() for c in block.biases)
    w1, w2 = (conv.weight[0] for conv in (block.block.conv1, block.block.conv2))
    conv = torch.nn.functional.conv2d
    inner = conv(torch.relu(conv(x + c1, w1, padding=1) + c2) + c3, w2, padding=1)
    expected = torch.relu(block.scale.item() * inner + c4 + x)
    torch.testing.assert_close(block(x), expected)


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
    assert model.blocks[0].scale.grad[1] != 0
    members.keep(model, [2, 0], 3)
    torch.testing.assert_close(model(images()), together[:, [2, 0]])


@pytest.mark.parametrize("maker", MAKERS)
def test_depth_does_not_make_the_output_grow(maker):
    """The plain network's output grows with depth; these start where their stem is."""
    sizes = {"in_channels": 1, "widths": (4, 4, 4)}
    for deep in (1, 6):
        model = maker((0,), n=deep, **sizes)
        last = model.blocks(model.stem(images()).relu())
        assert last.abs().max() <= model.stem(images()).relu().abs().max()
    plain = models.ResNet(None, (0,), n=6, init_std=ensemble.he, **sizes)
    grown = plain.blocks(plain.stem(images()).relu())
    assert grown.square().mean() > 100 * plain.stem(images()).square().mean()
