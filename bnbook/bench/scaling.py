"""How much faster a sweep is with more Dask workers: measured, recorded, quoted by the book.

Not an experiment, it has no claims; its ledger entry holds the facts that a page prints.
"""

from __future__ import annotations

import importlib
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd

from bnbook import experiments
from bnbook.errors import BnbookError
from bnbook.evidence import claims, records
from bnbook.experiments.experiment import Experiment
from bnbook.sweeps import executors, planning, sweep

TITLE = "A sweep on one Dask worker and on two"


def measure(
    name: str = "ioffe_fig1",
    *,
    workers: Sequence[int] = (1, 2),
    repeats: int = 3,
    members: int = 12,
    folder: Path | None = None,
    **changes: Any,
) -> records.Record:
    """Time a sweep from nothing on clusters of several sizes, and record it.

    The scheduler and the workers, one thread each, run on this machine and are warm: they have
    imported torch and drawn up their plan before the clock starts.

    The experiment runs at its ``quick`` profile, with `changes` to the fields of its config. There
    are `repeats` sweeps on each cluster, and `workers` holds the clusters' sizes. `members` counts
    the networks in a batch; there should be several batches to a worker. Without `folder` the
    record goes to the committed results.

    The record has one row per sweep: ``workers``, ``repeat``, ``members``, ``steps`` (of each
    member) and ``seconds``.

    Raises
    ------
    BnbookError
        When Dask is not installed, or a sweep fails.
    """
    started = time.perf_counter()
    experiment = experiments.find(name)
    config = experiment.configure("quick", **changes)
    parts = experiment.parts(config)
    rows = [
        {
            "workers": count,
            "repeat": repeat,
            "members": len(parts),
            "steps": getattr(config, "steps", 1),
            "seconds": seconds,
        }
        for count in workers
        for repeat, seconds in enumerate(_timed(experiment, config, count, members, repeats))
    ]
    about = {
        "experiment": "scaling",
        "profile": "quick",
        "config": {"experiment": name, "batch": members, **asdict(config)},
        "seeds": len(config.seeds),
        "data": config.data,
        "seconds": round(time.perf_counter() - started, 1),
        "date": datetime.now(UTC).date().isoformat(),
        **records.environment("cpu"),
    }
    path = records.path(folder or records.recorded(), "scaling", "quick")
    records.write(path, pd.DataFrame(rows), about)
    return records.read(path)


def _timed(
    experiment: Experiment, config: Any, workers: int, members: int, repeats: int
) -> Iterator[float]:
    """Yield the seconds of each of several sweeps on one cluster."""
    try:
        from distributed import Client, LocalCluster
    except ImportError as error:
        raise BnbookError(executors.NOT_INSTALLED) from error
    with (
        LocalCluster(
            n_workers=workers, threads_per_worker=1, processes=True, dashboard_address=None
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        for module in ("bnbook.training.fit", experiment.module):
            client.run(importlib.import_module, module)
        for _ in range(repeats):
            with tempfile.TemporaryDirectory() as folder:
                cache = Path(folder)
                planning.choose(experiment, experiment.parts(config), "cpu", cache, members)
                started = time.perf_counter()
                sweep.sweep(
                    experiment,
                    config,
                    device="cpu",
                    scheduler=cluster.scheduler_address,
                    members=members,
                    cache=cache,
                    quiet=True,
                )
                yield time.perf_counter() - started


def facts(table: pd.DataFrame) -> claims.Facts:
    """Return the numbers that the page quotes.

    The table is from `measure`, with sweeps on one worker and on two. The facts are seconds on one
    worker and on two, their ratio, members and steps of a sweep, and the number of sweeps. Each has
    ``value``, ``digits``, ``unit`` and, for means over sweeps, ``low`` and ``high``.
    """
    seconds = {n: group["seconds"].to_numpy() for n, group in table.groupby("workers")}
    return {
        "one_worker": claims.fact(seconds[1], 1, " s"),
        "two_workers": claims.fact(seconds[2], 1, " s"),
        "ratio": claims.fact([seconds[1].mean() / seconds[2].mean()], 2, "×"),
        "members": claims.count(table["members"].max()),
        "steps": claims.count(table["steps"].max()),
        "sweeps": claims.count(table["repeat"].nunique()),
    }


MEASUREMENT = Experiment(
    name="scaling", title=TITLE, profiles={}, columns={}, claims=(), facts=facts, figures={}
)


if __name__ == "__main__":
    measure()
