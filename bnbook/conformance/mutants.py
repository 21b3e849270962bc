"""Batch normalisation broken on purpose: each mutant is a bug that public code has had.

`Sample` is a layer as a reader might write it, correct, with one method for each thing that can go
wrong; a mutant overrides one. It shares nothing with `bnbook.layers.norm` or `bnbook.formulas`.
`mutant_table` shows which check of `bnbook.conformance` catches which mutant.
"""

from __future__ import annotations

from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from bnbook import conformance


class Sample(nn.Module):
    """Batch normalisation, correct and plain.

    Parameters
    ----------
    num_features : int
        C.
    eps, momentum : float
        As in torch.
    """

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(self, num_features: int, eps: float = 1e-5, momentum: float = 0.1) -> None:
        super().__init__()
        self.eps, self.momentum = eps, momentum
        self.weight = nn.Parameter(torch.ones(num_features))
        self.bias = nn.Parameter(torch.zeros(num_features))
        self.register_buffer("running_mean", torch.zeros(num_features))
        self.register_buffer("running_var", torch.ones(num_features))
        self.register_buffer("num_batches_tracked", torch.tensor(0))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x of shape (N, C, ...)."""
        if self.of_the_batch():
            mu, var = self.moments(x)
            with torch.no_grad():
                self.track(mu, var, x.numel() // x.shape[1])
        else:
            mu, var = along(x, self.running_mean), along(x, self.running_var)
        return self.affine((x - mu) / self.root(var))

    def of_the_batch(self) -> bool:
        """Whether to use the statistics of the batch."""
        return self.training

    def axes(self, x: Tensor) -> tuple[int, ...]:
        """Over what the statistics are."""
        return (0, *range(2, x.dim()))

    def moments(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and biased variance."""
        mu = x.mean(self.axes(x), keepdim=True)
        return mu, (x - mu).square().mean(self.axes(x), keepdim=True)

    def root(self, var: Tensor) -> Tensor:
        """What x - mu is divided by."""
        return (var + self.eps).sqrt()

    def affine(self, x_hat: Tensor) -> Tensor:
        """Scale and shift."""
        return along(x_hat, self.weight) * x_hat + along(x_hat, self.bias)

    def track(self, mu: Tensor, var: Tensor, m: int) -> None:
        """Move the running statistics."""
        if m < 2:
            raise ValueError("one value of a feature has no variance")
        self.running_mean.lerp_(mu.flatten(), self.momentum)
        self.running_var.lerp_(var.flatten() * m / (m - 1), self.momentum)
        self.num_batches_tracked += 1


def along(x: Tensor, vector: Tensor) -> Tensor:
    """Shape a vector of features to go with x."""
    return vector.view(1, -1, *(1,) * (x.dim() - 2))


class PooledStatistics(Sample):
    """One mean and variance for all features."""

    def moments(self, x: Tensor) -> tuple[Tensor, Tensor]:  # noqa: D102
        like = x.mean(self.axes(x), keepdim=True)
        return x.mean().expand_as(like), x.var(unbiased=False).expand_as(like)


class PositionsApart(Sample):
    """Feature maps with a mean and variance for each position."""

    def axes(self, x: Tensor) -> tuple[int, ...]:  # noqa: ARG002, D102
        return (0,)

    def track(self, mu: Tensor, var: Tensor, m: int) -> None:  # noqa: D102
        super().track(
            mu.transpose(0, 1).flatten(1).mean(1), var.transpose(0, 1).flatten(1).mean(1), m
        )


class UnbiasedNormalisation(Sample):
    """Normalises with the variance over m - 1."""

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        self.m = x.numel() // x.shape[1]
        return super().forward(x)

    def root(self, var: Tensor) -> Tensor:  # noqa: D102
        return super().root(var * self.m / (self.m - 1) if self.training else var)


class BiasedRunningVariance(Sample):
    """The running variance forgets m / (m - 1)."""

    def track(self, mu: Tensor, var: Tensor, m: int) -> None:  # noqa: D102
        super().track(mu, var * (m - 1) / m, m)


class ReversedMomentum(Sample):
    """`momentum` weighs the old average."""

    def track(self, mu: Tensor, var: Tensor, m: int) -> None:  # noqa: D102
        self.momentum = 1 - self.momentum
        super().track(mu, var, m)
        self.momentum = 1 - self.momentum


class BatchStatisticsAtTestTime(Sample):
    """Evaluation normalises with the batch that it is given."""

    def of_the_batch(self) -> bool:  # noqa: D102
        return True

    def track(self, mu: Tensor, var: Tensor, m: int) -> None:  # noqa: D102
        if self.training:
            super().track(mu, var, m)


class ModeFromAutograd(Sample):
    """Training is where gradients are on, evaluation where they are off."""

    def of_the_batch(self) -> bool:  # noqa: D102
        return torch.is_grad_enabled()


