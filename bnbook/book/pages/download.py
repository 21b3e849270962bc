"""A page's download as Markdown: what the page shows, with its numbers, links and outputs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from bs4 import BeautifulSoup, Tag
from docutils import nodes
from markdownify import MarkdownConverter
from sphinx.application import Sphinx

from bnbook import files

_LEFT_OUT = ".headerlink, .sr-only, script, style, source, .toctree-wrapper, button"
_DELIMITERS = re.compile(r"^\\[(\[]|\\[)\]]$")


class Converter(MarkdownConverter):
    """HTML of a page to Markdown, mathematics between dollars."""

    def convert_span(self, span: Tag, text: str, parent_tags: set[str]) -> str:
        """Write a formula in a line."""
        del parent_tags
        return f"${_tex(span)}$" if "math" in span.get("class", []) else text

    def convert_div(self, div: Tag, text: str, parent_tags: set[str]) -> str:
        """Write a formula of its own, with its number."""
        if "math" not in div.get("class", []):
            return str(super().convert_div(div, text, parent_tags))  # type: ignore[misc]
        number = div.find(class_="eqno")
        shown = f" {number.extract().get_text().strip()}" if number else ""
        return f"\n\n$$\n{_tex(div)}\n$${shown}\n\n"

    def convert_p(self, p: Tag, text: str, parent_tags: set[str]) -> str:
        """Write a paragraph; the title of a box is bold."""
        title = {"admonition-title", "block-output-label"} & set(p.get("class", []))
        text = f"**{text.strip()}**" if title else text
        return str(super().convert_p(p, text, parent_tags))  # type: ignore[misc]


def _language(pre: Tag) -> str:
    """Return the language of a block of code, which Sphinx writes on the box around it."""
    boxes = [name for box in pre.parents for name in box.get("class") or []]
    found = [name for name in boxes if name.startswith("highlight-")]
    language = found[0].removeprefix("highlight-") if found else ""
    return "" if language in ("none", "default") else language


HOW: dict[str, Any] = {
    "heading_style": "atx",
    "bullets": "-",
    "escape_underscores": False,
    "escape_asterisks": False,
    "code_language_callback": _language,
}
"""Choices of `MarkdownConverter`."""


def _tex(element: Tag) -> str:
    return _DELIMITERS.sub("", element.get_text().strip()).strip()


def as_markdown(html: str) -> str:
    """Return a page's HTML as Markdown."""
    page = BeautifulSoup(html, "html.parser")
    for element in page.select(_LEFT_OUT):
        element.decompose()
    for link in page.select("a[title]"):
        del link["title"]
    text = Converter(**HOW).convert_soup(page)
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def keep_page(
    app: Sphinx, page: str, _template: str, context: dict[str, Any], doctree: nodes.document | None
) -> None:
    """Note what a page of Markdown shows.

    A Sphinx ``html-page-context`` listener.
    """
    if doctree is not None and app.env.doc2path(page).endswith(".md"):
        shown: dict[str, str] = app.builder.__dict__.setdefault("bnbook_shown", {})
        shown[context["sourcename"]] = context["body"]


def write_downloads(app: Sphinx, error: Exception | None) -> None:
    """Put each page as it is shown in the place of its source, which Sphinx has copied."""
    shown: dict[str, str] = app.builder.__dict__.get("bnbook_shown", {})
    if error is None:
        for name, html in shown.items():
            path = Path(app.outdir) / "_sources" / name
            files.write_changed(path, as_markdown(html).encode())


def setup(app: Sphinx) -> None:
    """Connect the listeners."""
    app.connect("html-page-context", keep_page)
    app.connect("build-finished", write_downloads)
