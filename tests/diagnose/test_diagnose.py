"""What `diagnose` leaves alone, what it costs, and which layers it takes."""

import copy
import math
import random
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from bnbook.diagnose import diagnose, layers, passes, planted
from bnbook.errors import BnbookError
from bnbook.layers import norm


def plain(make=nn.BatchNorm1d, width=8, depth=2, **options):
    """A small network whose statistics fit."""
    torch.manual_seed(0)
    model = nn.Sequential()
    for _ in range(depth):
        model.extend([nn.Linear(width, width, bias=False), make(width, **options), nn.ReLU()])
    return model.append(nn.Linear(width, 3))


def draws(batches=8, size=32, width=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [(torch.randn(size, width, generator=generator),
             torch.randint(3, (size,), generator=generator)) for _ in range(batches)]  # fmt: skip


def settled(model, batches):
    """Run the model in training until its running statistics have forgotten their start."""
    was = model.training
    model.train()
    for _ in range(12):
        for x, *_ in batches:
            model(x)
    return model.train(was)


def numpys_state():
    return np.random.get_state()[1].copy()  # noqa: NPY002


def kinds(report):
    return [finding.kind for finding in report.findings]


def state(model):
    tensors = {n: t.clone() for n, t in model.state_dict(keep_vars=False).items()}
    grads = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
    return tensors, grads, [m.training for m in model.modules()]


def same(one, other):
    assert one[0].keys() == other[0].keys()
    assert all(torch.equal(one[0][n].nan_to_num(7), other[0][n].nan_to_num(7)) for n in one[0])
    for a, b in zip(one[1], other[1], strict=True):
        assert (a is None and b is None) or torch.equal(a, b)
    assert one[2] == other[2]


class Replacing(nn.Module):
    """Keeps its statistics by putting new tensors in the place of the old."""

    def __init__(self, features):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(features))
        self.bias = nn.Parameter(torch.zeros(features))
        self.register_buffer("running_mean", torch.zeros(features))
        self.register_buffer("running_var", torch.ones(features))

    def forward(self, x):
        mean, var = x.mean(0), x.var(0, correction=0)
        if self.training:
            self.running_mean = 0.9 * self.running_mean + 0.1 * mean.detach()
            self.running_var = 0.9 * self.running_var + 0.1 * var.detach()
        else:
            mean, var = self.running_mean, self.running_var
        return self.weight * (x - mean) / torch.sqrt(var + 1e-5) + self.bias


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("make", [nn.BatchNorm1d, norm.BatchNorm, nn.SyncBatchNorm, Replacing])
def test_the_model_is_afterwards_what_it_was(make, training):
    model = plain(make)
    model.insert(3, nn.Dropout(0.3))
    batches = draws()
    F.cross_entropy(model(batches[0][0]), batches[0][1]).backward()
    model.train(training)
    model[4].eval()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=0.1)
    before, settings = state(model), copy.deepcopy(optimizer.state_dict())
    buffers = dict(model.named_buffers())
    inputs = [x.clone() for x, _ in batches]
    generators = torch.get_rng_state(), numpys_state(), random.getstate()
    diagnose(model, batches, F.cross_entropy, optimizer)
    same(before, state(model))
    assert all(dict(model.named_buffers())[n] is b for n, b in buffers.items())
    assert torch.equal(generators[0], torch.get_rng_state())
    assert np.array_equal(generators[1], numpys_state())
    assert generators[2] == random.getstate()
    assert all(torch.equal(a, b) for a, (b, _) in zip(inputs, batches, strict=True))
    assert optimizer.state_dict() == settings
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_a_model_that_fails_half_way_is_what_it_was():
    class Third(nn.Module):
        count = 0

        def forward(self, x):
            type(self).count += 1
            if type(self).count == 3:
                raise RuntimeError("third batch")
            return x

    model = nn.Sequential(*plain(), Third())
    before, generator = state(model), torch.get_rng_state()
    with pytest.raises(BnbookError, match=r"RuntimeError: third batch.*as it was"):
        diagnose(model, draws())
    same(before, state(model))
    assert torch.equal(generator, torch.get_rng_state())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_a_loaders_own_generator_and_order_stay():
    x, y = (torch.cat(part) for part in zip(*draws(), strict=True))
    loader = DataLoader(TensorDataset(x, y), 32, shuffle=True,
                        generator=torch.Generator().manual_seed(3))  # fmt: skip
    before = loader.generator.get_state()
    diagnose(settled(plain(), draws()), loader)
    assert torch.equal(before, loader.generator.get_state())


