"""One member of a record trained again here, and what differs: between two processors, say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from filelock import FileLock

from bnbook.errors import BnbookError
from bnbook.evidence import records
from bnbook.experiments import Experiment
from bnbook.sweeps.growing import Member, members_of
from bnbook.training.session import Plan, Session


def again(experiment: Experiment, profile: str, run: Any, digest: str, folder: Path) -> str:
    """Train a recorded member alone, compare, and keep the finding in the record.

    `profile` is the record's, and `digest` the `bnbook.sweeps.growing.run_digest` of the single
    run. The result says in words what differs.

    Raises
    ------
    BnbookError
        When the record has no such member.
    """
    path = records.path(folder, experiment.name, profile)
    member = members_of(records.read(path)).get(digest)
    if member is None:
        raise BnbookError(f"{path} has no member {digest}; nothing was trained.")
    (table,) = experiment.together([run], Session("auto", _plan(member)))
    found = {
        "run": digest,
        "processors": [member.origin["processor"], records.processor()],
        "differences": differences(member.table, table),
    }
    with FileLock(path.with_name(f".{profile}.lock")):
        record = records.read(path)
        known = [each for each in record.provenance.get("again", []) if each["run"] != digest]
        records.write(path, record.table, {**record.provenance, "again": [*known, found]})
    return said(found)


def _plan(member: Member) -> Plan:
    return Plan(**{**member.origin["plan"], "members": 1})


def differences(ours: pd.DataFrame, theirs: pd.DataFrame) -> dict[str, float | None]:
    """Return the largest difference in each column that differs; None where it is not in numbers.

    Values that are both NaN are equal.
    """
    if list(ours) != list(theirs) or len(ours) != len(theirs):
        raise BnbookError(f"expected a table of {ours.shape}, {list(ours)}; found {theirs.shape}.")
    found = dict[str, float | None]()
    for name in ours:
        one, other = ours[name], theirs[name]
        if one.equals(other.astype(one.dtype)):
            continue
        numbers = pd.api.types.is_numeric_dtype(one)
        found[str(name)] = float(np.nanmax(np.abs(one - other))) if numbers else None
    return found


def said(found: dict[str, Any]) -> str:
    """Say what a comparison found."""
    one, other = found["processors"]
    where = f"on {one} and on {other}" if one != other else f"twice on {one}"
    differ = [
        f"{name} {'in words' if largest is None else f'by {largest:.2g} at most'}"
        for name, largest in found["differences"].items()
    ]
    return f"{where}: " + (", ".join(differ) or "equal bit for bit")
