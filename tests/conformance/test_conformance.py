"""The conformance checks: right layers pass, every mutant fails where it is wrong."""

from functools import partial

import pytest
import torch
import typer
from torch import nn
from typer.testing import CliRunner

from bnbook import conformance
from bnbook.cli.conformance import conformance as command
from bnbook.conformance import mutants
from bnbook.errors import BnbookError
from bnbook.layers import norm

OUTPUT = {
    "training output",
    "eps inside the root",
    "precision",
    "input gradient",
    "weight gradient",
    "train() and eval() decide",
}
CAUGHT = {
    "PooledStatistics": OUTPUT
    | {"features apart", "large mean in float32", "running mean", "running variance"},
    "PositionsApart": OUTPUT | {"large mean in float32", "running variance"},
    "UnbiasedNormalisation": OUTPUT | {"large mean in float32"},
    "EpsOutsideTheRoot": OUTPUT | {"evaluation output", "evaluation gradient"},
    "OnePassVariance": {"large mean in float32"},
    "Float32Inside": {"precision"},
    "DetachedStatistics": {"input gradient", conformance.TRAP},
    "DetachedVariance": {"input gradient"},
    "InputGradientTwice": {"input gradient", "evaluation gradient"},
    "NoInputGradient": {"input gradient", "evaluation gradient"},
    "WeightGradientWithoutNormalisation": {"weight gradient"},
    "BiasGradientOverTheWrongAxis": {"bias gradient"},
    "ReversedMomentum": {"running mean", "running variance"},
    "BiasedRunningVariance": {"running variance"},
    "RunningVarianceFromZero": {"initial state", "running variance"},
    "CountsNoBatches": {"batches counted"},
    "BatchStatisticsAtTestTime": {
        "evaluation output",
        "batch mates",
        "evaluation gradient",
        "train() and eval() decide",
    },
    "ModeFromAutograd": {
        "evaluation gradient",
        "evaluation leaves the state",
        "train() and eval() decide",
    },
    "StatisticsMoveInEvaluation": {
        "evaluation output",
        "batch mates",
        "evaluation leaves the state",
        "train() and eval() decide",
    },
    "OneValueAccepted": {"one value of a feature"},
    "InPlace": {"input untouched"},
}

SAMPLE = """
import torch
from torch import nn

class Mine(nn.Module):
    def __init__(self, num_features):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(num_features))
        self.bias = nn.Parameter(torch.zeros(num_features))
        self.register_buffer("running_mean", torch.zeros(num_features))
        self.register_buffer("running_var", torch.ones(num_features))
        self.register_buffer("num_batches_tracked", torch.tensor(0))

    def forward(self, x):
        if self.training:
            var, mean = torch.var_mean(x, 0, correction=0)
            with torch.no_grad():
                self.running_mean += 0.1 * (mean - self.running_mean)
                self.running_var += 0.1 * (x.var(0) - self.running_var)
                self.num_batches_tracked += 1
        else:
            mean, var = self.running_mean, self.running_var
        return self.weight * (x - mean) / torch.sqrt(var + 1e-5) + self.bias

class Wrong(Mine):
    def forward(self, x):
        return super().forward(2 * x)

class NotALayer:
    def __init__(self, num_features):
        pass

class TwoArguments(nn.Module):
    def __init__(self, num_features, eps):
        super().__init__()

number = 3
"""


@pytest.fixture(scope="module")
def table():
    return mutants.mutant_table()


