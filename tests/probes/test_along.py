"""The loss along the gradient: a quadratic in closed form, and mutants."""

from contextlib import nullcontext

import pytest
import torch
from torch import nn

from bnbook.errors import BnbookError
from bnbook.layers import ensemble, norm
from bnbook.networks import models
from bnbook.probes import along

RATES = torch.tensor([0.1, 0.02], dtype=torch.float64)
H = torch.tensor([0.5, 2.0, 10.0], dtype=torch.float64)


class Quadratics(nn.Module):
    """Half of x H x, H diagonal, for two members."""

    def __init__(self, start):
        super().__init__()
        self.x = nn.Parameter(torch.tensor(start, dtype=torch.float64))

    def forward(self):
        return 0.5 * (H * self.x.square()).sum(1)


def test_a_quadratic_along_eigenvectors():
    """The smoothness is the eigenvalue, the change that times the way."""
    model = Quadratics([[0.0, 3.0, 0.0], [0.0, 0.0, 1.0]])
    found = along.walk(model, model, RATES)
    assert found.smoothness.tolist() == pytest.approx([2.0, 10.0])
    ways = [4 * 0.1 * 2 * 3, 4 * 0.02 * 10 * 1]
    assert found.gradient_change.tolist() == pytest.approx([2 * ways[0], 10 * ways[1]])
    for e, (value, start) in enumerate(((2.0, 3.0), (10.0, 1.0))):
        points = [start * (1 - m * RATES[e].item() * value) for m in (0.5, 1, 2, 4)]
        losses = [value * p * p / 2 for p in points]
        assert found.loss_range[e].item() == pytest.approx(max(losses) - min(losses))


def test_a_quadratic_off_its_axes():
    """The change is the largest step times the length of H g."""
    model = Quadratics([[1.0, 3.0, 0.2], [-2.0, 0.5, 1.0]])
    found = along.walk(model, model, RATES)
    g = (H * model.x).detach()
    slope = (H * g).norm(dim=1) / g.norm(dim=1)
    assert torch.allclose(found.smoothness, slope)
    assert torch.allclose(found.gradient_change, 4 * RATES * (H * g).norm(dim=1))


def check(model, objective, rates=RATES):
    """A network with BN: everything stays, and evaluation mode is not what is measured."""
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = along.walk(model, objective, rates)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
    with torch.no_grad():
        for layer in model.modules():
            if isinstance(layer, norm.BatchNorm):
                layer.running_mean.fill_(-5.0)
    again = along.walk(model, objective, rates)
    for one, other in zip(found, again, strict=True):
        assert torch.equal(one, other)


def network():
    model = models.MLP(norm.BatchNorm, (0, 1), num_inputs=4, hidden=(5, 3), init_std=0.8)
    generator = torch.Generator().manual_seed(1)
    x, y = torch.randn(12, 4, generator=generator), torch.arange(12) % 3
    return model.eval(), lambda: ensemble.cross_entropy(model(x), y)


def test_a_network_is_left_as_it_was():
    check(*network())


def evaluating(model, objective, _):
    def inside():
        model.eval()
        return objective()

    return inside


def moved_statistics(_, objective, monkeypatch):
    monkeypatch.setattr(along, "undisturbed", lambda _: nullcontext())
    return objective


@pytest.mark.parametrize("mutant", [evaluating, moved_statistics])
def test_a_mutant_is_caught(mutant, monkeypatch):
    model, objective = network()
    with pytest.raises(AssertionError):
        check(model, mutant(model, objective, monkeypatch))


def test_impossible_multiples():
    model = Quadratics([[1.0, 1.0, 1.0], [1.0, 1.0, 1.0]])
    for multiples in ((), (0.0, 1.0)):
        with pytest.raises(BnbookError, match="multiples must be positive"):
            along.walk(model, model, RATES, multiples)
