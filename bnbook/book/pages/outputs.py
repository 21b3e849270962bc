"""What a page's code blocks print stands below them, in a box of its own."""

from __future__ import annotations

from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util import logging

from bnbook.book import blocks

logger = logging.getLogger(__name__)


def show_outputs(app: Sphinx, doctree: nodes.document) -> None:
    """Put what each Python block printed below it.

    A Sphinx ``doctree-read`` listener. A block that has not been run, or not since it was changed,
    is a warning that says what to run.
    """
    page = Path(app.env.doc2path(app.env.docname))
    written = [b for b in doctree.findall(nodes.literal_block) if b.get("language") == "python"]
    if page.suffix != ".md" or not written:
        return
    relative = f"{app.config.bnbook_executed}/blocks/{page.stem}.json"
    app.env.note_dependency(relative)
    file = Path(app.srcdir) / relative
    printed = blocks.by_code(file) if file.is_file() else {}
    for block in written:
        if (found := printed.get(block.astext().strip())) is None:
            logger.warning(
                "this code block has not been run as it stands. Run `bnbook build`: it runs the"
                " blocks before it builds the pages.",
                location=block,
                type="bnbook",
                subtype="block",
            )
        elif found.strip():
            at = block.parent.index(block)
            block.parent.insert(at + 1, output(found.rstrip()))


def output(text: str) -> nodes.container:
    """Return the box: the word "Output", then what was printed."""
    label = nodes.paragraph("", "Output", classes=["block-output-label"])
    printed = nodes.literal_block(text, text, language="none")
    return nodes.container("", label, printed, classes=["block-output"])


def setup(app: Sphinx) -> None:
    """Connect the listener."""
    app.connect("doctree-read", show_outputs)
