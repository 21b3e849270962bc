"""Steps of residual networks by the kernels: against autograd, in training, interrupted."""

import copy
import functools
import math

import pytest
import torch
from torch import nn

from bnbook.layers import ensemble, norm, outside, partial, renorm, synchronised
from bnbook.networks import models, placed, unnormalised
from bnbook.probes import measurements
from bnbook.training import deep, fit, kernels, steps
from bnbook.training.descent import SGD
from bnbook.training.session import OutOfTimeError, Plan, Session

needs_compiler = pytest.mark.skipif(kernels.compiler() is None, reason="no C++ compiler")
LOSS = ensemble.cross_entropy
ARMS = {"with BN": norm.FusedBatchNorm, "without": None}
each_arm = pytest.mark.parametrize("make", ARMS.values(), ids=list(ARMS))
each_precision = pytest.mark.parametrize("precision", ["float32", "bfloat16"])


def network(make, n=1, **sizes):
    """A network whose biases, scales and shifts are not those of the start."""
    made = models.ResNet(make, (3,), n=n, **sizes)
    generator = torch.Generator().manual_seed(1)
    for p in made.parameters():
        if p.dim() < 5:
            p.data += 0.3 * torch.randn(p.shape, generator=generator)
    return made


def batch(n=6, size=(9, 8)):
    generator = torch.Generator().manual_seed(2)
    images = torch.randn(n, 3, *size, generator=generator)
    return images, torch.randint(10, (n,), generator=generator)


def plan(precision="bfloat16"):
    return Plan(precision=precision, compiled=True, channels_last=True)


def differentiated(model, x, y, precision):
    """Gradients by autograd: of float64, or of autocast where the precision is bfloat16."""
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
        scores = model(x)
    loss = LOSS(scores.float() if precision == "bfloat16" else scores, y).sum()
    return [loss.detach(), *torch.autograd.grad(loss, list(model.parameters()))]


@needs_compiler
@each_arm
@each_precision
def test_gradients_are_as_near_to_float64_as_those_of_autograd(make, precision):
    """Each parameter's within four times the error of torch's own kernels in the same precision,
    or the median parameter's error where torch's happens to be small.
    """
    x, y = batch()
    model = network(make, n=2)
    exact = differentiated(copy.deepcopy(model).double(), x.double(), y, "float64")
    theirs = differentiated(copy.deepcopy(model), x, y, precision)
    step = deep.DeepStep(model, LOSS, SGD([0.1]), precision)
    ours = [step.differentiate(x, y)[0], *map(step.gradient.of, model.parameters())]

    def errors(found):
        return torch.tensor([(f - e).norm() / e.norm() for f, e in zip(found, exact, strict=True)])

    allowed = 4 * errors(theirs).clamp(min=errors(theirs)[1:].median().item())
    assert (errors(ours) <= allowed).all()


@needs_compiler
@each_arm
def test_steps_are_those_of_autograd(make):
    """Momentum, decay, a schedule and clipping; two steps in float32, statistics moved."""
    x, y = batch()
    settings = SGD([0.05], momentum=0.9, weight_decay=0.01, clip_norm=2.0)
    ours, theirs = network(make), network(make)
    one = steps.choose(ours, LOSS, settings, plan("float32"))
    other = steps.AutogradStep(theirs, LOSS, settings)
    assert isinstance(one, deep.DeepStep)
    for factor in (torch.tensor(1.0), torch.tensor(0.1)):
        torch.testing.assert_close(one(x, y, factor), other(x, y, factor), rtol=1e-5, atol=1e-6)
    state = theirs.state_dict()
    for name, value in ours.state_dict().items():
        torch.testing.assert_close(value, state[name], rtol=1e-4, atol=1e-5)


@needs_compiler
def test_updates_below_the_resolution_of_bfloat16_add_up():
    """Decay takes 10^-4 of each weight a step, an eighth of half the spacing of bfloat16."""
    model = network(norm.FusedBatchNorm)
    before = [p.detach().clone() for p in model.parameters()]

    def loss(outputs, labels):
        return 0 * outputs.sum((0, 2))

    step = deep.DeepStep(model, loss, SGD([0.1], weight_decay=1e-3), "bfloat16")
    count = 100
    for _ in range(count):
        step(*batch())
    for old, new in zip(before, model.parameters(), strict=True):
        torch.testing.assert_close(new, old * (1 - 1e-4) ** count, rtol=2 * count * 6e-8, atol=0)


class Stopped(Session):
    """A session whose time is up from the 70th look at the clock on."""

    def out_of_time(self):
        looks = self.__dict__.setdefault("looks", [])
        looks.append(1)
        return len(looks) >= 70


