"""The loss around a point: closed forms on quadratics, and a network left bit by bit as it was."""

import math

import pytest
import torch
from torch import nn

from bnbook.errors import BnbookError
from bnbook.layers import ensemble, norm
from bnbook.networks import models
from bnbook.probes import landscape

EIGENVALUES = torch.tensor([0.5, 2.0, 10.0], dtype=torch.float64)
GRID = [10.0**k for k in range(-6, 2)]


class Quadratic(nn.Module):
    """0.5 x^T H x with known eigenvectors, the columns of Q."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.Q = torch.linalg.qr(torch.randn(3, 3, generator=generator, dtype=torch.float64)).Q
        self.H = self.Q @ torch.diag(EIGENVALUES) @ self.Q.T
        self.x = nn.Parameter(torch.zeros(3, dtype=torch.float64))

    def at(self, x):
        with torch.no_grad():
            self.x.copy_(x)
        return self

    def forward(self):
        return 0.5 * self.x @ self.H @ self.x


def largest(model, refinements=40, grid=GRID):
    loss, gradients = landscape.gradient(model, model)
    return landscape.descend(model, model, loss, gradients, grid, refinements).largest


@pytest.mark.parametrize("number", range(3))
def test_along_an_eigenvector_the_largest_step_is_two_over_the_eigenvalue(number):
    model = Quadratic()
    found = largest(model.at(3 * model.Q[:, number]))
    assert found == pytest.approx(2 / EIGENVALUES[number].item(), rel=1e-8)


def test_along_any_gradient_it_is_the_closed_form():
    model = Quadratic().at(torch.tensor([1.0, -2.0, 0.3]))
    g = model.H @ model.x.detach()
    expected = (2 * g @ g / (g @ model.H @ g)).item()
    assert largest(model) == pytest.approx(expected, rel=1e-8)
    assert largest(model, 3) == pytest.approx(expected, rel=10 ** (1 / 16) - 1)
    assert 2 / 10 < expected < 2 / 0.5


def test_the_course_is_the_parabola():
    model = Quadratic()
    model.at(model.Q[:, 2])
    loss, gradients = landscape.gradient(model, model)
    course = landscape.descend(model, model, loss, gradients, GRID, 2)
    assert loss == pytest.approx(5.0)
    assert len(course.steps) == len(GRID) + 2
    assert list(course.steps) == sorted(course.steps)
    for step, after in zip(course.steps, course.losses, strict=True):
        assert after == pytest.approx(loss * (1 - 10 * step) ** 2)


def test_no_largest_step_where_none_fails_or_none_helps():
    slope = Quadratic().at(torch.ones(3, dtype=torch.float64))
    assert math.isnan(largest(slope, grid=[1e-6, 1e-5]))  # all help
    assert math.isnan(largest(slope, grid=[100.0, 1000.0]))  # none helps


class Edge(nn.Module):
    """Falls to a cliff at 1, where the loss is no number, and helps again beyond it."""

    def __init__(self):
        super().__init__()
        self.x = nn.Parameter(torch.zeros((), dtype=torch.float64))

    def forward(self):
        cliff = 1.0 < self.x.item() < 50
        return -self.x / (1 + self.x.detach().abs()) ** 2 + (math.nan if cliff else 0.0)


def test_overflow_ends_the_helpful_steps_even_when_later_ones_help():
    assert largest(Edge(), grid=[*GRID, 100.0]) == pytest.approx(1.0, rel=1e-6)


@pytest.mark.parametrize("steps", [[], [0.0, 1.0], [1.0, 0.1], [1.0, 1.0]])
def test_impossible_steps(steps):
    model = Quadratic()
    with pytest.raises(BnbookError, match="steps must be positive and rising"):
        landscape.descend(model, model, 0.0, [model.x], steps)


def network(make=norm.BatchNorm):
    model = models.ResNet(make, (0,), n=1, widths=(3, 4, 5), init_std=ensemble.xavier)
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(6, 3, 8, 8, generator=generator)
    y = torch.arange(6)
    model.train()
    model.blocks[0].eval()  # flags that differ
    return model, lambda: ensemble.cross_entropy(model(x), y).sum()


def state(model):
    values = {name: t.detach().clone() for name, t in model.state_dict().items()}
    flags, gradients = [m.training for m in model.modules()], [p.grad for p in model.parameters()]
    return values, flags, gradients, torch.get_rng_state()


def unchanged(model, before):
    values, flags, gradients, random = before
    assert all(torch.equal(t, values[name]) for name, t in model.state_dict().items())
    assert [m.training for m in model.modules()] == flags
    assert [p.grad for p in model.parameters()] == gradients
    assert torch.equal(torch.get_rng_state(), random)
    return True


def test_every_measurement_leaves_the_network_bit_by_bit_as_it_was():
    model, objective = network()
    before = state(model)
    loss, gradients = landscape.gradient(model, objective)
    assert unchanged(model, before)
    landscape.descend(model, objective, loss, gradients, [1e-3, 0.1, 1e12], 2)
    assert unchanged(model, before)
    landscape.channel_moments(model, model.convolutions, objective)
    assert unchanged(model, before)
    assert not any(layer._forward_hooks for layer in model.modules())


def test_the_network_is_put_back_when_the_measurement_fails():
    model, objective = network()
    before = state(model)
    _, gradients = landscape.gradient(model, objective)
    with (
        pytest.raises(BnbookError, match="x must have shape"),
        landscape.displaced(model, gradients, 1.0),
    ):
        model(torch.zeros(1, 7, 8, 8))
    assert unchanged(model, before)


def test_the_check_that_nothing_moved_can_fail():
    model, objective = network()
    before = state(model)
    objective()  # moves the running statistics
    with pytest.raises(AssertionError):
        unchanged(model, before)


@pytest.mark.parametrize("fraction", [0.0, 0.3, 1.0])
def test_a_fraction_of_an_update(fraction):
    model, objective = network()
    start = [p.detach().clone() for p in model.parameters()]
    update = [torch.randn_like(p) for p in model.parameters()]
    with landscape.displaced(model, update, fraction):
        for p, p0, change in zip(model.parameters(), start, update, strict=True):
            torch.testing.assert_close(p.detach(), p0 + fraction * change)
        inside = [p.detach().clone() for p in model.parameters()]
        loss = objective().item()
    assert landscape.loss_after(model, objective, update, fraction) == loss
    landscape.shift(model, update, fraction)
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), inside, strict=True))


def test_the_gradient_is_autograds_and_predicts_a_small_step():
    model = network()[0].double()
    images = torch.randn(6, 3, 8, 8, dtype=torch.float64)

    def double_objective():
        return ensemble.cross_entropy(model(images), torch.arange(6)).sum()

    loss, gradients = landscape.gradient(model, double_objective)
    squared = landscape.norm(gradients) ** 2
    fallen = (
        landscape.loss_after(model, double_objective, gradients, 1e-7)
        - landscape.loss_after(model, double_objective, gradients, -1e-7)
    ) / 2e-7
    assert fallen == pytest.approx(squared, rel=1e-5)
    assert math.isfinite(loss)


def test_norm_is_that_of_all_entries():
    assert landscape.norm([torch.full((2, 2), 2.0), torch.tensor([3.0])]) == pytest.approx(5.0)


class Scaled(nn.Module):
    """One layer whose output is known: channel c of an image is c times the image."""

    def __init__(self, scale):
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 1, bias=True)
        with torch.no_grad():
            self.conv.weight.copy_(torch.tensor([1.0, 2.0]).view(2, 1, 1, 1) * scale)
            self.conv.bias.copy_(torch.tensor([0.5, -1.0]))

    def forward(self, x):
        return self.conv(x)


@pytest.mark.parametrize("scale", [1.0, 1e30])
def test_channel_moments_of_a_known_layer(scale):
    """At 1e30 the squares overflow in float32, and the moments do not."""
    model = Scaled(scale)
    x = torch.randn(4, 1, 3, 3, generator=torch.Generator().manual_seed(0))
    loss, [(mean, var)] = landscape.channel_moments(model, [model.conv], lambda: model(x).mean())
    c, bias = torch.tensor([1.0, 2.0]).double() * scale, torch.tensor([0.5, -1.0]).double()
    torch.testing.assert_close(mean, c * x.double().mean() + bias, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(var, c**2 * x.double().var(correction=0), rtol=1e-5, atol=1e-6)
    assert loss == pytest.approx(mean.mean().item(), rel=1e-4)


def test_without_bn_nothing_else_changes_the_loss():
    """A step of the whole gradient in one go is that of the parts added up."""
    model, objective = network(None)
    _, gradients = landscape.gradient(model, objective)
    whole = landscape.loss_after(model, objective, gradients, -0.02)
    landscape.shift(model, gradients, -0.01)
    assert landscape.loss_after(model, objective, gradients, -0.01) == pytest.approx(whole, 1e-4)
