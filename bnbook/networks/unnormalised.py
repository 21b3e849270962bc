r"""Residual networks without normalisation whose branches are scaled: SkipInit and Fixup.

Both start with every residual branch at zero, so that the network begins as its skips alone and
nothing grows with depth. They are `bnbook.networks.models.ResNet` with other blocks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from bnbook.layers import ensemble
from bnbook.networks import models


class SkipInitBlock(nn.Module):
    r"""A residual block with a learned factor at the end of its branch.

    .. math::
        y = \max(0, a\,(W_2 * \max(0, W_1 * x + b_1) + b_2) + S x) .

    Source: De & Smith 2020; there :math:`a` is one scalar for each branch.

    Parameters
    ----------
    block : bnbook.networks.models.Block
        Without normalisation; its convolutions and shortcut are used.
    scale : float
        Initial :math:`a`.

    Attributes
    ----------
    scale : Parameter, (E,)
        :math:`a`.
    """

    def __init__(self, block: models.Block, scale: float = 0.0) -> None:
        super().__init__()
        self.block = block
        self.scale = nn.Parameter(torch.full((block.members,), scale))

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block to feature maps (N, E*C, H, W)."""
        block = self.block
        branch: Tensor = block.conv2(block.conv1(x).relu())
        y: Tensor = branch * _each(self.scale, branch) + block._shortcut(x)
        return y.relu()


class FixupBlock(nn.Module):
    r"""A residual block with scalar biases and a scalar factor, its last convolution at zero.

    .. math::
        y = \max(0, a\, W_2 * (\max(0, W_1 * (x + c_1) + c_2) + c_3) + c_4 + S x) .

    Source: Zhang, Dauphin & Ma 2019 (Fixup), section 3: a scalar bias before each convolution and
    nonlinearity, a scalar factor for each branch. The places of the biases follow our reading.

    Parameters
    ----------
    block : bnbook.networks.models.Block
        Without normalisation; the convolutions' own biases are taken out.

    Attributes
    ----------
    scale : Parameter, (E,)
        :math:`a`, initially 1.
    biases : Parameter, 4 of (E,)
        :math:`c_1` to :math:`c_4`, initially 0.
    """

    def __init__(self, block: models.Block) -> None:
        super().__init__()
        block.conv1.bias = block.conv2.bias = None
        self.block = block
        self.scale = nn.Parameter(torch.ones(block.members))
        self.biases = nn.ParameterList(torch.zeros(block.members) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block to feature maps (N, E*C, H, W)."""
        block = self.block
        c1, c2, c3, c4 = self.biases
        branch: Tensor = block.conv1(x + _each(c1, x))
        branch = (branch + _each(c2, branch)).relu()
        branch = block.conv2(branch + _each(c3, branch))
        branch = branch * _each(self.scale, branch) + _each(c4, branch)
        return (branch + block._shortcut(x)).relu()


class SkipInitResNet(models.ResNet):
    """`models.ResNet` without normalisation, with `SkipInitBlock` for its blocks.

    Source: De & Smith 2020 (Batch normalization biases residual blocks towards the identity
    function). Initial weights are He's.

    Parameters
    ----------
    seeds : sequence of int
        One per member, for the initial weights.
    scale : float
        Initial factor of every branch.
    **sizes
        ``n``, ``in_channels``, ``widths``, ``num_classes``; see `bnbook.networks.models.ResNet`.
    """

    def __init__(self, seeds: Sequence[int] = (0,), *, scale: float = 0.0, **sizes: Any) -> None:
        super().__init__(None, seeds, init_std=ensemble.he, **sizes)
        self.blocks = nn.Sequential(
            *(SkipInitBlock(cast(models.Block, block), scale) for block in self.blocks)
        )


class FixupResNet(models.ResNet):
    r"""`bnbook.networks.models.ResNet` without normalisation, started and scaled as Fixup does.

    With L residual branches of m = 2 convolutions, the last convolution of every branch and the
    classifier start at zero, the other convolutions of the branches at He's weights times
    :math:`L^{-1/(2m-2)} = L^{-1/2}`.

    Source: Zhang, Dauphin & Ma 2019 (Fixup initialization), section 3.

    Parameters
    ----------
    seeds : sequence of int
        One per member, for the initial weights.
    **sizes
        ``n``, ``in_channels``, ``widths``, ``num_classes``; see `bnbook.networks.models.ResNet`.
    """

    def __init__(self, seeds: Sequence[int] = (0,), **sizes: Any) -> None:
        super().__init__(None, seeds, init_std=ensemble.he, **sizes)
        blocks = [cast(models.Block, block) for block in self.blocks]
        with torch.no_grad():
            for block in blocks:
                block.conv1.weight.div_(math.sqrt(len(blocks)))
                block.conv2.weight.zero_()
            self.output.weight.zero_()
        self.blocks = nn.Sequential(*map(FixupBlock, blocks))


def _each(values: Tensor, x: Tensor) -> Tensor:
    """Shape one value for each member, (E,), to meet feature maps (N, E*C, H, W)."""
    return values.repeat_interleave(x.shape[1] // len(values)).view(1, -1, 1, 1)
