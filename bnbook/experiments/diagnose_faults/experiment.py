"""What `bnbook.diagnose` is worth: faults planted in networks, and the same networks without.

Networks of three architectures are trained for some steps on scanned digits and diagnosed as they
are. At the first few seeds each fault of `bnbook.diagnose.planted` is put into a copy, which is
diagnosed in turn.

Cost: one core takes about a tenth of a second for a diagnosis of the MLP, half a second for the
small residual network and five seconds for ResNet-18; 26 faults each.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pandas as pd

from bnbook.errors import BnbookError
from bnbook.experiments.diagnose_faults import claims, figures
from bnbook.experiments.experiment import Experiment, check_distinct, check_known, check_positive

KNOWN = ("mlp", "small resnet", "resnet-18")


@dataclass(frozen=True)
class Config:
    """What a run depends on.

    Attributes
    ----------
    architectures : tuple of str
        Of the networks.
    seeds : tuple of int
        Each sets the initial weights, the images and their order.
    planted_below : int
        Faults are planted at seeds below this one.
    faults : tuple of str
        Names in `bnbook.diagnose.planted`; empty for all.
    steps : int
        Of training.
    data : str
    """

    architectures: tuple[str, ...] = KNOWN
    seeds: tuple[int, ...] = (0,)
    planted_below: int = 1
    faults: tuple[str, ...] = ()
    steps: int = 30
    data: str = "digits"

    def __post_init__(self) -> None:
        """Refuse impossible values."""
        check_positive(self, ("steps",))
        check_distinct(self, ("seeds", "architectures"))
        check_known(self, "architectures", KNOWN)
        if self.data != "digits":
            raise BnbookError(f"data must be digits, which the networks fit, found {self.data}.")


COLUMNS = {
    "architecture": "the network",
    "seed": "seed of its weights, its images and their order",
    "fault": "what was planted, or none",
    "kind": "the finding that should name it; empty without a fault",
    "named": "whether there is such a finding; true without a fault",
    "placed": "whether it names the layer first, where the fault is at one layer",
    "alarms": "number of kinds of findings that the fault does not bring",
    "findings": "kinds of all findings, with a semicolon between them",
    "passes": "forward passes, in units of one over all batches",
}


def measure(run: Config, device: Any) -> pd.DataFrame:  # noqa: ARG001
    """Train one network, and diagnose it without and with each fault; on the CPU."""
    from bnbook.diagnose import planted

    (architecture,), (seed,) = run.architectures, run.seeds
    case = planted.healthy(architecture, seed, steps=run.steps)
    rows = [_row(case, claims.HEALTHY, "", None, ())]
    if seed < run.planted_below:
        rows += _with_faults(run, case, architecture)
    one = {"architecture": architecture, "seed": seed}
    return pd.DataFrame([one | row for row in rows])


def _with_faults(run: Config, case: Any, architecture: str) -> Iterator[dict[str, Any]]:
    from bnbook.diagnose import planted

    for fault in planted.faults(architecture):
        if not run.faults or fault.name in run.faults:
            changed, layer = planted.faulty(case, fault)
            yield _row(changed, fault.name, fault.kind, layer, fault.follows)


def _row(
    case: Any, fault: str, kind: str, layer: str | None, follows: tuple[str, ...]
) -> dict[str, Any]:
    """Diagnose a network, and hold what is found against what was planted."""
    from bnbook.diagnose import diagnose

    report = diagnose(case.model, case.batches, case.loss, case.optimizer)
    found = {finding.kind: finding for finding in report.findings}
    named = not kind or kind in found
    return {
        "fault": fault,
        "kind": kind,
        "named": named,
        "placed": named and (layer is None or found[kind].layer == layer),
        "alarms": len(found.keys() - {kind, *follows}),
        "findings": "; ".join(found),
        "passes": report.passes,
    }


EXPERIMENT = Experiment(
    name="diagnose_faults",
    title="Planted faults, and what the diagnosis says of them",
    profiles={
        "quick": Config(architectures=KNOWN[:2], seeds=(0, 1)),
        "standard": Config(seeds=tuple(range(40)), planted_below=3),
    },
    axes=("architectures", "seeds"),
    measure=measure,
    columns=COLUMNS,
    claims=claims.CLAIMS,
    facts=claims.facts,
    figures=figures.FIGURES,
)
