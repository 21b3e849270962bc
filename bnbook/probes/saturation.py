r"""Saturation of sigmoids and tanhs, and the gradients that reach each layer.

The *slope* of a nonlinearity g at an input x is taken relative to its largest,

.. math::
    \frac{g'(x)}{g'(0)} = \frac{1}{\cosh^2(x / 2)} \text{ for the logistic function}, \qquad
    \frac{1}{\cosh^2 x} \text{ for tanh.}

An activation, one unit for one example, is *saturated* where its slope is below `SATURATED`: where
:math:`|x| > 3.64` for the logistic function, and :math:`|x| > 1.82` for tanh. Everything is read in
training mode at the input of each layer's nonlinearity, which networks with and without
normalisation have alike.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from bnbook.errors import BnbookError
from bnbook.probes import measurements
from bnbook.probes.shift import Layer, Objective

SATURATED = 0.1
"""Share of the largest slope below which an activation is saturated."""
_STEEPNESS = {nn.Sigmoid: 0.5, nn.Tanh: 1.0}


class Saturation(NamedTuple):
    r"""What is read off L layers of E members, each (E, L).

    Attributes
    ----------
    share : Tensor
        Saturated activations, a share of all units and examples, in [0, 1].
    slope : Tensor
        Mean slope, in [0, 1].
    input_gradient : Tensor
        Root mean square, over examples and units, of the derivative of an example's loss with
        respect to the layer's input to its nonlinearity.
    weight_gradient : Tensor
        Norm of the gradient of the mean loss with respect to the layer's W.
    """

    share: Tensor
    slope: Tensor
    input_gradient: Tensor
    weight_gradient: Tensor


def slope(nonlinearity: nn.Module, x: Tensor) -> Tensor:
    """Return the derivative of a nonlinearity at x over its largest.

    Parameters
    ----------
    nonlinearity : nn.Module
        ``torch.nn.Sigmoid`` or ``torch.nn.Tanh``.
    x : Tensor
        Its inputs.

    Returns
    -------
    Tensor, of the shape of x
        In [0, 1].

    Raises
    ------
    BnbookError
        For another nonlinearity.
    """
    if type(nonlinearity) not in _STEEPNESS:
        known = ", ".join(kind.__name__ for kind in _STEEPNESS)
        raise BnbookError(
            f"the nonlinearity must be one of {known}, found {type(nonlinearity).__name__}."
        )
    return (_STEEPNESS[type(nonlinearity)] * x).cosh().square().reciprocal()


@torch.enable_grad()
def measure(model: nn.Module, layers: Sequence[Layer], objective: Objective) -> Saturation:
    """Measure saturation and gradients in one training pass, which is then forgotten.

    Parameters
    ----------
    model : nn.Module
        Of E members, the member on the first axis of every parameter.
    layers : sequence of Layer
        Fully connected ones; see `bnbook.probes.shift.layers_of`.
    objective : callable
        The losses, means over the examples of a batch: (E,).
    """
    with measurements.undisturbed(model), _inputs(layers) as seen:
        model.train()
        losses = objective()
        weights = [layer.weight for layer in layers]
        found = torch.autograd.grad(losses.sum(), [*seen, *weights])
    of_inputs, of_weights = found[: len(layers)], found[len(layers) :]
    members = len(losses)

    def apart(x: Tensor) -> Tensor:
        return x.detach().double().unflatten(1, (members, -1))  # type: ignore[no-any-return]

    slopes = [slope(layer.point, apart(x)) for layer, x in zip(layers, seen, strict=True)]
    own = [len(g) * apart(g) for g in of_inputs]
    return Saturation(
        torch.stack([(each < SATURATED).double().mean((0, 2)) for each in slopes], 1),
        torch.stack([each.mean((0, 2)) for each in slopes], 1),
        torch.stack([g.square().mean((0, 2)).sqrt() for g in own], 1),
        torch.stack([g.reshape(members, -1).double().norm(dim=1) for g in of_weights], 1),
    )


@contextmanager
def _inputs(layers: Sequence[Layer]) -> Iterator[list[Tensor]]:
    """Collect the inputs to the nonlinearities, in the layers' order, gradients attached."""
    seen: list[Tensor] = []

    def keep(_: Any, given: tuple[Tensor, ...]) -> None:
        seen.append(given[0])

    hook: Callable[..., None] = keep
    hooks = [layer.point.register_forward_pre_hook(hook) for layer in layers]
    try:
        yield seen
    finally:
        for each in hooks:
            each.remove()
