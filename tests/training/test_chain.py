"""The hand-written step against autograd, member by member, and bit by bit against itself."""

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from torch import nn

from bnbook.errors import BnbookError
from bnbook.layers import ensemble
from bnbook.layers.norm import BatchNorm
from bnbook.networks.models import MLP
from bnbook.training import chain, fit
from bnbook.training.session import Plan, Session
from tests import rounding


class Tanh(MLP):
    """A chain with another nonlinearity."""

    def __init__(self, *args, **more):
        super().__init__(*args, **more)
        for at, layer in enumerate(self.hidden):
            if isinstance(layer, nn.Sigmoid):
                self.hidden[at] = nn.Tanh()


def trained(
    norm, seeds, rates, *, handwritten, own=False, steps=100, dtype=torch.float64, model=MLP,
    schedule=None, hidden=(8, 6), moved=0.0,
):  # fmt: skip
    torch.manual_seed(0)
    images, labels = torch.rand(90, 1, 4, 4, dtype=dtype), torch.randint(0, 3, (90,))
    network = model(norm, seeds, num_inputs=16, hidden=hidden, num_classes=3, init_std=0.5)
    network = network.to(dtype)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += moved * torch.randn(parameter.shape, dtype=dtype)
        for layer in network.hidden:
            if isinstance(layer, BatchNorm):
                gamma = torch.linspace(0.5, 1.5, layer.num_features // len(seeds))
                layer.weight.copy_(gamma.repeat(len(seeds)))
    batches = fit.minibatches(90, 15, steps, seed=1)
    if own:
        streams = [fit.minibatches(90, 15, steps, seed=e) for e in seeds]
        batches = torch.stack(streams, 1)
    optimiser = fit.SGD(list(rates), schedule=schedule)
    session = Session(plan=Plan(handwritten=handwritten))
    history = fit.fit(
        network, images, labels, batches, optimiser, ensemble.cross_entropy, session=session
    )
    return network, history[-1]


@pytest.mark.parametrize("model", [MLP, Tanh])
@pytest.mark.parametrize("own", [False, True], ids=["shared", "own"])
@pytest.mark.parametrize("norm", [None, BatchNorm], ids=["without", "with BN"])
def test_it_is_autograds_step_in_float64(norm, own, model):
    seeds, rates = (0, 1, 1), (0.5, 0.1, 0.02)
    schedule = torch.linspace(1, 0.2, 100, dtype=torch.float64)
    ours, theirs = (
        trained(norm, seeds, rates, handwritten=h, own=own, model=model, schedule=schedule)
        for h in (True, False)
    )
    for name, value in ours[0].state_dict().items():
        torch.testing.assert_close(value, theirs[0].state_dict()[name], rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(ours[1]["loss"], theirs[1]["loss"], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("norm", [None, BatchNorm], ids=["without", "with BN"])
def test_it_is_autograds_step_in_float32(norm):
    """To what the network makes of rounding: the change by initial parameters moved as far."""

    def end(rates=(0.1, 0.02), **more):
        network, _ = trained(norm, (0, 1), rates, steps=20, **more)
        return torch.cat([t.double().flatten() for t in network.state_dict().values()])

    ours, theirs = (end(handwritten=h, dtype=torch.float32) for h in (True, False))
    by = rounding.of_training(20, longest_sum=16, dtype=torch.float32)
    allowed = 2 * (end(handwritten=False, moved=by) - end(handwritten=False)).abs().max()
    assert (ours - theirs).abs().max() <= allowed
    other = end(rates=(0.1, 0.03), handwritten=False, dtype=torch.float32)
    assert (ours - other).abs().max() > 10 * allowed, "a wrong rate shows"


@pytest.fixture
def one_thread():
    """What is promised is promised for one."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@example(seeds=[0, 0], width=6, with_bn=False, own=False, member=1)  # too narrow for one batch
@example(seeds=[0, 1, 1], width=1, with_bn=True, own=True, member=2)
@given(
    seeds=st.lists(st.integers(0, 3), min_size=1, max_size=7),
    width=st.integers(1, 40),
    with_bn=st.booleans(),
    own=st.booleans(),
    member=st.integers(0, 6),
)
def test_a_members_bits_do_not_depend_on_the_others(one_thread, seeds, width, with_bn, own, member):
    member %= len(seeds)
    norm = BatchNorm if with_bn else None
    rates = [0.1 * (e + 1) for e in range(len(seeds))]
    more = {
        "handwritten": True, "dtype": torch.float32, "steps": 15, "hidden": (width, 5), "own": own,
    }  # fmt: skip
    together, row = trained(norm, seeds, rates, **more)
    only = slice(member, member + 1)
    alone, other = trained(norm, seeds[only], rates[only], **more)
    assert torch.equal(together.output.weight[member], alone.output.weight[0])
    assert torch.equal(together.hidden[0].weight[member], alone.hidden[0].weight[0])
    assert torch.equal(row["loss"][member], other["loss"][0])


@pytest.mark.parametrize("own", [False, True], ids=["shared", "own"])
@pytest.mark.parametrize("norm", [None, BatchNorm], ids=["without", "with BN"])
def test_members_one_after_the_other_are_the_members_together(norm, own, one_thread, monkeypatch):
    """Where `_alike` says so, whatever this processor would need."""
    seeds, rates = (0, 1, 2), (0.1, 0.2, 0.3)
    more = {"handwritten": True, "own": own, "steps": 15}
    together, row = trained(norm, seeds, rates, **more)
    monkeypatch.setattr(chain, "_alike", lambda *_: False)
    apart, other = trained(norm, seeds, rates, **more)
    for name, value in together.state_dict().items():
        torch.testing.assert_close(apart.state_dict()[name], value, rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(other["loss"], row["loss"], rtol=1e-10, atol=1e-10)


def test_products_that_round_otherwise_in_a_batch_are_noticed(one_thread, monkeypatch):
    plain = chain._subtract

    def subtract(out, a, b):
        """Another order of the sum as soon as there are two members."""
        return plain(out, a, b) if len(out) == 1 else out.sub_((a.double() @ b.double()).float())

    shape, dtype = (3, 64, 100, 100), torch.float32
    chain._alike.cache_clear()
    assert chain._alike(shape, False, dtype)
    monkeypatch.setattr(chain, "_subtract", subtract)
    chain._alike.cache_clear()
    assert not chain._alike(shape, False, dtype)
    chain._alike.cache_clear()


class Doubled(BatchNorm):
    def forward(self, x):
        return 2 * super().forward(x)


def test_where_it_applies():
    loss = ensemble.cross_entropy
    assert chain.applies(MLP(BatchNorm), loss)
    assert chain.applies(MLP(None), loss)
    assert not chain.applies(MLP(BatchNorm), lambda outputs, labels: outputs.mean((0, 2)))
    assert not chain.applies(MLP(Doubled), loss)
    assert not chain.applies(nn.Linear(3, 3), loss)
    relu = MLP(None)
    relu.hidden[1] = nn.ReLU()
    assert not chain.applies(relu, loss)


def test_one_example_has_no_variance():
    model = MLP(BatchNorm, num_inputs=4, hidden=(3,))
    step = chain.ChainStep(model, torch.ones(1))
    with pytest.raises(BnbookError, match="two or more values"):
        step(torch.ones(1, 4), torch.zeros(1, dtype=torch.int64))
    assert model.hidden[1].num_batches_tracked == 0


def test_batches_of_another_size_and_running_statistics():
    model = MLP(BatchNorm, (0, 1), num_inputs=4, hidden=(3,)).double()
    reference = MLP(BatchNorm, (0, 1), num_inputs=4, hidden=(3,)).double()
    step = chain.ChainStep(model, torch.zeros(2, dtype=torch.float64))
    for size in (5, 8, 5):
        x = torch.rand(size, 4, dtype=torch.float64)
        losses = step(x, torch.zeros(size, dtype=torch.int64))
        expected = ensemble.cross_entropy(reference(x), torch.zeros(size, dtype=torch.int64))
        torch.testing.assert_close(losses, expected.detach())
    assert model.hidden[1].num_batches_tracked == 3
    torch.testing.assert_close(model.hidden[1].running_var, reference.hidden[1].running_var)
    torch.testing.assert_close(model.hidden[1].running_mean, reference.hidden[1].running_mean)
