"""The queue: what is to be recorded, in order, worked through in as many sittings as it takes.

`queue.toml` lists experiments, profiles and why each is wanted. What is done stands in the records
alone, so that the queue goes on wherever they are, whatever ended it.
"""

from __future__ import annotations

import contextlib
import os
import tomllib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from bnbook import experiments
from bnbook.errors import BnbookError
from bnbook.evidence import records
from bnbook.sweeps import growing, inventory
from bnbook.sweeps.progress import in_words
from bnbook.training import session
from bnbook.training.session import OutOfTimeError

FILE = "queue.toml"
NICENESS = 10
LEAST = 30.0
"""Seconds of a budget below which no further record is begun."""
WHOLE = "whole"


@dataclass(frozen=True)
class Entry:
    """A record that is wanted, why, and whether it may hold members of several devices."""

    experiment: str
    profile: str
    why: str
    mixed: bool = False

    @property
    def name(self) -> str:
        """The experiment and the profile, for a reader."""
        return f"{self.experiment} at {self.profile}"


@dataclass(frozen=True)
class State:
    """How far a record is: in words, members done and in all, seconds of computing spent and left.

    What is not known is None. ``estimated`` is what was expected before the first member.
    """

    said: str
    done: int = 0
    members: int | None = None
    spent: float = 0.0
    left: float | None = None
    estimated: float | None = None


def read(path: Path) -> list[Entry]:
    """Read the queue."""
    if not path.is_file():
        raise BnbookError(f"expected a queue at {path}, found none.")
    try:
        listed = tomllib.loads(path.read_text("utf-8")).get("record", [])
        entries = [Entry(**each) for each in listed]
    except (ValueError, TypeError) as error:  # not TOML, not UTF-8, other fields
        raise BnbookError(
            f"{path} must hold [[record]] tables with experiment, profile and why, and mixed"
            f" where it applies: {error}."
        ) from error
    for entry in entries:
        experiments.find(entry.experiment).configure(entry.profile)
    if len(set(entries)) < len(entries):
        raise BnbookError(f"{path} lists a record twice.")
    return entries


def state(entry: Entry, folder: Path) -> State:
    """Say how far a record is."""
    path = records.path(folder, entry.experiment, entry.profile)
    aside = path.with_name(f"{path.stem}{growing.GROWING}.parquet")
    standing = records.read(path).provenance if path.is_file() else None
    if standing is not None and not standing.get("missing"):
        if not inventory.why(entry.experiment, standing):
            spent = standing["seconds"]
            n = standing.get("members")
            return State(WHOLE, n or 0, n, spent, 0.0, standing.get("estimated_seconds"))
        if not aside.is_file():
            return State("not begun; an older record stands", left=standing["seconds"])
    partial = aside if aside.is_file() else path
    if not partial.is_file():
        return State("not begun")
    about = records.read(partial).provenance
    done = about["members"] - about["missing"]
    mean = about["seconds"] / done
    said = f"{done} of {about['members']}"
    left, estimated = mean * about["missing"], about.get("estimated_seconds")
    return State(said, done, about["members"], about["seconds"], left, estimated)


def left_in_words(states: Sequence[State], workers: int) -> str:
    """Say how much is left, by what finished members took."""
    open_ = [each for each in states if each.said != WHOLE]
    known = sum(each.left or 0.0 for each in open_) / workers
    unknown = sum(each.left is None for each in open_)
    said = f"{len(open_)} of {len(states)} records left"
    if known:
        said += f", about {in_words(known)} with {workers} workers"
    return said + (f", and {unknown} of which no member is timed" if unknown else "")


Grow = Callable[..., Any]
"""`bnbook.sweeps.sweep.grow`, or what stands in for it."""


def work(
    entries: Sequence[Entry], folder: Path, grow: Grow, *, budget: float | None, **how: Any
) -> Iterator[tuple[Entry, str]]:
    """Record what the queue lists, in order, and yield what became of each entry that was open."""
    deadline = None if budget is None else session.now() + budget
    for entry in entries:
        if state(entry, folder).said == WHOLE:
            continue
        left = None if deadline is None else deadline - session.now()
        if left is not None and left < LEAST:
            raise OutOfTimeError("the queue's time is up.")
        experiment = experiments.find(entry.experiment)
        config = experiment.configure(entry.profile)
        try:
            grow(
                experiment, entry.profile, config,
                folder=folder, budget=left, mixed=entry.mixed, **how,
            )  # fmt: skip
        except OutOfTimeError:
            raise
        except BnbookError as error:
            yield entry, str(error)
        else:
            yield entry, WHOLE


def alone(root: Path) -> FileLock:
    """Be the only queue at work here, and give way to other programs."""
    path = root / "_build" / "queue.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise BnbookError(
            f"another `bnbook queue run` is at work here ({path} is locked); nothing was begun."
            " Wait for it, or stop it."
        ) from error
    give_way()
    return lock


def give_way(group: Path = Path("/proc/self/autogroup")) -> None:
    """Lower this process's priority, and its session's where it leads one.

    Linux shares the cores among sessions first, so that niceness alone counts within one terminal
    and not against a program in another. A session that is somebody's shell is left as it is.
    """
    os.nice(max(0, NICENESS - os.nice(0)))
    if hasattr(os, "getsid") and os.getsid(0) == os.getpid() and group.is_file():
        with contextlib.suppress(OSError):
            group.write_text(str(NICENESS))