@pytest.fixture
def sample(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(SAMPLE)
    return path


def failed(make):
    return {result.name: result.found for result in conformance.run(make) if not result.passed}


@pytest.mark.parametrize(
    "make",
    [
        nn.BatchNorm1d,
        nn.BatchNorm2d,
        nn.BatchNorm3d,
        norm.BatchNorm,
        norm.FusedBatchNorm,
        norm.LeanBatchNorm,
        mutants.Sample,
        partial(norm.LeanBatchNorm, momentum=None),
        partial(nn.BatchNorm2d, momentum=0.7, eps=0.01),
    ],
    ids=[
        *("1d", "2d", "3d", "ours", "ours, fused", "ours, lean"),
        *("sample", "all batches", "other settings"),
    ],
)
def test_right_layers_pass(make):
    assert failed(make) == {}


def test_which_inputs_a_layer_takes():
    two, three, four, five = conformance.SIZES
    assert conformance.accepted(nn.BatchNorm1d) == [two, three]
    assert conformance.accepted(nn.BatchNorm2d) == [four]
    assert conformance.accepted(nn.BatchNorm3d) == [five]
    assert conformance.accepted(norm.BatchNorm) == [two, three, four]


def test_checks_leave_torch_random_numbers_and_gradients_as_they_were():
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    failed(nn.BatchNorm1d)
    torch.testing.assert_close(torch.rand(3), expected, rtol=0, atol=0)
    assert torch.is_grad_enabled()


def test_checks_have_names_purposes_and_reasons():
    names = [check.name for check in conformance.CHECKS]
    assert len(set(names)) == len(names) == 20
    assert all(check.holds and check.test.__doc__ for check in conformance.CHECKS)
    for check in conformance.CHECKS:
        assert check.test(nn.BatchNorm1d) is None


@pytest.mark.parametrize("mutant", mutants.MUTANTS, ids=lambda mutant: mutant.__name__)
def test_every_mutant_is_caught_where_it_is_wrong(table, mutant):
    caught = table.loc[mutant.__name__]
    assert set(caught.index[caught]) == CAUGHT[mutant.__name__]


def test_every_check_has_been_seen_to_fail(table):
    assert table.any(axis=0).all()
    assert table.any(axis=1).all()
    assert list(table.columns) == [check.name for check in conformance.CHECKS]
    assert set(table.index) == set(CAUGHT)


def test_a_check_through_a_sum_passes_wrong_gradients(table):
    wrong = table.index[table["input gradient"] & ~table["training output"]]
    assert set(wrong) == {
        "DetachedStatistics",
        "DetachedVariance",
        "InputGradientTwice",
        "NoInputGradient",
    }
    # Zero, twice, and without the variance: all pass. Only what also lacks the mean is seen.
    assert set(table.index[table[conformance.TRAP]]) == {"DetachedStatistics"}


@pytest.mark.parametrize("seed", [1, 7])
def test_what_is_caught_does_not_hang_on_the_numbers_drawn(seed):
    for mutant in (mutants.DetachedVariance, mutants.OnePassVariance, mutants.PositionsApart):
        found = {result.name for result in conformance.run(mutant, seed) if not result.passed}
        assert found == CAUGHT[mutant.__name__]
    results = [conformance.run(mutants.PooledStatistics, s) for s in (0, seed)]
    texts = [next(r.found for r in found if r.name == "training output") for found in results]
    assert texts[0] != texts[1], "the numbers are others"


def test_what_a_failure_says():
    assert failed(mutants.CountsNoBatches) == {
        "batches counted": "expected num_batches_tracked = 3, found 0"
    }
    found = failed(mutants.BatchStatisticsAtTestTime)
    assert found["evaluation output"].startswith("expected ")
    assert "; input (7, 4)" in found["evaluation output"]
    assert found["train() and eval() decide"].startswith("eval() with gradients: expected")
    assert (
        "running_mean" in failed(mutants.StatisticsMoveInEvaluation)["evaluation leaves the state"]
    )
    assert failed(mutants.PositionsApart)["training output"].endswith("; input (5, 4, 3)")


class Raises(nn.Module):
    def forward(self, x):
        raise RuntimeError("first line\nsecond line")


class NoBuffers(nn.BatchNorm1d):
    def __init__(self, num_features):
        super().__init__(num_features, track_running_stats=False)


class OtherShape(mutants.Sample):
    def forward(self, x):
        return super().forward(x)[:-1]


class NoGradient(mutants.Sample):
    def forward(self, x):
        return super().forward(x.detach())


class Nowhere(mutants.Sample):
    def forward(self, x):
        return super().forward(x) * float("nan")


def test_a_layer_that_raises_fails_with_the_first_line():
    found = failed(lambda _: Raises())
    assert set(found.values()) == {"raised RuntimeError: first line"}
    assert len(found) == len(conformance.CHECKS)


def test_layers_that_lack_what_is_looked_at():
    assert failed(NoBuffers)["running mean"].startswith("expected numbers, found none")
    assert failed(NoBuffers)["evaluation output"].startswith("raised AttributeError")
    assert failed(nn.Identity)["initial state"].startswith("raised AttributeError")
    assert "expected shape (7, 4), found (6, 4)" in failed(OtherShape)["training output"]
    assert failed(NoGradient)["input gradient"].startswith("expected numbers, found none")
    assert "found nan" in failed(Nowhere)["training output"]
    assert "expected weight = 1" in failed(Zeros)["initial state"]
    assert "num_batches_tracked = 0, found 5" in failed(Started)["initial state"]
    assert "expected torch.float32, found torch.float64" in failed(Doubles)["precision"]


class Zeros(mutants.Sample):
    def __init__(self, num_features):
        super().__init__(num_features)
        nn.init.zeros_(self.weight)


class Started(mutants.Sample):
    def __init__(self, num_features):
        super().__init__(num_features)
        self.num_batches_tracked += 5


class Doubles(mutants.Sample):
    def forward(self, x):
        return super().forward(x).double()


# Finding a layer


def test_a_readers_file_and_module(sample, monkeypatch):
    assert failed(conformance.load(f"{sample}:Mine")) == {}
    assert "training output" in failed(conformance.load(f"{sample}:Wrong"))
    assert conformance.load("torch.nn:BatchNorm1d") is nn.BatchNorm1d
    sample.rename(sample.with_name("a_readers_layers.py"))
    monkeypatch.chdir(sample.parent)
    assert conformance.load("a_readers_layers:Mine")(3).weight.shape == (3,)


def test_a_file_that_imports_its_neighbour(sample):
    other = sample.with_name("other.py")
    other.write_text("from mine import Mine as Theirs\n")
    assert conformance.load(f"{other}:Theirs")(2).bias.shape == (2,)


@pytest.mark.parametrize(
    ("target", "says"),
    [
        ("torch.nn", "must be given as MODULE:CLASS or PATH.py:CLASS.*found 'torch.nn'"),
        (":BatchNorm", "found ':BatchNorm'"),
        ("torch.nn:", "found 'torch.nn:'"),
        ("nowhere.py:Mine", "nowhere.py must be a Python file, found none at /"),
        ("no_such_module_of_ours:Mine", "could not be imported: ModuleNotFoundError"),
        ("{}:Absent", "must have a class Absent, found no such name. Its layers: Mine, "),
        ("{}:number", "must have a class number, found a int"),
        ("{}:TwoArguments", r"TwoArguments\(4\) raised TypeError: .*'eps'"),
        ("{}:NotALayer", "must make a torch.nn.Module, NotALayer.4. made a NotALayer"),
    ],
)
def test_a_layer_that_cannot_be_found(sample, target, says):
    with pytest.raises(BnbookError, match=says):
        conformance.load(target.format(sample))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("def f(:\n", "SyntaxError: "),
        ("import sys; sys.exit(3)\n", "SystemExit: 3"),
        ("raise ValueError('one\\ntwo')\n", "ValueError: one$"),
    ],
)
def test_a_file_that_cannot_be_run(sample, text, says):
    sample.write_text(text)
    with pytest.raises(BnbookError, match=says):
        conformance.load(f"{sample}:Mine")


