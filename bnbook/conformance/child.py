"""Checks in a process of their own, so that no layer can end, hang or fool the one that asks."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bnbook.errors import BnbookError


@dataclass
class Report:
    """What a process of checks told before it ended.

    Attributes
    ----------
    results : list of dict
        Of each check that was finished ``name``, ``holds`` and ``found``.
    sizes : list of list of int
        Inputs that the layer takes.
    stage : str
        What was being done last.
    refused : str
        Why the layer cannot be looked at, if it cannot.
    unfinished : str
        Why the report is not whole, if it is not.
    """

    results: list[dict[str, Any]] = field(default_factory=list)
    sizes: list[list[int]] = field(default_factory=list)
    stage: str = "starting"
    refused: str = ""
    unfinished: str = ""


def report(target: str, names: Mapping[str, str], limit: float) -> Report:
    """Hold a layer against every check, in a process of its own.

    Parameters
    ----------
    target : str
        MODULE:CLASS or PATH.py:CLASS.
    names : mapping
        See `bnbook.conformance.run`.
    limit : float
        Seconds that the process may take; then it and all that it started are ended.

    Raises
    ------
    BnbookError
        When the layer cannot be looked at; the text is the process's own.
    """
    with tempfile.TemporaryDirectory() as folder:
        told = Path(folder) / "told"
        told.touch()
        given = json.dumps([target, dict(names), str(told)])
        command = [sys.executable, "-m", "bnbook.conformance.child", given]
        ended = _end(command, limit)
        found = _read(told)
    if found.refused:
        raise BnbookError(found.refused)
    if found.stage != "done":
        found.unfinished = f"{ended} while {found.stage}"
    return found


def _end(command: list[str], limit: float) -> str:
    """Run a command to its end, without its output; say how it ended."""
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        return f"the process ended with status {process.wait(limit)}"
    except subprocess.TimeoutExpired:
        return f"the time limit of {limit:g} s was reached"
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _read(told: Path) -> Report:
    found = Report()
    for line in told.read_text("utf-8").splitlines():
        what, value = json.loads(line)
        if what == "result":
            found.results.append(value)
        else:
            setattr(found, what, value)
    return found


def _tell(given: str) -> None:
    """Do what `report` asks, and write down each step before and after it."""
    target, names, told = json.loads(given)
    with Path(told).open("a", encoding="utf-8", buffering=1) as out:

        def write(what: str, value: Any) -> None:
            out.write(json.dumps([what, value]) + "\n")

        write("stage", "importing torch")
        from bnbook.conformance import checks, loading, subject

        try:
            write("stage", f"constructing {target}")
            make = loading.load(target)
            write("stage", "looking which inputs it takes")
            layers = subject(make, names)
        except BnbookError as error:
            write("refused", str(error))
            return
        write("sizes", layers.sizes)
        for check in checks.CHECKS:
            write("stage", f"checking {check.name!r}")
            write("result", vars(checks.look(check, layers)))
        write("stage", "done")


if __name__ == "__main__":
    _tell(sys.argv[1])
