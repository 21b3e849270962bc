"""The command ``bnbook conformance``."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from bnbook.cli.console import out
from bnbook.errors import BnbookError


def conformance(
    target: Annotated[
        str, typer.Argument(help="MODULE:CLASS or PATH.py:CLASS, made as CLASS(num_features).")
    ],
    names: Annotated[
        str,
        typer.Option(
            help="The layer's own names, such as weight=gamma,running_mean=moving_mean,eps=epsilon;"
            " num_batches_tracked= when it counts no batches."
        ),
    ] = "",
    limit: Annotated[
        float, typer.Option(min=1, help="Seconds after which a layer that does not end has failed.")
    ] = 300,
) -> None:
    """Hold a layer of batch normalisation against the formulas, check by check.

    Exits with 1 when a check fails or the checks do not come to their end, with 2 when the layer
    cannot be looked at. The layer runs in a process of its own; what it prints is left out.
    """
    from bnbook.conformance.child import report

    found = report(target, _pairs(names), limit)
    table = Table("check", "what it holds", "", "found", show_lines=True)
    for result in found.results:
        verdict = "pass" if result["found"] is None else "FAIL"
        table.add_row(result["name"], result["holds"], verdict, Text(result["found"] or ""))
    out.print(table)
    failed = [result["name"] for result in found.results if result["found"] is not None]
    total = len(found.results)
    if failed:
        out.print(f"{target}: {len(failed)} of {total} checks fail: {', '.join(failed)}")
    if found.unfinished:
        out.print(f"{target}: not finished, which counts as a failure: {found.unfinished}")
    if failed or found.unfinished:
        raise typer.Exit(1)
    inputs = ", ".join(str(tuple(size)) for size in found.sizes)
    out.print(f"{target}: all {total} checks pass, on inputs {inputs}")


def _pairs(names: str) -> dict[str, str]:
    """Read ``weight=gamma,bias=beta``."""
    pairs = [pair.partition("=") for pair in names.split(",") if pair.strip()]
    if odd := [name for name, equals, _ in pairs if not equals]:
        raise BnbookError(f"--names must be pairs such as weight=gamma, found {odd[0]!r}.")
    return {name.strip(): own.strip() for name, _, own in pairs}
