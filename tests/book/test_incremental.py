"""An incremental build equals a clean one, after any edits of a small book and of what was made.

Notebooks, figures and pages are made by stand-ins that are quick and depend on all that the real
ones may depend on: whatever a digest forgets shows in what they make. Everything else is the
build's own.
"""

import hashlib
import importlib
import json
import re
import shutil
import tempfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import chdir
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pandas as pd
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from bnbook import experiments, files
from bnbook.book import blocks, build, judging, notebooks
from bnbook.errors import BnbookError
from bnbook.evidence import records, sources
from bnbook.plots import narrow, style
from tests.fake import EXPERIMENT as FAKE

CLI = importlib.import_module("bnbook.cli.main")
MADE = (build.EXECUTED, blocks.OUTPUTS, build.FIGURES, build.HTML)
NAMES = ("ioffe_alg1", "ioffe_alg2")
CHAPTERS = tuple(f"book/{name}.md" for name in "abc")
NOTEBOOKS = tuple(f"notebooks/{number}-it.ipynb" for number in (11, 12))
OTHERS = (
    "_config.yml", "requirements.lock", "book/_static/a.css", "bnbook/draws.py", "bnbook/cells.py",
    "bnbook/book/pages/a.py", "bnbook/evidence/a.py",
)  # fmt: skip
BROKEN = "{claim}`nothing`"


def digest(*paths):
    sha = hashlib.sha256()
    for path in sorted(paths):
        sha.update(f"\0{path.name}\0".encode() + path.read_bytes())
    return sha.hexdigest()


def drawing(*_):
    """Stands in for the digest of the source that draws."""
    return digest(*Path("bnbook").glob("draws.py"))


def computing(*_):
    """Stands in for the digest of the source that notebooks reach."""
    return digest(*Path("bnbook").glob("cells.py"))


def execute(root, path, parameters, limit):
    """Stands in for papermill: the outputs depend on code, records, lock and parameters."""
    made = nbformat.read(path, as_version=4)
    if "1 / 0" in made.cells[-1].source:
        raise BnbookError(f"{path.relative_to(root)}, cell 2 raised ZeroDivisionError")
    used = [p for name in NAMES if name in made.cells[-1].source for p in of_record(root, name)]
    said = [computing(), digest(*used, root / "requirements.lock"), parameters["profile"]]
    made.metadata["bnbook"] = said
    files.write_changed(root / build.EXECUTED / path.name, nbformat.writes(made).encode())


def outcomes(root, stale, workers):
    """Stands in for running blocks: what one prints depends on code and source."""
    for block in stale:
        failed = f"{block.page}, line {block.line}: no" if "three" in block.code else ""
        yield block, (f"{computing()} {block.code}", failed)


def of_record(root, name):
    return [*(root / "results" / name).glob("*"), *(root / "results/claims").glob(f"{name}.json")]


def save(table, path, of_record):
    """Stands in for drawing: a figure depends on code and on the record's table."""
    return files.write_changed(path, f"{drawing()} {of_record} {table.to_csv()}".encode())


def jupyter_book(command, cwd, **_):
    """Stands in for Jupyter Book: every page shows all titles, and what it is made of."""
    html = Path(command[command.index("--path-output") + 1]) / "_build" / "html"
    pages = re.findall(r"file: (\S+)|root: (\S+)", (cwd / "_toc.yml").read_text())
    texts = {}
    for page in map("".join, pages):
        found = [p for p in (cwd / f"{page}.md", cwd / f"{page}.ipynb") if p.is_file()]
        if page.startswith("notebooks"):
            found = found and [cwd / build.EXECUTED / f"{Path(page).name}.ipynb"]
        texts[page] = found[0].read_text() if found and found[0].is_file() else BROKEN
        printed = cwd / blocks.OUTPUTS / f"{Path(page).name}.json"
        texts[page] += printed.read_text() if printed.is_file() else ""
    named = re.findall(r"\w+-\w+\.svg", " ".join(texts.values()))
    figures = [cwd / build.FIGURES / name for name in named]
    bad = [page for page, text in texts.items() if BROKEN in text]
    bad += [figure.name for figure in figures if not figure.is_file()]
    if bad:
        return SimpleNamespace(returncode=1, stdout=f"{bad[0]}: WARNING: nothing\n", stderr="")
    titles = [text.partition("\n")[0] for text in texts.values()]
    everywhere = [cwd / name for name in OTHERS[:3] + OTHERS[5:] if (cwd / name).is_file()]
    common = digest(*everywhere, *figures, *(cwd / "results/claims").glob("*.json"))
    for page, text in {"index": "", **texts}.items():
        files.write_bytes(html / f"{page}.html", json.dumps([titles, text, common]).encode())
    return SimpleNamespace(returncode=0, stdout="", stderr="")


