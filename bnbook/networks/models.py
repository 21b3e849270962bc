"""The papers' networks. The normalisation layer is passed in, the code is the same without it.

Every model holds E members, one for each of its `seeds`, and maps images to scores (N, E, K). The
images are shared by the members, (N, C, H, W), or one for each, (N, E*C, H, W).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from bnbook.errors import BnbookError
from bnbook.layers import ensemble

Norm = Callable[[int], nn.Module]
"""Makes a normalisation layer for num_features = E*C; see `bnbook.layers.norm`."""


class _Classifier(nn.Module):
    """E members, one for each seed, that end in a linear layer with bias over K classes."""

    output: ensemble.Linear

    def __init__(self, seeds: Sequence[int], num_classes: int, **sizes: Sequence[int]) -> None:
        super().__init__()
        for name, values in {"seeds": seeds, **sizes}.items():
            if not values:
                raise BnbookError(f"{name} must not be empty, found {values}.")
        self.members, self.num_classes = len(seeds), num_classes

    def _scores(self, features: Tensor) -> Tensor:
        """Map features (N, E*C) to scores (N, E, K)."""
        scores: Tensor = self.output(features)
        return scores.view(-1, self.members, self.num_classes)


class MLP(_Classifier):
    r"""Fully connected layers, for E seeds at once; by default the network of figure 1.

    Each hidden layer computes :math:`z = g(\mathrm{BN}(Wu))` with batch normalisation and
    :math:`z = g(Wu + b)` without. A linear layer with bias follows; it is not normalised (the
    paper: "in each hidden layer").

    Source: Ioffe & Szegedy 2015, section 4.1 and, for the place of BN and the missing b,
    section 3.2. There :math:`g` is the logistic function, and the weights are "small random
    Gaussian values" of unstated size.

    Parameters
    ----------
    norm : callable or None
        ``num_features -> Module``, such as `bnbook.layers.norm.BatchNorm`; None for no
        normalisation.
    seeds : sequence of int
        One per member, for the initial weights. Equal seeds give equal initial weights, with and
        without `norm`.
    num_inputs : int
        Pixels of an image.
    hidden : sequence of int
        Widths of the hidden layers; the paper has 100, 100, 100.
    num_classes : int
        Outputs, K.
    init_std : float or callable
        Standard deviation of the initial weights; see `bnbook.layers.ensemble.initialise`. The
        default is :math:`1/\sqrt{100}`, so that a hidden unit's input has a variance of about the
        mean square of the layer below.
    nonlinearity : callable
        Makes :math:`g`.
    after : bool
        Whether the norm comes after the nonlinearity: :math:`z = \mathrm{BN}(g(Wu + b))`.
    biases : bool, optional
        Whether the hidden layers have a b; by default where the norm does not cancel it.
    """

    def __init__(
        self,
        norm: Norm | None,
        seeds: Sequence[int] = (0,),
        *,
        num_inputs: int = 784,
        hidden: Sequence[int] = (100, 100, 100),
        num_classes: int = 10,
        init_std: float | Callable[[ensemble.Layer], float] = 0.1,
        nonlinearity: Callable[[], nn.Module] = nn.Sigmoid,
        after: bool = False,
        biases: bool | None = None,
    ) -> None:
        super().__init__(seeds, num_classes, hidden=hidden)
        biases = (norm is None or after) if biases is None else biases
        layers: list[nn.Module] = []
        self.nonlinearities: list[nn.Module] = []
        for fan_in, width in pairwise((num_inputs, *hidden)):
            g = nonlinearity()
            normalised = [] if norm is None else [norm(self.members * width)]
            layers.append(ensemble.Linear(self.members, fan_in, width, bias=biases))
            layers += [g, *normalised] if after else [*normalised, g]
            self.nonlinearities.append(g)
        self.hidden = nn.Sequential(*layers)
        self.output = ensemble.Linear(self.members, hidden[-1], num_classes)
        ensemble.initialise(self, tuple(seeds), init_std)

    def layers(self) -> list[nn.Module]:
        """Return the layers that compose the network (see `bnbook.training.chain`)."""
        return [*self.hidden, self.output]

    def forward(self, x: Tensor) -> Tensor:
        """Compute the logits.

        Parameters
        ----------
        x : Tensor, (N, C, H, W) or (N, num_inputs)
            Images that the members share; E times as many channels or inputs, one for each.

        Returns
        -------
        Tensor, (N, E, K)
        """
        return self._scores(self.hidden(x.flatten(1)))


class ConvNet(_Classifier):
    r"""A plain convolutional network, for E seeds at once.

    Each block computes :math:`\max(0, \mathrm{norm}(W * x))`, or :math:`\max(0, W * x + b)` without
    normalisation, with 3x3 kernels and one row of zeros on each side. The first block keeps the
    size of the image, each further one halves it by a stride of 2. The mean over all positions and
    a linear layer with bias follow.

    Source: none of the papers' networks; a small all-convolutional one after Springenberg et al.
    2015 (strides in place of pooling, the mean over positions) for what needs no depth.

    Parameters
    ----------
    norm : callable or None
        ``num_features -> Module``, such as `bnbook.layers.norm.BatchNorm`; None for no
        normalisation.
    seeds : sequence of int
        One per member, for the initial weights. Equal seeds give equal initial weights, with and
        without `norm`.
    in_channels : int
        Channels of an image.
    widths : sequence of int
        Channels of the blocks.
    num_classes : int
        Outputs, K.
    init_std : float or callable
        Standard deviation of the initial weights; see `bnbook.layers.ensemble.initialise`.
    """

    def __init__(
        self,
        norm: Norm | None,
        seeds: Sequence[int] = (0,),
        *,
        in_channels: int = 3,
        widths: Sequence[int] = (16, 32, 64),
        num_classes: int = 10,
        init_std: float | Callable[[ensemble.Layer], float] = ensemble.he,
    ) -> None:
        super().__init__(seeds, num_classes, widths=widths)
        layers: list[nn.Module] = []
        for channels, width in pairwise((in_channels, *widths)):
            layers.append(_conv3x3(self.members, channels, width, 2 if layers else 1, norm))
            if norm is not None:
                layers.append(norm(self.members * width))
            layers.append(nn.ReLU())
        self.hidden = nn.Sequential(*layers)
        self.output = ensemble.Linear(self.members, widths[-1], num_classes)
        ensemble.initialise(self, tuple(seeds), init_std)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the logits.

        Parameters
        ----------
        x : Tensor, (N, C, H, W) or (N, E*C, H, W)
            Images that the members share, or one for each.

        Returns
        -------
        Tensor, (N, E, K)
        """
        return self._scores(self.hidden(x).mean((2, 3)))


