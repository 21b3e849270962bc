"""Named data sets as tensors: each checked against a known digest, none downloaded unasked.

``digits`` and ``mnist5k`` come with Python packages, and so do a text and a table, which are no
images and have functions of their own (`load_text`, `load_table`); ``mnist``, ``fashion-mnist`` and
``cifar10`` are files. `load` looks for those, in this order, in

1. the ``folder`` it is given: ``folder/<name>``, then ``folder`` itself;
2. ``$BNBOOK_DATA/<name>``, then ``$BNBOOK_DATA`` itself;
3. ``<cache>/<name>``, where `get` and `import_folder` put them;
4. for ``fashion-mnist``, the folder of Debian's package ``dataset-fashion-mnist``.

What a file is called proves nothing (MNIST and Fashion-MNIST use the same names): the digest of the
contents decides, and the images come in the same order whatever format they were read from.
"""

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from bnbook.datasets import packaged
from bnbook.datasets.catalogue import NAMES, SPECS, SPLITS, digest_of, spec_of
from bnbook.datasets.finding import Folder, Status, find, places_of, status_of, within
from bnbook.datasets.obtaining import get, import_folder
from bnbook.datasets.packaged import ALPHABET, TABLES, TEXTS, Summary
from bnbook.errors import BnbookError

__all__ = [
    "ALPHABET",
    "GENERATED",
    "NAMES",
    "SPLITS",
    "Images",
    "Status",
    "Table",
    "available",
    "digest",
    "get",
    "import_folder",
    "largest",
    "load",
    "load_table",
    "load_text",
    "scaling",
    "verify",
]

Device = str | torch.device

GENERATED = "generated"
"""What experiments name in place of a data set when all their numbers come from their seeds."""


TOGETHER = " and "
"""Between the names of data sets that one experiment takes together."""


class Images(NamedTuple):
    """Images (N, C, H, W), float32 in [0, 1], and their labels (N,), int64."""

    images: torch.Tensor
    labels: torch.Tensor


class Table(NamedTuple):
    """Values (N, D), float32 as they are in the table, and their labels (N,), int64."""

    values: torch.Tensor
    labels: torch.Tensor


def load(
    name: str, split: str = "train", *, folder: Folder | None = None, device: Device = "cpu"
) -> Images:
    """Load one split of a data set, after checking its digest; never downloads.

    `name` is one of `NAMES`, and `split` one of `SPLITS`. Of ``digits`` and ``mnist5k``, put in
    class order, every fifth image is a test image; then the classes take turns, so that the start
    of a split is balanced. ``cifar10`` comes in the order of its records' digests, the others in
    file order.

    `folder` is where to look first; what comes with a package has no use for it. Pixels are scaled
    on the CPU, so that their values do not depend on `device`. ``images`` are (N, C, H, W), float32
    in [0, 1], and ``labels`` (N,), int64 in 0..9.

    Raises
    ------
    BnbookError
        If there is no such name or split, or if no place holds the data whole and unaltered.
    """
    found = find(name, split, places_of(name, folder))
    images = _scaled(name, found.images)
    labels = found.labels.astype(np.int64)
    return Images(torch.from_numpy(images).to(device), torch.from_numpy(labels).to(device))


def load_text(name: str, split: str = "train", *, device: Device = "cpu") -> torch.Tensor:
    """Load one split of a text as characters (N,), int64, places in `ALPHABET`.

    ``descriptions``: how scikit-learn describes its data sets. Raises BnbookError if there is no
    such text or split, or if it is not the one known.
    """
    place = {character: at for at, character in enumerate(ALPHABET)}
    text = packaged.read_text(name, split)
    return torch.tensor([place[character] for character in text], device=device)


