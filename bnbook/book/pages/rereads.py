"""Pages that warned are read again in the next build, so that a failed build stays failed.

Sphinx reads only pages that changed. Without this, building twice with ``-W`` fails once and then
passes, with the fault still on the page.
"""

from __future__ import annotations

import logging
import pickle
from pathlib import Path

from docutils import nodes
from sphinx.application import ENV_PICKLE_FILENAME, Sphinx
from sphinx.environment import BuildEnvironment


class Rereads(logging.Handler):
    """Notes the page that each warning is about.

    Attributes
    ----------
    app : sphinx.application.Sphinx
        The build.
    pages : set of str
        Docnames that warned.
    """

    def __init__(self, app: Sphinx) -> None:
        super().__init__(logging.WARNING)
        self.app = app
        self.pages = set[str]()

    def emit(self, record: logging.LogRecord) -> None:
        """Note the page of one warning."""
        env = self.app.env
        if env is None or getattr(record, "skip_warningsiserror", False):
            return
        docname = _docname(env, getattr(record, "location", None))
        if docname:
            self.pages.add(docname)
            env.reread_always.add(docname)


def _docname(env: BuildEnvironment, location: object) -> str | None:
    if isinstance(location, nodes.Node):
        source = getattr(location, "source", None) or ""
        location = env.path2doc(source.split(":docstring of ")[0]) if source else None
    if isinstance(location, tuple):
        location = location[0]
    if isinstance(location, str):
        for name in (location, env.path2doc(location), env.path2doc(location.rsplit(":", 1)[0])):
            if name in env.found_docs:
                return name
    return env.temp_data.get("docname")


def keep(app: Sphinx, error: Exception | None) -> None:
    """Save the pages to read again: some warned only after Sphinx had saved its environment."""
    handler = _handler(app)
    logging.getLogger("sphinx").removeHandler(handler)
    path = Path(app.doctreedir) / ENV_PICKLE_FILENAME
    if error is None and handler.pages and path.is_file():
        with path.open("wb") as file:
            pickle.dump(app.env, file, pickle.HIGHEST_PROTOCOL)


def _handler(app: Sphinx) -> Rereads:
    handlers = logging.getLogger("sphinx").handlers
    return next(h for h in handlers if isinstance(h, Rereads) and h.app is app)


def setup(app: Sphinx) -> None:
    """Listen to this build's warnings."""
    logging.getLogger("sphinx").addHandler(Rereads(app))
    app.connect("build-finished", keep, priority=900)
