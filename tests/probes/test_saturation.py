"""Saturation and gradients: closed forms, plain autograd, and faults that must be seen."""

import math

import pytest
import torch
from torch import nn

from bnbook.errors import BnbookError
from bnbook.layers import ensemble, norm
from bnbook.networks.models import MLP
from bnbook.probes import saturation, shift


def network(nonlinearity=nn.Tanh, make=norm.BatchNorm, seeds=(3, 4), scale=1.0):
    model = MLP(
        make, seeds, num_inputs=6, hidden=(5, 5, 5), init_std=scale, nonlinearity=nonlinearity
    )
    return model.double()


def data(n=12):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, 6, generator=generator).double()
    return x, torch.randint(0, 10, (n,), generator=generator)


def measured(model):
    x, y = data()
    layers = shift.layers_of(model.hidden)
    return saturation.measure(model, layers, lambda: ensemble.cross_entropy(model(x), y))


@pytest.mark.parametrize(("kind", "function"), [(nn.Sigmoid, torch.sigmoid), (nn.Tanh, torch.tanh)])
def test_the_slope_is_autograds_over_that_at_zero(kind, function):
    x = torch.linspace(-9, 9, 41).double().requires_grad_()
    (derivative,) = torch.autograd.grad(function(x).sum(), x)
    largest = {nn.Sigmoid: 0.25, nn.Tanh: 1.0}[kind]
    torch.testing.assert_close(saturation.slope(kind(), x.detach()), derivative / largest)
    assert saturation.slope(kind(), torch.tensor([1e5], dtype=torch.float64)).item() == 0


@pytest.mark.parametrize(("kind", "edge"), [(nn.Sigmoid, 2.0), (nn.Tanh, 1.0)])
def test_saturated_begins_where_the_documentation_says(kind, edge):
    at = edge * math.acosh(math.sqrt(10))
    assert at == pytest.approx({nn.Sigmoid: 3.637, nn.Tanh: 1.818}[kind], abs=1e-3)
    x = torch.tensor([at - 1e-9, at + 1e-9], dtype=torch.float64)
    below = saturation.slope(kind(), x) < saturation.SATURATED
    assert below.tolist() == [False, True]


def test_another_nonlinearity_is_refused():
    with pytest.raises(BnbookError, match="Sigmoid, Tanh, found ReLU"):
        saturation.slope(nn.ReLU(), torch.zeros(1))


@pytest.mark.parametrize("kind", [nn.Sigmoid, nn.Tanh])
@pytest.mark.parametrize("make", [None, norm.BatchNorm])
def test_shares_and_gradients_are_those_of_each_member_written_out(kind, make):
    """Forward by hand with torch's batch norm, gradients by autograd of an example's own loss."""
    x, y = data()
    model = network(kind, make, scale=2.0)
    for layer in model.modules():
        if isinstance(layer, norm.BatchNorm):
            nn.init.constant_(layer.weight, 3.0)
    found = measured(model)
    linears = [m for m in model.hidden if isinstance(m, ensemble.Linear)]
    for member in range(2):
        u, inputs = x, []
        weights = [layer.weight[member].detach().requires_grad_() for layer in linears]
        for layer, weight in zip(linears, weights, strict=True):
            z = u @ weight.T
            z = z if layer.bias is None else z + layer.bias[member]
            if make is not None:
                z = 3 * nn.functional.batch_norm(z, None, None, training=True)
            inputs.append(z)
            u = kind()(z)
        logits = u @ model.output.weight[member].T + model.output.bias[member]
        loss = nn.functional.cross_entropy(logits, y, reduction="sum")
        gradients = torch.autograd.grad(loss, [*inputs, *weights])
        edge = {nn.Sigmoid: 2.0, nn.Tanh: 1.0}[kind] * math.acosh(math.sqrt(10))
        for at, z in enumerate(inputs):
            share = (z.abs() > edge).double().mean()
            assert found.share[member, at].item() == pytest.approx(share.item())
            rms = gradients[at].square().mean().sqrt().item()
            assert found.input_gradient[member, at].item() == pytest.approx(rms)
            norm_of = gradients[3 + at].norm().item() / len(y)
            assert found.weight_gradient[member, at].item() == pytest.approx(norm_of)
    assert found.share.max() > 0.1


def test_tiny_gradients_are_not_lost():
    """Their squares are below float32's smallest number."""
    model = network(nn.Sigmoid, None, scale=1e-9).float()
    x, y = data()
    layers = shift.layers_of(model.hidden)
    found = saturation.measure(model, layers, lambda: ensemble.cross_entropy(model(x.float()), y))
    assert 0 < found.input_gradient[0, 0] < 1e-25


def test_the_network_is_left_as_it_was():
    model = network()
    model.eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    measured(model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not model.training
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_measurement_in_evaluation_mode_is_another(monkeypatch):
    """The mutant: statistics are the running ones, at first 0 and 1, and not the batch's."""
    model = network(scale=3.0)
    right = measured(model)
    monkeypatch.setattr(MLP, "train", lambda self, _=True: nn.Module.train(self, False))
    model.eval()
    wrong = measured(model)
    assert (wrong.share - right.share).abs().max() > 0.2


def test_a_measurement_at_another_layers_nonlinearity_is_another():
    """The mutant: a layer's saturation is read at the one above it."""
    model = network(make=None, scale=1.0)
    x, y = data()
    layers = shift.layers_of(model.hidden)
    moved = [layers[0]._replace(point=layers[1].point), *layers[1:]]
    right = measured(model)
    wrong = saturation.measure(model, moved[:2], lambda: ensemble.cross_entropy(model(x), y))
    assert not torch.allclose(wrong.share[:, 0], right.share[:, 0])


def test_networks_with_and_without_bn_are_read_at_counterparts():
    """With gamma and beta that undo BN, both see the same inputs and the same gradients."""
    x, _ = data()
    plain, normalised = network(make=None), network()
    seen = shift.inputs(plain, shift.layers_of(plain.hidden), lambda: plain(x))
    norms = [m for m in normalised.hidden if isinstance(m, norm.BatchNorm)]
    with torch.no_grad():
        for layer, z in zip(norms, seen, strict=True):
            var, mean = torch.var_mean(z.flatten(1), 0, correction=0)
            layer.weight.copy_((var + layer.eps).sqrt())
            layer.bias.copy_(mean)
    one, other = measured(plain), measured(normalised)
    assert torch.equal(one.share, other.share)
    torch.testing.assert_close(one.slope, other.slope)
    torch.testing.assert_close(one.input_gradient[:, -1], other.input_gradient[:, -1])