def load_table(name: str, split: str = "train", *, device: Device = "cpu") -> Table:
    """Load one split of a table, its values as they are: columns differ in size by decades.

    ``breast-cancer``: 30 measurements of each row, two classes. Raises BnbookError if there is no
    such table or split, or if it is not the one known.
    """
    values, labels = packaged.read_table(name, split)
    found = torch.from_numpy(values.astype(np.float32)), torch.from_numpy(labels.astype(np.int64))
    return Table(*(tensor.to(device) for tensor in found))


def _scaled(name: str, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    return np.divide(images, np.float32(SPECS[name].white), dtype=np.float32)


def kinds(name: str) -> tuple[str, ...]:
    """Say of what kind each of the data sets is that a config's `data` names.

    ``generated``, ``text``, ``table`` or ``images``. Raises BnbookError if there is no such name.
    """
    if TOGETHER in name:
        return tuple(kind for each in name.split(TOGETHER) for kind in kinds(each))
    for kind, names in ((GENERATED, (GENERATED,)), ("text", TEXTS), ("table", TABLES)):
        if name in names:
            return (kind,)
    spec_of(name)
    return ("images",)


def scaling(name: str) -> str:
    """Return the sha256 of what `load` makes of an image's every possible byte, and of its shape.

    Two data sets of one `digest` are the same numbers only if this agrees too. What is no image is
    not scaled: its name stands for it.
    """
    if TOGETHER in name:
        return "\n".join(map(scaling, name.split(TOGETHER)))
    if kinds(name) != ("images",):
        return name
    scaled = _scaled(name, np.arange(256, dtype=np.uint8))
    sha = hashlib.sha256(f"{spec_of(name).shape} {scaled.dtype.str}".encode())
    sha.update(scaled.tobytes())
    return sha.hexdigest()


def digest(name: str, *, folder: Folder | None = None) -> str:
    """Return one sha256 (64 hexadecimal digits) for the whole data set, the key kept in records.

    It is made of the known digests of the parts, and reads nothing: `load` lets no other data
    through. With a ``folder``, the data there are checked first. Raises as `verify` does.
    `GENERATED` numbers need no digest but their name. Of data sets taken together, "one and other",
    it is made of the digests of all.
    """
    if TOGETHER in name:
        every = [f"{digest(each)} {each}\n" for each in name.split(TOGETHER)]
        return hashlib.sha256("".join(every).encode()).hexdigest()
    if name == GENERATED:
        return GENERATED
    if name in TEXTS or name in TABLES:
        return packaged.digest_of(name)
    return digest_of(name) if folder is None else verify(name, folder).digest


def verify(name: str, folder: Folder | None = None) -> Status | Summary:
    """Read both splits of a data set and check them; return where they are and the `digest`.

    Looks in ``folder/<name>`` and ``folder`` only; without a ``folder``, wherever `load` looks. A
    text or a table comes with its package, whatever the folder.

    Raises
    ------
    BnbookError
        If there is no such name, or if no place holds the data whole and unaltered.
    """
    status: Status | Summary
    if name in (*TEXTS, *TABLES):
        status = packaged.summary(name)
    else:
        status = status_of(name, places_of(name) if folder is None else within(name, folder))
    if status.reason:
        raise BnbookError(status.reason)
    return status


def available() -> list[Status | Summary]:
    """Say of every data set, in the order of `NAMES`, whether `load` would find it here.

    The texts and tables follow.

    Reads and checks all that it finds. What cannot be loaded is a reason given, never an error.
    """
    images = [status_of(name, places_of(name)) for name in NAMES]
    return [*images, *map(packaged.summary, (*TEXTS, *TABLES))]


def largest(names: Sequence[str]) -> str:
    """Return which of the named data sets that are here has most images (of equals, the first).

    Raises BnbookError if there is no such name, or if none is here; the text says why, for each.
    """
    reasons = [f"none of these data sets is here: {', '.join(names)}"]
    for name in sorted(names, key=lambda name: -spec_of(name).train - spec_of(name).test):
        status = status_of(name, places_of(name))
        if status.where:
            return name
        reasons.append(f"{status.reason}")
    raise BnbookError("\n".join(reasons))
