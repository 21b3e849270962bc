"""How many independent draws an example is worth to the statistics of a channel."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from bnbook.probes import measurements


class Draws(NamedTuple):
    """Independent draws that one example is worth to a channel's mean and variance: two (C,)."""

    mean: Tensor
    variance: Tensor


def draws(
    model: nn.Module, layers: Sequence[nn.Module], images: Tensor, chunk: int = 500
) -> list[Draws]:
    r"""Measure what an example is worth to the statistics of some layers' inputs.

    A channel has p values of each example, one a position. Of m examples that are drawn
    independently their mean has the variance :math:`\mathrm{Var}_i(\bar x_i) / m`, with
    :math:`\bar x_i` the mean over the positions of example i; of :math:`n` independent values it
    would be :math:`\sigma^2 / n`, with :math:`\sigma^2` the variance of the channel over all
    examples and positions. The two agree at :math:`n = m w`, where

    .. math::
        w = \frac{\sigma^2}{\mathrm{Var}_i(\bar x_i)} ,

    1 where the positions of an example agree or there is one only, p where they are independent,
    and more where they balance. For the variance x is replaced by :math:`(x - \mu)^2`, with
    :math:`\mu` the channel's mean. It is the inverse of the intraclass correlation of an example's
    mean; the network is in evaluation mode, so that examples are independent.

    Source: Kish 1965, section 5.4 (the design effect of a sample of clusters is p / w).

    Parameters
    ----------
    model : nn.Module
        The network.
    layers : sequence of nn.Module
        Of the model, with inputs (N, C) or (N, C, H, W), each used once in a pass.
    images : Tensor, (N, ...)
        The examples, of which the variances over examples are taken.
    chunk : int
        Examples per forward pass.

    Returns
    -------
    list of Draws
        One for each layer, in their order; NaN where a channel is constant.
    """
    found = _worth(model, layers, images, chunk, [lambda x: x for _ in layers])
    centred = [_squares_about(mean) for mean, _ in found]
    squares = _worth(model, layers, images, chunk, centred)
    return [Draws(of, square) for (_, of), (_, square) in zip(found, squares, strict=True)]


def _squares_about(mean: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda x: (x - mean[:, None]).square()


@torch.no_grad()
def _worth(
    model: nn.Module,
    layers: Sequence[nn.Module],
    images: Tensor,
    chunk: int,
    values: Sequence[Callable[[Tensor], Tensor]],
) -> list[tuple[Tensor, Tensor]]:
    """Return of each layer the mean of a channel's values, and the draws of an example, (C,) each.

    `values` makes a layer's values of its input as (N, C, positions), in float64.
    """
    seen: list[list[tuple[Tensor, Tensor]]] = [[] for _ in layers]

    def hook_of(found: list[tuple[Tensor, Tensor]], make: Callable[[Tensor], Tensor]) -> object:
        def hook(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            x = make(inputs[0].double().view(*inputs[0].shape[:2], -1))
            found.append((x.mean(2), x.square().mean(2)))

        return hook

    hooks = [
        layer.register_forward_pre_hook(hook_of(found, make))  # type: ignore[arg-type]
        for layer, found, make in zip(layers, seen, values, strict=True)
    ]
    try:
        with measurements.undisturbed(model):
            model.eval()
            for some in images.split(chunk):
                model(some)
    finally:
        for hook in hooks:
            hook.remove()
    results = []
    for found in seen:
        of_example, squares = (torch.cat(parts) for parts in zip(*found, strict=True))
        mean = of_example.mean(0)
        within_all = squares.mean(0) - mean.square()
        results.append((mean, within_all / of_example.var(0, correction=0)))
    return results
