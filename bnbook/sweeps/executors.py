"""Where batches train: in this process, in a pool of processes, on the workers of a Dask cluster.

All three are a `concurrent.futures.Executor`, so that a sweep does not know which one it has.
"""

from __future__ import annotations

import errno
import os
import pkgutil
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Executor, Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import active_children, get_context, parent_process
from typing import Any, ParamSpec, TypeVar

from bnbook.errors import BnbookError
from bnbook.evidence import records
from bnbook.sweeps import memory

P = ParamSpec("P")
T = TypeVar("T")

NAMES = ("inline", "processes", "dask")
NOT_INSTALLED = 'Dask is not installed. Try `pip install "bnbook[cluster]"`.'
KINDS = ("cpu", "cuda")
"""Devices that plans are made for."""
MOST_A_CORE = 16
"""Worker processes that a core may be asked to bear."""
CONNECT_SECONDS = 5
"""How long to wait for a scheduler's answer."""


@dataclass(frozen=True)
class Crew:
    """An open executor and what a sweep needs to know of it.

    Attributes
    ----------
    executor : concurrent.futures.Executor
        Runs the batches.
    device : str
        ``cpu`` or ``cuda``: what its workers compute on.
    window : int or None
        Batches to hand over at a time; None for all of them.
    apart : bool
        Whether it runs in other processes, which may hold another version of the code.
    elsewhere : bool
        Whether it runs on other machines, which may be faster or slower.
    count : callable
        How many workers there are now.
    """

    executor: Executor
    device: str
    window: int | None
    apart: bool
    elsewhere: bool
    count: Callable[[], int] = lambda: 1


class InlineExecutor(Executor):
    """Runs a call as it is submitted, in this process; Ctrl-C comes through."""

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Run the call and return its future, which is done."""
        future = Future[T]()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


class ProcessExecutor(ProcessPoolExecutor):
    """A pool of fresh processes among which the cores are shared out.

    The processes end with this one, however it ends, and at once when the block that uses the pool
    is left by an exception.

    Each process has `threads` threads, by default its share of the cores.
    """

    def __init__(self, workers: int, threads: int | None = None) -> None:
        threads = threads or max(1, records.cores() // workers)
        self._others = set(active_children())
        super().__init__(
            workers, get_context("spawn"), initializer=_prepare_process, initargs=(threads,)
        )

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> bool | None:
        """Wait for what was submitted; after an exception, end the processes instead."""
        if kind is None:
            return super().__exit__(kind, error, traceback)
        self.shutdown(wait=False, cancel_futures=True)
        for process in set(active_children()) - self._others:
            process.terminate()
        return None


def _prepare_process(threads: int) -> None:
    """Leave Ctrl-C to the parent, end when it ends, and take a share of the cores."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    memory.keep_freed()
    os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(threads)))
    if "torch" in sys.modules:  # it read the environment when it was imported
        sys.modules["torch"].set_num_threads(threads)


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def check_workers(workers: int) -> None:
    """Refuse a number of processes that no machine of this size is meant to have."""
    if workers < 1:
        raise BnbookError(f"workers must be at least 1, found {workers}.")
    most = MOST_A_CORE * records.cores()
    if workers > most:
        raise BnbookError(
            f"workers must be at most {most} here, {MOST_A_CORE} for each core, found {workers}:"
            " each is a process that needs memory of its own."
        )


def named(executor: str | None, workers: int, scheduler: str | None) -> str:
    """Return the executor's name, by default the one that the other two arguments call for."""
    check_workers(workers)
    name = executor or ("dask" if scheduler else "processes" if workers > 1 else "inline")
    if name not in NAMES:
        raise BnbookError(f"executor must be one of {', '.join(NAMES)}, found {name!r}.")
    if name == "dask" and not scheduler:
        raise BnbookError(
            "executor dask needs the address of a scheduler. Start one with `dask scheduler` and"
            " give the address that it prints: `--scheduler tcp://HOST:8786`."
        )
    if name != "dask" and scheduler:
        raise BnbookError(f"executor {name} has no scheduler; use dask or leave {scheduler} out.")
    if name != "processes" and workers > 1:
        how = "start more of `dask worker`" if name == "dask" else "use processes"
        raise BnbookError(f"executor {name} was asked for {workers} workers; {how}.")
    return name


@contextmanager
def opened(
    name: str, workers: int, scheduler: str | None, device: str, threads: int | None = None
) -> Iterator[Crew]:
    """Open an executor; what it still runs when the block is left by an exception is stopped.

    On Dask the device ``auto`` is ``cuda`` when a worker offers the resource ``GPU``, and a batch
    on ``cuda`` takes one such resource.
    """
    if name == "dask":
        with _dask(str(scheduler), device) as crew:
            yield crew
        return
    from bnbook.training import fit

    kind = fit.choose_device(device).type
    if kind not in KINDS:
        raise BnbookError(f"device must be auto, {' or '.join(KINDS)}, found {device!r}.")
    executor = ProcessExecutor(workers, threads) if name == "processes" else InlineExecutor()
    with executor:
        yield Crew(executor, kind, workers, apart=name == "processes", elsewhere=False)


