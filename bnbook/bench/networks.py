"""The workloads' networks as a reader would write them in plain torch.nn."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from bnbook.layers import norm
from bnbook.networks import models


class MLP(nn.Module):
    """Figure 1's network with BN: linear without bias, `torch.nn.BatchNorm1d`, sigmoid.

    The inputs are the pixels of an image. `hidden` has the widths of the hidden layers.
    """

    def __init__(self, num_inputs: int, hidden: Sequence[int], num_classes: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for fan_in, width in pairwise((num_inputs, *hidden)):
            layers += [nn.Linear(fan_in, width, bias=False), nn.BatchNorm1d(width), nn.Sigmoid()]
        self.hidden = nn.Sequential(*layers)
        self.output = nn.Linear(hidden[-1], num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the logits (N, K) of images (N, D)."""
        scores: Tensor = self.output(self.hidden(x))
        return scores


class Block(nn.Module):
    """Two convolutions with BN, and a shortcut without parameters.

    Where the stage begins, the shortcut keeps every second pixel and pads the new channels with
    zeros (He et al. 2015, option A).
    """

    def __init__(self, fan_in: int, width: int, stride: int, normed: bool = True) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(fan_in, width, 3, stride, padding=1, bias=not normed)
        self.norm1 = _norm(width, normed)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=not normed)
        self.norm2 = _norm(width, normed)
        self.stride, self.new = stride, width - fan_in

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block to (N, C, H, W)."""
        z = F.relu(self.norm1(self.conv1(x)))
        shortcut = x
        if self.stride > 1 or self.new:
            shortcut = x[:, :, :: self.stride, :: self.stride]
            shortcut = F.pad(shortcut, (0, 0, 0, 0, 0, self.new))
        return F.relu(self.norm2(self.conv2(z)) + shortcut)


class ResNet(nn.Module):
    """The residual network for CIFAR-10 of 6n+2 layers.

    Source: He et al. 2015, section 4.2.

    `blocks` is n, the blocks of each stage. With `normed` BN follows each convolution; without it a
    convolution has a bias.
    """

    def __init__(self, blocks: int, normed: bool = True) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1, bias=not normed)
        self.norm = _norm(16, normed)
        widths = [16] * blocks + [32] * blocks + [64] * blocks
        self.blocks = nn.Sequential(
            *(Block(a, b, 1 if a == b else 2, normed) for a, b in pairwise([16, *widths]))
        )
        self.output = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the logits (N, 10) of images (N, 3, 32, 32)."""
        z = self.blocks(F.relu(self.norm(self.stem(x))))
        scores: Tensor = self.output(z.mean((2, 3)))
        return scores


def _norm(width: int, normed: bool) -> nn.Module:
    return nn.BatchNorm2d(width) if normed else nn.Identity()


def our_resnet(
    blocks: int, members: int, seed: int, normed: bool = True, width: int = 16
) -> nn.Module:
    """Return the package's residual network of 6n+2 layers, its stages width, 2 and 4 times it."""
    made, widths = norm.FusedBatchNorm if normed else None, (width, 2 * width, 4 * width)
    return models.ResNet(made, seeds=(seed,) * members, n=blocks, widths=widths)


@torch.no_grad()
def start_as(network: nn.Module, ours: nn.Module) -> nn.Module:
    """Give a network the weights of our model of one member, in the order of their layers."""
    theirs, mine = list(network.parameters()), list(ours.parameters())
    for target, source in zip(theirs, mine, strict=True):
        target.copy_(source.view_as(target))
    return network
