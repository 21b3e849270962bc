"""Fully connected networks with a normalisation of one's own at each layer, the outputs too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

from torch import Tensor, nn

from bnbook.errors import BnbookError
from bnbook.layers import ensemble
from bnbook.networks.models import Norm


class PlacedMLP(nn.Module):
    r"""Fully connected ReLU layers, normalised at those that are named, for E seeds at once.

    Hidden layer l computes :math:`z_l = \max(0, N_l(W_l z_{l-1}))`, or
    :math:`\max(0, W_l z_{l-1} + b_l)` where no normalisation :math:`N_l` is named. The last layer
    is the same without the ReLU, so that the network's outputs can be normalised. Weights start
    Gaussian, of He's variance, b at zero; weights of one seed start the same wherever the
    normalisation is.

    Parameters
    ----------
    norms : mapping
        Number of a layer, from 1 -> ``num_features -> Module``.
    seeds : sequence of int
        One per member, for the initial weights.
    num_inputs : int
        Numbers in an input.
    hidden : sequence of int
        Widths of the hidden layers.
    num_classes : int
        Outputs, K.

    Raises
    ------
    BnbookError
        When a layer that is named is none of the network's.
    """

    def __init__(
        self,
        norms: Mapping[int, Norm],
        seeds: Sequence[int],
        *,
        num_inputs: int,
        hidden: Sequence[int],
        num_classes: int = 10,
    ) -> None:
        super().__init__()
        last = len(hidden) + 1
        if odd := sorted(number for number in norms if not 1 <= number <= last):
            raise BnbookError(f"norms must name layers in [1, {last}], found {odd}.")
        self.members, self.num_classes = len(seeds), num_classes
        self.linear, self.norms = nn.ModuleList(), nn.ModuleList()
        sizes = pairwise((num_inputs, *hidden, num_classes))
        for number, (fan_in, width) in enumerate(sizes, start=1):
            norm = norms.get(number)
            layer = ensemble.Linear(self.members, fan_in, width, bias=norm is None)
            self.linear.append(layer)
            self.norms.append(norm(self.members * width) if norm else nn.Identity())
        ensemble.initialise(self, tuple(seeds), ensemble.he)

    def forward(self, x: Tensor) -> Tensor:
        """Map inputs (N, num_inputs), which the members share, to outputs (N, E, K)."""
        last = len(self.linear)
        for number, (linear, norm) in enumerate(zip(self.linear, self.norms, strict=True), 1):
            x = norm(linear(x))
            if number < last:
                x = x.relu()
        return x.view(-1, self.members, self.num_classes)
