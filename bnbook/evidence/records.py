"""Result tables on disk: one Parquet file each, with its provenance and digest inside.

A record is written aside and renamed, so a reader sees the old file or the new one, never a part.
It carries a digest of its own content, so a table that was cut short or edited by hand is refused.
"""

from __future__ import annotations

import hashlib
import json
import platform
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from bnbook.errors import BnbookError
from bnbook.files import write_bytes

PROFILES = ("quick", "standard", "paper")
"""The profiles, from the smallest run to the papers' own settings."""

_PROVENANCE_KEY = b"bnbook.provenance"
_DIGEST_KEY = b"bnbook.digest"


@dataclass(frozen=True)
class Record:
    """A result table and where it came from.

    Attributes
    ----------
    table : pandas.DataFrame
        One row per run and step.
    provenance : dict
        Experiment, profile, config, seeds, data, device, versions, commit, seconds.
    digest : str
        SHA-256 (hex) of the table's values and the provenance.
    """

    table: pd.DataFrame
    provenance: dict[str, Any]
    digest: str


def root() -> Path:
    """Return the project's folder: the nearest at or above here with a ``_toc.yml``, else here."""
    here = Path.cwd()
    return next((p for p in (here, *here.parents) if (p / "_toc.yml").is_file()), here)


def repository() -> Path:
    """Return the folder of a copy of the book's repository, at or above here.

    Raises
    ------
    BnbookError
        When there is none: an installed package has neither pages nor records.
    """
    found = root()
    if not (found / "_toc.yml").is_file():
        raise BnbookError(
            "this command works on a copy of the book's repository, a folder with _toc.yml at or"
            f" above the working folder; found none from {Path.cwd()} up. Nothing was written. Try:"
            " git clone https://github.com/bnbook/bnbook && cd bnbook"
        )
    return found


def expect_some(folder: Path) -> None:
    """Refuse a results folder without a record: nothing could be judged, drawn or shown."""
    if not any(folder.glob("*/*.parquet")):
        raise BnbookError(
            f"expected records under {folder}, found none. Nothing was written. Restore them with"
            " `git checkout -- results`, or make one with `bnbook run NAME --record`."
        )


def recorded() -> Path:
    """Return the folder of the committed results."""
    return root() / "results"


def fresh() -> Path:
    """Return the folder of results made here and not committed."""
    return root() / "_build" / "results"


def path(folder: Path, experiment: str, profile: str) -> Path:
    """Return where an experiment's record of a profile stands under a results folder."""
    return folder / experiment / f"{profile}.parquet"


def content_digest(table: pa.Table, provenance: bytes) -> str:
    """SHA-256 over column names, types and values, in order, and the provenance.

    It does not depend on Parquet's encoding, so another version of the library that stores the
    same table gives the same digest.

    The columns hold numbers, strings and booleans. The provenance is JSON as stored, in UTF-8. The
    digest has 64 hexadecimal digits.
    """
    sha = hashlib.sha256(provenance)
    for name in table.column_names:
        values = table.column(name).combine_chunks()
        sha.update(f"\0{name}\0{_canonical(values.type)}\0".encode())
        if pa.types.is_floating(values.type):
            sha.update(values.to_numpy(zero_copy_only=False).tobytes())
        else:
            sha.update(json.dumps(values.to_pylist()).encode())
    return sha.hexdigest()


def _canonical(kind: pa.DataType) -> str:
    return "string" if pa.types.is_large_string(kind) else str(kind)


def write(path: Path, table: pd.DataFrame, provenance: dict[str, Any]) -> str:
    """Write a record: aside first, then in one rename over what stands there.

    The record's folder is made if needed. The table's index is dropped. The provenance must be
    JSON-serialisable. The result is the record's digest.
    """
    stored = pa.Table.from_pandas(table, preserve_index=False).replace_schema_metadata(None)
    facts = json.dumps(provenance, sort_keys=True, ensure_ascii=False).encode()
    digest = content_digest(stored, facts)
    stored = stored.replace_schema_metadata({_PROVENANCE_KEY: facts, _DIGEST_KEY: digest.encode()})
    sink = pa.BufferOutputStream()
    pq.write_table(stored, sink, compression="zstd")
    write_bytes(path, sink.getvalue().to_pybytes())
    return digest


