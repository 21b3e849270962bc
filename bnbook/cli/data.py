"""The commands ``bnbook data list | get | import | verify``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from bnbook.cli.console import out

app = typer.Typer(help="List, get, import and verify data sets.", no_args_is_help=True)


@app.command("list")
def data_list() -> None:
    """Say which data sets this machine has, and where."""
    from bnbook import datasets

    show(datasets.available())


def show(found: list) -> None:
    """Print a table of data sets."""
    table = Table("data set", "size", "found")
    for entry in found:
        table.add_row(entry.name, f"{entry.images:,}", entry.where or entry.reason)
    out.print(table)


@app.command("get")
def data_get(name: str, folder: Annotated[Path | None, typer.Option()] = None) -> None:
    """Download a data set from its official place, checked against its known digest."""
    from bnbook import datasets

    out.print(f"{name} is in {datasets.get(name, folder)}")


@app.command("import")
def data_import(
    name: str, source: Path, folder: Annotated[Path | None, typer.Option()] = None
) -> None:
    """Check a data set in a folder or archive, and copy it to where it will be found."""
    from bnbook import datasets

    out.print(f"{name} is in {datasets.import_folder(name, source, folder)}")


@app.command("verify")
def data_verify(name: str, folder: Annotated[Path | None, typer.Option()] = None) -> None:
    """Check a data set against its digest."""
    from bnbook import datasets

    out.print(str(datasets.verify(name, folder)))
