"""The command line as a fixture."""

import sys

import pytest

from bnbook import cli
from bnbook.cli import console


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
