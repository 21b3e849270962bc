"""The LSTM against torch's own, and its norms against their equations."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from bnbook.errors import BnbookError
from bnbook.networks.recurrent import LSTM, StepBatchNorm

SIZES = {"inputs": 3, "width": 5, "outputs": 4, "steps": 6}


def sequences(count=7, steps=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, steps, 3, generator=generator, dtype=torch.float64)


def test_without_norm_it_is_torchs():
    ours = LSTM("none", 0, **SIZES).double()
    theirs = nn.LSTM(3, 5, batch_first=True).double()
    order = [0, 1, 3, 2]  # torch has the gates as i, f, g, o
    with torch.no_grad():
        for own, into in ((ours.input.weight, theirs.weight_ih_l0),
                          (ours.recurrent.weight, theirs.weight_hh_l0),
                          (ours.input.bias, theirs.bias_ih_l0)):  # fmt: skip
            into.copy_(torch.cat([own.chunk(4)[k] for k in order]))
        theirs.bias_hh_l0.zero_()
    x = sequences()
    expected = ours.output(theirs(x)[0])
    torch.testing.assert_close(ours(x), expected)
    dy = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1)).double()
    found = torch.autograd.grad(ours(x), ours.input.weight, dy)[0]
    given = torch.autograd.grad(expected, theirs.weight_ih_l0, dy)[0]
    torch.testing.assert_close(found, torch.cat([given.chunk(4)[k] for k in order]))


def test_recurrent_bn_step_by_step():
    model = LSTM("steps", 0, gamma=0.1, **SIZES).double()
    x = sequences()
    h = c = torch.zeros(7, 5).double()
    expected = []
    for t in range(6):

        def bn(z):
            return 0.1 * (z - z.mean(0)) / (z.var(0, correction=0) + 1e-5).sqrt()

        gates = bn(x[:, t] @ model.input.weight.T) + bn(h @ model.recurrent.weight.T)
        i, f, o, g = (gates + model.input.bias).chunk(4, 1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        h = o.sigmoid() * bn(c).tanh()
        expected.append(F.linear(h, model.output.weight, model.output.bias))
    torch.testing.assert_close(model(x), torch.stack(expected, 1))


@pytest.mark.parametrize("steps", [1, 10, 100])
def test_each_step_has_running_statistics_of_its_own(steps):
    layer = StepBatchNorm(2, 3, gamma=1.0, momentum=0.1).double()
    x = torch.tensor([[0.0, 2.0], [4.0, 6.0]], dtype=torch.float64)
    for _ in range(steps):
        layer(x, 1)
    arrived = 1 - 0.9**steps
    torch.testing.assert_close(layer.running_mean[1], arrived * torch.tensor([2.0, 4.0]).double())
    unbiased = torch.full((2,), 8.0).double()
    torch.testing.assert_close(layer.running_var[1], 1 + (unbiased - 1) * arrived)
    for untouched in (0, 2):
        assert torch.equal(layer.running_mean[untouched], torch.zeros(2).double())


def test_beyond_the_training_length_the_last_statistics_serve():
    layer = StepBatchNorm(2, 3, gamma=1.0)
    for step in range(3):
        layer(torch.randn(8, 2) + step, step)
    layer.eval()
    x = torch.randn(4, 2)
    assert torch.equal(layer(x, 50), layer(x, 2))
    assert not torch.equal(layer(x, 1), layer(x, 2))
    with pytest.raises(BnbookError, match="there are statistics for 3 steps, found step 3"):
        layer.train()(x, 3)


def test_bn_of_the_input_alone_is_over_batch_and_time():
    model = LSTM("input", 0, **SIZES).double()
    x = sequences()
    driven = x @ model.input.weight.T
    mean, var = driven.mean((0, 1)), driven.var((0, 1), correction=0)
    model(x)
    torch.testing.assert_close(model.of_input.running_mean, 0.1 * mean)
    torch.testing.assert_close(model.of_input.running_var, 0.9 + 0.1 * var * 42 / 41)
    assert not list(model.norms)


def test_layer_norm_knows_no_batch():
    model = LSTM("layer", 0, **SIZES).double()
    x = sequences()
    torch.testing.assert_close(model(x)[:2], model(x[:2]))
    scaled = LSTM("layer", 0, **SIZES).double()
    with torch.no_grad():
        scaled.input.weight.mul_(1000.0)
        scaled.recurrent.weight.mul_(1000.0)
    torch.testing.assert_close(scaled(x)[:, 1:], model(x)[:, 1:], rtol=1e-2, atol=1e-2)
