"""The command ``bnbook conformance``."""

from __future__ import annotations

import sys
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text


def conformance(
    target: Annotated[
        str, typer.Argument(help="MODULE:CLASS or PATH.py:CLASS, made as CLASS(num_features).")
    ],
) -> None:
    """Hold a layer of batch normalisation against the formulas, check by check.

    Exits with 1 when a check fails.
    """
    from bnbook.conformance import accepted, load, run

    make = load(target)
    results = run(make)
    table = Table("check", "what it holds", "", "found", show_lines=True)
    for result in results:
        verdict = "pass" if result.passed else "FAIL"
        table.add_row(result.name, result.holds, verdict, Text(result.found or ""))
    out = Console(highlight=False, width=None if sys.stdout.isatty() else 160)
    out.print(table)
    failed = [result.name for result in results if not result.passed]
    if failed:
        out.print(f"{target}: {len(failed)} of {len(results)} checks fail: {', '.join(failed)}")
        raise typer.Exit(1)
    inputs = ", ".join(str(size) for size in accepted(make))
    out.print(f"{target}: all {len(results)} checks pass, on inputs {inputs}")
