"""Scaled initial weights: variances of 1 behind every layer, member by member."""

import pytest
import torch

from bnbook.errors import BnbookError
from bnbook.layers import ensemble, norm
from bnbook.networks import lsuv, models


def outputs(model, images):
    """Outputs of every layer with weights, in the order of computation."""
    seen, hooks = [], []
    for layer in model.modules():
        if isinstance(layer, ensemble.Layer):
            hooks.append(layer.register_forward_hook(lambda _, __, out: seen.append(out.detach())))
    model(images)
    for hook in hooks:
        hook.remove()
    return seen


@pytest.fixture
def images():
    return torch.rand(20, 1, 8, 8, generator=torch.Generator().manual_seed(0)) - 0.3


@pytest.mark.parametrize(
    "make",
    [
        lambda seeds: models.ResNet(None, seeds, n=2, in_channels=1, widths=(4, 6, 8)),
        lambda seeds: models.ConvNet(None, seeds, in_channels=1, widths=(4, 6)),
        lambda seeds: models.MLP(None, seeds, num_inputs=64, hidden=(9, 7)),
    ],
)
def test_every_layers_outputs_have_variance_one(make, images):
    model = make((0, 5))
    before = [p.detach().clone() for p in model.parameters() if p.dim() > 2]
    divided = lsuv.scale_weights(model, images)
    for out in outputs(model, images):
        per_member = out.unflatten(1, (2, -1)).transpose(0, 1).flatten(1)
        torch.testing.assert_close(per_member.var(1, correction=0), torch.ones(2))
    after = [p for p in model.parameters() if p.dim() > 2]
    for old, new, std in zip(before, after, divided, strict=True):
        torch.testing.assert_close(new * std.view(-1, *(1,) * (new.dim() - 1)), old)


def test_a_member_is_scaled_as_it_would_be_alone(images):
    pair, alone = (models.ConvNet(None, s, in_channels=1, widths=(4, 6)) for s in ((3, 7), (7,)))
    lsuv.scale_weights(pair, images)
    lsuv.scale_weights(alone, images)
    for both, one in zip(pair.parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(both[1:], one)


def test_it_leaves_no_hook_behind_and_twice_is_once(images):
    model = models.ConvNet(None, in_channels=1, widths=(4, 6))
    lsuv.scale_weights(model, images)
    weights = model.output.weight.clone()
    model(2 * images)
    assert torch.equal(model.output.weight, weights)
    again = lsuv.scale_weights(model, images)
    torch.testing.assert_close(torch.stack(again), torch.ones(len(again), 1))


def test_scaled_weights_are_no_mutant_of_xaviers(images):
    """What the check must refuse: Xavier's weights left as they are."""
    model = models.ResNet(None, n=2, in_channels=1, init_std=ensemble.xavier)
    stds = [out.std(correction=0).item() for out in outputs(model, images)]
    assert min(abs(std - 1) for std in stds[1:]) > 0.05


def test_biases_and_constant_outputs_are_refused(images):
    model = models.ConvNet(None, in_channels=1, widths=(4,))
    with pytest.raises(BnbookError, match=r"the outputs of hidden\.0 must vary"):
        lsuv.scale_weights(model, 0 * images)
    with torch.no_grad():
        model.output.bias[0, 0] = 1
    with pytest.raises(BnbookError, match=r"output\.bias must be 0"):
        lsuv.scale_weights(model, images)


def test_a_network_with_bn_computes_the_same_afterwards(images):
    model = models.ConvNet(norm.BatchNorm, in_channels=1, widths=(4, 6))
    features = model.hidden(images)
    lsuv.scale_weights(model, images)
    torch.testing.assert_close(model.hidden(images), features, atol=1e-3, rtol=1e-3)
