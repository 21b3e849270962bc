"""The conformance checks on themselves: what they find in mutants, and in layers that are right.

Every check of `bnbook.conformance` is run on every mutant of `bnbook.conformance.mutants` and on
the layers that are meant to pass, with numbers of several seeds. No paper is followed: the mutants
are bugs that public implementations have had.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from bnbook.errors import BnbookError
from bnbook.experiments import experiment
from bnbook.experiments.conformance_table import claims, figures
from bnbook.training.session import Session

TITLE = "Which check catches which bug (the correctness page)"

CLAIMS = claims.CLAIMS
FIGURES = {"matrix": lambda table: figures.matrix(claims.matrix(table), claims.TRAP)}
facts = claims.facts


@dataclass(frozen=True)
class Config:
    """Everything that a run depends on.

    Attributes
    ----------
    seeds : tuple of int
        Each sets the inputs, the parameters and the cotangents of all checks.
    layers : tuple of str
        Meant to pass, as ``bnbook conformance`` takes them.
    mutants : tuple of str
        Names in `bnbook.conformance.mutants`; empty for all.
    data : str
        Nothing is read: the numbers are generated.
    """

    seeds: tuple[int, ...]
    layers: tuple[str, ...] = (
        "bnbook.layers.norm:BatchNorm",
        "bnbook.layers.norm:FusedBatchNorm",
        "bnbook.layers.norm:LeanBatchNorm",
        "torch.nn:BatchNorm1d",
        "torch.nn:BatchNorm2d",
        "torch.nn:BatchNorm3d",
        "bnbook.conformance.mutants:Sample",
    )
    mutants: tuple[str, ...] = ()
    data: str = "generated"


PROFILES: Mapping[str, Config] = {
    "quick": Config(seeds=(0, 1)),
    "standard": Config(seeds=tuple(range(10))),
}


def configure(profile: str, seed: int = 0, **changes: Any) -> Config:
    """Return a profile's config, with changes, its fields checked.

    Parameters
    ----------
    profile : str
        ``quick`` or ``standard``.
    seed : int
        Added to every seed, for runs that no record holds.
    **changes
        Fields of `Config` to replace; None leaves a field as it is.

    Returns
    -------
    Config

    Raises
    ------
    BnbookError
        When the profile or a field is unknown, or a value is impossible.
    """
    config = experiment.configure("conformance_table", PROFILES, profile, seed, changes)
    experiment.check_distinct(config, ("seeds", "layers"))
    if len(set(config.mutants)) < len(config.mutants):
        raise BnbookError(f"mutants must be distinct, found {config.mutants}.")
    if odd := [s for s in config.seeds if s < 0]:
        raise BnbookError(f"seeds must be at least 0, found {odd[0]}.")
    return config


def parts(config: Config) -> list[Config]:
    """Return one config for each seed."""
    return experiment.single_runs(config, ("seeds",))


def fuses(part: Config) -> Config:
    """Return the part itself: each is computed alone."""
    return part


def run(config: Config, device: str = "auto") -> pd.DataFrame:
    """Run every check on every layer, seed after seed.

    Parameters
    ----------
    config : Config
        From `configure`.
    device : str
        Taken and not used: the checks are made in float64 on the CPU.

    Returns
    -------
    pandas.DataFrame
        One row per seed, layer and check: ``seed``, ``layer`` (as ``bnbook conformance`` takes it),
        ``kind`` (``mutant`` or ``layer``), ``check``, ``caught`` (whether it failed the layer).
    """
    return pd.concat(train(parts(config), Session(device)), ignore_index=True)


def train(runs: Sequence[Config], session: Session) -> list[pd.DataFrame]:  # noqa: ARG001
    """Run every check for some seeds.

    Parameters
    ----------
    runs : sequence of Config
        Of `parts`.
    session : Session
        Not used: a part takes seconds.

    Returns
    -------
    list of pandas.DataFrame
        The rows of each part, as `run` describes them.
    """
    return [pd.DataFrame(_rows(part)) for part in runs]


def _rows(part: Config) -> Iterator[dict[str, Any]]:
    from bnbook import conformance
    from bnbook.conformance import mutants

    names = part.mutants or tuple(mutant.__name__ for mutant in mutants.MUTANTS)
    targets = [(f"bnbook.conformance.mutants:{name}", claims.MUTANT) for name in names]
    targets += [(layer, claims.LAYER) for layer in part.layers]
    (seed,) = part.seeds
    for target, kind in targets:
        for result in conformance.run(conformance.load(target), seed):
            found = {"check": result.name, "caught": not result.passed}
            yield {"seed": seed, "layer": target, "kind": kind, **found}
