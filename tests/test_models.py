"""The sigmoid network against one written with torch.nn."""

import pytest
import torch
from torch import nn

from bnbook.errors import BnbookError
from bnbook.models import SigmoidMLP
from bnbook.norm import BatchNorm


@pytest.mark.parametrize("with_bn", [False, True])
def test_forward_equals_a_network_of_torchs_layers(with_bn):
    ours = SigmoidMLP(BatchNorm if with_bn else None, (3,)).double()
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
    model = SigmoidMLP(BatchNorm, (0, 1))
    names = {name for name, _ in model.named_parameters()}
    assert {name for name in names if name.startswith("hidden.0")} == {"hidden.0.weight"}
    assert "output.bias" in names
    assert len(model.sigmoids) == 3
    assert model(torch.rand(4, 1, 28, 28)).shape == (4, 2, 10)
    count = sum(p.numel() for p in SigmoidMLP(None).parameters())
    assert count == 784 * 100 + 100 + 2 * (100 * 100 + 100) + 100 * 10 + 10


@pytest.mark.parametrize("wrong", [{"seeds": ()}, {"hidden": ()}])
def test_empty_arguments(wrong):
    with pytest.raises(BnbookError, match="must not be empty"):
        SigmoidMLP(None, **wrong)
