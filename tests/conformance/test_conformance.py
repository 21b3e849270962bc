"""The conformance checks: right layers pass, every mutant fails where it is wrong."""

import sys
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

MEANT = {
    "training output": ["PooledStatistics", "PositionsApart", "UnbiasedNormalisation"],
    "features apart": ["PooledStatistics"],
    "eps inside the root": ["EpsOutsideTheRoot", "EpsAddedOnlyWhereNeeded", "EpsSquared",
                            "VarianceHasAFloor"],
    "large mean in float32": ["OnePassVariance"],
    "precision": ["Float32Inside", "Float32InEvaluation", "AveragesStayInFloat32"],
    "half precision": ["StatisticsInFloat16", "Float32Out", "ThroughFloat16",
                       "AveragesRoundTooEarly"],
    "lengths alike": ["ChannelsFoundByLength", "ChannelsLastByLength"],
    "other numbers of features": ["SixteenFeaturesAtMost", "OneFeatureSqueezed",
                                  "FeaturesInPairs"],
    "large minibatches": ["FirstEight", "EverySecondPosition", "BatchesOfThirtyTwo",
                          "OutliersClipped", "MeanMovesAloneInLargeBatches"],
    "scale of zero and below": ["MagnitudeOfScale", "ScaleNotBelowZero", "ZeroScaleIsOne",
                                "NormalisedFromTheOutput"],
    "no history in training": ["HistoryInTraining", "FarAverageClipped"],
    "one image": ["RunningStatisticsForOneImage"],
    "input gradient": ["DetachedStatistics", "DetachedVariance", "InputGradientTwice",
                       "NoInputGradient", "GradientOfTheUnbiasedVariance", "GradientClipped"],
    conformance.TRAP: ["DetachedStatistics"],
    "weight gradient": ["WeightGradientWithoutNormalisation", "GradientSummed",
                        "GradientsAveraged", "ScaleIsFrozen"],
    "bias gradient": ["BiasGradientOverTheWrongAxis", "GradientSummed", "GradientsAveraged"],
    "gradient where eps counts": ["GradientWithoutEps"],
    "second derivatives": ["SecondDerivativeLeftOut", "ConstantsInTheSecondDerivative"],
    "two calls, two backward passes": ["BackwardSpendsWhatItKept", "KeptOnTheLayer",
                                       "CotangentOverwritten"],
    "memory layout": ["ContiguousInputsOnly", "MemoryReadInOrder", "CotangentReadInOrder"],
    "initial state": ["RunningVarianceFromZero"],
    "parameters and buffers": ["AveragesArePlainAttributes", "AveragesNotSaved",
                               "CounterNotSaved", "AveragesAreParameters",
                               "AveragesRequireGradients", "ScaleIsABuffer",
                               "ShiftIsAPlainTensor", "ScaleIsFrozen", "CounterInFloatingPoint",
                               "AveragesStayInFloat32"],
    "layers apart": ["AverageSharedByAllLayers", "CopiesShareTheirAverages"],
    "saved and loaded": ["LoadingLeavesTheAverages", "PicklesForgetTheAverages",
                         "AveragesNotSaved", "CounterNotSaved"],
    "running mean": ["ReversedMomentum", "OneBatchLate", "OutputsTracked"],
    "running variance": ["BiasedRunningVariance", "StandardDeviationsAveraged",
                         "VarianceAboutTheRunningMean", "BesselOverExamples", "MovesTwice",
                         "FirstBatchTakenWhole", "MovesInTheBackwardPass",
                         "StandsStillWithoutAnInputGradient"],
    "batches counted": ["CountsNoBatches", "CountsExamples"],
    "long run": ["CounterOfOneByte", "MomentumFadesAfterTwenty", "StandsStillAfterAHundred"],
    "momentum given": ["ZeroMomentumIsTheDefault", "NoMomentumIsTheDefault",
                       "NoMomentumStandsStill", "NoMomentumCountsFromTwo", "MomentumIsFixed"],
    "eps given": ["EpsIsFixed", "EpsIsFixedInEvaluation"],
    "statistics without gradients": ["StandsStillWithoutGradients", "AveragesKeepTheGraph",
                                     "StandsStillWithoutAnInputGradient"],
    "evaluation output": ["BatchStatisticsAtTestTime", "UnbiasedInEvaluation"],
    "batch mates": ["BatchStatisticsAtTestTime", "UnbiasedInEvaluation"],
    "evaluation gradient": ["ModeFromAutograd", "BatchStatisticsAtTestTime"],
    "evaluation gradients of weight and bias": ["NoGradientsInEvaluation",
                                                "RawWeightGradientInEvaluation"],
    "evaluation after more training": ["OnlyItsOwnEval", "EvaluationRemembered",
                                       "TrainStartsAfresh", "ModeOfTheFirstCall"],
    "evaluation leaves the state": ["StatisticsMoveInEvaluation"],
    "train() and eval() decide": ["ModeFromAutograd"],
    "one value of a feature": ["OneValueAccepted"],
    "input and outputs untouched": ["InPlace", "InPlaceInEvaluation", "OutputsOverwritten"],
    "torch as it was": ["GradientsLeftOff", "DrawsRandomNumbers"],
}  # fmt: skip
"""Check -> the mutants that it is meant to catch."""

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
        given, x = x.dtype, x.to(torch.promote_types(x.dtype, torch.float32))
        if self.training:
            if len(x) < 2:
                raise ValueError("one value")
            var, mean = torch.var_mean(x, 0, correction=0)
            with torch.no_grad():
                self.running_mean.copy_(0.9 * self.running_mean + 0.1 * mean)
                self.running_var.copy_(0.9 * self.running_var + 0.1 * x.var(0))
                self.num_batches_tracked += 1
        else:
            mean, var = self.running_mean, self.running_var
        return (self.weight * (x - mean) / torch.sqrt(var + 1e-5) + self.bias).to(given)

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
    assert len(set(names)) == len(names) == 41
    assert all(check.holds and check.test.__doc__ for check in conformance.CHECKS)
    assert set(MEANT) == set(names), "every check is meant to catch something"


