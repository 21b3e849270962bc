"""Run an experiment part by part: in parallel, resumable, never the same part twice.

Finished parts are kept as records in a cache folder under a key of everything that they depend on.
A run that was interrupted goes on with the parts that are missing.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pandas as pd
from tqdm import tqdm

from bnbook import experiments, records
from bnbook.errors import BnbookError
from bnbook.experiments import Experiment

CACHE = records.root() / "_build" / "sweeps"
"""Where finished parts are kept."""


def part_key(part: Any, source: str, device: str) -> str:
    """SHA-256 of all that a part's table depends on.

    Parameters
    ----------
    part : Config
        One of an experiment's `parts`.
    source : str
        The experiment's `source_digest`.
    device : str
        ``cpu`` or ``cuda``.

    Returns
    -------
    str
        64 hexadecimal digits over the config, the source, the data set's digest, torch's version
        and the device.
    """
    import torch

    from bnbook import datasets

    facts = {
        "config": asdict(part),
        "source": source,
        "data": datasets.digest(part.data),
        "torch": torch.__version__,
        "device": device,
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Outcome:
    """A finished run.

    Attributes
    ----------
    table : pandas.DataFrame
        The same rows in the same order as ``experiment.run(config)``, whatever was resumed.
    seconds : float
        Time spent computing, summed over parts, those found in the cache included.
    source_digest : str
        Digest of the source that the run depends on, taken when it started.
    device : str
        ``cpu``, or the name of the GPU.
    """

    table: pd.DataFrame
    seconds: float
    source_digest: str
    device: str


def run(
    experiment: Experiment,
    config: Any,
    *,
    device: str = "auto",
    workers: int = 1,
    cache: Path | None = None,
) -> Outcome:
    """Run the parts of a config that the cache does not hold.

    Parameters
    ----------
    experiment : Experiment
        The experiment's module.
    config : Config
        From its `configure`.
    device : str
        ``auto``, ``cpu`` or ``cuda``.
    workers : int
        Processes; 1 runs in this one. The cores are shared out among them.
    cache : pathlib.Path, optional
        Folder of finished parts; `CACHE` unless told otherwise.

    Returns
    -------
    Outcome

    Raises
    ------
    BnbookError
        When `workers` is less than 1 or a worker process dies. Finished parts are kept.
    """
    import torch

    from bnbook import training

    if workers < 1:
        raise BnbookError(f"workers must be at least 1, found {workers}.")
    kind = training.choose_device(device).type
    name, source = experiments.stem(experiment), source_digest(experiment)
    paths = {
        (cache or CACHE) / name / f"{part_key(part, source, kind)}.parquet": part
        for part in experiment.parts(config)
    }
    missing = [(path, part) for path, part in paths.items() if not path.is_file()]
    progress = tqdm(
        total=len(paths),
        initial=len(paths) - len(missing),
        desc=name,
        unit="part",
        disable=not sys.stderr.isatty(),
    )
    with closing(progress):
        for _ in _finished(name, missing, kind, workers):
            progress.update()
    finished = [records.read(path) for path in paths]
    return Outcome(
        pd.concat([part.table for part in finished], ignore_index=True),
        round(sum(part.provenance["seconds"] for part in finished), 1),
        source,
        torch.cuda.get_device_name() if kind == "cuda" else "cpu",
    )


def source_digest(experiment: Experiment) -> str:
    """Return the digest of the source that an experiment's ``run`` depends on.

    The loading of data does not count, the key has the digest of the data itself; nor does the
    version of the package.
    """
    return records.source_digest(experiment.__name__, "run", without={"bnbook", "bnbook.datasets"})


def _finished(
    name: str, missing: list[tuple[Path, Any]], device: str, workers: int
) -> Iterator[None]:
    if workers == 1 or len(missing) < 2:
        for path, part in missing:
            _run_part(name, part, device, path)
            yield
        return
    threads = max(1, (os.cpu_count() or 1) // workers)
    pool = ProcessPoolExecutor(
        workers, get_context("spawn"), initializer=_set_threads, initargs=(threads,)
    )
    with pool:
        futures = [pool.submit(_run_part, name, part, device, path) for path, part in missing]
        try:
            for future in as_completed(futures):
                future.result()
                yield
        except BrokenProcessPool as error:
            raise BnbookError(
                f"a worker process of {name} died, perhaps for want of memory. Finished parts are"
                " kept: run the same command again, with fewer --workers if it was memory."
            ) from error
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _set_threads(threads: int) -> None:
    import torch

    torch.set_num_threads(threads)


def _run_part(name: str, part: Any, device: str, path: Path) -> None:
    started = time.perf_counter()
    table = experiments.find(name).run(part, device)
    seconds = round(time.perf_counter() - started, 3)
    records.write(path, table, {"experiment": name, "config": asdict(part), "seconds": seconds})


def record(
    experiment: Experiment,
    profile: str,
    config: Any,
    *,
    device: str = "auto",
    workers: int = 1,
    folder: Path | None = None,
) -> records.Record:
    """Run a config and write its record, under ``_build/results`` unless told otherwise.

    Parameters
    ----------
    experiment, config, device, workers
        As for `run`.
    profile : str
        The profile's name, the stem of the file.
    folder : pathlib.Path, optional
        The results folder.

    Returns
    -------
    records.Record
        As read back from the file.
    """
    outcome = run(experiment, config, device=device, workers=workers)
    path = records.path(folder or records.fresh(), experiments.stem(experiment), profile)
    records.write(path, outcome.table, provenance(experiment, profile, config, outcome))
    return records.read(path)


def provenance(
    experiment: Experiment, profile: str, config: Any, outcome: Outcome
) -> dict[str, Any]:
    """Collect the facts that a record states about a finished run.

    Parameters
    ----------
    experiment : Experiment
        The experiment's module.
    profile : str
        The profile's name.
    config : Config
        What was run.
    outcome : Outcome
        What `run` returned.

    Returns
    -------
    dict
        Experiment, profile, config, data and source digests, seconds, date, and
        `records.environment`.
    """
    from bnbook import datasets

    return {
        "experiment": experiments.stem(experiment),
        "profile": profile,
        "config": asdict(config),
        "seeds": len(config.seeds),
        "data": config.data,
        "data_digest": datasets.digest(config.data),
        "source_digest": outcome.source_digest,
        "seconds": outcome.seconds,
        "date": datetime.now(UTC).date().isoformat(),
        **records.environment(outcome.device),
    }
