"""The small Inception: modules against torch's own layers, members apart, what dropout draws."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from bnbook.errors import BnbookError
from bnbook.layers import ensemble, norm
from bnbook.networks import inception
from bnbook.networks.inception import MODULES, Dropout, Inception, ResponseNorm, Unit

X = torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def made(norm_layer=norm.BatchNorm, seeds=(0,), **options):
    return Inception(norm_layer, seeds, unit=1, **options).double()


@pytest.mark.parametrize("side", [8, 16])
@pytest.mark.parametrize("norm_layer", [None, norm.FusedBatchNorm])
def test_it_has_19_layers_and_scores_for_every_class(side, norm_layer):
    net = Inception(norm_layer, unit=1)
    assert net(torch.zeros(2, 3, side, side)).shape == (2, 1, 10)
    longest = 3 + 3 * len(MODULES) + 1  # stem, 1x1 and two 3x3 of each module, linear layer
    assert longest == 19
    convolutions = [m for m in net.modules() if isinstance(m, ensemble.Conv2d)]
    assert len(convolutions) == 3 + 4 * 7 + 5
    assert all((c.bias is None) == (norm_layer is not None) for c in convolutions)


def test_the_third_module_halves_the_image_and_passes_its_input_on():
    net = made()
    x = net.stem(X)
    sizes, channels = [], []
    for module in net.inception:
        x = module(x)
        sizes.append(x.shape[-1])
        channels.append(x.shape[1])
    assert sizes == [4, 4, 2, 2, 2]
    assert channels == [8, 8, 4 + 3 + 8, 16, 16]


def by_hand(module, x, pooling):
    """A module's outputs, branch by branch with torch's functions."""

    def unit(u, x):
        w = u.convolution.weight[0]
        y = F.conv2d(x, w, None, u.convolution.stride, w.shape[-1] // 2)
        return F.relu(F.batch_norm(y, None, None, training=True))

    one, three, double, pool = module.branches
    pooled = pooling(x)
    return torch.cat([
        unit(one, x), unit(three[1], unit(three[0], x)),
        unit(double[2], unit(double[1], unit(double[0], x))), unit(pool[1], pooled),
    ], 1)  # fmt: skip


@pytest.mark.parametrize(
    ("at", "pooling"),
    [(0, lambda x: F.avg_pool2d(x, 3, 1, 1)), (4, lambda x: F.max_pool2d(x, 3, 1, 1))],
)
def test_a_module_is_its_branches_side_by_side(at, pooling):
    module = made().inception[at].train()
    channels = module.branches[0].convolution.in_channels
    x = torch.randn(5, channels, 4, 4, dtype=torch.float64).abs()
    torch.testing.assert_close(module(x), by_hand(module, x, pooling), rtol=1e-9, atol=1e-9)


def test_the_nonlinearity_comes_last():
    unit = Unit(norm.BatchNorm, nn.ReLU, 1, 3, 4, 3).double()
    nn.init.normal_(unit.convolution.weight)
    order = []
    for name in ("convolution", "norm", "nonlinearity"):
        getattr(unit, name).register_forward_hook(lambda *_, name=name: order.append(name))
    y = unit(X)
    assert order == ["convolution", "norm", "nonlinearity"]
    assert y.min() == 0


@pytest.mark.parametrize("options", [{}, {"response": True}, {"dropout": 0.5}])
@pytest.mark.parametrize("norm_layer", [None, norm.BatchNorm])
def test_members_are_the_networks_of_their_seeds(norm_layer, options):
    seeds = (3, 8)
    both = made(norm_layer, seeds, **options).train()
    alone = [made(norm_layer, (seed,), **options).train() for seed in seeds]
    found = both(X)
    for e, net in enumerate(alone):
        torch.testing.assert_close(found[:, e], net(X)[:, 0], rtol=1e-9, atol=1e-9)


def test_response_norm_is_torchs():
    x = torch.randn(3, 12, 4, 4, dtype=torch.float64)
    found = ResponseNorm(members=2)(x)
    each = [F.local_response_norm(part, 5, 0.4, 0.75, 1.0) for part in x.split(6, 1)]
    torch.testing.assert_close(found, torch.cat(each, 1))
    assert not torch.allclose(found, F.local_response_norm(x, 5, 0.4, 0.75, 1.0))


def test_dropout_keeps_the_mean_is_off_in_evaluation_and_goes_on_from_its_count():
    x = torch.ones(400, 50, dtype=torch.float64)
    layer = Dropout((0,), 0.4)
    assert torch.equal(layer.eval()(x), x)
    first, second = (layer.train()(x) for _ in range(2))
    assert set(first.unique().tolist()) == {0.0, 1 / 0.6}
    assert not torch.equal(first, second)
    # 20,000 draws: the share's standard error is below 0.0035.
    assert abs(float((first == 0).double().mean()) - 0.4) < 5 * 0.0035
    again = Dropout((0,), 0.4).train()
    again.load_state_dict({"calls": torch.tensor(1)})
    assert torch.equal(again(x), second)
    assert not torch.equal(Dropout((1,), 0.4).train()(x), first)
    with pytest.raises(BnbookError, match="share"):
        Dropout((0,), 1.0)


def test_units_scale_all_widths():
    small, large = (made(seeds=(0,)), Inception(norm.BatchNorm, unit=3))
    widths = [
        [m.weight.shape[1] for m in net.modules() if isinstance(m, ensemble.Conv2d)]
        for net in (small, large)
    ]
    assert widths[1] == [3 * w for w in widths[0]]
    assert inception.STEM == (2, 2, 6)
