"""Which step is chosen, and that every way of computing one gives the same members."""

import math

import pytest
import torch

from bnbook.layers import ensemble
from bnbook.layers.norm import BatchNorm
from bnbook.networks import models
from bnbook.networks.models import MLP
from bnbook.sweeps import planning
from bnbook.training import fit, steps
from bnbook.training.chain import ChainStep
from bnbook.training.descent import SGD, Descent
from bnbook.training.session import Plan, Session

LOSS = ensemble.cross_entropy


def chosen(model, plan=Plan(), **settings):  # noqa: B008
    optimiser = steps.SGD([0.1] * model.members, **settings)
    return type(steps.choose(model, LOSS, optimiser, plan))


def test_the_chain_serves_plain_sgd_in_full_precision():
    model = MLP(BatchNorm, (0, 1), num_inputs=4, hidden=(3,))
    assert chosen(model) is ChainStep
    assert chosen(model, weight_decay=0.0, momentum=[0.0, 0.0]) is ChainStep
    for step in (
        chosen(model, momentum=0.9),
        chosen(model, weight_decay=[0.0, 1e-4]),
        chosen(model, Plan(handwritten=False)),
        chosen(model, Plan(precision="bfloat16")),
        chosen(models.ConvNet(BatchNorm, (0,))),
    ):
        assert step is steps.AutogradStep


def test_settings_of_some_members():
    schedule = torch.arange(6.0).view(2, 3)
    some = steps.SGD([1.0, 2.0, 3.0], [0.1, 0.2, 0.3], 0.5, schedule).of([2, 0])
    assert (some.learning_rate, some.momentum, some.weight_decay) == ([3.0, 1.0], [0.3, 0.1], 0.5)
    assert some.schedule.tolist() == [[2.0, 0.0], [5.0, 3.0]]


def conv_run(plan, device="cpu", steps_=8, members=(0, 1)):
    torch.manual_seed(0)
    images = torch.randn(64, 3, 8, 8).to(device)  # of the CPU's generator: the same everywhere
    labels = torch.randint(0, 10, (64,)).to(device)
    model = models.ConvNet(BatchNorm, members).to(device)
    batches = fit.minibatches(64, 16, steps_, seed=0)
    optimiser = fit.SGD([0.05] * len(members), momentum=0.9, weight_decay=1e-3)
    history = fit.fit(
        model, images, labels, batches, optimiser, LOSS, at=range(1, steps_ + 1),
        session=Session(plan=plan),
    )  # fmt: skip
    return torch.stack([row["loss"] for row in history]).cpu()


@pytest.mark.parametrize("members", [(0,), (0, 1)])
def test_channels_last_changes_nothing_but_the_time(members):
    plain = conv_run(Plan(), members=members)
    torch.testing.assert_close(
        conv_run(Plan(channels_last=True), members=members), plain, rtol=1e-4, atol=1e-5
    )


def test_bfloat16_is_near_and_not_the_same():
    plain, rough = conv_run(Plan()), conv_run(Plan(precision="bfloat16"))
    torch.testing.assert_close(rough, plain, rtol=0.05, atol=0.02)
    assert not torch.equal(rough, plain)
    assert rough.dtype == torch.float32


@pytest.mark.slow
@pytest.mark.skipif(not planning.has_compiler(), reason="no C++ compiler for torch.compile")
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_a_compiled_step_is_the_same_step():
    torch.testing.assert_close(
        conv_run(Plan(compiled=True)), conv_run(Plan()), rtol=1e-4, atol=1e-5
    )


@pytest.mark.gpu
@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "CUDA graph"])
def test_a_gpu_trains_the_same_members(compiled):
    on_gpu = conv_run(Plan(compiled=compiled), "cuda")
    torch.testing.assert_close(on_gpu, conv_run(Plan()), rtol=1e-3, atol=1e-4)


@pytest.fixture
def _deterministic(monkeypatch):
    """Hold cuDNN to convolutions that add up in one order; its others use atomic additions."""
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)


@pytest.mark.gpu
@pytest.mark.usefixtures("_deterministic")
def test_a_graph_is_its_eager_step_bit_by_bit():
    assert torch.equal(conv_run(Plan(compiled=True), "cuda"), conv_run(Plan(), "cuda"))