@contextmanager
def _dask(scheduler: str, device: str) -> Iterator[Crew]:
    try:
        from distributed import Client
    except ImportError as error:
        raise BnbookError(NOT_INSTALLED) from error
    if device not in ("auto", *KINDS):
        raise BnbookError(f"device must be auto, {' or '.join(KINDS)}, found {device!r}.")
    try:
        client = Client(scheduler, timeout=CONNECT_SECONDS, set_as_default=False)
    except (OSError, ValueError, TypeError) as error:
        raise BnbookError(
            f"no Dask scheduler answers at {scheduler} within {CONNECT_SECONDS} s. Start one with"
            " `dask scheduler` and give the address that it prints, such as tcp://HOST:8786."
        ) from error
    with client:

        def workers() -> list[dict[str, Any]]:
            return list(client.scheduler_info(n_workers=-1)["workers"].values())

        _check_installed(client, scheduler)
        offered = any(worker["resources"].get("GPU") for worker in workers())
        kind = device if device != "auto" else "cuda" if offered else "cpu"
        if not workers() or (kind == "cuda" and not offered):
            option = ' --resources "GPU=1"' if kind == "cuda" else ""
            say(f"{scheduler} has no such worker yet; start `dask worker {scheduler}{option}`.")
        executor = client.get_executor(
            pure=False, **({"resources": {"GPU": 1}} if kind == "cuda" else {})
        )
        try:
            yield Crew(executor, kind, None, True, True, lambda: len(workers()))
        except BaseException:
            executor.shutdown(wait=False)
            raise


def _check_installed(client: Any, scheduler: str) -> None:
    """Refuse machines without this package: they would end, or fail, at the first batch."""
    asked = pkgutil.resolve_name, "bnbook:__version__"
    places = dict(client.run(*asked, on_error="return"))
    try:
        client.run_on_scheduler(*asked)
    except ImportError as error:
        places[f"the scheduler {scheduler}"] = error
    lacking = sorted(place for place, found in places.items() if isinstance(found, ImportError))
    if lacking:
        raise BnbookError(
            f"bnbook cannot be imported on {', '.join(lacking)}. Install the same bnbook and torch"
            " there as here, and start the scheduler and the workers again. Nothing was begun."
        )


def say(line: str) -> None:
    """Tell the reader something on stderr."""
    print(f"bnbook: {line}", file=sys.stderr, flush=True)  # noqa: T201


def abandoned() -> Callable[[], bool]:
    """Return a function that says whether nobody waits for this task any longer.

    Dask releases a task that was cancelled, or whose client has gone, but lets it run on. Called
    in a task on a Dask worker; anywhere else the answer is always no.
    """
    if "distributed" not in sys.modules:
        return lambda: False
    from distributed import get_worker

    try:
        worker = get_worker()
        key = worker.get_current_task()
    except (ValueError, AttributeError):
        return lambda: False

    def released() -> bool:
        task = worker.state.tasks.get(key)
        return task is None or task.state == "cancelled"

    return released


@contextmanager
def explained(name: str) -> Iterator[None]:
    """Turn the failures of machines into errors that say what to try."""
    try:
        yield
    except BnbookError:
        raise
    except Exception as error:
        explanation = _explanation(error)
        if explanation is None:
            raise
        raise BnbookError(
            f"{name}: {explanation} Finished members and checkpoints are kept, and no record was"
            " touched; the same command goes on from there."
        ) from error


def _explanation(error: BaseException) -> str | None:
    kind, text = type(error).__name__, str(error).lower()
    memory = isinstance(error, RuntimeError) and ("memory" in text and "alloca" in text)
    if isinstance(error, MemoryError) or memory or "out of memory" in text:
        return "there was not enough memory. Try `--members 4`, or fewer `--workers`."
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return (
            f"the disk is full ({error.strerror}, {error.filename or 'while writing'}). Free some."
        )
    if "deserialization" in text:
        return "the Dask scheduler has another bnbook than this machine. Install the same on both."
    if isinstance(error, BrokenProcessPool):
        return "a worker process died, perhaps for want of memory. Try fewer `--workers`."
    if kind == "KilledWorker":
        return (
            "one batch ended every Dask worker that tried it, usually for want of memory. Try"
            " `--members 4`, or workers with a larger `--memory-limit`; or bnbook is not installed"
            " there. Their logs say more."
        )
    if isinstance(error, CancelledError) or kind in ("CommClosedError", "FutureCancelledError"):
        return "the Dask scheduler went away. Start it and its workers again."
    return None
