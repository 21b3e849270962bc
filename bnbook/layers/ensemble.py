"""E networks of one architecture as one: layers with a member axis, and the loss per member.

Activations of E members with C features each are laid out as (N, E*C), feature maps as
(N, E*C, H, W), each member's features side by side. Batch normalisation over E*C features is
exactly E independent normalisations, so `bnbook.layers.norm.BatchNorm` serves unchanged. A single
network is E = 1.

The first axis of every parameter holds the members: it is E or E*C long.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from bnbook.errors import BnbookError


class Linear(nn.Module):
    r"""The map :math:`y = W_e x + b_e` of each member e.

    Parameters
    ----------
    members : int
        Number of members, E.
    in_features, out_features : int
        Features per member.
    bias : bool
        Whether there is a b; left out before batch normalisation, which cancels it.

    Attributes
    ----------
    weight : Parameter, (E, out_features, in_features)
        Initially zero: see `initialise`.
    bias : Parameter, (E, out_features), or None
        Initially zero.
    """

    def __init__(
        self, members: int, in_features: int, out_features: int, *, bias: bool = True
    ) -> None:
        super().__init__()
        self.members, self.in_features, self.out_features = members, in_features, out_features
        self.weight = nn.Parameter(torch.zeros(members, out_features, in_features))
        self.bias = nn.Parameter(torch.zeros(members, out_features)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """Apply each member's map.

        Parameters
        ----------
        x : Tensor, (N, in_features) or (N, E*in_features)
            One input that all members share, or one for each.

        Returns
        -------
        Tensor, (N, E*out_features)
        """
        n, width = x.shape
        if width == self.in_features:
            y = F.linear(x, self.weight.view(-1, self.in_features))
        elif width == self.members * self.in_features:
            per_member = x.view(n, self.members, self.in_features).transpose(0, 1)
            y = torch.bmm(per_member, self.weight.mT).transpose(0, 1).reshape(n, -1)
        else:
            raise BnbookError(
                f"x must have {self.in_features} features, or {self.members} times as many,"
                f" found shape {tuple(x.shape)}."
            )
        return y if self.bias is None else y + self.bias.view(-1)


class Conv2d(nn.Module):
    r"""The convolution of each member e with a square kernel.

    .. math::
        y_{o h w} = b_{e o} + \sum_{i,p,q} W_{e o i p q}\, x_{i,\, s h + p - d,\, s w + q - d} ,

    s the stride and d the padding with zeros: a cross-correlation, as in torch.

    Images that the members share go through one convolution to E*out_channels channels; images of
    their own through one convolution in E groups. For channels-last images the kernel is brought
    into that layout, which is free once `channels_last` has laid out the weights so.

    Parameters
    ----------
    members : int
        Number of members, E.
    in_channels, out_channels : int
        Channels per member.
    kernel_size : int
        Height and width of the kernel, k.
    stride, padding : int
        Step between outputs, and rows and columns of zeros on each side.
    bias : bool
        Whether there is a b.

    Attributes
    ----------
    weight : Parameter, (E, out_channels, in_channels, k, k)
        Initially zero: see `initialise`.
    bias : Parameter, (E, out_channels), or None
        Initially zero.
    """

    def __init__(
        self,
        members: int,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        padding: int = 0,
        *,
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.members, self.in_channels, self.out_channels = members, in_channels, out_channels
        self.stride, self.padding = stride, padding
        shape = (members, out_channels, in_channels, kernel_size, kernel_size)
        self.weight = nn.Parameter(torch.zeros(shape))
        self.bias = nn.Parameter(torch.zeros(members, out_channels)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """Apply each member's convolution.

        Parameters
        ----------
        x : Tensor, (N, in_channels, H, W) or (N, E*in_channels, H, W)
            Images that all members share, or images for each.

        Returns
        -------
        Tensor, (N, E*out_channels, H', W')
            Channels-last where x is, or where the weights are laid out so.

        Raises
        ------
        BnbookError
            When x has another number of channels.
        """
        groups = self._groups(x)
        kernel = self.weight.flatten(0, 1)
        if x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous():
            kernel = kernel.contiguous(memory_format=torch.channels_last)
        bias = None if self.bias is None else self.bias.view(-1)
        return F.conv2d(x, kernel, bias, self.stride, self.padding, groups=groups)

    def extra_repr(self) -> str:
        """Sizes, for printing."""
        members, out, channels, k, _ = self.weight.shape
        return f"{members}, {channels}, {out}, {k}, stride={self.stride}, padding={self.padding}"

    def _groups(self, x: Tensor) -> int:
        if x.dim() == 4 and x.shape[1] == self.in_channels:
            return 1
        if x.dim() == 4 and x.shape[1] == self.members * self.in_channels:
            return self.members
        raise BnbookError(
            f"x must have shape (N, {self.in_channels}, H, W), or {self.members} times as many"
            f" channels, found {tuple(x.shape)}."
        )


Layer = Linear | Conv2d
"""A layer with weights of shape (E, outputs, inputs, ...) to be drawn."""


def xavier(layer: Layer) -> float:
    r"""Standard deviation :math:`\sqrt{2 / (n_{in} + n_{out})}` of a layer's initial weights.

    The fans count the weights that meet in a unit, kernel positions included.

    Source: Glorot & Bengio 2010, equation 12.
    """
    fan_in, fan_out = _fans(layer)
    return math.sqrt(2 / (fan_in + fan_out))


def he(layer: Layer) -> float:
    r"""Standard deviation :math:`\sqrt{2 / n_{in}}` of a layer's initial weights, for ReLU.

    Source: He, Zhang, Ren & Sun 2015 (Delving deep into rectifiers), equation 10.
    """
    return math.sqrt(2 / _fans(layer)[0])


@torch.no_grad()
def initialise(
    model: nn.Module, seeds: tuple[int, ...], std: float | Callable[[Layer], float]
) -> None:
    """Draw every member's weights from a Gaussian, in the order of the layers.

    Member e depends on ``seeds[e]`` alone: it starts as the single network of that seed would, and
    networks that differ in their normalisation only start with the same weights.

    Parameters
    ----------
    model : nn.Module
        A model of `Linear` and `Conv2d` layers; biases are left as they are.
    seeds : tuple of int
        One for each of the E members.
    std : float or callable
        Standard deviation of the Gaussian, of all layers or ``layer -> std`` such as `xavier` and
        `he`; its mean is 0.
    """
    for member, seed in enumerate(seeds):
        generator = torch.Generator().manual_seed(seed)
        for layer in model.modules():
            if isinstance(layer, Layer):
                draw = torch.randn(layer.weight.shape[1:], generator=generator)
                layer.weight[member] = (std(layer) if callable(std) else std) * draw


@torch.no_grad()
def channels_last(model: nn.Module) -> nn.Module:
    """Lay out the kernels of a model's convolutions for channels-last images, in place.

    ``model.to(memory_format=torch.channels_last)`` refuses weights of five dimensions. Values and
    shapes stay as they are; gradients take the layout too.

    Parameters
    ----------
    model : nn.Module
        Whose `Conv2d` layers are changed.

    Returns
    -------
    nn.Module
        The model itself.
    """
    for layer in model.modules():
        if isinstance(layer, Conv2d):
            kernels = layer.weight.flatten(0, 1).contiguous(memory_format=torch.channels_last)
            layer.weight.data = kernels.unflatten(0, layer.weight.shape[:2])
    return model


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of each member, averaged over the batch.

    Parameters
    ----------
    logits : Tensor, (N, E, K)
        Scores of K classes.
    labels : Tensor, (N,) or (N, E), int64
        Classes in [0, K), shared by the members or one for each.

    Returns
    -------
    Tensor, (E,)
        In nats.
    """
    log_p = logits.log_softmax(-1)
    own = labels.view(len(labels), -1, 1).expand(-1, logits.shape[1], 1)
    return -log_p.gather(-1, own).squeeze(-1).mean(0)


def _fans(layer: Layer) -> tuple[int, int]:
    """Inputs and outputs of a member's layer, each times the positions of the kernel."""
    outputs, inputs, *kernel = layer.weight.shape[1:]
    return inputs * math.prod(kernel), outputs * math.prod(kernel)
