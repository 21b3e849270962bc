"""Which images were right, a bit an image, as text in a table; so that images can be resampled."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import pandas as pd
from numpy.typing import NDArray

GUESS = 0.1
"""Share of images of ten classes that a dead run has right."""
COLUMN = "which test images were right, in a run's last row; see `bnbook.tables.right`"
"""What the column ``right`` holds."""
Points: TypeAlias = pd.DataFrame | pd.Series
"""Differences in points by seed and test image, or by seed where nothing is known of images."""


def pack(right: Sequence[bool]) -> str:
    """Write booleans as ``count:bits``, eight to a byte, in base64."""
    bits = np.packbits(np.asarray(right, dtype=bool)).tobytes()
    return f"{len(right)}:{base64.b64encode(bits).decode()}"


def unpack(text: str) -> NDArray[np.bool_]:
    """Read what `pack` wrote; of the empty text, no images."""
    count, _, bits = text.partition(":")
    packed = np.frombuffer(base64.b64decode(bits), dtype=np.uint8)
    return np.unpackbits(packed, count=int(count or 0)).astype(bool)


def lead(more: pd.DataFrame, less: pd.DataFrame) -> Points:
    """Accuracy of some runs minus that of others, in points, by seed and test image.

    A dead run guesses. Without a run that lived nothing is known of single images: then by seed.

    The tables are last rows of runs: index seed, columns ``right`` and ``test_accuracy``.
    """
    sizes = [len(bits) for rows in (more, less) for bits in map(unpack, rows["right"])]
    if not max(sizes, default=0):
        return 100 * (more["test_accuracy"] - less["test_accuracy"])
    return _of_images(more, max(sizes)) - _of_images(less, max(sizes))


def by_seed(points: Points) -> pd.Series:
    """Return the mean over test images, by seed."""
    return points.mean(axis=1) if isinstance(points, pd.DataFrame) else points


def minus(one: Points, other: Points) -> Points:
    """Return one `lead` minus another, of the seeds of both; by seed where one has no images."""
    if not (isinstance(one, pd.DataFrame) and isinstance(other, pd.DataFrame)):
        one, other = by_seed(one), by_seed(other)
    both = one.index.intersection(other.index)
    return one.loc[both] - other.loc[both]


def _of_images(rows: pd.DataFrame, size: int) -> pd.DataFrame:
    """Return for each seed and test image whether it was right, in points."""
    found = {seed: unpack(text).astype(float) for seed, text in rows["right"].items() if text}
    guess = np.full(size, GUESS)
    return 100 * pd.DataFrame({seed: found.get(seed, guess) for seed in rows.index}).T
