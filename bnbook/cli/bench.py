"""The command ``bnbook bench``."""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Collection
from typing import Annotated

import pandas as pd
import typer
from rich.table import Table

from bnbook.cli.console import out, print_json
from bnbook.errors import BnbookError
from bnbook.evidence import records, timings
from bnbook.evidence.wording import format_value
from bnbook.sweeps.executors import say


def bench(
    quick: Annotated[bool, typer.Option("--quick", help="In under 8 minutes.")] = False,
    deep: Annotated[
        bool, typer.Option("--deep", help="All deep residual networks and nothing else.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    only: Annotated[list[str] | None, typer.Option(help="A workload; may be repeated.")] = None,
    record: Annotated[
        bool, typer.Option("--record", help="Write to results/, to be committed.")
    ] = False,
    again: Annotated[
        bool, typer.Option("--again", help="With --deep --record: time what is recorded too.")
    ] = False,
) -> None:
    """Measure training against the loops that a reader would write, and against the floor.

    On a CPU: the networks of figure 1, ResNets, memory, growth and BN alone; on a GPU, figure 1's
    map of learning rates and ResNet-110. With --deep, --record adds each network to the record as
    soon as it is timed, and those that are there already are not timed again.
    """
    if again and not (deep and record):
        raise BnbookError("--again is for --deep --record, where it was not given.")
    if record and only and not deep:
        raise BnbookError("--record keeps whole runs: leave out --only.")
    if record:
        records.repository()
    from bnbook.bench import measure, recording

    if record and deep:
        _grow("quick" if quick else "standard", only or (), again)
        return

    began, busy = time.monotonic(), load()
    if busy > 0.5:
        say(
            f"the machine is busy (load {busy:.1f}); contenders that want all cores will look"
            " slower than they are."
        )
    table = measure.run(quick, device, only or (), deep)
    summary = timings.rows(table)
    if as_json:
        print_json(recording.as_rows(summary))
    else:
        show(table, summary)
    if record:
        name, threads = machine(device)
        path = recording.write(
            table,
            "quick" if quick else "standard",
            device=name,
            threads=threads,
            load=busy,
            seconds=round(time.monotonic() - began, 1),
            folder=records.recorded(),
        )
        print(path, file=sys.stderr)  # noqa: T201


def _grow(profile: str, only: Collection[str], again: bool) -> None:
    """Time deep networks that the record lacks, or all that are asked for; add each to it."""
    from bnbook.bench import measure, recording

    if unknown := sorted(set(only) - set(measure.OF_DEEP)):
        raise BnbookError(
            f"expected names among {'; '.join(measure.OF_DEEP)}. Found {'; '.join(unknown)}."
        )
    folder = records.recorded()
    there = recording.recorded_parts(folder, profile)
    asked = [name for name in measure.OF_DEEP if name in only or not only]
    todo = asked if again else [name for name in asked if name not in there]
    say(f"to be timed: {'; '.join(todo) or 'nothing, the record has it all'}.")
    for name in todo:
        began, busy = time.monotonic(), load()
        table = measure.run(profile == "quick", "cpu", [name], True)
        recording.add(
            table,
            name,
            profile,
            measure.OF_DEEP,
            threads=machine("cpu")[1],
            load=busy,
            seconds=round(time.monotonic() - began, 1),
            folder=folder,
        )
        say(f"{name}: recorded, at load {busy:.1f}.")


def load() -> float:
    """Return how many programs were running over the last minute; NaN where nobody counts."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else math.nan


def machine(device: str) -> tuple[str, int]:
    """Return what a record says it was measured on: ``cpu`` or a GPU's name; torch's threads."""
    import torch

    from bnbook.training import fit

    on_gpu = fit.choose_device(device).type == "cuda"
    return torch.cuda.get_device_name() if on_gpu else "cpu", torch.get_num_threads()


def show(table: pd.DataFrame, summary: pd.DataFrame) -> None:
    """Print the summary and the targets."""
    columns = (
        "workload",
        "contender",
        "members",
        "steps",
        "median s",
        "min to max",
        "µs per member and step",
        "ratio to ours",
        "min to max",
        "floor share",
        "note",
    )
    shown = Table(*columns)
    for _, row in summary.iterrows():
        shown.add_row(*_cells(row))
    out.print(shown)
    against = Table("workload", "against", "target", "found", "")
    for target, found in timings.judged(table):
        about = target.__dict__
        value = format_value(about, found["value"])
        bound = f"{timings.bound_text(about)} {target.statement}"
        against.add_row(target.workload, target.against, bound, value, found["verdict"])
    out.print(against)


def _cells(row: pd.Series) -> list[str]:
    """Write a row of the summary."""
    setting = "" if math.isnan(row["setting"]) else f" at {row['setting']:g}"
    seconds, ratio = ("median_s", "min_s", "max_s"), ("ratio_to_ours", "ratio_min", "ratio_max")
    time_, least, most = (_number(row[name], "{:.4g}") for name in seconds)
    times, low, high = (_number(row[name], "{:.2f}") for name in ratio)
    size = _number(row["mebibytes"], "{:.1f} MiB")
    return [
        row["workload"] + setting, row["contender"], f"{row['members']:.0f}", f"{row['steps']:.0f}",
        time_, f"{least} to {most}" if time_ else "", _number(row["us_per_member_step"], "{:.1f}"),
        times, f"{low} to {high}" if times else "", _number(row["floor_share"], "{:.0%}"),
        row["note"] or size,
    ]  # fmt: skip


def _number(value: float, form: str) -> str:
    return "" if math.isnan(value) else form.format(value)
