"""BN of a ConvNet whose statistics see one position of each image, as a linear layer's do."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from bnbook.layers.renorm import ReplicaBatchNorm


class OnePositionBatchNorm(ReplicaBatchNorm):
    """`ReplicaBatchNorm` whose mean and variance are over one position of each example.

    Of every example one position is drawn anew at each training step, the same for all channels;
    all positions are normalised by what is found there, and the gradient goes through it. A
    statistic of m examples is then of m values, as in a fully connected layer.

    Parameters
    ----------
    num_features : int
        Number of features, C.
    batch_size : int
        Examples normalised together, m; 0 takes the whole batch.
    **settings
        Of `bnbook.layers.norm.BatchNorm`.

    Attributes
    ----------
    one_position : bool
        Whether it is so; without it, `ReplicaBatchNorm`. At first it is.

    Raises
    ------
    BnbookError
        As `ReplicaBatchNorm`.
    """

    affine_in_evaluation = True

    def __init__(self, num_features: int, batch_size: int = 0, **settings: Any) -> None:
        super().__init__(num_features, batch_size, **settings)
        self.one_position = True

    def forward(self, x: Tensor) -> Any:
        """Normalise x, (N, C, H, W)."""
        if not (self.training and self.one_position):
            return super().forward(x)
        m = self.batch_size or len(x)
        values = x.flatten(2)
        drawn = torch.randint(values.shape[2], (len(x), 1, 1), generator=self._generator())
        seen = values.gather(2, drawn.to(x.device).expand(-1, values.shape[1], -1))
        var, mu = torch.var_mean(seen.unflatten(0, (-1, m)), (1, 3), correction=0)
        self.track(mu[0], var[0], m)
        mu, var = (v.repeat_interleave(m, 0)[..., None] for v in (mu, var))
        scale = self.weight[:, None] * (var + self.eps).rsqrt()
        return torch.addcmul(self.bias[:, None], values - mu, scale).view_as(x)

    def _generator(self) -> torch.Generator:
        """Return what draws this step's positions, by how many batches the layer has seen."""
        return torch.Generator().manual_seed(int(self.num_batches_tracked))