def one_step(**settings):
    """Two members, their gradients known: the loss of member e is the sum of (e + 1) * weights."""
    model = MLP(BatchNorm, (0, 1), num_inputs=4, hidden=(3,))

    def loss(outputs, labels):
        each = [p.reshape(2, -1).sum(1) for p in model.parameters()]
        return torch.stack(each).sum(0) * torch.tensor([1.0, 2.0]) + 0 * outputs.sum()

    before = [p.detach().clone() for p in model.parameters()]
    step = steps.choose(model, loss, steps.SGD([1.0, 1.0], **settings), Plan())
    step(torch.randn(5, 4), torch.zeros(5, dtype=torch.int64))
    return before, [p.detach() for p in model.parameters()], step


def test_decay_of_weights_only_leaves_biases_and_scales_alone():
    before, after, _ = one_step(weight_decay=0.1, weights_only=True)
    for old, new in zip(before, after, strict=True):
        members = torch.tensor([1.0, 2.0]).repeat_interleave(len(old) // 2)
        gradient = members.view(-1, *(1,) * (old.dim() - 1)).expand_as(old)
        decayed = 0.1 * old if old.dim() > 2 else 0
        torch.testing.assert_close(new, old - gradient - decayed)


def test_decay_of_everything():
    before, after, _ = one_step(weight_decay=0.1)
    change = after[1] - before[1]
    assert before[1].dim() == 1
    expected = -torch.tensor([1.0] * 3 + [2.0] * 3) - 0.1 * before[1]
    torch.testing.assert_close(change, expected)


def test_each_member_is_clipped_by_the_norm_of_its_own_gradient():
    before, after, step = one_step(clip_norm=[3.0, math.inf])
    assert isinstance(step, steps.AutogradStep)
    changes = [(new - old).reshape(2, -1) for old, new in zip(before, after, strict=True)]
    norms = torch.cat(changes, 1).norm(dim=1)
    count = sum(p[0].numel() for p in changes)
    torch.testing.assert_close(norms, torch.tensor([3.0, 2.0 * count**0.5]))
    one = torch.cat(changes, 1)[0]
    torch.testing.assert_close(one, torch.full_like(one, -3.0 / count**0.5))


def test_a_short_gradient_is_not_clipped():
    _, plain, _ = one_step()
    _, clipped, _ = one_step(clip_norm=1e6)
    for one, other in zip(plain, clipped, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


@pytest.mark.parametrize("weight_decay", [0.0, 5e-4])
@pytest.mark.parametrize("clip_norm", [math.inf, 0.5])
def test_the_kernel_that_moves_all_parameters_at_once_moves_them_as_the_loop_does(
    weight_decay, clip_norm
):
    settings = SGD([0.1], momentum=0.9, weight_decay=weight_decay, clip_norm=clip_norm)
    shapes, generator = ((1, 8, 4, 3, 3), (1, 8), (8,)), torch.Generator().manual_seed(0)
    given = [torch.randn(shape, generator=generator) for shape in shapes]
    given[0] = given[0].permute(0, 1, 3, 4, 2).contiguous().permute(0, 1, 4, 2, 3)  # channels last
    one_by_one, at_once = (Descent([p.clone() for p in given], settings) for _ in range(2))
    at_once.at_once = at_once._shared(settings)
    assert at_once.at_once == pytest.approx({"momentum": 0.9, "weight_decay": weight_decay})
    for factor in (1.0, 1.0, 0.1, 0.01):
        gradients = [torch.randn(shape, generator=generator) for shape in shapes]
        for each in (one_by_one, at_once):
            each.scale(torch.tensor(factor))
            each.descend(gradients)
    for loop, kernel in zip(one_by_one.parameters, at_once.parameters, strict=True):
        torch.testing.assert_close(kernel, loop, rtol=0, atol=20 * 2**-24 * float(loop.abs().max()))
    for loop, kernel in zip(one_by_one.velocity, at_once.velocity, strict=True):
        torch.testing.assert_close(kernel, loop, rtol=0, atol=20 * 2**-24 * float(loop.abs().max()))


@pytest.mark.parametrize(
    "settings",
    [
        SGD([0.1, 0.1], momentum=0.9),
        SGD([0.1]),
        SGD([0.1], momentum=0.9, weight_decay=0.1, weights_only=True),
    ],
    ids=["two members", "no momentum", "decay of weights only"],
)
def test_parameters_that_do_not_share_their_settings_are_moved_one_by_one(settings):
    assert not Descent([torch.zeros(2, 3)], settings)._shared(settings)
