"""What a reader of a page reads: its visible words, its plain answer, its sentences.

``python -m tests.book.prose`` prints a report of all chapters.
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from bnbook import experiments
from bnbook.book.pages import evidence
from bnbook.evidence import records

ROOT = records.root()
CHAPTERS = sorted((ROOT / "book").glob("[0-9][0-9]-*.md"))
FENCE = re.compile(r"(`{3,}|:{3,})(?:\{(\w[\w-]*)\})?\s*(.*)")
PROSE = ("figure", "admonition", "exercise", "note", "warning", "important", "tip", "grid", "card")
"""Directives whose text counts; math, code, tables made at build time and solutions do not."""
ROLE = re.compile(r"\{([\w:]+)\}`([^`]+)`")
MATH = re.compile(r"\$[^$]+\$")
BARE_NUMBER = re.compile(r"[\d\s.,+\-\\{}^]*(?:\\cdot|\\times)?[\d\s.,+\-\\{}^]+")
WORDLESS = ("verdict", "quantity", "statement", "criterion", "profile", "unit")
"""Fields of a claim that print no number of its own."""


def rehearsed(contents: dict[str, dict]) -> set[str]:
    """Name the experiments that are meant to have a `standard` record and have `quick` alone."""
    return {
        name
        for name in set(experiments.names()) & contents.keys()
        if set(contents[name]["profiles"]) == {"quick"}
        and "standard" in experiments.find(name).profiles
    }


def closed(fence: str, line: str) -> bool:
    """Whether a line ends the block that a fence opened."""
    return len(line) >= len(fence) and set(line) == {fence[0]}


def options(lines: list[str], begin: int) -> list[str]:
    """Return the options of a directive, the lines ``:name: value`` after its first."""
    found = []
    for line in lines[begin:]:
        if not re.match(r":\w[\w-]*:", line):
            break
        found.append(line)
    return found


def hidden(name: str | None, given: list[str]) -> bool:
    """Whether a block's text is not read on the open page: code, math, what is folded."""
    return name not in PROSE or any(line.startswith(":class:") and "dropdown" in line
                                    for line in given)  # fmt: skip


def visible_lines(text: str) -> Iterator[str]:
    """Yield the lines of a page that are prose, or a table, and not folded."""
    lines, place, fences = text.splitlines(), 0, []
    while place < len(lines):
        line = lines[place].strip()
        place += 1
        opened = FENCE.fullmatch(line)
        if fences and closed(fences[-1][0], line):
            fences.pop()
        elif opened:
            given = options(lines, place)
            place += len(given)
            inside = bool(fences) and fences[-1][1]
            fences.append((opened[1], inside or hidden(opened[2], given)))
            if opened[2] == "admonition" and not fences[-1][1]:
                yield opened[3]
        elif not (fences and fences[-1][1]):
            yield line


@cache
def found() -> evidence.Evidence:
    return evidence.read(ROOT / "results")


def printed(match: re.Match[str]) -> str:
    """Return what a role prints, or something of its length."""
    kind, content = match.groups()
    if kind not in ("claim", "fact"):
        return content.split("<")[0] if "<" in content else "Name"
    asked = evidence.Request.parse(content)
    if kind == "claim":
        file, claim = found().claim(asked.name)
        return evidence.claim_text(
            file, claim, asked.field, evidence.profile_of(file, asked.profile)
        )
    experiment, _, name = asked.name.partition(".")
    file = found().experiment(experiment)
    return evidence.fact_text(file, name, asked.field, evidence.profile_of(file, asked.profile))


def as_read(text: str) -> str:
    """Return text with roles as they print, without mathematics, markup and addresses."""
    text = MATH.sub(" ", ROLE.sub(printed, text))
    text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", text)
    return re.sub(r"[*`#|]|<[^>]+>|\((\w|-)+\)=", " ", text)


def words(text: str) -> list[str]:
    return [word for word in as_read(text).replace("\u00a0", " ").split() if re.search(r"\w", word)]


def visible(text: str) -> str:
    return "\n".join(visible_lines(text))


def plain_answer(text: str) -> str:
    """Return the paragraph below the title; nothing where a page has none."""
    parts = text.split("\n\n")
    answer = parts[1] if len(parts) > 1 else ""
    return answer.removeprefix("**Plain answer.**") if answer.startswith("**Plain") else ""


def numbers(answer: str) -> list[str]:
    """Return what a plain answer prints as numbers, those in names such as ResNet-20 left out."""
    asked = {
        content.split()[0]
        for kind, content in ROLE.findall(answer)
        if kind in ("claim", "fact") and not content.endswith(WORDLESS)
    }
    spans = [span for span in MATH.findall(answer) if BARE_NUMBER.fullmatch(span[1:-1])]
    typed = re.findall(r"(?<![\w-])\d[\d.,]*", MATH.sub(" ", ROLE.sub(" ", answer)))
    return [*sorted(asked), *spans, *typed]


def sentences(text: str) -> list[str]:
    """Return the sentences of a page's visible text: it has one on a line, as a rule."""
    whole = [line for line in visible_lines(text) if line and line[0] not in "#|"]
    return [s for line in whole for s in re.split(r"(?<=[.?!:;]) ", as_read(line)) if words(s)]


def describe(path: Path) -> str:
    """One line of the report: words, the plain answer, length of sentences, share of numerals."""
    text = path.read_text("utf-8")
    read = words(visible(text))
    lengths = [len(words(sentence)) for sentence in sentences(text)]
    numerals = sum(bool(re.search(r"\d", word)) for word in read)
    answer = plain_answer(text)
    return (
        f"{path.stem:28}{len(read):6}{len(words(answer)):8}{len(numbers(answer)):9}"
        f"{statistics.mean(lengths):10.1f}{max(lengths):9}{100 * numerals / len(read):10.1f}"
    )


if __name__ == "__main__":
    print(f"{'chapter':28}{'words':>6}{'answer':>8}{'numbers':>9}"
          f"{'sentence':>10}{'longest':>9}{'numerals':>10}")  # fmt: skip
    print(*(describe(path) for path in CHAPTERS), sep="\n")
