"""The command line: ``bnbook run | build | check | judge | records | queue | bench ...``."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

import typer
from rich.table import Table

from bnbook import __version__, experiments, files
from bnbook.book import judging
from bnbook.cli import data as data_cli
from bnbook.cli import queueing
from bnbook.cli import records as records_cli
from bnbook.cli.bench import bench
from bnbook.cli.conformance import conformance
from bnbook.cli.console import (
    duration,
    let_threads_sleep,
    out,
    print_json,
    replace_what_cannot_be_shown,
)
from bnbook.cli.diagnose import diagnose
from bnbook.cli.doctor import doctor
from bnbook.errors import BnbookError
from bnbook.evidence import ledger, records, wording
from bnbook.sweeps.executors import say
from bnbook.training.session import OutOfTimeError

app = typer.Typer(
    help="The Batch Normalization Book: run experiments, judge claims, build the pages.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.add_typer(data_cli.app, name="data")
app.add_typer(records_cli.app, name="records")
app.add_typer(queueing.app, name="queue")
app.command()(doctor)
app.command()(bench)
app.command()(conformance)
app.command()(diagnose)

Profile = Annotated[str, typer.Option(help="quick, standard or paper.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
MOST_SEEDS = 10_000
"""A slip of the finger beyond that, not a plan."""


def main() -> None:
    """Run the command line, and exit.

    With 0 when all is well; 1 when what was looked at does not hold; 2 when the command, the files
    or the machine do not allow it; 3 when the budget ended first; 130 after Ctrl-C.
    """
    debug = "--debug" in sys.argv
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    replace_what_cannot_be_shown()
    try:
        status = _called(arguments)
    except BaseException as error:
        if debug or not isinstance(error, (*EXPLAINED, KeyboardInterrupt)):
            traceback.print_exc()
        status = _explain(error)
    sys.exit(status)


EXPLAINED = (BnbookError, OSError, MemoryError)
"""What may go wrong without a fault in this package."""


def _called(arguments: list[str]) -> Any:
    """Call a command and return the status that it exits with."""
    closed = "standard output is closed or cannot take more; nothing that was written is undone."
    if sys.stdout is None:
        raise BnbookError(closed)
    try:
        app(arguments)
    except SystemExit as ended:
        if isinstance(ended.__context__, BrokenPipeError):
            raise BnbookError(closed) from ended
        if isinstance(getattr(ended.__context__, "__cause__", None), KeyboardInterrupt):
            raise KeyboardInterrupt from ended  # of a command that says nothing of its own
        sys.stdout.flush()
        return ended.code
    return 0


def _explain(error: BaseException) -> int:
    """Say in a line what went wrong, and return the status to exit with."""
    if isinstance(error, KeyboardInterrupt):
        say("stopped. What was finished is kept.")
        return 130
    if isinstance(error, OSError):
        where = "" if error.filename is None else f" ({error.filename})"
        say(
            f"{error.strerror or error}{where}. What stood there before was left as it was, whole."
            " Mend that, or choose another place, and give the same command again."
        )
    elif isinstance(error, MemoryError):
        say("there was not enough memory. Nothing was recorded; try fewer workers or seeds.")
    elif isinstance(error, BnbookError):
        say(str(error))
    else:
        say("this is a fault of the package: please report it, with what is above.")
    return 3 if isinstance(error, OutOfTimeError) else 2


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
        bool, typer.Option("--record", help="Add to the record in results/, to be committed.")
    ] = False,
    replace: Annotated[
        bool, typer.Option("--replace", help="Let the record replace one that it does not cover.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Do not say how far it is.")] = False,
) -> None:
    """Run an experiment, resuming what was interrupted, and judge its claims.

    The table goes to _build/results. With --record, members are added to the record in results/ as
    they finish, and the ledger is brought up to date; on another machine it goes on from there.
    Exits with 3 when the budget ends first.
    """
    if seeds is not None and not 1 <= seeds <= MOST_SEEDS:
        at_most = f" and at most {MOST_SEEDS:,}" if seeds > 1 else ""
        raise BnbookError(f"--seeds must be at least 1{at_most}, found {seeds}.")
    if replace and not record:
        raise BnbookError("--replace is about the record in results/; it goes with --record.")
    experiment = experiments.find(name)
    some = tuple(range(seeds)) if seeds else None
    config = experiment.configure(profile, seeds=some, data=data)
    how = {
        "device": device,
        "workers": workers,
        "executor": executor,
        "scheduler": scheduler,
        "members": members,
        "budget": None if budget is None else duration(budget),
        "quiet": quiet,
    }
    folder = records.repository() / "results" if record else records.fresh()
    try:
        if record:
            _grow(experiment, profile, config, replace=replace, **how)
        else:
            _sweep().record(experiment, profile, config, folder=folder, **how)
    except KeyboardInterrupt:
        say(
            "stopped. Finished members and checkpoints are kept: run the same command again to go"
            " on."
        )
        raise typer.Exit(130) from None
    out.print(f"{records.path(folder, name, profile)}")
    source = "recorded" if record else "fresh"
    rows = judging.rows(records.recorded(), records.fresh(), name)
    shown = (name, profile, source)
    _print_rows([row for row in rows if (row.experiment, row.profile, row.source) == shown])


def _grow(experiment: experiments.Experiment, profile: str, config: Any, **how: Any) -> None:
    """Add to the record, and bring the ledger up to date however that ends."""
    try:
        _sweep().grow(experiment, profile, config, **how)
    finally:
        judging.rewrite_ledger(records.recorded(), experiment.name)


def _sweep() -> ModuleType:
    """Import what runs experiments, which takes longer than most commands do."""
    let_threads_sleep()
    from bnbook.sweeps import sweep

    return sweep


@app.command()
def build(
    profile: Profile = "quick",
    workers: Annotated[int, typer.Option(help="Notebooks at a time.")] = 2,
) -> None:
    """Run the notebooks, judge the claims, draw the figures and build the pages."""
    root = records.repository()
    records.expect_some(root / "results")
    if profile not in records.PROFILES:
        known = ", ".join(records.PROFILES)
        raise BnbookError(f"--profile must be one of {known}, found {profile!r}.")
    from bnbook.book import build as book
    from bnbook.sweeps import executors

    executors.check_workers(workers)
    let_threads_sleep()
    with book.alone(root):
        if book.nothing_to_do(root, profile):
            out.print("nothing changed since the last build")
        else:
            _build(root, profile, workers)
    out.print(f"open {root / book.HTML / 'index.html'}", soft_wrap=True)


def _build(root: Path, profile: str, workers: int) -> None:
    from bnbook.book import blocks, notebooks
    from bnbook.book import build as book

    try:
        executed = notebooks.run_notebooks(root, profile, workers)
        run = blocks.run_blocks(root, workers)
    except KeyboardInterrupt:
        say("stopped. Notebooks that had ended are kept; the same command goes on.")
        raise typer.Exit(130) from None
    out.print(f"notebooks: {len(executed)} run, {len(notebooks.notebooks(root))} in all")
    out.print(f"code blocks: {len(run)} run")
    rows = list(judging.rows(root / "results", records.fresh()))
    if executed:
        _print_rows([row for row in rows if row.source == "fresh"])
    _exit_on_conflict(rows)
    out.print(f"figures: {len(book.draw_figures(root, workers))} drawn")
    out.print("pages: " + ("built" if book.make_pages(root) else "unchanged"))
    book.finished(root, profile)


@app.command()
def pdf() -> None:
    """Print the built pages as one PDF beside them; needs playwright and a Chromium."""
    root = records.repository()
    from bnbook.book import build as book
    from bnbook.book import pdf as printing

    with book.alone(root):
        made = printing.add_to_pages(root, root / book.HTML)
        book.note_addition(root)
    out.print(f"wrote {made}", soft_wrap=True)


@app.command()
def check(as_json: Json = False) -> None:
    """Judge every claim from the recorded and the fresh tables.

    Exits with 1 when a fresh verdict contradicts the recorded one beyond the intervals, or a record
    is of other code than today's and the queue does not have it.
    """
    results = records.repository() / "results"
    records.expect_some(results)
    rows = list(judging.rows(results, records.fresh()))
    if as_json:
        print_json([row.as_dict() for row in rows])
    else:
        _print_rows(rows)
        _print_coverage(results)
    _exit_on_conflict(rows)
    _exit_on_stale(results)


def _exit_on_stale(results: Path) -> None:
    from bnbook.sweeps import inventory, schedule

    queue = results.parent / schedule.FILE
    entries = schedule.read(queue) if queue.is_file() else []
    awaited = {(entry.experiment, entry.profile) for entry in entries}
    if stale := inventory.behind(results, awaited):
        say(
            f"made by other code, config or data than today's: {', '.join(stale)}."
            f" `bnbook records why` says what changed; record them again or list them in"
            f" {schedule.FILE}."
        )
        raise typer.Exit(1)


def _exit_on_conflict(rows: list[judging.Row]) -> None:
    contradicted = [f"{row.claim['id']} at {row.profile}" for row in rows if row.conflict]
    if contradicted:
        say(
            "a fresh run contradicts the record beyond its interval:"
            f" {', '.join(contradicted)}. See `bnbook compare`."
        )
        raise typer.Exit(1)


def _print_rows(rows: list[judging.Row]) -> None:
    table = Table("claim, paper, statement", show_lines=True)
    for header in ("value", "95 % interval", "n", "verdict", "profile"):
        table.add_column(header, no_wrap=True)
    for row in rows:
        where = row.profile if row.source == "recorded" else f"{row.profile}, fresh"
        table.add_row(
            f"{row.claim['id']} ({row.claim['paper']}): {row.claim['statement']}",
            wording.format_value(row.claim, row.judgement["value"]),
            wording.format_interval(row.claim, row.judgement),
            str(row.judgement["n"]),
            _verdict(row.judgement) + (" (CONFLICT)" if row.conflict else ""),
            where,
        )
    out.print(table)


def _verdict(judgement: Mapping[str, Any]) -> str:
    """Name the verdict; where nothing was measured, that too."""
    return str(judgement["verdict"]) + ("" if judgement["n"] else ", no seed has a value")


def _print_coverage(results: Path) -> None:
    """Print everything that the two papers say, and what became of it; as on the ledger's page."""
    from bnbook.tables import coverage

    contents = ledger.read(results)
    table = Table("row", "place", "what the paper has", "here", show_lines=True)
    for row in coverage.rows():
        ours = [
            f"{each.claim['id']}: {each.judgement['verdict']} ({each.profile})"
            for each in coverage.tested(row, contents)
        ]
        table.add_row(
            row.row, f"{row.paper}, {row.section}", row.what, "\n".join(ours) or row.status
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
    folders = records.repository() / "results", records.fresh()
    table = Table("claim", "ours", "95 % interval", "yours", "95 % interval", "verdicts")
    conflicts = False
    for claim, ours, yours, conflict in judging.compare(experiment, profile, *folders):
        conflicts |= conflict
        agree = "contradicted" if conflict else "compatible"
        table.add_row(
            claim["id"],
            wording.format_value(claim, ours["value"]),
            wording.format_interval(claim, ours),
            wording.format_value(claim, yours["value"]),
            wording.format_interval(claim, yours),
            f"{_verdict(ours)} / {_verdict(yours)}: {agree}",
        )
    out.print(table)
    about = [records.read(records.path(f, name, profile)).provenance for f in folders]
    for line in judging.differences(*about) or [
        "config, data, code, versions and device: the same"
    ]:
        out.print(line)
    raise typer.Exit(int(conflicts))


@app.command()
def judge() -> None:
    """Make results/claims, and the README's table and picture, from the recorded tables."""
    root = records.repository()
    records.expect_some(root / "results")
    from bnbook.bench import recording
    from bnbook.book import build as book
    from bnbook.book import way

    readme = root / "README.md"
    text = readme.read_text("utf-8")
    for path in (*judging.rewrite_ledger(root / "results"), *recording.rewrite(root / "results")):
        out.print(f"wrote {path.relative_to(root)}")
    out.print(f"wrote {way.write(root).relative_to(root)}")
    files.write_bytes(readme, judging.readme(text, root / "results").encode())
    out.print("wrote README.md")
    book.draw_figures(root, only={name.partition("-")[0] for name in book.PICTURES})
    drawn = [name for name in book.PICTURES if (root / book.FIGURES / name).is_file()]
    for name in drawn:
        picture = root / "book" / "_static" / name
        files.write_bytes(picture, (root / book.FIGURES / name).read_bytes())
        out.print(f"wrote {picture.relative_to(root)}")
