r"""Mixup: training on weighted means of two images, whose labels count by the same weights."""

from __future__ import annotations

import torch
from torch import Tensor

from bnbook.training.descent import Loss

_STREAM = 0x3122_0000  # keeps the weights apart from a seed's other draws


class Mixup:
    r"""Augmentation and loss that go together, for `bnbook.training.fit.fit`.

    .. math::
        \tilde x_i = \lambda x_i + (1 - \lambda) x_{m + 1 - i} , \qquad
        \tilde l = \lambda\, l(y_i) + (1 - \lambda)\, l(y_{m + 1 - i}) ,

    :math:`\lambda` drawn for each minibatch. A minibatch is in random order, so its own reverse
    pairs images at random. The members of an ensemble share :math:`\lambda`.

    Source: Zhang, Cisse, Dauphin & Lopez-Paz 2018 (mixup), section 2.

    Parameters
    ----------
    loss : callable
        ``(outputs, labels) -> (E,)``, of images as they are.
    steps : int
        Length of training.
    alpha : float
        Of the Beta(alpha, alpha) distribution of :math:`\lambda`; 1 is uniform.
    device : torch.device or str
        Of the images.
    """

    def __init__(
        self, loss: Loss, steps: int, alpha: float = 1.0, device: torch.device | str = "cpu"
    ) -> None:
        self.of = loss
        generator = torch.Generator().manual_seed(_STREAM)
        drawn = torch._standard_gamma(torch.full((2, steps), alpha), generator=generator)
        self.shares = (drawn[0] / drawn.sum(0)).to(device)
        self.share = torch.ones((), device=device)

    def transform(self, x: Tensor, step: int) -> Tensor:
        """Mix the images of a minibatch, (..., m, C, H, W), with those of its reverse."""
        self.share.copy_(self.shares[step])
        return x.lerp(x.flip(-4), 1 - self.share)

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Weigh the losses of both labels of the minibatch that was mixed last, (E,)."""
        own, other = self.of(outputs, labels), self.of(outputs, labels.flip(0))
        return self.share * own + (1 - self.share) * other
