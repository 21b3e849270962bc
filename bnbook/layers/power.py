"""PowerNorm: normalisation by a running quadratic mean, with its approximate backward pass."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from bnbook.errors import BnbookError


class PowerNorm(nn.Module):
    r"""Normalise rows by the running quadratic mean of each feature; nothing is centred.

    With :math:`\psi_B^2 = \frac1m \sum_i x_i^2` of a batch of m rows, in training and evaluation

    .. math::
        \hat x = \frac{x}{\sqrt{\psi^2 + \epsilon}}, \qquad y = \gamma \hat x + \beta ,

    and after a training batch :math:`\psi^2 \leftarrow (1 - \rho) \psi^2 + \rho \psi_B^2`. The
    gradient of :math:`\psi^2`, which reaches back over all batches, is replaced by a running
    estimate :math:`\nu`: with :math:`g = \gamma \, \partial l / \partial y`,

    .. math::
        \tilde g = g - \nu \hat x, \quad
        \frac{\partial l}{\partial x} = \frac{\tilde g}{\sqrt{\psi^2 + \epsilon}}, \quad
        \nu \leftarrow \nu + \rho \, \frac1m \sum_i \tilde g_i \hat x_i .

    In the first `warm_up` batches :math:`\psi_B^2` stands in for :math:`\psi^2`, whose running
    value is then the plain average of the batches.

    Source: Shen et al. 2020, section 4, as their published code computes it. That code first
    divides each row by its own quadratic mean, as RMSNorm does, which is left out here: it would
    hide what the running form does.

    Parameters
    ----------
    num_features : int
        Features, C.
    warm_up : int
        Batches that are normalised by their own quadratic mean.
    momentum : float
        :math:`\rho`, the weight of a new batch, in (0, 1].
    eps : float
        Added to the quadratic mean inside the square root.

    Attributes
    ----------
    weight, bias : Parameter, (C,)
        :math:`\gamma`, initially 1, and :math:`\beta`, initially 0.
    running_square : Tensor, (C,)
        :math:`\psi^2`, initially 1.
    running_product : Tensor, (C,)
        :math:`\nu`, initially 0.
    num_batches_tracked : Tensor, (), int64

    Raises
    ------
    BnbookError
        When momentum is out of range; in `forward`, when x is not (m, C) with a row or more.
    """

    running_square: Tensor
    running_product: Tensor
    num_batches_tracked: Tensor

    def __init__(
        self, num_features: int, warm_up: int = 0, momentum: float = 0.1, eps: float = 1e-5
    ) -> None:
        super().__init__()
        if not 0 < momentum <= 1:
            raise BnbookError(f"momentum must lie in (0, 1], found {momentum!r}.")
        self.num_features, self.warm_up = num_features, warm_up
        self.momentum, self.eps = momentum, eps
        self.weight = nn.Parameter(torch.ones(num_features))
        self.bias = nn.Parameter(torch.zeros(num_features))
        self.register_buffer("running_square", torch.ones(num_features))
        self.register_buffer("running_product", torch.zeros(num_features))
        self.register_buffer("num_batches_tracked", torch.tensor(0))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise.

        Parameters
        ----------
        x : Tensor, (m, C)
            Rows: examples or tokens.

        Returns
        -------
        Tensor, (m, C)
        """
        if x.dim() != 2 or x.shape[1] != self.num_features or not len(x):
            raise BnbookError(f"x must have shape (m, {self.num_features}), found {tuple(x.shape)}")
        if not self.training:
            normalised = x * (self.running_square + self.eps).rsqrt()
            return torch.addcmul(self.bias, normalised, self.weight)
        square = x.detach().square().mean(0)
        warming = int(self.num_batches_tracked) < self.warm_up
        scale = ((square if warming else self.running_square) + self.eps).rsqrt()
        normalised = _Scaled.apply(x, scale, self.running_product, self.momentum)
        self._track(square, warming)
        return torch.addcmul(self.bias, normalised, self.weight)

    @torch.no_grad()
    def _track(self, square: Tensor, warming: bool) -> None:
        self.num_batches_tracked += 1
        weight = 1 / float(self.num_batches_tracked) if warming else self.momentum
        self.running_square.lerp_(square, weight)


class _Scaled(torch.autograd.Function):
    """A product with a fixed scale whose backward pass takes out, and updates, the estimate."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, scale: Tensor, product: Tensor, momentum: float
    ) -> Tensor:  # fmt: skip
        normalised = x * scale
        ctx.save_for_backward(normalised, scale)
        ctx.product, ctx.momentum = product, momentum
        return normalised

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        normalised, scale = ctx.saved_tensors
        corrected = g - ctx.product * normalised
        ctx.product += ctx.momentum * (corrected * normalised).mean(0)
        return corrected * scale, None, None, None
