"""Fisher information as a Hessian: against the Jacobian of all outputs, written out."""

import pytest
import torch

from bnbook.layers.norm import BatchNorm, LayerNorm
from bnbook.networks.dense import PlacedMLP
from bnbook.probes import curvature, fisher

N, K = 12, 3


def network(norms):
    model = PlacedMLP(norms, (1,), num_inputs=4, hidden=(5, 5), num_classes=K).double().train()
    x = torch.randn(N, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return model, x


def jacobian(model, x):
    """All outputs with respect to all parameters, (N, K, P)."""
    parameters = list(model.parameters())
    rows = [
        curvature.flattened(
            torch.autograd.grad(each, parameters, retain_graph=True, materialize_grads=True), 1
        )
        for each in model(x).flatten()
    ]
    return torch.cat(rows).view(N, K, -1)


def matrix(product, size):
    return torch.cat([product(row[None]) for row in torch.eye(size, dtype=torch.float64)])


def between(loss, outputs):
    """The Fisher information of what the network says with respect to its outputs, (N, K, K)."""
    if loss == "gaussian":
        return torch.eye(K, dtype=torch.float64).expand(N, K, K)
    q = outputs.softmax(-1)
    return torch.diag_embed(q) - q[:, :, None] * q[:, None, :]


@pytest.mark.parametrize("loss", fisher.LOSSES)
@pytest.mark.parametrize(
    "norms", [{}, {2: BatchNorm}, {3: BatchNorm}, dict.fromkeys((1, 2, 3), LayerNorm)]
)
def test_it_is_the_jacobians_product(loss, norms):
    model, x = network(norms)
    J = jacobian(model, x)
    outputs = model(x)
    lam = between(loss, outputs[:, 0].detach())
    expected = torch.einsum("nkp,nkl,nlq->pq", J, lam, J) / N
    product = curvature.hessian(fisher.LOSSES[loss](outputs), list(model.parameters()))
    found = matrix(product, J.shape[-1])
    scale = expected.abs().max().item()
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12 * scale)
    start = torch.ones(1, J.shape[-1], dtype=torch.float64)
    top = curvature.largest_eigenvalue(product, start, J.shape[-1])
    assert top.value.item() == pytest.approx(torch.linalg.eigvalsh(expected)[-1].item())


@pytest.mark.parametrize("loss", fisher.LOSSES)
def test_the_loss_is_least_where_the_network_is(loss):
    outputs = torch.randn(N, 1, K, generator=torch.Generator().manual_seed(2)).double()
    outputs.requires_grad_()
    (gradient,) = torch.autograd.grad(fisher.LOSSES[loss](outputs).sum(), outputs)
    assert gradient.abs().max() < 1e-15
