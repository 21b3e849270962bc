"""CONTRIBUTING.md: its experiment is made and run, its picture names files that are there."""

import re
import sys
from pathlib import Path

import pytest

from bnbook import cli, experiments
from bnbook.book import way
from bnbook.evidence import records, sources
from bnbook.sweeps import sweep

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
BLOCK = re.compile(r"```python\n# bnbook/experiments/(running_lag/\w+\.py)\n(.*?)```", re.DOTALL)


@pytest.fixture
def made(tmp_path, monkeypatch):
    """The experiment of the page beside the package's own, in a folder where it may record."""
    for name, code in BLOCK.findall(PAGE):
        path = tmp_path / "more" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(code)
    (tmp_path / "more/running_lag/__init__.py").touch()
    (tmp_path / "_toc.yml").touch()
    monkeypatch.setattr(experiments, "__path__", [*experiments.__path__, str(tmp_path / "more")])
    found = sources._path

    def path_of(module):
        name = module.removeprefix("bnbook.experiments.").replace(".", "/")
        return tmp_path / f"more/{name}.py" if name.startswith("running_lag/") else found(module)

    monkeypatch.setattr(sources, "_path", path_of)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sweep, "CACHE", tmp_path / "sweeps")
    yield tmp_path
    for name in [name for name in sys.modules if "running_lag" in name]:
        del sys.modules[name]


def test_the_experiment_of_the_page_runs_is_judged_and_is_drawn(made, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["bnbook", "run", "running_lag", "--record", "--quiet"])
    with pytest.raises(SystemExit) as done:
        cli.main()
    assert not done.value.code
    assert "reproduced" in capsys.readouterr().out
    table = records.read(made / "results/running_lag/quick.parquet").table
    last = table[(table["momentum"] == 0.1) & (table["step"] == 20)]
    assert last["share"].tolist() == pytest.approx([1 - 0.9**20] * 3, rel=1e-12)
    experiment = experiments.find("running_lag")
    assert set(table.columns) == set(experiment.columns)
    (ax,) = experiment.figures["lag"](table).axes
    assert ax.lines[0].get_ydata()[0] == pytest.approx(0.01, rel=1e-9)
    assert experiment.facts(table)["late"]["value"] == pytest.approx(100 * 0.99**20)


def test_it_takes_less_than_150_lines():
    assert sum(code.count("\n") for _, code in BLOCK.findall(PAGE)) < 150


def test_the_tree_takes_20_lines_and_names_every_room():
    (tree,) = re.findall(r"```\n(bnbook/\n.*?)```", PAGE, re.DOTALL)
    rooms = {path.name for path in (ROOT / "bnbook").iterdir()} - {"__init__.py", "__pycache__"}
    named = {line.split()[0].rstrip("/") for line in tree.splitlines()[1:]}
    assert named == rooms
    assert len(tree.splitlines()) <= 20


def test_the_picture_of_a_numbers_way_is_the_one_that_the_code_draws():
    assert (ROOT / way.PICTURE).read_text("utf-8") == way.picture()
    for step in way.STEPS:
        assert (ROOT / step.file).is_file(), step
