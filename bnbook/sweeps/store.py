"""Finished members of sweeps on disk, each under a key of everything that it depends on.

Beside them stand, for each batch that was begun and not finished, a note of its members, and what
its training leaves: its checkpoint and its progress.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
from filelock import FileLock

from bnbook import files
from bnbook.errors import BnbookError
from bnbook.evidence import records, sources
from bnbook.experiments import Experiment
from bnbook.training.session import Plan

UNCOUNTED = frozenset(
    {
        "bnbook",
        "bnbook.datasets",
        "bnbook.experiments",
        "bnbook.files",
        "bnbook.evidence.records",
        "bnbook.training.session",
    }
)
"""Modules whose source does not decide what is measured: the keys hold the digest of the data, and
the others say where, when and in what file."""


def source_digests(experiment: Experiment) -> dict[str, str]:
    """Digests of the definitions that an experiment's table depends on, by name."""
    computes = experiment.computes
    return sources.source_digests(computes.__module__, computes.__name__, UNCOUNTED)


def versions() -> dict[str, str | None]:
    """Return the releases of the packages that decide numbers."""
    return {package: records.released(package) for package in ("torch", "numpy")}


def facts(
    part: Any, source: str, device: str, plan: Plan, known: Mapping[str, str | None] | None = None
) -> dict[str, Any]:
    """Return all that a member's table depends on."""
    from bnbook import datasets

    found = {
        "config": asdict(part),
        "source": source,
        "data": datasets.digest(part.data),
        "scaling": datasets.scaling(part.data),
        **(known or versions()),
        "device": device,
        "precision": plan.precision,
    }
    again: dict[str, Any] = json.loads(json.dumps(found))
    return again


def key(facts: Mapping[str, Any]) -> str:
    """SHA-256 (hex) of a member's facts."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def batch_key(members: Sequence[str]) -> str:
    """SHA-256 (hex) of the keys of a batch's members."""
    return hashlib.sha256("\n".join(members).encode()).hexdigest()


@dataclass(frozen=True)
class Store:
    """The finished members and begun batches of one experiment.

    Attributes
    ----------
    folder : pathlib.Path
        Where they stand; made when the first is written.
    """

    folder: Path

    def locked(self) -> FileLock:
        """Return the lock under which notes are read and changed, by one sweep at a time."""
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        return FileLock(self.folder.with_suffix(".lock"), is_singleton=True)

    def member(self, key: str) -> Path:
        """Return where a member's record stands."""
        return self.folder / f"{key}.parquet"

    def read(self, key: str) -> records.Record:
        """Read a member's record, which must be of what its name is made of."""
        try:
            return _member(self.member(key))
        except BnbookError as error:
            raise BnbookError(f"{error} `bnbook records prune` deletes damaged members.") from error

    def checkpoint(self, batch: str) -> Path:
        """Return where a batch keeps its state."""
        return self.folder / f"{batch}.checkpoint"

    def progress(self, batch: str) -> Path:
        """Return where a batch says how far it is."""
        return self.folder / f"{batch}.progress"

    def note(self, batch: str) -> Path:
        """Return where it is noted which members a batch has."""
        return self.folder / f"{batch}.json"

    def begin(self, members: Sequence[str], facts: Mapping[str, Any]) -> None:
        """Note which members a batch has, unless that is noted already."""
        path = self.note(batch_key(members))
        with self.locked():
            if not path.is_file():
                note = {"members": list(members), "seconds": 0.0, "facts": dict(facts)}
                files.write_json(path, note)

    def pause(self, members: Sequence[str], seconds: float) -> None:
        """Note the time that a batch has spent so far; nothing when another sweep has ended it."""
        path = self.note(batch_key(members))
        with self.locked():
            if path.is_file():
                note = read_note(path)
                files.write_json(path, {**note, "seconds": note["seconds"] + seconds})

    def part_way(self, batch: str) -> bool:
        """Whether some of a batch has been trained."""
        with self.locked():
            return self._spent(batch) > 0 or self.checkpoint(batch).is_file()

    def _spent(self, batch: str) -> float:
        """Seconds that were noted of a batch; none when there is no note of it."""
        note = self.note(batch)
        return float(read_note(note)["seconds"]) if note.is_file() else 0.0

    def begun(self) -> list[tuple[str, ...]]:
        """Return the batches that were begun and not finished, by the keys of their members."""
        with self.locked():
            notes = [read_note(path) for path in sorted(self.folder.glob("*.json"))]
        return [tuple(note["members"]) for note in notes]

    def finish(
        self,
        members: Mapping[str, Mapping[str, Any]],
        tables: Sequence[pd.DataFrame],
        seconds: float,
        about: Mapping[str, Any],
    ) -> None:
        """Record every member of a batch, then forget it and other batches with one of them.

        A member that another sweep has recorded meanwhile stays as it is.
        """
        batch = batch_key(tuple(members))
        with self.locked():
            spent = seconds + self._spent(batch)
            said = {**about, "seconds": round(spent / len(members), 3), "date": today()}
            for (key, facts), table in zip(members.items(), tables, strict=True):
                if not self.member(key).is_file():
                    records.write(self.member(key), table, {**said, "facts": facts})
            for begun in self.begun():
                if not members.keys().isdisjoint(begun):
                    self.forget(batch_key(begun))

    def forget(self, batch: str) -> None:
        """Remove what a batch has left, its note last."""
        for path in (self.checkpoint(batch), self.progress(batch), self.note(batch)):
            path.unlink(missing_ok=True)

    def finished(self) -> Iterator[tuple[Path, dict[str, Any] | None]]:
        """Yield each member's file and its record's provenance, None where it is damaged."""
        for path in sorted(self.folder.glob("*.parquet")):
            try:
                yield path, _member(path).provenance
            except BnbookError:
                yield path, None


def _member(path: Path) -> records.Record:
    """Read a member's record; without facts it is of an older version, whose keys nobody has."""
    record = records.read(path)
    facts = record.provenance.get("facts")
    if facts is not None and key(facts) != path.stem:
        raise BnbookError(
            f"{path} is the record of another member than its name says: it was copied or renamed."
            " It was left as it is."
        )
    return record


def read_note(path: Path) -> dict[str, Any]:
    """Read the note of a batch that was begun.

    Raises
    ------
    BnbookError
        When it is damaged, or the note of another batch.
    """
    try:
        note: dict[str, Any] = json.loads(path.read_text("utf-8"))
        right = batch_key(note["members"]) == path.stem
        _ = float(note["seconds"]), dict(note["facts"])
    except (ValueError, TypeError, KeyError):
        right = False
    if not right:
        raise BnbookError(
            f"{path} is not the note of a batch that it should be: it was damaged, copied or"
            " renamed. It was left as it is; `bnbook records prune` deletes it, and that batch"
            " begins anew."
        )
    return note


def today() -> str:
    """Return the date in UTC, such as 2026-01-02."""
    return datetime.now(UTC).date().isoformat()


def diverged(table: pd.DataFrame) -> bool:
    """Whether a member's table says that it did not stay finite (``diverged_at``, a step or -1)."""
    return "diverged_at" in table and bool((table["diverged_at"] >= 0).any())
