"""Code blocks of pages are run once, in a fresh process, and show what they print."""

import pytest

from bnbook.book import blocks
from bnbook.errors import BnbookError

PAGE = """# A page

```python
import os
print("one", 1 + 1)
print(os.getcwd() == {root!r})
```

Text.

````{{solution}} x
```python
{second}
```
````

```bash
not python
```
"""


@pytest.fixture
def page(tmp_path):
    def write(second):
        path = tmp_path / "book" / "11-a.md"
        path.parent.mkdir(exist_ok=True)
        path.write_text(PAGE.format(root=str(tmp_path), second=second))
        return path

    return write


def test_blocks_are_found_with_their_lines(tmp_path, page):
    path = page("print('two')")
    found = blocks.of_page(path, path.read_text())
    assert [block.line for block in found] == [4, 13]
    assert [block.code.splitlines()[-1] for block in found][1] == "print('two')"


@pytest.mark.slow
def test_blocks_run_once_and_again_when_they_change(tmp_path, page, monkeypatch):
    monkeypatch.setattr(blocks, "PRELOADED", [])
    page("import sys; print('two', 'os' in dir())")
    assert [block.line for block in blocks.run_blocks(tmp_path)] == [4, 13]
    file = tmp_path / blocks.OUTPUTS / "11-a.json"
    printed = list(blocks.by_code(file).values())
    assert printed == ["one 2\nTrue\n", "two False\n"]  # the second knows nothing of the first
    assert blocks.run_blocks(tmp_path) == []
    page("print('other')")
    assert [block.line for block in blocks.run_blocks(tmp_path)] == [13]
    assert list(blocks.by_code(file).values()) == ["one 2\nTrue\n", "other\n"]
    good = file.read_bytes()
    file.write_bytes(good[:20])
    assert len(blocks.run_blocks(tmp_path)) == 2
    assert file.read_bytes() == good


@pytest.mark.slow
@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("a = 1\nprint(a / 0)", "book/11-a.md, line 14: ZeroDivisionError: division by zero"),
        ("a = (", "book/11-a.md, line 13: SyntaxError"),
        ("raise SystemExit(3)", "book/11-a.md, line 13: SystemExit: 3"),
        ("import warnings\nwarnings.warn('careful')", "line 13: the block wrote to stderr"),
        ("while True: pass", "line 13: TimeoutError: the block took more than 1 s"),
        ("import os\nos._exit(1)", "book/11-a.md, line 13: its process was ended"),
    ],
    ids=["raises", "is no Python", "exits", "warns", "does not end", "dies"],
)
def test_a_block_that_fails_is_named_with_page_and_line(tmp_path, page, monkeypatch, code, says):
    monkeypatch.setattr(blocks, "PRELOADED", [])
    path = page(code)
    _, second = blocks.of_page(path.relative_to(tmp_path), path.read_text())
    if "while" in code:
        monkeypatch.setattr(blocks, "TIME_LIMIT", 1)
        assert says in blocks.run(tmp_path, second)[1]
        return
    for _ in range(2):
        with pytest.raises(BnbookError) as error:
            blocks.run_blocks(tmp_path)
        assert says in str(error.value)
    file = tmp_path / blocks.OUTPUTS / "11-a.json"
    assert list(blocks.by_code(file).values()) == ["one 2\nTrue\n"]
    page("print(2)")
    assert blocks.run_blocks(tmp_path)
