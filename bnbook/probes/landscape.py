r"""The loss around a point: along the negative gradient, and along a part of an update.

An *objective* is a function without arguments that returns the loss of a model at its present
parameters. Everything here leaves parameters, buffers and train/eval flags bit by bit as they were.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bnbook.errors import BnbookError
from bnbook.probes.measurements import undisturbed

Objective = Callable[[], Tensor]
"""Returns a loss of one element."""


def gradient(model: nn.Module, objective: Objective) -> tuple[float, list[Tensor]]:
    """Compute the loss and its gradient.

    Parameters
    ----------
    model : nn.Module
        Its parameters' ``grad`` is left alone.
    objective : callable
        The loss.

    Returns
    -------
    float, list of Tensor
        The loss, and one gradient for each parameter.
    """
    with undisturbed(model):
        loss = objective()
        gradients = torch.autograd.grad(loss, list(model.parameters()))
    return loss.item(), list(gradients)


def norm(tensors: Sequence[Tensor]) -> float:
    """Euclidean norm over all entries, summed in float64."""
    return math.sqrt(sum(t.double().square().sum().item() for t in tensors))


@torch.no_grad()
def shift(model: nn.Module, update: Sequence[Tensor], fraction: float = 1.0) -> None:
    r"""Move a model's parameters for good: :math:`\theta \leftarrow \theta + f\,\Delta`."""
    for p, change in zip(model.parameters(), update, strict=True):
        p.add_(change, alpha=fraction)


@contextmanager
def displaced(model: nn.Module, update: Sequence[Tensor], fraction: float) -> Iterator[None]:
    r"""Apply a fraction of an update, and put everything back on leaving.

    Parameters
    ----------
    model : nn.Module
        Inside, its parameters are :math:`\theta + f\,\Delta`.
    update : sequence of Tensor
        :math:`\Delta`, one for each parameter; of the negative gradient, f is the step size.
    fraction : float
        f. At 1 the parameters have the bits that `shift` gives them.
    """
    before = [p.detach().clone() for p in model.parameters()]
    try:
        with undisturbed(model):
            shift(model, update, fraction)
            yield
    finally:
        with torch.no_grad():
            for p, value in zip(model.parameters(), before, strict=True):
                p.copy_(value)


@torch.no_grad()
def loss_after(
    model: nn.Module, objective: Objective, update: Sequence[Tensor], fraction: float
) -> float:
    """Loss with a fraction of an update applied; infinite or NaN where the numbers overflow."""
    with displaced(model, update, fraction):
        return objective().item()


@dataclass(frozen=True)
class Course:
    """The loss along the negative gradient.

    Attributes
    ----------
    steps, losses : tuple of float
        Step sizes, rising, and the loss after each.
    largest : float
        The largest helpful step; see `descend`.
    """

    steps: tuple[float, ...]
    losses: tuple[float, ...]
    largest: float


def descend(
    model: nn.Module,
    objective: Objective,
    before: float,
    gradients: Sequence[Tensor],
    steps: Sequence[float],
    refinements: int = 3,
) -> Course:
    r"""Follow the loss along the negative gradient, and find the largest step that reduces it.

    Beyond the smallest loss on the grid, the first step whose loss is not below `before` ends the
    helpful ones. The interval between it and the step before is halved in the logarithm
    `refinements` times; the largest helpful step is the geometric mean of what is left. On a
    quadratic with Hessian H it is

    .. math::
        \alpha^\ast = \frac{2\, g^T g}{g^T H g} ,

    2 over the eigenvalue along an eigenvector.

    Parameters
    ----------
    model : nn.Module
        The network.
    objective : callable
        The loss.
    before : float
        The loss at the present parameters.
    gradients : sequence of Tensor
        g, from `gradient`.
    steps : sequence of float
        Positive and rising.
    refinements : int
        How often the interval is halved.

    Returns
    -------
    Course
        ``largest`` is NaN when no step of the grid helps, or when none beyond the best one fails.

    Raises
    ------
    BnbookError
        When the steps are not positive and rising.
    """
    if not steps or steps[0] <= 0 or sorted(set(steps)) != list(steps):
        raise BnbookError(f"steps must be positive and rising, found {tuple(steps)}.")
    losses = {step: loss_after(model, objective, gradients, -step) for step in steps}
    bracket = _bracket(list(steps), list(losses.values()), before)
    if bracket is None:
        return Course(tuple(losses), tuple(losses.values()), math.nan)
    low, high = bracket
    for _ in range(refinements):
        middle = math.sqrt(low * high)
        losses[middle] = loss_after(model, objective, gradients, -middle)
        low, high = (middle, high) if losses[middle] < before else (low, middle)
    rising = sorted(losses)
    return Course(tuple(rising), tuple(losses[step] for step in rising), math.sqrt(low * high))


def _bracket(steps: list[float], losses: list[float], before: float) -> tuple[float, float] | None:
    """Last helpful step and the first beyond it that is not, from the best one on."""
    best = min(range(len(steps)), key=lambda i: losses[i] if losses[i] < math.inf else math.inf)
    if not losses[best] < before:
        return None
    for i in range(best + 1, len(steps)):
        if not losses[i] < before:
            return steps[i - 1], steps[i]
    return None


@torch.no_grad()
def channel_moments(
    model: nn.Module, layers: Sequence[nn.Module], objective: Objective
) -> tuple[float, list[tuple[Tensor, Tensor]]]:
    """Mean and variance of every channel of some layers' outputs while a loss is computed.

    Parameters
    ----------
    model : nn.Module
        The network.
    layers : sequence of nn.Module
        Layers of it, with outputs (N, C, H, W).
    objective : callable
        The loss; calls each of the layers once.

    Returns
    -------
    float, list of (Tensor, Tensor)
        The loss, and for each layer the means and the biased variances, (C,), float64: over the
        images and all positions. Not numbers where the outputs are not.
    """
    seen: dict[nn.Module, tuple[Tensor, Tensor]] = {}

    def see(layer: nn.Module, _: object, output: Tensor) -> None:
        var, mean = torch.var_mean(output, (0, 2, 3), correction=0)
        if not var.isfinite().all():  # squares overflow long before the values do
            var, mean = torch.var_mean(output.double(), (0, 2, 3), correction=0)
        seen[layer] = mean.double(), var.double()

    hooks = [layer.register_forward_hook(see) for layer in layers]
    try:
        with undisturbed(model):
            loss = objective().item()
    finally:
        for hook in hooks:
            hook.remove()
    return loss, [seen[layer] for layer in layers]
