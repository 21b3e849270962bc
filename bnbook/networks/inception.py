r"""A small Inception in the style of Ioffe & Szegedy 2015, for E seeds at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from bnbook.errors import BnbookError
from bnbook.layers import ensemble
from bnbook.networks.models import Norm

Nonlinearity = Callable[[], nn.Module]


class Widths(NamedTuple):
    """Channels of a module's branches, in units of the network's `unit`.

    Without a 1x1 branch (`one` is 0) the module halves the image, and its pooling branch passes
    its input on.
    """

    one: int
    reduce_three: int
    three: int
    reduce_double: int
    double: int
    pool: int


MODULES = (
    ("3a", Widths(2, 2, 3, 1, 2, 1), "average"),
    ("3b", Widths(2, 2, 3, 1, 2, 1), "average"),
    ("3c", Widths(0, 2, 4, 2, 3, 0), "max"),
    ("4a", Widths(4, 3, 5, 2, 4, 3), "average"),
    ("4b", Widths(4, 3, 5, 2, 4, 3), "max"),
)
"""Name, widths and pooling of the modules; the names are those of the paper's figure 5."""
STEM = (2, 2, 6)
"""Channels of the three convolutions before the modules, in units."""


class Unit(nn.Module):
    r"""A convolution, its normalisation and the nonlinearity after it: :math:`g(\mathrm{BN}(Wu))`.

    Without normalisation :math:`g(Wu + b)`. Source: Ioffe & Szegedy 2015, section 3.2.

    Parameters
    ----------
    norm : callable or None
        ``num_features -> Module``; None for none.
    nonlinearity : callable
        Makes :math:`g`.
    members, in_channels, out_channels, kernel_size, stride : int
        As of `bnbook.layers.ensemble.Conv2d`; zeros keep the size of the image.
    """

    def __init__(
        self,
        norm: Norm | None,
        nonlinearity: Nonlinearity,
        members: int,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 1,
        stride: int = 1,
    ) -> None:
        super().__init__()
        self.convolution = ensemble.Conv2d(
            members, in_channels, out_channels, kernel_size, stride, kernel_size // 2,
            bias=norm is None,
        )  # fmt: skip
        self.norm = nn.Identity() if norm is None else norm(members * out_channels)
        self.nonlinearity = nonlinearity()

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, E*in_channels, H, W) to (N, E*out_channels, H', W')."""
        found: Tensor = self.nonlinearity(self.norm(self.convolution(x)))
        return found


class Module(nn.Module):
    """Branches of 1x1, 3x3, two 3x3 and pooling side by side, their channels concatenated.

    Source: Szegedy et al. 2015; with two 3x3 in place of one 5x5, Ioffe & Szegedy 2015,
    section 4.2 and figure 5.

    Parameters
    ----------
    unit : callable
        ``(in_channels, out_channels, kernel_size, stride) -> Module``, such as `Unit` with the
        rest given.
    members, in_channels : int
        Networks, and channels of each.
    widths : Widths
        Channels of the branches.
    pooling : {"average", "max"}
        Of the pooling branch.
    """

    def __init__(
        self,
        unit: Callable[..., nn.Module],
        members: int,
        in_channels: int,
        widths: Widths,
        pooling: str,
    ) -> None:
        super().__init__()
        self.members, w = members, widths
        stride = 1 if w.one else 2
        pool = nn.AvgPool2d if pooling == "average" else nn.MaxPool2d
        branches: list[nn.Module] = [unit(in_channels, w.one)] if w.one else []
        branches += [
            nn.Sequential(
                unit(in_channels, w.reduce_three), unit(w.reduce_three, w.three, 3, stride)
            ),
            nn.Sequential(
                unit(in_channels, w.reduce_double),
                unit(w.reduce_double, w.double, 3),
                unit(w.double, w.double, 3, stride),
            ),
            nn.Sequential(pool(3, stride, 1), *([unit(in_channels, w.pool)] if w.pool else [])),
        ]
        self.branches = nn.ModuleList(branches)
        self.out_channels = w.one + w.three + w.double + (w.pool or in_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, E*C, H, W) to (N, E*C', H', W'), a member's branches side by side."""
        found = [branch(x) for branch in self.branches]
        for y in found:
            dense_gradient(y)
        if self.members == 1:
            return torch.cat(found, 1)
        each = [y.unflatten(1, (self.members, -1)) for y in found]
        return torch.cat(each, 2).flatten(1, 2)


def dense_gradient(y: Tensor) -> None:
    """Let a tensor's gradient come in the layout of the tensor itself, whatever is done with it.

    Of a concatenation it would be a slice, of a mean over positions have channels outermost: torch
    is far slower with both on a CPU. No value changes.
    """
    if not y.requires_grad:
        return
    last = y.dim() == 4 and y.is_contiguous(memory_format=torch.channels_last)
    layout = torch.channels_last if last else torch.contiguous_format
    y.register_hook(lambda gradient: gradient.contiguous(memory_format=layout))


