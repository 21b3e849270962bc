"""The command line as a fixture, and folders in which to use it."""

import sys

import pytest

from bnbook import cli, experiments
from bnbook.book import judging
from bnbook.cli import console
from bnbook.evidence import records
from bnbook.sweeps import sweep
from tests.book.test_judging import FACTS
from tests.experiments.test_ioffe_fig1 import made_up
from tests.fake import EXPERIMENT as FAKE


@pytest.fixture
def bnbook(monkeypatch, capsys):
    """Run a command in this process: (exit status, stdout, stderr)."""

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["bnbook", *arguments])
        monkeypatch.setattr(console.out, "width", 250)
        with pytest.raises(SystemExit) as done:
            cli.main()
        captured = capsys.readouterr()
        return done.value.code or 0, captured.out, captured.err

    return call


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A folder with one recorded experiment, and the working folder in it."""
    (tmp_path / "_toc.yml").write_text("root: index\n")
    queued = 'experiment = "ioffe_fig1"\nprofile = "quick"\nwhy = "its record is made up"\n'
    (tmp_path / "queue.toml").write_text(f"[[record]]\n{queued}")
    records.write(records.path(tmp_path / "results", "ioffe_fig1", "quick"), made_up(), FACTS)
    judging.rewrite_ledger(tmp_path / "results")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sweep, "CACHE", tmp_path / "_build" / "sweeps")
    return tmp_path


@pytest.fixture
def made_up_run(project, monkeypatch):
    """A project in which the made-up experiment can be run; its claims are none."""
    monkeypatch.setattr(experiments, "names", lambda: ["fake"])
    monkeypatch.setattr(experiments, "find", {"fake": FAKE}.__getitem__)
    return project
