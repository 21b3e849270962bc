"""What is timed: a `Runner`, and the DataLoader that several contenders read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from bnbook.bench import workloads
from bnbook.bench.workloads import State, Workload


@dataclass
class Runner:
    """A contender, ready to train.

    Attributes
    ----------
    members : int
        Networks that it trains at once.
    reset : callable
        Puts everything back to the initial weights; not timed.
    run : callable
        Trains from there to the end. Returns None, or the seconds where it has to tell its
        training loop from what surrounds it.
    state : callable
        Returns what was trained.
    close : callable
        Ends processes, if there are any.
    """

    members: int
    reset: Callable[[], None]
    run: Callable[[], float | None]
    state: Callable[[], State]
    close: Callable[[], None] = lambda: None


Prepare = Callable[[Workload, int, int, str], Runner]
"""(workload, steps, seed, device) -> runner: all that happens once, before anything is timed."""


def loader(workload: Workload, steps: int, seed: int, workers: int = 0) -> Any:
    """Return a DataLoader over the images, one at a time, that yields the given minibatches.

    It is ``DataLoader(data, batch_size, shuffle=True)`` with the order of the shuffle fixed.
    """
    images, labels = workload.data()
    order = workloads.minibatches(workload, labels, steps, seed).flatten().tolist()
    data = torch.utils.data.TensorDataset(images, labels)
    return torch.utils.data.DataLoader(
        data, workload.batch, sampler=order, drop_last=True, num_workers=workers
    )
