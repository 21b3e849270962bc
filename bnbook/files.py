"""Files written aside and renamed: a reader sees the old content or the new, never a part."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any


def write_bytes(path: Path, content: bytes) -> None:
    """Replace a file in one step: a reader sees the old content or the new, never a part.

    The file's folder is made if needed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, aside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(aside).chmod(0o644)
        Path(aside).replace(path)
    except BaseException:
        Path(aside).unlink(missing_ok=True)
        raise


def write_changed(path: Path, content: bytes) -> bool:
    """Replace a file as `write_bytes` does, unless it holds just that; say whether it changed.

    What goes by a file's time, as Sphinx does, then sees only real changes.
    """
    if path.is_file() and path.read_bytes() == content:
        return False
    write_bytes(path, content)
    return True


def write_json(path: Path, content: Any) -> None:
    """Replace a JSON file in one step (see `write_bytes`), readable and with sorted keys."""
    write_bytes(path, (as_json(content) + "\n").encode())


def as_json(content: Any) -> str:
    """Return JSON text, readable and with sorted keys: equal content gives equal text."""
    return json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False)
