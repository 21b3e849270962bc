"""No page passes a rehearsal off as a record: numbers of `quick` alone are announced as such."""

import re

import pytest

from bnbook.evidence import ledger
from tests.book import prose

SAID = "A rehearsal, not a record"
LEDGER = ledger.read(prose.ROOT / "results")
REHEARSED = prose.rehearsed(LEDGER)
OF = {claim: content["experiment"] for claim, (content, _) in ledger.by_id(LEDGER).items()}
PAGES = sorted([*(prose.ROOT / "book").glob("*.md"), prose.ROOT / "index.md"])
SHOWN = re.compile(r"\{(claim|fact|claims)\}(?:`([\w.]+)( verdict)?[^`]*`| (\w+)$)", re.MULTILINE)


def shown(text):
    """Return the experiments whose numbers a page prints; a verdict alone is no number."""
    for role, name, verdict, directive in SHOWN.findall(text):
        if not verdict:
            yield directive or (OF[name] if role == "claim" else name.partition(".")[0])


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_numbers_of_a_rehearsal_are_announced(path):
    text = path.read_text("utf-8")
    rehearsed = REHEARSED & set(shown(text))
    assert (SAID in text) == bool(rehearsed), f"{path.name} prints numbers of {rehearsed or None}"


def test_what_is_printed_is_seen():
    text = "{claim}`bjorck.dose.same_rate verdict` {fact}`inception.a` {claim}`gn.small_batch`"
    assert list(shown(text)) == ["inception", OF["gn.small_batch"]]
    assert list(shown("```{claims} mlp\n```")) == ["mlp"]
