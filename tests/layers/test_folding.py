"""BN folded into the map before it: equal outputs, the formulas' weights, and what is refused."""

from functools import partial

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from bnbook import formulas
from bnbook.conformance import mutants
from bnbook.errors import BnbookError
from bnbook.layers import ensemble
from bnbook.layers.norm import BatchNorm, FusedBatchNorm, LayerNorm, LeanBatchNorm, fold
from bnbook.networks.models import MLP, ConvNet, ResNet
from tests.layers.recurrent import Recurrent


def randomise(model):
    """Parameters and running statistics that are not neutral, in float64 and evaluation."""
    torch.manual_seed(0)
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point():
            positive = name.endswith("running_var")
            tensor.copy_(
                torch.rand_like(tensor) * 3 + 0.1 if positive else torch.randn_like(tensor)
            )
    return model.double().eval()


PAIRS = {
    "linear": (lambda bias: nn.Linear(5, 6, bias=bias), (7, 5)),
    "conv1d": (lambda bias: nn.Conv1d(5, 6, 3, bias=bias), (7, 5, 8)),
    "conv2d": (lambda bias: nn.Conv2d(5, 6, 3, 2, 1, bias=bias), (3, 5, 8, 7)),
    "conv2d in groups": (lambda bias: nn.Conv2d(4, 6, 3, groups=2, bias=bias), (3, 4, 8, 7)),
    "our linear": (lambda bias: ensemble.Linear(2, 5, 3, bias=bias), (7, 10)),
    "our conv2d": (lambda bias: ensemble.Conv2d(2, 5, 3, 3, 2, 1, bias=bias), (3, 10, 8, 7)),
}


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize(("linear", "shape"), PAIRS.values(), ids=PAIRS)
def test_a_pair(linear, shape, affine, bias):
    layers = randomise(nn.Sequential(linear(bias), BatchNorm(6, affine=affine)))
    before = {name: t.clone() for name, t in layers.state_dict().items()}
    folded = fold((layers[0], layers[1]))
    x = torch.randn(shape, dtype=torch.float64)
    torch.testing.assert_close(folded(x), layers(x), rtol=1e-12, atol=1e-12)
    assert type(folded) is type(layers[0])
    assert folded.bias is not None
    assert all(torch.equal(t, before[name]) for name, t in layers.state_dict().items())
    sequence = fold(layers)
    torch.testing.assert_close(sequence(x), layers(x), rtol=1e-12, atol=1e-12)
    assert isinstance(sequence[1], nn.Identity)


class Declared(mutants.Sample):
    """A reader's layer that says what it computes in evaluation."""

    affine_in_evaluation = True


NORMS = [BatchNorm, FusedBatchNorm, LeanBatchNorm, nn.BatchNorm1d, Declared]


@pytest.mark.parametrize("norm", NORMS, ids=lambda norm: norm.__module__ + norm.__name__)
def test_weights_are_the_formulas(norm):
    layers = randomise(nn.Sequential(nn.Linear(5, 6), norm(6)))
    linear, bn = layers
    tensors = bn.weight, bn.bias, bn.running_mean, bn.running_var
    W, b = formulas.fold_linear(
        *(t.detach().numpy() for t in (linear.weight, linear.bias, *tensors)), bn.eps
    )
    folded = fold((linear, bn))
    torch.testing.assert_close(folded.weight.detach(), torch.tensor(W))
    torch.testing.assert_close(folded.bias.detach(), torch.tensor(b))


def test_closed_form():
    layers = nn.Sequential(nn.Linear(1, 1), BatchNorm(1, eps=1.0)).eval()
    with torch.no_grad():
        for tensor, value in zip(
            (*layers[0].parameters(), *layers[1].parameters(), *layers[1].buffers()),
            (2.0, 3.0, 10.0, 7.0, 1.0, 24.0, 0.0),
            strict=True,
        ):
            tensor.fill_(value)
    folded = fold(layers)[0]  # slope 10 / sqrt(24 + 1) = 2
    assert (folded.weight.item(), folded.bias.item()) == (4, 2 * (3 - 1) + 7)