class ResNet(_Classifier):
    r"""The residual network of He et al. for CIFAR-10, of 6n + 2 layers, for E seeds at once.

    A 3x3 convolution, three stages of n residual blocks, the mean over all positions and a linear
    layer with bias. The second and third stage halve the image and double the channels. Shortcuts
    have no parameters; see `Block`. Every convolution is followed by `norm`, or has a bias where
    there is none.

    With `last_only` there is one normalisation layer in all, at the end of the last residual block:
    after its ReLU, before the mean over positions. That it is there, and takes its statistics over
    positions too, is our reading of Bjorck et al.'s network normalised at the last layer only.

    Source: He, Zhang, Ren & Sun 2016 (Deep residual learning), section 4.2, with shortcuts of
    option A and, by default, the initial weights of He et al. 2015; for Xavier's, pass
    ``init_std=ensemble.xavier``. Bjorck et al. 2018 take n = 18; section 3.1 there has the network
    normalised at the last layer only.

    Parameters
    ----------
    norm : callable or None
        ``num_features -> Module``, such as `bnbook.layers.norm.BatchNorm`; None for no
        normalisation.
    seeds : sequence of int
        One per member, for the initial weights. Equal seeds give equal initial weights, with and
        without `norm`.
    n : int
        Residual blocks of a stage: 3, 5, 7, 9 and 18 for 20, 32, 44, 56 and 110 layers.
    last_only : bool
        Whether the norm comes once, at the last layer.
    in_channels : int
        Channels of an image.
    widths : sequence of int
        Channels of the stages; the paper has 16, 32, 64.
    num_classes : int
        Outputs, K.
    init_std : float or callable
        Standard deviation of the initial weights; see `bnbook.layers.ensemble.initialise`.
    """

    def __init__(
        self,
        norm: Norm | None,
        seeds: Sequence[int] = (0,),
        *,
        n: int = 3,
        last_only: bool = False,
        in_channels: int = 3,
        widths: Sequence[int] = (16, 32, 64),
        num_classes: int = 10,
        init_std: float | Callable[[ensemble.Layer], float] = ensemble.he,
    ) -> None:
        super().__init__(seeds, num_classes, widths=widths)
        if n < 1 or list(widths) != sorted(widths):
            raise BnbookError(
                f"n must be at least 1 and widths must not fall, found {n} and {widths}: shortcuts"
                " add channels, and take none away."
            )
        inner = None if last_only else norm
        self.stem = _conv3x3(self.members, in_channels, widths[0], 1, inner)
        self.stem_norm = _norm(inner, self.members * widths[0])
        blocks: list[nn.Module] = []
        for stage, (channels, width) in enumerate(pairwise((widths[0], *widths))):
            stride = 2 if stage else 1
            blocks.append(Block(self.members, channels, width, stride, inner))
            blocks += [Block(self.members, width, width, 1, inner) for _ in range(n - 1)]
        self.blocks = nn.Sequential(*blocks)
        self.last_norm = _norm(norm if last_only else None, self.members * widths[-1])
        self.output = ensemble.Linear(self.members, widths[-1], num_classes)
        ensemble.initialise(self, tuple(seeds), init_std)

    @property
    def convolutions(self) -> list[ensemble.Conv2d]:
        """The convolutions, first layer first."""
        return [layer for layer in self.modules() if isinstance(layer, ensemble.Conv2d)]

    def residual_layers(self) -> list[tuple[ensemble.Conv2d, nn.Module]]:
        """Return the convolutions, each with its norm, for `bnbook.training.deep`.

        Nothing where the blocks are of another kind or a norm comes once, at the end.
        """
        blocks = [block for block in self.blocks if type(block) is Block]
        plain = isinstance(self.last_norm, nn.Identity) and type(self).forward is ResNet.forward
        if len(blocks) < len(self.blocks) or not plain:
            return []
        inner = [pair for b in blocks for pair in ((b.conv1, b.norm1), (b.conv2, b.norm2))]
        return [(self.stem, self.stem_norm), *inner]

    @property
    def depth(self) -> int:
        """Layers with weights: the convolutions and the linear layer."""
        return len(self.convolutions) + 1

    def forward(self, x: Tensor) -> Tensor:
        """Compute the logits.

        Parameters
        ----------
        x : Tensor, (N, C, H, W) or (N, E*C, H, W)
            Images that the members share, or one for each.

        Returns
        -------
        Tensor, (N, E, K)
        """
        features = self.last_norm(self.blocks(self.stem_norm(self.stem(x)).relu()))
        return self._scores(features.mean((2, 3)))


