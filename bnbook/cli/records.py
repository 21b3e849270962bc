"""The commands ``bnbook records list | why | again | export | prune``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from bnbook import experiments
from bnbook.book import judging
from bnbook.cli.console import WIDTH
from bnbook.errors import BnbookError
from bnbook.evidence import records
from bnbook.sweeps import growing, inventory, sweep

app = typer.Typer(help="List, explain, export and prune records.", no_args_is_help=True)

Profile = Annotated[str, typer.Option(help="quick, standard or paper.")]


@app.callback()
def _in_a_repository() -> None:
    """List, explain, export and prune records."""
    records.repository()


def _console() -> Console:
    return Console(highlight=False, width=WIDTH, soft_wrap=True)


@app.command("list")
def list_() -> None:
    """Say what results/, _build/results and _build/sweeps hold, and what is stale."""
    table = Table("where", "experiment", "what", "seeds", "date", "kB", "state")
    for row in inventory.listing(records.recorded(), records.fresh(), sweep.CACHE):
        n = "" if row.n is None else str(row.n)
        size = f"{row.size / 1000:,.1f}"
        table.add_row(row.where, row.experiment, row.what, n, row.date, size, row.state)
    _console().print(table)


def _path(name: str, profile: str) -> Path:
    """Return the record of that name: the committed one, else the one made here."""
    places = [records.path(f, name, profile) for f in (records.recorded(), records.fresh())]
    return next((path for path in places if path.is_file()), places[0])


@app.command()
def why(
    name: Annotated[str, typer.Argument(help="The experiment.")], profile: Profile = "quick"
) -> None:
    """Say what has changed since a record was made: config, source, data, torch."""
    experiments.find(name)
    path = _path(name, profile)
    lines = inventory.why(name, records.read(path).provenance)
    console = _console()
    console.print(f"{path}: " + ("stale" if lines else "fresh, nothing that it depends on differs"))
    for line in lines:
        console.print(f"  {line}")


@app.command()
def again(
    name: Annotated[str, typer.Argument(help="The experiment.")],
    profile: Profile = "quick",
    member: Annotated[int, typer.Option(help="Its place in the record, from 0.")] = 0,
) -> None:
    """Train one recorded member again here, alone, and keep in the record what differs."""
    from bnbook.sweeps import again as anew

    experiment = experiments.find(name)
    path = records.path(records.recorded(), name, profile)
    run, digest = growing.member_at(experiment, records.read(path), profile, member)
    _console().print(anew.again(experiment, profile, run, digest, records.recorded()))
    judging.rewrite_ledger(records.recorded(), name)


@app.command()
def export(
    name: Annotated[str, typer.Argument(help="The experiment.")],
    to: Annotated[Path, typer.Option(help="A file that ends in .csv, .json or .parquet.")],
    profile: Profile = "quick",
) -> None:
    """Write a record's table for other programs."""
    inventory.export(_path(name, profile), to)
    _console().print(f"wrote {to}")


@app.command()
def prune(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
) -> None:
    """Delete finished members that no sweep would use any longer; results/ stays as it is."""
    if sweep.CACHE.resolve().is_relative_to(records.recorded().resolve()):
        raise BnbookError(f"{sweep.CACHE} lies among the recorded results; nothing was deleted.")
    console = _console()
    condemned = inventory.prune(sweep.CACHE, dry_run)
    for path, reason in condemned:
        console.print(f"{path.parent.name}/{path.name}: {reason}")
    console.print(f"{len(condemned)} files {'would be deleted' if dry_run else 'deleted'}")