@pytest.mark.parametrize(
    ("model", "x"),
    [
        (lambda: MLP(BatchNorm, (0, 1)), (6, 784)),
        (lambda: ConvNet(LeanBatchNorm, (0, 1), widths=(4, 5)), (3, 3, 8, 8)),
        (lambda: MLP(nn.BatchNorm1d, (0,), hidden=(9,)), (6, 784)),
    ],
    ids=["MLP", "ConvNet", "torch's layer"],
)
def test_networks(model, x):
    model, x = randomise(model()), torch.randn(x, dtype=torch.float64)
    folded = fold(model, x[:2])
    torch.testing.assert_close(folded(x), model(x), rtol=1e-10, atol=1e-10)
    assert not [m for m in folded.modules() if hasattr(m, "running_mean")]
    assert [m for m in model.modules() if hasattr(m, "running_mean")]


def test_a_residual_network_needs_an_example():
    model = randomise(ResNet(BatchNorm, (0, 1), n=1, widths=(4, 6, 8)))
    x = torch.randn(3, 3, 16, 16, dtype=torch.float64)
    with pytest.raises(BnbookError, match=r"stem_norm must follow .* pass an example input"):
        fold(model)
    folded = fold(model, x[:1])
    torch.testing.assert_close(folded(x), model(x), rtol=1e-10, atol=1e-10)
    assert not any(module._forward_hooks for module in model.modules())


def test_float32_folds_to_its_own_rounding():
    layers = randomise(nn.Sequential(nn.Linear(50, 60), nn.BatchNorm1d(60))).float()
    x = torch.randn(20, 50)
    exact = fold(layers.double())(x.double())
    folded = fold(layers.float())
    assert folded[0].weight.dtype == torch.float32
    torch.testing.assert_close(folded(x).double(), exact, rtol=1e-4, atol=1e-4)


class UsedTwice(nn.Module):
    """The output of the linear map goes to BN and past it."""

    def __init__(self):
        super().__init__()
        self.linear, self.norm = nn.Linear(3, 3), BatchNorm(3)

    def forward(self, x):
        y = self.linear(x)
        return y + self.norm(y)


def shared():
    linear = nn.Linear(3, 3)
    return nn.Sequential(linear, BatchNorm(3), linear, BatchNorm(3)).eval()


def apart():
    relu = nn.ReLU()
    return nn.Sequential(relu, nn.Linear(3, 3), relu, BatchNorm(3)).eval()


class Forked(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear, self.one, self.two = nn.Linear(3, 3), BatchNorm(3), BatchNorm(3)

    def forward(self, x):
        y = self.linear(x)
        return self.one(y) + self.two(y)


X = torch.randn(4, 3)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (lambda: (nn.Sequential(nn.Linear(2, 3), BatchNorm(3)),), "1 must be in evaluation mode"),
        (lambda: ((nn.Linear(2, 3), BatchNorm(3)),), "the layer must be in evaluation mode"),
        (lambda: ((nn.Linear(2, 3).eval(), BatchNorm(4).eval()),), "found 3 and 4"),
        (lambda: ((nn.ReLU(), BatchNorm(4).eval()),), r"found \(ReLU, BatchNorm\)"),
        (lambda: ((nn.Linear(2, 3), nn.ReLU()),), r"found \(Linear, ReLU\)"),
        (lambda: ((nn.Linear(2, 3),),), r"found \(Linear\)"),
        (lambda: ([nn.Linear(2, 3)],), "must be a torch.nn.Module, found list"),
        (lambda: (nn.Linear(2, 3),), "found none in a Linear"),
        (lambda: (nn.Sequential(nn.Linear(2, 3), LayerNorm(3)).eval(),), "found none in a Seq"),
        (lambda: (nn.Sequential(nn.ReLU(), BatchNorm(3)).eval(),), "1 must follow a linear"),
        (lambda: (BatchNorm(3).eval(),), "the model must follow a linear"),
        (lambda: (MLP(BatchNorm).eval(),), "hidden.1 must follow a linear.*pass an example"),
        (
            lambda: (MLP(BatchNorm, after=True).eval(), torch.ones(2, 784)),
            "hidden.2 must follow a linear",
        ),
        (
            lambda: (
                nn.Sequential(nn.Linear(3, 3), BatchNorm(3, track_running_stats=False)).eval(),
            ),
            "1 must have running statistics, found none",
        ),
        (lambda: (shared(),), "stand in one place, found one that is 0 and 2"),
        (lambda: (apart(),), "3 must follow a linear"),
        (lambda: (randomise(UsedTwice()), X.double()), "used elsewhere too"),
        (lambda: (Forked().eval(), X), "found linear before more than one"),
        (
            lambda: (Recurrent().eval(), torch.ones(2, 5, 3)),
            "norm must follow .* came from elsewhere",
        ),
    ],
)
def test_what_cannot_be_folded(given, says):
    with pytest.raises(BnbookError, match=says):
        fold(*given())


