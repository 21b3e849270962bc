"""How the time of a member's step grows with members, depth and width."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from bnbook.bench import floor, our_fit, timing
from bnbook.bench.workloads import MLP, MNIST

MEMBERS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
QUICK_MEMBERS = (1, 4, 16, 64)
DEPTHS = (1, 2, 4, 8, 16)
WIDTHS = (25, 50, 100, 200, 400, 800)


def networks(quick: bool) -> Iterator[tuple[str, float, MLP]]:
    """Yield (curve, setting, workload): what is varied, its value, and the network."""
    for members in QUICK_MEMBERS if quick else MEMBERS:
        yield "growth members", members, replace(MNIST, members=members)
    for depth in () if quick else DEPTHS:
        yield "growth depth", depth, replace(MNIST, hidden=(100,) * depth)
    for width in () if quick else WIDTHS:
        yield "growth width", width, replace(MNIST, hidden=(width,) * 3)


def rows(quick: bool, repetitions: int, steps: int) -> list[dict[str, Any]]:
    """Time our training loop over growth curves; `quick` has few members, no depths or widths."""
    found: list[dict[str, Any]] = []
    runners = [
        (curve, setting, workload, our_fit.prepare(
            workload, steps, 0, "cpu", workload.rates(workload.members)))
        for curve, setting, workload in networks(quick)
    ]  # fmt: skip
    for repetition in range(-1, repetitions):
        for curve, setting, workload, runner in runners:
            taken = timing.seconds(runner)
            if repetition >= 0:
                about = timing.row(curve, "ours", workload.members, steps, repetition, taken)
                gflop = floor.flop(workload) / 1e9
                found.append(about | {"setting": float(setting), "gflop": gflop})
    return found
