"""Class probabilities of a network, as text in a table; so that networks can be averaged later.

The true class comes first, so that no labels are needed: an image is right where the first is the
largest. Numbers are kept to 1/65535.
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

LEVELS = 65_535


def pack(probabilities: ArrayLike, labels: ArrayLike) -> str:
    """Write probabilities, (N, K), with the true class of each image first: ``N,K:bits``."""
    p, y = np.asarray(probabilities, dtype=np.float64), np.asarray(labels)
    place = np.argsort(np.arange(p.shape[1]) != y[:, None], axis=1, kind="stable")
    whole = np.rint(LEVELS * np.take_along_axis(p, place, 1)).astype("<u2")
    bits = base64.b64encode(zlib.compress(whole.tobytes(), 9)).decode()
    return f"{p.shape[0]},{p.shape[1]}:{bits}"


def unpack(text: str) -> NDArray[np.float64]:
    """Read what `pack` wrote: (N, K), the true class first."""
    size, _, bits = text.partition(":")
    rows, columns = map(int, size.split(","))
    whole = np.frombuffer(zlib.decompress(base64.b64decode(bits)), dtype="<u2")
    return whole.reshape(rows, columns) / LEVELS


def right(members: Sequence[NDArray[np.float64]]) -> NDArray[np.bool_]:
    """Say which images an ensemble has right: the mean over its members is largest at the first."""
    mean = np.mean(np.stack(members), axis=0)
    found: NDArray[np.bool_] = mean[:, 0] > mean[:, 1:].max(axis=1)
    return found
