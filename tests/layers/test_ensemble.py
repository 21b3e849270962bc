"""E networks as one: each member is the network it would be alone."""

import pytest
import torch
from torch.nn import functional as F

from bnbook.errors import BnbookError
from bnbook.layers import ensemble
from bnbook.layers.norm import BatchNorm
from bnbook.networks.models import MLP


def test_linear_shared_and_per_member_inputs():
    layer = ensemble.Linear(3, 4, 2).double()
    torch.nn.init.normal_(layer.weight)
    torch.nn.init.normal_(layer.bias)
    shared = torch.randn(5, 4, dtype=torch.float64)
    own = torch.randn(5, 3, 4, dtype=torch.float64)
    expected = [F.linear(shared, layer.weight[e], layer.bias[e]) for e in range(3)]
    torch.testing.assert_close(layer(shared), torch.cat(expected, 1))
    expected = [F.linear(own[:, e], layer.weight[e], layer.bias[e]) for e in range(3)]
    torch.testing.assert_close(layer(own.flatten(1)), torch.cat(expected, 1))
    with pytest.raises(BnbookError, match="4 features, or 3 times as many"):
        layer(torch.ones(5, 8, dtype=torch.float64))


def test_initial_weights_depend_on_the_seed_alone():
    together = MLP(BatchNorm, (7, 8, 7))
    alone = MLP(None, (8,))
    for fused, single in zip(
        [m for m in together.modules() if isinstance(m, ensemble.Linear)],
        [m for m in alone.modules() if isinstance(m, ensemble.Linear)],
        strict=True,
    ):
        assert torch.equal(fused.weight[1], single.weight[0])
        assert torch.equal(fused.weight[0], fused.weight[2])
        assert not torch.equal(fused.weight[0], fused.weight[1])
    weights = MLP(None, init_std=0.25).hidden[0].weight
    assert weights.std().item() == pytest.approx(0.25, rel=0.02)
    assert weights.mean().item() == pytest.approx(0, abs=0.005)


def test_cross_entropy_is_torchs_for_each_member():
    logits, labels = torch.randn(6, 3, 4), torch.tensor([0, 1, 2, 3, 0, 1])
    expected = torch.stack([F.cross_entropy(logits[:, e], labels) for e in range(3)])
    torch.testing.assert_close(ensemble.cross_entropy(logits, labels), expected)