def read(path: Path) -> Record:
    """Read a record and check that it is what was written.

    Raises
    ------
    BnbookError
        When the file is missing, cut short, edited, not a record, or, in a results folder, the
        record of another experiment or profile. The file is left as it is.
    """
    if not path.is_file():
        raise BnbookError(
            f"expected a record at {path}, found none. Make it with `bnbook run`"
            " (recorded tables: `git checkout -- results`)."
        )
    content = path.read_bytes()
    found = hashlib.sha256(content).hexdigest()
    again = "It was left as it is; restore it with `git checkout` or record it again."
    try:
        stored = pq.read_table(pa.BufferReader(content))
    except (pa.ArrowException, OSError) as error:
        raise BnbookError(
            f"{path} cannot be read as Parquet, it was cut short or overwritten:"
            f" {len(content)} bytes with SHA-256 {found}. {again}"
        ) from error
    metadata = stored.schema.metadata or {}
    if _PROVENANCE_KEY not in metadata or _DIGEST_KEY not in metadata:
        raise BnbookError(
            f"{path} is a Parquet file without a record's provenance and digest"
            f" (SHA-256 of the file {found}): it was written by other means. {again}"
        )
    expected = metadata[_DIGEST_KEY].decode()
    actual = content_digest(stored.replace_schema_metadata(None), metadata[_PROVENANCE_KEY])
    if actual != expected:
        raise BnbookError(
            f"{path} was edited after it was recorded: its content has digest {actual},"
            f" the record says {expected}. {again}"
        )
    provenance = json.loads(metadata[_PROVENANCE_KEY])
    _check_place(path, provenance)
    return Record(stored.to_pandas(), provenance, expected)


def _check_place(path: Path, provenance: Mapping[str, Any]) -> None:
    """Refuse a record that says that it belongs elsewhere than where it lies."""
    profile = path.stem.partition(".")[0]
    says = provenance.get("experiment"), provenance.get("profile")
    if profile in PROFILES and says != (path.parent.name, profile):
        raise BnbookError(
            f"{path} should be the record of {path.parent.name} at {profile}, it says of itself"
            f" {says[0]} at {says[1]}: it was copied or renamed. It was left as it is; restore what"
            " belongs there with `git checkout`, or take it away."
        )


def environment(device: str) -> dict[str, Any]:
    """Return the facts about this machine that a record states.

    `device` is ``cpu``, or the name of the GPU that the run used. The facts are device, processor,
    cores, operating system, versions and the commit of the code.
    """
    return {
        "device": device,
        "processor": processor(),
        "cores": cores(),
        "system": f"{platform.system()} {platform.machine()}",
        "versions": {
            "python": platform.python_version(),
            **{name: installed(name) for name in ("bnbook", "torch", "numpy", "pandas")},
        },
        "commit": _commit(),
    }


def installed(package: str) -> str | None:
    """Return the installed version of a package, or None; the package is not imported."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def released(package: str) -> str | None:
    """Return a package's version without what says for which hardware it was built (``+cpu``)."""
    found = installed(package)
    return None if found is None else found.partition("+")[0]


def cores() -> int:
    """Return how many cores this process may use, by its affinity and its control group."""
    from joblib import cpu_count

    return int(cpu_count())


def processor() -> str:
    """Return the processor's name."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _commit() -> str | None:
    """Return the commit of the code, with ``+`` when files differ from it, or None without git."""
    here = Path(__file__).parents[1]
    git = ["git", "-C", str(here)]
    try:
        head = subprocess.run(
            [*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True
        ).stdout.strip()
        changed = subprocess.run(
            [*git, "status", "--porcelain", "--", str(here)],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
    return head + ("+" if changed else "")