TITLES = dict.fromkeys(NAMES, "a title")
TOY = replace(FAKE, figures={"plain": lambda table: table})
STANDINS = (
    (notebooks, "ProcessPoolExecutor", lambda *_: ThreadPoolExecutor(1)),
    (notebooks, "_execute", execute),
    (blocks, "outcomes", outcomes),
    (build, "subprocess", SimpleNamespace(run=jupyter_book)),
    (style, "save", save),
    (narrow, "finish", lambda table: table),
    (sources, "source_digest", drawing),
    (sources, "imported_digest", computing),
    (experiments, "names", lambda: list(NAMES)),
    (experiments, "find", lambda name: replace(TOY, name=name, title=TITLES[name])),
    (judging, "MEASUREMENTS", ()),
)


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def notebook(text):
    cells = [
        nbformat.v4.new_markdown_cell("# Run", id="a"),
        nbformat.v4.new_code_cell(text, id="b"),
    ]
    return nbformat.writes(nbformat.v4.new_notebook(cells=cells))


def chapter(title, figure):
    shown = f"{figure}-plain.svg" if figure else ""
    return f"# {title}\n\n{shown}\n\n```python\nprint({title!r})\n```\n"


def made(root):
    """What a build has made, by name; its notes to itself are not looked at."""
    return {
        str(path.relative_to(root)): path.read_bytes()
        for folder in MADE
        for path in (root / folder).rglob("*")
        if path.is_file() and not (path.name.startswith(".") and path.suffix == ".key")
    }


def built(root, profile):
    """Build; what went wrong in words that do not say where."""
    with chdir(root):
        try:
            CLI.build(profile, 1)
        except BnbookError as error:
            return str(error).replace(str(root), "")
    return None


BUILDS = Counter()
texts = st.sampled_from(["one", "two", "three", BROKEN])
shown = st.sampled_from(["", *NAMES])
USES = [f'experiments.find("{name}")' for name in NAMES]
cells = st.sampled_from(["1 + 1", *USES, "1 / 0"])


