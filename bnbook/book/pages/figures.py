"""Figures: the file drawn for a phone beside each figure's own, and where a figure comes from."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import quote

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.writers.html5 import HTML5Translator

from bnbook.book.pages import evidence
from bnbook.errors import BnbookError

_NARROW = "bnbook-narrow"
_DRAWN = re.compile(r"_build/figures/(\w+)-[\w-]+\.svg$")
_LEDGER = "book/ledger"
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


def tell_source(app: Sphinx, doctree: nodes.document, page: str) -> None:
    """End a figure's caption with links to its record's claims and to the code that draws it.

    A Sphinx ``doctree-resolved`` listener.
    """
    options = app.config.html_theme_options
    place = "{repository_url}/blob/{repository_branch}/bnbook/experiments/{name}/figures.py"
    for figure in doctree.findall(nodes.figure):
        image, caption = figure.next_node(nodes.image), figure.next_node(nodes.caption)
        drawn = _DRAWN.search(image["uri"]) if image and caption else None
        if caption and drawn and _is_judged(app, drawn[1]):
            ledger = app.builder.get_relative_uri(page, _LEDGER)
            links = {"Record": f"{ledger}#{nodes.make_id(f'experiment-{drawn[1]}')}"}
            if "repository_url" in options:
                links["code"] = place.format(name=drawn[1], **options)
            for text, to in links.items():
                before = " " if text == "Record" else ", "
                caption += [nodes.Text(before), nodes.reference("", text, refuri=to)]
            caption += nodes.Text(".")


def _is_judged(app: Sphinx, experiment: str) -> bool:
    """Whether the ledger has claims of an experiment; what cannot be read is named elsewhere."""
    try:
        contents = evidence.read(Path(app.srcdir) / app.config.bnbook_results).contents
    except BnbookError:
        return False
    return bool(contents.get(experiment, {}).get("claims"))


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
    app.connect("doctree-resolved", tell_source)
