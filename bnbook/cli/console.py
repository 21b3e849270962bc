"""Where the commands print, and how they read a time."""

from __future__ import annotations

import re
import sys

from rich.console import Console

from bnbook.errors import BnbookError

out = Console(highlight=False, width=None if sys.stdout.isatty() else 160)


def duration(text: str) -> float:
    """Read a time such as 90s, 9m or 1.5h, in seconds."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smh])", text)
    if not found or not float(found[1]):
        raise BnbookError(f"--budget must be a time such as 90s, 9m or 1.5h, found {text!r}.")
    return float(found[1]) * {"s": 1, "m": 60, "h": 3600}[found[2]]
