"""Build the book: run notebooks, judge, draw figures, make pages; nothing when nothing changed.

What is made keeps a key beside it, a digest of all its inputs and of what came out, written when it
succeeded and only then: what failed is tried again until it is mended, and an output that was
altered or deleted is made again. Two builds at once take turns.
"""

from __future__ import annotations

import importlib
import multiprocessing
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from bnbook import experiments, files
from bnbook.book import blocks, notebooks
from bnbook.book.notebooks import (
    ANSI,
    EXECUTED,
    LAST_LINES,
    content,
    digest,
    is_current,
    keep_only,
    stamp,
)
from bnbook.errors import BnbookError
from bnbook.evidence import ledger, records, sources
from bnbook.plots import narrow, style

FIGURES = Path("_build/figures")
HTML = Path("_build/html")
PICTURES = ("ioffe_fig1-accuracy.svg", "diagnose_faults-hits.svg")
"""The README's pictures: an experiment's name, and that of one of its figures."""
_BUILT = Path("_build/.built")
DRAWN = {"bench": "bnbook.bench.figures"}
"""Records that are no experiment's -> module that draws them."""
INPUTS = (
    "_config.yml", "_toc.yml", "*.md", "book/**/*", "notebooks/*.ipynb", "results/**/*",
    "bnbook/**/*.py", "requirements.lock",
)  # fmt: skip
"""All files of the project that a build depends on."""


@contextmanager
def alone(root: Path) -> Iterator[None]:
    """Hold the build's lock; say so while another build has it."""
    (root / "_build").mkdir(exist_ok=True)
    lock = FileLock(root / "_build" / ".lock")
    try:
        lock.acquire(timeout=0.5)
    except Timeout:
        print("bnbook: another build is at work here; waiting for it.", file=sys.stderr)  # noqa: T201
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def nothing_to_do(root: Path, profile: str) -> bool:
    """Whether all inputs, and all that the last build made of them, are as it left them."""
    stamped = root / _BUILT
    return stamped.is_file() and stamped.read_bytes() == _whole(root, profile).encode()


def finished(root: Path, profile: str) -> None:
    """Note that a build has made everything."""
    files.write_bytes(root / _BUILT, _whole(root, profile).encode())


def _whole(root: Path, profile: str) -> str:
    inputs = _digests(root, (*INPUTS, "_build/results/**/*.parquet"))
    outputs = [content(root / made) for made in (EXECUTED, blocks.OUTPUTS, FIGURES, HTML)]
    return digest([profile, inputs, outputs])


def note_addition(root: Path) -> None:
    """Take what was put beside the pages, such as the PDF, for a part of what was made."""
    made = root / HTML
    key = notebooks.key_file(made).read_text("utf-8").split()[0]
    stamp(made, key)


def draw_figures(root: Path, workers: int = 1, only: Collection[str] | None = None) -> list[Path]:
    """Draw the figures of every ledger file's best record, where record or code changed.

    `only` names the records to draw; without it all are drawn, and figures of no record deleted.
    """
    stale, drawn = [], list[Path]()
    for name, ledger_file in ledger.read(root / "results").items():
        if only is not None and name not in only:
            continue
        profile = ledger.best_profile(ledger_file)
        module, figures = _drawing(name)
        of_record = ledger_file["profiles"][profile]["record"]["digest"]
        draws = [sources.source_digest(each) for each in (module, narrow.__name__) if figures]
        key = digest([of_record, draws])
        paths = [root / FIGURES / f"{name}-{n}.svg" for n in figures]
        every = [each for path in paths for each in (path, narrow_path(path))]
        drawn += every
        if not all(is_current(path, key) for path in every):
            stale.append((name, profile, of_record, key))
    draw = partial(_draw_record, root)
    if workers > 1 and len(stale) > 1:
        with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
            changed = list(pool.map(draw, stale))
    else:
        changed = [draw(each) for each in stale]
    if only is None:
        keep_only(root / FIGURES, drawn)
    return [path for paths in changed for path in paths]


def _draw_record(root: Path, stale: tuple[str, str, str, str]) -> list[Path]:
    """Draw the figures of one record; return those of which a file changed."""
    name, profile, of_record, key = stale
    table = records.read(records.path(root / "results", name, profile)).table
    changed = []
    for figure, draw in _drawing(name)[1].items():
        path = root / FIGURES / f"{name}-{figure}.svg"
        if _draw(draw, table, path, of_record):
            changed.append(path)
        for each in (path, narrow_path(path)):
            stamp(each, key)
    return changed


def narrow_path(path: Path) -> Path:
    """Return where a figure stands as it is drawn for a phone."""
    return path.with_suffix(f".narrow{path.suffix}")


def _draw(figure: Callable[[Any], Any], table: Any, path: Path, of_record: str) -> bool:
    """Draw a figure for wide and for narrow screens; return whether one of the files changed."""
    wide = style.save(figure(table), path, of_record)
    with narrow.drawing():
        small = narrow.finish(figure(table))
    return style.save(small, narrow_path(path), of_record) or wide


def _drawing(name: str) -> tuple[str, Mapping[str, Any]]:
    """Return the module that draws a record, an experiment's or one of `DRAWN`, and its figures."""
    if name in experiments.names():
        return f"bnbook.experiments.{name}.experiment", experiments.find(name).figures
    if name in DRAWN:
        return DRAWN[name], importlib.import_module(DRAWN[name]).FIGURES
    return "", {}


def make_pages(root: Path) -> bool:
    """Build the HTML with Jupyter Book, from nothing; warnings are errors.

    All pages are made together, since each shows titles and the order of the others. The pages that
    stand are replaced when the new ones are whole.
    """
    inputs = (*(i for i in INPUTS if not i.startswith(("bnbook", "results"))), "results/claims/*")
    inputs += (
        f"{EXECUTED}/*.ipynb",
        f"{blocks.OUTPUTS}/*.json",
        f"{FIGURES}/*.svg",
        "bnbook/book/pages/**/*.py",
    )
    inputs += ("bnbook/evidence/*.py",)
    key, made = digest(_digests(root, inputs)), root / HTML
    if is_current(made, key):
        return False
    notebooks.key_file(made).unlink(missing_ok=True)
    aside = root / "_build" / "next"
    shutil.rmtree(aside, ignore_errors=True)
    code = "from jupyter_book.cli.main import main; main()"
    options = ["build", ".", "-W", "-n", "--keep-going", "-q", "--path-output", str(aside)]
    command = [sys.executable, "-c", code, *options]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    new = aside / "_build" / "html"
    if done.returncode or not (new / "index.html").is_file():
        said = ANSI.sub("", done.stdout + done.stderr).splitlines()
        telling = [s for s in said if re.search(r"WARNING|ERROR|^\w*(Error|Exception): ", s)]
        raise BnbookError(
            "the pages could not be built:\n" + "\n".join(telling or said[-LAST_LINES:])
        )
    shutil.rmtree(made, ignore_errors=True)
    new.rename(made)
    shutil.rmtree(aside)
    stamp(made, key)
    return True


def _digests(root: Path, patterns: Iterable[str]) -> dict[str, str]:
    """Digest of every file that matches, by path relative to the root."""
    found = {path for pattern in patterns for path in root.glob(pattern) if path.is_file()}
    return {
        str(path.relative_to(root)): content(path)
        for path in sorted(found)
        if "__pycache__" not in path.parts
    }
