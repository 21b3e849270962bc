"""The command line: ``bnbook run | build | check | judge | records | bench | conformance ...``."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import re
import shutil
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from bnbook import __version__, claims, experiments, records, records_cli, status
from bnbook.bench.command import bench
from bnbook.conformance_cli import conformance
from bnbook.errors import BnbookError
from bnbook.session import OutOfTimeError

app = typer.Typer(
    help="The Batch Normalization Book: run experiments, judge claims, build the pages.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
data_app = typer.Typer(help="List, get, import and verify data sets.", no_args_is_help=True)
app.add_typer(data_app, name="data")
app.add_typer(records_cli.app, name="records")
app.command()(bench)
app.command()(conformance)
out = Console(highlight=False, width=None if sys.stdout.isatty() else 160)

Profile = Annotated[str, typer.Option(help="quick, standard or paper.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def main() -> None:
    """Run the command line.

    A `BnbookError` prints as one message and exits with status 2; a budget that has ended, with 3.
    """
    debug = "--debug" in sys.argv
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    try:
        app(arguments)
    except BnbookError as error:
        if debug:
            raise
        print(f"bnbook: {error}", file=sys.stderr)  # noqa: T201
        sys.exit(3 if isinstance(error, OutOfTimeError) else 2)


def _version(wanted: bool) -> None:
    if wanted:
        out.print(__version__)
        raise typer.Exit


@app.callback()
def _options(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it.")
    ] = False,
) -> None:
    """Hold the options that every command has."""


@app.command()
def run(
    name: Annotated[str, typer.Argument(help="The experiment, such as ioffe_fig1.")],
    profile: Profile = "quick",
    seeds: Annotated[int | None, typer.Option(help="Number of seeds, from 0 up.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    workers: Annotated[int, typer.Option(help="Processes.")] = 1,
    executor: Annotated[
        str | None, typer.Option(help="inline, processes or dask; by default what suits.")
    ] = None,
    scheduler: Annotated[
        str | None, typer.Option(help="A Dask scheduler, such as tcp://HOST:8786.")
    ] = None,
    members: Annotated[
        int | None, typer.Option(help="Networks that train as one, at most; measured unless given.")
    ] = None,
    budget: Annotated[
        str | None, typer.Option(help="Stop after 90s, 9m or 1.5h; the same command goes on.")
    ] = None,
    data: Annotated[str | None, typer.Option(help="Another data set.")] = None,
    record: Annotated[
        bool, typer.Option("--record", help="Write to results/, to be committed.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Do not say how far it is.")] = False,
) -> None:
    """Run an experiment, resuming what was interrupted, and judge its claims.

    The table goes to _build/results; with --record to results/, with the ledger brought up to date.
    Exits with 3 when the budget ends first.
    """
    from bnbook import sweep

    if seeds is not None and seeds < 1:
        raise BnbookError(f"--seeds must be at least 1, found {seeds}.")
    experiment = experiments.find(name)
    some = tuple(range(seeds)) if seeds else None
    config = experiment.configure(profile, seeds=some, data=data)
    folder = records.recorded() if record else records.fresh()
    try:
        sweep.record(
            experiment,
            profile,
            config,
            folder=folder,
            device=device,
            workers=workers,
            executor=executor,
            scheduler=scheduler,
            members=members,
            budget=None if budget is None else _duration(budget),
            quiet=quiet,
        )
    except KeyboardInterrupt:
        print(  # noqa: T201
            "bnbook: stopped. Finished members and checkpoints are kept: run the same command again"
            " to go on.",
            file=sys.stderr,
        )
        raise typer.Exit(130) from None
    if record:
        status.rewrite_ledger(folder, name)
    out.print(f"{records.path(folder, name, profile)}")
    source = "recorded" if record else "fresh"
    rows = status.rows(records.recorded(), records.fresh(), name)
    shown = (name, profile, source)
    _print_rows([row for row in rows if (row.experiment, row.profile, row.source) == shown])


def _duration(text: str) -> float:
    """Read a time such as 90s, 9m or 1.5h, in seconds."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smh])", text)
    if not found or not float(found[1]):
        raise BnbookError(f"--budget must be a time such as 90s, 9m or 1.5h, found {text!r}.")
    return float(found[1]) * {"s": 1, "m": 60, "h": 3600}[found[2]]


