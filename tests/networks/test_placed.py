"""BN at named layers: the extremes are the plain networks bit by bit, the rest is counted."""

import pytest
import torch

from bnbook.errors import BnbookError
from bnbook.layers import norm
from bnbook.networks import models, placed

N = 2
LAST = 6 * N + 2


def make(places, seeds=(3, 4)):
    return placed.PlacedResNet(norm.BatchNorm, seeds, places, n=N, widths=(4, 6, 8))


@pytest.mark.parametrize(
    ("places", "options"),
    [
        ([], {"norm": None}),
        (range(1, LAST), {"norm": norm.BatchNorm}),
        ([LAST], {"norm": norm.BatchNorm, "last_only": True}),
    ],
)
def test_the_extremes_are_the_plain_networks(places, options):
    ours = make(places)
    plain = models.ResNet(**options, seeds=(3, 4), n=N, widths=(4, 6, 8))
    x = torch.randn(5, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(ours(x), plain(x), rtol=0, atol=0)
    assert [(k, v.shape) for k, v in ours.state_dict().items()] == [
        (k, v.shape) for k, v in plain.state_dict().items()
    ]
    a, b = (torch.autograd.grad(net(x).square().sum(), list(net.parameters()))
            for net in (ours, plain))  # fmt: skip
    for mine, theirs in zip(a, b, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=0)


@pytest.mark.parametrize("place", range(1, LAST))
def test_one_convolution_is_normalised_and_no_other(place):
    """Its output, after what stands behind it, has mean 0 and variance 1 over the batch."""
    net = make([place], seeds=(0,)).train()
    layers = [module for module in net.modules() if isinstance(module, norm.BatchNorm)]
    assert len(layers) == 1
    assert [conv.bias is None for conv in net.convolutions].index(True) == place - 1
    assert sum(conv.bias is None for conv in net.convolutions) == 1
    seen, given = [], []
    net.convolutions[place - 1].register_forward_hook(lambda *call: given.append(call[2]))
    layers[0].register_forward_hook(lambda _, inputs, out: seen.append((inputs[0], out)))
    net(torch.randn(16, 3, 8, 8, generator=torch.Generator().manual_seed(0)))
    assert seen[0][0] is given[0]
    assert seen[0][1].mean((0, 2, 3)).abs().max() < 1e-5
    assert (seen[0][1].var((0, 2, 3), correction=0) - 1).abs().max() < 1e-2


def test_weights_start_the_same_wherever_bn_is():
    first, second = make([1, 5]), make([LAST])
    for a, b in zip(first.convolutions, second.convolutions, strict=True):
        assert torch.equal(a.weight, b.weight)


@pytest.mark.parametrize("place", [0, LAST + 1])
def test_a_place_that_is_none(place):
    with pytest.raises(BnbookError, match=rf"places must lie in \[1, 14\].* found \[{place}\]"):
        make([1, place])
