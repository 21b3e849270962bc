"""Networks with BN of which little is left to learn: gamma and beta, or as many other weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from bnbook.layers import ensemble
from bnbook.networks import models


def freeze(layer: nn.Module) -> None:
    """Turn a layer's own parameters into buffers, which neither move nor decay."""
    for name, value in list(layer.named_parameters(recurse=False)):
        delattr(layer, name)
        layer.register_buffer(name, value.detach())


def affine_only(model: nn.Module) -> nn.Module:
    """Let a network with BN learn its gammas and betas alone: all else stays as it was drawn.

    Source: Frankle, Schwab & Morcos 2020 (Training BatchNorm and only BatchNorm).

    Parameters
    ----------
    model : nn.Module
        Changed in place; layers with running statistics keep their parameters.

    Returns
    -------
    nn.Module
        The model itself.
    """
    for layer in model.modules():
        if not hasattr(layer, "running_mean"):
            freeze(layer)
    return model


class FewFreeConv2d(ensemble.Conv2d):
    """A frozen convolution, but for as many weights of each output channel as BN has: two.

    Source: Frankle, Schwab & Morcos 2020, who compare gamma and beta with as many random weights.

    Parameters
    ----------
    like : bnbook.layers.ensemble.Conv2d
        Its sizes and weights are taken over.
    generators : sequence of torch.Generator
        One for each member: they choose the weights that are free.

    Attributes
    ----------
    free : Parameter, (E, out_channels, 2)
        The weights that learn; initially those of `like`.
    index : Tensor, (E, out_channels, 2), int64
        Their places among the weights of a channel.
    """

    FREE = 2
    index: Tensor

    def __init__(self, like: ensemble.Conv2d, generators: Sequence[torch.Generator]) -> None:
        members, out, channels, k, _ = like.weight.shape
        super().__init__(members, channels, out, k, like.stride, like.padding, bias=False)
        weights = like.weight.detach().flatten(2)
        places = [torch.rand(weights.shape[1:], generator=g).argsort(1) for g in generators]
        self.register_buffer("index", torch.stack(places)[..., : self.FREE])
        freeze(self)
        self.weight.copy_(like.weight)
        self.free = nn.Parameter(weights.gather(2, self.index))

    def forward(self, x: Tensor) -> Tensor:
        """Apply each member's convolution; see `bnbook.layers.ensemble.Conv2d`."""
        kernels = self.weight.flatten(2).scatter(2, self.index, self.free).view_as(self.weight)
        groups = self._groups(x)
        return F.conv2d(x, kernels.flatten(0, 1), None, self.stride, self.padding, groups=groups)


def few_weights_only(model: models.ResNet, seeds: Sequence[int]) -> models.ResNet:
    """Let a residual network with BN learn two random weights of each channel, and nothing else.

    These are as many as its gammas and betas, which stay at 1 and 0.

    Parameters
    ----------
    model : bnbook.networks.models.ResNet
        With BN after every convolution, so that these have no bias; changed in place.
    seeds : sequence of int
        One for each member, which choose the weights.

    Returns
    -------
    bnbook.networks.models.ResNet
        The model itself.
    """
    for layer in model.modules():
        freeze(layer)
    generators = [torch.Generator().manual_seed(0xF2EE_0000 + seed) for seed in seeds]
    model.stem = FewFreeConv2d(model.stem, generators)
    for each in model.blocks:
        block = cast(models.Block, each)
        block.conv1 = FewFreeConv2d(block.conv1, generators)
        block.conv2 = FewFreeConv2d(block.conv2, generators)
    return model
