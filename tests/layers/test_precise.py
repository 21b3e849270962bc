"""PreciseBN against the formulas, closed forms, and a network put through by hand."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from bnbook import formulas
from bnbook.conformance import mutants
from bnbook.errors import BnbookError
from bnbook.formulas.population import pooled_statistics
from bnbook.layers import ensemble, precise
from bnbook.layers.norm import BatchNorm, FusedBatchNorm, GroupNorm, LeanBatchNorm, PreciseBN
from bnbook.networks.models import MLP
from tests.layers.recurrent import Recurrent

LAYERS = {
    "ours": BatchNorm,
    "fused": FusedBatchNorm,
    "lean": LeanBatchNorm,
    "torch": nn.BatchNorm1d,
    "a reader's": mutants.Sample,
}


def minibatches(k=5, m=8, features=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    scale = torch.arange(1, features + 1, dtype=torch.float64)
    return scale * torch.randn(k, m, features, dtype=torch.float64, generator=generator) + 2


def agree(layer, expected):
    mean, var = (torch.as_tensor(value) for value in expected)
    torch.testing.assert_close(layer.running_mean, mean.to(layer.running_mean), rtol=1e-10, atol=0)
    torch.testing.assert_close(layer.running_var, var.to(layer.running_var), rtol=1e-10, atol=0)


@pytest.mark.parametrize("kind", LAYERS.values(), ids=LAYERS)
def test_one_layer_is_the_formulas_algorithm_2(kind):
    x, layer = minibatches(), kind(3).double()
    assert PreciseBN(layer).update(x) is layer
    agree(layer, formulas.population_statistics(x.numpy()))
    PreciseBN(layer, between_batches=True).update(x)
    agree(layer, pooled_statistics(x.numpy()))


def test_closed_form():
    """Two minibatches {0, 2} and {4, 10}: means 1, 7; biased variances 1, 9."""
    x = torch.tensor([[[0.0], [2.0]], [[4.0], [10.0]]])
    layer = BatchNorm(1)
    found = PreciseBN(layer).measure(x)[""]
    assert (found.mean.item(), found.var.item()) == (4, 2 * 5)
    found = PreciseBN(layer, between_batches=True).measure(x)[""]
    assert (found.mean.item(), found.var.item()) == (4, 5 + 9)
    assert (layer.running_mean.item(), layer.running_var.item()) == (0, 1)


@settings(max_examples=40, deadline=None)
@given(
    sizes=st.lists(st.integers(2, 9), min_size=1, max_size=6),
    positions=st.sampled_from([(), (3,), (2, 2)]),
    mean=st.floats(-1e4, 1e4),
    scale=st.floats(1e-6, 1e6),
)
def test_minibatches_of_unequal_size(sizes, positions, mean, scale):
    torch.manual_seed(sum(sizes))
    batches = [scale * (torch.randn(m, 2, *positions, dtype=torch.float64) + mean) for m in sizes]
    rows = [b.movedim(1, -1).reshape(-1, 2) for b in batches]
    total = sum(len(r) for r in rows)
    within = sum((r - r.mean(0)).square().sum(0) for r in rows)
    everything = torch.cat(rows)
    layer = BatchNorm(2).double()
    found = PreciseBN(layer).measure(batches)[""]
    torch.testing.assert_close(found.mean, everything.mean(0), rtol=1e-9, atol=1e-9 * scale)
    torch.testing.assert_close(found.var, within / (total - len(rows)), rtol=1e-7, atol=0)
    pooled = PreciseBN(layer, between_batches=True).measure(batches)[""]
    torch.testing.assert_close(pooled.var, everything.var(0, correction=0), rtol=1e-7, atol=0)


def test_the_variance_is_unbiased_for_unequal_sizes():
    torch.manual_seed(0)
    draws = [
        PreciseBN(BatchNorm(400)).measure([torch.randn(m, 400) for m in (2, 3, 7)])[""].var
        for _ in range(20)
    ]
    estimates = torch.cat(draws)
    assert abs(estimates.mean() - 1) < 4 * estimates.std() / len(estimates) ** 0.5
    assert 4 * estimates.std() / len(estimates) ** 0.5 < 0.05


def network(kind=BatchNorm):
    torch.manual_seed(1)
    layers = nn.Linear(4, 6), kind(6), nn.ReLU(), nn.Dropout(0.5), nn.Linear(6, 3), kind(3)
    return nn.Sequential(*layers).double()


def test_every_layer_sees_what_the_layers_below_give_it_in_training():
    model, x = network(), minibatches(4, 8, 4)
    PreciseBN(model).update(x)
    first, second = model[0], model[4]
    u = torch.stack([first(b) for b in x]).detach().numpy()
    agree(model[1], formulas.population_statistics(u))
    ones, zeros = np.ones(6), np.zeros(6)
    hidden = [np.maximum(formulas.batch_norm_forward(b, ones, zeros, 1e-5)[0], 0) for b in u]
    v = torch.stack([second(torch.tensor(h)) for h in hidden]).detach().numpy()
    agree(model[5], formulas.population_statistics(v))


def test_inference_then_is_algorithm_2s_affine_map():
    layer, x = BatchNorm(3).double(), minibatches()
    PreciseBN(layer).update(x)
    mean, var = formulas.population_statistics(x.numpy())
    expected = formulas.inference(x[0].numpy(), np.ones(3), np.zeros(3), mean, var, 1e-5)
    torch.testing.assert_close(layer.eval()(x[0]), torch.tensor(expected))


@pytest.mark.parametrize("kind", LAYERS.values(), ids=LAYERS)
def test_only_the_running_statistics_change(kind):
    model, x = network(kind), minibatches(4, 8, 4)
    model[0].eval()
    before = {name: t.clone() for name, t in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    state = torch.get_rng_state()
    measured = PreciseBN(model).measure(x)
    assert list(measured) == ["1", "5"]
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())
    PreciseBN(model).update(x)
    moved = {n for n, t in model.state_dict().items() if not torch.equal(t, before[n])}
    assert moved == {f"{k}.running_{what}" for k in (1, 5) for what in ("mean", "var")}
    assert modes == [module.training for module in model.modules()]
    assert torch.equal(state, torch.get_rng_state()), "dropout is off"
    assert not any(module._forward_pre_hooks for module in model.modules())
    assert all(p.grad is None for p in model.parameters())


class Frozen(nn.Module):
    """As torchvision's: buffers alone, and the running statistics whatever the mode."""

    def __init__(self, features):
        super().__init__()
        for name, value in (("weight", 2.0), ("bias", 1.0), ("running_mean", 3.0),
                            ("running_var", 4.0)):  # fmt: skip
            self.register_buffer(name, torch.full((features,), value))

    def forward(self, x):
        scale = self.weight / (self.running_var + 1e-5).sqrt()
        return (x - self.running_mean) * scale + self.bias


