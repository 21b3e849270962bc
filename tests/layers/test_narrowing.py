"""Leaving members out of a model."""

import torch

from bnbook.layers import members
from bnbook.layers.norm import BatchNorm
from bnbook.networks.models import MLP


def test_the_members_kept_compute_what_they_did():
    model = MLP(BatchNorm, (0, 1, 2, 3), num_inputs=6, hidden=(5, 4), num_classes=3)
    x = torch.rand(20, 6)
    for _ in range(3):
        model(x)
    model.eval()
    before = model(x)
    members.keep(model, [3, 1], 4)
    assert model.members == 2
    assert model.hidden[1].num_features == 10
    assert model.hidden[1].num_batches_tracked == 3
    torch.testing.assert_close(model(x), before[:, [3, 1]])
    model.train()
    assert model(x).shape == (20, 2, 3)


def test_narrowed():
    flat = torch.arange(12.0)
    assert members.narrowed(flat, [2, 0], 3).tolist() == [8, 9, 10, 11, 0, 1, 2, 3]
    scalar = torch.tensor(7)
    assert members.narrowed(scalar, [1], 3) is scalar
