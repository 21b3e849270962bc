"""What the formulas accept: finite floating point arrays of stated rank, positive constants."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from bnbook.errors import BnbookError

Array = npt.NDArray[np.float64]


def array(name: str, value: Any, axes: str) -> Array:
    """Read an array.

    Parameters
    ----------
    name : str
        The argument's name, for the error.
    value : array_like
        Floating point, finite, not empty.
    axes : str
        The expected axes, such as "m, features"; one name an axis.
    """
    found = _floating(name, value, axes)
    if found.ndim != len(axes.split(",")) or 0 in found.shape:
        raise BnbookError(f"{name} must be an array of shape ({axes}), found shape {found.shape}.")
    bad = np.argwhere(~np.isfinite(found))
    if len(bad):
        where = tuple(int(i) for i in bad[0])
        raise BnbookError(
            f"{name} must be finite, found {found[where]} at {list(where)} and"
            f" {len(bad)} such values in all, of {found.size}."
        )
    return found.astype(np.float64)


def _floating(name: str, value: Any, axes: str) -> npt.NDArray[np.floating[Any]]:
    try:
        found = np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise BnbookError(
            f"{name} must be an array of shape ({axes}), found {type(value).__name__}, which NumPy"
            f" cannot read: {error}"
        ) from error
    if found.dtype.kind != "f":
        raise BnbookError(
            f"{name} must be floating point, found dtype {found.dtype}; if the values are right,"
            f" pass np.asarray({name}, dtype=float)."
        )
    return found


def minibatch(name: str, value: Any, axes: str = "m, features") -> Array:
    """Read an array whose axis m, wherever it stands, has two or more values."""
    found = array(name, value, axes)
    m = found.shape[[axis.strip() for axis in axes.split(",")].index("m")]
    if m < 2:
        raise BnbookError(
            f"{name} must have m >= 2 values of each feature, for one value has no variance;"
            f" found m = {m}, shape {found.shape}."
        )
    return found


def vector(name: str, value: Any, length: int, of: str = "features") -> Array:
    """Read one number for each feature."""
    found = array(name, value, of)
    if len(found) != length:
        raise BnbookError(
            f"{name} must have shape ({of},) = ({length},), found shape {found.shape}."
        )
    return found


def variances(name: str, value: Any, length: int) -> Array:
    """Read one variance for each feature."""
    found = vector(name, value, length)
    if (found < 0).any():
        raise BnbookError(
            f"{name} must hold variances, at least 0, found {found.min()} at"
            f" {[int(found.argmin())]}."
        )
    return found


def shaped(name: str, value: Any, like: Array, axes: str = "m, features") -> Array:
    """Read an array of the shape of another."""
    found = array(name, value, axes)
    if found.shape != like.shape:
        raise BnbookError(
            f"{name} must have shape ({axes}) = {like.shape}, found shape {found.shape}."
        )
    return found


def number(name: str, value: Any) -> float:
    """Read one finite number."""
    return _real(name, value, "a finite number", lambda _: True)


def positive(name: str, value: Any) -> float:
    """Read one finite number above zero."""
    return _real(name, value, "a finite number above 0", lambda x: x > 0)


def share(name: str, value: Any) -> float:
    """Read a number in [0, 1]."""
    return _real(name, value, "a number in [0, 1]", lambda x: 0 <= x <= 1)


def _real(name: str, value: Any, expected: str, holds: Any) -> float:
    try:
        found = math.nan if isinstance(value, (bool, str)) else float(value)
    except (TypeError, ValueError):
        found = math.nan
    if not (math.isfinite(found) and holds(found)):
        raise BnbookError(f"{name} must be {expected}, found {value!r}.")
    return found


def count(name: str, value: Any, least: int) -> int:
    """Read a whole number."""
    whole = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    if not whole or value < least:
        raise BnbookError(f"{name} must be a whole number, at least {least}, found {value!r}.")
    return int(value)
