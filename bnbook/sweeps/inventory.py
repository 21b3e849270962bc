"""What records there are, which of them still stand, and why the others do not."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from bnbook import experiments, files
from bnbook.errors import BnbookError
from bnbook.evidence import records
from bnbook.experiments import Experiment
from bnbook.sweeps import outdated, store
from bnbook.sweeps.store import Store

SUFFIXES = (".csv", ".json", ".parquet")
"""The formats of `export`."""


class Row(NamedTuple):
    """One line of `listing`: a record, or the cached members of an experiment."""

    where: str
    experiment: str
    what: str
    n: int | None
    date: str
    size: int
    state: str


def listing(recorded: Path, fresh: Path, sweeps: Path) -> Iterator[Row]:
    """Say what there is: records, results made here, and the finished members of sweeps."""
    for where, folder in (("results", recorded), ("_build/results", fresh)):
        for path in sorted(folder.glob("*/*.parquet")):
            yield _record_row(where, path)
    for folder in sorted(path for path in sweeps.glob("*") if path.is_dir()):
        if row := _members_row(Store(folder)):
            yield row


def _record_row(where: str, path: Path) -> Row:
    name, size = path.parent.name, path.stat().st_size
    try:
        found = records.read(path).provenance
    except BnbookError:
        return Row(where, name, path.stem, None, "", size, "damaged")
    state = "" if name not in experiments.names() else "stale" if why(name, found) else "fresh"
    seeds = found.get("seeds")
    n = len(seeds) if isinstance(seeds, list) else seeds
    return Row(where, name, path.stem, n, str(found.get("date", ""))[:10], size, state)


def _members_row(kept: Store) -> Row | None:
    found = list(kept.finished())
    if not found:
        return None
    sources = _sources(kept.folder.name)
    stale = [path for path, about in found if about is None or _stale(about, sources)]
    dates = [about.get("date", "") for _, about in found if about is not None]
    return Row(
        "_build/sweeps",
        kept.folder.name,
        f"{len(found)} members",
        None,
        max(dates, default=""),
        sum(path.stat().st_size for path, _ in found),
        "fresh" if not stale else "stale" if len(stale) == len(found) else "partly",
    )


def _sources(name: str) -> dict[str, str]:
    """Digests of an experiment's definitions as they are now; empty when it is gone."""
    return store.source_digests(experiments.find(name)) if name in experiments.names() else {}


def behind(folder: Path, awaited: Collection[tuple[str, str]] = ()) -> list[str]:
    """Name the records of other code, config or data than today's, as ``experiment/profile``.

    Those that are awaited, by experiment and profile, do not count: the queue makes them anew. Nor
    do other versions of packages, which `why` names too.
    """
    found = []
    for path in sorted(folder.glob("*/*.parquet")):
        name, profile = path.parent.name, path.stem
        if name not in experiments.names() or (name, profile.partition(".")[0]) in awaited:
            continue
        about = records.read(path).provenance
        if any(line.startswith(("config", "source", "data")) for line in why(name, about)):
            found.append(f"{name}/{profile}")
    return found


def why(name: str, found: Mapping[str, Any]) -> list[str]:
    """Say what has changed since a record was made; nothing when it still stands."""
    return [
        *_config_changes(experiments.find(name), found),
        *outdated.source_changes(found.get("source_digest"), found.get("sources"), _sources(name)),
        *outdated.data_changes(found.get("data"), found.get("data_digest")),
        *outdated.version_changes(found.get("versions") or {}),
    ]


def _stale(found: Mapping[str, Any], now: Mapping[str, str]) -> list[str]:
    """Say why no sweep would use a cached member, or go on with a batch, any longer."""
    if not now:
        return ["experiment: there is none of that name"]
    if "facts" not in found:
        return ["source: written by an older version of the package"]
    return outdated.outdated(found["facts"], found.get("sources"), now)


def _config_changes(experiment: Experiment, found: Mapping[str, Any]) -> list[str]:
    profile, then = found.get("profile"), found.get("config") or {}
    try:
        config = experiment.configure(str(profile), data=found.get("data"))
    except BnbookError as error:
        return [f"config: {error}"]
    now = json.loads(json.dumps(asdict(config)))
    names = sorted(now.keys() | then.keys())
    return [
        f"config: {field} was {then.get(field)}, is {now.get(field)}"
        for field in names
        if field not in then or field not in now or then[field] != now[field]
    ]


def prune(sweeps: Path, dry_run: bool = False) -> list[tuple[Path, str]]:
    """Delete finished members and begun batches that no sweep would use any longer."""
    condemned = []
    for folder in sorted(path for path in sweeps.glob("*") if path.is_dir()):
        condemned += list(_condemned(Store(folder)))
    if not dry_run:
        for path, _ in condemned:
            path.unlink(missing_ok=True)
    return condemned


def _condemned(kept: Store) -> Iterator[tuple[Path, str]]:
    sources = _sources(kept.folder.name)
    for path, about in kept.finished():
        reasons = ["damaged"] if about is None else _stale(about, sources)
        if reasons:
            yield path, "; ".join(reasons)
    current = set[str]()
    for note in sorted(kept.folder.glob("*.json")):
        if reasons := _note_reasons(note, sources):
            yield note, "; ".join(reasons)
        else:
            current.add(note.stem)
    for path in sorted((*kept.folder.glob("*.checkpoint"), *kept.folder.glob("*.progress"))):
        if path.stem not in current:
            yield path, "no batch that could go on has it"


def _note_reasons(note: Path, sources: Mapping[str, str]) -> list[str]:
    try:
        return _stale(store.read_note(note), sources)
    except BnbookError:
        return ["damaged"]


def export(path: Path, target: Path) -> None:
    """Write a record's table for other programs."""
    record = records.read(path)
    if target.suffix not in SUFFIXES:
        raise BnbookError(f"--to must end in one of {', '.join(SUFFIXES)}, found {target.name!r}.")
    if target.exists():
        raise BnbookError(f"{target} exists and was left as it is; choose another name.")
    if target.suffix == ".parquet":
        content = path.read_bytes()
    elif target.suffix == ".csv":
        content = record.table.to_csv(index=False).encode()
    else:
        finite = record.table.replace([math.inf, -math.inf], math.nan)
        rows = finite.astype(object).where(finite.notna(), None).to_dict("records")
        about = {"provenance": record.provenance, "digest": record.digest}
        content = (files.as_json({**about, "rows": rows}) + "\n").encode()
    files.write_bytes(target, content)
