"""What only a GPU can show: figure 1's map of learning rates as one job, and ResNet-110."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from bnbook.bench import contenders, floor, our_fit, timing, workloads
from bnbook.bench.runner import Runner
from bnbook.evidence import timings
from bnbook.layers import ensemble, norm
from bnbook.networks import models
from bnbook.training import fit
from bnbook.training.session import Plan, Session

NAMES = ("rate map", "resnet110")
RATES, SEEDS, STEPS = 20, 10, timings.MAP_STEPS
ONE_BY_ONE, CEILING = "one by one", "bytes and operations"
SQUARE = 8192


def absent(wanted: Collection[str]) -> list[dict[str, Any]]:
    """Return the rows that say that these workloads were not run."""
    who = {
        "rate map": ((timings.OURS, 2 * RATES * SEEDS), (ONE_BY_ONE, 1)),
        "resnet110": ((timings.OURS, 1), (contenders.TUTORIAL.name, 1), (CEILING, 1)),
    }
    return [
        timings.empty(name, contender, members, "not run: no GPU")
        for name in NAMES
        if name in wanted
        for contender, members in who[name]
    ]


def rows(quick: bool, repetitions: int, wanted: Collection[str]) -> list[dict[str, Any]]:
    """Measure the workloads of a GPU; `quick` leaves out the map of 50,000 steps."""
    rate, bandwidth = ceilings()
    name, gflop = f"{SQUARE} x {SQUARE} x {SQUARE}, TF32", 2e-9 * SQUARE**3
    product = timing.row(timings.PRODUCT, name, 1, 1, 0, 1e9 * gflop / rate)
    found = [product | {"gflop": gflop}]
    if "rate map" in wanted:
        found += _map_rows(quick, repetitions)
    if "resnet110" in wanted:
        found += _resnet_rows(repetitions, rate, bandwidth)
    return found


def elapsed(run: Callable[[], Any]) -> float:
    """Time work on the GPU by its own clock, in seconds."""
    began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    began.record()
    run()
    ended.record()
    torch.cuda.synchronize()
    return float(began.elapsed_time(ended)) / 1000


@dataclass
class _Map:
    """Both arms over rates and seeds; each arm is one ensemble with minibatches by seed."""

    rates: list[float]
    seeds: list[int]
    steps: int

    def __post_init__(self) -> None:
        found_x, found_y = workloads.MNIST.data()
        self.images, self.labels = found_x.cuda(), found_y.cuda()
        by_seed = {
            seed: workloads.minibatches(workloads.MNIST, found_y, self.steps, seed)
            for seed in set(self.seeds)
        }
        one = len(self.seeds) == 1
        batches = [by_seed[seed] for seed in self.seeds]
        self.batches = (batches[0] if one else torch.stack(batches, 1)).cuda()
        self.session = Session("cuda", plan=Plan(members=len(self.seeds), compiled=True))
        self.reset()

    def reset(self) -> None:
        self.arms = [models.MLP(layer, seeds=self.seeds).cuda() for layer in (None, norm.BatchNorm)]

    def run(self) -> None:
        for model in self.arms:
            fit.fit(
                model, self.images, self.labels, self.batches, fit.SGD(self.rates),
                ensemble.cross_entropy, session=self.session,
            )  # fmt: skip


def _map_rows(quick: bool, repetitions: int) -> list[dict[str, Any]]:
    grid = [float(rate) for rate in np.geomspace(0.01, 30, RATES)]
    rates = [rate for rate in grid for _ in range(SEEDS)]
    seeds = list(range(SEEDS)) * RATES
    steps = 1000
    jobs = {
        timings.OURS: (_Map(rates, seeds, steps), 2 * len(rates)),
        ONE_BY_ONE: (_Map([0.1], [0], steps), 2),
    }
    found = []
    for repetition in range(-1, repetitions):
        for name, (job, members) in jobs.items():
            job.reset()
            taken = elapsed(job.run)
            if repetition >= 0:
                found.append(timing.row("rate map", name, members, steps, repetition, taken))
    if not quick:
        whole = _Map(rates, seeds, STEPS)
        taken = elapsed(whole.run)
        found.append(timing.row("rate map", "ours, whole", 2 * len(rates), STEPS, 0, taken))
    return found


def _resnet_rows(repetitions: int, rate: float, bandwidth: float) -> list[dict[str, Any]]:
    workload, steps = workloads.RESNET110, 10
    runners: dict[str, Runner] = {
        timings.OURS: our_fit.prepare(workload, steps, 0, "cuda", workload.rates(1)),
        contenders.TUTORIAL.name: contenders.TUTORIAL.prepare(workload, steps, 0, "cuda"),
    }
    gflop = floor.flop(workload) / 1e9
    found = []
    for repetition in range(-1, repetitions):
        for name, runner in runners.items():
            runner.reset()
            taken = elapsed(runner.run)
            if repetition >= 0:
                about = timing.row("resnet110", name, 1, steps, repetition, taken)
                found.append(about | {"gflop": gflop})
    least = least_seconds(workload.batch, workload.blocks, rate, bandwidth)
    about = timing.row("resnet110", CEILING, 1, steps, 0, steps * least)
    return [*found, about | {"gflop": gflop, "note": f"{rate:.3g} flop/s, {bandwidth:.3g} byte/s"}]


def ceilings() -> tuple[float, float]:
    """Measure the best rate of a TF32 product (operations/s) and bandwidth of a copy (bytes/s)."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        a = torch.randn(SQUARE, SQUARE, device="cuda")
        b = torch.empty_like(a)
        torch.mm(a, a, out=b)
        product = min(elapsed(lambda: torch.mm(a, a, out=b)) for _ in range(10))
        copy = min(elapsed(lambda: b.copy_(a)) for _ in range(10))
    finally:
        torch.set_float32_matmul_precision(before)
    return 2 * SQUARE**3 / product, 2 * a.numel() * 4 / copy


def least_seconds(batch: int, blocks: int, rate: float, bandwidth: float) -> float:
    """Time that a ResNet's training step needs at a device's ceilings.

    Each convolution's three products take as long as their operations or the bytes that they read
    and write, whichever is longer. Each BN with its ReLU reads its input twice and writes once
    going forward, and reads two tensors twice and writes one going back. Shortcuts, loss and
    update are left out.
    """
    total = 0.0
    size = 4 * batch
    for at, layer in enumerate(floor.convolutions(blocks)):
        operations = 2 * batch * 9 * layer.inputs * layer.outputs * layer.positions
        read = size * layer.inputs * layer.positions_in
        written = size * layer.outputs * layer.positions
        products = 2 if at == 0 else 3
        total += products * max(operations / rate, (read + written) / bandwidth)
        total += 8 * written / bandwidth
    return total
