"""Executors: a real Dask scheduler and workers on loopback, and what is said when they fail."""

import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import CancelledError
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from bnbook.errors import BnbookError
from bnbook.sweeps import executors, sweep, worker
from bnbook.training.session import OutOfTimeError
from tests import fake
from tests.fake import EXPERIMENT as FAKE
from tests.sweeps.test_sweep import contents, log, same, swept  # noqa: F401, a fixture

ROOT = Path(__file__).parents[2]


def test_the_executor_follows_from_workers_and_scheduler():
    assert executors.named(None, 1, None) == "inline"
    assert executors.named(None, 2, None) == "processes"
    assert executors.named(None, 1, "tcp://a:1") == "dask"
    assert executors.named("processes", 1, None) == "processes"


def test_inline_runs_at_once_and_lets_ctrl_c_through():
    executor = executors.InlineExecutor()
    assert executor.submit(divmod, 7, 2).result(0) == (3, 1)
    assert isinstance(executor.submit(divmod, 7, 0).exception(0), ZeroDivisionError)
    with pytest.raises(KeyboardInterrupt):
        executor.submit(fake._strike, "interrupt")


def test_dask_not_installed_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(BnbookError, match=r'pip install "bnbook\[cluster\]"'):
        swept(tmp_path, scheduler="tcp://127.0.0.1:1")


def test_a_worker_with_other_source_is_refused(monkeypatch):
    with pytest.raises(BnbookError, match=r"other versions than the sweep \(source .*, not 0000"):
        worker.check_versions(FAKE, {"source": "0" * 64, "torch": "0"})


def test_a_worker_without_the_folder_uses_one_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    (tmp_path / "file").touch()
    folder = tmp_path / "file" / "no-folder"
    parts = tuple(FAKE.parts(fake.Config()))
    session = sweep.Session("cpu", checkpoint=folder / "a.checkpoint", progress=folder / "a.prog")
    assert len(worker.train_batch(worker.Task(FAKE, parts, session)).tables) == 6
    assert (tmp_path / "bnbook-sweeps" / "a.checkpoint").is_file()


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (RuntimeError("Error during deserialization of the task graph."), "has another bnbook"),
        (BrokenProcessPool("died"), "a worker process died"),
        (MemoryError(), "Try `--members 4`"),
        (OSError(errno.EDQUOT, "Disk quota exceeded", "a"), "the disk is full .Disk quota .*a.*"),
        (CancelledError(), "the Dask scheduler went away"),
    ],
)
def test_a_machine_that_fails_says_what_to_try(error, says):
    with pytest.raises(BnbookError, match=says) as raised, executors.explained("fake"):
        raise error
    assert "the same command goes on from there" in str(raised.value)


def test_a_batch_that_ends_every_dask_worker_says_what_to_try():
    distributed = pytest.importorskip("distributed", reason="distributed is not installed")
    error = distributed.scheduler.KilledWorker("batch", SimpleNamespace(address="a"), 3)
    with pytest.raises(BnbookError, match="ended every Dask worker"), executors.explained("fake"):
        raise error


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:9", "nowhere", "ftp://a:1"])
def test_a_scheduler_that_is_not_there(tmp_path, monkeypatch, address):
    pytest.importorskip("distributed", reason="the package distributed is not installed")
    monkeypatch.setattr(executors, "CONNECT_SECONDS", 0.3)
    swept(tmp_path)
    before = contents(tmp_path)
    with pytest.raises(BnbookError, match="no Dask scheduler answers at") as error:
        swept(tmp_path, scheduler=address)
    assert "Start one with `dask scheduler`" in str(error.value)
    assert contents(tmp_path) == before


