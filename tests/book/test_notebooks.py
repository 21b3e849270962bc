"""The form of the notebooks, as CONTRIBUTING.md says."""

import ast
import json
import re

import nbformat
import pytest

from bnbook import experiments
from bnbook.book import notebooks
from bnbook.evidence import records

ROOT = records.root()
NOTEBOOKS = notebooks.notebooks(ROOT)


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def notebook(request):
    found = nbformat.read(request.param, as_version=4)
    nbformat.validate(found)
    return found


COLAB = """import os
import sys

if "google.colab" in sys.modules:  # an empty machine: get the package, and its records
    get_ipython().system("git clone -q --depth 1 https://github.com/bnbook/bnbook")
    get_ipython().system("pip install -q './bnbook[data]'")
    os.chdir("bnbook")"""
"""The first cell of each notebook, which pages leave out."""


def code_of(notebook):
    """Return the code cells but the first, which only Colab needs."""
    return [cell for cell in notebook.cells if cell.cell_type == "code"][1:]


def test_colab_installs_by_itself(notebook):
    first = next(cell for cell in notebook.cells if cell.cell_type == "code")
    assert first.source == COLAB
    assert first.metadata["tags"] == ["remove-cell"]
    assert "Colab" not in notebook.cells[0].source


def imported(notebook):
    """Names of the experiments that a notebook imports."""
    return [
        node.module.split(".")[2]
        for cell in code_of(notebook)
        for node in ast.walk(ast.parse(cell.source))
        if isinstance(node, ast.ImportFrom)
        and re.fullmatch(r"bnbook\.experiments\.\w+\.experiment", node.module)
        for alias in node.names
        if alias.name == "EXPERIMENT"
    ]


def test_there_are_notebooks():
    assert NOTEBOOKS


def test_no_outputs_in_git(notebook):
    assert all(not c.outputs and c.execution_count is None for c in code_of(notebook))


def test_nothing_is_defined_and_no_shell_or_magic(notebook):
    for cell in code_of(notebook):
        for node in ast.walk(ast.parse(cell.source)):  # a magic would not parse
            assert not isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Lambda), cell.source
        assert not re.search(r"filterwarnings|subprocess|os\.system|pip install", cell.source)


def test_one_parameters_cell_of_literals(notebook):
    cells = [c for c in code_of(notebook) if "parameters" in c.metadata.get("tags", [])]
    assert len(cells) == 1
    values = {}
    for node in ast.parse(cells[0].source).body:
        assert isinstance(node, ast.Assign)
        values[node.targets[0].id] = ast.literal_eval(node.value)
    assert values == {"profile": "quick", "seed": 0, "device": "auto"}


def test_no_absolute_path(notebook):
    text = json.dumps(notebook)
    assert not re.search(r"[\"'( ]/(home|root|Users|work|tmp|usr)/|[A-Z]:\\\\", text)


def test_short(notebook):
    assert len(code_of(notebook)) <= 12
    assert max(len(c.source.splitlines()) for c in code_of(notebook)) <= 15


def test_every_figure_has_alt_text(notebook):
    drawing = [
        c for c in code_of(notebook) if "plt.subplots" in c.source or ".figures[" in c.source
    ]
    assert drawing
    for cell in drawing:
        assert len(cell.metadata["mystnb"]["image"]["alt"]) > 40


def test_opens_with_title_question_and_claims(notebook):
    first = notebook.cells[0]
    assert first.cell_type == "markdown"
    assert first.source.startswith("# ")
    assert "?*" in first.source
    known = {claim.id for name in imported(notebook) for claim in experiments.find(name).claims}
    assert known
    dotted = re.findall(r"`([a-z]+(?:\.[a-z0-9_]+){1,2})`", first.source)
    assert {name for name in dotted if not name.startswith("bnbook.")} == known


def test_every_experiment_has_a_notebook():
    known = {n for path in NOTEBOOKS for n in imported(nbformat.read(path, as_version=4))}
    assert known == set(experiments.names())


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_chapter_has_the_same_stem(path):
    assert (ROOT / "book" / f"{path.stem}.md").is_file()
