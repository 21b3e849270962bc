"""How the loss and its gradient change along the gradient, of E members at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from bnbook.errors import BnbookError
from bnbook.probes.measurements import undisturbed


class Along(NamedTuple):
    r"""What is met along the negative gradient, each (E,).

    Attributes
    ----------
    loss_range : Tensor
        Largest less smallest loss over the steps.
    gradient_change : Tensor
        Largest :math:`\lVert \nabla L(\theta - s g) - g \rVert` over the steps s.
    smoothness : Tensor
        Largest :math:`\lVert \nabla L(\theta - s g) - g \rVert / (s \lVert g \rVert)`: the
        effective smoothness, of a quadratic along an eigenvector its eigenvalue.
    """

    loss_range: Tensor
    gradient_change: Tensor
    smoothness: Tensor


@torch.enable_grad()
def walk(
    model: nn.Module,
    objective: Callable[[], Tensor],
    rates: Tensor,
    multiples: Sequence[float] = (0.5, 1.0, 2.0, 4.0),
) -> Along:
    r"""Walk along the negative gradient, and put everything back.

    All in training mode, normalisation with the statistics of the batch at every point.

    Source: Santurkar et al. 2018, section 3.1 and figure 4.

    Parameters
    ----------
    model : nn.Module
        Of E members, the member on the first axis of every parameter.
    objective : callable
        Returns the losses of the members, (E,).
    rates : Tensor, (E,)
        Each member's rate :math:`\alpha`; the steps are its `multiples`.
    multiples : sequence of float
        Positive.

    Returns
    -------
    Along
        Not numbers where the loss is not.

    Raises
    ------
    BnbookError
        When there are no multiples, or one is not positive.
    """
    if not multiples or min(multiples) <= 0:
        raise BnbookError(f"multiples must be positive, found {list(multiples)}.")
    parameters = list(model.parameters())
    saved = [p.detach().clone() for p in parameters]
    losses, changes, slopes = [], [], []
    try:
        _, g = _gradient(model, objective, parameters)
        length = _norm(g, len(rates))
        for multiple in multiples:
            steps = multiple * rates
            with torch.no_grad():
                for p, value, each in zip(parameters, saved, g, strict=True):
                    p.copy_(value - _shaped(steps, p) * each)
            loss, there = _gradient(model, objective, parameters)
            change = _norm([a - b for a, b in zip(there, g, strict=True)], len(rates))
            losses.append(loss)
            changes.append(change)
            slopes.append(change / (steps.to(length) * length))
    finally:
        with torch.no_grad():
            for p, value in zip(parameters, saved, strict=True):
                p.copy_(value)
    every = torch.stack(losses)
    return Along(
        every.amax(0) - every.amin(0), torch.stack(changes).amax(0), torch.stack(slopes).amax(0)
    )


def _gradient(
    model: nn.Module, objective: Callable[[], Tensor], parameters: Sequence[Tensor]
) -> tuple[Tensor, list[Tensor]]:
    with undisturbed(model):
        model.train()
        loss = objective()
        found = torch.autograd.grad(loss.sum(), list(parameters))
    return loss.detach().double(), list(found)


def _norm(tensors: Sequence[Tensor], members: int) -> Tensor:
    """Euclidean norm of each member's entries, in float64."""
    squares = [t.double().reshape(members, -1).square().sum(1) for t in tensors]
    return torch.stack(squares).sum(0).sqrt()


def _shaped(values: Tensor, p: Tensor) -> Tensor:
    each = values.to(p).repeat_interleave(len(p) // len(values))
    return each.view(-1, *(1,) * (p.dim() - 1))
