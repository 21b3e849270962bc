"""Fully connected networks with a normalisation of one's own at each layer."""

import pytest
import torch

from bnbook.errors import BnbookError
from bnbook.layers.norm import BatchNorm
from bnbook.networks.dense import PlacedMLP

SIZES = {"num_inputs": 5, "hidden": (7, 6), "num_classes": 3}


def inputs(n=40):
    return torch.randn(n, 5, generator=torch.Generator().manual_seed(3))


def test_the_layers_are_what_they_say():
    model = PlacedMLP({2: BatchNorm}, (0,), **SIZES).train()
    first, second, last = model.linear
    x = inputs()
    z = (x @ first.weight[0].T).relu() @ second.weight[0].T
    z = (z - z.mean(0)) / (z.var(0, correction=0) + 1e-5).sqrt()
    torch.testing.assert_close(model(x)[:, 0], z.relu() @ last.weight[0].T)
    assert (second.bias, first.bias.shape, last.bias.shape) == (None, (1, 7), (1, 3))


def test_outputs_can_be_normalised_and_are_not_cut():
    outputs = PlacedMLP({3: BatchNorm}, (0,), **SIZES).train()(inputs())[:, 0]
    torch.testing.assert_close(outputs.mean(0), torch.zeros(3), atol=1e-6, rtol=0)
    torch.testing.assert_close(outputs.var(0, correction=0), torch.ones(3), atol=1e-3, rtol=0)


def test_weights_of_a_seed_start_the_same_wherever_the_norm_is_and_whoever_is_beside():
    plain = PlacedMLP({}, (4,), **SIZES)
    several = PlacedMLP({1: BatchNorm, 3: BatchNorm}, (2, 4), **SIZES)
    for one, two in zip(plain.linear, several.linear, strict=True):
        assert torch.equal(one.weight[0], two.weight[1])
        assert not torch.equal(two.weight[0], two.weight[1])


def test_members_do_not_mix():
    both = PlacedMLP({2: BatchNorm}, (2, 4), **SIZES).train()(inputs())
    alone = PlacedMLP({2: BatchNorm}, (4,), **SIZES).train()(inputs())
    torch.testing.assert_close(both[:, 1], alone[:, 0])


def test_the_weights_have_hes_variance():
    weight = PlacedMLP({}, (0,), num_inputs=100, hidden=(400,)).linear[0].weight
    assert weight.std().item() == pytest.approx(0.02**0.5, rel=0.02)


def test_a_layer_that_is_not_there_is_refused():
    with pytest.raises(BnbookError, match=r"norms must name layers in \[1, 3\], found \[0, 4\]"):
        PlacedMLP({0: BatchNorm, 4: BatchNorm}, (0,), **SIZES)
