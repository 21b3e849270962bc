"""What pays on this machine: one ensemble or single networks, which layout, compiled or not.

The choice is measured once for each experiment, machine and version, kept in a file, and stated in
the record. It never changes what is computed, only how.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Hashable, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from bnbook import files
from bnbook.errors import BnbookError
from bnbook.evidence import records
from bnbook.experiments import Experiment
from bnbook.training import kernels
from bnbook.training.session import OutOfTimeError, Plan, Session, Trial, now

MOST_MEMBERS = {"cpu": 32, "cuda": 512}
"""Networks in one ensemble, at most: more do not make a member cheaper (see the page on speed)."""

TRIAL_STEPS = 10
ESTIMATE_SECONDS = 60.0
"""What timing steps for an estimate may take."""


def choose(
    experiment: Experiment,
    parts: Sequence[Any],
    device: str,
    folder: Path,
    members: int | None = None,
) -> Plan:
    """Return the plan that trains a member fastest here."""
    if members is not None and members < 1:
        raise BnbookError(f"members must be at least 1, found {members}.")
    group = _fusing(experiment, parts, device)
    tried = candidates(experiment, len(group), members, device)
    if len(tried) == 1:
        return tried[0]
    kept = folder / f"plan-{_key(experiment, group, device, tried)}.json"
    if known := _known(kept):
        return known
    seconds = [_timed(experiment, group, device, plan) for plan in tried]
    best = tried[seconds.index(min(seconds))]
    measured = [
        {**asdict(p), "ms_per_member_step": 1e3 * s} for p, s in zip(tried, seconds, strict=True)
    ]
    files.write_json(kept, {"plan": asdict(best), "measured": measured})
    return best


def _known(kept: Path) -> Plan | None:
    """Return the plan that was measured before; None when there is none that can be read."""
    try:
        return Plan(**json.loads(kept.read_text("utf-8"))["plan"])
    except (FileNotFoundError, ValueError, TypeError, KeyError):
        return None


def candidates(
    experiment: Experiment, count: int, members: int | None = None, device: str = "cpu"
) -> list[Plan]:
    """Return the plans to try for runs of which `count` fuse, each once.

    On a CPU a plan that is compiled and channels-last is for single networks, which the kernels of
    `bnbook.training.deep` serve: to compile ensembles would take minutes.
    """
    sizes = (members,) if members is not None else (count, 1)
    plans = [
        replace(plan, members=n)
        for plan in experiment.plans
        for n in ((1,) if device == "cpu" and plan.compiled and plan.channels_last else sizes)
    ]
    possible = [plan for plan in plans if not plan.compiled or has_compiler()]
    return list(dict.fromkeys(possible or plans))


def has_compiler() -> bool:
    """Whether there is a C++ compiler, which compiled plans need on a CPU."""
    return kernels.compiler() is not None


def _fusing(experiment: Experiment, parts: Sequence[Any], device: str) -> list[Any]:
    """Return the runs that would train with the first: on a CPU those of one seed, which share
    their minibatches; on a GPU all that fit.
    """  # noqa: D205
    fused = [part for part in parts if experiment.fuses(part) == experiment.fuses(parts[0])]
    if device == "cpu":
        fused = list(next(itertools.groupby(fused, lambda part: part.seeds))[1])
    return fused[: MOST_MEMBERS[device]]


def _key(experiment: Experiment, group: Sequence[Any], device: str, tried: list[Plan]) -> str:
    import torch

    facts = {
        "experiment": experiment.name,
        "run": asdict(group[0]),
        "members": len(group),
        "tried": [asdict(plan) for plan in tried],
        "machine": [device, records.processor(), torch.__version__],
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def _timed(experiment: Experiment, group: Sequence[Any], device: str, plan: Plan) -> float:
    """Time of one step of one member, of an experiment that trains through `training.fit`."""
    seconds = step_seconds(experiment, group[: plan.members], device, plan, Trial(TRIAL_STEPS))
    if seconds is None:
        raise BnbookError(
            f"{experiment.name}.train did not train through training.fit, so nothing"
            " could be timed. Give `--members` to choose."
        )
    return seconds


def step_seconds(
    experiment: Experiment, runs: Sequence[Any], device: str, plan: Plan, trial: Trial
) -> float | None:
    """Time a few steps of runs that fuse: seconds a step and member; None if none was timed."""
    with suppress(OutOfTimeError):
        experiment.together(runs, Session(device, plan, trial=trial))
    return None if trial.seconds is None else trial.seconds / len(runs)


def estimate(
    experiment: Experiment,
    parts: Sequence[Any],
    device: str,
    plan: Plan,
    limit: float = ESTIMATE_SECONDS,
) -> float | None:
    """Return the seconds that runs will take to train, measurements aside, or None.

    A step of one ensemble of each kind is measured, by kernels of our own where they apply, for
    torch to compile one would take minutes; nothing, where runs do not train in steps, or when that
    takes longer than the limit in seconds.
    """
    if experiment.measure:
        return None
    with _uncompiled(plan):
        return _estimated(experiment, parts, device, plan, limit)


def _uncompiled(plan: Plan) -> AbstractContextManager[Any]:
    """Let torch compile nothing; our kernels, and a GPU's graphs, are used all the same."""
    if not plan.compiled:
        return nullcontext()
    import torch

    eager: AbstractContextManager[Any] = torch.compiler.set_stance("force_eager")
    return eager


def _estimated(
    experiment: Experiment, parts: Sequence[Any], device: str, plan: Plan, limit: float
) -> float | None:
    kinds: dict[Hashable, list[Any]] = {}
    for part in parts:
        kinds.setdefault(experiment.fuses(part), []).append(part)
    total, started = 0.0, now()
    for runs in kinds.values():
        trial = Trial(1)
        seconds = step_seconds(experiment, runs[: plan.members], device, plan, trial)
        if seconds is None or now() - started > limit:
            return None
        total += seconds * len(runs) * trial.total
    return total
