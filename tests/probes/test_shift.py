"""Internal covariate shift: closed forms, a network written out by hand, and mutants."""

from contextlib import nullcontext

import pytest
import torch
from scipy.stats import wasserstein_distance
from torch import nn
from torch.nn import functional as F

from bnbook.errors import BnbookError
from bnbook.layers import ensemble, norm
from bnbook.networks import models, vgg
from bnbook.probes import measurements, shift

RATES = torch.tensor([0.3, 1.1], dtype=torch.float64)


def test_the_distance_is_scipys():
    generator = torch.Generator().manual_seed(0)
    before, after = (torch.randn(40, 2, 3, generator=generator).double() for _ in range(2))
    found = shift.wasserstein(before, after)
    for e in range(2):
        each = [
            wasserstein_distance(before[:, e, c], after[:, e, c])
            / before[:, e, c].std(correction=0).item()
            for c in range(3)
        ]
        assert found[e].item() == pytest.approx(sum(each) / 3, rel=1e-12)


def test_a_known_shift_and_a_known_stretch():
    x = torch.randn(50, 1, 4, generator=torch.Generator().manual_seed(0)).double()
    spread = x.std(0, correction=0)
    moved, stretched = x + 0.25 * spread, x.mean(0) + 3 * (x - x.mean(0))
    assert shift.wasserstein(x, moved).item() == pytest.approx(0.25)
    assert shift.drift(shift.moments(x), shift.moments(moved)).item() == pytest.approx(0.25)
    # Stretched by 3 about its mean: each value moves by twice its distance from the mean.
    away = (2 * (x - x.mean(0)).abs().mean(0) / spread).mean().item()
    assert shift.wasserstein(x, stretched).item() == pytest.approx(away)
    assert shift.drift(shift.moments(x), shift.moments(stretched)).item() == pytest.approx(2)


def test_moments_do_not_see_what_a_distance_sees():
    """The same mean and spread, another law."""
    two = torch.tensor([-1.0, 1.0]).repeat(50)[:, None, None].double()
    law = torch.linspace(-1, 1, 100)[:, None, None].double()
    law = law / law.std(0, correction=0)
    assert shift.drift(shift.moments(two), shift.moments(law)).item() < 1e-12
    assert shift.wasserstein(two, law).item() > 0.3


def test_a_constant_unit_counts_for_nothing():
    x = torch.randn(50, 1, 1, generator=torch.Generator().manual_seed(0)).double()
    both = torch.cat([x, torch.full_like(x, 0.3)], -1)
    alone = shift.wasserstein(x, 2 * x).item()
    assert shift.wasserstein(both, 2 * both).item() == pytest.approx(alone)


def linear_case():
    """Two linear layers and a linear output, half the mean squared distance, two members."""
    model = models.MLP(
        None, (0, 1), num_inputs=3, hidden=(4, 2), num_classes=2, init_std=0.7,
        nonlinearity=nn.Identity,
    ).double()  # fmt: skip
    generator = torch.Generator().manual_seed(5)
    x, t = (torch.randn(20, n, generator=generator).double() for n in (3, 2))
    return model, x, t, lambda: (model(x) - t[:, None]).square().sum(-1).mean(0) / 2


def test_a_linear_network_with_a_quadratic_loss_in_closed_form():
    model, x, t, objective = linear_case()
    found = shift.measure(model, shift.layers_of(model.hidden), objective, RATES, [1])
    first, second = (layer.weight.detach() for layer in shift.layers_of(model.hidden))
    for e in range(2):
        w1, w2, w3 = first[e], second[e], model.output.weight[e].detach()
        error = (x @ (w3 @ w2 @ w1).T - t) / len(x)
        below = error @ w3 @ w2
        stepped = w1 - RATES[e] * below.T @ x
        shifted = -RATES[e] * below.sum(0)  # of the first layer's b
        h, other = x @ w1.T, x @ stepped.T + shifted
        moved = ((other @ w2.T) @ w3.T - t) / len(x)
        g, changed = (error @ w3).T @ h, (moved @ w3).T @ other
        assert found.change[e, 0].item() == pytest.approx((g - changed).norm().item(), rel=1e-12)
        cosine = (g * changed).sum() / g.norm() / changed.norm()
        assert found.cosine[e, 0].item() == pytest.approx(cosine.item(), rel=1e-12)
        assert found.relative[e, 0].item() == pytest.approx(
            ((g - changed).norm() / g.norm()).item(), rel=1e-12
        )
        before, after = h @ w2.T, other @ w2.T
        each = [
            wasserstein_distance(before[:, c], after[:, c]) / before[:, c].std(correction=0).item()
            for c in range(2)
        ]
        assert found.distance[e, 0].item() == pytest.approx(sum(each) / 2, rel=1e-10)


def network(seeds=(0, 1)):
    """Three layers of tanh with BN, whose running statistics are far from any batch's."""
    model = models.MLP(
        norm.BatchNorm, seeds, num_inputs=6, hidden=(5, 4, 3), num_classes=3, init_std=0.8,
        nonlinearity=nn.Tanh,
    ).double()  # fmt: skip
    with torch.no_grad():
        for layer in model.modules():
            if isinstance(layer, norm.BatchNorm):
                layer.running_mean.fill_(7.0)
                layer.weight.uniform_(0.5, 2, generator=torch.Generator().manual_seed(3))
    return model.eval()


def batch(seed=9):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(16, 6, generator=generator).double(), torch.arange(16) % 3


