"""Records that grow: finished members are added as they end, each with where it came from.

A record says how many members its config has and how many are missing. Each member has its rows,
its seconds and an *origin*: the machine, the versions and the commit that trained it, and the facts
that its key is made of. So a clone goes on where another machine stopped, and a member that was
trained under the same key is never trained again. Nothing partial replaces something whole: beside
a whole record of older code the new one grows in a file of its own, until it covers the old one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
from filelock import FileLock

from bnbook.errors import BnbookError
from bnbook.evidence import records
from bnbook.evidence.sources import combined
from bnbook.experiments import Experiment
from bnbook.sweeps import store
from bnbook.sweeps.outdated import outdated
from bnbook.sweeps.store import Store
from bnbook.training.session import now

GROWING = ".growing"
"""Added to the stem of a file that grows beside a whole record."""
CARRIED = ("estimated_seconds", "again")
"""What a record states of itself that is kept when members are added."""
WHERE = ("device", "torch", "numpy")
"""Facts of a member that say where it was trained, and not what."""
_MACHINE = ("device", "processor", "cores", "threads", "system", "versions", "commit", "plan")


@dataclass(frozen=True)
class Member:
    """A finished member: its rows, the seconds it took, and its origin."""

    table: pd.DataFrame
    seconds: float
    origin: dict[str, Any]


Keyed = Callable[[Any, Mapping[str, Member]], dict[str, dict[str, Any]]]
"""A config and a record's members -> key and facts of each member that is wanted, in order."""


def kept(record: records.Record) -> Member:
    """Return a finished member of the cache."""
    about = record.provenance
    origin = {name: about[name] for name in (*_MACHINE, "date")}
    return Member(record.table, about["seconds"], {**origin, "facts": _rest(about["facts"])})


