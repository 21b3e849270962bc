"""Memory that a training process keeps: what one step frees serves the next."""

from __future__ import annotations

import ctypes

_TRIM, _MAP = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of glibc's malloc.h
_LARGEST = {_TRIM: 2**31 - 1, _MAP: 32 * 2**20}
"""The most that glibc takes for each, in bytes."""


def keep_freed() -> bool:
    """Tell glibc not to hand freed memory back to the system; return whether there is one to tell.

    A step frees its activations, and the next one takes as many. If they went back, each page of
    4 KiB would cost a fault again. For processes of ours alone: they hold their peak to their end.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, TypeError, AttributeError):
        return False
    return all(mallopt(option, size) for option, size in _LARGEST.items())