# What stands between, and what is not what its class says


class Between(nn.Module):
    """Linear map and BN of one feature, with something between them."""

    def __init__(self, between, kind=nn.Linear):
        super().__init__()
        self.linear, self.between, self.norm = kind(1, 1), between, BatchNorm(1)
        with torch.no_grad():
            self.linear.weight.fill_(1.0)
            self.linear.bias.fill_(0.0)
            self.norm.running_mean.fill_(1.0)
            self.norm.running_var.fill_(0.01)
        self.eval()

    def forward(self, x):
        return self.norm(self.between(self.linear(x)))


def as_it_is(x):
    return x


def clamped(x):
    return x.clamp_(max=3.0)


@pytest.mark.parametrize("x", [5.0, 0.5], ids=["seen in the output", "not seen in the output"])
def test_work_in_place_between_the_two_is_refused(x):
    """Folded in silence it gave 40 for x = 5 where the model gives 20."""
    model, example = Between(clamped), torch.full((2, 1), x)
    assert model(torch.full((2, 1), 5.0))[0].item() == pytest.approx(2 / (0.01 + 1e-5) ** 0.5)
    with pytest.raises(BnbookError, match=r"norm must be given .* linear .* changed in place"):
        fold(model, example)
    folded = fold(Between(as_it_is), example)
    torch.testing.assert_close(folded(example), Between(as_it_is)(example))


def test_a_sequence_within_another_module_needs_an_example():
    """What its forward does with the sequence's layers cannot be seen."""

    class Holds(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = nn.Sequential(nn.Linear(3, 3), BatchNorm(3))

        def forward(self, x):
            return self.net[1](self.net[0](x).clamp(max=0.1))

    model = randomise(Holds())
    with pytest.raises(BnbookError, match=r"net.1 must follow .* pass an example"):
        fold(model)
    with pytest.raises(BnbookError, match=r"net.1 must follow .* came from elsewhere"):
        fold(model, X.double())


class Doubled(nn.Linear):
    def forward(self, x):
        return 2 * super().forward(x)


class Shifted(BatchNorm):
    def forward(self, x):
        return super().forward(x) + 1


class OwnSequence(nn.Sequential):
    def forward(self, x):
        return super().forward(x.clamp(max=1))


def hooked(layer):
    layer.register_forward_hook(lambda _, __, y: y + 1)
    return layer


def replaced(layer):
    layer.forward = lambda x: x
    return layer


def old_weight_norm(layer):
    with pytest.warns(FutureWarning):
        return nn.utils.weight_norm(layer)


NOT_PLAIN = {
    "weight_norm": (lambda: (nn.utils.parametrizations.weight_norm(nn.Linear(3, 3)), BatchNorm(3)),
                    "0 must be exactly .* parametrised"),
    "old weight_norm": (lambda: (old_weight_norm(nn.Linear(3, 3)), BatchNorm(3)),
                        "0 must be .* forward hook"),
    "pruned": (lambda: (prune.l1_unstructured(nn.Linear(3, 3), "weight", 0.5),
                        BatchNorm(3)), "0 must be .* forward hook"),
    "a subclass": (lambda: (Doubled(3, 3), BatchNorm(3)), "0 must be .* a Doubled, whose forward"),
    "a subclass of BN": (lambda: (nn.Linear(3, 3), Shifted(3)), "1 must be .* a Shifted, whose"),
    "not declared": (lambda: (nn.Linear(3, 3), mutants.Sample(3)), "1 must be .* a Sample, whose"),
    "a hook": (lambda: (hooked(nn.Linear(3, 3)), BatchNorm(3)), "0 must be .* with a forward hook"),
    "a hook of BN": (lambda: (nn.Linear(3, 3), hooked(BatchNorm(3))), "1 must be .* with a for"),
    "a replaced forward": (lambda: (nn.Linear(3, 3), replaced(BatchNorm(3))), "1 must be .* whose"),
}  # fmt: skip


@pytest.mark.parametrize("example", [False, True], ids=["as it stands", "on an example"])
@pytest.mark.parametrize(("layers", "says"), NOT_PLAIN.values(), ids=NOT_PLAIN)
def test_what_is_not_exactly_known_is_refused(layers, says, example):
    model = nn.Sequential(*layers()).eval()
    if example:
        with pytest.raises(
            BnbookError, match=f"{says}|or a parametrised layer or a subclass|is parametrised"
        ):
            fold(model, X)
    else:
        with pytest.raises(BnbookError, match=says):
            fold(model)
        with pytest.raises(BnbookError, match="must be exactly a layer that is known"):
            fold((model[0], model[1]))


def test_a_sequence_with_a_forward_of_its_own_needs_an_example():
    model = OwnSequence(nn.Linear(3, 3), BatchNorm(3)).eval()
    with pytest.raises(BnbookError, match="pass an example"):
        fold(model)
    torch.testing.assert_close(fold(model, X)(X), model(X))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own, while it compiles
def test_compiled_models_are_refused():
    with pytest.raises(BnbookError, match="must not be compiled"):
        fold(torch.compile(nn.Sequential(nn.Linear(3, 3), BatchNorm(3)).eval()))


def test_features_that_are_not_the_linear_maps():
    """Of (N, T, T) a linear layer makes the third axis, and BN normalises the second."""
    model = randomise(nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)))
    with pytest.raises(BnbookError, match=r"must have 2 axes.*found shape \(4, 3, 3\)"):
        fold(model, torch.randn(4, 3, 3, dtype=torch.float64))