# The command


def invoke(target):
    app = typer.Typer()
    app.command()(command)
    return CliRunner().invoke(app, [str(target)])


@pytest.mark.parametrize(
    ("target", "inputs"),
    {
        "torch.nn:BatchNorm1d": "(7, 4), (5, 4, 3)",
        "torch.nn:BatchNorm2d": "(3, 4, 2, 5)",
        "bnbook.layers.norm:BatchNorm": "(7, 4), (5, 4, 3), (3, 4, 2, 5)",
        "bnbook.layers.norm:FusedBatchNorm": "(7, 4), (5, 4, 3), (3, 4, 2, 5)",
        "bnbook.layers.norm:LeanBatchNorm": "(7, 4), (5, 4, 3), (3, 4, 2, 5)",
    }.items(),
)
def test_the_command_passes_a_right_layer(target, inputs):
    result = invoke(target)
    assert result.exit_code == 0
    assert f"all 20 checks pass, on inputs {inputs}" in " ".join(result.output.split())
    assert "FAIL" not in result.output


def test_the_command_takes_a_readers_file(sample):
    right, wrong = (invoke(f"{sample}:{name}") for name in ("Mine", "Wrong"))
    assert (right.exit_code, wrong.exit_code) == (0, 1)
    assert "FAIL" in wrong.output
    assert isinstance(invoke(f"{sample}:Absent").exception, BnbookError)


@pytest.mark.parametrize("target", ["torch.nn:LayerNorm", "bnbook.layers.norm:InstanceNorm"])
def test_other_normalisations_do_not_pass_for_batch_normalisation(target):
    assert invoke(target).exit_code == 1


def test_the_command_exits_with_1_for_a_mutant():
    result = invoke("bnbook.conformance.mutants:BiasedRunningVariance")
    assert result.exit_code == 1
    assert result.output.count("FAIL") == 1
    assert "1 of 20 checks fail: running variance" in result.output


def test_the_command_says_what_was_not_found():
    result = invoke("torch.nn:BatchNorm5d")
    assert isinstance(result.exception, BnbookError)
