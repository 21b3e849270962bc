"""The command ``bnbook diagnose``."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Annotated

import typer

from bnbook import files
from bnbook.cli.console import out, print_json


def diagnose(
    target: Annotated[
        str,
        typer.Argument(
            help="MODULE:FUNCTION or PATH.py:FUNCTION, which returns (model, batches), or"
            " (model, batches, loss), or (model, batches, loss, optimizer)."
        ),
    ],
    html: Annotated[Path | None, typer.Option(help="Write the report there, as one page.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    limit: Annotated[int, typer.Option(min=1, help="Batches to use, at most.")] = 32,
    quiet: Annotated[bool, typer.Option("--quiet", help="Show no progress bar.")] = False,
) -> None:
    """Find out what is wrong with the batch normalisation of your network.

    Batches are inputs, or tuples of inputs and targets, as in training. Exits with 1 when there is
    a warning or an error.
    """
    from bnbook.diagnose import diagnose as examine
    from bnbook.diagnose.loading import load

    with redirect_stdout(sys.stderr):  # what the reader's code prints
        report = examine(*load(target), limit=limit, progress=not quiet)
    if as_json:
        print_json(report.as_dict())
    else:
        out.print(report)
    if html is not None:
        files.write_bytes(html, report.html().encode())
        typer.echo(f"wrote {html}", err=True)
    raise typer.Exit(int(not report.healthy))
