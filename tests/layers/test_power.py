"""PowerNorm: its running form, its backward pass, and the identity that it approximates."""

import pytest
import torch

from bnbook.errors import BnbookError
from bnbook.layers.power import PowerNorm

RHO = 0.1


def rows(count, seed=0, features=3):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, features, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("steps", [1, 10, 100])
def test_the_running_quadratic_mean_in_closed_form(steps):
    layer = PowerNorm(3, momentum=RHO).double()
    x = 2 * rows(50)
    for _ in range(steps):
        layer(x)
    expected = 1 + (x.square().mean(0) - 1) * (1 - (1 - RHO) ** steps)
    torch.testing.assert_close(layer.running_square, expected)


def test_the_warm_up_takes_each_batchs_own_and_averages():
    layer = PowerNorm(3, warm_up=4).double()
    batches = [rows(20, seed) * (1 + seed) for seed in range(5)]
    for x in batches[:4]:
        y = layer(x)
        torch.testing.assert_close(y.square().mean(0), torch.ones(3).double(), rtol=1e-4, atol=0)
    average = torch.stack([x.square().mean(0) for x in batches[:4]]).mean(0)
    torch.testing.assert_close(layer.running_square, average)
    y = layer(batches[4])
    torch.testing.assert_close(y, batches[4] / (average + layer.eps).sqrt())


def test_nothing_is_centred_and_evaluation_moves_nothing():
    layer = PowerNorm(3).double()
    x = rows(20) + 5
    layer(x)
    before = layer.running_square.clone()
    y = layer.eval()(x)
    torch.testing.assert_close(y, x / (before + layer.eps).sqrt())
    assert torch.equal(layer.running_square, before)


def test_the_backward_pass_step_by_step():
    """Against the equations of the docstring, written out for one feature at a time."""
    layer = PowerNorm(3, momentum=RHO).double()
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([0.5, 1.0, -2.0]))
    square, nu = torch.ones(3).double(), torch.zeros(3).double()
    for step in range(5):
        x, dy = rows(20, step).requires_grad_(), rows(20, 100 + step)
        found = torch.autograd.grad(layer(x), (x, layer.weight, layer.bias), dy)
        for c in range(3):
            psi = (square[c] + layer.eps).sqrt()
            hat = x.detach()[:, c] / psi
            g = layer.weight.detach()[c] * dy[:, c]
            tilde = g - nu[c] * hat
            torch.testing.assert_close(found[0][:, c], tilde / psi)
            torch.testing.assert_close(found[1][c], (dy[:, c] * hat).sum())
            nu[c] = nu[c] + RHO * (tilde * hat).mean()
        torch.testing.assert_close(found[2], dy.sum(0))
        square = (1 - RHO) * square + RHO * x.detach().square().mean(0)
    torch.testing.assert_close(layer.running_product, nu)


def test_on_one_batch_again_and_again_the_estimate_is_the_exact_gradient():
    """Where nothing moves, nu comes to mean(g x_hat), and the gradient to that of x / rms(x)."""
    layer = PowerNorm(3, momentum=RHO, eps=1e-12).double()
    x, dy = rows(30).requires_grad_(), rows(30, 1)
    for _ in range(600):
        (found,) = torch.autograd.grad(layer(x), x, dy)
    exact = torch.autograd.grad(x * (x.square().mean(0) + layer.eps).rsqrt(), x, dy)[0]
    torch.testing.assert_close(found, exact, rtol=1e-4, atol=1e-6)
    first = torch.autograd.grad(PowerNorm(3, eps=1e-12).double()(x), x, dy)[0]
    assert not torch.allclose(first, exact, rtol=0.1)


@pytest.mark.parametrize("shape", [(4, 2), (4,), (0, 3), (2, 3, 4)])
def test_other_shapes_are_refused(shape):
    with pytest.raises(BnbookError, match=r"x must have shape \(m, 3\)"):
        PowerNorm(3)(torch.ones(shape))


def test_momentum_out_of_range():
    with pytest.raises(BnbookError, match=r"momentum must lie in \(0, 1\], found 0"):
        PowerNorm(3, momentum=0)
