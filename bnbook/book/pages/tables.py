"""The directives ``{claims}``, ``{ledger}`` and ``{provenance}``: the ledger as tables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util.docutils import SphinxDirective

from bnbook.book.pages import evidence
from bnbook.book.pages.roles import (
    adjusted,
    badge_classes,
    depend_on,
    link,
    provenance,
    qualified,
    read_evidence,
    recorded,
    warn,
)
from bnbook.errors import BnbookError
from bnbook.evidence import wording

COLUMNS = ("Value", "95\u00a0% interval", "n", "p, adjusted", "Verdict")
"""Headings of a judgement's cells."""


def paragraph(*pieces: str | nodes.Node, **attributes: Any) -> nodes.paragraph:
    """Return a paragraph of texts and inline nodes."""
    found = nodes.paragraph("", "", **attributes)
    found += [nodes.Text(piece) if isinstance(piece, str) else piece for piece in pieces]
    return found


def labelled(label: str, *pieces: str | nodes.Node) -> nodes.paragraph:
    """Return a paragraph that opens with a word in bold."""
    return paragraph(nodes.strong(label, label), " ", *pieces)


def table(
    columns: Sequence[str],
    widths: Sequence[int],
    rows: Iterable[Sequence[nodes.Node | Sequence[nodes.Node]]],
    classes: Sequence[str],
    title: str = "",
    *,
    given: bool = False,
) -> nodes.table:
    """Return a table with a header row; `given` widths are shares that the page keeps."""
    group = nodes.tgroup("", cols=len(columns))
    group += [nodes.colspec("", colwidth=width) for width in widths]
    head = nodes.thead("", _row([paragraph(column) for column in columns]))
    body = nodes.tbody("", *(_row(row) for row in rows))
    group += [head, body]
    found = nodes.table("", classes=[f"colwidths-{'given' if given else 'auto'}", *classes])
    if title:
        found += nodes.title(title, title)
    found += group
    return found


def _row(cells: Sequence[nodes.Node | Sequence[nodes.Node]]) -> nodes.row:
    row = nodes.row()
    for cell in cells:
        content = [cell] if isinstance(cell, nodes.Node) else list(cell)
        row += nodes.entry("", *content)
    return row


def measured(
    claim: Mapping[str, Any], judgement: Mapping[str, Any], adjusted: float | None
) -> list[nodes.Node | list[nodes.Node]]:
    """Return a judgement's cells: value, interval, n, adjusted p, verdict and its reasons."""
    texts = evidence.claim_texts(claim, judgement, "")
    cells = (
        texts["value"], texts["interval"], evidence.seeds_text(judgement),
        wording.format_p(adjusted),
    )  # fmt: skip
    verdict = texts["verdict"]
    badge = nodes.inline(verdict, verdict, classes=badge_classes(verdict))
    why = [
        paragraph(reason, classes=["verdict-reason"])
        for reason in wording.reasons(claim, judgement, adjusted)
    ]
    return [*(paragraph(text) for text in cells), [paragraph(badge), *why]]


def claims_table(
    env: BuildEnvironment,
    chosen: Iterable[tuple[Mapping[str, Any], str]],
    title: str,
) -> nodes.table:
    """Return the claims of (content, profile) pairs as a table, a row each."""
    rows: list[list[nodes.Node | list[nodes.Node]]] = []
    for content, profile in chosen:
        for claim in content["claims"]:
            source = link(env, claim, evidence.place(claim), ["claim-source"])
            what = paragraph(f"Measured: {claim['quantity']}.", classes=["claim-quantity"])
            said = [paragraph(claim["statement"]), what, paragraph(source), *elsewhere(env, claim)]
            judgement = content["profiles"][profile]["judgements"][claim["id"]]
            p = adjusted(env, content, profile).get(claim["id"])
            *cells, (badge, *why) = measured(claim, judgement, p)
            rows.append([[*said, *why], *cells, [badge]])
    return table(("Claim", *COLUMNS), (40, 12, 16, 6, 8, 18), rows, ["claims"], title)


