"""A made-up book to build in a moment, and the real one where it has been built."""

from __future__ import annotations

import contextlib
import io
import json
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from bs4 import BeautifulSoup

ROOT = Path(__file__).parents[2]
HTML = ROOT / "_build" / "html"

CONF = """
extensions = ["myst_nb", "bnbook.book.pages"]
html_theme = "basic"
nb_execution_mode = "off"
numfig = True
exclude_patterns = ["_build"]
myst_enable_extensions = ["colon_fence", "dollarmath"]
mathjax3_config = {}
"""


@dataclass
class Site:
    """A small Sphinx project in a temporary folder."""

    root: Path

    def write(self, name: str, text: str) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")

    def write_ledger(self, content: dict) -> None:
        self.write(f"results/claims/{content['experiment']}.json", json.dumps(content))

    def build(self) -> tuple[int, str]:
        """Build as `jupyter-book build -W -n --keep-going` does: exit status, warnings."""
        from sphinx.cmd.build import build_main

        log = self.root / "_build" / "warnings.txt"
        log.parent.mkdir(exist_ok=True)
        out = str(self.root / "_build" / "html")
        options = ["-q", "-n", "-W", "-E", "-a", "--keep-going", "-w", str(log)]
        with contextlib.redirect_stderr(io.StringIO()):
            status = build_main([*options, str(self.root), out])
        return status, log.read_text("utf-8")

    def page(self, name: str) -> BeautifulSoup:
        """Return a page that was built."""
        html = (self.root / "_build" / "html" / f"{name}.html").read_text("utf-8")
        return BeautifulSoup(html, "html.parser")

    def text(self, name: str = "index") -> str:
        """Return a page's text, with single spaces."""
        body = self.page(name).find("div", class_="body")
        return " ".join(body.get_text(" ").replace("\u00a0", " ").split())


@pytest.fixture
def site(tmp_path) -> Site:
    """A project with a ledger page, no results and an empty first page."""
    made = Site(tmp_path)
    made.write("conf.py", CONF)
    made.write("index.md", "# Home\n\n```{toctree}\n:glob:\n*/*\n```\n")
    made.write("book/ledger.md", "# The ledger\n\n```{ledger}\n```\n")
    return made


def judgement(value, low, high, verdict, n=10, undefined=0, **changes) -> dict:
    about = {
        "value": value, "low": low, "high": high, "n": n, "undefined": undefined,
        "verdict": verdict, "p": None, "unbounded": False, "cases": None, "over": "seeds",
        "missing": 0, "premises": [],
    }  # fmt: skip
    return {**about, **changes}


def claim(name: str, statement: str, digits: int, unit: str) -> dict:
    return {
        "id": name, "paper": "A & B 2015", "section": "4.1, figure 1(a)", "statement": statement,
        "quantity": "steps without, divided by steps with", "criterion": "Reproduced above 1.",
        "bound": 1.0, "direction": "above", "scale": "linear", "digits": digits, "unit": unit,
        "exact": False, "kind": "experiment", "premises": [], "revised": "", "concerns": "",
    }  # fmt: skip


def record(seeds: int, seconds: float, **changes) -> dict:
    about = {
        "digest": "ab12cd34ef56", "seeds": seeds, "data": "mnist", "device": "cpu",
        "processor": "Intel(R) Xeon(R) Processor", "cores": 2, "system": "Linux x86_64",
        "seconds": seconds, "date": "2026-11-22T10:30:00", "commit": "0123456789abcdef",
        "versions": {"torch": "2.13.0"}, "config": {},
    }  # fmt: skip
    return {**about, **changes}


@pytest.fixture
def content() -> dict:
    """A ledger file: three claims, two facts, at `quick` and `standard`."""
    facts = {
        "steps": {"value": 50000, "digits": 0, "unit": ""},
        "few": {"value": 9999, "digits": 0, "unit": ""},
        "accuracy": {"value": 97.1249, "low": 97.05, "high": 97.2, "digits": 2, "unit": " %"},
    }
    return {
        "experiment": "toy_fig1",
        "title": "A toy network",
        "claims": [
            claim("toy.fig1.speed", "BN trains faster.", 1, "×"),
            claim("toy.fig1.gap", "BN ends higher.", 2, " points"),
            claim("toy.fig1.never", "BN reaches the moon.", 2, ""),
        ],
        "profiles": {
            "quick": {
                "record": record(3, 25.2, data="mnist5k"),
                "judgements": {
                    "toy.fig1.speed": judgement(3.249, 2.5, 4.1, "reproduced", n=3),
                    "toy.fig1.gap": judgement(-0.004, -0.5, 0.5, "inconclusive", n=3),
                    "toy.fig1.never": judgement(1.0, None, None, "inconclusive", n=1, undefined=2),
                },
                "facts": facts,
            },
            "standard": {
                "record": record(10, 1870.0),
                "judgements": {
                    "toy.fig1.speed": judgement(7.06, 6.449, 7.751, "reproduced", p=0.03),
                    "toy.fig1.gap": judgement(-1.556, -1.701, -1.409, "not reproduced", p=1e-6),
                    "toy.fig1.never": judgement(None, None, None, "not tested", n=0, undefined=10),
                },
                "facts": {**facts, "accuracy": {**facts["accuracy"], "value": 98.0}},
            },
        },
    }


@pytest.fixture(scope="session")
def book() -> Path:
    """Folder of the built book's HTML."""
    if not (HTML / "index.html").is_file():
        pytest.skip("the book is not built; run `make book` first")
    return HTML


def _files(toc: dict) -> list[str]:
    """Names of the pages in a table of contents or a part of one, in order."""
    own = [toc[key] for key in ("root", "file") if key in toc]
    parts = [part for key in ("parts", "chapters", "sections") for part in toc.get(key, [])]
    return own + [name for part in parts for name in _files(part)]


PAGES = [f"{name}.html" for name in _files(yaml.safe_load((ROOT / "_toc.yml").read_text()))]
"""Paths of the book's own pages in its HTML folder: those of its table of contents."""


@pytest.fixture(scope="session")
def pages(book) -> list[str]:
    """`PAGES`, which are there."""
    missing = [name for name in PAGES if not (book / name).is_file()]
    assert not missing, f"{missing} are not built; run `make book`"
    return PAGES
