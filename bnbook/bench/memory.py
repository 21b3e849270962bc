"""Memory of 64 members in training, above what the process held before, against a count by hand."""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from bnbook.bench.workloads import MLP, MNIST
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
    by_hand = counted(workload) / 2**20
    found = []
    for contender, size in ((timings.OURS, _measured(workload)), (timings.MEMORY, by_hand)):
        note = "" if size is not None else "not run: needs Linux's /proc"
        found.append(
            timings.empty("memory", contender, MEMBERS, note)
            | about
            | ({} if size is None else {"mebibytes": size})
        )
    return found


def _measured(workload: MLP) -> float | None:
    """Mebibytes of ours, or None where the system does not tell."""
    if not _STATUS.is_file():
        return None
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_train, args=(there, workload), daemon=True)
    process.start()
    there.close()
    try:
        return float(here.recv())
    except EOFError as error:
        raise BnbookError("the process whose memory was measured ended too early.") from error
    finally:
        process.join()


def _train(connection: Connection, workload: MLP) -> None:
    """Train, and send how many mebibytes the peak lay above the beginning.

    The beginning comes after imports, the data and a step of one member, so that the libraries' own
    buffers are in it.
    """
    from bnbook.bench import our_fit

    our_fit.Fit(workload, 1, 0, "cpu", [0.1]).run(workload.ours(1, 0))
    fit = our_fit.Fit(workload, STEPS, 0, "cpu", workload.rates(workload.members))
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)  # memory freed so far goes back to the system
        _CLEAR.write_text("5")  # the peak starts again from here
    before = _kibibytes("VmRSS")
    fit.run(workload.ours(workload.members, 0))
    connection.send((_kibibytes("VmHWM") - before) / 1024)


def _kibibytes(field: str) -> int:
    for line in _STATUS.read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1])
    raise BnbookError(f"expected {field} in {_STATUS}, found none.")
