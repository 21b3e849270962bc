"""How far a sweep is: a bar on a terminal, otherwise a line now and then."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from bnbook.training.session import Every, read_progress

_NUMBERS = "{rate_noinv_fmt}, {remaining} left"


@dataclass(frozen=True)
class Work:
    """What one batch has to do.

    Attributes
    ----------
    path : pathlib.Path
        File in which it reports; see `Session.report`.
    members, steps : int
        Networks, and steps of each.
    """

    path: Path
    members: int
    steps: int


def in_words(seconds: float) -> str:
    """Write a time in the unit that suits it, such as 90 s, 12 min or 3.4 h."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


class Progress:
    """Shows members done, member-steps per second, time left and runs that diverged.

    A thread reads what the batches report, so that it shows a batch that trains in this process.

    `work` maps a batch to its `Work`. `members` counts the members finished before, and `diverged`
    those of them that diverged. With `quiet` nothing is said; None says nothing unless stderr is a
    terminal. `seconds` has the time between two readings, and between two lines where there is no
    terminal.
    """

    def __init__(
        self,
        name: str,
        work: Mapping[str, Work],
        members: int,
        diverged: int,
        quiet: bool | None = None,
        seconds: tuple[float, float] = (1.0, 30.0),
    ) -> None:
        self.name, self.open = name, dict(work)
        self.total = members + sum(each.members for each in work.values())
        self.members, self.diverged, self.steps = members, diverged, 0
        terminal = sys.stderr.isatty()
        self.silent = bool(quiet) or (quiet is None and not terminal)
        self.terminal = terminal and not self.silent
        self.pause, self.line = seconds[0], Every(seconds[1])
        self.lock, self.ended, self.closing = threading.Lock(), threading.Event(), ExitStack()
        self.bar: tqdm[Any] | None = None

    def __enter__(self) -> Progress:
        """Start to show."""
        if self.silent or not self.open:
            return self
        sink = sys.stderr if self.terminal else self.closing.enter_context(open(os.devnull, "w"))
        self.bar = tqdm(
            total=sum(each.members * each.steps for each in self.open.values()),
            initial=self._now()[0],
            unit=" steps",
            unit_scale=True,
            file=sink,
            bar_format=("{desc} |{bar}| " if self.terminal else "{desc}, ") + _NUMBERS,
        )
        self.closing.callback(self.bar.close)
        thread = threading.Thread(target=self._watch, daemon=True)
        thread.start()
        self.closing.callback(thread.join)
        self.closing.callback(self.ended.set)
        return self

    def __exit__(self, *_: object) -> None:
        """Show the last state and stop."""
        self.closing.close()

    def wants(self, work: Mapping[str, Work]) -> None:
        """Add batches that a search asks for."""
        with self.lock:
            new = {batch: each for batch, each in work.items() if batch not in self.open}
            self.open |= new
            self.total += sum(each.members for each in new.values())
        if self.bar is not None and self.bar.total is not None:
            self.bar.total += sum(each.members * each.steps for each in new.values())

    def finished(self, batch: str, diverged: int) -> None:
        """Count a batch as done; `diverged` of its members did not stay finite."""
        with self.lock:
            work = self.open.pop(batch)
            self.members += work.members
            self.diverged += diverged
            self.steps += work.members * work.steps

    def _now(self) -> tuple[int, str]:
        """Member-steps done, and what is said of members."""
        with self.lock:
            reports = [(work, read_progress(work.path)) for work in self.open.values()]
            steps = self.steps + sum(work.members * said["step"] for work, said in reports)
            diverged = self.diverged + sum(said["diverged"] for _, said in reports)
            return steps, (
                f"{self.name}: {self.members} of {self.total} members done, {diverged} diverged"
            )

    def _watch(self) -> None:
        while not self.ended.wait(self.pause):
            self._show()
        self._show()

    def _show(self) -> None:
        try:
            steps, said = self._now()
        except (OSError, ValueError):
            return  # a report that was removed or is not whole; the next one will do
        assert self.bar is not None, "it is shown from __enter__ on"
        self.bar.set_description_str(said, refresh=False)
        self.bar.update(steps - self.bar.n)
        self.bar.refresh()
        if not self.terminal and self.line.due():
            print(str(self.bar), file=sys.stderr, flush=True)  # noqa: T201
