"""Everybody's repetitions, interleaved in one run."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pandas as pd

from bnbook.bench import backward, contenders, costs, deep, floor, gpu, growth, memory, workloads
from bnbook.bench.runner import Runner
from bnbook.bench.timing import row, seconds
from bnbook.bench.workloads import Workload
from bnbook.errors import BnbookError
from bnbook.evidence import timings
from bnbook.training import fit

CPU: Mapping[str, Workload] = {
    workload.name: workload for workload in (workloads.MNIST, workloads.DIGITS, workloads.RESNET20)
}
OF_DEEP = (*deep.NAMES, "costs")
"""What the record of deep networks has."""
NAMES = (*CPU, *OF_DEEP, "memory", "growth", "backward", *gpu.NAMES)
"""What there is to measure, for ``--only``."""


@dataclass(frozen=True)
class Effort:
    """How long to measure.

    Attributes
    ----------
    repetitions : int
        Of every contender.
    steps : mapping
        Workload -> steps of one repetition.
    """

    repetitions: int
    steps: Mapping[str, int]


QUICK = Effort(
    5,
    {"mnist": 150, "digits": 150, "resnet20": 8, "growth": 40}
    | {"backward-2d": 200, "backward-4d": 4},
)
FULL = Effort(
    9,
    {"mnist": 300, "digits": 300, "resnet20": 12, "growth": 60}
    | {"backward-2d": 1000, "backward-4d": 20},
)


def run(
    quick: bool, device: str = "auto", only: Collection[str] = (), all_deep: bool = False
) -> pd.DataFrame:
    """Measure every workload and contender that this machine can run.

    With `quick` there are few steps and repetitions, the growth with E alone, and the two shallower
    deep networks. `device` is ``cpu`` for the CPU's workloads, ``cuda`` for the GPU's, or ``auto``
    for a GPU where there is one. `only` holds names of `NAMES`; empty, it stands for all, of the
    deep networks for those of `deep.QUICK`. With `all_deep` the deep networks and their costs are
    measured, all of them and nothing else. The columns are those of `bnbook.evidence.timings`.

    Raises
    ------
    BnbookError
        When a name is unknown.
    """
    if unknown := sorted(set(only) - set(NAMES)):
        raise BnbookError(
            f"expected names of workloads, among {'; '.join(NAMES)}. Found {'; '.join(unknown)}."
        )
    effort = QUICK if quick else FULL
    left_out = set(OF_DEEP) - set(deep.QUICK)
    wanted = set(only) or (set(OF_DEEP) if all_deep else set(NAMES) - left_out)
    if fit.choose_device(device).type == "cuda":
        rows = gpu.rows(quick, effort.repetitions, wanted)
    else:
        rows = _cpu_rows(quick, effort, wanted) + gpu.absent(wanted)
    return pd.DataFrame(rows, columns=list(timings.COLUMNS))


def _cpu_rows(quick: bool, effort: Effort, wanted: Collection[str]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for name, workload in CPU.items():
        if name in wanted:
            rows += workload_rows(workload, effort.repetitions, effort.steps[name])
    for name, deep_one in deep.ALL.items():
        if name in wanted:
            rows += _deep_rows(deep_one, effort, quick)
    if "costs" in wanted:
        rows += costs.rows()
    if "growth" in wanted:
        rows += growth.rows(quick, effort.repetitions, effort.steps["growth"])
    if "memory" in wanted:
        rows += memory.rows()
    if "backward" in wanted:
        rows += backward.rows(effort.repetitions, effort.steps)
    if not any(row["workload"] == timings.PRODUCT for row in rows):
        rows += product_rows([floor.Product(shape) for shape in floor.SHAPES], 0)
    return rows


def _deep_rows(workload: deep.Deep, effort: Effort, quick: bool) -> list[dict[str, Any]]:
    with deep.threads(workload):
        beside = deep.floors(workload) if workload.one_thread else lambda _: []
        return workload_rows(
            workload, effort.repetitions, deep.steps(workload), deep.who(workload, quick), beside
        )


def workload_rows(
    workload: Workload,
    repetitions: int,
    steps: int,
    who: Collection[contenders.Contender] | None = None,
    beside: Callable[[int], list[dict[str, Any]]] | None = None,
) -> list[dict[str, Any]]:
    """Time a workload's contenders, one after another, `repetitions` times around.

    Each round begins with the next contender, and everybody trains once before the first round.

    `steps` counts the steps of each training loop. By default `who` is all contenders that know the
    workload. `beside` maps a repetition to rows of what else is measured in it: by default matrix
    products in float32, of which the share of the floor is then taken. A contender that cannot run
    here has one row, with a note.
    """
    rows: list[dict[str, Any]] = []
    products = [floor.Product(shape) for shape in floor.SHAPES]
    gflop = floor.flop(workload) / 1e9 if beside is None else math.nan
    with prepared(workload, steps, who or contenders.of(workload.name), rows) as runners:
        for runner in runners.values():
            seconds(runner)
        for repetition in range(repetitions):
            names = list(runners)
            turn = repetition % max(1, len(names))
            for name in names[turn:] + names[:turn]:
                taken = seconds(runners[name])
                rows.append(
                    row(workload.name, name, runners[name].members, steps, repetition, taken)
                    | {"gflop": gflop}
                )
            rows += product_rows(products, repetition) if beside is None else beside(repetition)
    return rows


@contextmanager
def prepared(
    workload: Workload,
    steps: int,
    who: Collection[contenders.Contender],
    rows: list[dict[str, Any]],
) -> Iterator[dict[str, Runner]]:
    """Prepare contenders, note those that cannot run in `rows`, and close them in the end."""
    runners: dict[str, Runner] = {}
    try:
        for contender in who:
            if note := contender.missing():
                rows.append(timings.empty(workload.name, contender.name, 1, note))
            else:
                runners[contender.name] = contender.prepare(workload, steps, 0, "cpu")
        yield runners
    finally:
        for runner in runners.values():
            runner.close()


def product_rows(products: list[floor.Product], repetition: int) -> list[dict[str, Any]]:
    """Time matrix products with all cores."""
    return [
        row(timings.PRODUCT, product.name, 1, 1, repetition, product.seconds())
        | {"gflop": product.gflop}
        for product in products
    ]
