"""Which images were right, a bit an image, as text in a table; so that images can be resampled."""

from __future__ import annotations

import base64
from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

GUESS = 0.1
"""Share of images of ten classes that a dead run has right."""


def pack(right: Sequence[bool]) -> str:
    """Write booleans as ``count:bits``, eight to a byte, in base64."""
    bits = np.packbits(np.asarray(right, dtype=bool)).tobytes()
    return f"{len(right)}:{base64.b64encode(bits).decode()}"


def unpack(text: str) -> NDArray[np.bool_]:
    """Read what `pack` wrote; of the empty text, no images."""
    count, _, bits = text.partition(":")
    packed = np.frombuffer(base64.b64decode(bits), dtype=np.uint8)
    return np.unpackbits(packed, count=int(count or 0)).astype(bool)


def lead(more: pd.DataFrame, less: pd.DataFrame) -> pd.DataFrame | pd.Series:
    """Accuracy of some runs minus that of others, in points, by seed and test image.

    A dead run guesses. Without a run that lived nothing is known of single images: then by seed.

    The tables are last rows of runs: index seed, columns ``right`` and ``test_accuracy``.
    """
    sizes = [len(bits) for rows in (more, less) for bits in map(unpack, rows["right"])]
    if not max(sizes, default=0):
        return 100 * (more["test_accuracy"] - less["test_accuracy"])
    return _of_images(more, max(sizes)) - _of_images(less, max(sizes))


def _of_images(rows: pd.DataFrame, size: int) -> pd.DataFrame:
    """Return for each seed and test image whether it was right, in points."""
    found = {seed: unpack(text).astype(float) for seed, text in rows["right"].items() if text}
    guess = np.full(size, GUESS)
    return 100 * pd.DataFrame({seed: found.get(seed, guess) for seed in rows.index}).T
