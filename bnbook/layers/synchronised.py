r"""Batch normalisation over the minibatch of all replicas, and of each replica in one process.

torch's `SyncBatchNorm` runs on accelerators alone; this one runs wherever `torch.distributed` does.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, distributed
from torch.nn import functional as F  # noqa: N812

from bnbook.errors import BnbookError
from bnbook.layers import norm


class _SumOverReplicas(torch.autograd.Function):
    """Sum over all replicas; so is the gradient's, for each replica's loss depends on every x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:  # noqa: ARG004
        """Return the sum, the same on every replica."""
        total = x.detach().clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:  # noqa: ARG004
        """Return the sum of all replicas' gradients."""
        return _SumOverReplicas.forward(None, gradients[0])


class SyncBatchNorm(norm.BatchNorm):
    r"""`bnbook.layers.norm.BatchNorm` whose statistics are those of all replicas' values together.

    .. math::
        m = \sum_r m_r, \quad \mu = \frac1m \sum_r \sum_{i \in r} x_i, \quad
        \sigma^2 = \frac1m \sum_r \sum_{i \in r} (x_i - \mu)^2 ,

    with a sum over the replicas r in each, and so two messages in the forward pass: C + 1 numbers,
    then C. The backward pass sends as many. Replicas may have different numbers of examples.

    Gradients are those of the sum of all replicas' losses. Data-parallel training that averages the
    parameters' gradients over replicas of equal batches, as `DistributedDataParallel` does, has
    with it the gradient of one large batch.

    Where no process group has begun, and in evaluation, it is `BatchNorm`.

    Parameters, attributes and errors are those of `BatchNorm`; only the values of all replicas
    together need to be two or more.
    """

    affine_in_evaluation = True

    def forward(self, x: Tensor) -> Tensor:
        """Normalise; see `BatchNorm.forward`."""
        if not self._of_the_batch() or not distributed.is_initialized():
            return super().forward(x)
        norm._check_input(x, self.num_features)
        given, x = x.dtype, norm._in_full(x, self.weight)
        over = (0, *range(2, x.dim()))
        count = x.new_tensor([x.numel() // self.num_features])
        sums = _over_replicas(torch.cat((x.sum(over), count)))
        m = int(sums[-1])
        if m < 2:
            raise BnbookError(
                "in training each feature needs two or more values on all replicas together to have"
                f" a variance, found {m}. Use a larger batch, or eval() for single examples."
            )
        mu = norm._along_features(x, sums[:-1] / m)
        centred = x - mu
        var = norm._along_features(x, _over_replicas(centred.square().sum(over)) / m)
        if self.training:
            self.track(mu, var, m)
        scale = (var + self.eps).rsqrt()
        if self.weight is None:
            return (centred * scale).to(given)
        scale = norm._along_features(x, self.weight) * scale
        return torch.addcmul(norm._along_features(x, self.bias), centred, scale).to(given)


def _over_replicas(x: Tensor) -> Tensor:
    return cast(Tensor, _SumOverReplicas.apply(x))


class GhostBatchNorm(norm.BatchNorm):
    """Batch normalisation of parts of a minibatch, each by its own statistics.

    The parts are what the replicas of data-parallel training see, computed by torch's kernel in one
    process: part k of feature c is taken for a feature of its own. The running statistics are those
    of the first part, as `DistributedDataParallel` keeps the first replica's.

    Source: Hoffer, Hubara & Soudry 2017 (Train longer, generalize better), algorithm 1, who average
    the parts' running statistics.

    Parameters
    ----------
    num_features : int
        Number of features, C.
    parts : int
        Into how many parts of equal size, in the order of the minibatch, it is cut.
    **options
        As for `bnbook.layers.norm.BatchNorm`.

    Raises
    ------
    BnbookError
        In `forward`, when `parts` does not divide the minibatch; else as `BatchNorm`.
    """

    affine_in_evaluation = True

    def __init__(self, num_features: int, parts: int, **options: Any) -> None:
        super().__init__(num_features, **options)
        self.parts = parts

    def forward(self, x: Tensor) -> Tensor:
        """Normalise; see `BatchNorm.forward`."""
        if not self._of_the_batch():
            return super().forward(x)
        norm._check_input(x, self.num_features)
        if len(x) % self.parts:
            raise BnbookError(
                f"a minibatch is cut into {self.parts} equal parts, found {len(x)} examples."
            )
        self._check(x[: len(x) // self.parts])
        side_by_side = x.unflatten(0, (self.parts, -1)).transpose(0, 1).flatten(1, 2)
        weight, bias = (
            None if p is None else p.repeat(self.parts) for p in (self.weight, self.bias)
        )
        y = F.batch_norm(side_by_side, None, None, weight, bias, training=True, eps=self.eps)
        if self.training:
            first = x[: len(x) // self.parts].detach().transpose(0, 1).flatten(1)
            m = first.shape[1]
            self.track(first.mean(1), first.var(1, correction=0), m)
        # (N / parts, parts, C, ...): back into the order of the minibatch
        return cast(Tensor, y.unflatten(1, (self.parts, -1)).transpose(0, 1).flatten(0, 1))
