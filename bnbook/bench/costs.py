"""What a deep network costs: time and memory of a step, as depth, width, side and members grow.

Each network trains in a fresh process on one thread, so that no memory is left from another.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from bnbook.bench import deep, memory
from bnbook.bench.networks import our_resnet
from bnbook.bench.timing import row
from bnbook.evidence import timings
from bnbook.training.session import Plan

STEPS = 4


@dataclass(frozen=True)
class Sized(deep.Deep):
    """A deep network of any width; several members train as one, without the kernels.

    Attributes
    ----------
    width : int
        Channels of the first stage, doubled in each of the other two.
    """

    width: int = 16

    def plan(self, device: str) -> Plan:
        """Return the kernels' plan for a network alone, and for several that of plain torch."""
        alone = super().plan(device)
        return alone if self.members == 1 else replace(alone, members=self.members, compiled=False)

    def ours(self, members: int, seed: int) -> nn.Module:
        """Return our residual networks."""
        return our_resnet(self.blocks, members, seed, self.normed, self.width)


BASE = Sized("resnet20-16", 3, side=16)
"""20 layers of 16, 32 and 64 channels, 16 x 16 images, 128 of them in a minibatch, with BN."""


def networks() -> Iterator[tuple[str, float, Sized]]:
    """Yield (curve, setting, network): what is varied, its value, and what is trained."""
    for blocks in (1, 3, 9, 18):
        yield "cost depth", 6 * blocks + 2, replace(BASE, blocks=blocks)
    for width in (16, 32, 64):
        yield "cost width", width, replace(BASE, width=width)
    for side in (8, 16, 32):
        yield "cost side", side, replace(BASE, side=side)
    for batch in (32, 128, 512):
        yield "cost minibatch", batch, replace(BASE, batch=batch)
    for members in (1, 2, 4, 8):
        yield "cost members", members, replace(BASE, members=members)


def rows() -> list[dict[str, Any]]:
    """Measure each network once, also that which several curves have.

    Memory is the peak above what the process held before.
    """
    found, known = [], dict[Sized, tuple[float, float]]()
    for curve, setting, network in networks():
        if network not in known:
            known[network] = memory.measured(network, STEPS, threads=1)
        mebibytes, seconds = known[network]
        about = row(curve, timings.OURS, network.members, STEPS, 0, seconds)
        found.append(about | {"setting": float(setting), "mebibytes": mebibytes})
    return found
