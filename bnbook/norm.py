"""Normalisation layers written out in torch, one line per line of the paper's algorithm.

Parameter and buffer names are those of `torch.nn`, so state dicts load both ways.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bnbook.errors import BnbookError


class BatchNorm(nn.Module):
    r"""Batch normalisation of each feature (channel) over batch and positions.

    In training, with the sums over the :math:`m` values of a feature,

    .. math::
        \mu = \frac1m \sum_i x_i, \quad \sigma^2 = \frac1m \sum_i (x_i - \mu)^2, \quad
        y_i = \gamma \frac{x_i - \mu}{\sqrt{\sigma^2 + \epsilon}} + \beta .

    In evaluation :math:`\mu` and :math:`\sigma^2` are the running statistics. These move by
    ``running += momentum * (batch - running)`` at every training step: `momentum` weighs the new
    batch, as in torch. The running variance takes the unbiased batch variance,
    :math:`\frac{m}{m-1}\sigma^2`.

    Source: Ioffe & Szegedy 2015, algorithm 1 and, for :math:`m' = m p q` values of a feature map,
    section 3.2. The running average is the one that section 3.1 mentions, not algorithm 2's
    average over minibatches of the trained network.

    Parameters
    ----------
    num_features : int
        Number of features, C.
    eps : float
        Added to the variance inside the square root; the paper gives no value.
    momentum : float
        Weight of the new batch in the running statistics, in [0, 1].

    Attributes
    ----------
    weight, bias : Parameter, (C,)
        :math:`\gamma`, initially 1, and :math:`\beta`, initially 0.
    running_mean, running_var : Tensor, (C,)
        Initially 0 and 1.
    num_batches_tracked : Tensor, ()
        Number of training batches seen.

    Raises
    ------
    BnbookError
        When the parameters are out of range; in `forward`, when the input's shape does not fit or,
        in training, a feature has one value only.
    """

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(self, num_features: int, eps: float = 1e-5, momentum: float = 0.1) -> None:
        super().__init__()
        if num_features < 1:
            raise BnbookError(f"num_features must be at least 1, found {num_features}.")
        if not eps > 0:
            raise BnbookError(f"eps must be positive, found {eps}.")
        if not 0 <= momentum <= 1:
            raise BnbookError(f"momentum must lie in [0, 1], found {momentum}.")
        self.num_features, self.eps, self.momentum = num_features, eps, momentum
        self.weight = nn.Parameter(torch.ones(num_features))
        self.bias = nn.Parameter(torch.zeros(num_features))
        self.register_buffer("running_mean", torch.zeros(num_features))
        self.register_buffer("running_var", torch.ones(num_features))
        self.register_buffer("num_batches_tracked", torch.tensor(0))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise.

        Parameters
        ----------
        x : Tensor, (N, C), (N, C, L) or (N, C, H, W)
            Floating point.

        Returns
        -------
        Tensor, of the shape of x
        """
        over = self._reduced(x)
        if self.training:
            mu = x.mean(over, keepdim=True)
            centred = x - mu
            var = centred.square().mean(over, keepdim=True)
            self._track(mu, var, x.numel() // self.num_features)
        else:
            mu, var = self._as(x, self.running_mean), self._as(x, self.running_var)
            centred = x - mu
        scale = self._as(x, self.weight) * (var + self.eps).rsqrt()
        return torch.addcmul(self._as(x, self.bias), centred, scale)

    def extra_repr(self) -> str:
        """Constructor arguments, for printing."""
        return f"{self.num_features}, eps={self.eps}, momentum={self.momentum}"

    @torch.no_grad()
    def _track(self, mu: Tensor, var: Tensor, m: int) -> None:
        self.running_mean.lerp_(mu.flatten(), self.momentum)
        self.running_var.lerp_(var.flatten() * (m / (m - 1)), self.momentum)
        self.num_batches_tracked += 1

    def _reduced(self, x: Tensor) -> tuple[int, ...]:
        if x.dim() not in (2, 3, 4) or x.shape[1] != self.num_features:
            raise BnbookError(
                f"x must have shape (N, {self.num_features}), (N, {self.num_features}, L) or"
                f" (N, {self.num_features}, H, W), found {tuple(x.shape)}."
            )
        if self.training and x.numel() // self.num_features < 2:
            raise BnbookError(
                "in training each feature needs two or more values to have a variance, found"
                f" {x.numel() // self.num_features}, x of shape {tuple(x.shape)}. Use a larger"
                " batch, or eval() for single examples."
            )
        return (0, *range(2, x.dim()))

    def _as(self, x: Tensor, vector: Tensor) -> Tensor:
        return vector.view(1, -1, *(1,) * (x.dim() - 2))
