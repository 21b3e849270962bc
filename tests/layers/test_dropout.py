"""Dropout of members: what is kept, scaled and drawn again."""

import pytest
import torch

from bnbook.errors import BnbookError
from bnbook.layers.dropout import Dropout


def test_what_is_kept_is_scaled_so_that_the_mean_stays():
    layer = Dropout(0.2, (1,))
    y = layer(torch.ones(2000, 50))
    assert set(y.unique().tolist()) == {0.0, 1.25}
    kept = (y > 0).double().mean().item()
    assert kept == pytest.approx(0.8, abs=6 * (0.2 * 0.8 / y.numel()) ** 0.5)


def test_the_gradient_goes_through_what_is_kept_alone():
    x = torch.randn(5, 4, requires_grad=True)
    y = Dropout(0.5, (1, 2))(x)
    (dx,) = torch.autograd.grad(y.sum(), x)
    assert torch.equal(dx, torch.where(y != 0, 2.0, 0.0))


def test_masks_differ_by_seed_layer_and_call_and_come_again_with_the_buffer():
    x = torch.ones(20, 30)
    layer = Dropout(0.5, (3, 3, 4))
    first, second = layer(x), layer(x)
    a, b, c = first.view(20, 3, 10).unbind(1)
    assert torch.equal(a, b)
    assert not torch.equal(a, c)
    assert not torch.equal(first, second)
    layer.calls.zero_()
    assert torch.equal(layer(x), first)
    assert not torch.equal(Dropout(0.5, (3, 3, 4), layer=1)(x), first)
    assert torch.equal(Dropout(0.5, (4,))(x[:, :10]), c)  # whatever trains beside it


def test_nothing_is_dropped_in_evaluation_or_at_zero():
    x = torch.randn(4, 6)
    layer = Dropout(0.5, (1, 2)).eval()
    assert layer(x) is x
    assert int(layer.calls) == 0
    assert Dropout(0.0, (1,))(x) is x


@pytest.mark.parametrize("p", [-0.1, 1.0])
def test_impossible_shares(p):
    with pytest.raises(BnbookError, match="p must lie in"):
        Dropout(p, (1,))