class ResponseNorm(nn.Module):
    r"""Local response normalisation across neighbouring channels of each member.

    .. math::
        y_c = x_c \Big/ \Big(1 + \frac{\alpha}{n} \sum_{|c' - c| \le n / 2} x_{c'}^2\Big)^{\beta}

    Source: Krizhevsky, Sutskever & Hinton 2012, section 3.3, with 1 in place of their 2. Their
    alpha of 0.0001 is for images of 0 to 255; for images of unit variance it is about 0.4.

    Parameters
    ----------
    members : int
        Networks whose channels lie side by side.
    size : int
        n, odd.
    alpha, beta : float
        As above.
    """

    def __init__(
        self, members: int = 1, size: int = 5, alpha: float = 0.4, beta: float = 0.75
    ) -> None:
        super().__init__()
        self.members, self.size, self.alpha, self.beta = members, size, alpha, beta

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (N, E*C, H, W)."""
        channels = x.shape[1] // self.members
        at = torch.arange(channels, device=x.device)
        near = ((at[:, None] - at).abs() <= self.size // 2).to(x.dtype)
        kernel = near.repeat(self.members, 1)[:, :, None, None]
        sums = F.conv2d(x * x, kernel, groups=self.members)
        return x * (1 + self.alpha / self.size * sums) ** -self.beta


class Dropout(nn.Module):
    """Dropout whose masks depend on the members' seeds and on how often it was called.

    So a run that was interrupted goes on with the masks that it would have had. Source: Srivastava
    et al. 2014, with what is kept divided by the share that is kept.

    Parameters
    ----------
    seeds : sequence of int
        Of the members, whose features lie side by side.
    share : float
        Share of features set to zero in training, in [0, 1).

    Attributes
    ----------
    calls : Tensor, ()
        Calls in training so far.
    """

    calls: Tensor

    def __init__(self, seeds: Sequence[int], share: float) -> None:
        super().__init__()
        if not 0 <= share < 1:
            raise BnbookError(f"share must lie in [0, 1), found {share}.")
        self.seeds, self.share = tuple(seeds), share
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    def forward(self, x: Tensor) -> Tensor:
        """Drop features of (N, E*C) in training; in evaluation change nothing."""
        if not self.training or not self.share:
            return x
        self.calls += 1
        drawn = [self._drawn(x, seed) for seed in self.seeds]
        return x * torch.cat(drawn, 1).to(x) / (1 - self.share)

    def _drawn(self, x: Tensor, seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(_MASKS + 1_000_003 * seed + int(self.calls))
        shape = len(x), x.shape[1] // len(self.seeds)
        return torch.rand(shape, generator=generator) >= self.share


_MASKS = 0xD20_0000  # keeps the masks of a seed apart from its initial weights and minibatches


class Inception(nn.Module):
    r"""The modules of `MODULES` on small images, of 19 layers with weights, for E seeds at once.

    A 3x3 convolution, max pooling that halves the image, a 1x1 and a 3x3 convolution, five modules
    of which the third halves the image, the mean over all positions, dropout and a linear layer.
    With `response` there is local response normalisation after the pooling and before the modules,
    where GoogLeNet has it.

    Source: Szegedy et al. 2015 and, for what is different, Ioffe & Szegedy 2015, section 4.2 and
    figure 5; number and widths of the modules are ours.

    Parameters
    ----------
    norm : callable or None
        ``num_features -> Module``; None for no normalisation.
    seeds : sequence of int
        One per member, for initial weights and dropout's masks.
    in_channels, num_classes, unit : int
        Channels of an image, outputs, and the number of channels that widths are multiples of.
    nonlinearity : callable
        Makes the nonlinearity of every convolution.
    dropout : float
        Share of features set to zero before the linear layer, in training.
    response : bool
        Whether there is local response normalisation.
    init_std : callable
        See `bnbook.layers.ensemble.initialise`.
    """

    def __init__(
        self,
        norm: Norm | None,
        seeds: Sequence[int] = (0,),
        *,
        in_channels: int = 3,
        num_classes: int = 10,
        unit: int = 8,
        nonlinearity: Nonlinearity = nn.ReLU,
        dropout: float = 0.0,
        response: bool = False,
        init_std: Callable[[ensemble.Layer], float] = ensemble.he,
    ) -> None:
        super().__init__()
        self.members, self.num_classes = len(seeds), num_classes
        members = self.members

        def made(inputs: int, outputs: int, kernel_size: int = 1, stride: int = 1) -> Unit:
            return Unit(norm, nonlinearity, members, inputs, outputs, kernel_size, stride)

        def maybe() -> list[nn.Module]:
            return [ResponseNorm(members)] if response else []

        first, reduced, channels = (unit * each for each in STEM)
        self.stem = nn.Sequential(
            made(in_channels, first, 3), nn.MaxPool2d(3, 2, 1), *maybe(),
            made(first, reduced), made(reduced, channels, 3), *maybe(),
        )  # fmt: skip
        modules = []
        for _, widths, pooling in MODULES:
            scaled = Widths(*(unit * each for each in widths))
            modules.append(Module(made, members, channels, scaled, pooling))
            channels = modules[-1].out_channels
        self.inception = nn.Sequential(*modules)
        self.dropout = Dropout(seeds, dropout)
        self.output = ensemble.Linear(members, channels, num_classes)
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
        features = self.inception(self.stem(x)).mean((2, 3))
        scores: Tensor = self.output(self.dropout(features))
        return scores.view(-1, self.members, self.num_classes)
