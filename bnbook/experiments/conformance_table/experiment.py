"""The conformance checks on themselves: what they find in mutants, and in layers that are right.

Every check of `bnbook.conformance` is run on every mutant of `bnbook.conformance.mutants` and on
the layers that are meant to pass, with numbers of several seeds. No paper is followed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pandas as pd

from bnbook.errors import BnbookError
from bnbook.experiments.conformance_table import claims, figures
from bnbook.experiments.experiment import Experiment, check_distinct


@dataclass(frozen=True)
class Config:
    """Everything that a run depends on."""

    seeds: tuple[int, ...]  # each sets the inputs, parameters and cotangents of all checks
    layers: tuple[str, ...] = (  # meant to pass, as ``bnbook conformance`` takes them
        "bnbook.layers.norm:BatchNorm",
        "bnbook.layers.norm:FusedBatchNorm",
        "bnbook.layers.norm:LeanBatchNorm",
        "torch.nn:BatchNorm1d",
        "torch.nn:BatchNorm2d",
        "torch.nn:BatchNorm3d",
        "bnbook.conformance.mutants:Sample",
    )
    mutants: tuple[str, ...] = ()  # names in `bnbook.conformance.mutants`; empty for all
    data: str = "generated"

    def __post_init__(self) -> None:
        check_distinct(self, ("seeds", "layers"))
        if len(set(self.mutants)) < len(self.mutants):
            raise BnbookError(f"mutants must be distinct, found {self.mutants}.")
        if odd := [seed for seed in self.seeds if seed < 0]:
            raise BnbookError(f"seeds must be at least 0, found {odd[0]}.")


PROFILES = {
    "quick": Config(seeds=(0, 1)),
    "standard": Config(seeds=tuple(range(5))),
}

COLUMNS = {
    "seed": "of inputs, parameters and cotangents",
    "layer": "as ``bnbook conformance`` takes it",
    "kind": "mutant or layer",
    "check": "its name",
    "caught": "whether it failed the layer",
}


def measure(part: Config, device: Any) -> pd.DataFrame:  # noqa: ARG001
    """Run every check at a seed, in float64 on the CPU whatever the device."""
    return pd.DataFrame(_rows(part))


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


EXPERIMENT = Experiment(
    name="conformance_table",
    title="Which check catches which bug (the correctness page)",
    profiles=PROFILES,
    measure=measure,
    columns=COLUMNS,
    claims=claims.CLAIMS,
    facts=claims.facts,
    figures={"matrix": lambda table: figures.matrix(claims.matrix(table), claims.TRAP)},
)
