"""Records of the benchmark, and what the pages print of them.

A record stands at ``results/bench/<profile>.parquet``, or under ``bench_gpu`` when a GPU was
measured, and the ledger file ``results/claims/bench.json`` is made from it: no claims, but facts,
targets and rows. The record of deep networks grows: each is added as soon as it is timed.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd

from bnbook.errors import BnbookError
from bnbook.evidence import ledger, records, timings

DEEP = "bench_deep"
TITLES = {
    "bench": "Speed on a CPU",
    "bench_gpu": "Speed on a GPU",
    DEEP: "Speed of deep residual networks on a CPU",
}
PROFILES = ("quick", "standard")
_PACKAGES = {"jax": "jax", "lightning": "pytorch-lightning", "skorch": "skorch"}


def write(
    table: pd.DataFrame,
    profile: str,
    *,
    device: str,
    threads: int,
    load: float,
    seconds: float,
    folder: Path,
    deep: bool = False,
    more: Mapping[str, Any] | None = None,
) -> Path:
    """Write a record and the ledger file that goes with it; `more` joins its config."""
    name = DEEP if deep else "bench" if device == "cpu" else "bench_gpu"
    path = records.path(folder, name, profile)
    about = records.environment(device)
    about["versions"] |= {key: records.installed(package) for key, package in _PACKAGES.items()}
    repetitions = int(table["repetition"].max()) + 1
    records.write(
        path,
        table,
        about
        | {
            "experiment": name,
            "profile": profile,
            "seeds": [0],
            "data": "mnist5k, digits and made-up images" if device == "cpu" else "mnist5k",
            "config": {"repetitions": repetitions, "threads": threads, "load": round(load, 2)}
            | dict(more or {}),
            "seconds": seconds,
            "date": _now(),
        },
    )
    ledger.write(folder, name, content(name, folder))
    return path


def recorded_parts(folder: Path, profile: str) -> dict[str, dict[str, Any]]:
    """Return which networks the record of deep networks has, each with when it was timed.

    Raises
    ------
    BnbookError
        When the record was made on another processor.
    """
    path = records.path(folder, DEEP, profile)
    if not path.is_file():
        return {}
    record = records.read(path)
    about, here = record.provenance, records.environment("cpu")
    there, own = ([facts["processor"], facts["cores"]] for facts in (about, here))
    if there != own:
        raise BnbookError(
            f"expected a record of this processor, {own[0]} with {own[1]} cores, at {path}; found"
            f" one of {there[0]} with {there[1]} cores, and times of two are not mixed. Nothing was"
            " timed or written. To record on this one, remove that file first."
        )
    known = about["config"].get("parts", {})
    first = {name: about[name] for name in ("commit", "date")} | {"load": about["config"]["load"]}
    return {name: known.get(name, first) for name in map(part, record.table["workload"].unique())}


def part(workload: str) -> str:
    """Return the name by which what a row belongs to is asked for."""
    return "costs" if workload in timings.COSTS else workload


def add(
    table: pd.DataFrame,
    name: str,
    profile: str,
    names: Iterable[str],
    *,
    threads: int,
    load: float,
    seconds: float,
    folder: Path,
) -> Path:
    """Add one network's rows to the record of deep networks, in place of those that it had.

    Rows of the table that are not of `name` are left out. `names` holds all that the record will
    have, in order. The keyword arguments are those of `write`.
    """
    path = records.path(folder, DEEP, profile)
    parts, kept, before = recorded_parts(folder, profile), table.iloc[:0], 0.0
    if parts:
        record = records.read(path)
        kept, before = record.table, float(record.provenance["seconds"])
    now = {"commit": records.environment("cpu")["commit"], "date": _now(), "load": round(load, 2)}
    parts[name] = now | {"seconds": seconds}
    every = [*dict.fromkeys((*names, *parts))]
    pieces = [(table if each == name else kept) for each in every]
    chosen = [
        piece[piece["workload"].map(part) == each]
        for each, piece in zip(every, pieces, strict=True)
    ]
    missing = ", ".join(each for each in every if each not in parts)
    return write(
        pd.concat([piece for piece in chosen if len(piece)], ignore_index=True),
        profile,
        device="cpu",
        threads=threads,
        load=max(each["load"] for each in parts.values()),
        seconds=round(before + seconds, 1),
        folder=folder,
        deep=True,
        more={"parts": parts} | ({"left_out": missing} if missing else {}),
    )


def rewrite(folder: Path) -> list[Path]:
    """Make the benchmark's ledger files again from its records; return their paths."""
    found = {name: content(name, folder) for name in TITLES}
    return [ledger.write(folder, name, made) for name, made in found.items() if made["profiles"]]


def content(name: str, folder: Path) -> dict[str, Any]:
    """Return what a ledger file of the benchmark should hold, from its records."""
    profiles = {}
    for profile in PROFILES:
        path = records.path(folder, name, profile)
        if path.is_file():
            record = records.read(path)
            profiles[profile] = {
                **ledger.entry((), timings.facts(record.table), record),
                "targets": timings.targets(record.table),
                "rows": as_rows(timings.rows(record.table)),
            }
    return ledger.describe(name, TITLES[name], (), profiles)


def as_rows(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Turn a summary into a list of rows for JSON; what has no meaning is null."""
    rows: list[dict[str, Any]] = json.loads(table.to_json(orient="records", double_precision=12))
    return rows


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