def trained(make, session, precision="bfloat16", rate=0.05, n=120):
    torch.manual_seed(0)
    images, labels = torch.randn(40, 3, 8, 8), torch.randint(10, (40,))
    model = network(make)
    batches = fit.minibatches(40, 8, n, seed=0)
    rows = fit.fit(
        model, images, labels, batches, SGD([rate], momentum=0.9), LOSS,
        probes=[lambda: {"accuracy": measurements.accuracy(model, images, labels)}],
        at=[0, n // 2, n], session=session,
    )  # fmt: skip
    return rows, model.state_dict()


@needs_compiler
@each_arm
def test_an_interrupted_run_ends_with_the_same_bits(make, tmp_path):
    whole, state = trained(make, Session(plan=plan()))
    kept = {"plan": plan(), "checkpoint": tmp_path / "half", "interval": 1e9}
    with pytest.raises(OutOfTimeError, match="of 120 steps"):
        trained(make, Stopped(**kept))
    again, found = trained(make, Session(**kept))
    for row, other in zip(whole, again, strict=True):
        assert all(torch.equal(row[k].nan_to_num(-1), other[k].nan_to_num(-1)) for k in row)
    assert all(torch.equal(found[name], value) for name, value in state.items())
    assert whole[-1]["loss"] < whole[1]["loss"]


@needs_compiler
@each_precision
def test_a_run_that_diverges_is_seen(precision):
    rows, _ = trained(None, Session(plan=plan(precision)), precision, rate=1e6)
    assert 0 < rows[-1]["diverged_at"].item() <= 20
    assert not math.isfinite(rows[-1]["loss"].item())


@needs_compiler
@each_arm
@each_precision
def test_scores_in_evaluation_mode(make, precision):
    """Of more images than go at once, of another size than the training's; gradients as ever."""
    model = network(make, n=2)
    step = deep.DeepStep(model, LOSS, SGD([0.0]), precision)
    step(*batch(16))
    model.eval()
    x = torch.randn(deep._AT_ONCE + 3, 3, 7, 10)
    exact = copy.deepcopy(model).double()(x.double()).detach()
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"), torch.no_grad():
        theirs = model(x)
    with step.evaluating(), torch.no_grad():
        ours = model(x)
        counted = []
        hook = model.stem.register_forward_hook(lambda *_: counted.append(1))
        model(x[:2])
        hook.remove()
    assert counted == [1]
    allowed = 4 * (theirs - exact).norm()
    assert 0 < (ours - exact).norm() <= allowed
    with step.evaluating():
        assert model(x[:2]).requires_grad
    assert "forward" not in vars(model)


@needs_compiler
def test_memory_follows_the_batch():
    """Batches of other sizes in turn are each their own."""
    step = deep.DeepStep(network(None), LOSS, SGD([0.0]), "float32")
    large, small = batch(8), batch(8)
    small = (small[0][:3, :, :5], small[1][:3])
    first = step(*large), step.gradient.flat.clone()
    step(*small)
    again = step(*large), step.gradient.flat
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    own = step(large[0][None], large[1][None])
    assert torch.equal(own, first[0])


def chosen(model, plan=plan(), **settings):  # noqa: B008
    return type(steps.choose(model, LOSS, SGD([0.1] * model.members, **settings), plan))


def without_running(num_features):
    return norm.FusedBatchNorm(num_features, track_running_stats=False)


def group(num_features):
    return norm.make_norm("group", num_features, members=1)


@needs_compiler
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_which_networks_and_plans_the_kernels_serve(monkeypatch):
    made = steps.AutogradStep
    compiled = []
    monkeypatch.setattr(torch, "compile", lambda model: compiled.append(1) or model)
    for make in (norm.FusedBatchNorm, norm.BatchNorm, norm.LeanBatchNorm, None):
        assert chosen(network(make)) is deep.DeepStep
        assert chosen(network(make), plan("float32")) is deep.DeepStep
    model = network(norm.FusedBatchNorm)
    for other in (Plan(), Plan(compiled=True), Plan(channels_last=True, precision="bfloat16")):
        assert chosen(model, other) is made
    assert chosen(model, weights_only=True) is made
    elsewhere = network(None)
    elsewhere.stem = nn.Sequential(elsewhere.stem)
    for refused in (
        models.ResNet(norm.FusedBatchNorm, (0, 1), n=1),
        models.ResNet(norm.FusedBatchNorm, (0,), n=1, widths=(8, 16, 32)),
        models.ResNet(norm.FusedBatchNorm, (0,), n=1, last_only=True),
        models.ResNet(norm.FusedBatchNorm, (0,), n=1, in_channels=17),
        models.ResNet(norm.FusedBatchNorm, (0,), n=1).double(),
        network(without_running),
        network(group),
        placed.PlacedResNet(norm.FusedBatchNorm, (0,), (1, 2), n=1),
        unnormalised.SkipInitResNet((0,), n=1),
        unnormalised.FixupResNet((0,), n=1),
        models.ConvNet(norm.FusedBatchNorm, (0,)),
        elsewhere,
    ):
        assert chosen(refused) is made
    assert compiled


@pytest.mark.parametrize("plain", [norm.BatchNorm, norm.FusedBatchNorm, norm.LeanBatchNorm])
def test_the_kernels_serve_plain_batch_normalisation(plain):
    assert deep.applies(network(plain), SGD([0.1]))


class Own(norm.BatchNorm):
    """A reader's, who may compute whatever."""


@pytest.mark.parametrize(
    "other",
    [
        renorm.ReplicaBatchNorm,
        renorm.BatchRenorm,
        functools.partial(renorm.LateFrozenBatchNorm, freeze_at=3),
        functools.partial(synchronised.GhostBatchNorm, parts=2),
        synchronised.SyncBatchNorm,
        outside.BatchNormOutside,
        functools.partial(partial.PartialBatchNorm, fixes=(partial.MEAN,)),
        partial.FrozenBatchNorm,
        Own,
    ],
)
def test_the_kernels_serve_no_layer_that_normalises_otherwise(other):
    assert isinstance(other(4), norm.BatchNorm)
    assert not deep.applies(network(other), SGD([0.1]))


@each_arm
def test_without_a_compiler_autograd_trains_in_the_same_precision(make, monkeypatch):
    """Eager, in bfloat16 and channels-last: what a reader's best loop without a compiler does."""
    monkeypatch.setattr("shutil.which", lambda _: None)
    monkeypatch.setattr(torch, "compile", None)
    model = network(make)
    found = steps.choose(model, LOSS, SGD([0.1]), plan())
    assert isinstance(found, steps.AutogradStep)
    assert found.bfloat16
    rows, _ = trained(make, Session(plan=plan()), n=20)
    assert math.isfinite(rows[-1]["loss"].item())