@pytest.mark.parametrize("count", [1, 2, 3, 4, 16])
@pytest.mark.parametrize("depth", [2, 40])
def test_fewer_than_thirty_passes(count, depth):
    model, batches = plain(depth=depth), draws(count)
    calls = []
    model.register_forward_pre_hook(lambda _, given: calls.append(len(given[0])))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    report = diagnose(model, batches, F.cross_entropy, optimizer)
    made = sum(calls) / (32 * count)
    assert report.passes == made
    assert made < 30


def test_the_limit_is_kept():
    given = iter(draws(100))
    report = diagnose(plain(), given, limit=5)
    assert (report.batches, report.examples) == (5, 160)
    assert len(list(given)) == 95


@pytest.mark.parametrize(
    "make",
    [nn.BatchNorm1d, nn.SyncBatchNorm, norm.BatchNorm, norm.FusedBatchNorm, norm.LeanBatchNorm],
)
def test_layers_of_torch_and_ours_give_the_same_numbers(make):
    batches = draws()
    ours, theirs = (diagnose(settled(plain(m), batches), batches, F.cross_entropy)
                    for m in (make, nn.BatchNorm1d))  # fmt: skip
    assert kinds(ours) == kinds(theirs) == []
    for one, other in zip(ours.layers, theirs.layers, strict=True):
        for name in ("worth", "mean_off", "variance_off", "spread", "gradient"):
            assert getattr(one, name) == pytest.approx(getattr(other, name), rel=1e-3)


class WithActivation(nn.BatchNorm2d):
    """Normalises by a call of its own, and rectifies."""

    def forward(self, x):
        if self.training:
            self.num_batches_tracked.add_(1)
        statistics = self.running_mean, self.running_var
        y = F.batch_norm(x, *statistics, self.weight, self.bias, self.training, self.momentum)
        return F.relu(y)


class Fixed(nn.Module):
    """Frozen: four buffers and no parameter."""

    def __init__(self, features):
        super().__init__()
        for name, start in (("weight", 1.0), ("bias", 0.0), ("running_mean", 0.0),
                            ("running_var", 1.0)):  # fmt: skip
            self.register_buffer(name, torch.full((features,), start))

    def forward(self, x):
        scale = self.weight * (self.running_var + 1e-5).rsqrt()
        return x * scale[:, None, None] + (self.bias - self.running_mean * scale)[:, None, None]


def test_subclasses_frozen_and_other_layers():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3, bias=False), Fixed(6), nn.ReLU(),
        nn.Conv2d(6, 6, 3, bias=False), WithActivation(6),
        nn.Conv2d(6, 6, 3), nn.GroupNorm(2, 6), nn.InstanceNorm2d(6), nn.ReLU(),
        nn.Flatten(), nn.LayerNorm(24), nn.Linear(24, 3),
    )  # fmt: skip
    batches = [(torch.randn(32, 3, 8, 8), torch.randint(3, (32,))) for _ in range(6)]
    report = diagnose(settled(model, batches), batches, F.cross_entropy)
    assert kinds(report) == []
    assert {row.name: row.use for row in report.layers} == {
        "1": "frozen", "4": "live", "6": "per example", "7": "per example", "10": "per example",
    }  # fmt: skip
    model[4].reset_running_stats()
    model[4].running_var.fill_(0.01)
    (finding,) = diagnose(model, batches, F.cross_entropy).findings
    assert (finding.kind, finding.layer) == ("other statistics", "4")


@pytest.mark.parametrize(
    ("make", "shape"),
    [(nn.BatchNorm1d, (5,)), (nn.BatchNorm2d, (4, 5)), (nn.BatchNorm3d, (2, 3, 4))],
)
def test_positions_of_every_dimension(make, shape):
    model = nn.Sequential(make(4), nn.Flatten(), nn.LazyLinear(2))
    batches = [(torch.randn(16, 4, *shape), None) for _ in range(6)]
    model(batches[0][0])
    report = diagnose(settled(model, batches), batches)
    assert kinds(report) == []
    assert report.layers[0].values == 16 * math.prod(shape)


def test_the_numbers_of_a_layer_have_their_closed_forms():
    """One layer on given inputs: running statistics off by known amounts."""
    layer = nn.BatchNorm1d(4)
    batches = draws(width=4)
    x = torch.cat([x for x, _ in batches]).double()
    mean, var = x.mean(0), x.var(0)
    layer.running_mean.copy_(mean + 2 * var.sqrt())
    layer.running_var.copy_(9 * var)
    layer.num_batches_tracked.fill_(100)
    (row,) = diagnose(layer, batches).layers
    # eps, 1e-5 beside a variance of 1, and float32 buffers
    assert row.mean_off == pytest.approx(2, rel=2e-5)
    assert row.variance_off == pytest.approx(math.log(9), rel=2e-5)
    # (x - mean - 2 s) / 3 s in place of z = (x - mean) / s: off by 2 (1 + z) / 3; two batches tried
    z = torch.stack([(x - mean) / var.sqrt() for x, _ in batches[:2]])
    off, spread = (2 * (1 + z) / 3).square().sum(), (z - z.mean(1, keepdim=True)).square().sum()
    assert row.effect == pytest.approx(float((off / spread).sqrt()), rel=1e-4)