class BiasGradientOverTheWrongAxis(Sample):
    """The gradient of beta is summed over the features as well."""

    def affine(self, x_hat: Tensor) -> Tensor:  # noqa: D102
        total = self.bias.sum()
        right = along(x_hat, self.weight) * x_hat + along(x_hat, self.bias.detach())
        return right + (total - total.detach())


class WeightGradientWithoutNormalisation(Sample):
    """The gradient of gamma has x - mu in place of its normalised value."""

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        y = super().forward(x)
        if not self.training:
            return y
        mu, var = self.moments(x)
        x_hat = ((x - mu) / self.root(var)).detach()
        weight = along(x, self.weight)
        return y + (weight - weight.detach()) * ((x - mu).detach() - x_hat)


class EpsOutsideTheRoot(Sample):
    """sqrt(var) + eps."""

    def root(self, var: Tensor) -> Tensor:  # noqa: D102
        return var.sqrt() + self.eps


class OnePassVariance(Sample):
    """The variance as E[x^2] - E[x]^2, in the precision of x."""

    def moments(self, x: Tensor) -> tuple[Tensor, Tensor]:  # noqa: D102
        mu = x.mean(self.axes(x), keepdim=True)
        return mu, (x.square().mean(self.axes(x), keepdim=True) - mu.square()).clamp(min=0)


class DetachedStatistics(Sample):
    """The gradient takes mean and variance for constants (section 2 of the paper)."""

    def moments(self, x: Tensor) -> tuple[Tensor, Tensor]:  # noqa: D102
        return super().moments(x.detach())


class DetachedVariance(Sample):
    """The gradient knows of the mean, and takes the variance for a constant."""

    def moments(self, x: Tensor) -> tuple[Tensor, Tensor]:  # noqa: D102
        mu, var = super().moments(x)
        return mu, var.detach()


class InputGradientTwice(Sample):
    """The gradient of the input is twice what it should be."""

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        return super().forward(2 * x - x.detach())


class NoInputGradient(Sample):
    """The gradient of the input is zero."""

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        return super().forward(x.detach() + 0 * x)


class StatisticsMoveInEvaluation(Sample):
    """A forward pass in eval() moves the running statistics."""

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        y = super().forward(x)
        if not self.training:
            with torch.no_grad():
                self.track(*self.moments(x), x.numel() // x.shape[1])
        return y


class RunningVarianceFromZero(Sample):
    """The running variance starts at 0."""

    def __init__(self, num_features: int) -> None:
        super().__init__(num_features)
        self.running_var.zero_()


class CountsNoBatches(Sample):
    """`num_batches_tracked` stands still."""

    def track(self, mu: Tensor, var: Tensor, m: int) -> None:  # noqa: D102
        super().track(mu, var, m)
        self.num_batches_tracked.zero_()


class Float32Inside(Sample):
    """Normalises in float32 whatever it is given."""

    def affine(self, x_hat: Tensor) -> Tensor:  # noqa: D102
        return super().affine(x_hat.float().to(x_hat.dtype))


class OneValueAccepted(Sample):
    """One value of a feature is accepted, and m / (m - 1) divides by zero."""

    def track(self, mu: Tensor, var: Tensor, m: int) -> None:  # noqa: D102
        if m > 1:
            return super().track(mu, var, m)
        self.running_var.lerp_(var.flatten() * m / torch.tensor(m - 1), self.momentum)
        return None


class InPlace(Sample):
    """Subtracts the mean in the caller's tensor."""

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        y = super().forward(x)
        with torch.no_grad():
            x -= self.moments(x)[0]
        return y


MUTANTS: tuple[type[Sample], ...] = (
    PooledStatistics,
    PositionsApart,
    UnbiasedNormalisation,
    EpsOutsideTheRoot,
    OnePassVariance,
    Float32Inside,
    DetachedStatistics,
    DetachedVariance,
    InputGradientTwice,
    NoInputGradient,
    WeightGradientWithoutNormalisation,
    BiasGradientOverTheWrongAxis,
    ReversedMomentum,
    BiasedRunningVariance,
    RunningVarianceFromZero,
    CountsNoBatches,
    BatchStatisticsAtTestTime,
    ModeFromAutograd,
    StatisticsMoveInEvaluation,
    OneValueAccepted,
    InPlace,
)


def mutant_table() -> pd.DataFrame:
    """Run every check on every mutant.

    Returns
    -------
    DataFrame of bool, (mutant, check)
        True where the check catches the mutant; index and columns by name, in the order of
        `MUTANTS` and `conformance.CHECKS`.
    """
    caught: dict[str, dict[str, Any]] = {
        mutant.__name__: {result.name: not result.passed for result in conformance.run(mutant)}
        for mutant in MUTANTS
    }
    return pd.DataFrame(caught).T.astype(bool).rename_axis("mutant").rename_axis("check", axis=1)
