"""The residual network with normalisation at some layers only, chosen by their number."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from bnbook.errors import BnbookError
from bnbook.networks import models


class PlacedResNet(models.ResNet):
    r"""`bnbook.networks.models.ResNet` of 6n + 2 layers, normalised at the layers that are named.

    A convolution with normalisation has no bias, one without has. Normalised at the layers 1 to
    6n + 1 it is `ResNet` with `norm`; at 6n + 2, with ``last_only``; nowhere, without. Weights of
    one seed start the same wherever the normalisation is.

    Parameters
    ----------
    norm : callable
        ``num_features -> Module``, such as `bnbook.layers.norm.BatchNorm`.
    seeds : sequence of int
        One per member.
    places : collection of int
        Numbers of the convolutions whose output is normalised, from 1; 6n + 2 stands for the output
        of the last residual block, after its ReLU.
    n : int
        Residual blocks of a stage.
    **options
        Of `ResNet`, other than ``last_only``.

    Raises
    ------
    BnbookError
        When a place is none of the network's.
    """

    def __init__(
        self,
        norm: models.Norm,
        seeds: Sequence[int],
        places: Collection[int],
        *,
        n: int = 3,
        **options: Any,
    ) -> None:
        super().__init__(None, seeds, n=n, **options)
        last = 6 * n + 2
        if odd := [place for place in places if not 1 <= place <= last]:
            raise BnbookError(f"places must lie in [1, {last}] for n = {n}, found {sorted(odd)}.")
        for place in set(places):
            owner, name = self._slot(place)
            width = self.convolutions[min(place, last - 1) - 1].weight.shape[1]
            setattr(owner, name, norm(self.members * width))
            if place < last:
                self.convolutions[place - 1].bias = None

    def _slot(self, place: int) -> tuple[Any, str]:
        """Return the module that holds the normalisation of a place, and its name there."""
        if place == 1:
            return self, "stem_norm"
        if place == 2 * len(self.blocks) + 2:
            return self, "last_norm"
        block, second = divmod(place - 2, 2)
        return self.blocks[block], "norm2" if second else "norm1"