def by_hand(model, member, alpha):
    """The measures of the third layer of one member, with torch's own functions."""
    x, y = batch()
    parts = [[], [], []]
    for which in range(3):
        weight = model.hidden[3 * which].weight[member]
        width = len(weight)
        own = slice(member * width, (member + 1) * width)
        bn = model.hidden[3 * which + 1]
        parts[which] = [p.detach().clone() for p in (weight, bn.weight[own], bn.bias[own])]
    last = [model.output.weight[member].detach(), model.output.bias[member].detach()]

    def forward(parts):
        seen, h = [], x
        for w, gamma, beta in parts:
            z = F.batch_norm(F.linear(h, w), None, None, gamma, beta, training=True)
            seen.append(z.detach())
            h = z.tanh()
        return F.cross_entropy(F.linear(h, *last), y), seen

    flat = [p.requires_grad_() for part in parts for p in part]
    loss, before = forward(parts)
    gradients = torch.autograd.grad(loss, flat)
    stepped = [p.detach() - alpha * g for p, g in zip(flat, gradients, strict=True)]
    w = parts[2][0].detach().requires_grad_()
    mixed = [stepped[:3], stepped[3:6], [w, *parts[2][1:]]]
    loss, after = forward(mixed)
    (changed,) = torch.autograd.grad(loss, [w])
    _, whole = forward([stepped[:3], stepped[3:6], stepped[6:]])
    g = gradients[6]
    return {
        "drift": shift.drift(shift.moments(before[2]), shift.moments(whole[2])),
        "distance": shift.wasserstein(before[2], after[2]),
        "change": (g - changed).norm(),
        "cosine": (g * changed).sum() / g.norm() / changed.norm(),
    }


def check(model, objective, layers=None):
    """Measure the third layer of both members; hold it against `by_hand`; the state must stay."""
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = shift.measure(model, layers or shift.layers_of(model.hidden), objective, RATES, [2])
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert not model.training
    for member in range(2):
        for name, value in by_hand(model, member, RATES[member]).items():
            mine = getattr(found, name)[member, 0].item()
            assert mine == pytest.approx(value.item(), rel=1e-9), name


def objective_of(model):
    x, y = batch()
    return lambda: ensemble.cross_entropy(model(x), y)


def test_a_network_with_bn_as_written_out_by_hand():
    model = network()
    check(model, objective_of(model))


class InEvaluation(models.MLP):
    """Refuses to train."""

    def train(self, mode=True):
        return super().train(False)


def evaluating(model, _):
    model.__class__ = InEvaluation
    return model, objective_of(model), None


def another_layer(model, _):
    one, two, three = shift.layers_of(model.hidden)
    return model, objective_of(model), [one, two._replace(point=three.point), two]


def another_point(model, _):
    """Before the norm in place of after: no counterpart of the other network's."""
    layers = shift.layers_of(model.hidden)
    moved = [each._replace(point=model.hidden[3 * i + 1]) for i, each in enumerate(layers)]
    return model, objective_of(model), moved


def moved_statistics(model, monkeypatch):
    monkeypatch.setattr(measurements, "undisturbed", lambda _: nullcontext())
    return model, objective_of(model), None


def another_batch(model, _):
    seeds = iter(range(9, 99))

    def objective():
        x, y = batch(next(seeds))
        return ensemble.cross_entropy(model(x), y)

    return model, objective, None


def all_stepped(model, monkeypatch):
    real = shift._step
    layers = shift.layers_of(model.hidden)
    monkeypatch.setattr(shift, "_step", lambda some, *rest: real(layers if some else some, *rest))
    return model, objective_of(model), None


@pytest.mark.parametrize(
    "mutant",
    [evaluating, another_layer, another_point, moved_statistics, another_batch, all_stepped],
)
def test_a_mutant_is_caught(mutant, monkeypatch):
    model, objective, layers = mutant(network(), monkeypatch)
    with pytest.raises(AssertionError):
        check(model, objective, layers)


@pytest.mark.parametrize("make", [None, norm.BatchNorm])
def test_networks_are_observed_at_counterparts(make):
    """With and without BN: the same places, the same weights, the same shapes."""
    plain = vgg.VGG(make, (0, 1), widths=(3, 4))
    layers = shift.layers_of(plain.hidden)
    assert [tuple(layer.weight.shape[1:3]) for layer in layers] == [(3, 1), (3, 3), (4, 3), (4, 4)]
    x = torch.randn(5, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    seen = shift.inputs(plain, layers, lambda: plain(x).sum((0, 2)))
    assert [tuple(each.shape) for each in seen] == [(320, 2, 3)] * 2 + [(80, 2, 4)] * 2
    first = plain.hidden[0](x)
    first = first if make is None else plain.train().hidden[1](first)
    by_position = first.view(5, 2, 3, 8, 8).permute(0, 3, 4, 1, 2).reshape(320, 2, 3)
    assert torch.equal(seen[0], by_position)


def test_what_cannot_be_measured_is_refused():
    model, _, _, objective = linear_case()
    layers = shift.layers_of(model.hidden)
    for at in ([0], [2], [], [1, 1]):
        with pytest.raises(BnbookError, match=r"at must rise within \[1, 1\]"):
            shift.measure(model, layers, objective, RATES, at)
    with pytest.raises(BnbookError, match="one nonlinearity"):
        shift.layers_of(nn.Sequential(ensemble.Linear(1, 2, 2)))
    with pytest.raises(BnbookError, match="begin with"):
        shift.layers_of(nn.Sequential(nn.ReLU()))
