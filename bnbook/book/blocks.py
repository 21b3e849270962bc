"""Run the code blocks of pages, each only when something that it depends on changed.

Each runs in a fresh process, as a reader would run it, and what it prints is kept for its page. The
processes are forked from one that has imported what most blocks need, so that a block costs what it
computes and no more.
"""

from __future__ import annotations

import contextlib
import io
import json
import multiprocessing
import re
import signal
import traceback
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, NamedTuple

from bnbook import files
from bnbook.book import notebooks
from bnbook.errors import BnbookError

OUTPUTS = Path("_build/executed/blocks")
"""For each page a file with what its blocks print."""
PAGES = ("index.md", "book/*.md")
TIME_LIMIT = 300
"""Seconds that a block may take."""
PRELOADED = ["torch", "numpy", "pandas", "scipy.stats", "bnbook.experiments.experiment"]
_FENCE = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)


class Block(NamedTuple):
    """A code block: its page, the line of its first line of code, and the code."""

    page: Path
    line: int
    code: str


def of_page(page: Path, text: str) -> list[Block]:
    """Return the Python blocks of a page, those in folded solutions too."""
    found = _FENCE.finditer(text)
    return [Block(page, text[: match.start(1)].count("\n") + 1, match[1]) for match in found]


def run_blocks(root: Path, workers: int = 2) -> list[Block]:
    """Run the blocks whose code, source, records or versions changed; return those that ran.

    Raises
    ------
    BnbookError
        When a block raises, writes to stderr or takes too long, with page and line of each. What
        the others print is kept.
    """
    pages = {
        path: of_page(path.relative_to(root), path.read_text("utf-8"))
        for pattern in PAGES
        for path in sorted(root.glob(pattern))
    }
    keys = {
        block: notebooks.code_key(root, block.code) for page in pages.values() for block in page
    }
    known = _known(root)
    stale = [block for block, key in keys.items() if key not in known]
    failures = list[str]()
    for block, (printed, failure) in outcomes(root, stale, workers):
        if failure:
            failures.append(failure)
        else:
            known[keys[block]] = printed
    made = [_keep(root, path, pages[path], keys, known) for path in pages if pages[path]]
    notebooks.keep_only(root / OUTPUTS, made)
    if failures:
        raise BnbookError("\n\n".join(failures))
    return stale


def _keep(
    root: Path,
    path: Path,
    blocks: list[Block],
    keys: Mapping[Block, str],
    known: Mapping[str, str],
) -> Path:
    """Write what a page's blocks print, of those that came to their end."""
    file = root / OUTPUTS / f"{path.stem}.json"
    held = [
        {"key": keys[block], "code": block.code, "printed": known[keys[block]]}
        for block in blocks
        if keys[block] in known
    ]
    files.write_changed(file, (json.dumps(held, indent=1) + "\n").encode())
    return file


def _known(root: Path) -> dict[str, str]:
    """Return what blocks have printed, by key; a file that was damaged holds nothing."""
    found = dict[str, str]()
    for file in (root / OUTPUTS).glob("*.json"):
        with contextlib.suppress(ValueError, KeyError, TypeError):
            found |= {each["key"]: each["printed"] for each in json.loads(file.read_text("utf-8"))}
    return found


def outcomes(
    root: Path, blocks: list[Block], workers: int
) -> Iterator[tuple[Block, tuple[str, str]]]:
    """Run blocks side by side; yield what each printed, or why it did not."""
    if not blocks:
        return
    with _processes(workers) as pool:
        futures = [(block, pool.submit(run, root, block)) for block in blocks]
        for block, future in futures:
            try:
                yield block, future.result()
            except BrokenProcessPool:  # by this block or by one beside it
                yield block, _alone(root, block)


def _processes(workers: int) -> ProcessPoolExecutor:
    """Return a pool of processes that each run one block."""
    context: Any = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    return ProcessPoolExecutor(workers, context, max_tasks_per_child=1)


def _alone(root: Path, block: Block) -> tuple[str, str]:
    with _processes(1) as pool:
        try:
            return pool.submit(run, root, block).result()
        except BrokenProcessPool:
            return "", f"{block.page}, line {block.line}: its process was ended."


def run(root: Path, block: Block) -> tuple[str, str]:
    """Run a block in this process; return what it printed, and what went wrong if anything did.

    Line numbers are those of the page.
    """
    sink, errors = io.StringIO(), io.StringIO()
    padded = "\n" * (block.line - 1) + block.code
    name = str(root / block.page)
    signal.signal(signal.SIGALRM, _too_long)
    signal.alarm(TIME_LIMIT)
    try:
        with (
            contextlib.chdir(root),
            contextlib.redirect_stdout(sink),
            contextlib.redirect_stderr(errors),
        ):
            exec(compile(padded, name, "exec"), {"__name__": "__main__"})  # noqa: S102
    except (Exception, SystemExit) as error:  # whatever a page's code may raise
        frames = traceback.extract_tb(error.__traceback__)
        own = [frame.lineno or block.line for frame in frames if frame.filename == name]
        line = own[-1] if own else getattr(error, "lineno", None) or block.line
        said = traceback.format_exception_only(error)[-1].strip()
        return "", f"{block.page}, line {line}: {said}"
    finally:
        signal.alarm(0)
    if errors.getvalue():
        said = "\n".join(errors.getvalue().splitlines()[-notebooks.LAST_LINES :])
        return "", f"{block.page}, line {block.line}: the block wrote to stderr:\n{said}"
    return sink.getvalue(), ""


def _too_long(*_: object) -> None:
    raise TimeoutError(f"the block took more than {TIME_LIMIT} s")


def by_code(file: Path) -> dict[str, str]:
    """Return what a page's blocks print, by their code."""
    return {each["code"].strip(): each["printed"] for each in json.loads(file.read_text("utf-8"))}
