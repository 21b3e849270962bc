"""Deep residual networks: what is trained, by whom, and how fast it could be at most.

One network trains on one thread, as `bnbook queue` trains one in each core's process; the map of
rates takes all cores. Everybody else gets the flags that a reader can set, one by one and all.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.nn import functional as F  # noqa: N812

from bnbook.bench import contenders, floor, workloads
from bnbook.bench.contenders import Contender
from bnbook.bench.timing import row
from bnbook.sweeps import planning
from bnbook.training.session import Plan

EAGER = Contender(
    "loop, channels last, bfloat16",
    contenders.torch_loop(in_memory=True, channels_last=True, bfloat16=True),
)
EVERYTHING = Contender(
    "loop, channels last, bfloat16, compiled",
    contenders.torch_loop(in_memory=True, channels_last=True, bfloat16=True, compiled=True),
    compiles=True,
)
QUICK_CONTENDERS = (contenders.OURS, contenders.TUTORIAL, EAGER, EVERYTHING)
CONTENDERS = (
    contenders.OURS, contenders.TUTORIAL, contenders.INDEXED, contenders.CHANNELS_LAST,
    contenders.BFLOAT16, contenders.COMPILED, EAGER, EVERYTHING,
)  # fmt: skip
EAGER_CONTENDERS = (
    contenders.OURS, contenders.INDEXED, contenders.CHANNELS_LAST, contenders.BFLOAT16, EAGER,
)  # fmt: skip
"""Those that need no compiler; ours then goes without its kernels."""
FLOORS = {"floor, bfloat16": torch.bfloat16, "floor, float32": torch.float32}
_COPIED = 2**24  # numbers of float32 in the copy that tells how fast memory is


@dataclass(frozen=True)
class Deep(workloads.ResNet):
    """A deep residual network in bfloat16, by SGD with momentum.

    Attributes
    ----------
    one_thread : bool
        Whether everybody trains on one thread.
    compiles : bool
        Whether anybody may use a C++ compiler.
    """

    momentum: float = 0.9
    one_thread: bool = True
    compiles: bool = True

    def plan(self, device: str) -> Plan:
        """Return the plan of single networks: by the kernels of `bnbook.training.deep`."""
        able = device == "cuda" or (self.compiles and planning.has_compiler())
        return Plan(members=1, channels_last=True, precision="bfloat16", compiled=able)


def _named(blocks: int, side: int, normed: bool) -> Deep:
    name = f"resnet{6 * blocks + 2}-{side}"
    return Deep(name if normed else f"{name} without BN", blocks, side=side, normed=normed)


SIZES = ((3, 32), (9, 16), (18, 16), (18, 32))
"""Blocks of a stage, and rows of an image."""
WORKLOADS = {
    made.name: made
    for made in (_named(*size, normed) for size in SIZES for normed in (True, False))
}
UNCOMPILED = {
    f"{name}, no compiler": replace(WORKLOADS[name], name=f"{name}, no compiler", compiles=False)
    for name in ("resnet20-32", "resnet20-32 without BN")
}
"""The same where there is no C++ compiler."""
MAP = Deep("resnet20-16 at 16 rates", 3, side=16, members=16, one_thread=False)
ALL = {**WORKLOADS, **UNCOMPILED, MAP.name: MAP}
QUICK = tuple(WORKLOADS)[:4]
NAMES = tuple(ALL)
STEPS = {3: 10, 9: 10, 18: 4}
"""Blocks of a stage -> steps of one repetition on images of 16 x 16."""


def steps(workload: Deep) -> int:
    """Return the steps of one repetition."""
    large = workload.blocks == max(STEPS) and workload.side > 16
    return STEPS[workload.blocks] // (2 if large else 1)


def who(workload: Deep, quick: bool) -> tuple[Contender, ...]:
    """Return who trains a network."""
    if not workload.compiles:
        return EAGER_CONTENDERS
    return QUICK_CONTENDERS if quick or workload.members > 1 else CONTENDERS


@contextmanager
def threads(workload: workloads.Workload) -> Iterator[None]:
    """Train a deep network on one thread, and forget what was compiled for the one before it."""
    before = torch.get_num_threads()
    if isinstance(workload, Deep):
        if planning.has_compiler():
            torch._dynamo.reset()  # else networks after the eighth would not be compiled at all
        if workload.one_thread:
            torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def floors(workload: Deep) -> Callable[[int], list[dict[str, Any]]]:
    """Return what measures the floor of a network's step, in each precision.

    The floor is all convolutions at the rate of the fastest convolution of the network as torch
    computes it, and each activation moved as often as no program can avoid, at the rate of a copy.
    """
    flop = floor.resnet_flop(workload.batch, workload.blocks, workload.side)
    numbers = workload.batch * sum(
        3 * a.inputs * a.positions_in + 2 * a.outputs * a.positions
        for a in floor.convolutions(workload.blocks, workload.side)
    )

    def measured(repetition: int) -> list[dict[str, Any]]:
        per_byte = _copy_seconds() / (8 * _COPIED)
        found = []
        for name, dtype in FLOORS.items():
            seconds = flop / _best_rate(workload, dtype) + numbers * dtype.itemsize * per_byte
            found.append(row(workload.name, name, 1, 1, repetition, seconds))
        return found

    return measured


def _copy_seconds() -> float:
    """Time to read and write 64 MiB."""
    source, target = torch.zeros(_COPIED), torch.zeros(_COPIED)
    return _least(lambda: target.copy_(source))


def _best_rate(workload: Deep, dtype: torch.dtype) -> float:
    """Operations a second of the fastest of the stages' convolutions, channels-last."""
    rates = []
    for stage, width in enumerate((16, 32, 64)):
        side = workload.side >> stage
        x = torch.randn(workload.batch, width, side, side, dtype=dtype)
        w = torch.randn(width, width, 3, 3, dtype=dtype)
        x, w = (t.contiguous(memory_format=torch.channels_last) for t in (x, w))
        flop = 2 * 9 * width**2 * workload.batch * side**2
        rates.append(flop / _least(lambda x=x, w=w: F.conv2d(x, w, padding=1)))  # type: ignore[misc]
    return max(rates)


def _least(compute: Callable[[], Any], times: int = 5) -> float:
    compute()
    seconds = []
    for _ in range(times):
        began = time.perf_counter()
        compute()
        seconds.append(time.perf_counter() - began)
    return min(seconds)
