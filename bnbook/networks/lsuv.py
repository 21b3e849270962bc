r"""Initial weights scaled by the data, once: layer-sequential unit variance (LSUV).

Source: Mishkin & Matas 2016 (All you need is a good init), algorithm 1, without its orthonormal
first step: here the weights that are scaled are whatever the model has, Gaussian in this book.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from bnbook.errors import BnbookError
from bnbook.layers import ensemble


@torch.no_grad()
def scale_weights(model: nn.Module, images: Tensor) -> list[Tensor]:
    r"""Scale every layer's weights so that its outputs on these images have variance 1, in place.

    .. math::
        W_l \leftarrow W_l / \sqrt{\mathrm{Var}(W_l x_{l-1})}

    layer by layer, in the order in which the layers are applied; the variance is over all of a
    layer's outputs, images, channels and positions together. One forward pass does it: a layer
    without bias is linear in its weights, so its outputs are scaled with them on their way.

    Parameters
    ----------
    model : nn.Module
        Of `bnbook.layers.ensemble` layers, each applied once, with biases of 0; in training mode
        where it has normalisation layers whose running statistics should move. Each member is
        scaled by itself.
    images : Tensor, (N, C, H, W)
        The batch, shared by the members.

    Returns
    -------
    list of Tensor, (E,)
        The standard deviation that each layer was divided by, in the order of the layers.

    Raises
    ------
    BnbookError
        When a bias is not 0, or a layer's outputs are constant.
    """
    layers = {
        name: layer for name, layer in model.named_modules() if isinstance(layer, ensemble.Layer)
    }
    divided: list[Tensor] = []
    with ExitStack() as hooks:
        for name, layer in layers.items():
            if layer.bias is not None and bool(layer.bias.any()):
                raise BnbookError(f"{name}.bias must be 0 before the weights are scaled.")
            hooks.callback(layer.register_forward_hook(_scaling(name, divided)).remove)
        model(images)
    return divided


def _scaling(name: str, divided: list[Tensor]) -> Any:
    """Make the hook that scales a layer's weights, and the outputs that they have just given."""

    def scale(layer: Any, _: Any, output: Tensor) -> Tensor:
        members = layer.members
        std = output.transpose(0, 1).reshape(members, -1).std(1, correction=0)
        if not bool((std > 0).all()):
            raise BnbookError(f"the outputs of {name} must vary, found a deviation of {std.min()}.")
        layer.weight.div_(std.view(-1, *(1,) * (layer.weight.dim() - 1)))
        divided.append(std)
        per_channel = std.repeat_interleave(output.shape[1] // members)
        return output / per_channel.view(1, -1, *(1,) * (output.dim() - 2))

    return scale
