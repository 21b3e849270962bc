"""Synchronised and ghost batch norm against torch's kernel, and mutants that the checks catch."""

import pytest
import torch
from torch import distributed, nn

from bnbook.errors import BnbookError
from bnbook.layers import norm, synchronised
from bnbook.layers.synchronised import GhostBatchNorm, SyncBatchNorm
from bnbook.training import ranks

FEATURES = 3


def drawn(count, positions=(4,), seed=0):
    """Examples, and a cotangent of their outputs, in float64; the mean is far from 0."""
    generator = torch.Generator().manual_seed(seed)
    shape = (count, FEATURES, *positions)
    x, cotangent = torch.randn(2, *shape, generator=generator, dtype=torch.float64)
    return 2 * x + 5, cotangent


def passed(layer, x, cotangent):
    """Output, gradients of x, gamma and beta, and running statistics, after one step."""
    layer = layer.double()
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([0.5, 2.0, -1.0]))
        layer.bias.copy_(torch.tensor([1.0, 0.0, 3.0]))
    x = x.clone().requires_grad_()
    y = layer(x)
    own = torch.autograd.grad(y, (x, layer.weight, layer.bias), cotangent)
    return [y.detach(), *own, layer.running_mean, layer.running_var]


class OwnGradient(torch.autograd.Function):
    """The sum over replicas with the gradient left as it is: a mistake that is often made."""

    @staticmethod
    def forward(ctx, x):
        total = x.clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx, gradient):
        return gradient


class MeanOfMeans(SyncBatchNorm):
    """Averages the replicas' means and variances, as though these had no means of their own."""

    def forward(self, x):
        over = (0, *range(2, x.dim()))
        world = distributed.get_world_size()
        moments = torch.stack((x.mean(over), x.var(over, correction=0)))
        mu, var = synchronised._over_replicas(moments) / world
        self.track(mu, var, world * x.numel() // self.num_features)
        shaped = [norm._along_features(x, v) for v in (mu, var, self.weight, self.bias)]
        return (x - shaped[0]) * (shaped[1] + self.eps).rsqrt() * shaped[2] + shaped[3]


def on_a_replica(job):
    """One pass of this replica's share through a layer or a mutant."""
    rank, (first, stop) = distributed.get_rank(), job["shares"][distributed.get_rank()]
    x, cotangent = (each[first:stop] for each in drawn(job["count"], job["positions"]))
    if job["layer"] == "own gradient":
        synchronised._SumOverReplicas = OwnGradient
    layer = MeanOfMeans if job["layer"] == "mean of means" else SyncBatchNorm
    return {"rank": rank, "found": passed(layer(FEATURES), x, cotangent)}


def worst(layer="right", shares=((0, 3), (3, 8)), positions=(4,)):
    """Largest difference from one large minibatch, in units of the largest number there is."""
    job = {"layer": layer, "shares": [list(s) for s in shares], "count": shares[-1][1]}
    found = [
        each["found"] for each in ranks.run(on_a_replica, {**job, "positions": list(positions)}, 2)
    ]
    make = nn.BatchNorm1d if len(positions) < 2 else nn.BatchNorm2d
    expected = passed(make(FEATURES), *drawn(shares[-1][1], positions))
    y, dx = (torch.cat([replica[at] for replica in found]) for at in (0, 1))
    dgamma, dbeta = (sum(replica[at] for replica in found) for at in (2, 3))
    together = [y, dx, dgamma, dbeta, *found[0][4:]]
    if layer == "right":
        for at in (4, 5):  # running statistics are the same on every replica
            assert torch.equal(found[0][at], found[1][at])
    pairs = zip(together, expected, strict=True)
    return [float((one - other).abs().max() / other.abs().max()) for one, other in pairs]


ROUNDING = 1e-13
"""Some hundred float64 roundings: sums of 8 to 200 terms around 5, in another order."""


@pytest.mark.parametrize(
    ("shares", "positions"),
    [(((0, 3), (3, 8)), (4,)), (((0, 1), (1, 4)), ()), (((0, 4), (4, 8)), (5, 5))],
)
def test_it_is_one_large_minibatch_whatever_the_shares(shares, positions):
    """Output, three gradients with a random cotangent, and running statistics."""
    assert max(worst(shares=shares, positions=positions)) < ROUNDING


def test_the_check_catches_a_gradient_that_is_not_summed_over_replicas():
    y, dx, dgamma, dbeta, mean, var = worst("own gradient")
    assert max(y, dbeta, dgamma, mean, var) < ROUNDING
    assert dx > 1e-2


def test_the_check_catches_means_of_moments():
    y, *_, var = worst("mean of means")
    assert min(y, var) > 1e-2


def test_alone_and_in_evaluation_it_is_batch_norm():
    x, cotangent = drawn(8)
    for found, other in zip(
        passed(SyncBatchNorm(FEATURES), x, cotangent),
        passed(norm.BatchNorm(FEATURES), x, cotangent),
        strict=True,
    ):
        assert torch.equal(found, other)
    layer = SyncBatchNorm(FEATURES).double().eval()
    torch.testing.assert_close(layer(x), x / (1 + layer.eps) ** 0.5)


def test_one_value_on_all_replicas_has_no_variance():
    """Two replicas with no example but one."""
    with pytest.raises(BnbookError, match="two or more values on all replicas together"):
        ranks.run(on_a_replica, {"layer": "right", "shares": [[0, 1], [1, 1]], "count": 1,
                                 "positions": []}, 2)  # fmt: skip


@pytest.mark.parametrize("positions", [(), (4,), (3, 2)])
def test_a_ghost_is_batch_norm_of_its_part(positions):
    x, cotangent = drawn(8, positions)
    found = passed(GhostBatchNorm(FEATURES, 2), x, cotangent)
    make = nn.BatchNorm2d if len(positions) > 1 else nn.BatchNorm1d
    halves = [passed(make(FEATURES), x[at], cotangent[at]) for at in (slice(4), slice(4, 8))]
    for at in (0, 1):
        torch.testing.assert_close(found[at], torch.cat([half[at] for half in halves]))
    for at in (2, 3):
        torch.testing.assert_close(found[at], halves[0][at] + halves[1][at])
    for at in (4, 5):
        torch.testing.assert_close(found[at], halves[0][at])
    whole = passed(make(FEATURES), x, cotangent)
    assert (whole[0] - found[0]).abs().max() > 1e-2


def test_parts_must_divide_the_minibatch_and_have_a_variance():
    with pytest.raises(BnbookError, match="3 equal parts, found 8"):
        GhostBatchNorm(FEATURES, 3)(torch.zeros(8, FEATURES))
    with pytest.raises(BnbookError, match="two or more values"):
        GhostBatchNorm(FEATURES, 8)(torch.zeros(8, FEATURES))
