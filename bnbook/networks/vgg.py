"""A small convolutional network in the style of VGG, for E seeds at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from bnbook.errors import BnbookError
from bnbook.layers import ensemble
from bnbook.networks.models import Norm


class VGG(nn.Module):
    r"""Pairs of 3x3 convolutions, each pair followed by max pooling.

    Each convolution computes :math:`\max(0, \mathrm{norm}(W * x))`, or :math:`\max(0, W * x + b)`
    without normalisation, with one row of zeros on each side. The mean over all positions and a
    linear layer with bias follow.

    Source: the pattern of Simonyan & Zisserman 2015, without its fully connected layers; Santurkar
    et al. 2018 measure internal covariate shift in a network of this family.

    Parameters
    ----------
    norm : callable or None
        ``num_features -> Module``, such as `bnbook.layers.norm.BatchNorm`; None for none.
    seeds : sequence of int
        One per member, for the initial weights, which are the same with and without `norm`.
    in_channels : int
        Channels of an image.
    widths : sequence of int
        Channels of the pairs.
    num_classes : int
        Outputs, K.
    init_std : float or callable
        Standard deviation of the initial weights; see `bnbook.layers.ensemble.initialise`.

    Attributes
    ----------
    hidden : nn.Sequential
        Convolutions, norms, nonlinearities and pooling, in order.

    Raises
    ------
    BnbookError
        When `seeds` or `widths` is empty.
    """

    def __init__(
        self,
        norm: Norm | None,
        seeds: Sequence[int] = (0,),
        *,
        in_channels: int = 1,
        widths: Sequence[int] = (8, 16),
        num_classes: int = 10,
        init_std: float | Callable[[ensemble.Layer], float] = ensemble.he,
    ) -> None:
        super().__init__()
        if not seeds or not widths:
            raise BnbookError(f"seeds and widths must not be empty, found {seeds} and {widths}.")
        self.members, self.num_classes = len(seeds), num_classes
        layers: list[nn.Module] = []
        channels = in_channels
        for width in widths:
            for _ in range(2):
                convolution = ensemble.Conv2d(
                    self.members, channels, width, 3, padding=1, bias=norm is None
                )
                normalised = [] if norm is None else [norm(self.members * width)]
                layers += [convolution, *normalised, nn.ReLU()]
                channels = width
            layers.append(nn.MaxPool2d(2))
        self.hidden = nn.Sequential(*layers)
        self.output = ensemble.Linear(self.members, channels, num_classes)
        ensemble.initialise(self, tuple(seeds), init_std)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the logits.

        Parameters
        ----------
        x : Tensor, (N, C, H, W) or (N, E*C, H, W)
            Images that the members share, or one for each; H and W allow the poolings.

        Returns
        -------
        Tensor, (N, E, K)
        """
        scores: Tensor = self.output(self.hidden(x).mean((2, 3)))
        return scores.view(-1, self.members, self.num_classes)
