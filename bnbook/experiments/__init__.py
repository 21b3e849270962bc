"""One package per experiment, found by its name.

An experiment imports torch only while it runs, so that judging claims and drawing figures
need none.
"""

from __future__ import annotations

import pkgutil

from bnbook.errors import BnbookError
from bnbook.experiments.experiment import Experiment, load

__all__ = ["Experiment", "find", "names"]


def names() -> list[str]:
    """Names of the experiments, in alphabetical order."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if module.ispkg)


def find(name: str) -> Experiment:
    """Return the experiment of that name.

    Raises
    ------
    BnbookError
        When there is none; the error lists those there are.
    """
    if name not in names():
        raise BnbookError(
            f"expected the name of an experiment, one of {', '.join(names())}; found {name!r}."
        )
    return load(f"{__name__}.{name}.experiment")