def _rest(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return the facts that members of one config share: all but the config."""
    return {name: value for name, value in facts.items() if name != "config"}


def run_digest(facts: Mapping[str, Any]) -> str:
    """Name a single run by its config alone: 16 hexadecimal digits."""
    text = json.dumps(facts["config"], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def described(config: Any, sources: Mapping[str, str]) -> dict[str, Any]:
    """State what a config's members have in common: config, data and source."""
    from bnbook import datasets

    return {
        "config": asdict(config),
        "seeds": len(config.seeds),
        "data": config.data,
        "data_digest": datasets.digest(config.data),
        "source_digest": combined(sources),
        "sources": dict(sources),
    }


def assemble(
    about: Mapping[str, Any], facts: Sequence[Mapping[str, Any]], members: Mapping[str, Member]
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Put a record together from the members that are finished.

    `about` is what the provenance states of all members. `facts` are those of every member of the
    config, in the order of the table. `members` maps a `run_digest` to a member. The table has the
    members' rows. The provenance has ``members`` (of the config), ``missing``, ``diverged``,
    ``seconds``, the machines, ``origins``, ``columns`` (names and types) and ``runs``: for each
    member its `run_digest`, number of rows, seconds, and places in ``origins`` and ``columns``.
    """
    digests = [run_digest(each) for each in facts]
    found = {digest: members[digest] for digest in digests if digest in members}
    origins, columns, runs = list[Any](), list[Any](), list[Any]()
    for digest, member in found.items():
        kinds = [[name, str(kind)] for name, kind in member.table.dtypes.items()]
        places = [_place(origins, member.origin), _place(columns, kinds)]
        runs.append([digest, len(member.table), member.seconds, *places])
    tables = [member.table for member in found.values()]
    return pd.concat(tables, ignore_index=True), {
        **about,
        "members": len(digests),
        "missing": len(digests) - len(found),
        "diverged": sum(map(store.diverged, tables)),
        "seconds": round(sum(member.seconds for member in found.values()), 1),
        **_machines(origins),
        "origins": origins,
        "columns": columns,
        "runs": runs,
    }


def _place(known: list[Any], value: Any) -> int:
    if value not in known:
        known.append(value)
    return known.index(value)


def _machines(origins: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """State the machines together: each device, processor and system once, the rest of the last."""
    last = max(origins, key=lambda origin: str(origin["date"]))
    found = {name: last[name] for name in (*_MACHINE, "date")}
    for name in ("device", "processor", "system"):
        found[name] = "; ".join(dict.fromkeys(str(origin[name]) for origin in origins))
    return found


def members_of(record: records.Record) -> dict[str, Member]:
    """Take a record apart: `run_digest` -> member; empty for one that states no origins."""
    about, found, start = record.provenance, {}, 0
    for digest, rows, seconds, origin, columns in about.get("runs", ()):
        kinds = dict(about["columns"][columns])
        table = record.table.iloc[start : start + rows][list(kinds)].reset_index(drop=True)
        found[digest] = Member(table.astype(kinds), seconds, about["origins"][origin])
        start += rows
    return found


def member_at(
    experiment: Experiment, record: records.Record, profile: str, place: int
) -> tuple[Any, str]:
    """Return the single run of a record's member, by its place, and its `run_digest`.

    Raises
    ------
    BnbookError
        When there is no such member, or the config has no such run any longer.
    """
    runs = record.provenance.get("runs", ())
    if not runs:
        raise BnbookError(
            f"the {profile} record of {experiment.name} must say which run each of its rows is of,"
            " as records do that `bnbook run --record` made; this one does not. Nothing was"
            f" trained. `bnbook run {experiment.name} --profile {profile}` makes a fresh one, and"
            f" `bnbook compare {experiment.name} --profile {profile}` holds them together."
        )
    if not 0 <= place < len(runs):
        raise BnbookError(f"member must lie in [0, {len(runs) - 1}], found {place}.")
    config = experiment.configure(profile, data=record.provenance["data"])
    tables = {digest: member.table for digest, member in members_of(record).items()}

    def digest_of(run: Any) -> str:
        return run_digest({"config": json.loads(json.dumps(asdict(run)))})

    for run in experiment.asked(config, lambda run: tables.get(digest_of(run))):
        if digest_of(run) == runs[place][0]:
            return run, runs[place][0]
    raise BnbookError(f"{experiment.name} has no such run any longer; nothing was trained.")


class Growing:
    """The record that a sweep adds its members to.

    With `replace` a record that this one does not cover may be replaced, and members of other code
    be given up. With `mixed` members of another device, or of other releases of torch and NumPy,
    may stand beside those of this run; each says where it comes from. `folder` is the results
    folder.
    """

    def __init__(
        self,
        experiment: Experiment,
        profile: str,
        config: Any,
        folder: Path,
        replace: bool = False,
        mixed: bool = False,
    ) -> None:
        self.experiment, self.config, self.replace = experiment, config, replace
        self.ignored = WHERE if mixed else ()
        self.name, self.profile = experiment.name, profile
        self.estimated: float | None = None
        self.written, self.took = now(), 0.0
        self.path = records.path(folder, self.name, profile)
        self.aside = self.path.with_name(f"{profile}{GROWING}.parquet")

    def begin(self, keyed: Keyed, sources: Mapping[str, str], cache: Store) -> None:
        """Read what stands there, and hand the members in it to the cache.

        Raises
        ------
        BnbookError
            When what stands there can be neither continued nor replaced; it is left as it is.
        """
        self.keyed, self.sources, self.cache = keyed, dict(sources), cache
        with self._alone():
            _, record = self._choose()
            self._hand_over(members_of(record) if record else {})

    def _hand_over(self, held: Mapping[str, Member]) -> None:
        """Write to the cache the members of a record that it has not."""
        for key, facts in self.keyed(self.config, held).items():
            member = held.get(run_digest(facts))
            if member is not None and not self.cache.member(key).is_file():
                about = {**member.origin, "seconds": member.seconds, "facts": facts}
                about |= {"experiment": self.name, "sources": self.sources}
                records.write(self.cache.member(key), member.table, about)

    def due(self) -> bool:
        """Whether to write again: at most a tenth of the time goes into that."""
        return now() - self.written >= 10 * self.took

    def add(self) -> records.Record | None:
        """Add the members that the cache has, and return the record; None while there are none."""
        started = now()
        try:
            return self._add()
        finally:
            self.written, self.took = now(), now() - started

    def _add(self) -> records.Record | None:
        with self._alone():
            file, record = self._choose()
            members = members_of(record) if record else {}
            self._hand_over(members)
            wanted = self.keyed(self.config, members)
            for key in self._ended(wanted):
                if run_digest(wanted[key]) not in members:
                    members[run_digest(wanted[key])] = kept(self.cache.read(key))
            if not members:
                return None
            about = {**self._itself(record), **described(self.config, self.sources)}
            table, about = assemble(about, list(wanted.values()), members)
            if not about["missing"]:
                file = self.path
            records.write(file, table, about)
            if file == self.path:
                self.aside.unlink(missing_ok=True)
            return records.read(file)

    def _ended(self, wanted: Mapping[str, Any]) -> list[str]:
        """Return the members that the cache has and whose whole batch has ended.

        A sweep that was killed while it wrote a batch trains it again as a whole; another machine,
        which knows the record alone, would train the rest of it as a smaller batch.
        """
        missing = {key for key in wanted if not self.cache.member(key).is_file()}
        begun = {k for keys in self.cache.begun() if not missing.isdisjoint(keys) for k in keys}
        return [key for key in wanted if key not in missing | begun]

    def _itself(self, record: records.Record | None) -> dict[str, Any]:
        """What the record states of itself: its name, the first estimate, members compared."""
        about: dict[str, Any] = {"experiment": self.name, "profile": self.profile}
        if self.estimated is not None:
            about["estimated_seconds"] = round(self.estimated, 1)
        before = record.provenance if record else {}
        return about | {name: before[name] for name in CARRIED if name in before}

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Hold the lock of the record, and clear away what a process that was killed left aside."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(self.path.with_name(f".{self.profile}.lock"), is_singleton=True):
            for left in self.path.parent.glob(f".{self.profile}*.parquet.*"):
                left.unlink(missing_ok=True)
            yield

    def _choose(self) -> tuple[Path, records.Record | None]:
        """Return the file to write, and the record in it that goes on, if one does."""
        if not self.path.is_file():
            return self.path, None
        standing = records.read(self.path)
        if standing.provenance.get("missing"):
            return self._join(self.path, standing)
        if self._goes_on(standing):
            return self.path, standing
        if not self.replace:
            self._check_covers(standing)
        return self._join_aside()

    def _join_aside(self) -> tuple[Path, records.Record | None]:
        if not self.aside.is_file():
            return self.aside, None
        return self._join(self.aside, records.read(self.aside))

    def _join(self, file: Path, record: records.Record) -> tuple[Path, records.Record | None]:
        """Go on with a record that is not whole, or begin it anew where that is allowed."""
        if self._goes_on(record):
            return file, record
        if not self.replace:
            raise BnbookError(self._refusal(file, record))
        return file, None

    def _goes_on(self, record: records.Record) -> bool:
        """Take the larger of a record's config and this one, if its members may stay at all."""
        config = self._larger(record) if self._stands(record) else None
        self.config = config or self.config
        return config is not None

    def _stands(self, record: records.Record) -> bool:
        """Whether all members of a record would be used today under the record's own config."""
        config = _revived(self.config, record.provenance.get("config") or {})
        if config is None or not record.provenance.get("runs"):
            return False
        every = self.keyed(config, members_of(record))
        now = {run_digest(facts): self._counted(_rest(facts)) for facts in every.values()}
        then = [self._counted(origin["facts"]) for origin in record.provenance["origins"]]
        return all(now.get(run[0]) == then[run[3]] for run in record.provenance["runs"])

    def _counted(self, facts: Mapping[str, Any]) -> dict[str, Any]:
        """Return the facts that members of one record must share."""
        return {name: value for name, value in facts.items() if name not in self.ignored}

    def _larger(self, record: records.Record) -> Any:
        """Return the record's config when it has all of this one's runs, or this one; else None."""
        theirs = _revived(self.config, record.provenance["config"])
        held = members_of(record)
        ours, others = (
            {run_digest(facts) for facts in self.keyed(config, held).values()}
            for config in (self.config, theirs)
        )
        return theirs if ours <= others else self.config if ours >= held.keys() else None

    def _refusal(self, file: Path, record: records.Record) -> str:
        about, now = record.provenance, next(iter(self.keyed(self.config, {}).values()))
        reasons = []
        for origin in about.get("origins", ()):
            facts = {**origin["facts"], "config": {"data": about["data"]}}
            reasons += outdated(facts, about.get("sources"), self.sources)
            reasons += [
                f"{name}: was {facts[name]}, is {now[name]}"
                for name in ("device", "precision")
                if facts[name] != now[name]
            ]
        said = "; ".join(dict.fromkeys([*reasons, *_changes(about["config"], self.config)]))
        count = f"{len(about.get('runs', ()))} of {about.get('members', '?')} members"
        return (
            f"{file} holds {count} that do not belong with those of this run ({said}). It was left"
            " as it is. Go back to that state to go on with it, or begin anew with `--replace`."
        )

    def _check_covers(self, standing: records.Record) -> None:
        """Refuse to replace a whole record by one that lacks a seed of it or has fewer members."""
        about = standing.provenance
        stored = about.get("config") or {}
        config = _revived(self.config, stored)
        ours, seeds = len(self.keyed(self.config, {})), list(self.config.seeds)
        theirs = len(self.experiment.parts(config)) if config else about.get("members", 0)
        had = stored.get("seeds", [])
        fewer = ours < theirs and not self.experiment.rounds
        if not set(had) <= set(seeds) or len(seeds) < about.get("seeds", 0) or fewer:
            raise BnbookError(
                f"{self.path} holds {theirs} members with seeds {had or about.get('seeds')}, this"
                f" run would have {ours} with seeds {seeds}. It was left as it is; run what covers"
                " it, or replace it with `--replace`."
            )


def _revived(like: Any, stored: Mapping[str, Any]) -> Any:
    """Return a stored config as one like another; None when today's class has or takes no such."""
    if stored.keys() != asdict(like).keys():
        return None
    try:
        return replace(like, **{name: _tupled(value) for name, value in stored.items()})
    except BnbookError:
        return None


def _changes(stored: Mapping[str, Any], config: Any) -> list[str]:
    now = json.loads(json.dumps(asdict(config)))
    names = sorted(now.keys() | stored.keys())
    return [
        f"config: {name} was {stored.get(name)}, is {now.get(name)}"
        for name in names
        if stored.get(name) != now.get(name)
    ]


def _tupled(value: Any) -> Any:
    return tuple(map(_tupled, value)) if isinstance(value, list) else value