def elsewhere(env: BuildEnvironment, claim: Mapping[str, Any]) -> list[nodes.paragraph]:
    """Say what other records hold about a claim's quantity, and which of them only rehearse."""
    found, said = read_evidence(env), []
    own = evidence.profile_of(found.claim(claim["id"])[0], None)
    for other in found.others(claim):
        content, _ = found.claim(other["id"])
        depend_on(env, found.file(content))
        profile = evidence.profile_of(content, None)
        judgement = content["profiles"][profile]["judgements"][other["id"]]
        text = evidence.value_and_interval(other, judgement)
        name = link(env, other, content["experiment"], ["claim-source"])
        verdict = judgement["verdict"]
        if other["direction"] != claim["direction"]:
            bound = wording.format_value(other, other["bound"])
            verdict = f"of the claim that it lies {other['direction']} {bound}: {verdict}"
        but = qualified(env, content, profile, other["id"])
        rehearsed = ", a rehearsal at quick" if profile == "quick" != own else ""
        found_there = f"{rehearsed}: {text}, {verdict}"
        said.append(paragraph("The same quantity in ", name, found_there, *but, "."))
    return said


def provenance_line(profile: str, record: Mapping[str, Any]) -> nodes.paragraph:
    """Return the sentence that says where a record comes from, as a paragraph."""
    return paragraph(*provenance(profile, record), classes=["provenance"])


class EvidenceDirective(SphinxDirective):
    """A directive that prints something from the ledger; what it cannot find is a warning."""

    required_arguments = 1
    final_argument_whitespace = True

    def run(self) -> list[nodes.Node]:
        """Print it, or warn and print nothing."""
        try:
            return self.render()
        except BnbookError as error:
            warn(self, error)
            return []

    def render(self) -> list[nodes.Node]:
        """Return what is printed."""
        raise NotImplementedError

    def asked(self) -> tuple[dict[str, Any], str]:
        """Return the (content, profile) that the argument names, and depend on its file."""
        return recorded(self.env, evidence.Request.parse(self.arguments[0]))

    def of(self, name: str, profile: str | None) -> tuple[dict[str, Any], str]:
        """Return the (content, profile) of an experiment, and depend on its file."""
        return recorded(self.env, evidence.Request(name, profile=profile))

    def finished(self, found: nodes.table) -> list[nodes.Node]:
        """Give a table its place in the source and the name by which pages refer to it."""
        self.set_source_info(found)
        self.add_name(found)
        return [found]


class ClaimsDirective(EvidenceDirective):
    """``{claims} experiment [@profile]``: the experiment's claims, judged."""

    option_spec: ClassVar = {"caption": directives.unchanged, "name": directives.unchanged}

    def render(self) -> list[nodes.Node]:
        """Return the table."""
        content, profile = self.asked()
        n = len(content["claims"])
        title = self.options.get("caption") or (
            f"{'The claim' if n == 1 else f'The {n} claims'} of this experiment,"
            f" judged from the {profile} record."
        )
        found = claims_table(self.env, [(content, profile)], title)
        return self.finished(found)


class PaperDirective(EvidenceDirective):
    """``{paper} experiment [@profile]``: numbers read off the paper's figure, beside ours."""

    option_spec: ClassVar = {"caption": directives.unchanged, "name": directives.unchanged}

    def render(self) -> list[nodes.Node]:
        """Return the table."""
        content, profile = self.asked()
        facts = content["profiles"][profile]["facts"].values()
        rows = [_beside(fact) for fact in facts if "paper" in fact]
        if not rows:
            raise BnbookError(
                f"{content['experiment']} has no number of the paper's at {profile}; make one with"
                " `bnbook.tables.papers.beside`."
            )
        title = self.options.get("caption") or "The paper's numbers and ours."
        columns = ("", "Paper", "Ours", "95\u00a0% interval", "Difference", "Reading error")
        found = table(columns, (38, 12, 12, 16, 12, 10), rows, ["papers"], title)
        return self.finished(found)


def _beside(fact: Mapping[str, Any]) -> list[nodes.Node]:
    """Return the cells of a number that stands beside the paper's."""
    number = evidence.fact_number
    ours = fact["value"]
    bare = {**fact, "unit": ""}
    ends = [number(bare, fact[end]) for end in ("low", "high") if fact[end] is not None]
    texts = (
        fact["what"], number(fact, fact["paper"]), number(fact, ours), " to ".join(ends),
        number(bare, None if ours is None else ours - fact["paper"]), number(bare, fact["error"]),
    )  # fmt: skip
    return [paragraph(text) for text in texts]


class ProvenanceDirective(EvidenceDirective):
    """``{provenance} experiment [@profile]``: where the numbers come from, in a sentence."""

    def render(self) -> list[nodes.Node]:
        """Return the sentence."""
        content, profile = self.asked()
        return [provenance_line(profile, content["profiles"][profile]["record"])]


def setup(app: Sphinx) -> None:
    """Add the directives."""
    app.add_directive("claims", ClaimsDirective)
    app.add_directive("paper", PaperDirective)
    app.add_directive("provenance", ProvenanceDirective)
