"""What a worker of a sweep does, in this process or on another machine."""

from __future__ import annotations

import functools
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from bnbook.errors import BnbookError
from bnbook.evidence import records, sources
from bnbook.experiments import Experiment
from bnbook.sweeps import executors, planning, store
from bnbook.training.session import OutOfTimeError, Plan, Session


@dataclass(frozen=True)
class Task:
    """A batch as it is handed to a worker.

    Attributes
    ----------
    experiment : Experiment
        Pickled by its name.
    parts : tuple of Config
        Single runs that fuse.
    session : Session
        How to carry them out.
    expects : dict or None
        ``source`` and ``torch`` that the worker must have; None does not look.
    """

    experiment: Experiment
    parts: tuple[Any, ...]
    session: Session
    expects: dict[str, str] | None = None


@dataclass(frozen=True)
class Trained:
    """What a worker hands back.

    Attributes
    ----------
    tables : list of pandas.DataFrame or None
        One for each part; None when time ran out.
    seconds : float
        Time spent.
    machine : dict
        Where, and by which versions and commit: `records.environment`, and ``threads``.
    """

    tables: list[pd.DataFrame] | None
    seconds: float
    machine: dict[str, Any]


@dataclass(frozen=True)
class _Abandonable(Session):
    """A session that also stops when nobody waits for it any longer."""

    gone: Callable[[], bool] = bool

    def out_of_time(self) -> bool:
        """Whether the deadline has passed or nobody waits."""
        return super().out_of_time() or self.gone()


def train_batch(task: Task) -> Trained:
    """Train a batch: what a worker does."""
    started = time.perf_counter()
    session = task.session
    if session.out_of_time():
        return Trained(None, 0.0, {})
    check_versions(task.experiment, task.expects)
    session = _Abandonable(**vars(_with_folder(session)), gone=executors.abandoned())
    tables: list[pd.DataFrame] | None
    try:
        tables = task.experiment.together(task.parts, session)
    except OutOfTimeError:
        tables = None
    return Trained(tables, time.perf_counter() - started, _machine(session.device))


def _with_folder(session: Session) -> Session:
    """Move the files of a session whose folder cannot be made to a folder that can."""
    if session.checkpoint is None or session.progress is None:
        return session
    try:
        session.checkpoint.parent.mkdir(parents=True, exist_ok=True)
    except OSError:
        folder = Path(tempfile.gettempdir()) / "bnbook-sweeps"
        folder.mkdir(exist_ok=True)
        return replace(
            session,
            checkpoint=folder / session.checkpoint.name,
            progress=folder / session.progress.name,
        )
    return session


def versions(source: str) -> dict[str, str]:
    """Return what a worker must have in common with the sweep."""
    return {"source": source, "torch": str(records.installed("torch"))}


def check_versions(experiment: Experiment, expected: Mapping[str, str] | None) -> None:
    """Refuse to work with other versions than the sweep's."""
    if expected is None:
        return
    found = versions(_source(experiment))
    differ = [name for name in found if found[name] != expected[name]]
    if differ:
        said = "; ".join(f"{n} {found[n][:12]}, not {expected[n][:12]}" for n in differ)
        raise BnbookError(
            f"a worker has other versions than the sweep ({said}). Install the same bnbook and"
            " torch on every machine and start the workers again. Nothing was recorded from it."
        )


@functools.cache
def _source(experiment: Experiment) -> str:
    """Digest what a worker loaded, when it loaded it: later edits of the files do not count."""
    return sources.combined(store.source_digests(experiment))


@functools.cache
def _machine(kind: str) -> dict[str, Any]:
    threads = sys.modules["torch"].get_num_threads() if "torch" in sys.modules else 1
    return {**records.environment(_device_name(kind)), "threads": threads}


def _device_name(kind: str) -> str:
    if kind != "cuda":
        return kind
    import torch

    return str(torch.cuda.get_device_name())


def plan(
    experiment: Experiment,
    parts: Sequence[Any],
    device: str,
    folder: Path,
    members: int | None,
    expects: Mapping[str, str] | None,
) -> Plan:
    """Choose a plan, in the process whose speed counts: see `bnbook.sweeps.planning.choose`."""
    check_versions(experiment, expects)
    return planning.choose(experiment, parts, device, folder, members)
