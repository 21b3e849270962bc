"""One package per experiment, found by its name.

An experiment imports torch only while it runs, so that judging claims and drawing figures
need none. What it offers is the `Experiment` protocol.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, Protocol, cast, runtime_checkable

import pandas as pd

from bnbook.errors import BnbookError
from bnbook.evidence.claims import Claim
from bnbook.training.session import Session


@runtime_checkable
class Experiment(Protocol):
    """What every experiment's module ``experiment`` offers.

    Attributes
    ----------
    TITLE : str
        What it is, in a few words.
    PROFILES : mapping
        Profile name -> frozen config.
    CLAIMS : sequence of Claim
        Written before the run.
    FIGURES : mapping
        Name -> function that draws a table on a new figure.
    """

    __name__: str
    TITLE: str
    PROFILES: Mapping[str, Any]
    CLAIMS: Sequence[Claim]
    FIGURES: Mapping[str, Callable[[pd.DataFrame], Any]]

    def configure(self, profile: str, seed: int = 0, **changes: Any) -> Any:
        """Return the profile's config with seeds shifted, fields changed, and data chosen."""

    def parts(self, config: Any) -> list[Any]:
        """Split a config into single runs, each a config itself, in the order of the table."""

    def fuses(self, part: Any) -> Hashable:
        """Return what two single runs must have in common to train as one ensemble."""

    def train(self, parts: Sequence[Any], session: Session) -> list[pd.DataFrame]:
        """Train single runs that fuse as one ensemble: one tidy table for each, in their order."""

    def run(self, config: Any, device: str = "auto") -> pd.DataFrame:
        """Run a config: a pure function, one tidy table."""

    def facts(self, table: pd.DataFrame) -> dict[str, dict[str, Any]]:
        """Numbers that the prose needs beside the claims, by name."""


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


def load(module: str) -> Experiment:
    """Return the experiment of a module: its ``EXPERIMENT``, or the module where it has none."""
    found = importlib.import_module(module)
    return cast(Experiment, getattr(found, "EXPERIMENT", found))


def stem(experiment: Experiment) -> str:
    """Return the experiment's short name: its package's, and its folder's under ``results/``."""
    package, _, name = experiment.__name__.rpartition(".")
    return package.rpartition(".")[2] if name == "experiment" else name
