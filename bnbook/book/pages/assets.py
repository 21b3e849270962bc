"""Files beside the pages: the book's own style and script, and MathJax, without a network.

Of MathJax only what is used is copied from the installed wheel.
"""

from __future__ import annotations

import shutil
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.errors import ExtensionError

WHEEL = "sphinx-mathjax-offline"
SCRIPT = "tex-chtml-full.js"
FONTS = "output/chtml/fonts/woff-v2"


def mathjax_folder() -> Path:
    """Return the folder of MathJax in the installed wheel."""
    try:
        files = distribution(WHEEL).files or []
    except PackageNotFoundError as error:
        raise ExtensionError(
            f'expected the package {WHEEL}, found none; run `pip install "bnbook[book]"`.'
        ) from error
    for file in files:
        if file.name == SCRIPT:
            return Path(str(file.locate())).parent
    raise ExtensionError(f"expected {SCRIPT} in the package {WHEEL}, found none.")


def use_local_mathjax(_app: Sphinx, config: Config) -> None:
    """Point pages at the copy under ``_static``, by a relative path that file:// serves too."""
    config.mathjax_path = f"mathjax/{SCRIPT}"


def copy_mathjax(app: Sphinx, error: Exception | None) -> None:
    """Copy MathJax's script and fonts beside the pages."""
    if error is not None or app.builder.format != "html":
        return
    source, target = mathjax_folder(), Path(app.outdir) / "_static" / "mathjax"
    target.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source / SCRIPT, target / SCRIPT)
    shutil.copytree(source / FONTS, target / FONTS, dirs_exist_ok=True)


def setup(app: Sphinx) -> None:
    """Connect the copying."""
    app.connect("config-inited", use_local_mathjax)
    app.connect("build-finished", copy_mathjax)
