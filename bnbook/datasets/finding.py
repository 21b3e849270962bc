"""Finding a data set: the places where it may be, and what is said when it is in none."""

import math
import os
from pathlib import Path
from typing import NamedTuple

from bnbook.datasets.catalogue import SPLITS, WAYS, digest_of, files_of, spec_of
from bnbook.datasets.reading import Found, RefusedError, read_files, read_package
from bnbook.errors import BnbookError

Folder = str | os.PathLike[str]

_DEBIAN = {"fashion-mnist": Path("/usr/share/datasets/fashion-mnist")}


class Status(NamedTuple):
    """Whether a data set can be loaded here: from where, or why not (the other is None)."""

    name: str
    digest: str
    images: int  # train and test together
    shape: tuple[int, int, int]  # (C, H, W)
    size: int  # bytes of pixels and labels, uncompressed
    where: str | None
    reason: str | None


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "bnbook")


def home_of(name: str, folder: Folder | None = None) -> Path:
    """Return where a data set is put: ``folder/<name>``, without a ``folder`` in the cache."""
    return _cache() / name if folder is None else Path(folder, name)


def within(name: str, folder: Folder) -> list[Path]:
    """Return where in a folder a data set may be, in the order of looking."""
    return [Path(folder, name), Path(folder)]


def places_of(name: str, folder: Folder | None = None) -> list[Path]:
    """Return all places where a data set may be, in the order of looking."""
    folders = [root for root in (folder, os.environ.get("BNBOOK_DATA")) if root]
    places = [place for root in folders for place in within(name, root)] + [home_of(name)]
    return [*places, _DEBIAN[name]] if name in _DEBIAN else places


def find(name: str, split: str, places: list[Path]) -> Found:
    """Read the first of the places that holds the split whole and unaltered."""
    spec = spec_of(name)
    if split not in SPLITS:
        raise BnbookError(f"no split is called {split!r}; there are: {', '.join(SPLITS)}")
    if spec.package:
        return read_package(name, split)
    lines = [f"{name} ({split}) was not found. Expected: {files_of(name, split)}. Found:"]
    for place in places:
        try:
            return read_files(name, split, place)
        except (RefusedError, OSError) as refusal:
            lines.append(f"  {place}: {refusal if os.path.exists(place) else 'no such folder'}")
    raise BnbookError("\n".join([*lines, "Nothing was downloaded or changed.", WAYS.format(name)]))


def status_of(name: str, places: list[Path]) -> Status:
    """Say whether one of the places holds both splits of a data set whole and unaltered."""
    spec, where, reason = spec_of(name), None, None
    images = spec.train + spec.test
    size = images * (math.prod(spec.shape) + 1)
    try:
        where = " and ".join({find(name, split, places).where: 0 for split in SPLITS})
    except BnbookError as error:
        reason = str(error)
    return Status(name, digest_of(name), images, spec.shape, size, where, reason)
