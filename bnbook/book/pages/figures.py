"""Figures on a phone: the file that was drawn for one stands beside each figure's own."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.writers.html5 import HTML5Translator

_NARROW = "bnbook-narrow"
WIDEST = 600
"""Width of a screen, in pixels, up to which the narrow drawing is shown."""


def find_narrow(app: Sphinx, doctree: nodes.document) -> None:
    """Note the narrow drawing of each figure that has one, as a file of the page.

    A Sphinx ``doctree-read`` listener, called when Sphinx has found the images.
    """
    for image in doctree.findall(nodes.image):
        narrow = Path(image.get("uri", "")).with_suffix(".narrow.svg").as_posix()
        if image["uri"].endswith(".svg") and (Path(app.srcdir) / narrow).is_file():
            app.env.note_dependency(narrow)
            app.env.images.add_file(app.env.docname, narrow)
            image[_NARROW] = narrow


def copy_narrow(app: Sphinx, doctree: nodes.document, _page: str) -> None:
    """Have Sphinx copy the narrow drawings beside the others."""
    for image in doctree.findall(nodes.image):
        if _NARROW in image and image[_NARROW] in app.env.images:
            app.builder.images[image[_NARROW]] = app.env.images[image[_NARROW]][1]


def visit_image(translator: HTML5Translator, node: nodes.image) -> None:
    """Write an image, and before it what narrow screens show in its place."""
    builder = translator.builder
    name = builder.images.get(node.get(_NARROW, ""))
    if name:
        source = f"{builder.imgpath}/{quote(name)}"
        translator.body.append(
            f'<picture><source media="(max-width: {WIDEST}px)" srcset="{source}">'
        )
    HTML5Translator.visit_image(translator, node)
    if name:
        translator.body.append("</picture>")


def depart_image(translator: HTML5Translator, node: nodes.image) -> None:
    """End an image."""
    HTML5Translator.depart_image(translator, node)


def setup(app: Sphinx) -> None:
    """Connect the listeners and the writing of images."""
    app.add_node(nodes.image, override=True, html=(visit_image, depart_image))
    app.connect("doctree-read", find_narrow, priority=900)
    app.connect("doctree-resolved", copy_narrow)
