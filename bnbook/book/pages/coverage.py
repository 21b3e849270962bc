"""The directive ``{coverage}``: everything that a paper says, and what became of it here."""

from __future__ import annotations

from docutils import nodes
from sphinx.application import Sphinx

from bnbook.book.pages import evidence
from bnbook.book.pages.places import reference
from bnbook.book.pages.roles import badge_classes, depend_on, link, qualified, read_evidence
from bnbook.book.pages.tables import EvidenceDirective, paragraph, table
from bnbook.errors import BnbookError
from bnbook.tables import coverage
from bnbook.tables.coverage import Row, Tested


class CoverageDirective(EvidenceDirective):
    """``{coverage} ioffe`` or ``bjorck``: a row for each figure, table, equation and claim."""

    def render(self) -> list[nodes.Node]:
        """Return the table."""
        name = self.arguments[0].strip()
        if name not in coverage.NAMES:
            raise BnbookError(f"expected one of {', '.join(coverage.NAMES)}, found {name!r}.")
        found = read_evidence(self.env)
        for content in found.contents.values():
            depend_on(self.env, found.file(content))
        rows: list[list[nodes.Node | list[nodes.Node]]] = []
        for row in coverage.rows(coverage.NAMES[name]):
            ours = [self.judged(each) for each in coverage.tested(row, found.contents)]
            head = paragraph(f"{row.section}. ", classes=["claim-source"])
            head += nodes.literal(row.row, row.row)
            rows.append([[head, paragraph(f"{row.what}.")], paragraph(row.reported or "–"),  # noqa: RUF001
                         ours or self.untested(row)])  # fmt: skip
        columns = ("What the paper has", "What it reports", "Here")
        title = f"{coverage.NAMES[name]}, row by row."
        return self.finished(table(columns, (34, 22, 44), rows, ["coverage"], title))

    def judged(self, tested: Tested) -> nodes.paragraph:
        """Return a claim's verdict, value, n, profile and device, linked to its entry."""
        verdict = tested.judgement["verdict"]
        badge = nodes.inline(verdict, verdict, classes=badge_classes(verdict))
        value = evidence.value_and_interval(tested.claim, tested.judgement)
        n = evidence.seeds_text(tested.judgement)
        where = f": {value}; n = {n}, {tested.profile}, {tested.record['device']}."
        name = link(self.env, tested.claim, tested.claim["id"], ["claim-source"])
        content = read_evidence(self.env).experiment(tested.experiment)
        but = qualified(self.env, content, tested.profile, tested.claim["id"])
        return paragraph(badge, *but, " ", name, where)

    def untested(self, row: Row) -> list[nodes.Node]:
        """Return why a row is not tested, and the page that shows it all the same."""
        found: list[nodes.Node] = [paragraph(row.status)]
        if row.page:
            found.append(paragraph("See ", reference(self.env, "doc", row.page), "."))
        return found


def setup(app: Sphinx) -> None:
    """Add the directive."""
    app.add_directive("coverage", CoverageDirective)