@app.command()
def build(
    profile: Profile = "quick",
    workers: Annotated[int, typer.Option(help="Notebooks at a time.")] = 2,
) -> None:
    """Run the notebooks, judge the claims, draw the figures and build the pages."""
    from bnbook import build as book

    root = records.root()
    executed = book.run_notebooks(root, profile, workers)
    out.print(f"notebooks: {len(executed)} run, {len(book.notebooks(root))} in all")
    rows = list(status.rows(root / "results", records.fresh()))
    if executed:
        _print_rows([row for row in rows if row.source == "fresh"])
    _exit_on_conflict(rows)
    out.print(f"figures: {len(book.draw_figures(root))} drawn")
    out.print("pages: " + ("built" if book.make_pages(root) else "unchanged"))
    out.print(f"open {root / book.HTML / 'index.html'}", soft_wrap=True)


@app.command()
def check(as_json: Json = False) -> None:
    """Judge every claim from the recorded and the fresh tables.

    Exits with 1 when a fresh verdict contradicts the recorded one beyond the intervals.
    """
    rows = list(status.rows(records.recorded(), records.fresh()))
    if as_json:
        print(records.as_json([row.as_dict() for row in rows]))  # noqa: T201
    else:
        _print_rows(rows)
    _exit_on_conflict(rows)


def _exit_on_conflict(rows: list[status.Row]) -> None:
    contradicted = [f"{row.claim['id']} at {row.profile}" for row in rows if row.conflict]
    if contradicted:
        print(  # noqa: T201
            "bnbook: a fresh run contradicts the record beyond its interval:"
            f" {', '.join(contradicted)}. See `bnbook compare`.",
            file=sys.stderr,
        )
        raise typer.Exit(1)


def _print_rows(rows: list[status.Row]) -> None:
    table = Table("claim, paper, statement", show_lines=True)
    for header in ("value", "95 % interval", "n", "verdict", "profile"):
        table.add_column(header, no_wrap=True)
    for row in rows:
        where = row.profile if row.source == "recorded" else f"{row.profile}, fresh"
        table.add_row(
            f"{row.claim['id']} ({row.claim['paper']}): {row.claim['statement']}",
            claims.format_value(row.claim, row.judgement["value"]),
            claims.format_interval(row.claim, row.judgement),
            str(row.judgement["n"]),
            row.judgement["verdict"] + (" (CONFLICT)" if row.conflict else ""),
            where,
        )
    out.print(table)


@app.command()
def compare(
    name: Annotated[str, typer.Argument(help="The experiment.")],
    profile: Profile = "quick",
) -> None:
    """Hold a fresh run against the record: the answer to "same seed, other numbers".

    Exits with 1 when a verdict is contradicted beyond the intervals.
    """
    experiment = experiments.find(name)
    folders = records.recorded(), records.fresh()
    table = Table("claim", "ours", "95 % interval", "yours", "95 % interval", "verdicts")
    conflicts = False
    for claim, ours, yours, conflict in status.compare(experiment, profile, *folders):
        conflicts |= conflict
        agree = "contradicted" if conflict else "compatible"
        table.add_row(
            claim["id"],
            claims.format_value(claim, ours["value"]),
            claims.format_interval(claim, ours),
            claims.format_value(claim, yours["value"]),
            claims.format_interval(claim, yours),
            f"{ours['verdict']} / {yours['verdict']}: {agree}",
        )
    out.print(table)
    about = [records.read(records.path(f, name, profile)).provenance for f in folders]
    for line in status.differences(*about) or ["config, data, code, versions and device: the same"]:
        out.print(line)
    raise typer.Exit(int(conflicts))


