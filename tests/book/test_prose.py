"""Chapters are short, and begin with an answer that a newcomer understands."""

import pytest

from tests.book import prose

LONGEST_ANSWER, MOST_NUMBERS, MOST_WORDS = 60, 3, 2000
TEXTS = {path.stem: path.read_text("utf-8") for path in (prose.ROOT / "book").glob("*.md")}
ANSWERS = sorted(name for name, text in TEXTS.items() if prose.plain_answer(text))


@pytest.mark.parametrize("name", ANSWERS)
def test_a_plain_answer_is_short(name):
    answer = prose.plain_answer(TEXTS[name])
    words, numbers = prose.words(answer), prose.numbers(answer)
    assert len(words) <= LONGEST_ANSWER, f"{len(words)} words: {' '.join(words)}"
    assert len(numbers) <= MOST_NUMBERS, numbers


@pytest.mark.parametrize("name", [path.stem for path in prose.CHAPTERS])
def test_a_chapter_is_short(name):
    count = len(prose.words(prose.visible(TEXTS[name])))
    assert count <= MOST_WORDS, f"{count} visible words; fold details or drop them"


PAGE = """# A title of five words

**Plain answer.** One two $3$ {claim}`ioffe.alg1.moments verdict`, 4 of $m/(m-1)$.

```{math}
not read
```

```{figure} picture.svg
:alt: Not read.

**Read** here.
```

:::{admonition} Title read
:class: warning
Read again.
:::

:::{admonition} Folded
:class: dropdown
Not `read`.
```python
not = "read"
```
Nor this.
:::

````{solution} ex-x
:class: dropdown
```python
print("not read")
```
Not read.
````

| a | b |
|---|---|
| [in a table](x.md) | {eq}`eq-x` |
"""


def test_only_what_is_seen_counts():
    assert " ".join(prose.words(prose.visible(PAGE))) == (
        "A title of five words Plain answer. One two reproduced, 4 of Read here. Title read Read"
        " again. a b in a table Name"
    )
    answer = prose.plain_answer(PAGE)
    assert len(prose.words(answer)) == 5
    assert prose.numbers(answer) == ["$3$", "4"]
    assert prose.numbers("{claim}`a.b value`, {claim}`a.b interval` and {fact}`c.d`") == [
        "a.b", "c.d",
    ]  # fmt: skip
    assert prose.sentences("# No\n\nOne two. Three: four.\nFive") == [
        "One two.", "Three:", "four.", "Five",
    ]  # fmt: skip
