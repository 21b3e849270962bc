"""Which norm to take: the decision table, and four questions that choose its lines."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.environment import BuildEnvironment

from bnbook.book.pages import evidence, places
from bnbook.book.pages.roles import badge_classes, depend_on, link, qualified, read_evidence
from bnbook.book.pages.tables import paragraph, table
from bnbook.errors import BnbookError

FILE = "book/data/norms.toml"
RECORDS = ()
TITLE = "Which norm should I use?"
COLUMNS = ("Where", "Take", "Because", "Evidence")
CAPTION = "Which norm to take, why, and the claims that were judged."


def read(root: Path) -> dict[str, Any]:
    """Return the questions and the answers of the book's table."""
    found = tomllib.loads((root / FILE).read_text("utf-8"))
    questions = {q["key"]: set(q["answers"]) for q in found["question"]}
    for answer in found["answer"]:
        for key, allowed in questions.items():
            if unknown := set(answer.get(key, ())) - allowed:
                raise BnbookError(
                    f"{FILE}, {answer['where']!r}: expected for {key} some of {sorted(allowed)},"
                    f" found {sorted(unknown)}."
                )
    return found


def data(found: Mapping[str, Any]) -> dict[str, Any]:
    """Return the questions, and for each answer the values that it holds for."""
    keys = [question["key"] for question in found["question"]]
    answers = [
        {"take": a["take"], **{key: a[key] for key in keys if key in a}} for a in found["answer"]
    ]
    return {"questions": found["question"], "answers": answers}


def static(env: BuildEnvironment, found: Mapping[str, Any]) -> nodes.table:
    """Return the table: a row for each answer, its evidence with verdicts and links."""
    rows = [
        [
            paragraph(a["where"]), paragraph(nodes.strong(a["take"], a["take"])),
            paragraph(a["because"]), [*_judged(env, a["claims"]), _chapter(env, a)],
        ]
        for a in found["answer"]
    ]  # fmt: skip
    return table(COLUMNS, (20, 26, 24, 30), rows, ["norms"], CAPTION, given=True)


def _judged(env: BuildEnvironment, names: list[str]) -> list[nodes.paragraph]:
    """Return each claim's verdict and words, linked to its entry in the ledger."""
    ledger, said = read_evidence(env), []
    for name in names:
        content, claim = ledger.claim(name)
        depend_on(env, ledger.file(content))
        profile = evidence.profile_of(content, None)
        verdict = content["profiles"][profile]["judgements"][name]["verdict"]
        badge = link(env, claim, verdict, badge_classes(verdict))
        words = nodes.inline("", claim["statement"], classes=["claim-words"])
        said.append(paragraph(badge, *qualified(env, content, profile, name), " ", words))
    return said


def _chapter(env: BuildEnvironment, answer: Mapping[str, Any]) -> nodes.paragraph:
    where = places.reference(env, "doc", f"book/{answer['page']}", answer["name"])
    return paragraph("Chapter: ", where, ".")
