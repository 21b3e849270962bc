"""The directives ``{claims}``, ``{ledger}`` and ``{provenance}``: the ledger as tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util.docutils import SphinxDirective

from bnbook.book.pages import evidence, places
from bnbook.book.pages.roles import (
    badge_classes,
    depend_on,
    link,
    provenance,
    read_evidence,
    recorded,
    warn,
)
from bnbook.errors import BnbookError
from bnbook.evidence import claims, records
from bnbook.evidence.claims import VERDICTS

_LISTED = "bnbook_ledger_files"
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
) -> nodes.table:
    """Return a table with a header row."""
    group = nodes.tgroup("", cols=len(columns))
    group += [nodes.colspec("", colwidth=width) for width in widths]
    head = nodes.thead("", _row([paragraph(column) for column in columns]))
    body = nodes.tbody("", *(_row(row) for row in rows))
    group += [head, body]
    found = nodes.table("", classes=["colwidths-auto", *classes])
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
        claims.format_p(adjusted),
    )  # fmt: skip
    verdict = texts["verdict"]
    badge = nodes.inline(verdict, verdict, classes=badge_classes(verdict))
    why = [
        paragraph(reason, classes=["verdict-reason"])
        for reason in claims.reasons(claim, judgement, adjusted)
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
            said = [paragraph(claim["statement"]), paragraph(source), *elsewhere(env, claim)]
            judgement = content["profiles"][profile]["judgements"][claim["id"]]
            p = adjusted(env, content, profile).get(claim["id"])
            *cells, (badge, *why) = measured(claim, judgement, p)
            rows.append([[*said, *why], *cells, [badge]])
    return table(("Claim", *COLUMNS), (40, 12, 16, 6, 8, 18), rows, ["claims"], title)


def elsewhere(env: BuildEnvironment, claim: Mapping[str, Any]) -> list[nodes.paragraph]:
    """Say what other records hold about a claim's quantity, a paragraph each."""
    found, said = read_evidence(env), []
    for other in found.others(claim):
        content, _ = found.claim(other["id"])
        depend_on(env, found.file(content))
        profile = evidence.profile_of(content, None)
        judgement = content["profiles"][profile]["judgements"][other["id"]]
        text = evidence.value_and_interval(other, judgement)
        name = link(env, other, content["experiment"], ["claim-source"])
        said.append(paragraph("The same quantity in ", name, f": {text}, {judgement['verdict']}."))
    return said


def adjusted(env: BuildEnvironment, content: Mapping[str, Any], profile: str) -> dict[str, float]:
    """Return the adjusted p values for an experiment's best profile, and depend on all files."""
    if profile != evidence.profile_of(content, None):
        return {}
    found = read_evidence(env)
    for other in found.contents.values():
        depend_on(env, found.file(other))
    return found.adjusted


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


class LedgerDirective(EvidenceDirective):
    """``{ledger}``: a summary, then every experiment and claim as a section of its own."""

    required_arguments = 0

    def render(self) -> list[nodes.Node]:
        """Return the summary and the sections."""
        found = read_evidence(self.env)
        self.env.metadata[self.env.docname][_LISTED] = _files(self.env)
        judged = [content for content in found.contents.values() if content["claims"]]
        for content in judged:
            depend_on(self.env, found.file(content))
        if not judged:
            raise BnbookError(
                f"expected ledger files in {found.folder / 'claims'}, found none;"
                " make them with `bnbook judge`."
            )
        best = [(c, evidence.profile_of(c, None)) for c in judged]
        summary = claims_table(
            self.env, best, "Every claim, judged from the largest record there is."
        )
        return [tally(best), summary, *(self.experiment(content) for content, _ in best)]

    def experiment(self, content: Mapping[str, Any]) -> nodes.section:
        """Return an experiment's section: its records, then its claims."""
        section = self.section(f"experiment-{content['experiment']}", content["title"])
        section += [
            provenance_line(profile, content["profiles"][profile]["record"])
            for profile in _recorded(content)
        ]
        if told := places.links(self.env, content["experiment"]):
            files = [f"results/{content['experiment']}/{p}.parquet" for p in _recorded(content)]
            held = [piece for file in files for piece in (" ", nodes.literal(file, file))]
            section += paragraph(*told, " Recorded in", *held, ".")
        section += [self.claim(content, claim) for claim in content["claims"]]
        return section

    def claim(self, content: Mapping[str, Any], claim: Mapping[str, Any]) -> nodes.section:
        """Return a claim's section: what it says, how it is judged, what came out."""
        section = self.section(evidence.anchor(claim), claim["statement"].rstrip("."))
        rows = []
        for profile in _recorded(content):
            judgement = content["profiles"][profile]["judgements"][claim["id"]]
            p = adjusted(self.env, content, profile).get(claim["id"])
            name = paragraph(nodes.literal(profile, profile))
            rows.append([name, *measured(claim, judgement, p)])
        source, kind = evidence.place(claim), claim["kind"]
        name = nodes.literal(claim["id"], claim["id"])
        section += [
            paragraph(nodes.inline("", f"{source} · {kind} · ", classes=["claim-source"]), name),
            labelled("Measured:", f"{claim['quantity']}."),
            labelled("Judged:", claim["criterion"]),
            *elsewhere(self.env, claim),
            table(("Profile", *COLUMNS), (16, 16, 22, 8, 10, 28), rows, ["judgements"]),
        ]
        return section

    def section(self, name: str, title: str) -> nodes.section:
        """Return an empty section that other pages can link to by name."""
        section = nodes.section("", nodes.title(title, title), names=[name])
        section["ids"].append(nodes.make_id(name))
        self.set_source_info(section)
        self.state.document.note_explicit_target(section)
        return section


def tally(best: Iterable[tuple[Mapping[str, Any], str]]) -> nodes.bullet_list:
    """Return how many claims of each kind had which verdict, a line each."""
    counts: dict[claims.Kind, Counter[str]] = {kind: Counter() for kind in claims.KINDS}
    for content, profile in best:
        for claim in content["claims"]:
            judgement = content["profiles"][profile]["judgements"][claim["id"]]
            counts[claim["kind"]][judgement["verdict"]] += 1
    lines = nodes.bullet_list(classes=["tally"])
    for kind, verdicts in counts.items():
        if verdicts:
            said = ", ".join(f"{verdicts[name]} {name}" for name in VERDICTS if verdicts[name])
            line = f"{verdicts.total()} {claims.KINDS[kind]}: {said}."
            lines += nodes.list_item("", paragraph(line))
    return lines


def _recorded(content: Mapping[str, Any]) -> list[str]:
    """Profiles that have a record, the largest first."""
    return [p for p in reversed(records.PROFILES) if p in content["profiles"]]


def _files(env: BuildEnvironment) -> list[str]:
    folder = Path(env.srcdir) / env.config.bnbook_results / "claims"
    return sorted(file.name for file in folder.glob("*.json"))


def pages_with_new_files(_app: Sphinx, env: BuildEnvironment, *_pages: set[str]) -> list[str]:
    """Name the pages that show the whole ledger when a ledger file came or went.

    A Sphinx ``env-get-outdated`` listener.
    """
    listed = {page: about[_LISTED] for page, about in env.metadata.items() if _LISTED in about}
    return [page for page, files in listed.items() if files != _files(env)]


def setup(app: Sphinx) -> None:
    """Add the directives."""
    app.add_directive("claims", ClaimsDirective)
    app.add_directive("ledger", LedgerDirective)
    app.add_directive("paper", PaperDirective)
    app.add_directive("provenance", ProvenanceDirective)
    app.connect("env-get-outdated", pages_with_new_files)
