"""Misuse, and a world that does not play along: one clear line, and the status that is promised.

0 is well, 1 what was looked at does not hold, 2 misuse or environment, 3 the budget ended, 130
interrupted.
"""

import errno
import importlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import typer

from bnbook.cli import console
from bnbook.evidence import records
from tests.book.test_judging import FACTS
from tests.experiments.test_ioffe_fig1 import made_up
from tests.sweeps.test_sweep import contents

NO_BOOK = "a copy of the book's repository"
NO_RECORDS = "expected records under"
MISUSES = {
    "run": [
        ("project", "nothing", "expected the name of an experiment"),
        ("made_up_run", "fake --seeds 100000000000", "at least 1 and at most 10,000, found 1000"),
        ("made_up_run", "fake --seeds -3", "--seeds must be at least 1, found -3"),
        ("made_up_run", "fake --seeds few", "Invalid value for '--seeds'"),
        ("made_up_run", "fake --workers 1000000", "workers must be at most"),
        ("made_up_run", "fake --workers -1", "workers must be at least 1, found -1"),
        ("made_up_run", "fake --members 0", "members must be at least 1, found 0"),
        ("made_up_run", "fake --budget -5s", "a time such as 90s, 9m or 1.5h, found '-5s'"),
        ("made_up_run", "fake --budget 1e9h", "a time such as 90s, 9m or 1.5h, found '1e9h'"),
        ("made_up_run", "fake --profile ../quick", "profile must be one of quick"),
        ("made_up_run", "fake --data abacus", "no data set is called 'abacus'"),
        ("made_up_run", "fake --device abacus", "device must be auto, cpu or cuda"),
        ("made_up_run", "fake --device mps", "device must be auto, cpu or cuda, found 'mps'"),
        ("project", "mlp --data digits", "data of mlp must be table and images, such as"),
        ("made_up_run", "fake --executor abacus", "one of inline, processes, dask"),
        ("made_up_run", "fake --scheduler tcp://127.0.0.1:9 --executor inline", "has no scheduler"),
        ("made_up_run", "fake --replace", "it goes with --record"),
        ("empty", "ioffe_alg1 --record", NO_BOOK),
    ],
    "build": [
        ("empty", "", NO_BOOK),
        ("bare", "", NO_RECORDS),
        ("project", "--profile slow", "--profile must be one of quick, standard, paper"),
        ("project", "--workers 0", "workers must be at least 1, found 0"),
        ("project", "--workers 1000000", "workers must be at most"),
    ],
    "pdf": [("empty", "", NO_BOOK), ("bare", "", "run `bnbook build`")],
    "check": [("empty", "", NO_BOOK), ("bare", "", NO_RECORDS), ("bare", "--json", NO_RECORDS)],
    "judge": [
        ("empty", "", NO_BOOK),
        ("bare", "", NO_RECORDS),
        ("project", "", "README.md). What stood there before was left as it was"),
    ],
    "compare": [
        ("empty", "ioffe_fig1", NO_BOOK),
        ("bare", "ioffe_fig1", "expected a record at"),
        ("project", "nothing", "expected the name of an experiment"),
        ("project", "ioffe_fig1 --profile slow", "expected a record at"),
    ],
    "doctor": [("empty", "--everything", "No such option")],
    "bench": [
        ("empty", "--record", NO_BOOK),
        ("bare", "--record --only fig1", "leave out --only"),
        ("bare", "--quick --only nothing", "nothing"),
        ("bare", "--quick --device abacus", "device must be auto, cpu or cuda"),
    ],
    "conformance": [
        ("empty", "nowhere:Layer", "nowhere could not be imported"),
        ("empty", "torch.nn:BatchNorm1d --limit 0", "Invalid value for '--limit'"),
        ("empty", "torch.nn:BatchNorm1d --limit nan", "Invalid value for '--limit'"),
        ("empty", "torch.nn:BatchNorm1d --names weight", "pairs such as weight=gamma"),
    ],
    "diagnose": [
        ("empty", "nowhere:net", "nowhere could not be imported"),
        ("empty", "nowhere.py:net", "nowhere.py"),
        ("empty", "torch:ones --limit 0", "Invalid value for '--limit'"),
    ],
    "data list": [("empty", "more", "unexpected extra argument")],
    "data get": [("empty", "abacus", "no data set is called 'abacus'")],
    "data import": [
        ("empty", "abacus .", "no data set is called 'abacus'"),
        ("empty", "mnist nowhere", "nowhere"),
    ],
    "data verify": [("empty", "abacus", "no data set is called 'abacus'")],
    "records list": [("empty", "", NO_BOOK)],
    "records why": [
        ("empty", "ioffe_fig1", NO_BOOK),
        ("project", "nothing", "expected the name of an experiment"),
        ("project", "ioffe_fig1 --profile slow", "expected a record at"),
    ],
    "records again": [
        ("empty", "ioffe_fig1", NO_BOOK),
        ("bare", "ioffe_fig1", "expected a record at"),
        ("project", "ioffe_fig1", "must say which run each of its rows is of"),
    ],
    "records export": [
        ("empty", "ioffe_fig1 --to a.csv", NO_BOOK),
        ("project", "ioffe_fig1 --to a.xls", "--to must end in one of .csv, .json, .parquet"),
        ("project", "ioffe_fig1 --to queue.toml/a.csv", "queue.toml"),
    ],
    "records prune": [("empty", "", NO_BOOK)],
    "queue status": [
        ("empty", "", NO_BOOK),
        ("bare", "", "expected a queue at"),
        ("project", "--workers 0", "workers must be at least 1, found 0"),
        ("project", "--file .", "expected a queue at"),
    ],
    "queue run": [
        ("empty", "", NO_BOOK),
        ("bare", "", "expected a queue at"),
        ("project", "--budget soon", "a time such as 90s"),
        ("project", "--workers 1000000", "workers must be at most"),
    ],
}  # fmt: skip
ROWS = [(name, *row) for name, rows in MISUSES.items() for row in rows]