def test_there_are_twice_as_many_mutants_as_checks():
    assert len(set(mutants.MUTANTS)) == len(mutants.MUTANTS) == 106
    assert len(mutants.MUTANTS) >= 2 * len(conformance.CHECKS)
    assert {name for caught in MEANT.values() for name in caught} == {
        mutant.__name__ for mutant in mutants.MUTANTS
    }, "every mutant is meant to be caught by name"


@pytest.mark.parametrize("check", MEANT)
def test_every_check_catches_the_mutants_that_it_is_meant_to(table, check):
    caught = set(table.index[table[check]])
    assert set(MEANT[check]) <= caught


def test_mutants_are_wrong_in_what_they_say_and_in_no_other_way(table):
    """What one check alone catches; without it the bug would be through."""
    alone = table.index[table.sum(axis=1) == 1]
    found = {name: table.columns[table.loc[name]][0] for name in alone}
    assert all(name in MEANT[check] for name, check in found.items())
    assert len(found) > 40
    assert list(table.columns) == [check.name for check in conformance.CHECKS]


def test_outputs_of_the_right_layers_are_those_of_the_mutants_base():
    assert failed(mutants.ByHand) == {}, "the base of the backward passes by hand is right"


def test_a_check_through_a_sum_passes_wrong_gradients(table):
    wrong = set(table.index[table["input gradient"] & ~table["training output"]])
    assert {"DetachedVariance", "InputGradientTwice", "NoInputGradient", "GradientClipped"} < wrong
    # Zero, twice, and without the variance: all pass. Only what also lacks the mean is seen.
    assert set(table.index[table[conformance.TRAP]]) & wrong <= {
        "DetachedStatistics", "ScaleIsFrozen"}  # fmt: skip


@pytest.mark.parametrize("seed", [1, 7])
def test_what_is_caught_does_not_hang_on_the_numbers_drawn(table, seed):
    for mutant in (mutants.DetachedVariance, mutants.OnePassVariance, mutants.PositionsApart):
        found = {result.name for result in conformance.run(mutant, seed) if not result.passed}
        assert found == set(table.columns[table.loc[mutant.__name__]])
    results = [conformance.run(mutants.PooledStatistics, s) for s in (0, seed)]
    texts = [next(r.found for r in found if r.name == "training output") for found in results]
    assert texts[0] != texts[1], "the numbers are others"


def test_what_a_failure_says():
    assert failed(mutants.CountsNoBatches)["batches counted"] == (
        "expected num_batches_tracked = 3, found 0"
    )
    found = failed(mutants.BatchStatisticsAtTestTime)
    assert found["evaluation output"].startswith("expected ")
    assert "; input (7, 4)" in found["evaluation output"]
    assert found["train() and eval() decide"].startswith("eval() with gradients: expected")
    assert (
        "running_mean" in failed(mutants.StatisticsMoveInEvaluation)["evaluation leaves the state"]
    )
    assert failed(mutants.PositionsApart)["training output"].endswith("; input (5, 4, 3)")


class RaisesInEvaluation(mutants.Sample):
    def forward(self, x):
        if not self.training:
            raise RuntimeError("first line\nsecond line")
        return super().forward(x)


class ExitsInEvaluation(mutants.Sample):
    def forward(self, x):
        if not self.training:
            sys.exit(0)
        return super().forward(x)


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


