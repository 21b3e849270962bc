"""Contenders in processes of their own, started and prepared before anything is timed."""

from __future__ import annotations

import multiprocessing
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from bnbook.bench.runner import Runner
from bnbook.bench.workloads import State, Workload
from bnbook.errors import BnbookError
from bnbook.sweeps import memory


def remote(
    workload: Workload,
    steps: int,
    seed: int,
    device: str,
    *,
    kind: str,
    threads: int | None,
    processes: int,
) -> Runner:
    """Prepare a contender in one process or several, each with its share of the members."""
    rates = [
        [float(rate) for rate in share]
        for share in np.array_split(workload.rates(workload.members), processes)
    ]
    workers = [_Worker((kind, workload, steps, seed, device, share, threads)) for share in rates]

    def everyone(word: str) -> list[Any]:
        for worker in workers:
            worker.say(word)
        return [worker.hear() for worker in workers]

    def state() -> State:
        parts = everyone("state")
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def call(word: str) -> None:
        everyone(word)

    def close() -> None:
        for worker in workers:
            worker.close()

    try:
        for worker in workers:
            worker.hear()
    except BaseException:
        close()
        raise
    return Runner(workload.members, lambda: call("reset"), lambda: call("run"), state, close)


class _Worker:
    """A process that holds a runner and does what it is told."""

    def __init__(self, job: tuple[Any, ...]) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, other = context.Pipe()
        self.process = context.Process(target=_serve, args=(other, job), daemon=True)
        self.process.start()
        other.close()

    def say(self, word: str) -> None:
        self.connection.send(word)

    def hear(self) -> Any:
        try:
            answer = self.connection.recv()
        except EOFError as error:
            raise BnbookError("a process of the benchmark ended too early.") from error
        if isinstance(answer, BnbookError):
            raise answer
        return answer

    def close(self) -> None:
        self.connection.close()
        self.process.join(timeout=10)
        if self.process.is_alive():
            self.process.terminate()


def _serve(connection: Connection, job: tuple[Any, ...]) -> None:
    """Prepare a runner, then answer words until the other side hangs up."""
    try:
        runner = _runner(*job)
        answers = {"reset": runner.reset, "run": runner.run, "state": runner.state}
        connection.send(None)
        while True:
            connection.send(answers[connection.recv()]())
    except EOFError:
        return
    except Exception as error:
        connection.send(BnbookError(f"a contender of the benchmark failed: {error!r}"))


def _runner(
    kind: str,
    workload: Any,
    steps: int,
    seed: int,
    device: str,
    rates: list[float],
    threads: int | None,
) -> Runner:
    if kind == "jax":
        from bnbook.bench import jax_scan

        return jax_scan.prepare(workload, steps, seed, rates)
    import torch

    from bnbook.bench import our_fit

    memory.keep_freed()  # as a sweep's workers do
    if threads is not None:
        torch.set_num_threads(threads)
    return our_fit.prepare(workload, steps, seed, device, rates)