class Returns(nn.Module):
    """What comes out is made by `of`, of the output and the input."""

    def __init__(self, of):
        super().__init__()
        self.linear, self.norm, self.of = nn.Linear(3, 3), BatchNorm(3), of

    def forward(self, x, *, scale=1.0):
        return self.of(self.norm(self.linear(x)) * scale, x)


class Wrapped:
    pass


@pytest.mark.parametrize("example", [X, (X,), {"x": X, "scale": torch.tensor(2.0)}],
                         ids=["tensor", "tuple", "keywords"])  # fmt: skip
@pytest.mark.parametrize(
    "of",
    [
        lambda y, _: (y, None),
        lambda y, _: {"logits": y, "classes": y.argmax(1)},
        lambda y, _: [y, {"parts": (y, y)}, 3],
        lambda y, _: y.masked_fill(y > 0, -torch.inf),
    ],
    ids=["tuple", "dict", "nested", "infinite"],
)
def test_outputs_and_inputs_of_other_kinds(of, example):
    model = randomise(Returns(of)).float()
    folded = fold(model, example)
    assert isinstance(folded.norm, nn.Identity)
    expected, found = model(X), folded(X)
    if isinstance(expected, dict):
        torch.testing.assert_close(found["logits"], expected["logits"], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("of", "says"),
    [
        (lambda y, _: Wrapped(), "must return tensors, .* found a Wrapped; wrap it"),
        (lambda y, _: None, "must return a tensor, .* found none"),
        (lambda y, _: y + torch.rand(()), "same outputs .* twice"),
        (lambda y, _: y * torch.nan, "twice, found .* not a number"),
    ],
    ids=["a class of its own", "nothing", "random", "not a number"],
)
def test_outputs_that_cannot_be_compared(of, says):
    with pytest.raises(BnbookError, match=says):
        fold(Returns(of).eval(), X)


def test_example_and_model_are_as_they_were():
    class Counts(Returns):
        def forward(self, x):
            self.calls += 1
            x.mul_(2)
            return super().forward(x)

    model, x = Counts(lambda y, _: y).eval(), X.clone()
    model.register_buffer("calls", torch.tensor(0))
    fold(model, x)
    assert torch.equal(x, X)
    assert model.calls == 0
    with torch.inference_mode():
        assert isinstance(fold(model, x).norm, nn.Identity)


def test_a_fold_that_forgets_the_root_of_the_variance_is_seen(monkeypatch):
    layers = randomise(nn.Sequential(nn.Linear(3, 3), partial(BatchNorm, 3)()))
    wrong = fold(layers)
    with torch.no_grad():
        wrong[0].weight.mul_(layers[1].running_var[:, None].sqrt())
    x = torch.randn(4, 3, dtype=torch.float64)
    assert not torch.allclose(wrong(x), layers(x), rtol=1e-3)
