"""Probes on cases with known answers; none moves the network that it measures."""

import contextlib
import math

import numpy as np
import pytest
import torch
from torch import nn

from bnbook.errors import BnbookError
from bnbook.layers.norm import BatchNorm
from bnbook.networks.models import MLP
from bnbook.probes import measurements
from tests import rounding


@pytest.fixture
def model():
    return MLP(BatchNorm, (0, 1), num_inputs=6, hidden=(5, 4), num_classes=3)


def test_probes_leave_the_network_bit_equal(model):
    model(torch.rand(20, 6))
    model.hidden[1].eval()  # a mixed state, as with a frozen layer
    before = {name: t.clone() for name, t in model.state_dict().items()}
    flags = [m.training for m in model.modules()]
    x, y = torch.rand(30, 6), torch.zeros(30, dtype=torch.int64)
    measurements.accuracy(model, x, y)
    measurements.inputs_to(model.nonlinearities[-1], model, x)
    assert all(torch.equal(before[name], t) for name, t in model.state_dict().items())
    assert [m.training for m in model.modules()] == flags
    assert not model.nonlinearities[-1]._forward_pre_hooks


def test_undisturbed_restores_after_an_error(model):
    before = model.hidden[1].running_mean.clone()
    with contextlib.suppress(ZeroDivisionError), measurements.undisturbed(model):
        model(torch.rand(20, 6))
        model.eval()
        _ = 1 / 0
    assert torch.equal(before, model.hidden[1].running_mean)
    assert model.training


def test_inputs_to_a_sigmoid_are_normalised_by_the_batch_itself(model):
    z = measurements.inputs_to(model.nonlinearities[-1], model, torch.rand(50, 6))
    assert z.shape == (50, 2, 4)
    torch.testing.assert_close(z.mean(0), torch.zeros(2, 4), atol=1e-5, rtol=0)
    # The spread falls short of 1 by eps, which counts where the layer below varies little.
    assert ((z.var(0, unbiased=False) <= 1) & (z.var(0, unbiased=False) > 0.5)).all()


def test_accuracy_counts_in_evaluation_mode():
    class Fixed(nn.Module):
        def forward(self, x):
            right = nn.functional.one_hot(x[:, 0].long(), 3).float()
            wrong = right.roll(1, -1)
            broken = torch.full_like(right, torch.nan)
            return torch.stack([right, wrong if not self.training else right, broken], 1)

    labels = torch.tensor([0, 1, 2, 0, 0, 1, 2])
    found = measurements.accuracy(Fixed(), labels[:, None].float(), labels, chunk=3)
    torch.testing.assert_close(found, torch.tensor([1.0, 0.0, 3 / 7], dtype=torch.float64))


def test_percentiles_are_numpys():
    values = torch.randn(101, 3, 4)
    found = measurements.percentiles(values, (15, 50, 85))
    expected = np.percentile(values.numpy(), (15, 50, 85), axis=0)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5, atol=1e-6)


def tracks_of(centre, spread=2.0):
    """Three percentiles at -spread/2, 0 and spread/2 around a moving centre, one unit."""
    offsets = torch.tensor([-spread / 2, 0, spread / 2], dtype=torch.float64)
    return (centre[:, None] + offsets).view(len(centre), 3, 1, 1)


def test_movement_of_a_sine_in_closed_form():
    # A centre that swings by A around a fixed place has a standard deviation of A / sqrt(2).
    steps = torch.linspace(0, 1, 2001, dtype=torch.float64)
    centre = 0.8 * torch.sin(2 * math.pi * steps)
    found = measurements.movement(tracks_of(centre), steps)
    assert found.item() == pytest.approx(0.8 / math.sqrt(2) / 2.0, rel=1e-6)


def test_movement_weighs_by_time_not_by_measurement():
    # Up by 1 for the last tenth of the time; measured densely early on or evenly, it is the same.
    def found(steps):
        steps = torch.tensor(sorted(steps), dtype=torch.float64)
        return measurements.movement(tracks_of((steps > 900).double()), steps).item()

    even = found(range(1001))
    dense = found({*range(100), *range(0, 900, 50), *range(895, 906), *range(910, 1001, 10)})
    assert even == pytest.approx(math.sqrt(0.1 * 0.9) / 2, rel=0.01)
    assert dense == pytest.approx(even, rel=0.02)


def test_movement_is_free_of_scale_and_shift_and_zero_at_rest():
    steps = torch.arange(50)
    centre = torch.randn(50, dtype=torch.float64).cumsum(0)
    found = measurements.movement(tracks_of(centre), steps)
    moved = measurements.movement(tracks_of(5 * centre + 100, spread=10.0), steps)
    torch.testing.assert_close(found, moved)
    still = measurements.movement(tracks_of(torch.zeros(50, dtype=torch.float64)), steps)
    # The mean of 50 equal numbers is one of them but for rounding, its distance relative to 1.
    assert still.item() <= 50 * rounding.epsilon(torch.float64)


def test_movement_is_the_median_unit_of_each_member():
    steps = torch.arange(3)
    centres = [torch.tensor([0.0, k, 0.0], dtype=torch.float64) for k in (1, 2, 100, 4, 8, 12)]
    tracks = torch.cat([tracks_of(c) for c in centres], -1).view(3, 3, 2, 3)
    each = [measurements.movement(tracks_of(c), steps).item() for c in centres]
    found = measurements.movement(tracks, steps)
    assert found.tolist() == pytest.approx([each[1], each[4]])


def test_movement_needs_two_times():
    with pytest.raises(BnbookError, match="two or more times, found 1"):
        measurements.movement(torch.zeros(1, 3, 1, 1), torch.zeros(1))
