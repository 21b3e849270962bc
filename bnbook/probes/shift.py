r"""Internal covariate shift, measured in three ways on the same network and the same batch.

A *layer* is a linear map or a convolution with what follows it up to the next. Every measure is
taken where networks with and without normalisation have the same tensor: at the input of the
layer's nonlinearity, and at the gradient of its weights W. Layers count from 0; all is measured in
training mode, and parameters, buffers and flags are afterwards what they were, bit by bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from bnbook.errors import BnbookError
from bnbook.layers import ensemble
from bnbook.probes import measurements

NONLINEARITIES = (nn.Sigmoid, nn.Tanh, nn.ReLU, nn.Identity)

Objective = Callable[[], Tensor]
"""Returns the losses of the members at their present parameters, (E,)."""


class Layer(NamedTuple):
    """A layer of a network.

    Attributes
    ----------
    weight : Tensor
        W, the member on the first axis.
    parameters : tuple of Tensor
        All of the layer's parameters: W, b, scale and shift.
    point : nn.Module
        The layer's nonlinearity, at whose input it is observed.
    """

    weight: Tensor
    parameters: tuple[Tensor, ...]
    point: nn.Module


class Shift(NamedTuple):
    r"""The three measures, each (E, M), of E members and M layers.

    Attributes
    ----------
    drift : Tensor
        Change of the first two moments of the layer's inputs to its nonlinearity when the whole
        network makes one step, in units of their spread; see `drift`.
    distance : Tensor
        Wasserstein distance between the inputs to the layer's nonlinearity before and after the
        layers below make that step, in units of their spread; see `wasserstein`.
    change : Tensor
        :math:`\lVert G - G' \rVert_2`, with G the gradient of the loss with respect to W, and G'
        the same with the layers below already stepped.
    relative : Tensor
        :math:`\lVert G - G' \rVert_2 / \lVert G \rVert_2`.
    cosine : Tensor
        Of the angle between G and G'.
    """

    drift: Tensor
    distance: Tensor
    change: Tensor
    relative: Tensor
    cosine: Tensor


def layers_of(hidden: nn.Sequential) -> list[Layer]:
    """Split a sequence of modules into layers.

    Parameters
    ----------
    hidden : nn.Sequential
        Begins with a linear map or a convolution; each has one nonlinearity before the next.

    Raises
    ------
    BnbookError
        When the sequence has another form.
    """
    parts: list[list[nn.Module]] = []
    for module in hidden:
        if isinstance(module, ensemble.Layer):
            parts.append([])
        if not parts:
            raise BnbookError(f"hidden must begin with a linear map or convolution, not {module}.")
        parts[-1].append(module)
    found = []
    for part in parts:
        points = [module for module in part if isinstance(module, NONLINEARITIES)]
        if len(points) != 1:
            raise BnbookError(f"each layer needs one nonlinearity, found {len(points)} in {part}.")
        parameters = tuple(p for module in part for p in module.parameters())
        found.append(Layer(parameters[0], parameters, points[0]))
    return found


def drift(before: Tensor, after: Tensor) -> Tensor:
    r"""How far the first two moments of units moved, in units of the spread before.

    .. math::
        D = \left\langle \frac{\sqrt{(\mu' - \mu)^2 + (\sigma' - \sigma)^2}}{\sigma} \right\rangle

    with the mean :math:`\langle\cdot\rangle` over units. The numerator is the Wasserstein distance
    of order 2 between Gaussians of these moments (Dowson & Landau 1982). A unit that was constant
    counts for nothing.

    Parameters
    ----------
    before, after : Tensor, (2, ..., C)
        Means and standard deviations of C units.

    Returns
    -------
    Tensor, (...)
    """
    moved = (after - before).square().sum(0).sqrt()
    return _mean_in_spreads(moved, *before)


def wasserstein(before: Tensor, after: Tensor) -> Tensor:
    r"""One-dimensional Wasserstein distance of order 1, each unit's, in units of its spread before.

    Of two samples of one size it is the mean distance of their values in rising order; averaged
    over units, without those that were constant.

    Parameters
    ----------
    before, after : Tensor, (n, ..., C)
        n values of each of C units.

    Returns
    -------
    Tensor, (...)
    """
    moved = (after.sort(0).values - before.sort(0).values).abs().mean(0)
    return _mean_in_spreads(moved, *moments(before))


def moments(values: Tensor) -> Tensor:
    """Means and standard deviations over the first axis, (n, ..., C) -> (2, ..., C)."""
    var, mean = torch.var_mean(values, 0, correction=0)
    return torch.stack([mean, var.sqrt()])


def inputs(model: nn.Module, layers: Sequence[Layer], objective: Objective) -> list[Tensor]:
    """Return the inputs to some layers' nonlinearities in one training pass, each (n, E, C).

    n counts images and positions. The pass is forgotten: buffers and flags are put back.
    """
    with measurements.undisturbed(model), torch.no_grad(), _watching(layers) as seen:
        model.train()
        objective()
    return seen


@torch.enable_grad()
def measure(
    model: nn.Module,
    layers: Sequence[Layer],
    objective: Objective,
    rates: Tensor,
    at: Sequence[int],
) -> Shift:
    r"""Measure the internal covariate shift of one step of plain SGD, as it would come next.

    Every layer's update is :math:`-\alpha` times its gradient at the present parameters. For layer
    i the layers 0..i-1 have made their update, layer i and those above have not. Statistics of
    normalisation layers are those of the batch, each time anew; the batch is the objective's, the
    same throughout, and so is noise that a layer draws by a count of its calls in a buffer, save
    in `Shift.drift`, which sees the noise of the next step.

    Source: `Shift.change` and `Shift.cosine`, definition 2.1 of Santurkar et al. 2018, with G of W
    alone, which all networks have; the other two are ours.

    Parameters
    ----------
    model : nn.Module
        Of E members, the member on the first axis of every parameter.
    layers : sequence of Layer
        All hidden layers, from the first on.
    objective : callable
        The losses.
    rates : Tensor, (E,)
        :math:`\alpha`.
    at : sequence of int
        Layers to be measured, rising; each has a layer below.

    Raises
    ------
    BnbookError
        When a layer of `at` has none below, or is not there.
    """
    if not at or list(at) != sorted(set(at)) or not 1 <= at[0] <= at[-1] < len(layers):
        raise BnbookError(f"at must rise within [1, {len(layers) - 1}], found {list(at)}.")
    parameters = [p for layer in layers for p in layer.parameters]
    saved = [p.detach().clone() for p in parameters]
    model_rates = rates.to(saved[0])
    try:
        before, gradients = _pass(model, layers, objective, parameters)
        own = dict(zip(parameters, gradients, strict=True))
        rows, stepped = [], 0
        for i in at:
            _step(layers[stepped:i], own, model_rates)
            stepped = i
            after, (changed,) = _pass(model, layers, objective, [layers[i].weight])
            distance = wasserstein(before[i], after[i])
            compared = _compare(own[layers[i].weight], changed, len(rates))
            rows.append(torch.stack([distance.double(), *compared]))
        _step(layers[stepped:], own, model_rates)
        drifts = _drifts(model, layers, objective, before, at)
    finally:
        with torch.no_grad():
            for p, value in zip(parameters, saved, strict=True):
                p.copy_(value)
    return Shift(drifts, *torch.stack(rows, -1))


def _pass(
    model: nn.Module, layers: Sequence[Layer], objective: Objective, of: Sequence[Tensor]
) -> tuple[list[Tensor], list[Tensor]]:
    """Return the inputs to the nonlinearities, and gradients, in training mode."""
    with measurements.undisturbed(model), _watching(layers) as seen:
        model.train()
        gradients = torch.autograd.grad(objective().sum(), list(of))
    return seen, list(gradients)


@torch.no_grad()
def _drifts(
    model: nn.Module,
    layers: Sequence[Layer],
    objective: Objective,
    before: Sequence[Tensor],
    at: Sequence[int],
) -> Tensor:
    """Return the drift of the moments to the pass after this one, with all layers stepped."""
    with measurements.undisturbed(model):
        model.train()
        objective()
        with _watching(layers) as seen:
            objective()
    return torch.stack([drift(moments(before[i]), moments(seen[i])).double() for i in at], -1)


@contextmanager
def _watching(layers: Sequence[Layer]) -> Iterator[list[Tensor]]:
    """Collect the inputs to the nonlinearities, in the layers' order, as (n, E, C)."""
    seen: list[Tensor] = []

    def hook_of(members: int) -> Callable[[Any, tuple[Tensor, ...]], None]:
        def hook(_: Any, given: tuple[Tensor, ...]) -> None:
            x = given[0].detach()
            x = x if x.dim() == 2 else x.movedim(1, -1).flatten(0, -2)
            seen.append(x.reshape(len(x), members, -1))

        return hook

    hooks = [layer.point.register_forward_pre_hook(hook_of(len(layer.weight))) for layer in layers]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


@torch.no_grad()
def _step(layers: Sequence[Layer], gradients: dict[Tensor, Tensor], rates: Tensor) -> None:
    """Let some layers make their update."""
    for p in (p for layer in layers for p in layer.parameters):
        each = rates.repeat_interleave(len(p) // len(rates))
        p.addcmul_(gradients[p], each.view(-1, *(1,) * (p.dim() - 1)), value=-1)


def _compare(g: Tensor, other: Tensor, members: int) -> tuple[Tensor, Tensor, Tensor]:
    """Length of the difference of two gradients, that over the first's length, and the cosine."""
    g, other = (each.reshape(members, -1).double() for each in (g, other))
    change, size = (g - other).norm(dim=1), g.norm(dim=1)
    return change, change / size, (g * other).sum(1) / (size * other.norm(dim=1))


def _mean_in_spreads(moved: Tensor, mean: Tensor, spread: Tensor) -> Tensor:
    """Average over units in units of their spread, without those that are constant to rounding."""
    alive = spread > 1e-6 * mean.abs()
    share = torch.where(alive, moved / torch.where(alive, spread, torch.ones_like(spread)), 0.0)
    return share.sum(-1) / alive.sum(-1)
