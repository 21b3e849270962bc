"""Batch normalisation whose statistics stand outside the gradient: wrong on purpose.

The layer of Ioffe & Szegedy 2015, section 2: what it computes is batch normalisation, what it
differentiates is not.
"""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor

from bnbook.errors import BnbookError
from bnbook.layers.norm import BatchNorm

MEAN, VARIANCE = "mean", "variance"


class BatchNormOutside(BatchNorm):
    r"""`BatchNorm` with the same values and running statistics, and another gradient.

    In training the backward pass takes the statistics named in `outside` for constants. With
    :math:`s = \sqrt{\sigma^2 + \epsilon}`, :math:`d\hat x_i = \gamma\, dy_i` and
    :math:`\overline{\,\cdot\,}` the mean over the values of a feature, it returns

    .. math::
        dx_i = \frac1s \Bigl( d\hat x_i - [\text{mean inside}]\; \overline{d\hat x}
        - [\text{variance inside}]\; \hat x_i\, \overline{d\hat x\, \hat x} \Bigr) .

    Parameters
    ----------
    num_features : int
        Number of features, C.
    outside : collection of {"mean", "variance"}
        Statistics that the gradient does not know of; with none of them this is `BatchNorm`.
    eps, momentum, affine, track_running_stats
        As `BatchNorm`.

    Raises
    ------
    BnbookError
        When `outside` names anything else, and as `BatchNorm`.
    """

    affine_in_evaluation = True

    def __init__(
        self,
        num_features: int,
        outside: Collection[str] = (MEAN, VARIANCE),
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
    ) -> None:
        super().__init__(num_features, eps, momentum, affine, track_running_stats)
        if unknown := set(outside) - {MEAN, VARIANCE}:
            raise BnbookError(
                f"outside must hold {MEAN!r}, {VARIANCE!r} or both, found {sorted(unknown)}."
            )
        self.outside = frozenset(outside)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise; see `BatchNorm.forward`. In training x has the weights' precision."""
        if not self.training:
            return super().forward(x)
        self._check(x)
        over = (0, *range(2, x.dim()))
        mu = x.mean(over, keepdim=True)
        centred = x - (mu.detach() if MEAN in self.outside else mu)
        var = centred.square().mean(over, keepdim=True)
        self.track(mu, var, x.numel() // self.num_features)
        scale = ((var.detach() if VARIANCE in self.outside else var) + self.eps).rsqrt()
        if self.weight is None:
            return centred * scale
        gamma, beta = self.weight.view_as(mu[0]), self.bias.view_as(mu[0])
        return torch.addcmul(beta, centred, gamma * scale)
