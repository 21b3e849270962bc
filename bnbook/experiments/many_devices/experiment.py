"""Data-parallel training in real processes: what BN computes there, against one process.

A small ConvNet in float64 on replicas that average their gradients (`DistributedDataParallel`, gloo
on the CPU), with statistics of each replica, synchronised statistics, and frozen ones. Against it
one process with torch's layers: the minibatch cut into ghost batches, and the minibatch whole.

Chosen here: the network, the number of steps, equal shares of the minibatch in its order. Seconds
are those of the processes of one machine that share its cores: they show what messages cost here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd

from bnbook.errors import BnbookError
from bnbook.experiments.experiment import (
    Experiment,
    check_distinct,
    check_known,
    check_positive,
)
from bnbook.experiments.many_devices import claims, figures


@dataclass(frozen=True, kw_only=True)
class Config:
    """Everything that a run depends on.

    Attributes
    ----------
    data : str
        Name of a data set of images (see `bnbook.datasets`).
    seeds : tuple of int
        Each sets the initial weights and the minibatches.
    replicas : tuple of int
        Numbers of processes; each divides `batch_size`.
    norms : tuple of str
        How the statistics are taken.
    batch_size : int
        Images in a minibatch, of all replicas together.
    steps : int
        Steps of plain SGD.
    learning_rate : float
        Their rate.
    widths : tuple of int
        Channels of the blocks.
    side : int
        Rows and columns that images are averaged down to, where they are larger.
    launcher : str
        How processes are started: forked, or torchrun.
    """

    data: str = "digits"
    seeds: tuple[int, ...] = (0, 1, 2)
    replicas: tuple[int, ...] = (2,)
    norms: tuple[str, ...] = claims.NORMS
    batch_size: int = 16
    steps: int = 4
    learning_rate: float = 0.1
    widths: tuple[int, ...] = (4, 8)
    side: int = 8
    launcher: Literal["forked", "torchrun"] = "forked"

    def __post_init__(self) -> None:
        """Refuse impossible values, before any process starts."""
        check_positive(self, ("batch_size", "steps", "side"))
        check_distinct(self, ("seeds", "replicas", "norms"))
        check_known(self, "norms", claims.NORMS)
        for replicas in self.replicas:
            if replicas < 1 or self.batch_size % replicas:
                raise BnbookError(
                    f"batch_size must be a multiple of replicas, found {self.batch_size} and"
                    f" {replicas}; nothing was started. A replica takes an equal share."
                )


COLUMNS = {
    "replicas": "processes among which the minibatch is shared",
    "seed": "sets initial weights and minibatches",
    "norm": "how the statistics are taken; see `bnbook.experiments.many_devices.claims`",
    "step": "steps done when the row was measured",
    "gradient_error": "distance of the averaged gradient from that of one process, relative",
    "parameter_error": "of the parameters after the step, relative",
    "statistics_error": "of the first replica's running statistics after the step, relative",
    "large_gap": "distance of the averaged gradient from that of one large minibatch, relative",
    "apart": "largest difference between parameters of two replicas, 0 when they agree",
    "learned": "numbers in a gradient, all of which replicas exchange in a step",
    "messages": "sums over all replicas that the statistics need in a step",
    "numbers": "numbers in these",
    "seconds_step": "seconds of a step, median over steps, of the first replica",
}


def measure(run: Config, device: Any) -> pd.DataFrame:  # noqa: ARG001, gloo is of the CPU
    """Train replicas with each norm, and hold every step against one process."""
    from bnbook.experiments.many_devices import replica
    from bnbook.training import ranks

    job = _job(run)
    (replicas,), (seed,) = run.replicas, run.seeds
    found = ranks.run(replica.train, job, replicas, run.launcher)
    tables = []
    whole = replica.alone(job, claims.SYNC, replicas)
    for norm in run.norms:
        alone = whole if norm == claims.SYNC else replica.alone(job, norm, replicas)
        rows = pd.DataFrame(
            {"replicas": replicas, "seed": seed, "norm": norm, "step": range(1, run.steps + 1)}
        )
        tables.append(_compared(rows, [each[norm] for each in found], alone, whole))
    return pd.concat(tables, ignore_index=True)


def _job(run: Config) -> dict[str, Any]:
    """Make what every replica is given: images, labels, minibatches, and the settings."""
    from torch.nn import functional

    from bnbook import datasets
    from bnbook.training import fit

    images, labels = datasets.load(run.data)
    if (factor := images.shape[-1] // run.side) > 1:
        images = functional.avg_pool2d(images, factor)
    batches = fit.minibatches(len(labels), run.batch_size, run.steps, run.seeds[0])
    used, places = batches.unique(return_inverse=True)
    return {
        "images": images[used].double(), "labels": labels[used], "batches": places,
        "seed": run.seeds[0], "widths": list(run.widths), "rate": run.learning_rate,
        "norms": list(run.norms),
    }  # fmt: skip


def _compared(
    rows: pd.DataFrame, replicas: list[dict[str, Any]], alone: Any, whole: Any
) -> pd.DataFrame:
    """Add to rows, one a step, how far replicas are from one process and from each other."""

    def errors(what: str, against: Any) -> list[float]:
        pairs = zip(replicas[0][what], against[what], strict=True)
        return [float((found - true).norm() / true.norm()) for found, true in pairs]

    each = [one["parameters"] for one in replicas]
    apart = [
        max(float((own - first).abs().max()) for own in others)
        for first, *others in zip(each[0], *each, strict=True)
    ]
    seconds = pd.Series(replicas[0]["seconds"]).median()
    return rows.assign(
        gradient_error=errors("gradient", alone),
        parameter_error=errors("parameters", alone),
        statistics_error=errors("statistics", alone),
        large_gap=errors("gradient", whole),
        apart=apart,
        learned=len(whole["gradient"][0]),
        messages=replicas[0]["messages"],
        numbers=replicas[0]["numbers"],
        seconds_step=seconds,
    )


EXPERIMENT = Experiment(
    name="many_devices",
    title="Many devices: statistics of each replica, synchronised, and frozen",
    profiles={
        "quick": Config(),
        "standard": Config(
            data="cifar10 or mnist5k", seeds=(0, 1, 2, 3, 4), replicas=(1, 2, 4, 8), batch_size=64,
            steps=20, widths=(8, 16, 32), side=16, launcher="torchrun",
        ),
    },
    axes=("replicas", "seeds"),
    measure=measure,
    needs={"norms": claims.NORMS},
    columns=COLUMNS,
    claims=claims.CLAIMS,
    facts=claims.facts,
    figures=figures.FIGURES,
)  # fmt: skip
