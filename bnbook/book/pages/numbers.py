"""Figures, tables, equations and exercises are numbered by chapter: Figure 31.2.

The number before the point is the chapter's own; a page without one has the first letter of its
name. So no figure of the book is called as one of the papers'.
"""

from __future__ import annotations

import re
from pathlib import PurePosixPath

from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment


def chapter(page: str) -> str:
    """Return what the numbers of a page begin with: 31 for ``book/31-…``, S for ``book/speed``."""
    stem = PurePosixPath(page).name
    found = re.match(r"\d+", stem)
    return found[0] if found else stem[0].upper()


def number_by_chapter(_app: Sphinx, env: BuildEnvironment) -> list[str]:
    """Count each kind within its page.

    A Sphinx ``env-get-updated`` listener, called when Sphinx has counted through the whole book.
    """
    for page, kinds in env.toc_fignumbers.items():
        for kind, numbers in kinds.items():
            within = {name: (chapter(page), at) for at, name in enumerate(numbers, 1)}
            env.toc_fignumbers[page][kind] = within  # type: ignore[assignment]
    return []


def setup(app: Sphinx) -> None:
    """Connect the listener, after Sphinx's own."""
    app.connect("env-get-updated", number_by_chapter, priority=900)
