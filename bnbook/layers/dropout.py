"""Dropout whose masks depend on the seed, the layer and the step alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from bnbook.errors import BnbookError


class Dropout(nn.Module):
    r"""Dropout of E members' activations, each member's by its own seed.

    In training every activation is kept with probability :math:`1 - p` and then divided by it,

    .. math::
        y_i = \frac{m_i}{1 - p}\, x_i, \qquad m_i \sim \text{Bernoulli}(1 - p) ,

    so that its mean stays; in evaluation :math:`y = x`. What is dropped depends on the member's
    seed, the layer and the number of calls, which a buffer counts: put it back, and the same is
    dropped again. ``torch.nn.Dropout`` draws from one global stream instead.

    Source: Srivastava, Hinton, Krizhevsky, Sutskever & Salakhutdinov 2014, in the form that scales
    in training.

    Parameters
    ----------
    p : float
        Share dropped, in [0, 1).
    seeds : sequence of int
        Of the E members; equal seeds drop alike.
    layer : int
        Layers of one network differ in it.

    Raises
    ------
    BnbookError
        When p is out of range.
    """

    calls: Tensor

    def __init__(self, p: float, seeds: Sequence[int], layer: int = 0) -> None:
        super().__init__()
        if not 0 <= p < 1:
            raise BnbookError(f"p must lie in [0, 1), found {p!r}.")
        self.p, self.seeds, self.layer = p, tuple(seeds), layer
        self.register_buffer("calls", torch.zeros((), dtype=torch.long))

    def forward(self, x: Tensor) -> Tensor:
        """Drop activations.

        Parameters
        ----------
        x : Tensor, (N, E*C)
            Activations, each member's C side by side.

        Returns
        -------
        Tensor, (N, E*C)
        """
        if not (self.training and self.p):
            return x
        shape = (len(x), x.shape[1] // len(self.seeds))
        drawn = {seed: self._draw(seed, shape) for seed in dict.fromkeys(self.seeds)}
        self.calls += 1
        return x * torch.cat([drawn[seed] for seed in self.seeds], 1).to(x)

    def _draw(self, seed: int, shape: tuple[int, int]) -> Tensor:
        """Draw one member's mask, divided by the share that is kept."""
        key = np.random.SeedSequence((seed, self.layer, int(self.calls)))
        generator = torch.Generator().manual_seed(int(key.generate_state(1)[0]))
        return (torch.rand(shape, generator=generator) >= self.p) / (1 - self.p)

    def extra_repr(self) -> str:
        """Constructor arguments, for printing."""
        return f"{self.p}, seeds={self.seeds}, layer={self.layer}"
