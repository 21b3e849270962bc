"""Notebooks are shown as executed, while git, the links and the warnings keep the clean ones."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
from sphinx.application import Sphinx
from sphinx.util import logging

logger = logging.getLogger(__name__)

PARAMETERS = "parameters"
_INDEX_NAME = re.compile(
    r"(<thead>\s*<tr[^>]*>\s*)<th></th>((?:(?!</tr>).)*</tr>)"
    r"\s*<tr>\s*<th>([^<]+)</th>(?:\s*<th></th>)+\s*</tr>",
    re.DOTALL,
)
_WORDS = re.compile(r"<td>([^<]{40,})</td>")
"""A cell that holds a sentence."""
_BANNER = """
```{{admonition}} Quick run
:class: note quick-run

This notebook was executed at the `quick` profile: less data, fewer steps and fewer seeds than the
record, so that it ends within seconds.
It shows the method at work; the results to quote are those of the record, in {ledger}.
```
"""


def replace_by_executed(app: Sphinx, docname: str, source: list[str]) -> None:
    """Put the executed notebook in the place of the clean one's text.

    A Sphinx ``source-read`` listener. A copy that is missing, or was made from other cells, is a
    warning that says what to run.
    """
    clean_path = Path(app.env.doc2path(docname))
    if clean_path.suffix != ".ipynb":
        return
    relative = f"{app.config.bnbook_executed}/{docname}.ipynb"
    executed_path = Path(app.srcdir) / relative
    app.env.note_dependency(relative)
    if not executed_path.is_file():
        _warn(docname, f"expected the executed notebook at {relative}, found none.")
        return
    executed = nbformat.reads(executed_path.read_text("utf-8"), as_version=4)
    clean = nbformat.reads(source[0], as_version=4)
    if _cells(executed) != _cells(clean):
        _warn(docname, f"{relative} was made from other cells than the notebook has now.")
    _tidy_tables(executed)
    if executed_profile(executed) == "quick":
        page = app.config.bnbook_ledger_page
        ledger = f"[the ledger](/{page}.md)" if page in app.env.found_docs else "the ledger"
        _add_banner(executed, _BANNER.format(ledger=ledger))
    source[0] = nbformat.writes(executed)


def _warn(docname: str, found: str) -> None:
    logger.warning(
        f"{found} Run `bnbook build`: it executes the notebooks before it builds the pages.",
        location=docname,
        type="bnbook",
        subtype="notebook",
    )


def _cells(notebook: nbformat.NotebookNode) -> list[tuple[str, str]]:
    """Type and text of the cells; those of the parameters are what a run may change."""
    return [
        (cell.cell_type, cell.source)
        for cell in notebook.cells
        if PARAMETERS not in cell.metadata.get("tags", [])
    ]


def executed_profile(notebook: nbformat.NotebookNode) -> str | None:
    """Return the profile that a notebook ran at, which `bnbook.book.notebooks` wrote into it."""
    profile: str | None = notebook.metadata.get("bnbook", {}).get("profile")
    return profile


def _add_banner(notebook: nbformat.NotebookNode, banner: str) -> None:
    """Append to the first Markdown cell: a cell more would shift the lines that warnings name."""
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source += f"\n{banner}"
            return


def _tidy_tables(notebook: nbformat.NotebookNode) -> None:
    """Give pandas' tables one row of heads, none of them empty.

    The name of the index moves from a row of its own into the empty corner; a corner that stays
    empty becomes a cell, for it heads nothing. Cells that hold a sentence are marked, so that they
    fold.
    """
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            html = output.get("data", {}).get("text/html", "")
            if 'class="dataframe"' in html:
                html = _INDEX_NAME.sub(r"\1<th>\3</th>\2", html)
                html = _WORDS.sub(r'<td class="words">\1</td>', html)
                output.data["text/html"] = html.replace("<th></th>", "<td></td>")


def setup(app: Sphinx) -> None:
    """Connect the overlay."""
    app.connect("source-read", replace_by_executed)
