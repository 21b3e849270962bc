"""The command line."""

from bnbook.cli.main import main

__all__ = ["main"]