def test_the_sampling_error_is_that_of_independent_draws():
    calls = passes.observe(
        passes.Subject(layer := nn.BatchNorm1d(500), layers.find(layer), given(40), None),
        layers.training_flags(layer),
    )[0][""]
    error = passes.noise(calls)
    # 1/m for the mean, 2/(m - 1) for the log of the variance; averages of 500 channels
    assert float(error.predicted.mean()) == pytest.approx(1 / 16, rel=0.03)
    assert float(error.mean.mean()) == pytest.approx(1 / 16, rel=0.03)
    assert float(error.log_var.mean()) == pytest.approx(2 / 15, rel=0.15)


def given(count, size=16, width=500):
    return passes.take([x for x, _ in draws(count, size, width)], count, torch.device("cpu"))


def test_dicts_and_tuples_pass():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = plain()

        def forward(self, first, second):
            return {"logits": self.body(first + second), "more": 1}

    model = Two()
    named = [{"first": x, "second": torch.zeros_like(x)} for x, _ in draws()]
    settled(model.body, draws())
    assert kinds(diagnose(model, named)) == []
    with_targets = [(batch, y) for batch, (_, y) in zip(named, draws(), strict=True)]
    loss = diagnose(model, with_targets, lambda out, y: F.cross_entropy(out["logits"], y)).losses
    assert all(math.isfinite(value) for value in loss.values())


def test_half_precision_passes():
    model = settled(plain(), draws()).bfloat16()
    report = diagnose(model, [(x.bfloat16(), y) for x, y in draws()], F.cross_entropy)
    assert kinds(report) == []


def test_a_deep_chain_without_skips_shows_its_gradients():
    model = plain(depth=60, width=32)
    batches = draws(width=32)
    report = diagnose(settled(model, batches), batches, F.cross_entropy)
    (finding,) = [f for f in report.findings if f.kind == "scale jumps"]
    assert "gradients" in finding.found
    assert finding.layer == "178"  # the median lies half-way, in the logarithm
    first, last = report.layers[0].gradient, report.layers[-1].gradient
    # Yang et al. 2019: the squared gradient grows by pi / (pi - 1) a layer, to leading order
    assert (first / last) ** (2 / 59) == pytest.approx(math.pi / (math.pi - 1), rel=0.1)