FROZEN = {
    "in evaluation": lambda: BatchNorm(6).eval(),
    "torch's in evaluation": lambda: nn.BatchNorm1d(6).eval(),
    "momentum 0": lambda: BatchNorm(6, momentum=0.0),
    "buffers only": lambda: Frozen(6),
}


@pytest.mark.parametrize("frozen", FROZEN.values(), ids=FROZEN)
def test_layers_that_do_not_move_in_training_do_not_move_here(frozen):
    """And the layers above see what a frozen one gives them in training."""
    model, x = network(), minibatches(4, 8, 4)
    model[1] = frozen().double()
    before = {name: t.clone() for name, t in model[1].state_dict().items()}
    assert list(PreciseBN(model).measure(x)) == ["5"]
    PreciseBN(model).update(x)
    assert all(torch.equal(t, before[name]) for name, t in model[1].state_dict().items())
    v = torch.stack([model[4](model[2](model[1](model[0](b)))) for b in x]).detach().numpy()
    agree(model[5], formulas.population_statistics(v))


def test_in_a_model_in_evaluation_all_that_can_move_are_measured():
    model, x = network().eval(), minibatches(4, 8, 4)
    assert list(PreciseBN(model).measure(x)) == ["1", "5"]
    assert not any(module.training for module in model.modules())


@pytest.mark.parametrize(
    ("layers", "says"),
    [
        ((nn.ReLU(), BatchNorm(3).eval()), "found all 1 in evaluation inside a model in training"),
        ((nn.ReLU(), BatchNorm(3, momentum=0.0)), "move in training, found all 1"),
        ((nn.ReLU(), Frozen(3)), "found 1 moved by none of 2 minibatches; nothing was"),
    ],
    ids=["in evaluation", "momentum 0", "buffers only"],
)
def test_a_model_in_which_nothing_moves(layers, says):
    with pytest.raises(BnbookError, match=says):
        PreciseBN(nn.Sequential(*layers)).update(torch.randn(2, 5, 3))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_one_bad_minibatch_is_refused_and_nothing_stored(value):
    model, x = network(), minibatches(4, 8, 4)
    before = {name: t.clone() for name, t in model.state_dict().items()}
    x[3, 2, 1] = value
    with pytest.raises(
        BnbookError, match=r"found the mean (nan|-?inf) of feature 0 of 1 .*nothing was"
    ):
        PreciseBN(model).update(x)
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())


def test_a_variance_that_half_precision_cannot_hold_is_refused():
    """300 and -300: a variance of 90,000 for 1,000 values, and 65,504 is the largest float16."""
    model = nn.Sequential(BatchNorm(1).half())
    x = torch.tensor([[300.0], [-300.0]]).half().repeat(500, 1)
    with pytest.raises(
        BnbookError, match=r"the var inf of feature 0 of 0 .torch.float16.; nothing"
    ):
        PreciseBN(model).update([x])
    assert model[0].running_var.item() == 1
    PreciseBN(model).update([x / 2])
    assert model[0].running_var.item() == pytest.approx(150**2 * 1000 / 999, rel=1e-3)


