"""Pages for every reader: words for each picture, and table heads that say something."""

from __future__ import annotations

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util import logging

logger = logging.getLogger(__name__)


def check_pictures(_app: Sphinx, doctree: nodes.document) -> None:
    """Warn of images without a text alternative and figures without a caption.

    A Sphinx ``doctree-read`` listener, so that the outputs of notebooks are seen in every format.
    """
    for image in doctree.findall(nodes.image):
        if not image.get("alt", "").strip():
            _warn(
                image,
                f"the image {image.get('uri', '')} has no text alternative: give a figure"
                " `:alt:`, and a notebook's cell the metadata"
                ' {"mystnb": {"image": {"alt": "…"}}}.',
            )
    for figure in doctree.findall(nodes.figure):
        if not any(isinstance(child, nodes.caption) for child in figure.children):
            _warn(figure, "a figure has no caption: say in its first sentence what it shows.")


def _warn(node: nodes.Node, message: str) -> None:
    logger.warning(message, location=node, type="bnbook", subtype="picture")


def drop_empty_heads(_app: Sphinx, doctree: nodes.document) -> None:
    """Drop the heads that Markdown demands of tables that need none."""
    for head in list(doctree.findall(nodes.thead)):
        if not head.astext().strip():
            head.parent.remove(head)


def say_heads(_app: Sphinx, doctree: nodes.document) -> None:
    """Say in words what a head shows by position or as a formula alone.

    Screen readers find nothing in an empty head, nor in a formula whose drawing is hidden to them.
    """
    for head in doctree.findall(nodes.thead):
        for entry in head.findall(nodes.entry):
            formulas = "".join(math.astext() for math in entry.findall(nodes.math))
            if entry.astext().strip() == formulas.strip():
                words = nodes.inline(text=formulas or "row", classes=["sr-only"])
                (entry[0] if len(entry) else entry).append(words)


def drop_repeated_names(_app: Sphinx, doctree: nodes.document, _page: str) -> None:
    """Take from the inner boxes of exercises and solutions the name that all of them have.

    A Sphinx ``doctree-resolved`` listener: before, sections are told apart by their names.
    """
    for section in doctree.findall(nodes.section):
        if {"exercise-content", "solution-content"} & set(section["ids"]):
            section["ids"] = []


def setup(app: Sphinx) -> None:
    """Connect the listeners."""
    app.connect("doctree-read", check_pictures)
    app.connect("doctree-read", drop_empty_heads)
    app.connect("doctree-read", say_heads)
    app.connect("doctree-resolved", drop_repeated_names)
