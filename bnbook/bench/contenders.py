"""Who trains: a contender makes a `Runner` of a workload, and only its `run` is timed.

Every contender does the same work: the same network from the same initial weights, the same
minibatches, cross-entropy and plain SGD in float32. The contenders of other people train one
network, for they have no way to train several as one, and count as one member.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from bnbook.bench import workers, workloads
from bnbook.bench.runner import Prepare, Runner, loader
from bnbook.bench.workloads import State, Workload
from bnbook.errors import BnbookError
from bnbook.sweeps import planning


@dataclass(frozen=True)
class Contender:
    """Somebody who trains.

    Attributes
    ----------
    name : str
        As tables and figures show it.
    prepare : callable
        See `Prepare`.
    package : str
        What has to be installed besides torch, if anything.
    compiles : bool
        Whether it needs a C++ compiler.
    """

    name: str
    prepare: Prepare
    package: str = ""
    compiles: bool = False

    def missing(self) -> str:
        """Say why it cannot run here, in a few words; an empty string when it can."""
        if self.package and find_spec(self.package) is None:
            return f"not installed: {self.package.replace('_', '-')}, of the extra bench"
        if self.compiles and not planning.has_compiler():
            return "not run: no C++ compiler"
        return ""


class Loop:
    """The training loop of the PyTorch tutorial, with what a user may change about it.

    Source: pytorch.org/tutorials, "Optimizing Model Parameters", without its printing.

    The first four arguments are those of `Prepare`. With `in_memory` the loop indexes tensors by
    the minibatch instead of asking a DataLoader. `workers` counts the DataLoader's workers. The
    last three are the flags that promise speed.
    """

    def __init__(
        self,
        workload: Workload,
        steps: int,
        seed: int,
        device: str,
        *,
        in_memory: bool = False,
        workers: int = 0,
        channels_last: bool = False,
        bfloat16: bool = False,
        compiled: bool = False,
    ) -> None:
        self.initial = workload.single(seed).state_dict()
        self.device, self.channels_last, self.bfloat16 = device, channels_last, bfloat16
        self.rate = workload.rates(workload.members)[0]
        self.momentum = workload.momentum
        layout = torch.channels_last if channels_last else torch.contiguous_format
        network = workload.single(seed).to(device)
        network = network.to(memory_format=layout) if channels_last else network  # type: ignore[call-overload]
        self.network: Any = torch.compile(network) if compiled else network
        self.reset()
        if in_memory:
            images, labels = (tensor.to(device) for tensor in workload.data())
            batches = workloads.minibatches(workload, labels.cpu(), steps, seed).to(device)
            self.batches: Any = _Indexed(images, labels, batches)
        else:
            self.batches = loader(workload, steps, seed, workers)

    def reset(self) -> None:
        """Put the initial weights back and make a new optimiser."""
        getattr(self.network, "_orig_mod", self.network).load_state_dict(self.initial)
        self.network.train()
        self.optimizer = torch.optim.SGD(
            self.network.parameters(), lr=self.rate, momentum=self.momentum
        )

    def run(self) -> None:
        """Train over all minibatches."""
        loss_fn = nn.CrossEntropyLoss()
        for images, labels in self.batches:
            x, y = images.to(self.device), labels.to(self.device)
            if self.channels_last:
                x = x.to(memory_format=torch.channels_last)
            with self._autocast():
                loss = loss_fn(self.network(x), y)
            loss.backward()
            self.optimizer.step()
            self.optimizer.zero_grad()

    def state(self) -> State:
        """Return the network's state."""
        return workloads.state([self.network], [1])

    def _autocast(self) -> AbstractContextManager[Any]:
        if not self.bfloat16:
            return nullcontext()
        return torch.autocast(torch.device(self.device).type, torch.bfloat16)


@dataclass
class _Indexed:
    """Minibatches taken out of tensors in memory."""

    images: Tensor
    labels: Tensor
    batches: Tensor

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for batch in self.batches:
            yield self.images[batch], self.labels[batch]


def torch_loop(**flags: Any) -> Prepare:
    """Return the contender that trains by `Loop` with these flags."""

    def prepare(workload: Workload, steps: int, seed: int, device: str) -> Runner:
        loop = Loop(workload, steps, seed, device, **flags)
        return Runner(1, loop.reset, loop.run, loop.state)

    return prepare


def lightning(workload: Workload, steps: int, seed: int, device: str) -> Runner:
    """Prepare PyTorch Lightning; see `bnbook.bench.frameworks`."""
    from bnbook.bench import frameworks

    return frameworks.lightning(workload, steps, seed, device)


def skorch(workload: Workload, steps: int, seed: int, device: str) -> Runner:
    """Prepare skorch; see `bnbook.bench.frameworks`."""
    from bnbook.bench import frameworks

    return frameworks.skorch(workload, steps, seed, device)


def jax(workload: Workload, steps: int, seed: int, device: str) -> Runner:
    """Prepare jax in a process of its own: its threads then meet no fork of ours."""
    return workers.remote(workload, steps, seed, device, kind="jax", threads=None, processes=1)


def ours(workload: Workload, steps: int, seed: int, device: str) -> Runner:
    """Prepare `bnbook.training.fit.fit`: members shared out among single-threaded processes.

    One member, or a GPU, takes one process.
    """
    cores = torch.get_num_threads()
    split = device == "cpu" and workload.members >= cores > 1
    processes, threads = (cores, 1) if split else (1, cores)
    return workers.remote(
        workload, steps, seed, device, kind="ours", threads=threads, processes=processes
    )


def ours_in_one(workload: Workload, steps: int, seed: int, device: str) -> Runner:
    """Prepare `bnbook.training.fit.fit` in one process with all threads."""
    threads = torch.get_num_threads()
    return workers.remote(workload, steps, seed, device, kind="ours", threads=threads, processes=1)


OURS = Contender("ours", ours)
ONE_PROCESS = Contender("ours, one process", ours_in_one)
TUTORIAL = Contender("tutorial loop", torch_loop())
INDEXED = Contender("loop, data in memory", torch_loop(in_memory=True))
LIGHTNING = Contender("Lightning", lightning, "pytorch_lightning")
SKORCH = Contender("skorch", skorch, "skorch")
JAX = Contender("jax.vmap", jax, "jax")
CHANNELS_LAST = Contender("loop, channels last", torch_loop(channels_last=True))
BFLOAT16 = Contender("loop, bfloat16", torch_loop(bfloat16=True))
COMPILED = Contender("loop, compiled", torch_loop(compiled=True), compiles=True)
WORKERS = Contender("loop, 2 loader workers", torch_loop(workers=2))

CONTENDERS: dict[str, Sequence[Contender]] = {
    "mnist": (OURS, ONE_PROCESS, TUTORIAL, INDEXED, LIGHTNING, SKORCH, JAX),
    "digits": (OURS, ONE_PROCESS, TUTORIAL, INDEXED, LIGHTNING, SKORCH, JAX),
    "resnet20": (OURS, TUTORIAL, INDEXED, CHANNELS_LAST, BFLOAT16, COMPILED, WORKERS),
}
"""Workload -> who trains it."""


def of(workload: str) -> Sequence[Contender]:
    """Return a workload's contenders."""
    if workload not in CONTENDERS:
        raise BnbookError(
            f"expected the name of a workload, one of {', '.join(CONTENDERS)}; found {workload!r}."
        )
    return CONTENDERS[workload]
