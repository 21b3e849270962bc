"""A wheel in an empty environment: layers, conformance and diagnose without the repository."""

import shutil
import subprocess
import sys
import sysconfig
import venv

import pytest

from bnbook.evidence import records

BLOCKED = """
import sys

ABSENT = {"jupyter_book", "sphinx", "papermill", "nbclient", "nbformat", "mlxtend", "pooch",
          "ipykernel", "pytest", "hypothesis", "dask", "distributed"}

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ABSENT:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
"""
MINE = """
import torch
from torch import nn

def network():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8, bias=False), nn.BatchNorm1d(8), nn.Linear(8, 3))
    return model, torch.randn(8, 32, 8)
"""
LAYERS = """
import bnbook, torch
from bnbook import conformance
from bnbook.diagnose import diagnose
from bnbook.layers.norm import BatchNorm, PreciseBN
assert "site-packages" in bnbook.__file__, bnbook.__file__
assert all(result.passed for result in conformance.run(BatchNorm))
layer = BatchNorm(8)
batches = 1 + 3 * torch.randn(8, 32, 8)
print([f.kind for f in diagnose(layer, batches).findings])
PreciseBN(layer).update(batches)
print([f.kind for f in diagnose(layer, batches).findings])
"""


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """An environment that has the wheel and what it depends on, and nothing of the repository."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE", "LICENSE-TEXT"):
        shutil.copy(records.root() / name, source)
    shutil.copytree(records.root() / "bnbook", source / "bnbook",
                    ignore=shutil.ignore_patterns("__pycache__"))  # fmt: skip
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    build = ["wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index", "-w", folder]
    subprocess.run([*pip, *build, source], check=True, capture_output=True)
    venv.create(folder / "env", with_pip=False)
    python = folder / "env" / "bin" / "python"
    wheel = next(folder.glob("*.whl"))
    subprocess.run([*pip, "--python", python, "install", "--quiet", "--no-deps", "--no-index",
                    wheel], check=True, capture_output=True)  # fmt: skip
    (installed,) = (folder / "env" / "lib").glob("python*/site-packages")
    (installed / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")
    (installed / "sitecustomize.py").write_text(BLOCKED)
    shutil.rmtree(source)
    empty = folder / "empty"
    empty.mkdir()
    (empty / "mine.py").write_text(MINE)

    def call(program, *arguments):
        command = [python.with_name(program), *arguments]
        alone = {"OMP_NUM_THREADS": "1"}
        return subprocess.run(command, cwd=empty, env=alone, check=False, capture_output=True,
                              text=True)  # fmt: skip

    return call


@pytest.mark.slow
def test_layers_conformance_and_diagnose(environment):
    done = environment("python", "-c", LAYERS)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["['never updated']", "[]"]


@pytest.mark.slow
def test_the_commands(environment):
    done = environment("bnbook", "conformance", "torch.nn:BatchNorm1d")
    assert (done.returncode, done.stderr) == (0, "")
    assert "all 41 checks pass" in done.stdout
    done = environment("bnbook", "diagnose", "mine.py:network", "--quiet", "--html", "page.html")
    assert done.returncode == 1, done.stderr
    assert "never updated" in done.stdout
    assert "wrote page.html" in done.stderr
    done = environment("bnbook", "doctor")
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("command", ["build", "check", "judge", "records list"])
def test_what_needs_the_repository_says_so(environment, command):
    done = environment("bnbook", *command.split())
    assert done.returncode == 2
    assert done.stderr.startswith("bnbook: this command works on a copy of the book's repository")
    assert "Traceback" not in done.stderr
