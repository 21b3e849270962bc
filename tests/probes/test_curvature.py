"""Products with Hessians and Lanczos: quadratics with known eigenvalues, and dense Hessians."""

import pytest
import torch

from bnbook.errors import BnbookError
from bnbook.layers import ensemble
from bnbook.layers.norm import FusedBatchNorm
from bnbook.networks import models
from bnbook.probes import curvature


def symmetric(eigenvalues, seed=0):
    """A matrix with these eigenvalues and random eigenvectors."""
    size = len(eigenvalues)
    generator = torch.Generator().manual_seed(seed)
    q, _ = torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64))
    return q @ torch.diag(torch.tensor(eigenvalues, dtype=torch.float64)) @ q.T


def quadratic(matrices):
    """Half theta' H theta of each member, and its parameters, (E, P)."""
    theta = torch.ones(matrices.shape[:2], dtype=torch.float64, requires_grad=True)
    return torch.einsum("ep,epq,eq->e", theta, matrices, theta) / 2, [theta]


def starts(members, size, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(members, size, generator=generator, dtype=torch.float64)


def test_the_product_with_a_quadratics_hessian_is_that_with_its_matrix():
    matrices = torch.stack([symmetric([3.0, 1.0, -2.0]), symmetric([7.0, 0.5, 0.1], 1)])
    v = starts(2, 3)
    product = curvature.hessian(*quadratic(matrices))
    for _ in range(2):  # the graph serves again
        torch.testing.assert_close(product(v), torch.einsum("epq,eq->ep", matrices, v))


def test_lanczos_finds_the_largest_eigenvalue_of_every_member():
    spectra = [[9.0, 4.0, 1.0, -20.0], [2.0, 1.9, 0.0, 0.0], [-1.0, -2.0, -3.0, -4.0]]
    product = curvature.hessian(*quadratic(torch.stack([symmetric(s) for s in spectra])))
    top = curvature.largest_eigenvalue(product, starts(3, 4), 4)
    torch.testing.assert_close(top.value, torch.tensor([9.0, 2.0, -1.0], dtype=torch.float64))
    assert top.error.max() < 1e-9
    along = product(top.vector)
    torch.testing.assert_close(along, top.value[:, None] * top.vector)


def test_the_error_bounds_the_distance_before_convergence():
    spectrum = [10.0, *torch.linspace(0, 9.5, 60).tolist()]
    matrix = symmetric(spectrum)
    product = curvature.hessian(*quadratic(matrix[None]))
    errors, values = [], []
    for steps in (2, 5, 10, 20, 40):
        top = curvature.largest_eigenvalue(product, starts(1, 61), steps)
        nearest = min(abs(top.value.item() - each) for each in spectrum)
        residual = (matrix @ top.vector[0] - top.value * top.vector[0]).norm()
        assert nearest <= top.error.item() + 1e-9
        assert residual.item() == pytest.approx(top.error.item(), abs=1e-9)
        errors.append(top.error.item())
        values.append(top.value.item())
    assert values == sorted(values)  # from below
    assert max(values) <= 10 + 1e-9
    assert errors[-1] < 1e-3 < errors[0]


def test_an_invariant_space_ends_the_search_for_that_member_only():
    matrices = torch.stack([symmetric([5.0, 3.0, 1.0]), symmetric([-5.0, -3.0, -1.0])])
    start = torch.stack([torch.linalg.eigh(matrices[0])[1][:, 1], starts(1, 3)[0]])
    top = curvature.largest_eigenvalue(curvature.hessian(*quadratic(matrices)), start, 3)
    # The first start is an eigenvector, of 3: no other is ever seen. The residual does not tell.
    torch.testing.assert_close(top.value, torch.tensor([3.0, -1.0], dtype=torch.float64))
    assert top.error.max() < 1e-9


def test_members_that_are_not_finite_are_no_numbers_and_spoil_no_other():
    product = curvature.hessian(*quadratic(torch.stack([symmetric([5.0, 3.0])] * 2)))

    def broken(v):
        found = product(v)
        found[0] = torch.nan
        return found

    top = curvature.largest_eigenvalue(broken, starts(2, 2), 2)
    assert top.value[0].isnan()
    assert top.error[0].isnan()
    assert top.value[1].item() == pytest.approx(5)


def test_a_networks_largest_eigenvalue_is_that_of_its_dense_hessian():
    """Two members in one model: each as alone, in evaluation mode, batch norm included."""
    images = torch.randn(6, 1, 4, 4, generator=torch.Generator().manual_seed(0)).double()
    labels = torch.arange(6) % 3
    model = models.ResNet(
        FusedBatchNorm, (0, 1), n=1, in_channels=1, widths=(2, 2, 2), num_classes=3
    )
    model = model.double().eval()
    parameters = list(model.parameters())
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():  # away from the kinks of ReLU, where shifts of zero leave it
        for p in parameters:
            p.add_(0.3 * torch.randn(p.shape, generator=generator))
    losses = ensemble.cross_entropy(model(images), labels)
    size = sum(p.numel() for p in parameters) // 2
    product = curvature.hessian(losses, parameters)
    eye = torch.eye(size, dtype=torch.float64)
    dense = torch.stack([product(eye[i].repeat(2, 1)) for i in range(size)], 1)
    torch.testing.assert_close(dense, dense.mT)
    top = curvature.largest_eigenvalue(product, starts(2, size), 40)
    torch.testing.assert_close(top.value, torch.linalg.eigvalsh(dense)[:, -1], rtol=1e-6, atol=1e-8)
    step, v = 1e-7, torch.nn.functional.normalize(starts(2, size), dim=1)
    gradients = []
    for sign in (1, -1):
        with torch.no_grad():
            for p, d in zip(parameters, curvature.unflattened(v, parameters), strict=True):
                p.add_(sign * step * d)
        found = torch.autograd.grad(ensemble.cross_entropy(model(images), labels).sum(), parameters)
        gradients.append(curvature.flattened(found, 2))
        with torch.no_grad():
            for p, d in zip(parameters, curvature.unflattened(v, parameters), strict=True):
                p.sub_(sign * step * d)
    difference = (gradients[0] - gradients[1]) / (2 * step)
    analytic = torch.einsum("epq,eq->ep", dense, v)
    torch.testing.assert_close(analytic, difference, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_the_eigenvalue_says_where_gradient_descent_turns_unstable(momentum):
    """At 2 (1 + momentum) / eigenvalue: just below it the loss vanishes, just above it explodes."""
    losses, (theta,) = quadratic(symmetric([8.0, 3.0, 0.5])[None])
    product = curvature.hessian(losses, [theta])
    top = curvature.largest_eigenvalue(product, starts(1, 3), 3).value
    lengths = []
    for factor in (0.99, 1.01):
        x, v = starts(1, 3, 2), torch.zeros(1, 3, dtype=torch.float64)
        for _ in range(3000):
            v = momentum * v + product(x)
            x = x - factor * 2 * (1 + momentum) / top * v
        lengths.append(x.norm().item())
    assert lengths[0] < 1e-6
    assert lengths[1] > 1e6


def test_a_product_leaves_parameters_and_random_numbers_alone():
    losses, parameters = quadratic(symmetric([3.0, 1.0])[None])
    before, state = parameters[0].detach().clone(), torch.random.get_rng_state()
    curvature.largest_eigenvalue(curvature.hessian(losses, parameters), starts(1, 2), 2)
    assert torch.equal(parameters[0], before)
    assert parameters[0].grad is None
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize("steps", [0, 4])
def test_impossible_steps(steps):
    product = curvature.hessian(*quadratic(torch.eye(3, dtype=torch.float64)[None]))
    with pytest.raises(BnbookError, match=rf"steps must lie in \[1, 3\], found {steps}"):
        curvature.largest_eigenvalue(product, starts(1, 3), steps)