@pytest.fixture
def empty(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def bare(empty):
    """A folder that could be the book's, with nothing in it."""
    (empty / "_toc.yml").write_text("root: index\n")
    return empty


def test_every_command_is_in_the_table():
    def paths(command, before=()):
        inside = getattr(command, "commands", None)
        if inside is None:
            return [" ".join(before)]
        return [p for name, each in inside.items() for p in paths(each, (*before, name))]

    assert sorted(
        paths(typer.main.get_command(importlib.import_module("bnbook.cli.main").app))
    ) == sorted(MISUSES)


@pytest.mark.parametrize(("command", "where", "arguments", "says"), ROWS)
def test_misuse(request, bnbook, monkeypatch, command, where, arguments, says):
    monkeypatch.setattr(
        "bnbook.cli.bench.load", lambda: 0.0
    )  # it would say that others are at work
    folder = request.getfixturevalue(where)
    before = sorted(folder.rglob("*"))
    code, _, err = bnbook(*command.split(), *arguments.split())
    assert code == 2, err
    assert says in " ".join(err.replace("│", " ").split()), err
    assert "Traceback" not in err
    one_line = err.count("\n") == 1 or command.startswith(
        "data"
    )  # these tell the way, step by step
    assert "Usage: " in err or (err.startswith("bnbook: ") and one_line)
    kept = [path for path in folder.rglob("*") if "_build" not in path.parts]
    assert sorted(kept) == [path for path in before if "_build" not in path.parts]


WRITES = {
    "run": ("made_up_run", "run fake"),
    "run --record": ("made_up_run", "run fake --record"),
    "judge": ("project", "judge"),
    "export": ("project", "records export ioffe_fig1 --to a.csv"),
}


@pytest.mark.parametrize("number", [errno.EACCES, errno.ENOSPC])
@pytest.mark.parametrize(("where", "command"), WRITES.values(), ids=WRITES)
def test_what_cannot_be_written(request, bnbook, monkeypatch, where, command, number):
    folder = request.getfixturevalue(where)
    (folder / "README.md").write_text("<!-- claims: made by `make judge` -->\n<!-- end -->\n")
    before = contents(folder)

    def fails(*_, **__):
        raise OSError(number, os.strerror(number), "the/file")

    monkeypatch.setattr(tempfile, "mkstemp", fails)
    code, _, err = bnbook(*command.split())
    assert code == 2
    assert re.search(r"^bnbook: .*the/file.*$", err, re.MULTILINE)
    assert "Traceback" not in err
    assert before.items() <= contents(folder).items()


@pytest.mark.parametrize("command", ["run fake", "run fake --record", "records prune"])
def test_a_folder_that_is_a_file(made_up_run, bnbook, command):
    shutil.rmtree(made_up_run / "_build", ignore_errors=True)
    shutil.rmtree(made_up_run / "results")
    for name in ("_build", "results"):
        (made_up_run / name).write_text("a file")
    code, _, err = bnbook(*command.split())
    assert (code, "Traceback" in err) == (0 if "prune" in command else 2, False)
    assert (made_up_run / "_build").read_text() == "a file"


@pytest.mark.parametrize("command", ["check", "judge", "run ioffe_alg1", "compare ioffe_fig1"])
def test_a_claims_file_that_is_none(project, bnbook, command):
    (project / "README.md").write_text("<!-- claims: made by `make judge` -->\n<!-- end -->\n")
    (project / "results" / "claims" / "other.json").write_text("[]")
    fresh = records.path(project / "_build" / "results", "ioffe_fig1", "quick")
    records.write(fresh, made_up(), FACTS)
    code, _, err = bnbook(*command.split())
    assert "Traceback" not in err
    if not command.startswith("compare"):  # which reads records alone
        assert code == 2
        assert "other.json is not a ledger file" in err


def test_an_interrupt_anywhere_exits_130(project, bnbook, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("bnbook.book.judging.rows", stop)
    code, _, err = bnbook("check")
    assert (code, err) == (130, "bnbook: stopped. What was finished is kept.\n")


def test_a_fault_of_the_package_is_shown_whole_and_is_not_taken_for_a_contradiction(
    project, bnbook, monkeypatch
):
    monkeypatch.setattr("bnbook.book.judging.rows", lambda *_: 1 / 0)
    code, _, err = bnbook("check")
    assert code == 2
    assert "ZeroDivisionError" in err
    assert err.endswith(
        "bnbook: this is a fault of the package: please report it, with what is above.\n"
    )


@contextmanager
def opened_to_fail(how):
    """A pipe that nobody reads any longer, or a full disk."""
    reading, writing = os.pipe()
    os.close(reading)
    target = writing if how == "closed" else os.open("/dev/full", os.O_WRONLY)
    stream = io.TextIOWrapper(io.BufferedWriter(io.FileIO(target, "w")), "utf-8")
    yield stream
    with suppress(OSError):
        stream.close()
    with suppress(OSError):
        os.close(writing)


@pytest.mark.parametrize("how", ["closed", "full"])
@pytest.mark.parametrize("command", ["check", "check --json", "--version", "records list"])
def test_what_cannot_be_printed(project, bnbook, monkeypatch, command, how):
    if how == "full" and not Path("/dev/full").exists():
        pytest.skip("there is no /dev/full here")
    monkeypatch.setattr(console.out, "quiet", False)  # as it is put back: rich silences it
    with opened_to_fail(how) as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        code, _, err = bnbook(*command.split())
    assert (code, err.count("\n")) == (2, 1), err
    assert err.startswith("bnbook: ")


def test_standard_output_that_was_closed_before():
    code = "import os, sys; os.close(1); os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
    inner = ["-c", "from bnbook.cli import main; main()", "--version"]
    command = [sys.executable, "-c", code, *inner]
    done = subprocess.run(command, text=True, stderr=subprocess.PIPE, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("bnbook: standard output is closed")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-16"])
def test_standard_output_without_the_books_letters(project, bnbook, monkeypatch, encoding):
    """Words lose the letters that there are not; JSON is the same."""
    sink = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(sink, encoding))
    assert bnbook("check")[0] == 0
    shown = sink.getvalue().decode(encoding)
    assert "ioffe.fig1a.speed" in shown
    assert ("4.0?" if encoding == "ascii" else "4.0×") in shown
    sink.truncate(0)
    sink.seek(0)
    assert bnbook("check", "--json")[0] == 0
    rows = json.loads(sink.getvalue().decode(encoding))
    assert "×" in {row["unit"] for row in rows}
