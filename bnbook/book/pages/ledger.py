"""The directive ``{ledger}``, and the ledger as files: every claim with its verdict."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment

from bnbook import files
from bnbook.book.pages import evidence, places
from bnbook.book.pages.roles import (
    adjusted,
    badge_classes,
    depend_on,
    link,
    qualified,
    read_evidence,
)
from bnbook.book.pages.tables import (
    COLUMNS,
    EvidenceDirective,
    elsewhere,
    labelled,
    measured,
    paragraph,
    provenance_line,
    table,
)
from bnbook.errors import BnbookError
from bnbook.evidence import claims, records
from bnbook.evidence.claims import VERDICTS
from bnbook.evidence.wording import format_value, shaken_of

_LISTED = "bnbook_ledger_files"
FACETS = ("paper", "kind", "verdict", "profile")
"""By what the page's script chooses rows."""
FIELDS = (
    "id", "paper", "section", "kind", "statement", "quantity", "unit", "bound", "direction",
    "value", "low", "high", "n", "p", "p_adjusted", "verdict", "profile", "device", "experiment",
)  # fmt: skip
"""Columns of the ledger as a file."""


def as_rows(found: evidence.Evidence) -> list[dict[str, Any]]:
    """Return every claim at the largest profile recorded, with `FIELDS`."""
    rows = []
    for content in found.contents.values():
        if not content["claims"]:
            continue
        profile = evidence.profile_of(content, None)
        entry = content["profiles"][profile]
        for claim in content["claims"]:
            everything = {
                **claim, **entry["judgements"][claim["id"]], "profile": profile,
                "p_adjusted": found.adjusted.get(claim["id"]),
                "device": entry["record"]["device"], "experiment": content["experiment"],
            }  # fmt: skip
            rows.append({field: everything[field] for field in FIELDS})
    return rows


def write_files(app: Sphinx, error: Exception | None) -> None:
    """Write ``ledger.csv`` and ``ledger.json`` beside the pages, for those who count themselves."""
    if error is not None or app.builder.format != "html":
        return
    try:
        rows = as_rows(evidence.read(Path(app.srcdir) / app.config.bnbook_results))
    except BnbookError:  # the page has warned of it
        return
    sink = io.StringIO()
    writer = csv.DictWriter(sink, FIELDS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    folder = Path(app.outdir) / "_static"
    folder.mkdir(parents=True, exist_ok=True)
    files.write_changed(folder / "ledger.csv", sink.getvalue().encode())
    files.write_changed(folder / "ledger.json", json.dumps(rows, indent=1).encode())


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
        best, adjusted = [(c, evidence.profile_of(c, None)) for c in judged], found.adjusted
        said = shaken_of(
            (content["profiles"][profile]["judgements"][claim["id"]], adjusted.get(claim["id"]))
            for content, profile in best for claim in content["claims"]
        )  # fmt: skip
        head = [tally(best), paragraph(said), self.summary(best)]
        return [*head, *(self.experiment(content) for content, _ in best)]

    def summary(self, best: Sequence[tuple[Mapping[str, Any], str]]) -> nodes.table:
        """Return every claim as a row, in classes by which the page's script chooses rows."""
        rows, classes = list[list[Any]](), list[list[str]]()
        for content, profile in best:
            ps = adjusted(self.env, content, profile)
            for claim in content["claims"]:
                judgement = content["profiles"][profile]["judgements"][claim["id"]]
                value, interval, n, p, _ = measured(claim, judgement, ps.get(claim["id"]))
                source = link(self.env, claim, evidence.place(claim), ["claim-source"])
                bound = paragraph(f"{claim['direction']} {format_value(claim, claim['bound'])}")
                said = [paragraph(claim["statement"]), paragraph(source)]
                verdict = judgement["verdict"]
                badge = nodes.inline(verdict, verdict, classes=badge_classes(verdict))
                but = qualified(self.env, content, profile, claim["id"])
                cells = (value, interval, bound, n, p, paragraph(badge, *but), paragraph(profile))
                rows.append([said, *cells])
                facets = (claim["paper"], claim["kind"], verdict, profile)
                classes.append(
                    [evidence.hyphened(*each) for each in zip(FACETS, facets, strict=True)]
                )
        columns = ("Claim", "Value", "95\u00a0% interval", "Bound", "n", "p, adjusted", "Verdict",
                   "Profile")  # fmt: skip
        title = "Every claim, judged from the largest record there is."
        found = table(
            columns, (24, 9, 17, 8, 5, 8, 19, 10), rows, ["claims", "filtered"], title, given=True
        )
        for row, names in zip(found.findall(nodes.row), [[], *classes], strict=True):
            row["classes"] += names
        return found

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
    """Add the directive and the files."""
    app.add_directive("ledger", LedgerDirective)
    app.connect("env-get-outdated", pages_with_new_files)
    app.connect("build-finished", write_files)