def test_keyword_inputs_count():
    class Keywords(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm1d(3).double()

        def forward(self, x):
            return self.norm(input=x)

    model, x = Keywords(), minibatches()
    PreciseBN(model).update(x)
    agree(model.norm, formulas.population_statistics(x.numpy()))


@pytest.mark.parametrize("kind", [BatchNorm, FusedBatchNorm, LeanBatchNorm])
def test_torchs_update_bn_sees_our_layers(kind):
    """Averages of all minibatches with equal weights, momentum given back."""
    layer, x = kind(3).double(), minibatches()
    layer(100 * x[0])
    torch.optim.swa_utils.update_bn(list(x), layer)
    agree(layer, formulas.population_statistics(x.numpy()))
    assert (layer.momentum, layer.num_batches_tracked) == (0.1, len(x))


def test_batches_as_a_data_loader_gives_them():
    x, model = minibatches(4, 8, 4), network()
    data = torch.utils.data.TensorDataset(x.flatten(0, 1), torch.zeros(32))
    PreciseBN(model).update(torch.utils.data.DataLoader(data, batch_size=8))
    other = PreciseBN(network()).update(b for b in x)
    agree(model[5], (other[5].running_mean, other[5].running_var))


def test_members_are_measured_each_on_its_own():
    together, alone = MLP(BatchNorm, (0, 1)), MLP(BatchNorm, (1,))
    x = torch.rand(3, 20, 784)
    for model in (together, alone):
        PreciseBN(model).update(x)
    for mine, own in zip(
        precise.batch_norms(together).values(), precise.batch_norms(alone).values(), strict=True
    ):
        torch.testing.assert_close(mine.running_var[100:], own.running_var)


def test_each_call_of_a_recurrent_layer_counts():
    model = Recurrent()
    seen = []
    model.norm.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].clone()))
    PreciseBN(model).update(torch.randn(2, 9, 5, 3))
    assert len(seen) == 2 * 5
    x = torch.stack(seen).double().numpy()
    mean, var = formulas.population_statistics(x)
    torch.testing.assert_close(model.norm.running_mean, torch.tensor(mean).float())
    torch.testing.assert_close(model.norm.running_var, torch.tensor(var).float())


def test_which_layers_are_batch_normalisation():
    model = nn.ModuleDict(
        {
            "ours": BatchNorm(2),
            "torch": nn.BatchNorm2d(2),
            "without": BatchNorm(2, track_running_stats=False),
            "instance": nn.InstanceNorm2d(2, track_running_stats=True),
            "group": GroupNorm(1, 2),
            "linear": ensemble.Linear(1, 2, 2),
        }
    )
    assert list(precise.batch_norms(model)) == ["ours", "torch", "without"]


class Skips(nn.Module):
    """One of its layers is never called."""

    def __init__(self):
        super().__init__()
        self.used, self.unused = BatchNorm(3), BatchNorm(3)

    def forward(self, x):
        return self.used(x)


@pytest.mark.parametrize(
    ("model", "batches", "says"),
    [
        (nn.Linear(2, 2), [], "must have a batch normalisation layer .* 0 without and none with"),
        (BatchNorm(2, track_running_stats=False), [], "found 1 without"),
        (BatchNorm(3), [], "batches must hold one minibatch or more, found none"),
        (BatchNorm(3), None, "batches must be iterable, found NoneType"),
        (Skips(), torch.randn(2, 5, 3), "found unused not reached by any of 2; nothing was"),
        (BatchNorm(3), torch.randn(2, 1, 3), "two or more values"),
    ],
)
def test_errors_leave_the_model_as_it_was(model, batches, says):
    before = {name: t.clone() for name, t in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    with pytest.raises(BnbookError, match=says):
        PreciseBN(model).update(batches)
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())
    assert modes == [module.training for module in model.modules()]


def test_a_model_that_is_none():
    with pytest.raises(BnbookError, match=r"must be a torch\.nn\.Module, found list"):
        PreciseBN([BatchNorm(3)])


def test_what_is_not_finite_is_passed_on():
    x = minibatches()
    x[1, 2, 0] = float("nan")
    found = PreciseBN(BatchNorm(3).double()).measure(x)[""]
    assert found.mean.isnan().tolist() == found.var.isnan().tolist() == [True, False, False]


def test_biased_and_detached_mistakes_would_be_seen():
    """The variance without m/(m-1), and the moving average, are not algorithm 2."""
    x = minibatches(5, 4)
    _, var = formulas.population_statistics(x.numpy())
    biased = x.var(1, correction=0).mean(0).numpy()
    assert not np.allclose(biased, var, rtol=1e-3)
    layer = BatchNorm(3).double()
    for batch in x:
        layer(batch)
    assert not np.allclose(layer.running_var.numpy(), var, rtol=1e-3)
    layer = BatchNorm(3, momentum=None).double()
    for batch in x:
        layer(batch)
    np.testing.assert_allclose(layer.running_var.numpy(), var)  # one layer alone: the same