@pytest.fixture(scope="module")
def dask():
    """Start `dask` with arguments; what still runs at the end is killed."""
    pytest.importorskip("distributed", reason="the package distributed is not installed")
    started = []

    def start(*arguments, without=None):
        environment = {
            **os.environ, "PYTHONPATH": str(ROOT), "DASK_DISTRIBUTED__DEPLOY__LOST_WORKER_TIMEOUT":
            "1s", "PYTHONWARNINGS": "ignore",
        }  # fmt: skip
        process = subprocess.Popen(
            [sys.executable, *(["-m", "dask"] if without is None else [without]), *arguments],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()


WITHOUT = """
import importlib.abc, sys

class Blocked(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("bnbook", "tests"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Blocked())
from dask.__main__ import main
main()
"""
"""Dask as on a machine without the package."""


def start_worker(dask, address, folder, *more):
    return dask(
        "worker", address, "--nthreads", "1", "--no-nanny", "--no-dashboard", "--local-directory",
        str(folder), "--death-timeout", "60", *more,
    )  # fmt: skip


@pytest.fixture(scope="module")
def scheduler(dask, tmp_path_factory):
    file = tmp_path_factory.mktemp("dask") / "scheduler.json"
    dask(
        "scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file",
        str(file),
    )  # fmt: skip
    started = time.monotonic()
    while not file.is_file() or not file.read_text():
        assert time.monotonic() - started < 60
        time.sleep(0.05)
    return json.loads(file.read_text())["address"]


def first_pid(folder, what):
    """Wait until that has happened in some process; return its id."""
    started = time.monotonic()
    while time.monotonic() - started < 60:
        file = folder / "log"
        for line in file.read_text().splitlines() if file.is_file() else ():
            if json.loads(line)[0] == what:
                return json.loads(line)[1]
        time.sleep(0.02)
    raise AssertionError(f"nothing {what}")


@pytest.mark.slow
def test_a_dask_worker_killed_in_mid_sweep_changes_nothing(tmp_path, log, dask, scheduler):  # noqa: F811
    config = fake.Config(steps=30, pause=0.03, seeds=(0, 1, 2), rates=(3.5, 3.7, 4.0))
    workers = {w.pid: w for w in (start_worker(dask, scheduler, tmp_path) for _ in range(2))}
    killed = []

    def kill_one():
        killed.append(first_pid(log, "began"))
        time.sleep(0.4)
        os.kill(killed[0], signal.SIGKILL)

    killer = threading.Thread(target=kill_one)
    killer.start()
    outcome = swept(tmp_path / "cache", config, 2, scheduler=scheduler)
    killer.join()
    assert killed[0] in workers
    assert outcome.left == 0
    assert outcome.diverged == 3
    same(outcome.table, swept(tmp_path / "whole", replace(config, pause=0.0), 2).table)
    lines = [json.loads(line) for line in (log / "log").read_text().splitlines()]
    struck = [line[2] for line in lines if line[:2] == ["began", killed[0]]][-1]
    pids = {line[1] for line in lines if line[0] == "began" and line[2] == struck}
    assert pids == set(workers) | {os.getpid()}, "its batch did not move to the other worker"
    assert {path.suffix for path in (tmp_path / "cache" / "fake").iterdir()} == {".parquet"}
    for process in workers.values():
        process.kill()
        process.wait()


@pytest.mark.slow
def test_a_batch_that_nobody_waits_for_stops_and_keeps_its_state(tmp_path, log, dask, scheduler):  # noqa: F811
    from distributed import Client

    process = start_worker(dask, scheduler, tmp_path)
    config = fake.Config(steps=1000, pause=0.2)
    session = sweep.Session(
        "cpu", checkpoint=tmp_path / "a.checkpoint", progress=tmp_path / "a.progress"
    )
    task = worker.Task(FAKE, tuple(FAKE.parts(config)), session)
    with Client(scheduler, set_as_default=False) as client:
        future = client.submit(worker.train_batch, task, pure=False)
        first_pid(log, "began")
        future.cancel()
        started = time.monotonic()
        while not session.checkpoint.is_file():
            assert time.monotonic() - started < 30
            time.sleep(0.02)
        step = json.loads(session.checkpoint.read_text())["step"]
        assert step < 5, "it stopped by itself, not when it was cancelled"
        time.sleep(0.5)
        assert json.loads(session.checkpoint.read_text())["step"] == step
    process.kill()
    process.wait()


@pytest.mark.slow
def test_a_worker_without_the_package_is_refused_by_name(tmp_path, dask, scheduler):
    from distributed import Client

    file = tmp_path / "without.py"
    file.write_text(WITHOUT)
    process = dask(
        "worker", scheduler, "--nthreads", "1", "--no-nanny", "--no-dashboard", without=file
    )
    with Client(scheduler, set_as_default=False) as client:
        client.wait_for_workers(1, timeout=60)
    with pytest.raises(BnbookError, match=r"cannot be imported on tcp://.* Nothing was begun"):
        swept(tmp_path / "cache", scheduler=scheduler)
    assert not (tmp_path / "cache").exists()
    process.kill()
    process.wait()


def test_a_scheduler_without_the_package_is_refused():
    def lacks(*_):
        raise ModuleNotFoundError("No module named 'bnbook'")

    client = SimpleNamespace(run=lambda *_, **__: {"tcp://a:1": "1.0"}, run_on_scheduler=lacks)
    with pytest.raises(BnbookError, match="cannot be imported on the scheduler tcp://a:2"):
        executors._check_installed(client, "tcp://a:2")


@pytest.mark.slow
def test_waiting_for_workers_is_said_once(tmp_path, scheduler, capsys):
    with pytest.raises(OutOfTimeError, match="no worker had answered when the time was up"):
        swept(tmp_path, scheduler=scheduler, budget=6.0)
    assert capsys.readouterr().err.count("no worker is there; waiting for one") == 1


@pytest.mark.slow
def test_a_batch_for_a_gpu_goes_to_a_worker_that_has_one(tmp_path, dask, scheduler):
    from distributed import Client

    kinds = (), ("--resources", "GPU=1")
    both = [start_worker(dask, scheduler, tmp_path, *more) for more in kinds]
    with Client(scheduler, set_as_default=False) as client:
        client.wait_for_workers(2, timeout=30)
    with executors.opened("dask", 1, scheduler, "auto") as crew:
        assert crew.device == "cuda"
        found = [crew.executor.submit(os.getpid) for _ in range(4)]
        assert {future.result(30) for future in found} == {both[1].pid}
    with executors.opened("dask", 1, scheduler, "cpu") as crew:
        assert crew.device == "cpu"
    for process in both:
        process.kill()
        process.wait()
