"""Networks of which little learns: what moves in a step, and what stays."""

import torch

from bnbook.layers import ensemble, members, norm
from bnbook.networks import frozen, models
from bnbook.training import fit

SIZES = {"n": 1, "in_channels": 1, "widths": (3, 4, 5)}
CHANNELS = 3 * 3 + 2 * 4 + 2 * 5
"""Outputs of the stem and of six convolutions in three blocks: as many gammas, and betas."""


def made(seeds=(0, 1)):
    return models.ResNet(norm.BatchNorm, seeds, **SIZES)


def trained(model, steps=3):
    """The state before and after some steps with momentum and decay."""
    before = {name: value.clone() for name, value in model.state_dict().items()}
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(16, 1, 8, 8, generator=generator)
    labels = torch.randint(10, (16,), generator=generator)
    batches = fit.minibatches(16, 8, steps, 0)
    sgd = fit.SGD([0.1, 0.2], momentum=0.9, weight_decay=0.01)
    fit.fit(model, images, labels, batches, sgd, ensemble.cross_entropy, streams=[0, 0])
    return before, model.state_dict()


def moved(before, after):
    return {name for name in after if not torch.equal(before[name], after[name])}


def test_gamma_and_beta_alone_move():
    model = frozen.affine_only(made())
    assert sum(p.numel() for p in model.parameters()) == 2 * 2 * CHANNELS
    before, after = trained(model)
    names = {name.rpartition(".") for name in moved(before, after)}
    assert {last for _, _, last in names} <= {
        "weight", "bias", "running_mean", "running_var", "num_batches_tracked",
    }  # fmt: skip
    assert all("norm" in where for where, _, _ in names)
    assert {"stem_norm.weight", "stem_norm.bias"} <= moved(before, after)


def test_as_many_weights_move_two_of_each_channel():
    model = frozen.few_weights_only(made(), (0, 1))
    assert sum(p.numel() for p in model.parameters()) == 2 * 2 * CHANNELS
    places = model.stem.index
    assert (places[..., 0] != places[..., 1]).all()
    assert not torch.equal(places[0], places[1])
    before, after = trained(model)
    assert {name.rpartition(".")[2] for name in moved(before, after)} <= {
        "free", "running_mean", "running_var", "num_batches_tracked",
    }  # fmt: skip
    assert "stem.free" in moved(before, after)


def test_at_the_start_nothing_is_changed_by_what_is_frozen():
    images = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(2))
    plain = made()(images)
    assert torch.equal(frozen.affine_only(made())(images), plain)
    assert torch.equal(frozen.few_weights_only(made(), (0, 1))(images), plain)


def test_the_free_weights_are_used_at_their_places():
    layer = frozen.few_weights_only(made(), (0, 1)).stem
    with torch.no_grad():
        layer.free.zero_()
    x = torch.randn(2, 1, 5, 5, generator=torch.Generator().manual_seed(1))
    weight = layer.weight.clone().flatten(2)
    weight.scatter_(2, layer.index, 0.0)
    expected = torch.nn.functional.conv2d(x, weight.view_as(layer.weight).flatten(0, 1), padding=1)
    assert torch.equal(layer(x), expected)


def test_members_can_be_left_out():
    model = frozen.few_weights_only(made(), (0, 1)).eval()
    images = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(2))
    together = model(images)
    members.keep(model, [1], 2)
    torch.testing.assert_close(model(images), together[:, [1]])
