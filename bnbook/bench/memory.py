"""Memory in training, above what the process held before; of 64 members beside a count by hand."""

from __future__ import annotations

import contextlib
import ctypes
import math
import multiprocessing
import time
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any

from bnbook.bench.workloads import MLP, MNIST, Workload
from bnbook.errors import BnbookError
from bnbook.evidence import timings

MEMBERS, STEPS = 64, 20
_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def counted(workload: MLP) -> int:
    """Bytes that training needs, counted by hand, in float32.

    Counted, for each member: the parameters (weights, gamma and beta, the output's bias) and the
    running statistics; for each hidden layer three activations of batch x width, the product Wu,
    its normalised value and the sigmoid's; the logits and their gradient. The optimiser counts
    nothing: plain SGD has no state. Not counted: the gradients of the parameters, which a step
    need not keep; the data; temporaries; what the libraries allocate for themselves.
    """
    parameters = statistics = activations = 0
    fan_in = workload.num_inputs
    for width in workload.hidden:
        parameters += fan_in * width + 2 * width
        statistics += 2 * width
        activations += 3 * workload.batch * width
        fan_in = width
    parameters += (fan_in + 1) * workload.num_classes
    activations += 2 * workload.batch * workload.num_classes
    return 4 * workload.members * (parameters + statistics + activations)


def rows() -> list[dict[str, Any]]:
    """Measure in a fresh process; one row for ours, one for the count."""
    workload = replace(MNIST, members=MEMBERS)
    about = {"members": MEMBERS, "steps": STEPS, "repetition": 0}
    ours, by_hand = measured(workload, STEPS)[0], counted(workload) / 2**20
    found = []
    for contender, size in ((timings.OURS, ours), (timings.MEMORY, by_hand)):
        note = "" if not math.isnan(size) else "not run: needs Linux's /proc"
        found.append(
            timings.empty("memory", contender, MEMBERS, note)
            | about
            | ({} if note else {"mebibytes": size})
        )
    return found


def measured(workload: Workload, steps: int, threads: int = 0) -> tuple[float, float]:
    """Train in a fresh process.

    `steps` counts the steps of the training whose peak is taken, and of those after it whose times
    are. The process has `threads` threads; 0 leaves torch its own number. The first result is the
    peak above what the process held before, in mebibytes; it is NaN where the system does not tell.
    The second is the median in seconds of three trainings after it, when all that is made once has
    been made.
    """
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_train, args=(there, workload, steps, threads), daemon=True)
    process.start()
    there.close()
    try:
        mebibytes, seconds = here.recv()
    except EOFError as error:
        raise BnbookError("the process whose memory was measured ended too early.") from error
    finally:
        process.join()
    return mebibytes, seconds


def _train(connection: Connection, workload: Workload, steps: int, threads: int) -> None:
    """Train, and send how many mebibytes the peak lay above the beginning, and the seconds.

    The beginning comes after imports, the data and a step of one member, so that the libraries' own
    buffers are in it.
    """
    import torch

    from bnbook.bench import our_fit

    torch.set_num_threads(threads or torch.get_num_threads())
    our_fit.Fit(workload, 1, 0, "cpu", [0.1]).run(workload.ours(1, 0))
    fit = our_fit.Fit(workload, steps, 0, "cpu", workload.rates(workload.members))
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)  # memory freed so far goes back to the system
        _CLEAR.write_text("5")  # the peak starts again from here
    tells = _STATUS.is_file()
    before = _kibibytes("VmRSS") if tells else math.nan
    fit.run(workload.ours(workload.members, 0))
    mebibytes = (_kibibytes("VmHWM") - before) / 1024 if tells else math.nan
    seconds = []
    for _ in range(3):
        model = workload.ours(workload.members, 0)
        began = time.perf_counter()
        fit.run(model)
        seconds.append(time.perf_counter() - began)
    connection.send((mebibytes, median(seconds)))


def _kibibytes(field: str) -> int:
    for line in _STATUS.read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1])
    raise BnbookError(f"expected {field} in {_STATUS}, found none.")
