"""Finding a reader's network and batches by MODULE:FUNCTION or PATH.py:FUNCTION."""

from __future__ import annotations

from typing import Any

from bnbook.conformance.cases import first_line
from bnbook.conformance.loading import imported
from bnbook.errors import BnbookError

PARTS = "model, batches, loss and optimizer"


def load(target: str) -> tuple[Any, ...]:
    """Call a reader's function, and return what `diagnose` takes.

    Parameters
    ----------
    target : str
        "MODULE:FUNCTION", the module found from here or installed, or "PATH.py:FUNCTION".

    Returns
    -------
    tuple
        Model and batches, and perhaps loss and optimizer.

    Raises
    ------
    BnbookError
        When there is no such file, module or function, when it raises, or returns something else.
    """
    place, colon, name = target.rpartition(":")
    if not (colon and place and name):
        raise BnbookError(
            "the network must be given as MODULE:FUNCTION or PATH.py:FUNCTION, such as"
            f" mine.py:network_and_batches, found {target!r}."
        )
    module = imported(place)
    function = getattr(module, name, None)
    if not callable(function):
        here = [n for n, v in vars(module).items() if callable(v) and not n.startswith("_")]
        some = ", ".join(sorted(here)[:8]) or "none"
        what = "no such name" if function is None else f"a {type(function).__name__}"
        raise BnbookError(f"{place} must have a function {name}, found {what}. It has: {some}.")
    try:
        found = function()
    except (Exception, SystemExit) as error:
        raise BnbookError(
            f"{target} must be callable without arguments, it raised {first_line(error)}"
        ) from error
    if not (isinstance(found, (tuple, list)) and 2 <= len(found) <= 4):
        raise BnbookError(
            f"{target} must return a tuple of {PARTS}, the last two if wanted; it returned a"
            f" {type(found).__name__}."
        )
    return tuple(found)