class Block(nn.Module):
    r"""Two 3x3 convolutions with a shortcut around them.

    .. math::
        y = \max(0, \mathrm{norm}_2(W_2 * \max(0, \mathrm{norm}_1(W_1 * x))) + S x) .

    S is the identity; where the block changes the size, it takes every `stride`-th row and column
    and appends channels of zeros to each member's (option A).

    Source: He, Zhang, Ren & Sun 2016, equations 1 and 2, figure 2 and section 3.3.

    Parameters
    ----------
    members : int
        Number of members, E.
    in_channels, out_channels : int
        Channels per member, not falling.
    stride : int
        Of the first convolution.
    norm : callable or None
        ``num_features -> Module``; None for no normalisation.
    """

    def __init__(
        self, members: int, in_channels: int, out_channels: int, stride: int, norm: Norm | None
    ) -> None:
        super().__init__()
        self.members, self.stride = members, stride
        self.added = out_channels - in_channels
        self.conv1 = _conv3x3(members, in_channels, out_channels, stride, norm)
        self.norm1 = _norm(norm, members * out_channels)
        self.conv2 = _conv3x3(members, out_channels, out_channels, 1, norm)
        self.norm2 = _norm(norm, members * out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block to feature maps (N, E*C, H, W)."""
        residual: Tensor = self.norm2(self.conv2(self.norm1(self.conv1(x)).relu()))
        return (residual + self._shortcut(x)).relu()

    def _shortcut(self, x: Tensor) -> Tensor:
        if self.stride > 1:  # every second pixel, as a mean over one: its gradient keeps x's layout
            x = F.avg_pool2d(x, 1, self.stride)
        if not self.added:
            return x
        if self.members == 1:
            return F.pad(x, (0, 0, 0, 0, 0, self.added))  # which stays channels-last
        per_member = x.unflatten(1, (self.members, -1))
        return F.pad(per_member, (0, 0, 0, 0, 0, self.added)).flatten(1, 2)


def _conv3x3(
    members: int, in_channels: int, out_channels: int, stride: int, norm: Norm | None
) -> ensemble.Conv2d:
    """Make a convolution with a bias only where no normalisation shifts its output."""
    return ensemble.Conv2d(
        members, in_channels, out_channels, 3, stride, padding=1, bias=norm is None
    )


def _norm(norm: Norm | None, num_features: int) -> nn.Module:
    return nn.Identity() if norm is None else norm(num_features)
