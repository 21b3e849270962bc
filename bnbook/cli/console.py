"""Where the commands print, in what encoding, and how they read a time."""

from __future__ import annotations

import io
import json
import os
import re
import sys
from typing import Any, TextIO

from rich.console import Console

from bnbook import files
from bnbook.errors import BnbookError

WIDTH = None if sys.stdout and sys.stdout.isatty() else 160
"""Of what is printed: a terminal's own, and the same in every pipe and file."""
out = Console(highlight=False, width=WIDTH)


def replace_what_cannot_be_shown() -> None:
    """Let an output that is not Unicode show ``?`` for what it lacks, instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and not _is_unicode(stream):
            stream.reconfigure(errors="replace")


def _is_unicode(stream: TextIO) -> bool:
    return (stream.encoding or "").lower().startswith("utf")


def let_threads_sleep() -> None:
    """Have threads that wait for others sleep, unless the reader has chosen another policy.

    By default they spin, and on a busy machine take the cores from those that they wait for: one
    seed of figure 1 on two threads took 110 s and more beside six other programs, and 19 s like
    this; no bit depends on it. It is read when torch is imported, so this comes before.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def print_json(content: Any) -> None:
    """Print JSON; where the output is not Unicode, in ASCII with escapes, which is the same."""
    text = files.as_json(content)
    plain = text if _is_unicode(sys.stdout) else json.dumps(content, indent=1, sort_keys=True)
    print(plain)  # noqa: T201


def duration(text: str) -> float:
    """Read a time such as 90s, 9m or 1.5h, in seconds."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smh])", text)
    if not found or not float(found[1]):
        raise BnbookError(f"--budget must be a time such as 90s, 9m or 1.5h, found {text!r}.")
    return float(found[1]) * {"s": 1, "m": 60, "h": 3600}[found[2]]
