"""The distance of a batch's statistics from the running ones."""

import pytest
import torch

from bnbook.layers.norm import BatchNorm, FusedBatchNorm
from bnbook.layers.power import PowerNorm
from bnbook.probes.distances import Watch, distance


def test_a_known_shift_and_scale():
    layer = BatchNorm(2)
    layer.running_mean.copy_(torch.tensor([1.0, 0.0]))
    layer.running_var.copy_(torch.tensor([4.0, 1.0]))
    x = torch.tensor([[1.0, 0.0], [5.0, 2.0]])  # means 3, 1; variances 4, 1
    found = distance(layer, x)
    assert found.mean == pytest.approx(1.0)  # both means are one running standard deviation off
    assert found.scale == pytest.approx(0.0)
    assert found.excess == pytest.approx(2**0.5)
    layer.running_var.fill_(2.0)
    assert distance(layer, x).scale == pytest.approx(((1**2 + 0.5**2) / 2) ** 0.5)


@pytest.mark.parametrize("shape", [(500, 8), (20, 8, 5, 5)])
def test_independent_values_have_an_excess_of_one(shape):
    generator = torch.Generator().manual_seed(0)
    layer = BatchNorm(8)  # its running statistics are those of the distribution: 0 and 1
    seen = [distance(layer, torch.randn(shape, generator=generator)).excess for _ in range(200)]
    assert sum(seen) / 200 == pytest.approx(1, abs=0.05)


def test_values_that_are_equal_within_an_example_have_an_excess_of_the_root_of_their_number():
    generator = torch.Generator().manual_seed(0)
    layer = BatchNorm(8)
    seen = [
        distance(layer, torch.randn((40, 8, 1), generator=generator).expand(-1, -1, 16)).excess
        for _ in range(200)
    ]
    assert sum(seen) / 200 == pytest.approx(4, rel=0.05)


def test_a_watch_sees_training_batches_before_they_count():
    layer = FusedBatchNorm(3, momentum=1.0)
    watch = Watch(torch.nn.Sequential(layer))
    first, second = torch.randn(2, 50, 3, generator=torch.Generator().manual_seed(1))
    layer(first)
    layer(second)
    layer.eval()(first)
    assert len(watch.seen) == 2
    expected = ((second.mean(0) - first.mean(0)) / first.std(0)).square().mean().sqrt()
    assert watch.seen[1].mean == pytest.approx(float(expected), rel=1e-5)


def test_power_norm_has_a_distance_of_its_quadratic_mean():
    layer = PowerNorm(2)
    layer.running_square.copy_(torch.tensor([1.0, 2.0]))
    found = distance(layer, torch.tensor([[1.0, 2.0], [1.0, 2.0]]))
    assert found.scale == pytest.approx(0.5**0.5)
    assert found.mean == 0
