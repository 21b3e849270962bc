"""An experiment that needs no torch: its "training" is a chaotic map, its trouble is ordered.

A member's value depends on the batch that it trains in, as the last digits of a real one do, so
that a sweep which resumes with other batches is found out.
"""

import errno
import json
import math
import os
import time
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from bnbook import files
from bnbook.errors import BnbookError
from bnbook.experiments.experiment import Experiment, check_positive
from bnbook.training.session import OutOfTimeError

LOG = "BNBOOK_FAKE_LOG"


@dataclass(frozen=True)
class Config:
    """Single runs: seeds x rates; `pause` seconds a step; `trouble` strikes at the fourth step."""

    data: str = "digits"
    steps: int = 10
    seeds: tuple = (0, 1)
    rates: tuple = (3.5, 3.7, 3.9)
    arm: str = "left"
    pause: float = 0.0
    trouble: str = ""

    def __post_init__(self):
        check_positive(self, ("steps",))


def train(parts, session):
    if session.trial:
        session.trial.seconds, session.trial.total = 1.0, parts[0].steps
        raise OutOfTimeError("the steps are timed.")
    _log("began", parts)
    step, values = 0, [0.4 + 0.01 * part.seeds[0] for part in parts]
    if session.checkpoint and session.checkpoint.is_file():
        state = json.loads(session.checkpoint.read_text())
        step, values = state["step"], state["values"]
        _log(f"from {step}", parts)
    config = parts[0]
    while step < config.steps:
        if session.out_of_time():
            _keep(session, step, values)
            raise OutOfTimeError("the time is up.")
        time.sleep(config.pause)
        if step == 3 and config.trouble:
            _strike(config.trouble)
        noise = 1e-9 * len(parts)
        rates = [part.rates[0] for part in parts]
        values = [r * x * (1 - x) + noise for r, x in zip(rates, values, strict=True)]
        step += 1
        if step % 5 == 0:
            _keep(session, step, values)
    _log("ended", parts)
    return [
        pd.DataFrame({
            "seed": p.seeds[0], "rate": p.rates[0], "arm": p.arm, "step": [0, step],
            "value": [math.nan, x], "diverged_at": 5 if p.rates[0] == 4.0 else -1,
        })
        for p, x in zip(parts, values, strict=True)
    ]  # fmt: skip


def _keep(session, step, values):
    if session.checkpoint:
        state = json.dumps({"step": step, "values": values}).encode()
        files.write_bytes(session.checkpoint, state)
    session.report(step, len(values), 0)


def _strike(trouble):
    if trouble == "die":
        os._exit(3)
    raise {
        "memory": MemoryError(),
        "torch": RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        "cpu": RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8"),
        "disk": OSError(errno.ENOSPC, "No space left on device", "a.checkpoint"),
        "alone": BnbookError("a member cannot be fused with the others."),
        "bug": ZeroDivisionError("a bug"),
        "interrupt": KeyboardInterrupt(),
    }[trouble]


def _log(what, parts):
    """Add a line: what happened, in which process, to which members."""
    if folder := os.environ.get(LOG):
        line = [what, os.getpid(), [[p.seeds[0], p.rates[0]] for p in parts]]
        with Path(folder, "log").open("a") as file:
            file.write(json.dumps(line) + "\n")


def logged(folder, what="began"):
    """The members of each batch to which that happened, in order."""
    file = Path(folder, "log")
    lines = map(json.loads, file.read_text().splitlines()) if file.is_file() else ()
    return [[tuple(member) for member in line[2]] for line in lines if line[0] == what]


EXPERIMENT = Experiment(
    name="fake", title="A chaotic map", profiles={"quick": Config()}, columns={}, claims=(),
    facts=lambda table: {}, figures={}, axes=("seeds", "rates"), fused=("seeds", "rates"),
    apart=("seeds", "rates"), train=train,
)  # fmt: skip


def profiled(**profiles):
    """The experiment with other profiles."""
    return replace(EXPERIMENT, profiles=profiles)
