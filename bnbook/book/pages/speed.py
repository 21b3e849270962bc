"""The benchmark's record on the pages.

``{targets}``, ``{timings}`` and ``{costs}`` are tables; ``{measured}`` holds what is only said of
what the record has.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.application import Sphinx

from bnbook.book.pages.roles import badge_classes
from bnbook.book.pages.tables import EvidenceDirective, paragraph, table
from bnbook.errors import BnbookError
from bnbook.evidence import timings
from bnbook.evidence.wording import format_interval, format_value

_LOOKS = {"met": "reproduced", "missed": "not reproduced", "not run": "inconclusive"}
"""Verdict on a target -> the verdict on a claim whose colour and shape it takes."""
_WORKLOADS = {
    "mnist": "the sigmoid network",
    "digits": "the same on 8 × 8 digits",
    "resnet20": "ResNet-20",
    "resnet110": "ResNet-110 on a GPU",
    "memory": "memory",
}


def target_cells(target: Mapping[str, Any]) -> list[nodes.Node]:
    """Return a target's cells: workload, target, what was found, extremes, n and verdict."""
    workload = _WORKLOADS.get(target["workload"], target["workload"])
    verdict = target["verdict"]
    texts = (
        f"{workload}: {target['against']}",
        f"{timings.bound_text(target)} {target['statement']}",
        format_value(target, target["value"]),
        format_interval(target, target),
        str(target["n"]),
    )
    badge = nodes.inline(verdict, verdict, classes=badge_classes(_LOOKS[verdict]))
    return [*(paragraph(text) for text in texts), paragraph(badge)]


def timing_cells(row: Mapping[str, Any]) -> list[nodes.Node]:
    """Return a contender's cells: members, seconds, per member and step, ratio, floor's share."""
    ratio, share = {"unit": "", "digits": 2}, row["floor_share"]
    spread = {"low": row["ratio_min"], "high": row["ratio_max"]}
    if not row["repetitions"]:
        texts = (row["contender"], "", row["note"], "", "", "", "")
    else:
        texts = (
            row["contender"],
            str(row["members"]),
            f"{row['median_s']:.2f} ({row['min_s']:.2f} to {row['max_s']:.2f})",
            f"{row['us_per_member_step']:,.0f}",
            format_value(ratio, row["ratio_to_ours"]),
            format_interval(ratio, spread),
            format_value({"unit": " %", "digits": 0}, share and 100 * share),
        )
    return [paragraph(text) for text in texts]


class TargetsDirective(EvidenceDirective):
    """``{targets} bench [@profile]``: every target, and whether it was met."""

    option_spec: ClassVar = {"caption": directives.unchanged, "name": directives.unchanged}

    def render(self) -> list[nodes.Node]:
        """Return the table."""
        content, profile = self.asked()
        found = content["profiles"][profile].get("targets")
        if not found:
            raise BnbookError(f"expected a benchmark, found {content['experiment']}: no targets.")
        title = self.options.get("caption") or "What was asked for, and what came out."
        columns = ("Of what", "Target", "Median", "Least to most", "n", "Verdict")
        rows = [target_cells(target) for target in found]
        widths = (32, 26, 12, 16, 4, 10)
        return self.finished(table(columns, widths, rows, ["claims", "targets"], title))


class TimingsDirective(EvidenceDirective):
    """``{timings} bench workload [@profile]``: a workload's contenders."""

    option_spec: ClassVar = {"caption": directives.unchanged, "name": directives.unchanged}

    def render(self) -> list[nodes.Node]:
        """Return the table."""
        name, _, workload = self.arguments[0].partition(" ")
        workload, _, wanted = workload.partition("@")
        workload = workload.strip()
        content, profile = self.of(name, wanted or None)
        rows = content["profiles"][profile].get("rows", [])
        chosen = [row for row in rows if row["workload"] == workload]
        if not chosen:
            there = ", ".join(sorted({row["workload"] for row in rows})) or "none"
            raise BnbookError(f"expected a workload, found {workload!r}; there are: {there}.")
        title = self.options.get("caption") or f"Contenders, {workload}."
        columns = (
            "Contender",
            "Members",
            "Seconds: median (least to most)",
            "µs per member and step",
            "Time over ours",
            "Least to most",
            "Share of the floor",
        )
        cells = [timing_cells(row) for row in chosen]
        return self.finished(table(columns, (22, 8, 22, 12, 12, 12, 12), cells, [], title))


class CostsDirective(EvidenceDirective):
    """``{costs} bench_deep [@profile]``: time and memory of a step as one thing varies."""

    option_spec: ClassVar = {"caption": directives.unchanged, "name": directives.unchanged}

    def render(self) -> list[nodes.Node]:
        """Return the table."""
        content, profile = self.asked()
        rows = content["profiles"][profile].get("rows", [])
        chosen = [row for row in rows if row["workload"] in timings.COSTS]
        if not chosen:
            raise BnbookError(f"expected costs, found none in {content['experiment']}.")
        columns = ("What varies", "Value", "ms a step and network", "MiB at the peak")
        cells = [
            [
                paragraph(text)
                for text in (
                    row["workload"].removeprefix("cost "),
                    f"{row['setting']:g}",
                    f"{row['us_per_member_step'] / 1000:,.1f}",
                    format_value({"unit": "", "digits": 0}, row["mebibytes"]),
                )
            ]
            for row in chosen
        ]
        title = self.options.get("caption") or "What a deep network costs."
        return self.finished(table(columns, (30, 20, 25, 25), cells, [], title))


class MeasuredDirective(EvidenceDirective):
    """``{measured} bench_deep workload``: what it holds, where the record has the workload.

    A record of deep networks grows; with ``:not:`` the content is there until it has.
    """

    has_content = True
    option_spec: ClassVar = {"not": directives.flag}

    def render(self) -> list[nodes.Node]:
        """Return the content, or nothing."""
        name, _, workload = self.arguments[0].partition(" ")
        content, profile = self.of(name, None)
        rows = content["profiles"][profile].get("rows")
        if not rows or not workload:
            raise BnbookError(f"expected a benchmark and a workload, found {self.arguments[0]!r}.")
        if (workload in {row["workload"] for row in rows}) is ("not" in self.options):
            return []
        held = nodes.Element()
        self.state.nested_parse(self.content, self.content_offset, held)
        return list(held.children)


def setup(app: Sphinx) -> None:
    """Add the directives."""
    app.add_directive("targets", TargetsDirective)
    app.add_directive("timings", TimingsDirective)
    app.add_directive("costs", CostsDirective)
    app.add_directive("measured", MeasuredDirective)