def test_the_edge_of_a_quadratic():
    """Along the gradient of w^2 the loss falls for steps below 1."""

    class Square(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.tensor([3.0]))
            self.norm = nn.BatchNorm1d(2)

        def forward(self, x):
            return 0 * self.norm(x).sum() + self.w**2

    model = settled(Square(), draws(width=2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2)
    report = diagnose(model, draws(width=2), lambda out, _: out.sum(), optimizer)
    assert report.edge == pytest.approx(1, rel=1)  # between 0.8 and 3.2, halved once
    assert 0.8 < report.edge < 3.2
    optimizer.param_groups[0]["lr"] = 20
    (finding,) = diagnose(model, draws(width=2), lambda out, _: out.sum(), optimizer).findings
    assert finding.kind == "rate over the edge"


def test_the_last_batch_of_a_loader_is_counted():
    x, y = torch.randn(65, 8), torch.zeros(65, dtype=torch.long)
    model = settled(plain(), draws())
    for drop, expected in ((False, ["batch of one"]), (True, [])):
        loader = DataLoader(TensorDataset(x, y), 16, drop_last=drop)
        assert kinds(diagnose(model, loader, limit=2)) == expected


@pytest.mark.parametrize(
    ("model", "batches", "said"),
    [
        ("net", draws(), "a torch.nn.Module, found str"),
        (nn.Linear(8, 3), draws(), "found other normalisation: none"),
        (nn.Sequential(nn.Linear(8, 4), nn.LayerNorm(4)), draws(), "normalisation: LayerNorm"),
        (plain(), [], "one batch or more, found none"),
        (plain(), 3, "batches must be iterable, found int"),
        (plain(), ["text"], "found a str without one"),
        (plain(), [torch.randn(4, 5)], "take each batch as model"),
        (nn.Sequential(nn.Linear(8, 3), nn.LazyBatchNorm1d()), draws(), "found 1 lazy"),
    ],
)
def test_errors(model, batches, said):
    with pytest.raises(BnbookError, match=said):
        diagnose(model, batches)


def test_the_limit_must_be_positive():
    with pytest.raises(BnbookError, match="limit must be at least 1, found 0"):
        diagnose(plain(), draws(), limit=0)


@pytest.mark.gpu
def test_a_network_on_a_gpu_with_batches_in_memory():
    batches = draws()
    model = settled(plain(), batches)
    model[4].running_mean.add_(5)
    there = diagnose(copy.deepcopy(model).cuda(), batches, F.cross_entropy)
    here = diagnose(model, batches, F.cross_entropy)
    assert kinds(there) == kinds(here) == ["other statistics"]
    assert there.layers[1].effect == pytest.approx(here.layers[1].effect, rel=1e-3)


def test_the_example_of_the_docstring():
    import doctest
    import importlib

    torch.manual_seed(0)
    found = doctest.testmod(importlib.import_module("bnbook.diagnose"))
    assert (found.failed, found.attempted) == (0, 2)


PEAK = """
import pathlib, re, sys, torch
from torch.nn import functional as F
from bnbook.diagnose import diagnose, planted
def peak():  # of this process alone, in kB; getrusage's begins with that of who started it
    return int(re.search(r"VmHWM:\\s+(\\d+)", pathlib.Path("/proc/self/status").read_text())[1])
torch.set_num_threads(1); torch.manual_seed(0)
model = planted.resnet18()
batches = [(torch.randn(128, 3, 64, 64), torch.randint(10, (128,))) for _ in range(2)]
optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
with torch.no_grad():
    model(batches[0][0][:2])
start = peak()
if sys.argv[1] == "step":
    for x, y in batches:
        F.cross_entropy(model(x), y).backward(); optimizer.step(); optimizer.zero_grad()
else:
    diagnose(model, batches, F.cross_entropy, optimizer)
print(peak() - start)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no /proc: Linux alone has it")
def test_memory_is_at_most_twice_a_training_steps():
    step, whole = (
        int(subprocess.run([sys.executable, "-c", PEAK, what], check=True, capture_output=True,
                           text=True).stdout)
        for what in ("step", "diagnose")
    )  # fmt: skip
    assert whole < 2 * step, f"{whole / step:.2f} times a training step's"


@pytest.mark.slow
def test_resnet_18_takes_less_than_a_minute():
    torch.manual_seed(0)
    model = planted.resnet18()
    batches = [(torch.randn(128, 3, 32, 32), torch.randint(10, (128,))) for _ in range(4)]
    began = resource.getrusage(resource.RUSAGE_SELF).ru_utime
    report = diagnose(model, batches, F.cross_entropy, torch.optim.SGD(model.parameters(), 0.01))
    assert report.passes < 30
    assert resource.getrusage(resource.RUSAGE_SELF).ru_utime - began < 120  # of two cores, a minute


def _refused(*_):
    raise ValueError("targets must be one-hot")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"loss": _refused}, "loss must take .* raised ValueError: targets must be one-hot"),
        ({"loss": lambda *_: 1.0}, "loss must .* returned a float"),
        ({"loss": lambda out, _: out}, r"loss must .* returned a tensor of \(32, 3\)"),
        ({"loss": "mse"}, r"loss must be callable as loss\(outputs, targets\), found str"),
        ({"optimizer": 0.1}, "optimizer must be a torch.optim.Optimizer or None, found float"),
    ],
)
def test_a_faulty_loss_or_optimizer_is_not_the_models_fault(options, said):
    model = plain()
    before = state(model)
    with pytest.raises(BnbookError, match=said) as raised:
        diagnose(model, draws(), **options)
    assert "the model must" not in str(raised.value)
    same(before, state(model))


@pytest.mark.parametrize("skips", [0, 12])
def test_passes_that_ask_whether_biases_have_an_effect_are_few(skips):
    class Stage(nn.Module):
        def __init__(self, skip):
            super().__init__()
            self.linear, self.norm, self.skip = nn.Linear(8, 8), nn.BatchNorm1d(8), skip

        def forward(self, x):
            x = self.linear(x)
            return self.norm(x).relu() + (x if self.skip else 0)

    torch.manual_seed(0)
    stages = [Stage(skip=number >= 24 - skips) for number in range(24)]
    model, batches = nn.Sequential(*stages, nn.Linear(8, 3)), draws(16)
    report = diagnose(model, batches)
    (finding,) = [f for f in report.findings if f.kind == "bias cancelled"]
    # what the skips carry is subtracted by no layer, and reaches the outputs
    assert finding.value == 8 * (24 - skips)
    assert report.passes < 12
