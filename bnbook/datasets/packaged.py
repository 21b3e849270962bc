"""Data sets that come with scikit-learn and are no images: a text and a table.

``descriptions`` is the text in which scikit-learn describes its data sets, in the order of the
files' names, as characters. Of its pieces of 512 characters every eighth is test text.
``breast-cancer`` is the diagnostic table of 569 rows, 30 measurements and two classes; it is split
as ``digits`` is: put in class order, every fifth row is a test row.
"""

import hashlib
from collections.abc import Callable
from importlib import resources
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from bnbook.datasets.catalogue import SPLITS
from bnbook.errors import BnbookError

PACKAGE = "scikit-learn"
PIECE, EVERY = 512, 8
"""Characters of a piece of text, and which of the pieces are test text."""
SHA256 = {
    "descriptions/train": "91032425bf2e87a865d78614a047acbfcb0be6c61d66f13f73f43736315ffb19",
    "descriptions/test": "a8a03564ce8d3ab81cbdf08e2a451fe613140277beeb0860ee172791152ba05c",
    "breast-cancer/train": "08e04b09e68600f3d56044d51cd31cf37ae14944929dc92b1ea1901d69435dbb",
    "breast-cancer/test": "34e7066ea8a6f7680e62af8c74a057d73a058b6f1dd85ddcc39e34eb19892ce0",
}
"""Of a text its UTF-8 bytes; of a table its values, float64, and then its labels, uint8."""
ALPHABET = "\n" + "".join(map(chr, range(32, 127))) + "×"
"""The characters that a text may hold; a character is its place among them."""
TEXTS, TABLES = ("descriptions",), ("breast-cancer",)
T = TypeVar("T")
Rows = tuple[NDArray[np.float64], NDArray[np.uint8]]


class Summary(NamedTuple):
    """What a list of data sets says of one of these."""

    name: str
    digest: str
    images: int  # characters or rows, train and test together
    where: str | None
    reason: str | None


def digest_of(name: str) -> str:
    """Return one sha256 for a whole data set, made of the known digests of its splits."""
    parts = [f"{SHA256[f'{name}/{split}']} {name}/{split}\n" for split in SPLITS]
    return hashlib.sha256("".join(parts).encode()).hexdigest()


def read_text(name: str, split: str) -> str:
    """Return the characters of a split; raise BnbookError if they are not those known."""
    _check_asked(name, split, TEXTS)
    pieces = _pieces(_found(name, _descriptions))
    text = "".join(piece for at, piece in enumerate(pieces) if _is_test(at) == (split == "test"))
    _check(name, split, text.encode())
    return text


def read_table(name: str, split: str) -> Rows:
    """Return values (N, D) and labels (N,) of a split; raise BnbookError if they are not known."""
    _check_asked(name, split, TABLES)
    values, labels = _found(name, _breast_cancer)
    by_class = np.argsort(labels, kind="stable")
    chosen = by_class[(np.arange(len(labels)) % 5 == 0) == (split == "test")]
    values, labels = np.ascontiguousarray(values[chosen]), labels[chosen]
    _check(name, split, values.tobytes() + labels.tobytes())
    return values, labels


def summary(name: str) -> Summary:
    """Say whether a data set is here whole and unaltered."""
    where, reason, count = f"the package {PACKAGE}", None, 0
    try:
        for split in SPLITS:
            count += len(read_text(name, split) if name in TEXTS else read_table(name, split)[1])
    except BnbookError as error:
        return Summary(name, digest_of(name), 0, None, str(error))
    return Summary(name, digest_of(name), count, where, reason)


def _pieces(text: str) -> list[str]:
    return [text[at : at + PIECE] for at in range(0, len(text), PIECE)]


def _is_test(piece: int) -> bool:
    return piece % EVERY == EVERY - 1


def _descriptions() -> str:
    folder = resources.files("sklearn.datasets.descr")
    files = sorted(
        (each for each in folder.iterdir() if each.name.endswith(".rst")), key=lambda f: f.name
    )
    return "".join(file.read_text("utf-8") for file in files)


def _breast_cancer() -> Rows:
    from sklearn.datasets import load_breast_cancer

    values, labels = load_breast_cancer(return_X_y=True)
    return values.astype(np.float64), labels.astype(np.uint8)


def _found(name: str, read: Callable[[], T]) -> T:
    try:
        return read()
    except (ImportError, OSError) as error:
        text = f"{name} comes with {PACKAGE}, but: {error}\nTry: pip install {PACKAGE}"
        raise BnbookError(text) from error


def _check_asked(name: str, split: str, known: tuple[str, ...]) -> None:
    if name not in known:
        raise BnbookError(f"no such data set is called {name!r}; there are: {', '.join(known)}")
    if split not in SPLITS:
        raise BnbookError(f"no split is called {split!r}; there are: {', '.join(SPLITS)}")


def _check(name: str, split: str, content: bytes) -> None:
    known, actual = SHA256[f"{name}/{split}"], hashlib.sha256(content).hexdigest()
    if actual != known:
        raise BnbookError(
            f"{name} comes with {PACKAGE}, but {name} ({split}) is altered: its sha256 is {actual},"
            f" not {known}\nTry the release of {PACKAGE} that requirements.lock names."
        )
