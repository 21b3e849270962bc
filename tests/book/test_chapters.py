"""The chapters: their code runs, their exercises are solved, no result is typed."""

import importlib
import re

import pytest

from bnbook import experiments
from bnbook.evidence import records
from bnbook.sweeps import sweep

ROOT = records.root()
CHAPTERS = sorted((ROOT / "book").glob("[0-9][0-9]-*.md"))
PAGES = [*sorted((ROOT / "book").glob("*.md")), ROOT / "index.md"]
TYPED_RESULT = re.compile(r"\d\s?%(?! interval)|\d×|\d points|\bp = 0\.\d")


def blocks(path):
    """Python code blocks of a page, with the line where each begins."""
    text = path.read_text("utf-8")
    return [
        (text[: match.start()].count("\n") + 1, match[1])
        for match in re.finditer(r"```python\n(.*?)```", text, re.DOTALL)
    ]


@pytest.mark.parametrize(
    ("path", "code"),
    [pytest.param(p, code, id=f"{p.stem}:{line}") for p in PAGES for line, code in blocks(p)],
)
def test_code_on_pages_runs(path, code, monkeypatch, tmp_path, capsys):
    """With quick profiles that are smaller still, and nothing kept."""
    for name in experiments.names():
        experiment = experiments.find(name)
        small = importlib.import_module(f"tests.experiments.test_{name}").SMALL
        monkeypatch.setattr(
            experiment, "PROFILES", {"quick": experiment.configure("quick", **small)}
        )
    monkeypatch.setattr(sweep, "CACHE", tmp_path)
    exec(compile(code, str(path), "exec"), {})
    if "print(" in code:
        assert capsys.readouterr().out.strip()


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
