"""Why a finished member, or a record, is not what the same command would give today."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bnbook.errors import BnbookError
from bnbook.evidence import records, sources


def outdated(
    facts: Mapping[str, Any], then: Mapping[str, str] | None, now: Mapping[str, str]
) -> list[str]:
    """Say what differs from a member's facts, a line each: source, data, torch, NumPy."""
    data = facts["config"]["data"]
    return [
        *source_changes(facts["source"], then, now),
        *data_changes(data, facts["data"]),
        *scaling_changes(data, facts.get("scaling")),
        *version_changes(facts),
    ]


def source_changes(
    then: str | None, definitions: Mapping[str, str] | None, now: Mapping[str, str]
) -> list[str]:
    """Say which definitions changed."""
    if then == sources.combined(now):
        return []
    if not definitions:
        return ["source: it differs; the record does not say in which definitions"]
    every = now.keys() | definitions.keys()
    changed = sorted(name for name in every if now.get(name) != definitions.get(name))
    return [f"source: {name} {_change(name, definitions, now)}" for name in changed]


def _change(name: str, then: Mapping[str, str], now: Mapping[str, str]) -> str:
    if name not in now:
        return "no longer counts"
    return "changed" if name in then else "counts now"


def data_changes(name: str | None, then: str | None) -> list[str]:
    """Say whether a data set has another digest."""
    from bnbook import datasets

    try:
        now = datasets.digest(str(name))
    except BnbookError as error:
        return [f"data: {error}"]
    return [] if now == then else [f"data: {name} had digest {str(then)[:12]}, has {now[:12]}"]


def scaling_changes(name: str, then: str | None) -> list[str]:
    """Say whether a data set's pixels are scaled in another way."""
    from bnbook import datasets

    same = then == datasets.scaling(name)
    return [] if same else [f"data: the pixels of {name} were scaled in another way"]


def version_changes(then: Mapping[str, Any]) -> list[str]:
    """Say which of the packages that decide numbers have another release."""
    found = []
    for package in ("torch", "numpy"):
        was, now = str(then.get(package)).partition("+")[0], records.released(package)
        if was != now:
            found.append(f"{package}: was {was}, is {now}")
    return found
