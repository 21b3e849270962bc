"""What a check looks at: a new layer, an input that it takes, and what the formulas expect."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from bnbook import formulas

FEATURES = 4
SIZES = ((7, FEATURES), (5, FEATURES, 3), (3, FEATURES, 2, 5), (2, FEATURES, 3, 1, 5))
"""Inputs that are tried; no two axes of one are equal, so that none is taken for another."""

Array = npt.NDArray[np.float64]
Make = Callable[[int], nn.Module]


@dataclass(frozen=True)
class Case:
    """A new layer in training mode and in float64, with an input that it takes.

    Attributes
    ----------
    make : callable
        Makes another such layer.
    layer : nn.Module
        With random weight and bias.
    x, dy : Tensor, (N, C, ...)
        Features of unequal means and scales, and a random cotangent.
    """

    make: Make
    layer: Any
    x: Tensor
    dy: Tensor

    def __call__(self, x: Tensor | None = None) -> Tensor:
        """Output of the layer; it is given a copy, whatever it does to its input."""
        y: Tensor = self.layer((self.x if x is None else x).clone())
        return y

    @property
    def affine(self) -> tuple[Array, Array, float]:
        """Scale, shift and eps, for the formulas."""
        eps = float(getattr(self.layer, "eps", 1e-5))
        return numpy(self.layer.weight), numpy(self.layer.bias), eps

    def weigh(self, step: int) -> float:
        """Weight of the batch of that step, from 1, in the running statistics."""
        momentum = getattr(self.layer, "momentum", 0.1)
        return 1 / step if momentum is None else float(momentum)

    def trained(self, x: Tensor) -> tuple[Array, formulas.Cache]:
        """Output in training by the formulas, as rows, and its cache."""
        return formulas.batch_norm_forward(rows(x), *self.affine)

    def evaluated(self) -> Array:
        """Output in evaluation by the formulas, as rows."""
        gamma, beta, eps = self.affine
        mean, var = numpy(self.layer.running_mean), numpy(self.layer.running_var)
        return formulas.inference(rows(self.x), gamma, beta, mean, var, eps)

    def set_statistics(self) -> None:
        """Give the layer running statistics that are not those of the input, and evaluate."""
        with torch.no_grad():
            self.layer.running_mean.copy_(torch.tensor([-1.0, 0.0, 2.0, 5.0]))
            self.layer.running_var.copy_(torch.tensor([0.5, 2.0, 3.0, 9.0]))
        self.layer.eval()

    def gradients(self, dy: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of the layer's input, weight and bias; None where none arrives."""
        leaf = self.x.clone().requires_grad_()
        wanted = [leaf, self.layer.weight, self.layer.bias]
        return torch.autograd.grad((self.layer(leaf) * dy).sum(), wanted, allow_unused=True)

    def differ(self, found: Tensor | None, expected: Array, tolerance: float = 1e-6) -> str | None:
        """Say where a layer's values and the expected ones differ most, if they do.

        Differences count relative to the expected value where that is above 1.
        """
        taken = f"; input {tuple(self.x.shape)}"
        if found is None:
            return "expected numbers, found none" + taken
        values = rows(found) if found.dim() > 1 else numpy(found)
        if values.shape != expected.shape:
            return f"expected shape {expected.shape}, found {values.shape}{taken}"
        wrong = np.abs(values - expected) / np.maximum(1, np.abs(expected))
        wrong = np.where(np.isfinite(wrong), wrong, np.inf)
        if not (wrong > tolerance).any():
            return None
        k = np.unravel_index(int(wrong.argmax()), wrong.shape)
        return f"expected {expected[k]:.6g}, found {values[k]:.6g} in feature {k[-1]}{taken}"


def accepted(make: Make) -> list[tuple[int, ...]]:
    """Return the sizes of `SIZES` that a layer takes in training.

    Parameters
    ----------
    make : callable
        num_features -> layer.

    Returns
    -------
    list of tuple
        Not empty: a layer that takes none raises its own error for the first.
    """
    taken: list[tuple[int, ...]] = []
    errors: list[Exception] = []
    for size in SIZES:
        try:
            x = torch.arange(math.prod(size), dtype=torch.float64).view(size)
            make(FEATURES).double().train()(x)
            taken.append(size)
        except Exception as error:
            errors.append(error)
    if not taken:
        raise errors[0]
    return taken


def cases(make: Make, seed: int = 0, sizes: Sequence[tuple[int, ...]] = ()) -> Iterator[Case]:
    """Make a new case for each input that a layer takes; the same numbers for the same seed.

    Parameters
    ----------
    make : callable
        num_features -> layer.
    seed : int
        For other numbers.
    sizes : sequence of tuple
        Those that the layer takes, if that is known.
    """
    for size in sizes or accepted(make):
        generator = torch.Generator().manual_seed(1000 * seed + sum(size))
        x, dy = torch.randn(2, *size, dtype=torch.float64, generator=generator)
        scales = torch.arange(1, FEATURES + 1, dtype=torch.float64)
        x = x * scales.view(-1, *(1,) * (len(size) - 2)) + 1
        layer: Any = make(FEATURES).double().train()
        with torch.no_grad():
            for parameter in (layer.weight, layer.bias):
                parameter.copy_(torch.randn(FEATURES, generator=generator) + 2)
        yield Case(make, layer, x, dy)


def numpy(values: Tensor) -> Array:
    """Float64 of NumPy."""
    return values.detach().double().cpu().numpy()


def rows(x: Tensor) -> Array:
    """(N, C, ...) -> (values of a feature, C)."""
    return numpy(x.movedim(1, -1).reshape(-1, x.shape[1]))


def first_line(error: BaseException) -> str:
    """Name an error and the first line of its text."""
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}".rstrip(": ")
