"""Moments of channels and terms of gradients, read off a network without disturbing it.

All is measured as in a training step: batch normalisation takes the statistics of the batch that
passes. Parameters, their gradients, running statistics and train/eval flags are afterwards what
they were, bit by bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from bnbook.errors import BnbookError
from bnbook.layers import ensemble
from bnbook.probes import measurements


class Moments(NamedTuple):
    """Mean and biased variance of each channel, over the batch and all positions: two (C,)."""

    mean: Tensor
    variance: Tensor


class Contributions(NamedTuple):
    r"""What the terms of a kernel's gradient add up to, in three ways.

    With :math:`d^{bxy}_{oix'y'}` the terms of `contributions`:

    Attributes
    ----------
    total : Tensor, (o, i, k, k)
        :math:`\sum_{bxy} d^{bxy}`, the kernel's gradient.
    absolute : Tensor, (o, i, k, k)
        :math:`\sum_{bxy} |d^{bxy}|`.
    by_image : Tensor, (o, i, k, k)
        :math:`\sum_b |\sum_{xy} d^{bxy}|`, between the other two in size.
    terms : int
        Terms of each sum: images times positions of the output.
    """

    total: Tensor
    absolute: Tensor
    by_image: Tensor
    terms: int


class Captured(NamedTuple):
    r"""A convolution's input and gradients in one backward pass.

    Attributes
    ----------
    inputs : Tensor, (B, i, H, W)
        I.
    output_gradient : Tensor, (B, o, H', W')
        :math:`\partial L / \partial O`.
    kernel_gradient : Tensor, (o, i, k, k)
        :math:`\partial L / \partial K`, from autograd.
    """

    inputs: Tensor
    output_gradient: Tensor
    kernel_gradient: Tensor


@torch.no_grad()
def channel_moments(model: nn.Module, layers: Sequence[nn.Module], images: Tensor) -> list[Moments]:
    """Moments of the channels of some layers' outputs, in one pass.

    No output is kept, so that the memory of one layer is enough.

    Parameters
    ----------
    model : nn.Module
        The network.
    layers : sequence of nn.Module
        Of the model, with outputs (B, C) or (B, C, H, W), each used once in a pass.
    images : Tensor, (B, ...)
        The batch.

    Returns
    -------
    list of Moments
        One for each layer, in their order.

    Raises
    ------
    BnbookError
        When a layer is used not once.
    """

    def moments(_: Any, output: Tensor) -> Moments:
        over = (0, *range(2, output.dim()))
        variance, mean = torch.var_mean(output, over, correction=0)
        return Moments(mean, variance)

    with _watching(layers, moments) as seen, measurements.undisturbed(model):
        model.train()
        model(images)
    return _once(seen)


def output_gradients(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    r"""Gradient of each image's loss with respect to the network's outputs.

    :math:`\partial L_b / \partial O_{bj}` with :math:`L_b` the cross-entropy of image b: softmax
    less the indicator of the true class. Source: Bjorck et al. 2018, section 3.2 and figure 6.

    Parameters
    ----------
    model : nn.Module
        Returns logits (B, E, K).
    images, labels : Tensor, (B, ...) and (B,)
        The batch.

    Returns
    -------
    Tensor, (B, E, K)
        In [-1, 1]; each row sums to zero.
    """
    with torch.no_grad(), measurements.undisturbed(model):
        model.train()
        logits = model(images)
    outputs = logits.detach().requires_grad_()
    loss = ensemble.cross_entropy(outputs, labels).sum() * len(images)
    (gradient,) = torch.autograd.grad(loss, outputs)
    return cast(Tensor, gradient)


def contributions(
    inputs: Tensor,
    output_gradient: Tensor,
    kernel_size: int,
    stride: int = 1,
    padding: int = 0,
    chunk: int = 8,
) -> Contributions:
    r"""Add up the terms of a kernel's gradient: as they are, by absolute value, and by image.

    The kernel K of :math:`O_{boxy} = \sum_{ix'y'} I_{b,i,x+x',y+y'} K_{oix'y'}` has the gradient

    .. math::
        \frac{\partial L}{\partial K_{oix'y'}} = \sum_{bxy} d^{bxy}_{oix'y'}, \qquad
        d^{bxy}_{oix'y'} = \frac{\partial L}{\partial O_{boxy}}\, I_{b,i,x+x',y+y'} .

    Each sum is a product of matrices over positions: with :math:`|d| = |\partial L / \partial O|
    |I|` the absolute values are one too. Images are taken a few at a time and sums over them kept
    in float64.

    Source: Bjorck et al. 2018, equations 4 and 5.

    Parameters
    ----------
    inputs : Tensor, (B, i, H, W)
        I.
    output_gradient : Tensor, (B, o, H', W')
        :math:`\partial L / \partial O`.
    kernel_size, stride, padding : int
        Of the convolution.
    chunk : int
        Images at a time.

    Raises
    ------
    BnbookError
        When the two tensors do not belong to one convolution.
    """
    sums = []
    for some, g in zip(inputs.split(chunk), output_gradient.split(chunk), strict=True):
        patches, g = F.unfold(some, kernel_size, padding=padding, stride=stride).mT, g.flatten(2)
        if patches.shape[:2] != (len(g), g.shape[2]):
            raise BnbookError(
                f"inputs of shape {tuple(inputs.shape)} give {patches.shape[1]} positions, the"
                f" gradient of shape {tuple(output_gradient.shape)} has {g.shape[2]}."
            )
        by_image = (g @ patches).double()
        absolute = (g.abs() @ patches.abs()).double()
        sums.append(torch.stack([by_image.sum(0), absolute.sum(0), by_image.abs().sum(0)]))
    shape = (output_gradient.shape[1], inputs.shape[1], kernel_size, kernel_size)
    total, absolute, by_image = (found.view(shape) for found in torch.stack(sums).sum(0))
    return Contributions(total, absolute, by_image, output_gradient[:, 0].numel())


def capture(
    model: nn.Module, layers: Sequence[ensemble.Conv2d], images: Tensor, labels: Tensor
) -> list[Captured]:
    """Send the loss of a batch back to some convolutions; keep their inputs and gradients.

    The loss is the cross-entropy, averaged over the batch.

    Parameters
    ----------
    model : nn.Module
        A network of one member that returns logits (B, 1, K).
    layers : sequence of bnbook.layers.ensemble.Conv2d
        Of the model, each used once in a pass.
    images, labels : Tensor, (B, ...) and (B,)
        The batch.

    Returns
    -------
    list of Captured
        One for each layer, in their order.

    Raises
    ------
    BnbookError
        When the model has more members, or a layer is used not once.
    """
    if model.members != 1:
        raise BnbookError(f"the model must have 1 member, found {model.members}.")

    def both(inputs: tuple[Tensor, ...], output: Tensor) -> tuple[Tensor, Tensor]:
        return inputs[0].detach(), output

    with _watching(layers, both) as seen, measurements.undisturbed(model):
        model.train()
        loss = ensemble.cross_entropy(model(images), labels).sum()
    pairs = _once(seen)
    targets = [*(output for _, output in pairs), *(layer.weight for layer in layers)]
    found = torch.autograd.grad(loss, targets)
    return [
        Captured(inputs, of_output, of_weight[0])
        for (inputs, _), of_output, of_weight in zip(
            pairs, found[: len(layers)], found[len(layers) :], strict=True
        )
    ]


@contextmanager
def _watching(
    layers: Sequence[nn.Module], read: Callable[[Any, Tensor], Any]
) -> Iterator[list[list[Any]]]:
    """Collect what `read` makes of each layer's inputs and output, for each use of the layer."""
    seen: list[list[Any]] = [[] for _ in layers]

    def hook_of(found: list[Any]) -> Callable[..., None]:
        def hook(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            found.append(read(inputs, output))

        return hook

    hooks = [
        layer.register_forward_hook(hook_of(found))
        for layer, found in zip(layers, seen, strict=True)
    ]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def _once(seen: list[list[Any]]) -> list[Any]:
    uses = [len(found) for found in seen]
    if set(uses) - {1}:
        raise BnbookError(f"each layer must be used once in a pass, found {uses} uses.")
    return [found[0] for found in seen]
