"""Every row of the papers' list has claims that the ledger has, or says why it has none."""

import re
from pathlib import Path

import pytest

from bnbook.book.pages import places
from bnbook.evidence import ledger
from bnbook.tables import coverage

ROOT = Path(__file__).parents[2]
CONTENTS = ledger.read(ROOT / "results")
LISTED = {
    "Ioffe & Szegedy 2015": 37,
    "Bjorck et al. 2018": 41,
}
"""How many rows each paper has: figures, tables, equations, algorithms, theorems and claims."""


def missing():
    """Name the rows that say neither by which claims they are tested nor why they are not."""
    return [
        each.row
        for each in coverage.rows()
        if len(coverage.tested(each, CONTENTS)) < len(each.claims) or not (each.claims or each.why)
    ]


def test_every_row_is_tested_or_says_why_not():
    assert missing() == []
    for paper, count in LISTED.items():
        assert len({row.row for row in coverage.rows(paper)}) == count


def test_a_row_without_claim_or_reason_is_named(monkeypatch):
    one = coverage.rows()[0]
    odd = [
        coverage.Row("A", one.paper, "1", "a", "", (), "", ""),
        coverage.Row("B", one.paper, "1", "b", "", ("no.such.claim",), "", ""),
        coverage.Row("C", one.paper, "1", "c", "", (), "", "a definition"),
        coverage.Row("D", one.paper, "1", "d", "", ("ioffe.fig1a.speed",), "", ""),
    ]
    monkeypatch.setattr(coverage, "rows", lambda: odd)
    assert missing() == ["A", "B"]


def test_every_claim_of_the_two_papers_has_a_row():
    asked = {claim for row in coverage.rows() for claim in row.claims}
    ours = {
        claim["id"]
        for content in CONTENTS.values()
        for claim in content["claims"]
        if claim["paper"] in coverage.NAMES.values()
    }
    assert ours - asked == set()


def test_numbered_figures_tables_and_equations_are_all_there():
    said = {paper: " ".join(row.section for row in coverage.rows(paper)) for paper in LISTED}
    first, second = said.values()
    assert {int(n) for n in re.findall(r"figure (\d)", first)} == set(range(1, 6))
    assert {int(n) for n in re.findall(r"figure (\d)", second)} == set(range(1, 9))
    assert {int(n) for n in re.findall(r"equation (\d)", second)} >= {2, 3, 4, 5}


def test_a_claims_row_has_its_verdict_and_record():
    (row,) = (row for row in coverage.rows() if row.row == "A.sec3.2.conv")
    (found,) = coverage.tested(row, CONTENTS)
    content = CONTENTS["ioffe_alg2"]
    profile = ledger.best_profile(content)
    assert (found.experiment, found.profile) == ("ioffe_alg2", profile)
    assert found.judgement == content["profiles"][profile]["judgements"]["ioffe.sec3_2.conv"]
    assert found.record == content["profiles"][profile]["record"]


@pytest.mark.parametrize("row", coverage.rows(), ids=lambda row: row.row)
def test_pages_of_rows_are_there(row):
    assert not row.page or (ROOT / f"{row.page}.md").is_file()
    assert bool(row.claims) != bool(row.why)
    assert not row.what.endswith(".")


def test_places_of_an_experiment_are_read_off_the_pages():
    found = places.places(ROOT, "bjorck_noise")
    assert found.chapters == ("book/32-noise-and-rate",)
    assert found.notebooks == ("notebooks/32-noise-and-rate",)
    assert found.figures
    assert all(name.startswith("fig-") for name in found.figures)
