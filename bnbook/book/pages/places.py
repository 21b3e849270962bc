"""Where an experiment is told of: its chapter, the chapter's figures, its notebook."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from docutils import nodes
from sphinx import addnodes
from sphinx.environment import BuildEnvironment

_FIGURE = re.compile(r"\{figure\} \S*_build/figures/(\w+)-[\w-]+\.svg\n:name: (\S+)")
_CLAIMS = re.compile(r"\{claims\} (\w+)")


class Places(NamedTuple):
    """The pages of an experiment, by document name, and the names of its figures."""

    chapters: tuple[str, ...]
    notebooks: tuple[str, ...]
    figures: tuple[str, ...]


def places(source: Path, experiment: str) -> Places:
    """Return where an experiment stands: in the pages that show its claims or its figures."""
    chapters, figures = [], []
    for path in sorted((source / "book").glob("*.md")):
        text = path.read_text("utf-8")
        own = [name for of, name in _FIGURE.findall(text) if of == experiment]
        figures += own
        if own or experiment in _CLAIMS.findall(text):
            chapters.append(f"book/{path.stem}")
    stems = [Path(chapter).stem for chapter in chapters]
    notebooks = [f"notebooks/{s}" for s in stems if (source / "notebooks" / f"{s}.ipynb").is_file()]
    return Places(tuple(chapters), tuple(notebooks), tuple(figures))


def reference(env: BuildEnvironment, kind: str, target: str, text: str = "") -> nodes.Node:
    """Return a link: ``doc`` to a page, ``numref`` to a figure."""
    domain = {"refdomain": "std", "reftype": kind, "refwarn": True, "refdoc": env.docname}
    shown = nodes.inline(text, text)
    return addnodes.pending_xref(
        "", shown, reftarget=f"/{target}" if kind == "doc" else target,
        refexplicit=bool(text), **domain,
    )  # fmt: skip


def links(env: BuildEnvironment, experiment: str) -> list[nodes.Node]:
    """Return the sentence that leads to chapter, figures and notebook of an experiment."""
    found = places(Path(env.srcdir), experiment)
    pieces: list[nodes.Node] = []
    groups = (
        ("Told in ", "doc", found.chapters, ""),
        ("; drawn in ", "numref", found.figures, ""),
        ("; run in ", "doc", found.notebooks, ""),
    )
    for opening, kind, targets, text in groups:
        for number, target in enumerate(targets):
            pieces.append(nodes.Text(opening if not number else ", "))
            pieces.append(reference(env, kind, target, text))
    return [*pieces, nodes.Text(".")] if pieces else []
