"""A function run on several replicas, real processes that talk through `torch.distributed` (gloo).

All results come back, or none: when a replica dies, raises or hangs, the others are ended and one
error says how each of them ended. A replica is a process forked from a server that holds torch, or
one of those that `torchrun` starts.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import torch
from torch import distributed

from bnbook.errors import BnbookError

Job = Callable[[Mapping[str, Any]], dict[str, Any]]
"""What a replica does: plain values and tensors in, and out."""
Launcher = Literal["forked", "torchrun"]
LAUNCHERS: tuple[Launcher, ...] = ("forked", "torchrun")
PRELOADED = ("torch.distributed", "torch._dynamo", "bnbook.training.ranks")
"""What the server of forked replicas imports once; data-parallel training asks for the second."""
TIME_LIMIT = 300.0
"""Seconds after which replicas that have not ended are ended, unless told otherwise."""


def share(count: int, replicas: int) -> int:
    """Return the examples of a minibatch that each replica takes.

    Raises
    ------
    BnbookError
        When they cannot be shared out equally.
    """
    if replicas < 1 or count < replicas or count % replicas:
        below = count // max(replicas, 1) * max(replicas, 1)
        known = f"{below} or {below + replicas}" if below else f"{replicas}"
        raise BnbookError(
            f"a minibatch must be a multiple of the replicas, found {count} examples and {replicas}"
            f" replicas; nothing was started. Try batches of {known}, or other replicas."
        )
    return count // replicas


def run(
    job: Job,
    argument: Mapping[str, Any],
    replicas: int,
    launcher: Launcher = "forked",
    seconds: float = TIME_LIMIT,
) -> list[dict[str, Any]]:
    """Run a job on replicas that form one process group, each on one thread.

    Parameters
    ----------
    job : callable
        A function of a module, called in every replica; there `torch.distributed` says which.
    argument : mapping
        Given to it: numbers, strings, tensors, and lists and dicts of them.
    replicas : int
        Number of processes.
    launcher : {"forked", "torchrun"}
        How they are started.
    seconds : float
        Time limit for all of them, starts included.

    Returns
    -------
    list of dict
        What each replica returned, in the order of ranks.

    Raises
    ------
    BnbookError
        When a replica does not end well or in time; the others are ended, nothing is returned.
    """
    if launcher not in LAUNCHERS:
        raise BnbookError(f"launcher must be one of {', '.join(LAUNCHERS)}, found {launcher!r}.")
    with tempfile.TemporaryDirectory(prefix="bnbook-replicas-") as name:
        folder = Path(name)
        what = {"module": job.__module__, "name": job.__qualname__, "seconds": seconds}
        torch.save({**what, "replicas": replicas, "argument": dict(argument)}, folder / "job.pt")
        deadline = time.monotonic() + seconds
        if launcher == "forked":
            ends = _forked(folder, replicas, deadline, job.__module__)
        else:
            ends = _torchrun(folder, replicas, deadline)
        found = [_result(folder, rank) for rank in range(replicas)]
        if any(ends.values()) or any(each is None for each in found):
            raise BnbookError(_told(folder, replicas, ends))
        return [each for each in found if each is not None]


def _result(folder: Path, rank: int) -> dict[str, Any] | None:
    path = folder / f"rank-{rank}.pt"
    if not path.is_file():
        return None
    found: dict[str, Any] = torch.load(path, weights_only=True)
    return found


def _told(folder: Path, replicas: int, ends: Mapping[int, str]) -> str:
    """Say how each replica ended."""
    each = []
    for rank in range(replicas):
        raised = folder / f"rank-{rank}.error"
        how = raised.read_text("utf-8") if raised.is_file() else ends.get(rank) or "was ended"
        if (folder / f"rank-{rank}.pt").is_file():
            how = "had finished"
        each.append(f"rank {rank} {how}")
    return (
        f"{replicas} replicas were to return results, found: {'; '.join(each)}. All were ended;"
        " nothing was returned, and records are as they were. Mend what the first error says, and"
        " run the same command again."
    )


def _forked(folder: Path, replicas: int, deadline: float, module: str) -> dict[int, str]:
    """Start replicas from a server process that has imported torch; return how those ended badly.

    The server is fit to be forked: it computes nothing, and so has no threads.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([*PRELOADED, module])
    workers = [
        context.Process(target=_work, args=(str(folder), rank), daemon=True)
        for rank in range(replicas)
    ]
    for worker in workers:
        worker.start()
    while any(worker.is_alive() for worker in workers) and time.monotonic() < deadline:
        if any(worker.exitcode for worker in workers):
            time.sleep(0.2)  # the others may be about to say what they saw
            break
        time.sleep(0.01)
    ends = {rank: _end(worker.exitcode) for rank, worker in enumerate(workers)}
    for worker in workers:
        worker.kill()
        worker.join()
    return ends


def _end(code: int | None) -> str:
    """Say how a process ended; nothing where it ended well."""
    if code is None:
        return "had not ended in time, or waited for another,"
    if code < 0:
        return f"was killed by signal {-code}"
    return f"left with exit code {code}" if code else ""


def _torchrun(folder: Path, replicas: int, deadline: float) -> dict[int, str]:
    """Start replicas by torchrun; return how those ended badly that it tells of."""
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
        *(f"--nproc-per-node={replicas}", "-m", __name__, str(folder)),
    ]
    left = max(1.0, deadline - time.monotonic())
    path = os.pathsep.join(each for each in sys.path if each)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    ) as process:  # fmt: skip
        try:
            _, told = process.communicate(timeout=left)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 9)
            process.communicate()
            return dict.fromkeys(range(replicas), "had not ended in time")
    if process.returncode == 0:
        return {}
    pairs = re.findall(r"rank\s*: (\d+) .*?exitcode\s*: (-?\d+)", told, re.DOTALL)
    return {0: "was ended", **{int(rank): _end(int(code)) for rank, code in pairs}}


def _work(folder: str, rank: int) -> None:
    """Do the job of one forked replica."""
    path = Path(folder)
    job = torch.load(path / "job.pt", weights_only=True)
    _do(path, job, rank, f"file://{path / 'group'}")


def _do(folder: Path, job: Mapping[str, Any], rank: int, group: str) -> None:
    """Join the group, do the job, and leave the result or the error in the folder."""
    torch.set_num_threads(1)
    try:
        limit = timedelta(seconds=job["seconds"])
        distributed.init_process_group(
            "gloo", group, timeout=limit, rank=rank, world_size=job["replicas"]
        )
        function: Job = getattr(importlib.import_module(job["module"]), job["name"])
        found = function(job["argument"])
        distributed.barrier()
        distributed.destroy_process_group()
    except BaseException as error:
        said = str(error).strip().splitlines() or [""]
        (folder / f"rank-{rank}.error").write_text(
            f"raised {type(error).__name__}: {said[0][:300]}", "utf-8"
        )
        sys.exit(1)
    torch.save(found, folder / f"rank-{rank}.tmp")
    (folder / f"rank-{rank}.tmp").replace(folder / f"rank-{rank}.pt")


def main(folder: str) -> None:
    """Do the job of one replica that torchrun started, which says by the environment which."""
    path = Path(folder)
    job = torch.load(path / "job.pt", weights_only=True)
    _do(path, job, int(os.environ["RANK"]), "env://")


if __name__ == "__main__":
    main(sys.argv[1])
