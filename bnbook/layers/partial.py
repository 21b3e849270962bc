"""Batch normalisation taken apart: one moment alone, frozen statistics, noise behind it."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from bnbook.errors import BnbookError
from bnbook.layers.norm import BatchNorm
from bnbook.layers.outside import MEAN, VARIANCE


class PartialBatchNorm(BatchNorm):
    r"""`BatchNorm` that fixes means only, or variances only.

    .. math::
        y_i = \gamma (x_i - \mu) + \beta \qquad\text{or}\qquad
        y_i = \gamma \frac{x_i}{\sqrt{\sigma^2 + \epsilon}} + \beta ,

    with :math:`\mu` and the variance :math:`\sigma^2` about it as `BatchNorm` has them; gradients
    go through the statistic that is used.

    Source: the first after Salimans & Kingma 2016 (mean-only batch normalisation), without their
    reparametrised weights.

    Parameters
    ----------
    num_features : int
        Number of features, C.
    fixes : collection of {"mean", "variance"}
        What is fixed; both give `BatchNorm`.
    eps, momentum
        As `BatchNorm`.

    Raises
    ------
    BnbookError
        When `fixes` is empty or names anything else, and as `BatchNorm`.
    """

    def __init__(
        self,
        num_features: int,
        fixes: Collection[str],
        eps: float = 1e-5,
        momentum: float | None = 0.1,
    ) -> None:
        super().__init__(num_features, eps, momentum)
        if not fixes or set(fixes) - {MEAN, VARIANCE}:
            raise BnbookError(f"fixes must hold {MEAN!r}, {VARIANCE!r} or both, found {fixes}.")
        self.fixes = frozenset(fixes)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise what is to be fixed; see `BatchNorm.forward`."""
        self._check(x)
        over = (0, *range(2, x.dim()))
        if self.training:
            mu = x.mean(over, keepdim=True)
            var = (x - mu).square().mean(over, keepdim=True)
            self.track(mu, var, x.numel() // self.num_features)
        else:
            mu, var = (_along(x, s) for s in (self.running_mean, self.running_var))
        centred = x - mu if MEAN in self.fixes else x
        gamma = _along(x, self.weight)
        scale = gamma * (var + self.eps).rsqrt() if VARIANCE in self.fixes else gamma
        return torch.addcmul(_along(x, self.bias), centred, scale)


class FrozenBatchNorm(BatchNorm):
    """`BatchNorm` with the statistics of the first training batch that it sees, for ever.

    From then on it is an affine map with learned scale and shift: what it does for the start of
    training without what it does during it.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalise by the first batch; before it, in evaluation, by mean 0 and variance 1."""
        self._check(x)
        if self.training and int(self.num_batches_tracked) == 0:
            with torch.no_grad():
                over = (0, *range(2, x.dim()))
                var, mu = torch.var_mean(x, over, correction=0)
                self.running_mean.copy_(mu)
                self.running_var.copy_(var)
                self.num_batches_tracked += 1
        scale = _along(x, self.weight) * (_along(x, self.running_var) + self.eps).rsqrt()
        return torch.addcmul(_along(x, self.bias), x - _along(x, self.running_mean), scale)


class Noise(nn.Module):
    r"""A layer, or nothing, followed in training by noise that moves a unit's distribution.

    At each step every unit c draws a mean :math:`m_c \sim U(-n_\mu, n_\mu)` and a scale
    :math:`s_c \sim U(1, n_\sigma)`, and each example i

    .. math::
        y_{ic} = x_{ic}\, a_{ic} + b_{ic}, \qquad b_{ic} \sim U(m_c - r, m_c + r), \quad
        a_{ic} \sim N(s_c, r^2) .

    A feature map has one of each for all positions. What is drawn depends on the member's seed, the
    layer and the number of calls, which a buffer counts: put it back, and the noise comes again.

    Source: Santurkar et al. 2018, section 2.1 and appendix A; the defaults are theirs.

    Parameters
    ----------
    before : nn.Module, optional
        What the noise follows.
    seeds : sequence of int
        Of the E members; equal seeds have equal noise.
    layer : int
        Layers of one network differ in it.
    n_mu, n_sigma, jitter : float
        The ranges, and r.
    """

    calls: Tensor

    def __init__(
        self,
        before: nn.Module | None,
        seeds: Sequence[int],
        layer: int,
        n_mu: float = 0.5,
        n_sigma: float = 1.25,
        jitter: float = 0.1,
    ) -> None:
        super().__init__()
        self.before = before if before is not None else nn.Identity()
        self.seeds, self.layer = tuple(seeds), layer
        self.n_mu, self.n_sigma, self.jitter = n_mu, n_sigma, jitter
        self.register_buffer("calls", torch.zeros((), dtype=torch.long))

    def forward(self, x: Tensor) -> Tensor:
        """Add the noise, (N, E*C, ...) -> the same shape; in evaluation none."""
        x = self.before(x)
        if not self.training:
            return x
        n, width = len(x), x.shape[1] // len(self.seeds)
        drawn = {seed: self._draw(seed, n, width) for seed in dict.fromkeys(self.seeds)}
        shift, scale = (torch.cat([drawn[seed][k] for seed in self.seeds], 1).to(x) for k in (0, 1))
        self.calls += 1
        shape = (n, -1, *(1,) * (x.dim() - 2))
        return torch.addcmul(shift.view(shape), x, scale.view(shape))

    def _draw(self, seed: int, n: int, width: int) -> tuple[Tensor, Tensor]:
        """Draw b and a of one member, (n, width) each."""
        key = np.random.SeedSequence((seed, self.layer, int(self.calls)))
        generator = torch.Generator().manual_seed(int(key.generate_state(1)[0]))
        mean = self.n_mu * (2 * torch.rand(width, generator=generator) - 1)
        spread = 1 + (self.n_sigma - 1) * torch.rand(width, generator=generator)
        shift = mean + self.jitter * (2 * torch.rand(n, width, generator=generator) - 1)
        return shift, spread + self.jitter * torch.randn(n, width, generator=generator)


def _along(x: Tensor, vector: Tensor) -> Tensor:
    """Shape one value a feature to go with x."""
    return vector.view(-1, *(1,) * (x.dim() - 2))