@pytest.mark.parametrize(
    ("layer", "says"),
    [
        (RaisesInEvaluation, "raised RuntimeError: first line"),
        (ExitsInEvaluation, "raised SystemExit: 0"),
    ],
)
def test_a_layer_that_raises_or_exits_fails_with_the_first_line(layer, says):
    found = failed(layer)
    assert found["evaluation output"] == found["batch mates"] == says
    assert "training output" not in found


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (nn.Identity, "must have weight, bias, running_mean, .* found of a Identity: none"),
        (NoBuffers, r"must have running_mean, .* found of a NoBuffers: weight \(4,\), bias"),
        (nn.LayerNorm, "must have running_mean"),
        (OtherShape, "must take one or more of the inputs .* an input .7, 4. has another shape"),
        (lambda c: prune_by_norm(nn.BatchNorm1d(c)), "found them parametrised"),
        (lambda _: nn.BatchNorm1d(3), "must have weight"),
    ],
    ids=["identity", "no buffers", "layer norm", "another shape", "parametrised", "3 features"],
)
def test_what_cannot_be_looked_at_is_one_clear_message(make, says):
    with pytest.raises(BnbookError, match=says):
        conformance.run(make)


def prune_by_norm(layer):
    nn.utils.parametrize.register_parametrization(layer, "weight", nn.Identity())
    return layer


def test_layers_that_lack_what_is_looked_at():
    assert failed(NoGradient)["input gradient"].startswith("expected numbers, found none")
    assert "found nan" in failed(Nowhere)["training output"]
    assert "expected weight = 1" in failed(Zeros)["initial state"]
    assert "num_batches_tracked = 0, found 5" in failed(Started)["initial state"]
    assert "expected torch.float32, found torch.float64" in failed(Doubles)["precision"]


class OtherNames(nn.Module):
    """Right, with names, shapes and an eps of its own, and without a counter."""

    def __init__(self, num_features, epsilon=1e-3):
        super().__init__()
        self.epsilon = epsilon
        self.gamma = nn.Parameter(torch.ones(1, num_features))
        self.beta = nn.Parameter(torch.zeros(1, num_features))
        self.register_buffer("moving_mean", torch.zeros(1, num_features))
        self.register_buffer("moving_var", torch.ones(1, num_features))

    def forward(self, x):
        given, x, m = x.dtype, x.to(torch.promote_types(x.dtype, torch.float32)), len(x)
        mean, var = self.moving_mean, self.moving_var
        if self.training:
            if m < 2:
                raise ValueError("one value")
            mean, var = x.mean(0, keepdim=True), x.var(0, correction=0, keepdim=True)
            with torch.no_grad():
                for old, new in ((self.moving_mean, mean), (self.moving_var, var * m / (m - 1))):
                    old.copy_(old.to(x.dtype).lerp(new, 0.1))
        return (self.gamma * (x - mean) / (var + self.epsilon).sqrt() + self.beta).to(given)


NAMES = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean",
         "running_var": "moving_var", "num_batches_tracked": "", "eps": "epsilon"}  # fmt: skip


def test_a_right_layer_with_other_names_passes_by_its_names():
    assert {r.name for r in conformance.run(OtherNames, names=NAMES) if not r.passed} == set()

    class Wrong(OtherNames):
        def forward(self, x):
            return super().forward(x) + (0 if self.training else 1)

    found = {r.name for r in conformance.run(Wrong, names=NAMES) if not r.passed}
    assert "evaluation output" in found
    assert "training output" not in found


def test_other_names_are_asked_for_with_those_that_there_are():
    with pytest.raises(BnbookError) as error:
        conformance.run(OtherNames)
    assert (
        "--names weight=gamma,bias=beta,running_mean=moving_mean,running_var=moving_var,"
        "num_batches_tracked=,eps=epsilon. An empty name says" in str(error.value)
    )
    with pytest.raises(BnbookError, match=r"names must be among weight, .* found gain"):
        conformance.run(OtherNames, names={"gain": "gamma"})


class ColumnBuffers(mutants.Sample):
    """Buffers and parameters of shape (1, C, 1, 1), as for images."""

    def __init__(self, num_features, **settings):
        super().__init__(num_features, **settings)
        for name in ("weight", "bias"):
            parameter = getattr(self, name)
            parameter.data = parameter.data.view(1, -1, 1, 1)
        for name in ("running_mean", "running_var"):
            setattr(self, name, getattr(self, name).view(1, -1, 1, 1))

    def move(self, average, new):
        super().move(average, new.view_as(average))


class ChannelsLast(mutants.Sample):
    """Right for (N, ..., C); what it takes of the inputs is (N, C)."""

    def forward(self, x):
        return super().forward(x.movedim(-1, 1)).movedim(1, -1)


class OnlyImagesChannelsLast(ChannelsLast):
    def forward(self, x):
        if x.dim() != 4:
            raise ValueError("images only")
        return super().forward(x)


