"""What a check looks at: a new layer, an input that it takes, and what the formulas expect."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from operator import attrgetter
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from bnbook import formulas
from bnbook.errors import BnbookError

FEATURES = 4
SIZES = ((7, FEATURES), (5, FEATURES, 3), (3, FEATURES, 2, 5), (2, FEATURES, 3, 1, 5))
"""Inputs that are tried; no two axes of one are equal, so that none is taken for another."""
TENSORS = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
SETTINGS = ("eps", "momentum")
COUNTER = "num_batches_tracked"
OTHERS = {
    "weight": ("gamma", "scale"),
    "bias": ("beta", "shift", "offset"),
    "running_mean": ("moving_mean", "mean", "moving_avg_mean"),
    "running_var": ("moving_var", "moving_variance", "var"),
    COUNTER: ("num_batches", "count"),
    "eps": ("epsilon", "variance_epsilon"),
    "momentum": (),
}
"""What is looked at, by torch's names, and under which others it is met."""

Array = npt.NDArray[np.float64]
Make = Callable[..., nn.Module]


@dataclass(frozen=True)
class Subject:
    """The layers that are looked at.

    Attributes
    ----------
    make : callable
        num_features -> layer.
    names : mapping
        A layer's own name of each of `TENSORS` and `SETTINGS` that it calls otherwise than torch;
        an empty one for a counter that it does not have.
    seed : int
        For other numbers.
    sizes : tuple
        Of `SIZES`, those that the layer takes.
    """

    make: Make
    names: Mapping[str, str] = field(default_factory=dict)
    seed: int = 0
    sizes: tuple[tuple[int, ...], ...] = ()

    def name(self, role: str) -> str:
        """The layer's own name of one of `TENSORS` or `SETTINGS`."""
        return self.names.get(role, role)

    def cases(
        self, sizes: tuple[tuple[int, ...], ...] = (), features: int = FEATURES, **settings: Any
    ) -> Iterator[Case]:
        """Make a new case for each size; the same numbers for the same seed.

        Parameters
        ----------
        sizes : tuple
            All that the layer takes if left out.
        features : int
            C.
        **settings
            Of the constructor, by torch's names.
        """
        for size in sizes or self.sizes or tuple(accepted(self.make)):
            generator = torch.Generator().manual_seed(1000 * self.seed + sum(size))
            x, dy = torch.randn(2, *size, dtype=torch.float64, generator=generator)
            scales = torch.arange(features, dtype=torch.float64) % FEATURES + 1
            x = x * scales.view(-1, *(1,) * (len(size) - 2)) + 1
            layer = self.layer(features, **settings).double().train()
            case = Case(self, layer, x, dy)
            for role in ("weight", "bias"):
                case.put(role, torch.randn(features, generator=generator) + 2)
            yield case

    def case(self, axes: int = 5, **changes: Any) -> Case:
        """Make one case, of the last size that the layer takes with no more axes than that."""
        sizes = self.sizes or tuple(accepted(self.make))
        fit = [size for size in sizes if len(size) <= axes] or sizes
        return next(self.cases((fit[-1],), **changes))

    def layer(self, features: int = FEATURES, **settings: Any) -> Any:
        """Make a new layer, its settings by torch's names."""
        return self.make(features, **{self.name(role): value for role, value in settings.items()})


