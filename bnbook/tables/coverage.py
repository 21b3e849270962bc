"""Everything that the two papers say, a row each, with the claims of ours that test it.

The rows are in ``book/data/papers/rows.csv``: what the paper has in our words, what it reports
where that was seen, and either claims, or the page that shows it and why it is not judged.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bnbook.evidence import ledger
from bnbook.tables import papers

NAMES = {"ioffe": "Ioffe & Szegedy 2015", "bjorck": "Bjorck et al. 2018"}


@dataclass(frozen=True)
class Row:
    """What a paper has in one place: a figure, table, equation, algorithm, theorem or sentence.

    Attributes
    ----------
    row : str
        Name of the row.
    paper, section : str
        Where it stands.
    what : str
        What it is or says, in our words.
    reported : str
        The numbers that the paper gives, where they were seen; else empty.
    claims : tuple of str
        Ids of the claims that test it.
    page : str
        Page that shows it, where no claim does.
    why : str
        Why it is not tested, where it is not.
    """

    row: str
    paper: str
    section: str
    what: str
    reported: str
    claims: tuple[str, ...]
    page: str
    why: str

    @property
    def status(self) -> str:
        """What became of it where no claim tests it."""
        return "" if self.claims else f"Not tested: {self.why}."


@dataclass(frozen=True)
class Tested:
    """A claim of a row with its judgement, at the largest profile recorded.

    Attributes
    ----------
    claim, judgement, record : mapping
        As in the ledger's files.
    experiment, profile : str
        Whose record it is judged from.
    """

    claim: Mapping[str, Any]
    judgement: Mapping[str, Any]
    record: Mapping[str, Any]
    experiment: str
    profile: str


def rows(paper: str | None = None) -> list[Row]:
    """Return the rows of a paper, by its full name, or of both, in the order of the papers."""
    table = papers.read("rows").fillna("").astype(str)
    found = [
        Row(
            one["row"], one["paper"], one["section"], one["what"], one["reported"],
            tuple(one["claims"].split()), one["page"], one["why"],
        )
        for _, one in table.iterrows()
    ]  # fmt: skip
    return [each for each in found if paper in (None, each.paper)]


def tested(row: Row, contents: Mapping[str, Mapping[str, Any]]) -> list[Tested]:
    """Return the row's claims with what the ledger says of each, but for those it does not have.

    `contents` maps an experiment to the content of its ledger file.
    """
    known, found = ledger.by_id(contents), []
    for content, claim in (known[name] for name in row.claims if name in known):
        profile = ledger.best_profile(content)
        entry = content["profiles"][profile]
        judgement = entry["judgements"][claim["id"]]
        found.append(Tested(claim, judgement, entry["record"], content["experiment"], profile))
    return found
