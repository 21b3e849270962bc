"""How a run is carried out: device, plan, checkpoint, time limit. None of it changes what is run.

Nothing here imports torch, so that a sweep can hand sessions to workers anywhere.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bnbook import files
from bnbook.errors import BnbookError


def now() -> float:
    """Seconds of this machine's clock that never goes back, whatever is done to its date."""
    return time.monotonic()


class OutOfTimeError(BnbookError):
    """The deadline passed; what was trained so far is in the checkpoint."""


@dataclass
class Trial:
    """A few steps to be timed in place of a run, which fills in seconds a step and its steps."""

    steps: int
    seconds: float | None = None
    total: int = 0


@dataclass(frozen=True)
class Plan:
    """What pays on this machine; see `bnbook.sweeps.planning`.

    Attributes
    ----------
    members : int
        Networks that train as one, at most. 1 trains them one by one.
    channels_last : bool
        Whether images and convolution kernels keep their channels innermost in memory.
    precision : str
        ``float32``; ``tf32`` (matrix products of a GPU); ``bfloat16`` (images and the factors of
        products; sums and parameters stay float32).
    compiled : bool
        Whether the step is compiled: CUDA graphs on a GPU; on a CPU the kernels of
        `bnbook.training.deep` where they apply and `channels_last` holds, else torch.compile.
        Without a C++ compiler it is not.
    handwritten : bool
        Whether `bnbook.training.chain` is used where it applies, rather than autograd.
    """

    members: int = 16
    channels_last: bool = False
    precision: str = "float32"
    compiled: bool = False
    handwritten: bool = True


@dataclass(frozen=True)
class Session:
    """One batch of members in training.

    Attributes
    ----------
    device : str
        ``auto``, ``cpu`` or ``cuda``.
    plan : Plan
        How to compute.
    checkpoint : pathlib.Path or None
        File in which an interrupted run leaves its state, and from which it goes on.
    interval : float
        Seconds between checkpoints, at least.
    deadline : float or None
        Time of `now` at which to stop; None runs to the end.
    elsewhere : bool
        Whether another machine carries it out, with which this one shares no clock but the date:
        the deadline is then in seconds since the epoch.
    progress : pathlib.Path or None
        File that says, about once a second, how far the run is; see `Session.report`.
    trial : Trial or None
        If given, `bnbook.training.fit.fit` only times its steps, measures nothing, and stops as
        when the time is up.
    """

    device: str = "auto"
    plan: Plan = Plan()
    checkpoint: Path | None = None
    interval: float = 20.0
    deadline: float | None = None
    elsewhere: bool = False
    progress: Path | None = None
    trial: Trial | None = None

    def report(self, step: int, members: int, diverged: int) -> None:
        """Write how far the run is, as JSON: ``step``, ``members``, ``diverged``."""
        if self.progress is not None:
            facts = {"step": step, "members": members, "diverged": diverged}
            files.write_bytes(self.progress, json.dumps(facts).encode())

    def out_of_time(self) -> bool:
        """Whether the deadline has passed."""
        clock = time.time if self.elsewhere else now
        return self.deadline is not None and clock() >= self.deadline


class Every:
    """True at most once in so many seconds.

    Parameters
    ----------
    seconds : float
        The least time between two answers of True; the first comes after it too.
    clock : callable
        Returns the time in seconds.
    """

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.seconds, self.clock, self.last = seconds, clock, clock()

    def due(self) -> bool:
        """Whether the time has come; if so, count from now."""
        now = self.clock()
        if now - self.last < self.seconds:
            return False
        self.last = now
        return True


def read_progress(path: Path) -> dict[str, Any]:
    """Return what `Session.report` last wrote, or zeros before it wrote anything."""
    if not path.is_file():
        return {"step": 0, "members": 0, "diverged": 0}
    facts: dict[str, Any] = json.loads(path.read_text())
    return facts
