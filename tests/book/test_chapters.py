"""The chapters: their code runs, their exercises are solved, no result is typed."""

import importlib
import re

import pytest

from bnbook import experiments
from bnbook.book import blocks
from bnbook.book.pages import evidence
from bnbook.evidence import ledger, records
from bnbook.sweeps import sweep
from tests.book import prose

ROOT = records.root()
CHAPTERS = sorted((ROOT / "book").glob("[0-9][0-9]-*.md"))
PAGES = [*sorted((ROOT / "book").glob("*.md")), ROOT / "index.md"]
TYPED_RESULT = re.compile(r"\d\s?%(?! interval)|\d×|\d points|\bp = 0\.\d")


@pytest.mark.parametrize(
    ("path", "code"),
    [
        pytest.param(p, block.code, id=f"{p.stem}:{block.line}")
        for p in PAGES
        for block in blocks.of_page(p, p.read_text("utf-8"))
    ],
)
def test_code_on_pages_runs(path, code, monkeypatch, tmp_path, capsys):
    """With quick profiles that are smaller still, and nothing kept."""
    for name in experiments.names():
        experiment = experiments.find(name)
        small = importlib.import_module(f"tests.experiments.test_{name}").SMALL
        monkeypatch.setitem(experiment.profiles, "quick", experiment.configure("quick", **small))
    monkeypatch.setattr(sweep, "CACHE", tmp_path)
    exec(compile(code, str(path), "exec"), {})
    if "print(" in code:
        assert capsys.readouterr().out.strip()


ROLE = re.compile(r"\{(claim|fact)\}`([^`]+)`")


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_every_number_that_a_page_asks_for_is_in_the_ledger(path):
    """Without a build: what a role cannot find raises an error that lists what there is."""
    found = evidence.read(ROOT / "results")
    for kind, text in ROLE.findall(path.read_text("utf-8")):
        asked = evidence.Request.parse(text)
        if kind == "claim":
            content, claim = found.claim(asked.name)
            profile = evidence.profile_of(content, asked.profile)
            assert evidence.claim_text(content, claim, asked.field, profile)
        else:
            experiment, _, name = asked.name.partition(".")
            content = found.experiment(experiment)
            profile = evidence.profile_of(content, asked.profile)
            assert evidence.fact_text(content, name, asked.field, profile)


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_every_exercise_has_a_folded_solution(path):
    text = path.read_text("utf-8")
    exercises = set(re.findall(r"```\{exercise\}\n:label: (\S+)", text))
    solutions = set(re.findall(r"```\{solution\} (\S+)\n:class: dropdown", text))
    assert exercises
    assert exercises == solutions


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_a_chapter_opens_with_a_plain_answer_with_a_number(path):
    title, answer = path.read_text("utf-8").split("\n\n")[:2]
    assert title.startswith("# ")
    assert answer.startswith("**Plain answer.**")
    assert "{claim}`" in answer


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_no_result_is_typed(path):
    """Percentages, ratios and points come from `{claim}` and `{fact}`, never from a keyboard."""
    prose = re.sub(
        r"```.*?```|\{\w+\}`[^`]*`|`[^`]*`", "", path.read_text("utf-8"), flags=re.DOTALL
    )
    allowed = {"notation.md"}  # the arithmetic of conventions
    if path.name not in allowed:
        assert not TYPED_RESULT.search(prose), TYPED_RESULT.search(prose)


def test_the_check_for_typed_results_can_fail():
    for typed in ("97.3 % of the images", "3.2× as fast", "ahead by 2 points"):
        assert TYPED_RESULT.search(typed)
    assert not TYPED_RESULT.search("its 95 % interval over seeds")


NUMBER = re.compile(r"\{claim\}`(\S+?)(?: (?:value|interval))?(?: @\w+)?`")
"""A role that prints a claim's number, not its verdict or its words."""


def lonely(text, contents):
    """Claims whose number a page prints without that of another record about the same quantity.

    A table of an experiment's claims says of each what other records have. A rehearsal has nothing.
    """
    found = evidence.Evidence(ROOT / "results", contents)
    named = set(NUMBER.findall(text))
    tables = re.findall(r"```\{claims\} (\w+)", text)
    said = [claim for name in tables for claim in contents[name]["claims"]]
    printed = named | {each["id"] for claim in said for each in (claim, *found.others(claim))}
    printed |= {c["id"] for name in prose.rehearsed(contents) for c in contents[name]["claims"]}
    return [
        (name, other["id"])
        for name in sorted(named)
        for other in found.others(found.claim(name)[1])
        if other["id"] not in printed
    ]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_two_records_about_one_quantity_are_shown_together(path):
    assert lonely(path.read_text("utf-8"), ledger.read(ROOT / "results")) == []


def test_a_page_that_shows_one_record_of_two_is_found():
    contents = ledger.read(ROOT / "results")
    one, other, third = (
        f"bjorck.{name}_generalises" for name in ("fig1.higher_rate", "dose.rate", "whole.rate")
    )
    pairs = [(one, other), (one, third)]
    assert lonely(f"BN gains {{claim}}`{one} value`.", contents) == pairs
    assert lonely(f"That is {{claim}}`{one} verdict`.", contents) == []
    both = f"{{claim}}`{one}` and {{claim}}`{other} value`"
    assert len(lonely(both, contents)) == 2  # the third stands with neither
    assert lonely(f"{both}, {{claim}}`{third}`", contents) == []


def test_claims_about_one_quantity_are_of_different_records_and_say_it_alike():
    named = {}
    for content in ledger.read(ROOT / "results").values():
        for claim in content["claims"]:
            if claim["concerns"]:
                named.setdefault(claim["concerns"], []).append((content["experiment"], claim))
    assert named
    for about, claims in named.items():
        experiments_of = [experiment for experiment, _ in claims]
        assert len(set(experiments_of)) == len(experiments_of) >= 2, about
        assert len({claim["unit"] for _, claim in claims}) == 1
        papers = [claim for _, claim in claims if claim["kind"] == "experiment"]
        assert len({claim["direction"] for claim in papers}) <= 1  # a control may say the opposite


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_every_figure_of_a_page_is_drawn(path):
    """Without a build; those of the benchmark are drawn by it alone."""
    drawn = {
        f"{name}-{figure}"
        for name in experiments.names()
        for figure in experiments.find(name).figures
    }
    shown = set(re.findall(r"_build/figures/([\w-]+)\.svg", path.read_text("utf-8")))
    assert {name for name in shown if not name.startswith("bench-")} <= drawn