@app.command()
def judge() -> None:
    """Make results/claims, and the README's table and picture, from the recorded tables."""
    from bnbook import build as book
    from bnbook.bench import recording

    root = records.root()
    for path in (*status.rewrite_ledger(root / "results"), *recording.rewrite(root / "results")):
        out.print(f"wrote {path.relative_to(root)}")
    readme = root / "README.md"
    text = readme.read_text("utf-8")
    records.write_bytes(readme, status.readme(text, root / "results").encode())
    out.print("wrote README.md")
    book.draw_figures(root)
    picture = root / "book" / "_static" / book.PICTURE
    records.write_bytes(picture, (root / book.FIGURES / book.PICTURE).read_bytes())
    out.print(f"wrote {picture.relative_to(root)}")


@app.command()
def doctor() -> None:
    """Show versions, device and data found, and what to do about what is missing."""
    from bnbook import datasets

    packages = (
        "torch", "numpy", "pandas", "pyarrow", "scipy", "matplotlib", "seaborn", "mlxtend",
        "pooch", "papermill", "jupyter-book",
    )  # fmt: skip
    found = records.environment("cpu")
    out.print(f"bnbook {__version__}, Python {found['versions']['python']}, {found['system']}")
    out.print(f"processor: {found['processor']}, {found['cores']} cores; device: {_device()}")
    out.print("packages: " + ", ".join(_package(name) for name in packages), soft_wrap=True)
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
    out.print(f"browser for the tests: {browser or 'none; try `apt-get install chromium`'}")
    out.print(f"BNBOOK_DATA: {os.environ.get('BNBOOK_DATA', 'not set')}")
    _print_data(datasets.available())
    drift = _drift(records.root() / "requirements.lock")
    out.print("versions differ from requirements.lock: " + (", ".join(drift) or "none"))


def _device() -> str:
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu (torch sees no GPU)"


def _package(name: str) -> str:
    try:
        return f"{name} {importlib.metadata.version(name)}"
    except importlib.metadata.PackageNotFoundError:
        return f"{name} missing (pip install {name})"


def _drift(lock: Path) -> list[str]:
    """Say which installed packages differ from the locked versions."""
    if not lock.is_file():
        return ["no requirements.lock here; run this in the project's folder"]
    pins = [line.split("==") for line in lock.read_text().splitlines() if "==" in line]
    said = []
    for name, pinned in pins:
        try:
            installed = importlib.metadata.version(name).partition("+")[0]
        except importlib.metadata.PackageNotFoundError:
            installed = "missing"
        if installed != pinned:
            said.append(f"{name} {installed} (locked {pinned})")
    return said


@data_app.command("list")
def data_list() -> None:
    """Say which data sets this machine has, and where."""
    from bnbook import datasets

    _print_data(datasets.available())


def _print_data(found: list) -> None:
    table = Table("data set", "images", "found")
    for entry in found:
        table.add_row(entry.name, f"{entry.images:,}", entry.where or entry.reason)
    out.print(table)


@data_app.command("get")
def data_get(name: str, folder: Annotated[Path | None, typer.Option()] = None) -> None:
    """Download a data set from its official place, checked against its known digest."""
    from bnbook import datasets

    out.print(f"{name} is in {datasets.get(name, folder)}")


@data_app.command("import")
def data_import(
    name: str, source: Path, folder: Annotated[Path | None, typer.Option()] = None
) -> None:
    """Check a data set in a folder or archive, and copy it to where it will be found."""
    from bnbook import datasets

    out.print(f"{name} is in {datasets.import_folder(name, source, folder)}")


@data_app.command("verify")
def data_verify(name: str, folder: Annotated[Path | None, typer.Option()] = None) -> None:
    """Check a data set against its digest."""
    from bnbook import datasets

    out.print(str(datasets.verify(name, folder)))
