"""The directive ``{explorable}``: a piece to play with, made of the records.

Each piece is a module here: ``RECORDS``, ``data``, a pure function from these records to what the
page's script draws, and ``rows``, the same as a table for those who have no script. The scripts are
in ``book/_static/explorables``; pages without a piece load none of them.
"""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx

from bnbook.book.pages import places
from bnbook.book.pages.explorables import growth, norms, rates, scale, transform
from bnbook.book.pages.roles import depend_on
from bnbook.book.pages.tables import EvidenceDirective, paragraph, table
from bnbook.errors import BnbookError
from bnbook.evidence import records

PIECES: dict[str, ModuleType] = {
    "rates": rates, "transform": transform, "scale": scale, "norms": norms, "growth": growth,
}  # fmt: skip
_SHOWN = "bnbook_explorables"
FOLDER = "explorables"
"""Of the scripts and the style, under ``_static``."""


class ExplorableDirective(EvidenceDirective):
    """``{explorable} name``: data for the script, an introduction, and the same as a table."""

    has_content = True

    def render(self) -> list[nodes.Node]:
        """Return the piece's box."""
        name = self.arguments[0].strip()
        if name not in PIECES:
            raise BnbookError(f"expected one of {', '.join(PIECES)}, found {name!r}.")
        piece = PIECES[name]
        self.env.metadata[self.env.docname].setdefault(_SHOWN, []).append(name)
        box = nodes.container(classes=["explorable", f"explorable-{name}"])
        box += paragraph(nodes.strong(piece.TITLE, piece.TITLE), classes=["explorable-title"])
        self.state.nested_parse(self.content, self.content_offset, box)
        data, shown = self.made(name, piece)
        box += nodes.raw("", as_script(data), format="html")
        self.set_source_info(shown)
        box += shown
        if piece.RECORDS:
            box += self.sources(piece.RECORDS)
        return [box]

    def made(self, name: str, piece: ModuleType) -> tuple[dict[str, Any], nodes.table]:
        """Return what the script gets, and the table that stands without it."""
        if name == "norms":
            self.env.note_dependency(norms.FILE)
            found = norms.read(Path(self.env.srcdir))
            return norms.data(found), norms.static(self.env, found)
        data = piece.data({record: self.record(record) for record in piece.RECORDS})
        cells = [[paragraph(text) for text in row] for row in piece.rows(data)]
        share = 100 // len(piece.COLUMNS)
        widths = [share] * len(piece.COLUMNS)
        return data, table(piece.COLUMNS, widths, cells, ["explorable-rows"], piece.CAPTION)

    def record(self, name: str) -> records.Record:
        """Return an experiment's best record, and depend on it."""
        _, profile = self.of(name, None)
        folder = Path(self.env.srcdir) / self.env.config.bnbook_results
        path = records.path(folder, name, profile)
        depend_on(self.env, path)
        return records.read(path)

    def sources(self, names: tuple[str, ...]) -> nodes.paragraph:
        """Return the sentence that leads to the records in the ledger."""
        said: list[str | nodes.Node] = ["Computed from the records of "]
        for at, name in enumerate(names):
            link = places.reference(self.env, "ref", f"experiment-{name}", name)
            said += [", "] * bool(at) + [link]
        return paragraph(*said, ".", classes=["provenance"])


def as_script(data: dict[str, Any]) -> str:
    """Write data into a page, where a script finds it and nothing ends it early."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False, ensure_ascii=False)
    return '<script type="application/json">' + text.replace("</", "<\\/") + "</script>"


def add_scripts(
    app: Sphinx, page: str, _template: str, _context: dict[str, Any], _doctree: nodes.Node | None
) -> None:
    """Load the scripts and the style on pages that have a piece. ``html-page-context``."""
    shown = app.env.metadata.get(page, {}).get(_SHOWN, [])
    if shown:
        app.add_css_file(f"{FOLDER}/explorables.css")
        for name in ("shared", *dict.fromkeys(shown)):
            app.add_js_file(f"{FOLDER}/{name}.js", loading_method="defer")


def setup(app: Sphinx) -> None:
    """Add the directive and the scripts."""
    app.add_directive("explorable", ExplorableDirective)
    app.connect("html-page-context", add_scripts)
