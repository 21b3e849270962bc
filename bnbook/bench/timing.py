"""One timed repetition, and its row of the table."""

from __future__ import annotations

import math
import time
from typing import Any

from bnbook.bench.runner import Runner


def seconds(runner: Runner) -> float:
    """Time one whole training loop from the initial weights."""
    runner.reset()
    began = time.perf_counter()
    own = runner.run()
    return own if own is not None else time.perf_counter() - began


def row(
    workload: str,
    contender: str,
    members: int,
    steps: int,
    repetition: int,
    taken: float,
) -> dict[str, Any]:
    """Return a row of the table."""
    return {
        "workload": workload,
        "contender": contender,
        "members": members,
        "setting": math.nan,
        "steps": steps,
        "repetition": repetition,
        "seconds": taken,
        "gflop": math.nan,
        "mebibytes": math.nan,
        "note": "",
    }