class Book(RuleBasedStateMachine):
    """A book that is edited, built, and edited again."""

    def __init__(self):
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        for where, name, what in STANDINS:
            self.patch.setattr(where, name, what)
        self.patch.setattr(CLI.out, "quiet", True)
        self.folder = Path(tempfile.mkdtemp())
        self.root, self.taken, self.profile = self.folder / "book", {}, "quick"
        self.waits, self.edits = 0, 0

    def teardown(self):
        self.patch.undo()
        shutil.rmtree(self.folder)

    @initialize()
    def begin(self):
        for name in CHAPTERS:
            write(self.root / name, chapter(name, ""))
        for name in NOTEBOOKS:
            write(self.root / name, notebook("1 + 1"))
        for name in OTHERS:
            write(self.root / name, "# nothing")
        self.root.joinpath("_toc.yml").write_text("- root: book/a\n- file: notebooks/11-it\n")
        self.record(NAMES[0], 0)

    @rule(name=st.sampled_from(CHAPTERS), title=texts, figure=shown)
    def edit_chapter(self, name, title, figure):
        write(self.root / name, chapter(title, figure))

    @rule(name=st.sampled_from(NOTEBOOKS), text=cells)
    def edit_notebook(self, name, text):
        write(self.root / name, notebook(text))

    @rule(name=st.sampled_from(OTHERS))
    def edit_other(self, name):
        self.edits += 1
        write(self.root / name, f"# {self.edits}")

    @rule(name=st.sampled_from(NAMES))
    def retitle(self, name):
        """Only the ledger tells of it."""
        self.edits += 1
        self.patch.setitem(TITLES, name, f"title {self.edits}")
        judging.rewrite_ledger(self.root / "results", name)

    @rule(pages=st.lists(st.sampled_from([*CHAPTERS, *NOTEBOOKS]), min_size=1, unique=True))
    def edit_toc(self, pages):
        named = [page.partition(".")[0] for page in pages]
        listed = [f"- {'file' if at else 'root'}: {name}\n" for at, name in enumerate(named)]
        self.root.joinpath("_toc.yml").write_text("".join(listed))

    @rule(name=st.sampled_from(NAMES), value=st.integers(0, 2))
    def record(self, name, value):
        about = {"experiment": name, "profile": "quick"}
        table = pd.DataFrame({"value": [value]})
        records.write(records.path(self.root / "results", name, "quick"), table, about)
        judging.rewrite_ledger(self.root / "results", name)

    @rule(name=st.sampled_from([*CHAPTERS, *NOTEBOOKS, *OTHERS[2:]]))
    def take_away(self, name):
        if (self.root / name).is_file():
            self.taken[name] = (self.root / name).read_bytes()
            (self.root / name).unlink()

    @rule(name=st.sampled_from(NAMES), ledger=st.booleans())
    def take_record_away(self, name, ledger):
        shutil.rmtree(self.root / "results" / name, ignore_errors=True)
        if ledger:
            (self.root / "results/claims" / f"{name}.json").unlink(missing_ok=True)

    @precondition(lambda self: self.taken)
    @rule(data=st.data())
    def put_back(self, data):
        name = data.draw(st.sampled_from(sorted(self.taken)))
        files.write_bytes(self.root / name, self.taken.pop(name))

    @rule(names=st.sampled_from([CHAPTERS[:2], CHAPTERS[1:], NOTEBOOKS]))
    def rename(self, names):
        one, other = (self.root / name for name in names)
        if one.is_file():
            one.replace(other)

    @rule(profile=st.sampled_from(["quick", "standard"]))
    def choose(self, profile):
        self.profile = profile

    @precondition(lambda self: any((self.root / "_build").rglob("*.*")))
    @rule(data=st.data(), how=st.sampled_from(["emptied", "deleted", "altered"]))
    def damage_what_was_made(self, data, how):
        there = sorted(p for p in (self.root / "_build").rglob("*") if p.is_file())
        path = data.draw(st.sampled_from(there))
        if how == "deleted":
            path.unlink()
        else:
            path.write_bytes(b"" if how == "emptied" else path.read_bytes() + b"x")

    @rule(folder=st.sampled_from([*MADE, Path("_build")]))
    def delete_a_folder(self, folder):
        shutil.rmtree(self.root / folder, ignore_errors=True)

    @rule(folder=st.sampled_from(MADE))
    def leave_something_there(self, folder):
        suffix = {build.FIGURES: "ioffe_alg2-plain.svg", build.EXECUTED: "12-it.ipynb"}
        write(self.root / folder / suffix.get(folder, "old.html"), "left over")

    @rule()
    def wait(self):
        """Build only after some more edits."""
        self.waits = 3

    @invariant()
    def build(self):
        self.waits -= 1
        if self.waits > 0:
            return
        said = built(self.root, self.profile)
        clean = self.folder / "clean"
        shutil.copytree(self.root, clean, ignore=shutil.ignore_patterns("_build"))
        BUILDS["refused" if said else "whole"] += 1
        try:
            assert said == built(clean, self.profile)
            if said is None:
                assert made(self.root) == made(clean)
                assert build.nothing_to_do(self.root, self.profile)
        finally:
            shutil.rmtree(clean)


def test_each_edit_alone():
    """Every kind of edit once, so that no digest lacks one of its inputs by luck."""
    book = Book()
    edits = [
        *((book.edit_other, name) for name in OTHERS),
        (book.edit_chapter, CHAPTERS[0], "two", NAMES[0]),
        (book.edit_notebook, NOTEBOOKS[0], USES[0]),
        (book.retitle, NAMES[0]),
        (book.record, NAMES[0], 1),
        (book.choose, "standard"),
        (book.edit_toc, [CHAPTERS[0], *NOTEBOOKS, CHAPTERS[1]]),
        (book.edit_chapter, CHAPTERS[1], "three", ""),
        (book.edit_toc, [CHAPTERS[0], NOTEBOOKS[0]]),
        *((book.leave_something_there, folder) for folder in MADE),
        *((book.delete_a_folder, folder) for folder in (*MADE, Path("_build"))),
        (book.record, NAMES[1], 1),
        (book.retitle, NAMES[1]),
        (book.edit_chapter, CHAPTERS[0], "two", NAMES[1]),
        (book.take_record_away, NAMES[1], True),
        (book.edit_chapter, CHAPTERS[0], "two", ""),
        (book.take_away, NOTEBOOKS[1]),
    ]
    try:
        book.begin()
        book.build()
        for edit, *how in edits:
            edit(*how)
            book.build()
        for path in sorted(p for p in (book.root / "_build").rglob("*.*") if p.is_file()):
            path.write_bytes(b"")
            book.build()
    finally:
        book.teardown()


@pytest.mark.slow
def test_an_incremental_build_equals_a_clean_one():
    BUILDS.clear()
    run_state_machine_as_test(
        Book,
        settings=settings(
            max_examples=15, stateful_step_count=15, deadline=None, derandomize=True,
            suppress_health_check=list(HealthCheck),
        ),
    )  # fmt: skip
    assert BUILDS["whole"] > 40, "hardly anything was built"
    assert BUILDS["refused"] > 10