@dataclass(frozen=True)
class Case:
    """A new layer in training mode and in float64, with an input that it takes.

    Attributes
    ----------
    subject : Subject
        Makes another such layer.
    layer : nn.Module
        With random weight and bias.
    x, dy : Tensor, (N, C, ...)
        Features of unequal means and scales, and a random cotangent.
    """

    subject: Subject
    layer: Any
    x: Tensor
    dy: Tensor

    def __call__(self, x: Tensor | None = None) -> Tensor:
        """Output of the layer; it is given a copy, whatever it does to its input."""
        y: Tensor = self.layer((self.x if x is None else x).clone())
        return y

    def tensor(self, role: str) -> Any:
        """One of `TENSORS` of the layer, as the layer has it."""
        return attrgetter(self.subject.name(role))(self.layer)

    def vector(self, role: str) -> Array:
        """The same as (C,), of NumPy."""
        return numpy(self.tensor(role)).reshape(-1)

    @torch.no_grad()
    def put(self, role: str, values: Any) -> None:
        """Give the layer values of one of `TENSORS`, in whatever shape it has it."""
        tensor = self.tensor(role)
        tensor.copy_(torch.as_tensor(values).to(tensor).view_as(tensor))

    @property
    def counts(self) -> bool:
        """Whether the layer counts batches."""
        return bool(self.subject.name(COUNTER))

    @property
    def eps(self) -> float:
        """The layer's own, or torch's."""
        return float(getattr(self.layer, self.subject.name("eps"), 1e-5))

    @property
    def affine(self) -> tuple[Array, Array, float]:
        """Scale, shift and eps, for the formulas."""
        return self.vector("weight"), self.vector("bias"), self.eps

    def weigh(self, step: int) -> float:
        """Weight of the batch of that step, from 1, in the running statistics."""
        momentum = getattr(self.layer, self.subject.name("momentum"), 0.1)
        return 1 / step if momentum is None else float(momentum)

    def trained(self, x: Tensor | None = None) -> tuple[Array, formulas.Cache]:
        """Output in training by the formulas, as rows, and its cache."""
        return formulas.batch_norm_forward(rows(self.x if x is None else x), *self.affine)

    def evaluated(self, x: Tensor | None = None) -> Array:
        """Output in evaluation by the formulas, as rows."""
        gamma, beta, eps = self.affine
        x = self.x if x is None else x
        statistics = self.vector("running_mean"), self.vector("running_var")
        return formulas.inference(rows(x), gamma, beta, *statistics, eps)

    def set_statistics(self) -> None:
        """Give the layer running statistics that are not those of the input, and evaluate."""
        self.put("running_mean", [-1.0, 0.0, 2.0, 5.0])
        self.put("running_var", [0.5, 2.0, 3.0, 9.0])
        self.layer.eval()

    def gradients(self, dy: Tensor | None = None) -> tuple[Tensor | None, ...]:
        """Gradients of the layer's input, weight and bias; None where none arrives."""
        leaf = self.x.clone().requires_grad_()  # keeps its layout
        wanted = [leaf, self.tensor("weight"), self.tensor("bias")]
        y, dy = self.layer(leaf), self.dy if dy is None else dy
        return torch.autograd.grad(y, wanted, dy, allow_unused=True)

    def backward(self, x: Tensor | None = None, dy: Tensor | None = None) -> tuple[Array, ...]:
        """Gradients in training of input, weight and bias by the formulas."""
        cache = self.trained(x)[1]
        return formulas.batch_norm_backward(rows(self.dy if dy is None else dy), cache)

    def differ(self, found: Tensor | None, expected: Array, tolerance: float = 1e-6) -> str | None:
        """Say where a layer's values and the expected ones differ most, if they do.

        Differences count relative to the expected value where that is above 1.
        """
        taken = f"; input {tuple(self.x.shape)}"
        if found is None:
            return "expected numbers, found none" + taken
        vector = expected.ndim == 1
        values = numpy(found).reshape(-1) if vector else rows(found)
        if values.shape != expected.shape:
            return f"expected shape {expected.shape}, found {values.shape}{taken}"
        wrong = np.abs(values - expected) / np.maximum(1, np.abs(expected))
        wrong = np.where(np.isfinite(wrong), wrong, np.inf)
        if not (wrong > tolerance).any():
            return None
        k = np.unravel_index(int(wrong.argmax()), wrong.shape)
        return f"expected {expected[k]:.6g}, found {values[k]:.6g} in feature {k[-1]}{taken}"

    def differ_in_three(
        self, found: tuple[Tensor | None, ...], expected: tuple[Array, ...], tolerance: float = 1e-6
    ) -> str | None:
        """The same of the gradients of input, weight and bias."""
        for what, one, right in zip(("input", "weight", "bias"), found, expected, strict=True):
            if wrong := self.differ(one, right, tolerance):
                return f"gradient of the {what}: {wrong}"
        return None

    def with_layer(self, layer: Any) -> Case:
        """The same case of another layer."""
        return replace(self, layer=layer)


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
            if make(FEATURES).double().train()(x).shape == x.shape:
                taken.append(size)
            else:
                errors.append(ValueError(f"the output of an input {size} has another shape"))
        except Exception as error:
            errors.append(error)
    if not taken:
        raise errors[0]
    return taken


