"""The floor: a workload's matrix products at the best rate that this machine reached in the run.

A network's step needs other work too, so that no implementation with the same products in the same
precision comes below the floor.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch

from bnbook.bench.workloads import MLP, ResNet
from bnbook.errors import BnbookError

SHAPES = ((1024, 1024, 1024), (2048, 2048, 2048), (60, 784, 1600), (1600, 60, 784))
"""The products measured, M x K times K x N: two squares, and those of 16 members' first layer."""
_LEAST = 2e9  # operations in one measurement, at least


def mlp_flop(batch: int, num_inputs: int, hidden: Sequence[int], num_classes: int) -> int:
    """Operations of the matrix products of one training step of one member.

    A linear layer from K to N features takes 2BKN, one multiplication and one addition each,
    forward, as many for the gradient of its weights and, except in the first layer, as many for
    the gradient of its input.
    """
    layers = list(pairwise((num_inputs, *hidden, num_classes)))
    return sum(2 * batch * k * n * (2 if at == 0 else 3) for at, (k, n) in enumerate(layers))


class Convolution(NamedTuple):
    """A 3x3 convolution: channels in and out, positions in an image before and after it."""

    inputs: int
    outputs: int
    positions_in: int
    positions: int


def convolutions(blocks: int, side: int = 32) -> list[Convolution]:
    """List a CIFAR ResNet's convolutions, for images of so many rows and columns."""
    found = [Convolution(3, 16, side**2, side**2)]
    before, size_before = 16, side
    for stage, width in enumerate((16, 32, 64)):
        size = -(-side // 2**stage)
        for _ in range(blocks):
            found.append(Convolution(before, width, size_before**2, size**2))
            found.append(Convolution(width, width, size**2, size**2))
            before, size_before = width, size
    return found


def resnet_flop(batch: int, blocks: int, side: int = 32) -> int:
    """Operations of the products of one training step of a residual network of 6n+2 layers.

    A convolution takes 2 x 9 x channels in x channels out for each position of each image, as a
    matrix product would, counted as in `mlp_flop`.
    """
    each = convolutions(blocks, side)
    forward = [2 * batch * 9 * c.inputs * c.outputs * c.positions for c in each]
    forward.append(2 * batch * 64 * 10)
    return 3 * sum(forward) - forward[0]


def flop(workload: object) -> int:
    """Operations of the matrix products of one step of one member of a workload."""
    if isinstance(workload, MLP):
        sizes = workload.num_inputs, workload.hidden, workload.num_classes
        return mlp_flop(workload.batch, *sizes)
    if isinstance(workload, ResNet):
        return resnet_flop(workload.batch, workload.blocks, workload.side)
    raise BnbookError(f"expected a workload whose operations can be counted, found {workload!r}.")


class Product:
    """A matrix product to be timed.

    `shape` is (M, K, N), and `device` is ``cpu`` or ``cuda``.
    """

    def __init__(self, shape: tuple[int, int, int], device: str = "cpu") -> None:
        m, k, n = shape
        self.name = f"{m} x {k} x {n}"
        self.times = max(1, round(_LEAST / (2 * m * k * n)))
        self.gflop = 2e-9 * m * k * n
        generator = torch.Generator().manual_seed(0)
        self.a = torch.randn(m, k, generator=generator).to(device)
        self.b = torch.randn(k, n, generator=generator).to(device)
        self.out = torch.mm(self.a, self.b)

    def seconds(self) -> float:
        """Measure one product, on a CPU: the mean over some in a row."""
        began = time.perf_counter()
        for _ in range(self.times):
            torch.mm(self.a, self.b, out=self.out)
        return (time.perf_counter() - began) / self.times
