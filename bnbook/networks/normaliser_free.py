r"""Residual networks whose layers, not their batches, keep the activations in hand.

Scaled weight standardisation with adaptive gradient clipping (normaliser-free networks), and
self-normalising networks. Both are `bnbook.networks.models.ResNet` with other blocks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from bnbook.layers import ensemble
from bnbook.networks import models

RELU_GAIN = math.sqrt(2 / (1 - 1 / math.pi))
r"""Makes the variance of :math:`\max(0, x)` one again, for x standard normal."""

SHORTEST = 1e-3
"""Norm below which a row of weights counts as this long when its gradient is clipped."""


class _Clip(torch.autograd.Function):
    """The identity, whose backward pass clips the gradient row by row."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, limit: float) -> Tensor:
        """Return the weights as they are."""
        ctx.save_for_backward(weight)
        ctx.limit = limit
        return weight.view_as(weight)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        """Scale each row of the gradient down to `limit` times the norm of its weights."""
        (weight,), (gradient,) = ctx.saved_tensors, gradients
        most = ctx.limit * _row_norm(weight).clamp(min=SHORTEST)
        norm = _row_norm(gradient)
        return gradient * torch.where(norm > most, most / norm, 1.0), None


def _row_norm(values: Tensor) -> Tensor:
    """Norm of each row, the weights of one unit of one member: (E, out, 1, ...)."""
    over = tuple(range(2, values.dim()))
    norm: Tensor = torch.linalg.vector_norm(values, dim=over, keepdim=True)
    return norm


def clip_gradient(weight: Tensor, limit: float) -> Tensor:
    r"""Return the weights, whose gradient is clipped adaptively on its way back.

    .. math::
        G_i \leftarrow G_i \min\Big(1, \lambda \frac{\max(\|W_i\|, 10^{-3})}{\|G_i\|}\Big)
        \quad\text{for each row } i .

    Source: Brock, De, Smith & Simonyan 2021 (High-performance large-scale image recognition without
    normalization), equation 3.

    Parameters
    ----------
    weight : Tensor, (E, out, ...)
        Of E members; a row is what leads to one unit.
    limit : float
        :math:`\lambda`; infinity clips nothing.

    Returns
    -------
    Tensor, of the shape of `weight`
    """
    return cast(Tensor, _Clip.apply(weight, limit))


class StandardisedConv2d(ensemble.Conv2d):
    r"""A convolution whose kernels have mean 0 and variance 1/fan-in, times a learned gain.

    .. math::
        \hat W_i = g_i \frac{W_i - \mu_i}{\sqrt{N \sigma_i^2 + \epsilon}} ,

    :math:`\mu_i` and :math:`\sigma_i^2` over the N weights that lead to channel i.

    Source: Brock, De & Smith 2021 (Characterizing signal propagation to close the performance gap
    in unnormalized ResNets), equation 1.

    Parameters
    ----------
    like : bnbook.layers.ensemble.Conv2d
        Its sizes, weights and bias are taken over.
    limit : float
        Of `clip_gradient`, on the weights before they are standardised.

    Attributes
    ----------
    gain : Parameter, (E, out_channels)
        g, initially 1.
    """

    def __init__(self, like: ensemble.Conv2d, limit: float = math.inf) -> None:
        members, out, _, k, _ = like.weight.shape
        sizes = (members, like.in_channels, out, k, like.stride, like.padding)
        super().__init__(*sizes, bias=like.bias is not None)
        self.weight, self.bias, self.limit = like.weight, like.bias, limit
        self.gain = nn.Parameter(torch.ones(members, out))

    def standardised(self) -> Tensor:
        """Return the kernels in use, (E, out, in, k, k)."""
        weight = clip_gradient(self.weight, self.limit)
        over = (2, 3, 4)
        centred = weight - weight.mean(over, keepdim=True)
        scale = (centred.square().sum(over, keepdim=True) + 1e-4).rsqrt()
        return centred * scale * self.gain[:, :, None, None, None]

    def forward(self, x: Tensor) -> Tensor:
        """Apply each member's convolution; see `bnbook.layers.ensemble.Conv2d`."""
        kernel = self.standardised().flatten(0, 1)
        bias = None if self.bias is None else self.bias.view(-1)
        return F.conv2d(x, kernel, bias, self.stride, self.padding, groups=self._groups(x))