def subject(make: Make, names: Mapping[str, str] | None = None, seed: int = 0) -> Subject:
    """Look whether a layer can be looked at, and how.

    Parameters
    ----------
    make : callable
        num_features -> layer.
    names : mapping, optional
        See `Subject`.
    seed : int
        For other numbers.

    Raises
    ------
    BnbookError
        When a name is unknown, when the layer lacks one of `TENSORS` or has it in another size or
        parametrised, or takes none of `SIZES`.
    """
    names = dict(names or {})
    if unknown := sorted(set(names) - set(TENSORS) - set(SETTINGS)):
        raise BnbookError(
            f"names must be among {', '.join((*TENSORS, *SETTINGS))}, found {', '.join(unknown)}."
        )
    layer = make(FEATURES)
    lacking = [role for role in TENSORS if _lacks(layer, names.get(role, role), role, names)]
    lacking += [role for role in SETTINGS if role not in names and _hidden(layer, role)]
    if lacking:
        raise BnbookError(_ask(layer, lacking))
    if torch.nn.utils.parametrize.is_parametrized(layer):
        raise BnbookError(
            "the layer must have its weight and bias as they are, found them parametrised; give the"
            " layer without torch.nn.utils.parametrize."
        )
    try:
        sizes = accepted(make)
    except Exception as error:
        raise BnbookError(
            "the layer must take one or more of the inputs (N, C), (N, C, L), (N, C, H, W) and"
            f" (N, C, D, H, W), features second, found none that it takes: {first_line(error)}. One"
            " that has its features last can be wrapped in a layer that moves them."
        ) from error
    return Subject(make, names, seed, tuple(sizes))


def _lacks(layer: nn.Module, own: str, role: str, names: Mapping[str, str]) -> bool:
    if role == COUNTER and names.get(role) == "":
        return False
    try:
        found = attrgetter(own)(layer)
    except (AttributeError, TypeError):
        return True
    return not isinstance(found, Tensor) or found.numel() != (1 if role == COUNTER else FEATURES)


def _hidden(layer: nn.Module, role: str) -> bool:
    """Whether a layer has a setting under another name only."""
    return not hasattr(layer, role) and any(hasattr(layer, name) for name in OTHERS[role])


def _ask(layer: nn.Module, lacking: list[str]) -> str:
    has = {name: tuple(t.shape) for name, t in (*layer.named_parameters(), *layer.named_buffers())}
    some = ", ".join(f"{name} {shape}" for name, shape in has.items()) or "none"
    guesses = [next((o for o in OTHERS[role] if _found(layer, o)), "...") for role in lacking]
    counter = " An empty name says that batches are not counted." if COUNTER in lacking else ""
    pairs = ",".join(
        f"{role}={'' if role == COUNTER and guess == '...' else guess}"
        for role, guess in zip(lacking, guesses, strict=True)
    )
    return (
        f"the layer, made for {FEATURES} features, must have {', '.join(lacking)}, found of a"
        f" {type(layer).__name__}: {some}. If it calls them otherwise, say so: --names"
        f" {pairs}.{counter}"
    )


def _found(layer: nn.Module, name: str) -> bool:
    return hasattr(layer, name) and not callable(getattr(layer, name))


def numpy(values: Tensor) -> Array:
    """Float64 of NumPy, a copy."""
    return values.detach().double().cpu().numpy().copy()


def rows(x: Tensor) -> Array:
    """(N, C, ...) -> (values of a feature, C)."""
    return numpy(x.movedim(1, -1).reshape(-1, x.shape[1]))


def first_line(error: BaseException) -> str:
    """Name an error and the first line of its text."""
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}".rstrip(": ")
