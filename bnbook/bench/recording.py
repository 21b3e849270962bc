"""Records of the benchmark, and what the pages print of them.

A record stands at ``results/bench/<profile>.parquet``, or under ``bench_gpu`` when a GPU was
measured, and the ledger file ``results/claims/bench.json`` is made from it: no claims, but facts,
targets and rows.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import pandas as pd

from bnbook.evidence import ledger, records, timings

TITLES = {
    "bench": "Speed on a CPU",
    "bench_gpu": "Speed on a GPU",
    "bench_deep": "Speed of deep residual networks on a CPU",
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
) -> Path:
    """Write a record and the ledger file that goes with it."""
    name = "bench_deep" if deep else "bench" if device == "cpu" else "bench_gpu"
    path = records.path(folder, name, profile)
    about = records.environment(device)
    about["versions"] |= {key: _version(package) for key, package in _PACKAGES.items()}
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
            "config": {"repetitions": repetitions, "threads": threads, "load": round(load, 2)},
            "seconds": seconds,
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
        },
    )
    ledger.write(folder, name, content(name, folder))
    return path


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


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
