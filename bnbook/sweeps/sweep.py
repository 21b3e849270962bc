"""Run what no record holds: in fused batches, in parallel, resumable, never the same member twice.

A member is one single run of a config; see `Experiment.parts`. Finished members are kept in a cache
folder under a key of everything that they depend on. A sweep that was interrupted goes on with the
members that are missing, and with a batch that was begun from its checkpoint. A batch of which
nothing is finished trains as the same batch as in a sweep that was not interrupted, so that the
tables agree to the last bit.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Hashable, Iterable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from bnbook.errors import BnbookError
from bnbook.evidence import records, sources
from bnbook.experiments import Experiment
from bnbook.sweeps import executors, planning, store
from bnbook.sweeps.executors import Crew
from bnbook.sweeps.growing import Growing, Member, assemble, described, kept, run_digest
from bnbook.sweeps.progress import Progress, Work, in_words
from bnbook.sweeps.store import Store
from bnbook.sweeps.worker import Task, Trained, plan, train_batch, versions
from bnbook.training import session
from bnbook.training.session import OutOfTimeError, Plan, Session

CACHE = records.root() / "_build" / "sweeps"
"""Where finished members are kept."""
GRACE = 30.0
"""Seconds after the deadline at which what still has not stopped is given up."""


@dataclass(frozen=True)
class Outcome:
    """What a sweep came to.

    Attributes
    ----------
    table : pandas.DataFrame
        The rows of the members that are finished. When none is left, the same rows in the same
        order as ``experiment.run`` of each config, whatever was resumed.
    seconds : float
        Time spent computing, summed over members, those found in the cache included.
    source_digest : str
        Digest of the source that the run depends on, taken when it started.
    sources : dict
        The digests of its definitions.
    facts : list of dict
        Of every member, in order; see `bnbook.sweeps.store.facts`.
    finished : dict
        `bnbook.sweeps.growing.run_digest` -> member, of those that are finished.
    plan : dict
        The `Plan`'s fields.
    members, left, part_way : int
        All of them; those that are not finished, because time ran out; and those of the latter
        that have a checkpoint.
    diverged : int
        Members that did not stay finite.
    """

    table: pd.DataFrame
    seconds: float
    source_digest: str
    sources: dict[str, str]
    facts: list[dict[str, Any]]
    finished: dict[str, Member]
    plan: dict[str, Any]
    members: int
    left: int
    part_way: int
    diverged: int

    def remains(self) -> str:
        """Say in a sentence how far the sweep is."""
        return (
            f"{self.members - self.left} of {self.members} members are done, {self.part_way} part"
            f" way, {self.left - self.part_way} not begun; run the same command again to go on."
        )


@dataclass(frozen=True)
class Batch:
    """Members that train as one ensemble: their keys and what the keys are made of, in order."""

    members: dict[str, dict[str, Any]]
    parts: tuple[Any, ...]

    @property
    def key(self) -> str:
        """The key of the batch."""
        return store.batch_key(tuple(self.members))


def sweep(
    experiment: Experiment,
    configs: Any,
    *,
    device: str = "auto",
    workers: int = 1,
    executor: str | None = None,
    scheduler: str | None = None,
    members: int | None = None,
    budget: float | None = None,
    cache: Path | None = None,
    quiet: bool | None = None,
    growing: Growing | None = None,
    threads: int | None = None,
) -> Outcome:
    """Run the members of one or several configs that the cache does not hold.

    `configs` is one config or a sequence of them. A single run that several of them hold is run
    once. `device` is ``auto``, ``cpu`` or ``cuda``.

    With one worker this process does the work; several workers share out the cores. `executor` is
    ``inline``, ``processes`` or ``dask``, by default what `workers` and `scheduler` call for.
    `scheduler` is the address of a Dask scheduler, such as ``tcp://HOST:8786``. Where there are
    several processes, each has `threads` threads, by default its share of the cores.

    At most `members` networks train as one; their number is measured unless given. The sweep stops
    after `budget` seconds, with what is left in the checkpoints. `cache` is the folder of finished
    members, `CACHE` by default. With `quiet` nothing is said on stderr; None tells only a terminal
    how far the sweep is. `growing` is a record from which to take members, and to which to add them
    as they finish.

    Raises
    ------
    BnbookError
        When the arguments do not go together, a config is impossible, or a machine fails.
        Finished members are kept.
    """
    kind = executors.named(executor, workers, scheduler)
    listed = _listed(configs)
    _check_sizes([p for each in listed for p in experiment.asked(each, _none)], members, budget)
    name, folder = experiment.name, cache or CACHE
    deadline = None if budget is None else session.now() + budget - _reserve(budget)
    with (
        executors.explained(name),
        executors.opened(kind, workers, scheduler, device, threads) as crew,
    ):
        run = _Sweep(experiment, listed, crew, Store(folder / name), deadline)
        run.choose_plan(folder, members)
        if growing is not None:
            run.grow(growing, quiet)
        run.carry_out(quiet)
        return run.outcome()


def _reserve(budget: float) -> float:
    """Seconds kept for starting, for the step under way, and for writing what was reached."""
    return min(10.0, 2.0 + budget / 20, budget / 2)


def _listed(configs: Any) -> list[Any]:
    return list(configs) if isinstance(configs, Sequence) else [configs]


def _check_sizes(parts: Sequence[Any], members: int | None, budget: float | None) -> None:
    if not parts:
        raise BnbookError("expected at least one config with a single run in it, found none.")
    if members is not None and members < 1:
        raise BnbookError(f"members must be at least 1, found {members}.")
    if budget is not None and budget <= 0:
        raise BnbookError(f"the budget must be more than 0 seconds, found {budget}.")


def _none(_: Any) -> None:
    """No run has ended."""


def _failed(future: Future[Trained]) -> bool:
    return future.cancelled() or future.exception() is not None


class _Sweep:
    """A sweep under way."""

    def __init__(
        self,
        experiment: Experiment,
        configs: Sequence[Any],
        crew: Crew,
        kept: Store,
        deadline: float | None,
    ) -> None:
        self.experiment, self.crew, self.kept, self.deadline = experiment, crew, kept, deadline
        self.sources = store.source_digests(experiment)
        self.source, self.versions = sources.combined(self.sources), store.versions()
        self.expects = versions(self.source) if crew.apart else None
        self.configs = configs
        self.part_of, self.known = dict[str, Any](), dict[Any, dict[str, Any]]()
        self.tables = dict[str, pd.DataFrame]()
        self.growing: Growing | None = None
        self.told = False

    def choose_plan(self, folder: Path, members: int | None) -> None:
        """Choose how to compute, where it will be computed on other machines; then name members."""
        first = [p for config in self.configs for p in self.experiment.asked(config, _none)]
        call = (self.experiment, first, self.crew.device, folder, members)
        if self.crew.elsewhere:
            self.plan = self._in_time(self.crew.executor.submit(plan, *call, self.expects))
        else:
            self.plan = plan(*call, None)
        self.look()

    def look(self) -> bool:
        """Look which members are wanted, and say whether there are more of them than before.

        They are all that the configs hold; or, in a search, what its rounds asked for so far, by
        the members that are finished.
        """
        before = len(getattr(self, "order", ()))
        self.order, self.facts = list[str](), dict[str, dict[str, Any]]()
        for config in self.configs:
            found = self._keyed(config, {})
            self.order += found
            self.facts |= found
        self.parts = {key: self.part_of[key] for key in self.order}
        return len(self.order) > before

    def _keyed(self, config: Any, held: Mapping[str, Member]) -> dict[str, dict[str, Any]]:
        """Return the key and the facts of each member that is wanted of a config, in order.

        In a search this depends on what is finished: in a record, `held`, or in the cache.
        """

        def table_of(part: Any) -> pd.DataFrame | None:
            facts = self._facts(part)
            member, key = held.get(run_digest(facts)), store.key(facts)
            if member is not None:
                return member.table
            return self._read(key) if self._done(key) else None

        found = {}
        for part in self.experiment.asked(config, table_of):
            facts = self._facts(part)
            key = store.key(facts)
            found[key], self.part_of[key] = facts, part
        return found

    def _read(self, key: str) -> pd.DataFrame:
        """Return the table of a finished member, which a search asks for after each run."""
        if key not in self.tables:
            self.tables[key] = self.kept.read(key).table
        return self.tables[key]

    def _facts(self, part: Any) -> dict[str, Any]:
        if part not in self.known:
            self.known[part] = store.facts(
                part, self.source, self.crew.device, self.plan, self.versions
            )
        return self.known[part]

    def grow(self, growing: Growing, quiet: bool | None) -> None:
        """Take the members of a record, and say before the first run how long they will take."""
        growing.begin(self._keyed, self.sources, self.kept)
        begun = growing.add()
        self.look()
        self.growing = growing
        missing = [part for key, part in self.parts.items() if not self._done(key)]
        if begun is not None or not missing or self.crew.elsewhere:
            return
        limit = min(planning.ESTIMATE_SECONDS, -self._late() / 10)
        seconds = planning.estimate(self.experiment, missing, self.crew.device, self.plan, limit)
        growing.estimated = seconds
        if seconds is not None and not quiet:
            executors.say(
                f"{growing.name}: about {in_words(seconds)} of computing, by a step timed."
            )

    def _in_time(self, future: Future[Plan]) -> Plan:
        while not future.done():
            if self._late() >= 0:
                raise OutOfTimeError("no worker had answered when the time was up.")
            wait([future], timeout=min(1.0, -self._late()))
            self._tell_when_nobody_works()
        return future.result()

    def _tell_when_nobody_works(self) -> None:
        """Say once that the workers have gone, and again when they went another time."""
        gone = self.crew.count() == 0
        if gone and not self.told:
            executors.say(
                f"{self.experiment.name}: no worker is there; waiting for one. A worker that cannot"
                " import bnbook ends when it is given a batch, and its log says so."
            )
        self.told = gone

    def batches(self) -> list[Batch]:
        """What is to be trained: batches that were begun, then the rest in the order of the table.

        The rest is cut into batches before what is finished is left out, so that a batch of which
        nothing is finished is the same as in a sweep from nothing.
        """
        begun, taken = list[tuple[str, ...]](), set[str]()
        for keys in self.kept.begun():
            if self._resumes(keys) and taken.isdisjoint(keys):
                begun.append(keys)
                taken.update(keys)
        groups: dict[Hashable, list[str]] = {}
        for key, part in self.parts.items():
            groups.setdefault(self.experiment.fuses(part), []).append(key)
        size = self.plan.members
        cut = [keys[i : i + size] for keys in groups.values() for i in range(0, len(keys), size)]
        rest = [tuple(k for k in keys if k not in taken and not self._done(k)) for keys in cut]
        return [
            Batch({key: self.facts[key] for key in keys}, tuple(self.parts[key] for key in keys))
            for keys in (*begun, *rest)
            if keys
        ]

    def _resumes(self, keys: Sequence[str]) -> bool:
        """Whether a batch that was noted is wanted, small enough, and neither new nor finished."""
        wanted = all(key in self.parts for key in keys) and len(keys) <= self.plan.members
        done = [self._done(key) for key in keys]
        begun = any(done) or self.kept.part_way(store.batch_key(keys))
        return wanted and begun and not all(done)

    def _done(self, key: str) -> bool:
        return self.kept.member(key).is_file()

    def carry_out(self, quiet: bool | None) -> None:
        """Train what is missing, and then what a plan asks for next, until the deadline."""
        self._carry_out(quiet)
        while self._late() < 0 and (self.look() or self.batches()):
            self._carry_out(quiet)

    def _carry_out(self, quiet: bool | None) -> None:
        """Train what is missing and record each batch as it ends."""
        todo = self.batches()
        missing = {key for batch in todo for key in batch.members}
        found = [self.kept.read(key) for key in self.parts if key not in missing]
        work = {batch.key: self._work(batch) for batch in todo}
        before = sum(store.diverged(record.table) for record in found)
        name = self.experiment.name
        with Progress(name, work, len(found), before, quiet) as progress:
            self._train(deque(todo), progress)

    def _work(self, batch: Batch) -> Work:
        steps = getattr(batch.parts[0], "steps", 1)
        return Work(self.kept.progress(batch.key), len(batch.parts), steps)

    def _train(self, todo: deque[Batch], progress: Progress) -> None:
        running: dict[Future[Trained], Batch] = {}
        window = self.crew.window or len(todo)
        while todo or running:
            late = self._late()
            while todo and len(running) < window and late < 0:
                batch = todo.popleft()
                self.kept.begin(tuple(batch.members), next(iter(batch.members.values())))
                running[self.crew.executor.submit(train_batch, self._task(batch))] = batch
            if not running:
                break
            if late > GRACE:
                raise OutOfTimeError(
                    f"{len(running)} batches had not stopped {GRACE:.0f} s after the time was up"
                    " and were given up. Run the same command again to go on."
                )
            done, _ = wait(running, timeout=1, return_when=FIRST_COMPLETED)
            if not done:
                self._tell_when_nobody_works()
            ended = [(future, running.pop(future)) for future in done]
            for future, batch in sorted(ended, key=lambda pair: _failed(pair[0])):
                self._record(batch, future.result(), progress)
            if ended and self.experiment.searched and self.look():
                todo = self._next(running.values())
                progress.wants({batch.key: self._work(batch) for batch in todo})

    def _next(self, running: Iterable[Batch]) -> deque[Batch]:
        """Return what is to be trained, in its order, beside what is being trained."""
        busy = {key for batch in running for key in batch.members}
        return deque(batch for batch in self.batches() if busy.isdisjoint(batch.members))

    def _late(self) -> float:
        """Seconds since the deadline, negative before it."""
        return -math.inf if self.deadline is None else session.now() - self.deadline

    def _task(self, batch: Batch) -> Task:
        deadline = self.deadline
        if deadline is not None and self.crew.elsewhere:
            deadline += time.time() - session.now()
        how = Session(
            self.crew.device,
            self.plan,
            self.kept.checkpoint(batch.key),
            deadline=deadline,
            elsewhere=self.crew.elsewhere,
            progress=self.kept.progress(batch.key),
        )
        return Task(self.experiment, batch.parts, how, self.expects)

    def _record(self, batch: Batch, trained: Trained, progress: Progress) -> None:
        if trained.tables is None:
            self.kept.pause(tuple(batch.members), trained.seconds)
            return
        about = {
            "experiment": self.experiment.name,
            **trained.machine,
            "plan": asdict(self.plan),
            "sources": self.sources,
        }
        self.kept.finish(batch.members, trained.tables, trained.seconds, about)
        if self.growing is not None and self.growing.due():
            self.growing.add()
        progress.finished(batch.key, sum(map(store.diverged, trained.tables)))

    def outcome(self) -> Outcome:
        """Collect the finished members."""
        self.look()
        left = self.batches()
        missing = {key for batch in left for key in batch.members}
        found = {key: self.kept.read(key) for key in self.parts if key not in missing}
        tables = [found[key].table for key in self.order if key in found]
        part_way = [batch for batch in left if self.kept.part_way(batch.key)]
        return Outcome(
            pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(),
            round(sum(record.provenance["seconds"] for record in found.values()), 1),
            self.source,
            self.sources,
            list(self.facts.values()),
            {run_digest(self.facts[key]): kept(record) for key, record in found.items()},
            asdict(self.plan),
            len(self.parts),
            len(missing),
            sum(len(batch.members) for batch in part_way),
            sum(store.diverged(record.table) for record in found.values()),
        )


def record(
    experiment: Experiment,
    profile: str,
    config: Any,
    *,
    folder: Path | None = None,
    **options: Any,
) -> records.Record:
    """Run a config and write its record, under ``_build/results`` unless told otherwise.

    `profile` is the stem of the file. The options are those of `sweep`. The record is returned as
    read back from the file.

    Raises
    ------
    OutOfTimeError
        When the budget ended first. Nothing is recorded; the finished members are kept.
    BnbookError
        As `sweep` does.
    """
    outcome = sweep(experiment, config, **options)
    name = experiment.name
    if outcome.left:
        raise OutOfTimeError(f"{name} ran out of time, nothing is recorded: {outcome.remains()}")
    path = records.path(folder or records.fresh(), name, profile)
    about = {"experiment": name, "profile": profile, **described(config, outcome.sources)}
    with executors.explained(name):
        records.write(path, *assemble(about, outcome.facts, outcome.finished))
    return records.read(path)


def grow(
    experiment: Experiment,
    profile: str,
    config: Any,
    *,
    folder: Path | None = None,
    replace: bool = False,
    mixed: bool = False,
    **options: Any,
) -> records.Record:
    """Run what a record lacks, adding members to it as they finish; return it when it is whole.

    The results folder is ``results`` by default. For `replace` and `mixed` see `Growing`. The
    options are those of `sweep`.

    Raises
    ------
    OutOfTimeError
        When the budget ended first. What is finished stands in the record.
    BnbookError
        As `sweep` does, and when the members that stand there do not belong with these.
    """
    growing = Growing(experiment, profile, config, folder or records.recorded(), replace, mixed)
    outcome = sweep(experiment, config, growing=growing, **options)
    with executors.explained(growing.name):
        record = growing.add()
    if outcome.left or record is None:
        raise OutOfTimeError(f"{growing.name} ran out of time: {outcome.remains()}")
    return record
