"""The command ``bnbook diagnose``, and commands outside a copy of the repository."""

import json
import sys

import pytest

from bnbook.diagnose.loading import load
from bnbook.errors import BnbookError
from bnbook.evidence import records

MINE = """
import torch
from torch import nn
from torch.nn import functional as F

def network(fault=False):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8, bias=False), nn.BatchNorm1d(8), nn.Linear(8, 3))
    batches = [(torch.randn(32, 8), torch.randint(3, (32,))) for _ in range(4)]
    for _ in range(30):
        for x, _ in batches:
            model(x)
    if fault:
        model[1].running_var.mul_(25)
    return model, batches, F.cross_entropy, torch.optim.SGD(model.parameters(), 0.01)

def bad():
    return network(fault=True)

def raising():
    raise KeyError("weights.pt")

def leaving():
    raise SystemExit("usage: mine.py [-h]")

def printing():
    print("loading the weights")
    return network()

def short():
    return (1,)

number = 3
"""


@pytest.fixture
def mine(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(MINE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "mine", raising=False)  # another file of that name
    return tmp_path


def test_the_command(mine, bnbook):
    code, out, _ = bnbook("diagnose", "mine.py:network", "--quiet")
    assert code == 0
    assert "0 findings in 1 layers" in out
    code, out, err = bnbook("diagnose", "mine:bad", "--quiet", "--html", "out/report.html")
    assert code == 1
    assert "other statistics" in out
    assert "wrote out/report.html" in err
    assert "other statistics" in (mine / "out" / "report.html").read_text("utf-8")
    code, out, _ = bnbook("diagnose", "mine:bad", "--quiet", "--json", "--limit", "3")
    assert code == 1
    assert json.loads(out)["batches"] == 3
    code, out, err = bnbook("diagnose", "mine:printing", "--quiet", "--json")
    assert json.loads(out)["findings"] == []
    assert "loading the weights" in err


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("mine.py", "MODULE:FUNCTION or PATH.py:FUNCTION"),
        ("mine.py:other", "found no such name. It has: bad, leaving, network"),
        ("mine.py:number", "a function number, found a int"),
        ("mine.py:raising", "it raised KeyError: 'weights.pt'"),
        ("mine.py:leaving", r"it raised SystemExit: usage: mine.py \[-h\]"),
        ("mine.py:short", "tuple of model, batches, loss and optimizer, .* returned a tuple"),
        ("nowhere.py:f", "must be a Python file, found none"),
        ("no_such_module:f", "could not be imported"),
    ],
)
def test_what_is_wrong_with_a_target(mine, target, said):
    with pytest.raises(BnbookError, match=said):
        load(target)


@pytest.mark.parametrize(
    "command",
    [
        ("build",), ("check",), ("judge",), ("compare", "ioffe_fig1"), ("records", "list"),
        ("run", "ioffe_fig1", "--record"),
    ],
)  # fmt: skip
def test_commands_that_need_the_repository_say_so(mine, command, bnbook):
    code, _, err = bnbook(*command)
    assert code == 2
    assert "a copy of the book's repository" in err
    assert sorted(path.name for path in mine.iterdir()) == ["mine.py"]
    with pytest.raises(BnbookError, match="git clone"):
        records.repository()