def test_right_layers_of_other_shapes():
    assert failed(ColumnBuffers) == {}
    assert failed(ChannelsLast) == {}
    with pytest.raises(BnbookError, match="features second, found none that it takes"):
        conformance.run(OnlyImagesChannelsLast)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own, while it compiles
def test_a_compiled_layer_passes():
    torch._dynamo.reset()
    found = failed(lambda *a, **k: torch.compile(nn.BatchNorm1d(*a, **k), backend="aot_eager"))
    torch._dynamo.reset()
    assert found == {}


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


def test_a_file_that_imports_its_neighbour(sample, monkeypatch):
    monkeypatch.delitem(sys.modules, "mine", raising=False)  # another file of that name
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

HOSTILE = """
import os, sys, time
from bnbook.conformance.mutants import Sample

class Exits(Sample):
    def forward(self, x):
        sys.exit(0)

class ExitsAtOnce(Sample):
    def forward(self, x):
        if not self.training:
            os._exit(0)
        return super().forward(x)

class ConstructorExits(Sample):
    def __init__(self, num_features):
        sys.exit(0)

class Hangs(Sample):
    def forward(self, x):
        while not self.training:
            time.sleep(1)
        return super().forward(x)

class Prints(Sample):
    def __init__(self, num_features, **settings):
        print("noise" * 1000, flush=True)
        super().__init__(num_features, **settings)
"""


def invoke(target, *options):
    app = typer.Typer()
    app.command()(command)
    return CliRunner().invoke(app, [str(target), *options])


def said(result):
    return " ".join(result.output.split())


@pytest.mark.parametrize(
    ("target", "inputs"),
    {
        "torch.nn:BatchNorm2d": "(3, 4, 2, 5)",
        "bnbook.layers.norm:BatchNorm": "(7, 4), (5, 4, 3), (3, 4, 2, 5)",
    }.items(),
)
def test_the_command_passes_a_right_layer(target, inputs):
    result = invoke(target)
    assert result.exit_code == 0
    assert f"all {len(conformance.CHECKS)} checks pass, on inputs {inputs}" in said(result)
    assert "FAIL" not in result.output


def test_the_command_takes_a_readers_file(sample):
    right, wrong = (invoke(f"{sample}:{name}") for name in ("Mine", "Wrong"))
    assert (right.exit_code, wrong.exit_code) == (0, 1)
    assert "FAIL" in wrong.output
    assert isinstance(invoke(f"{sample}:Absent").exception, BnbookError)


def test_the_command_takes_a_layers_own_names(tmp_path):
    path = tmp_path / "theirs.py"
    path.write_text("from tests.conformance.test_conformance import OtherNames\n")
    names = ",".join(f"{role}={own}" for role, own in NAMES.items())
    assert invoke(f"{path}:OtherNames", "--names", names).exit_code == 0
    refused = invoke(f"{path}:OtherNames")
    assert isinstance(refused.exception, BnbookError)
    assert "--names weight=gamma,bias=beta" in str(refused.exception)
    assert "pairs such as" in str(invoke(f"{path}:OtherNames", "--names", "gamma").exception)


def test_other_normalisations_do_not_pass_for_batch_normalisation():
    assert isinstance(invoke("torch.nn:LayerNorm").exception, BnbookError)


def test_the_command_exits_with_1_for_a_mutant():
    result = invoke("bnbook.conformance.mutants:CounterOfOneByte")
    assert result.exit_code == 1
    assert result.output.count("FAIL") == 1
    assert f"1 of {len(conformance.CHECKS)} checks fail: long run" in said(result)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("Exits", "the process ended with status 0 while looking which inputs it takes"),
        ("ExitsAtOnce", "the process ended with status 0 while checking 'precision'"),
        ("Hangs", "the time limit of 12 s was reached while checking 'precision'"),
    ],
)
def test_anything_but_a_finished_report_is_a_failure(tmp_path, name, says):
    path = tmp_path / "hostile.py"
    path.write_text(HOSTILE)
    limit = ("--limit", "12") if "Hangs" in name else ()
    result = invoke(f"{path}:{name}", *limit)
    assert result.exit_code == 1
    assert "not finished, which counts as a failure: " in said(result)
    assert says in said(result)


def test_a_constructor_that_exits_or_prints_is_survived(tmp_path):
    path = tmp_path / "hostile.py"
    path.write_text(HOSTILE)
    exits = invoke(f"{path}:ConstructorExits")
    assert isinstance(exits.exception, BnbookError)
    assert "ConstructorExits(4) raised SystemExit: 0" in str(exits.exception)
    prints = invoke(f"{path}:Prints")
    assert prints.exit_code == 0
    assert "noise" not in prints.output


def test_the_command_says_what_was_not_found():
    result = invoke("torch.nn:BatchNorm5d")
    assert isinstance(result.exception, BnbookError)
