"""BN alone, forward and backward: how long it takes, and what it keeps in between."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from bnbook.bench import timing
from bnbook.evidence import timings
from bnbook.layers import norm
from bnbook.sweeps import planning

COMPILED = "ours, compiled"
LAYERS: dict[str, Callable[[int], nn.Module]] = {
    timings.OURS: norm.LeanBatchNorm,
    "written out": norm.BatchNorm,
    "torch's kernel": norm.FusedBatchNorm,
}
"""Contender -> layer; ours is the one with a backward pass of its own."""


@dataclass(frozen=True)
class Input:
    """What is normalised.

    Attributes
    ----------
    name : str
        Of the last part of the workloads' names.
    shape : tuple of int
        (N, C) or (N, C, H, W).
    dtype : torch.dtype
        Of the input; the layers are in float32.
    timed : bool
        Whether it is timed too.
    """

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype = torch.float32
    timed: bool = True

    @property
    def workload(self) -> str:
        """Name of the workload in which it is timed."""
        return f"backward-{self.name}"

    def tensors(self) -> tuple[Tensor, Tensor]:
        """Return an input and a cotangent, of a fixed seed."""
        generator = torch.Generator().manual_seed(0)
        x, dy = (torch.randn(self.shape, generator=generator).to(self.dtype) for _ in range(2))
        return x.requires_grad_(), dy


INPUTS = (
    Input("2d", (60, 1600)),
    Input("4d", (128, 16, 32, 32)),
    Input("4d-bfloat16", (128, 16, 32, 32), torch.bfloat16, timed=False),
)
"""A hidden layer of 16 of figure 1's networks; the first stage of ResNet-20, in two precisions."""


class Pass:
    """A layer's forward and backward pass over an input, again and again.

    The layer is in training mode.
    """

    def __init__(self, layer: nn.Module, given: Input) -> None:
        self.layer, (self.x, self.dy) = layer, given.tensors()
        self.wanted = [self.x, *layer.parameters()]

    def __call__(self) -> tuple[Tensor, ...]:
        """Return the gradients of input, weight and bias."""
        return torch.autograd.grad(self.layer(self.x), self.wanted, self.dy)

    def seconds(self, times: int) -> float:
        """Time some in a row."""
        began = time.perf_counter()
        for _ in range(times):
            self()
        return time.perf_counter() - began

    def kept(self) -> tuple[int, int]:
        """Count the bytes of distinct storages kept for the backward pass."""
        sizes: dict[int, int] = {}

        def pack(tensor: Tensor) -> Tensor:
            sizes[_address(tensor)] = tensor.untyped_storage().nbytes()
            return tensor

        with saved_tensors_hooks(pack, lambda tensor: tensor):
            y = self.layer(self.x)
        for parameter in self.layer.parameters():
            sizes.pop(_address(parameter), None)
        del y
        whole = sum(sizes.values())
        return whole - sizes.get(_address(self.x), 0), whole


def _address(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def passes(given: Input) -> dict[str, Pass]:
    """Prepare every contender that can run here; where nothing is timed, nothing is compiled."""
    features = given.shape[1]
    found = {name: Pass(make(features), given) for name, make in LAYERS.items()}
    if given.timed and planning.has_compiler():
        layer: Any = torch.compile(norm.LeanBatchNorm(features), fullgraph=True)
        found[COMPILED] = Pass(layer, given)
    return found


def rows(repetitions: int, steps: Mapping[str, int]) -> list[dict[str, Any]]:
    """Measure all inputs: ``backward-2d`` and so on are timed, ``kept-...`` is memory.

    ``kept-2d`` is what is kept beside the input, ``kept-2d-whole`` what is kept in all. A contender
    that cannot run has a row with a note.
    """
    found: list[dict[str, Any]] = []
    for given in INPUTS:
        contenders = passes(given)
        if given.timed:
            found += _timed(given, contenders, repetitions, steps[given.workload])
        found += _kept(given, contenders)
    return found


def _timed(
    given: Input, contenders: dict[str, Pass], repetitions: int, steps: int
) -> Iterator[dict[str, Any]]:
    """Take turns, each round beginning with the next contender, after one that does not count."""
    workload, names = given.workload, list(contenders)
    for repetition in range(-1, repetitions):
        turn = repetition % len(names)
        for name in names[turn:] + names[:turn]:
            taken = contenders[name].seconds(steps)
            if repetition >= 0:
                yield timing.row(workload, name, 1, steps, repetition, taken)
    if COMPILED not in contenders:
        yield timings.empty(workload, COMPILED, 1, "not run: no C++ compiler")


def _kept(given: Input, contenders: dict[str, Pass]) -> Iterator[dict[str, Any]]:
    for name, one in contenders.items():
        for workload, size in zip(
            (f"kept-{given.name}", f"kept-{given.name}-whole"), one.kept(), strict=True
        ):
            row = timings.empty(workload, name, 1, "") | {"mebibytes": size / 2**20}
            yield row | {"steps": 1, "seconds": math.nan}
