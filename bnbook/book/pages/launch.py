"""A chapter's launch buttons open its notebook."""

from __future__ import annotations

from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx_book_theme.header_buttons.launch import add_launch_buttons


def launch_the_notebook(
    app: Sphinx,
    page: str,
    template: str,
    context: dict[str, Any],
    doctree: nodes.document | None,
) -> None:
    """Give a chapter the buttons that the theme gives its notebook.

    A Sphinx ``html-page-context`` listener, called after the theme's.
    """
    notebook = page.replace("book/", "notebooks/", 1)
    if doctree is None or notebook == page or notebook not in app.env.found_docs:
        return
    of_notebook = {**context, "pagename": notebook, "page_source_suffix": ".ipynb"}
    of_notebook |= {"sourcename": f"{notebook}.ipynb", "header_buttons": []}
    add_launch_buttons(app, notebook, template, of_notebook, doctree)
    context["header_buttons"][:0] = of_notebook["header_buttons"]


def setup(app: Sphinx) -> None:
    """Connect the listener."""
    app.connect("html-page-context", launch_the_notebook, priority=502)
