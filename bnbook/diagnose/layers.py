"""What counts as a normalisation layer, which state it has, and how all of it is put back."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedBuffer

from bnbook.errors import BnbookError
from bnbook.layers.precise import Statistics, batch_norms

BATCH, FIXED, OTHER = "batch", "fixed", "other"
"""Normalises with the batch in training; is a fixed affine map; does not look at the batch."""


@dataclass(frozen=True)
class Layer:
    """A normalisation layer of a network.

    Attributes
    ----------
    name : str
        In the network.
    module : nn.Module
    kind : {"batch", "fixed", "other"}
    """

    name: str
    module: Any
    kind: str

    @property
    def features(self) -> int | None:
        """Number of features, if the layer's tensors tell it."""
        module = self.module
        for value in (module.running_mean, getattr(module, "weight", None)):
            if value is not None:
                return len(value)
        return getattr(module, "num_features", None)

    @property
    def tracked(self) -> bool:
        """Whether the layer keeps running statistics."""
        return self.module.running_mean is not None and self.module.running_var is not None

    @property
    def momentum(self) -> float | None:
        """Weight of the new batch, or None for the average of all."""
        return getattr(self.module, "momentum", 0.1)

    @property
    def eps(self) -> float:
        """What is added to the variance."""
        return float(getattr(self.module, "eps", 1e-5))

    @property
    def batches_seen(self) -> int | None:
        """Training batches counted by the layer, if it counts them."""
        count = self.module._buffers.get("num_batches_tracked")
        return None if count is None else int(count)

    @property
    def trained(self) -> list[bool]:
        """Whether gamma and beta, those that there are, are trained."""
        found = (self.module._parameters.get(name) for name in ("weight", "bias"))
        return [parameter.requires_grad for parameter in found if parameter is not None]


def find(model: nn.Module) -> dict[str, Layer]:
    """Find a network's normalisation layers, by their names, in the order of its modules.

    Batch normalisation is what has torch's names of running statistics: torch's own layers and
    SyncBatchNorm, this book's, and subclasses that do more, such as an activation. One whose gamma
    is a buffer is fixed. Group, layer and instance normalisation are seen and passed by.
    """
    batch = batch_norms(model)
    found = {}
    for name, module in model.named_modules():
        if name in batch:
            lazy = [b for b in (module.running_mean, module.running_var) if _is_lazy(b)]
            if lazy:
                raise BnbookError(
                    f"every layer must know its size, found {name} lazy and not yet used; nothing"
                    " was changed. Send one batch through the model first."
                )
            fixed = "weight" in module._buffers and module._buffers["weight"] is not None
            found[name] = Layer(name, module, FIXED if fixed else BATCH)
        elif "Norm" in type(module).__name__ and not any(module.children()):
            found[name] = Layer(name, module, OTHER)
    return found


def _is_lazy(buffer: Tensor | None) -> bool:
    return isinstance(buffer, UninitializedBuffer)


def training_flags(model: nn.Module) -> dict[nn.Module, bool]:
    """Which modules are in training while the network trains.

    A network in training says so itself; one in evaluation is asked by calling its ``train()``,
    which some networks override to keep layers frozen.
    """
    now = {module: module.training for module in model.modules()}
    if model.training:
        return now
    try:
        model.train()
        return {module: module.training for module in model.modules()}
    finally:
        set_flags(now)


def evaluation_flags(model: nn.Module) -> dict[nn.Module, bool]:
    """Which modules are in training after the network's ``eval()``; none, unless it overrides."""
    now = {module: module.training for module in model.modules()}
    try:
        model.eval()
        return {module: module.training for module in model.modules()}
    finally:
        set_flags(now)


def set_flags(flags: Mapping[nn.Module, bool]) -> None:
    """Put every module into training or evaluation."""
    for module, training in flags.items():
        module.training = training


@contextmanager
def kept(model: nn.Module) -> Iterator[None]:
    """Put back all that a forward pass may change: buffers, modes, gradients, random states.

    A buffer comes back as the same tensor with the same bits, also where a layer replaced it.
    """
    flags = {module: module.training for module in model.modules()}
    buffers = [(m, n, b, None if b is None else b.clone()) for m in flags
               for n, b in m._buffers.items()]  # fmt: skip
    gradients = [(p, p.grad) for p in model.parameters()]
    with same_random_states():
        try:
            yield
        finally:
            with torch.no_grad():
                for module, name, buffer, value in buffers:
                    module._buffers[name] = buffer
                    if buffer is not None and value is not None:
                        buffer.copy_(value)
            for parameter, gradient in gradients:
                parameter.grad = gradient
            set_flags(flags)


@contextmanager
def same_random_states(*generators: torch.Generator) -> Iterator[None]:
    """Put back the states of torch's, NumPy's and Python's generators, and of some more."""
    python, arrays = random.getstate(), np.random.get_state()  # noqa: NPY002
    own = [(generator, generator.get_state()) for generator in generators]
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(arrays)  # noqa: NPY002
            for generator, state in own:
                generator.set_state(state)


@contextmanager
def statistics_set(layers: Mapping[str, Layer], values: Mapping[str, Statistics]) -> Iterator[None]:
    """Put other running statistics in place of some layers' own; back on leaving."""
    before = {n: Statistics(layers[n].module.running_mean.clone(),
                            layers[n].module.running_var.clone()) for n in values}  # fmt: skip
    try:
        _set(layers, values)
        yield
    finally:
        _set(layers, before)


@torch.no_grad()
def _set(layers: Mapping[str, Layer], values: Mapping[str, Statistics]) -> None:
    for name, (mean, var) in values.items():
        layers[name].module.running_mean.copy_(mean)
        layers[name].module.running_var.copy_(var)
