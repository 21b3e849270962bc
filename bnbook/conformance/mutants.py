"""Batch normalisation broken on purpose: each mutant is right but for one bug.

`Sample` is a layer as a reader might write it, correct, with one method for each thing that can go
wrong; a mutant overrides one or two. It shares nothing with `bnbook.layers.norm` or
`bnbook.formulas`. The first twenty-one are bugs that public code has had; the others each break a
sentence of the documentation of BN layers, and were written down before the checks that catch them.
`mutant_table` shows which check of `bnbook.conformance` catches which mutant.
"""

from __future__ import annotations

import copy
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
        As in torch; momentum may be None.
    """

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(self, num_features: int, eps: float = 1e-5, momentum: float | None = 0.1) -> None:
        super().__init__()
        self.eps, self.momentum = eps, momentum
        self.weight = nn.Parameter(torch.ones(num_features))
        self.bias = nn.Parameter(torch.zeros(num_features))
        self.register_buffer("running_mean", torch.zeros(num_features))
        self.register_buffer("running_var", torch.ones(num_features))
        self.register_buffer("num_batches_tracked", torch.tensor(0))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x of shape (N, C, ...)."""
        given, x = x.dtype, self.full(x)
        if self.of_the_batch():
            mu, var = self.moments(x)
            with torch.no_grad():
                self.track(mu, var, x.numel() // x.shape[1])
        else:
            mu, var = along(x, self.running_mean), along(x, self.running_var)
        return self.affine((x - mu) / self.root(var)).to(given)

    def full(self, x: Tensor) -> Tensor:
        """In float32 at least."""
        return x.to(torch.promote_types(x.dtype, torch.float32))

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
        self.num_batches_tracked += 1
        self.move(self.running_mean, mu.flatten())
        self.move(self.running_var, var.flatten() * m / (m - 1))

    def move(self, average: Tensor, new: Tensor) -> None:
        """Move a running average, and round last."""
        average.copy_(average.to(new.dtype).lerp(new, self.share()))

    def share(self) -> float:
        """Weight of the new batch in the running statistics."""
        return 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum


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

    def share(self) -> float:  # noqa: D102
        return 1 - super().share()


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

    def __init__(self, num_features: int, **settings: Any) -> None:
        super().__init__(num_features, **settings)
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
        self.move(self.running_var, var.flatten() * m / torch.tensor(m - 1))
        return None


class InPlace(Sample):
    """Subtracts the mean in the caller's tensor."""

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        y = super().forward(x)
        with torch.no_grad():
            x -= self.moments(x)[0]
        return y


# What a layer is made of


class AveragesArePlainAttributes(Sample):
    """The running statistics are attributes: not saved, and left behind by `to`."""

    def __init__(self, num_features: int, **settings: Any) -> None:
        super().__init__(num_features, **settings)
        for name in ("running_mean", "running_var"):
            value = getattr(self, name)
            delattr(self, name)
            setattr(self, name, value)


class AveragesNotSaved(Sample):
    """The running statistics are buffers that the state dict leaves out."""

    def __init__(self, num_features: int, **settings: Any) -> None:
        super().__init__(num_features, **settings)
        self.register_buffer("running_mean", self.running_mean, persistent=False)
        self.register_buffer("running_var", self.running_var, persistent=False)


class CounterNotSaved(Sample):
    """The counter of batches is left out of the state dict."""

    def __init__(self, num_features: int, **settings: Any) -> None:
        super().__init__(num_features, **settings)
        self.register_buffer("num_batches_tracked", torch.tensor(0), persistent=False)


class AveragesAreParameters(Sample):
    """The running statistics are parameters, which an optimiser decays."""

    def __init__(self, num_features: int, **settings: Any) -> None:
        super().__init__(num_features, **settings)
        for name in ("running_mean", "running_var"):
            value = getattr(self, name)
            delattr(self, name)
            setattr(self, name, nn.Parameter(value, requires_grad=False))


class AveragesRequireGradients(Sample):
    """The running statistics require gradients."""

    def __init__(self, num_features: int, **settings: Any) -> None:
        super().__init__(num_features, **settings)
        self.running_mean.requires_grad_()
        self.running_var.requires_grad_()


class ScaleIsABuffer(Sample):
    """Gamma is a buffer: no optimiser sees it."""

    def __init__(self, num_features: int, **settings: Any) -> None:
        super().__init__(num_features, **settings)
        del self.weight
        self.register_buffer("weight", torch.ones(num_features).requires_grad_())


class ShiftIsAPlainTensor(Sample):
    """Beta is a tensor that requires a gradient, registered nowhere."""

    def __init__(self, num_features: int, **settings: Any) -> None:
        super().__init__(num_features, **settings)
        del self.bias
        self.bias: Any = torch.zeros(num_features, requires_grad=True)

    def _apply(self, *arguments: Any, **settings: Any) -> Any:
        super()._apply(*arguments, **settings)
        self.bias = self.bias.detach().to(self.weight.dtype).requires_grad_()
        return self


class ScaleIsFrozen(Sample):
    """Gamma requires no gradient."""

    def __init__(self, num_features: int, **settings: Any) -> None:
        super().__init__(num_features, **settings)
        self.weight.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        self.weight.requires_grad_(False)
        return super().forward(x)


class CounterInFloatingPoint(Sample):
    """The counter is a floating-point number, which stops at 2,048 in half precision."""

    def __init__(self, num_features: int, **settings: Any) -> None:
        super().__init__(num_features, **settings)
        self.register_buffer("num_batches_tracked", torch.tensor(0.0))


class CounterOfOneByte(Sample):
    """The counter is a signed byte: after 127 batches it is -128."""

    def __init__(self, num_features: int, **settings: Any) -> None:
        super().__init__(num_features, **settings)
        self.register_buffer("num_batches_tracked", torch.tensor(0, dtype=torch.int8))


_SHARED = torch.zeros(512)


class AverageSharedByAllLayers(Sample):
    """The running mean is a default argument: every layer moves the same tensor."""

    def __init__(self, num_features: int, **settings: Any) -> None:
        super().__init__(num_features, **settings)
        self.running_mean = _SHARED[:num_features].zero_()


class CopiesShareTheirAverages(Sample):
    """A copy has the running statistics of the original, not its own."""

    def __deepcopy__(self, memo: dict[int, Any]) -> CopiesShareTheirAverages:
        new = self.__class__.__new__(self.__class__)
        memo[id(self)] = new
        nn.Module.__init__(new)
        state = {k: v for k, v in vars(self).items() if k != "_buffers"}
        new.__dict__.update(copy.deepcopy(state, memo))
        new._buffers = dict(self._buffers)
        return new


class LoadingLeavesTheAverages(Sample):
    """load_state_dict takes gamma and beta, and resets the running statistics."""

    def _load_from_state_dict(self, *arguments: Any, **settings: Any) -> None:
        super()._load_from_state_dict(*arguments, **settings)
        self.running_mean.zero_()
        self.running_var.fill_(1)


class PicklesForgetTheAverages(Sample):
    """A layer that is pickled, as by torch.save, comes back with new running statistics."""

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__.copy()
        state["_buffers"] = {
            "running_mean": torch.zeros_like(self.running_mean),
            "running_var": torch.ones_like(self.running_var),
            "num_batches_tracked": torch.tensor(0),
        }
        return state


class AveragesStayInFloat32(Sample):
    """The running statistics are float32, whatever the layer is."""

    def _apply(self, *arguments: Any, **settings: Any) -> Any:
        super()._apply(*arguments, **settings)
        self.running_mean, self.running_var = self.running_mean.float(), self.running_var.float()
        return self


# How running statistics move


class AveragesKeepTheGraph(Sample):
    """The running statistics are differentiable: memory grows with every step."""

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        given, x = x.dtype, self.full(x)
        if self.training:
            mu, var = self.moments(x)
            self.track(mu, var, x.numel() // x.shape[1])
            return self.affine((x - mu) / self.root(var)).to(given)
        return super().forward(x.to(given))

    def move(self, average: Tensor, new: Tensor) -> None:  # noqa: D102
        name = "running_mean" if average is self.running_mean else "running_var"
        setattr(self, name, average.to(new.dtype).lerp(new, self.share()).to(average.dtype))


class StandsStillWithoutGradients(Sample):
    """Under no_grad the running statistics do not move in training."""

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        self.on = torch.is_grad_enabled()
        return super().forward(x)

    def track(self, mu: Tensor, var: Tensor, m: int) -> None:  # noqa: D102
        if self.on:
            super().track(mu, var, m)


class StandsStillWithoutAnInputGradient(Sample):
    """The running statistics move only for inputs that require a gradient."""

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        self.wanted = x.requires_grad
        return super().forward(x)

    def track(self, mu: Tensor, var: Tensor, m: int) -> None:  # noqa: D102
        if self.wanted:
            super().track(mu, var, m)


class MovesInTheBackwardPass(Sample):
    """The running statistics move when the gradient comes back."""

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        y = super().forward(x)
        if self.training and y.requires_grad:
            mu, var = (t.detach() for t in self.moments(self.full(x)))
            y.register_hook(lambda _: Sample.track(self, mu, var, x.numel() // x.shape[1]))
        return y

    def track(self, mu: Tensor, var: Tensor, m: int) -> None:  # noqa: D102
        pass


class MovesTwice(Sample):
    """The running statistics move twice for a batch."""

    def track(self, mu: Tensor, var: Tensor, m: int) -> None:  # noqa: D102
        super().track(mu, var, m)
        super().track(mu, var, m)
        self.num_batches_tracked -= 1


class OneBatchLate(Sample):
    """The running statistics move by the batch before."""

    def track(self, mu: Tensor, var: Tensor, m: int) -> None:  # noqa: D102
        before = getattr(self, "before", (mu, var, m))
        self.before = (mu.detach(), var.detach(), m)
        super().track(*before)


class FirstBatchTakenWhole(Sample):
    """The first batch replaces the start, as some layers that start from data do."""

    def share(self) -> float:  # noqa: D102
        return 1.0 if self.num_batches_tracked == 1 else super().share()


class MomentumFadesAfterTwenty(Sample):
    """The momentum falls from the twentieth batch on."""

    def share(self) -> float:  # noqa: D102
        return super().share() * min(1.0, 20 / float(self.num_batches_tracked))


class StandsStillAfterAHundred(Sample):
    """The running statistics are frozen after a hundred batches."""

    def share(self) -> float:  # noqa: D102
        return super().share() if self.num_batches_tracked <= 100 else 0.0


class StandardDeviationsAveraged(Sample):
    """The average is of standard deviations, and its square is used."""

    def move(self, average: Tensor, new: Tensor) -> None:  # noqa: D102
        if average is self.running_var:
            root = average.to(new.dtype).sqrt().lerp(new.sqrt(), self.share())
            average.copy_(root.square())
        else:
            super().move(average, new)


class VarianceAboutTheRunningMean(Sample):
    """The running variance takes squares about the running mean."""

    def track(self, mu: Tensor, var: Tensor, m: int) -> None:  # noqa: D102
        super().track(mu, var + (mu - along(mu, self.running_mean)).square(), m)


class BesselOverExamples(Sample):
    """Feature maps: n / (n - 1) of examples, where m / (m - 1) of values belongs."""

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        self.n = x.shape[0]
        return super().forward(x)

    def track(self, mu: Tensor, var: Tensor, m: int) -> None:  # noqa: D102
        if m > 1:
            var = var * (m - 1) / m * self.n / max(self.n - 1, 1)
        super().track(mu, var, m)


class OutputsTracked(Sample):
    """The running statistics are those of the outputs."""

    def track(self, mu: Tensor, var: Tensor, m: int) -> None:  # noqa: D102
        scale, shift = along(mu, self.weight), along(mu, self.bias)
        super().track(shift.to(mu.dtype), scale.square() * var / (var + self.eps), m)


class CountsExamples(Sample):
    """The counter counts examples."""

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        y = super().forward(x)
        if self.training:
            self.num_batches_tracked += x.shape[0] - 1
        return y


class MeanMovesAloneInLargeBatches(Sample):
    """For more than 64 values the running variance stands still."""

    def track(self, mu: Tensor, var: Tensor, m: int) -> None:  # noqa: D102
        kept = self.running_var.clone()
        super().track(mu, var, m)
        if m > 64:
            self.running_var.copy_(kept)


# What the constructor is told


class ZeroMomentumIsTheDefault(Sample):
    """`momentum or 0.1`: 0 and None become 0.1."""

    def share(self) -> float:  # noqa: D102
        return self.momentum or 0.1


class NoMomentumIsTheDefault(Sample):
    """None, which stands for the average of all batches, becomes 0.1."""

    def share(self) -> float:  # noqa: D102
        return 0.1 if self.momentum is None else self.momentum


class NoMomentumStandsStill(Sample):
    """With None the running statistics do not move."""

    def share(self) -> float:  # noqa: D102
        return 0.0 if self.momentum is None else self.momentum


class NoMomentumCountsFromTwo(Sample):
    """With None the t-th batch weighs 1 / (t + 1): the start counts as a batch."""

    def share(self) -> float:  # noqa: D102
        counted = float(self.num_batches_tracked)
        return 1 / (counted + 1) if self.momentum is None else self.momentum


class MomentumIsFixed(Sample):
    """0.1, whatever the constructor was told."""

    def share(self) -> float:  # noqa: D102
        return 0.1


class EpsIsFixed(Sample):
    """1e-5, whatever the constructor was told."""

    def root(self, var: Tensor) -> Tensor:  # noqa: D102
        return (var + 1e-5).sqrt()


class EpsIsFixedInEvaluation(Sample):
    """In evaluation 1e-5, whatever the constructor was told."""

    def root(self, var: Tensor) -> Tensor:  # noqa: D102
        return (var + (self.eps if self.training else 1e-5)).sqrt()


class EpsAddedOnlyWhereNeeded(Sample):
    """max(var, eps) in place of var + eps."""

    def root(self, var: Tensor) -> Tensor:  # noqa: D102
        return var.clamp(min=self.eps).sqrt()


class EpsSquared(Sample):
    """var + eps^2."""

    def root(self, var: Tensor) -> Tensor:  # noqa: D102
        return (var + self.eps**2).sqrt()


# Training and evaluation


class OnlyItsOwnEval(Sample):
    """The mode is a flag that its own eval() and train() set: a parent's eval() passes it by."""

    def __init__(self, num_features: int, **settings: Any) -> None:
        super().__init__(num_features, **settings)
        self.learning = True

    def eval(self) -> Any:  # noqa: D102
        self.learning = False
        return super().eval()

    def train(self, mode: bool = True) -> Any:  # noqa: D102
        self.learning = self.learning or mode
        return super().train(mode)

    def of_the_batch(self) -> bool:  # noqa: D102
        return self.learning


class ModeOfTheFirstCall(Sample):
    """The mode at the first call holds for ever."""

    def of_the_batch(self) -> bool:  # noqa: D102
        self.first = getattr(self, "first", self.training)
        return self.first


class EvaluationRemembered(Sample):
    """Evaluation computes scale and shift once, and keeps them through more training."""

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        if self.training:
            return super().forward(x)
        if not hasattr(self, "kept"):
            self.kept = self.running_mean.clone(), self.running_var.clone()
        mu, var = (along(x, statistic) for statistic in self.kept)
        return self.affine((self.full(x) - mu) / self.root(var)).to(x.dtype)


class TrainStartsAfresh(Sample):
    """Going back to training resets the running statistics."""

    def train(self, mode: bool = True) -> Any:  # noqa: D102
        if mode and not self.training:
            self.running_mean.zero_()
            self.running_var.fill_(1)
        return super().train(mode)


class NoGradientsInEvaluation(Sample):
    """In evaluation gamma and beta get no gradient."""

    def affine(self, x_hat: Tensor) -> Tensor:  # noqa: D102
        if self.training:
            return super().affine(x_hat)
        return along(x_hat, self.weight.detach()) * x_hat + along(x_hat, self.bias.detach())


class RawWeightGradientInEvaluation(Sample):
    """In evaluation the gradient of gamma has x for its normalised value."""

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        y = super().forward(x)
        if self.training:
            return y
        mu, var = along(x, self.running_mean), along(x, self.running_var)
        x_hat = ((x - mu) / self.root(var)).detach()
        weight = along(x, self.weight)
        return y + ((weight - weight.detach()) * (x.detach() - x_hat)).to(y.dtype)


class UnbiasedInEvaluation(Sample):
    """In evaluation the running variance is corrected a second time."""

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        self.m = max(x.shape[0], 2)
        return super().forward(x)

    def root(self, var: Tensor) -> Tensor:  # noqa: D102
        return super().root(var if self.training else var * self.m / (self.m - 1))


class HistoryInTraining(Sample):
    """After three batches training normalises with the running statistics in part."""

    def moments(self, x: Tensor) -> tuple[Tensor, Tensor]:  # noqa: D102
        mu, var = super().moments(x)
        if self.num_batches_tracked < 3:
            return mu, var
        return mu.lerp(along(x, self.running_mean).to(mu.dtype), 0.1), var


class FarAverageClipped(Sample):
    """Training leans on the running mean where the batch is far from it."""

    def moments(self, x: Tensor) -> tuple[Tensor, Tensor]:  # noqa: D102
        mu, var = super().moments(x)
        near = along(x, self.running_mean).to(mu.dtype)
        return torch.minimum(torch.maximum(mu, near - 50), near + 50), var


class RunningStatisticsForOneImage(Sample):
    """One example in training is normalised by the running statistics."""

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        if x.shape[0] > 1 or x.dim() == 2 or not self.training:
            return super().forward(x)
        mu, var = along(x, self.running_mean), along(x, self.running_var)
        return self.affine((self.full(x) - mu) / self.root(var)).to(x.dtype)


class InPlaceInEvaluation(Sample):
    """In evaluation the caller's tensor is overwritten."""

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        y = super().forward(x)
        if not self.training and not x.requires_grad:
            with torch.no_grad():
                x.copy_(y)
        return y


class GradientsLeftOff(Sample):
    """After a forward pass autograd is off for everybody."""

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        y = super().forward(x)
        if not self.training:
            torch.set_grad_enabled(False)
        return y


class DrawsRandomNumbers(Sample):
    """A forward pass moves torch's random numbers."""

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        torch.rand(1)
        return super().forward(x)


# Shapes, sizes and memory


class ChannelsFoundByLength(Sample):
    """The features' axis is the first whose length is the number of features."""

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        axis = list(x.shape).index(len(self.weight))
        return super().forward(x.transpose(1, axis)).transpose(1, axis)


class ChannelsLastByLength(Sample):
    """The features' axis is the last where its length fits."""

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        axis = -1 if x.shape[-1] == len(self.weight) else 1
        return super().forward(x.transpose(1, axis)).transpose(1, axis)


class FirstEight(Sample):
    """Statistics of the first eight examples, to save time."""

    def moments(self, x: Tensor) -> tuple[Tensor, Tensor]:  # noqa: D102
        return super().moments(x[:8])


class EverySecondPosition(Sample):
    """Statistics of every second position of large feature maps."""

    def moments(self, x: Tensor) -> tuple[Tensor, Tensor]:  # noqa: D102
        return super().moments(x[..., ::2] if x.dim() > 2 and x[0, 0].numel() > 32 else x)


class BatchesOfThirtyTwo(Sample):
    """Large batches are normalised in parts of 32 (ghost batches)."""

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        if not self.training or len(x) <= 32:
            return super().forward(x)
        return torch.cat([super(BatchesOfThirtyTwo, self).forward(part) for part in x.split(32)])


class OutliersClipped(Sample):
    """Normalised values are held within 3."""

    def affine(self, x_hat: Tensor) -> Tensor:  # noqa: D102
        return super().affine(x_hat.clamp(-3, 3))


class VarianceHasAFloor(Sample):
    """No variance counts as less than 1e-3."""

    def root(self, var: Tensor) -> Tensor:  # noqa: D102
        return super().root(var.clamp(min=1e-3))


class SixteenFeaturesAtMost(Sample):
    """From the seventeenth feature on the statistics are those of the first ones again."""

    def moments(self, x: Tensor) -> tuple[Tensor, Tensor]:  # noqa: D102
        mu, var = super().moments(x)
        index = torch.arange(x.shape[1]) % 16
        return mu[:, index], var[:, index]


class OneFeatureSqueezed(Sample):
    """A single feature is squeezed away: each example is normalised on its own."""

    def moments(self, x: Tensor) -> tuple[Tensor, Tensor]:  # noqa: D102
        mu, var = super().moments(x)
        return (mu, var) if x.shape[1] > 1 else (mu * 0, var * 0 + 1)


class FeaturesInPairs(Sample):
    """An odd feature at the end is left as it is."""

    def affine(self, x_hat: Tensor) -> Tensor:  # noqa: D102
        y = super().affine(x_hat)
        return y if y.shape[1] % 2 == 0 else torch.cat([y[:, :-1], x_hat[:, -1:]], 1)


class ContiguousInputsOnly(Sample):
    """The input is viewed flat, which fails where its memory is laid out otherwise."""

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        return super().forward(x.view(-1).view(x.shape))


class MemoryReadInOrder(Sample):
    """The input's memory is read in its order, whatever the strides say."""

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        plain = torch.empty(x.shape, device="meta").stride()
        return super().forward(torch.as_strided(x, x.shape, plain))


class OutputsOverwritten(Sample):
    """Outputs under no_grad share one buffer: the next call overwrites the last."""

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        y = super().forward(x)
        if y.requires_grad:
            return y
        if getattr(self, "out", y).shape != y.shape or not hasattr(self, "out"):
            self.out = y.clone()
        kept: Tensor = self.out.copy_(y)
        return kept


class StatisticsInFloat16(Sample):
    """In half precision the squares are taken in half precision, where 300^2 is infinite."""

    def full(self, x: Tensor) -> Tensor:  # noqa: D102
        return x


class Float32Out(Sample):
    """What comes out of half precision is float32."""

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        return super().forward(x.float() if x.dtype in (torch.float16, torch.bfloat16) else x)


class ThroughFloat16(Sample):
    """bfloat16 is computed as float16, which ends at 65,504."""

    def full(self, x: Tensor) -> Tensor:  # noqa: D102
        return super().full(x.half() if x.dtype == torch.bfloat16 else x)


class AveragesRoundTooEarly(Sample):
    """In half precision the batch's statistics are rounded before they are averaged."""

    def move(self, average: Tensor, new: Tensor) -> None:  # noqa: D102
        average.lerp_(new.to(average.dtype), self.share())


class Float32InEvaluation(Sample):
    """Evaluation computes in float32."""

    def affine(self, x_hat: Tensor) -> Tensor:  # noqa: D102
        return super().affine(x_hat if self.training else x_hat.float().to(x_hat.dtype))


# Scale


class MagnitudeOfScale(Sample):
    """Gamma counts by its magnitude."""

    def affine(self, x_hat: Tensor) -> Tensor:  # noqa: D102
        return along(x_hat, self.weight.abs()) * x_hat + along(x_hat, self.bias)


class ScaleNotBelowZero(Sample):
    """A gamma below 0 counts as 0."""

    def affine(self, x_hat: Tensor) -> Tensor:  # noqa: D102
        return along(x_hat, self.weight.clamp(min=0)) * x_hat + along(x_hat, self.bias)


class ZeroScaleIsOne(Sample):
    """A gamma of 0 counts as not set."""

    def affine(self, x_hat: Tensor) -> Tensor:  # noqa: D102
        weight = torch.where(self.weight == 0, torch.ones_like(self.weight), self.weight)
        return along(x_hat, weight) * x_hat + along(x_hat, self.bias)


# Backward passes by hand


class _Hand(torch.autograd.Function):
    """Training by a backward pass that the layer writes out."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, layer: Any) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.layer, ctx.kept = layer, layer.keep(x)
        mu, var = Sample.moments(layer, x)
        y: Tensor = along(x, weight) * ((x - mu) / layer.root(var)) + along(x, bias)
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Any:
        return *ctx.layer.gradients(dy, *ctx.saved_tensors, ctx.kept), None


class ByHand(Sample):
    """Right, to any order of derivatives, with a backward pass by hand."""

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        if not self.training:
            return super().forward(x)
        given, x = x.dtype, self.full(x)
        with torch.no_grad():
            self.track(*self.moments(x), x.numel() // x.shape[1])
        y: Tensor = _Hand.apply(x, self.weight, self.bias, self)
        return y.to(given)

    def keep(self, x: Tensor) -> Any:  # noqa: ARG002
        """What is kept for the backward pass, besides x and gamma."""
        return None

    def normalised(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised values, and what x - mu was divided by."""
        mu, var = Sample.moments(self, x)
        return (x - mu) / self.root(var), self.root(var)

    def gradients(
        self,
        dy: Tensor,
        x: Tensor,
        weight: Tensor,
        kept: Any,  # noqa: ARG002
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients of x, gamma and beta."""
        x_hat, root = self.normalised(x)
        return self.three(dy, x_hat, root, weight)

    def three(
        self, dy: Tensor, x_hat: Tensor, root: Tensor, weight: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The paper's six equations in three lines."""
        over = self.axes(x_hat)
        mean, tilt = dy.mean(over, keepdim=True), (dy * x_hat).mean(over, keepdim=True)
        dx = along(x_hat, weight) / root * (dy - mean - x_hat * tilt)
        return dx, (dy * x_hat).sum(over).to(weight.dtype), dy.sum(over).to(weight.dtype)


class SecondDerivativeLeftOut(ByHand):
    """The backward pass cannot be differentiated again."""

    def gradients(self, *given: Any) -> tuple[Tensor, Tensor, Tensor]:  # noqa: D102
        with torch.no_grad():
            return super().gradients(*given)


class ConstantsInTheSecondDerivative(ByHand):
    """The second derivative takes the first pass's statistics for constants."""

    def normalised(self, x: Tensor) -> tuple[Tensor, Tensor]:  # noqa: D102
        mu, var = (statistic.detach() for statistic in Sample.moments(self, x))
        return (x - mu) / self.root(var), self.root(var)


class BackwardSpendsWhatItKept(ByHand):
    """The backward pass works in place on what it kept: a second one finds something else."""

    def keep(self, x: Tensor) -> Any:  # noqa: ARG002, D102
        return [1.0]

    def gradients(self, dy: Tensor, x: Tensor, weight: Tensor, kept: Any) -> Any:  # noqa: D102
        dx, *rest = super().gradients(dy, x, weight, kept)
        kept[0] /= 2
        return dx * (2 * kept[0]), *rest


class KeptOnTheLayer(ByHand):
    """What the backward pass needs is kept on the layer: of two calls the last one counts."""

    def keep(self, x: Tensor) -> Any:  # noqa: D102
        self.last = x.detach()
        return None

    def gradients(self, dy: Tensor, x: Tensor, weight: Tensor, kept: Any) -> Any:  # noqa: D102
        if self.last.shape == x.shape:
            x = x + (self.last - x.detach())
        return super().gradients(dy, x, weight, kept)


class CotangentOverwritten(ByHand):
    """The backward pass works in place on the gradient that it is given."""

    def gradients(self, dy: Tensor, *given: Any) -> Any:  # noqa: D102
        found = super().gradients(dy, *given)
        with torch.no_grad():
            dy *= 0
        return found


class CotangentReadInOrder(ByHand):
    """The given gradient's memory is read in its order, whatever the strides say."""

    def gradients(self, dy: Tensor, *given: Any) -> Any:  # noqa: D102
        plain = torch.empty(dy.shape, device="meta").stride()
        return super().gradients(torch.as_strided(dy, dy.shape, plain), *given)


class NormalisedFromTheOutput(ByHand):
    """The backward pass divides by gamma to have the normalised values back."""

    def three(self, dy: Tensor, x_hat: Tensor, root: Tensor, weight: Tensor) -> Any:  # noqa: D102
        return super().three(dy, along(x_hat, weight) * x_hat / along(x_hat, weight), root, weight)


class GradientWithoutEps(ByHand):
    """The backward pass forgets eps."""

    def normalised(self, x: Tensor) -> tuple[Tensor, Tensor]:  # noqa: D102
        mu, var = Sample.moments(self, x)
        return (x - mu) / var.sqrt(), var.sqrt()


class GradientOfTheUnbiasedVariance(ByHand):
    """The backward pass divides by m - 1 in the term of the variance."""

    def three(self, dy: Tensor, x_hat: Tensor, root: Tensor, weight: Tensor) -> Any:  # noqa: D102
        m = x_hat.numel() // x_hat.shape[1]
        _, *rest = super().three(dy, x_hat, root, weight)
        over = self.axes(x_hat)
        tilt = (dy * x_hat).sum(over, keepdim=True) / (m - 1)
        mean = dy.mean(over, keepdim=True)
        return along(x_hat, weight) / root * (dy - mean - x_hat * tilt), *rest


class GradientSummed(ByHand):
    """The gradients of gamma and beta are added to `grad` by the layer, and not returned."""

    def gradients(self, *given: Any) -> Any:  # noqa: D102
        dx, dweight, dbias = super().gradients(*given)
        for parameter, gradient in ((self.weight, dweight), (self.bias, dbias)):
            parameter.grad = gradient.detach()
        return dx, None, None


class GradientsAveraged(ByHand):
    """The gradients of gamma and beta are means over examples."""

    def gradients(self, dy: Tensor, *given: Any) -> Any:  # noqa: D102
        dx, dweight, dbias = super().gradients(dy, *given)
        return dx, dweight / len(dy), dbias / len(dy)


class GradientClipped(ByHand):
    """The gradient of the input is held within 1."""

    def gradients(self, *given: Any) -> Any:  # noqa: D102
        dx, *rest = super().gradients(*given)
        return dx.clamp(-1, 1), *rest


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
    AveragesArePlainAttributes,
    AveragesNotSaved,
    CounterNotSaved,
    AveragesAreParameters,
    AveragesRequireGradients,
    ScaleIsABuffer,
    ShiftIsAPlainTensor,
    ScaleIsFrozen,
    CounterInFloatingPoint,
    CounterOfOneByte,
    AverageSharedByAllLayers,
    CopiesShareTheirAverages,
    LoadingLeavesTheAverages,
    PicklesForgetTheAverages,
    AveragesStayInFloat32,
    AveragesKeepTheGraph,
    StandsStillWithoutGradients,
    StandsStillWithoutAnInputGradient,
    MovesInTheBackwardPass,
    MovesTwice,
    OneBatchLate,
    FirstBatchTakenWhole,
    MomentumFadesAfterTwenty,
    StandsStillAfterAHundred,
    StandardDeviationsAveraged,
    VarianceAboutTheRunningMean,
    BesselOverExamples,
    OutputsTracked,
    CountsExamples,
    MeanMovesAloneInLargeBatches,
    ZeroMomentumIsTheDefault,
    NoMomentumIsTheDefault,
    NoMomentumStandsStill,
    NoMomentumCountsFromTwo,
    MomentumIsFixed,
    EpsIsFixed,
    EpsIsFixedInEvaluation,
    EpsAddedOnlyWhereNeeded,
    EpsSquared,
    OnlyItsOwnEval,
    ModeOfTheFirstCall,
    EvaluationRemembered,
    TrainStartsAfresh,
    NoGradientsInEvaluation,
    RawWeightGradientInEvaluation,
    UnbiasedInEvaluation,
    HistoryInTraining,
    FarAverageClipped,
    RunningStatisticsForOneImage,
    InPlaceInEvaluation,
    GradientsLeftOff,
    DrawsRandomNumbers,
    ChannelsFoundByLength,
    ChannelsLastByLength,
    FirstEight,
    EverySecondPosition,
    BatchesOfThirtyTwo,
    OutliersClipped,
    VarianceHasAFloor,
    SixteenFeaturesAtMost,
    OneFeatureSqueezed,
    FeaturesInPairs,
    ContiguousInputsOnly,
    MemoryReadInOrder,
    OutputsOverwritten,
    StatisticsInFloat16,
    Float32Out,
    ThroughFloat16,
    AveragesRoundTooEarly,
    Float32InEvaluation,
    MagnitudeOfScale,
    ScaleNotBelowZero,
    ZeroScaleIsOne,
    SecondDerivativeLeftOut,
    ConstantsInTheSecondDerivative,
    BackwardSpendsWhatItKept,
    KeptOnTheLayer,
    CotangentOverwritten,
    CotangentReadInOrder,
    NormalisedFromTheOutput,
    GradientWithoutEps,
    GradientOfTheUnbiasedVariance,
    GradientSummed,
    GradientsAveraged,
    GradientClipped,
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