class NormaliserFreeBlock(nn.Module):
    r"""A residual block that is told the variance of its input instead of measuring it.

    .. math::
        h' = S h + \alpha\, a\,\big(W_2 * \phi(W_1 * \phi(h / \beta) + b_1) + b_2\big) , \qquad
        \phi(x) = \sqrt{2 / (1 - 1/\pi)}\, \max(0, x) .

    Source: Brock, De & Smith 2021, section 3; the factor a, which starts at zero, after SkipInit.

    Parameters
    ----------
    block : bnbook.networks.models.Block
        Without normalisation; its convolutions, standardised, and its shortcut are used.
    expected : float
        :math:`\beta^2`, the variance of h at the start.
    alpha : float
        Share of the branch.
    limit : float
        Of `clip_gradient`.
    """

    def __init__(
        self, block: models.Block, expected: float, alpha: float, limit: float, scale: float = 0.0
    ) -> None:
        super().__init__()
        block.conv1 = StandardisedConv2d(block.conv1, limit)
        block.conv2 = StandardisedConv2d(block.conv2, limit)
        self.block, self.expected, self.alpha = block, expected, alpha
        self.scale = nn.Parameter(torch.full((block.members,), scale))

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block to feature maps (N, E*C, H, W)."""
        block = self.block
        branch: Tensor = block.conv1(_scaled_relu(x / math.sqrt(self.expected)))
        branch = block.conv2(_scaled_relu(branch))
        scale = self.scale.repeat_interleave(branch.shape[1] // block.members).view(1, -1, 1, 1)
        return block._shortcut(x) + self.alpha * scale * branch


class NormaliserFreeResNet(models.ResNet):
    r"""`bnbook.networks.models.ResNet` with `NormaliserFreeBlock`, before the activations.

    The expected variance is 1 after the first convolution and grows by :math:`\alpha^2` a block;
    where channels of zeros are appended, its mean over channels falls in proportion.

    Source: Brock, De & Smith 2021; for the clipping Brock, De, Smith & Simonyan 2021. Their
    networks have a convolution in the shortcut at a change of size, which resets the variance; ours
    have none there.

    Parameters
    ----------
    seeds : sequence of int
        One per member, for the initial weights.
    alpha : float
        Share of each branch.
    limit : float
        Of `clip_gradient`, on the convolutions; infinity clips nothing.
    scale : float
        Initial learned factor of each branch; zero in the paper.
    **sizes
        ``n``, ``in_channels``, ``widths``, ``num_classes``; see `bnbook.networks.models.ResNet`.
    """

    def __init__(
        self,
        seeds: Sequence[int] = (0,),
        *,
        alpha: float = 0.2,
        limit: float = 0.1,
        scale: float = 0.0,
        **sizes: Any,
    ) -> None:
        super().__init__(None, seeds, init_std=ensemble.he, **sizes)
        self.stem = StandardisedConv2d(self.stem, limit)
        expected, made = 1.0, []
        for block in self.blocks:
            assert isinstance(block, models.Block)
            out = block.conv2.weight.shape[1]
            made.append(NormaliserFreeBlock(block, expected, alpha, limit, scale))
            expected = expected * (out - block.added) / out + alpha**2
        self.blocks = nn.Sequential(*made)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the logits (N, E, K); see `bnbook.networks.models.ResNet`."""
        return self._scores(_scaled_relu(self.blocks(self.stem(x))).mean((2, 3)))


def _scaled_relu(x: Tensor) -> Tensor:
    return RELU_GAIN * x.relu()


class SelfNormalisingBlock(nn.Module):
    r"""`bnbook.networks.models.Block` without normalisation, with SELU for its ReLU.

    Parameters
    ----------
    block : bnbook.networks.models.Block
        Its convolutions and shortcut are used.
    """

    def __init__(self, block: models.Block) -> None:
        super().__init__()
        self.block = block

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block to feature maps (N, E*C, H, W)."""
        block = self.block
        return F.selu(block.conv2(F.selu(block.conv1(x))) + block._shortcut(x))


class SelfNormalisingResNet(models.ResNet):
    """`bnbook.networks.models.ResNet` without normalisation, with SELU and LeCun's initial weights.

    Source: Klambauer, Unterthiner, Mayr & Hochreiter 2017 (Self-normalizing neural networks). Their
    fixed point at mean 0 and variance 1 is proved for layers without shortcuts.

    Parameters
    ----------
    seeds : sequence of int
        One per member, for the initial weights.
    **sizes
        ``n``, ``in_channels``, ``widths``, ``num_classes``; see `bnbook.networks.models.ResNet`.
    """

    def __init__(self, seeds: Sequence[int] = (0,), **sizes: Any) -> None:
        super().__init__(None, seeds, init_std=lecun, **sizes)
        self.blocks = nn.Sequential(
            *(SelfNormalisingBlock(cast(models.Block, block)) for block in self.blocks)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Compute the logits (N, E, K); see `bnbook.networks.models.ResNet`."""
        return self._scores(self.blocks(F.selu(self.stem(x))).mean((2, 3)))


def lecun(layer: ensemble.Layer) -> float:
    r"""Standard deviation :math:`\sqrt{1 / n_{in}}` of a layer's initial weights, for SELU.

    Source: LeCun, Bottou, Orr & Müller 1998 (Efficient backprop), section 4.6.
    """
    return ensemble.he(layer) / math.sqrt(2)
