r"""Batch normalisation at small minibatches: statistics of a part of the batch, and two cures.

`ReplicaBatchNorm` normalises each `batch_size` examples by themselves, as replicas on as many
devices do. `BatchRenorm` and `LateFrozenBatchNorm` use the running statistics in training already,
the one in part, the other wholly and towards the end, so that training and inference differ less.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from bnbook.errors import BnbookError
from bnbook.layers.norm import BatchNorm


class ReplicaBatchNorm(BatchNorm):
    r"""`BatchNorm` of each m successive examples of the batch by themselves.

    In training the batch is cut in its order into replicas of `batch_size` examples, m, and each
    has its own mean and variance; :math:`\gamma`, :math:`\beta` and the running statistics are
    shared. In evaluation it is `BatchNorm`.

    Source: what data-parallel training without synchronisation computes; Wu & Johnson 2021 call m
    the normalisation batch size. The running statistics are the first replica's, as torch's
    ``DistributedDataParallel`` keeps those of rank 0.

    Parameters
    ----------
    num_features : int
        Number of features, C.
    batch_size : int
        Examples of a replica, m; 0 takes the whole batch.
    **settings
        Of `BatchNorm`, which has :math:`\gamma` and :math:`\beta` here.

    Attributes
    ----------
    every_replica : bool
        Whether the running statistics move by the mean over all replicas; at first not.

    Raises
    ------
    BnbookError
        In `forward`, when m does not divide the batch; else as `BatchNorm`.
    """

    affine_in_evaluation = True

    def __init__(self, num_features: int, batch_size: int = 0, **settings: Any) -> None:
        super().__init__(num_features, **settings)
        self.batch_size, self.every_replica = batch_size, False

    def forward(self, x: Tensor) -> Any:
        """Normalise; see `BatchNorm.forward`."""
        if not self._of_the_batch():
            return super().forward(x)
        m = self.batch_size or len(x)
        if len(x) % m:
            raise BnbookError(
                f"the batch must be whole replicas of {m} examples, found {len(x)} examples."
            )
        self._check(x[:m])
        side_by_side = x.unflatten(0, (-1, m)).transpose(0, 1).flatten(1, 2)
        with torch.no_grad():
            over = (0, *range(2, x.dim()))
            var, mu = torch.var_mean(side_by_side, over, correction=0)
            mu, var = (v.view(-1, self.num_features) for v in (mu, var))
            r, d = self.correction(mu, var)
            if self.training:
                count = m * x[0, 0].numel()
                self.track(*(v.mean(0) if self.every_replica else v[0] for v in (mu, var)), count)  # type: ignore[call-arg, arg-type]
        weight, bias = self.weight * r, torch.addcmul(self.bias, self.weight, d)
        y = F.batch_norm(
            side_by_side, None, None, weight.flatten(), bias.flatten(), True, 0.0, self.eps
        )
        return y.unflatten(1, (-1, self.num_features)).transpose(0, 1).flatten(0, 1)

    def correction(self, mu: Tensor, var: Tensor) -> tuple[Tensor, Tensor]:  # noqa: ARG002
        """Return what the normalised values are scaled by and moved by: here 1 and 0.

        Parameters
        ----------
        mu, var : Tensor, (replicas, C)
            Mean and biased variance of each replica.

        Returns
        -------
        r, d : Tensor, (replicas, C)
        """
        return torch.ones_like(mu), torch.zeros_like(mu)


class BatchRenorm(ReplicaBatchNorm):
    r"""Batch renormalisation: in training, statistics of the batch corrected to the running ones.

    With the running mean :math:`\mu` and variance :math:`\sigma^2` from before this batch,

    .. math::
        r = \frac{\sigma_B}{\sigma}, \quad d = \frac{\mu_B - \mu}{\sigma}, \quad
        y_i = \gamma \Bigl( \frac{x_i - \mu_B}{\sigma_B}\, r + d \Bigr) + \beta ,

    :math:`\epsilon` inside both roots. Unclipped, :math:`y_i` is what the running statistics
    give; but :math:`r` is clipped to :math:`[1/r_{max}, r_{max}]` and :math:`d` to
    :math:`[-d_{max}, d_{max}]`, and no gradient goes through them, so that the backward pass is
    that of batch normalisation. The bounds are 1 and 0, plain batch normalisation, up to the step
    `begin`, and grow in a straight line to `r_max` and `d_max` at the step `end`.

    Source: Ioffe 2017. That no gradient goes through r and d is as we recall it (not verified).
    The running variance takes the unbiased variance of the batch, as `BatchNorm`'s does.

    Parameters
    ----------
    num_features : int
        Number of features, C.
    batch_size : int
        As of `ReplicaBatchNorm`.
    r_max, d_max : float
        Last bounds, at least 1 and at least 0.
    begin, end : int
        Steps between which the bounds grow, 0 <= begin <= end.
    **settings
        Of `BatchNorm`.

    Raises
    ------
    BnbookError
        When bounds or steps are out of range; else as `ReplicaBatchNorm`.
    """

    affine_in_evaluation = True

    def __init__(
        self,
        num_features: int,
        batch_size: int = 0,
        *,
        r_max: float = 3.0,
        d_max: float = 5.0,
        begin: int = 0,
        end: int = 0,
        **settings: Any,
    ) -> None:
        if not (r_max >= 1 and d_max >= 0 and 0 <= begin <= end):
            raise BnbookError(
                "r_max must be at least 1, d_max at least 0, and 0 <= begin <= end, found"
                f" {r_max}, {d_max}, {begin} and {end}."
            )
        super().__init__(num_features, batch_size, **settings)
        self.r_max, self.d_max, self.begin, self.end = r_max, d_max, begin, end

    def bounds(self) -> tuple[float, float]:
        """Return the largest r and d at this step."""
        step, span = int(self.num_batches_tracked), self.end - self.begin
        share = (step - self.begin) / span if span else float(step >= self.end)
        share = min(1.0, max(0.0, share))
        return 1 + share * (self.r_max - 1), share * self.d_max

    def correction(self, mu: Tensor, var: Tensor) -> tuple[Tensor, Tensor]:
        """Return r and d; see `ReplicaBatchNorm.correction`."""
        r_max, d_max = self.bounds()
        sigma = (self.running_var + self.eps).sqrt()
        r = ((var + self.eps).sqrt() / sigma).clamp(1 / r_max, r_max)
        return r, ((mu - self.running_mean) / sigma).clamp(-d_max, d_max)


class LateFrozenBatchNorm(ReplicaBatchNorm):
    r"""`ReplicaBatchNorm` whose running statistics stand from a step on, and serve in training.

    Up to there it is `ReplicaBatchNorm`. After, a training step normalises as evaluation does, so
    that nothing about the layer differs any more between the two; :math:`\gamma` and :math:`\beta`
    go on learning.

    Source: Wu & Johnson 2021, "FrozenBN" for the last epochs (at second hand).

    Parameters
    ----------
    num_features : int
        Number of features, C.
    batch_size : int
        As of `ReplicaBatchNorm`.
    freeze_at : int
        Training batches after which the running statistics stand.
    **settings
        Of `BatchNorm`.
    """

    affine_in_evaluation = True

    def __init__(
        self, num_features: int, batch_size: int = 0, *, freeze_at: int, **settings: Any
    ) -> None:
        super().__init__(num_features, batch_size, **settings)
        self.freeze_at = freeze_at

    def _of_the_batch(self) -> bool:
        return self.training and int(self.num_batches_tracked) < self.freeze_at
