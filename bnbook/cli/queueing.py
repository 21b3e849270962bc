"""The commands ``bnbook queue run | status``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from bnbook import experiments
from bnbook.book import judging
from bnbook.cli.console import duration, let_threads_sleep, out
from bnbook.evidence import records
from bnbook.sweeps import executors, schedule
from bnbook.sweeps.executors import say
from bnbook.sweeps.progress import in_words
from bnbook.training.session import OutOfTimeError

app = typer.Typer(help="Record what queue.toml lists, in order.", no_args_is_help=True)


@app.callback()
def _in_a_repository() -> None:
    """Record what queue.toml lists, in order."""
    records.repository()


Workers = Annotated[
    int | None, typer.Option(help="Processes, of one thread each; one a core by default.")
]
Listed = Annotated[Path | None, typer.Option("--file", help="Another queue than queue.toml.")]


@app.command()
def status(workers: Workers = None, file: Listed = None) -> None:
    """Say how far each record of the queue is, and about how long the rest will take."""
    _print_states(schedule.read(file or records.root() / schedule.FILE), _count(workers))


def _count(workers: int | None) -> int:
    """Return how many processes are asked for, one a core by default."""
    count = records.cores() if workers is None else workers
    executors.check_workers(count)
    return count


def _print_states(entries: list[schedule.Entry], workers: int) -> None:
    table = Table("record", "state", "took", "expected", "left", "why")
    states = [schedule.state(entry, records.recorded()) for entry in entries]
    for entry, state in zip(entries, states, strict=True):
        times = (state.spent or None, state.estimated, state.left)
        said = ("–" if seconds is None else in_words(seconds) for seconds in times)  # noqa: RUF001
        table.add_row(entry.name, state.said, *said, entry.why)
    out.print(table)
    out.print(schedule.left_in_words(states, workers))


@app.command()
def run(
    budget: Annotated[
        str | None, typer.Option(help="Stop after 90s, 100m or 1.5h; the same command goes on.")
    ] = None,
    workers: Workers = None,
    file: Listed = None,
) -> None:
    """Work through the queue at low priority, and say what is left.

    Exits with 3 when the budget ends first, with 1 when a record was refused.
    """
    let_threads_sleep()
    from bnbook.sweeps import sweep

    entries = schedule.read(file or records.root() / schedule.FILE)
    seconds = None if budget is None else duration(budget)
    count = _count(workers)
    how = {"workers": count, "executor": "processes", "threads": 1}
    folder, refused, late = records.recorded(), 0, False

    def grow(experiment: experiments.Experiment, *config: Any, **options: Any) -> None:
        try:
            sweep.grow(experiment, *config, **options)
        finally:
            judging.rewrite_ledger(folder, experiment.name)

    with schedule.alone(records.root()):
        try:
            for entry, became in schedule.work(entries, folder, grow, budget=seconds, **how):
                refused += became != schedule.WHOLE
                say(f"{entry.name}: {became}")
        except OutOfTimeError as error:
            late = True
            say(str(error))
    _print_states(entries, count)
    if late or refused:
        raise typer.Exit(3 if late else 1)
