"""Which images were right, a bit an image, as text in a table; so that images can be resampled."""

from __future__ import annotations

import base64
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def pack(right: Sequence[bool]) -> str:
    """Write booleans as ``count:bits``, eight to a byte, in base64."""
    bits = np.packbits(np.asarray(right, dtype=bool)).tobytes()
    return f"{len(right)}:{base64.b64encode(bits).decode()}"


def unpack(text: str) -> NDArray[np.bool_]:
    """Read what `pack` wrote; of the empty text, no images."""
    count, _, bits = text.partition(":")
    packed = np.frombuffer(base64.b64decode(bits), dtype=np.uint8)
    return np.unpackbits(packed, count=int(count or 0)).astype(bool)
