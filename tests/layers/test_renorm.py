"""BN of replicas, batch renormalisation and late freezing, against closed forms and plain BN."""

import math

import pytest
import torch

from bnbook.errors import BnbookError
from bnbook.layers.norm import BatchNorm
from bnbook.layers.renorm import BatchRenorm, LateFrozenBatchNorm, ReplicaBatchNorm

SHAPE = (8, 3, 2, 4)
CLOSE = {"rtol": 1e-10, "atol": 1e-12}


def drawn(shape=SHAPE, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return 2 * torch.randn(shape, generator=generator, dtype=torch.float64) + 1


def with_affine(layer):
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([0.5, 1.5, -1.0]))
        layer.bias.copy_(torch.tensor([0.1, -0.2, 0.3]))
    return layer.double()


def outcome(layer, x):
    """Output and gradients for one random cotangent."""
    x = x.clone().requires_grad_()
    y = layer(x)
    cotangent = drawn(y.shape, seed=7)
    return y, *torch.autograd.grad((y * cotangent).sum(), [x, layer.weight, layer.bias])


@pytest.mark.parametrize("m", [2, 4, 8])
def test_replicas_are_batch_norm_of_each_part(m):
    x, layer, plain = drawn(), with_affine(ReplicaBatchNorm(3, m)), with_affine(BatchNorm(3))
    y, dx, dgamma, dbeta = outcome(layer, x)
    parts = [part.clone().requires_grad_() for part in x.split(m)]
    expected = torch.cat([plain(part) for part in parts])
    wanted = torch.autograd.grad(
        (expected * drawn(y.shape, seed=7)).sum(), [*parts, plain.weight, plain.bias]
    )
    torch.testing.assert_close(y, expected, **CLOSE)
    torch.testing.assert_close(dx, torch.cat(wanted[:-2]), **CLOSE)
    torch.testing.assert_close((dgamma, dbeta), wanted[-2:], **CLOSE)


@pytest.mark.parametrize("every", [False, True])
def test_running_statistics_are_the_first_replicas_or_the_mean_of_all(every):
    layer, x = ReplicaBatchNorm(3, 2, momentum=0.25).double(), drawn()
    layer.every_replica = every
    layer(x)
    parts = x.split(2) if every else [x[:2]]
    mean = torch.stack([part.mean((0, 2, 3)) for part in parts]).mean(0)
    var = torch.stack([part.var((0, 2, 3), correction=1) for part in parts]).mean(0)
    torch.testing.assert_close(layer.running_mean, 0.25 * mean, **CLOSE)
    torch.testing.assert_close(layer.running_var, 0.75 + 0.25 * var, **CLOSE)


def test_one_replica_with_momentum_none_is_algorithm_2():
    layer, batches = ReplicaBatchNorm(3, 4, momentum=None).double(), drawn((40, 3)).split(8)
    layer.every_replica = True
    for batch in batches:
        layer(batch)
    parts = torch.cat(batches).view(10, 4, 3)
    torch.testing.assert_close(layer.running_mean, parts.mean((0, 1)), **CLOSE)
    torch.testing.assert_close(layer.running_var, parts.var(1, correction=1).mean(0), **CLOSE)


def test_renorm_with_open_bounds_normalises_with_the_running_statistics():
    layer = with_affine(BatchRenorm(3, 2, r_max=1e6, d_max=1e6))
    layer.running_mean.fill_(0.7)
    layer.running_var.fill_(2.5)
    x, frozen = drawn(), with_affine(BatchNorm(3)).eval()
    frozen.load_state_dict(layer.state_dict())
    torch.testing.assert_close(layer(x), frozen(x), **CLOSE)


def test_renorms_gradient_is_batch_norms_times_r():
    x, layer, plain = drawn(), with_affine(BatchRenorm(3, 8)), with_affine(BatchNorm(3))
    layer.running_var.fill_(1e9)  # r stops at 1 / r_max, d at almost 0
    _, dx, _, _ = outcome(layer, x)
    _, expected, _, _ = outcome(plain, x)
    torch.testing.assert_close(dx, expected / layer.r_max, **CLOSE)


def test_a_renorm_whose_r_and_d_carry_a_gradient_is_caught():
    """The mutant: what the running statistics give, its gradient too."""
    x, layer = drawn(), with_affine(BatchRenorm(3, 8, r_max=1e6, d_max=1e6))
    _, dx, _, _ = outcome(layer, x)
    mutant = with_affine(BatchNorm(3)).eval()
    _, wrong, _, _ = outcome(mutant, x)
    assert (dx - wrong).abs().max() > 0.1


def test_clipped_r_and_d_by_hand():
    layer = BatchRenorm(1, r_max=2.0, d_max=0.5, eps=1e-12).double()
    x = torch.tensor([[0.0], [20.0]], dtype=torch.float64)  # mean 10, deviation 10; sigma 1
    expected = torch.tensor([[-1.0], [1.0]], dtype=torch.float64) * 2.0 + 0.5
    torch.testing.assert_close(layer(x), expected, **CLOSE)


@pytest.mark.parametrize(
    ("steps", "bounds"), [(0, (1, 0)), (10, (1, 0)), (15, (2, 2.5)), (20, (3, 5)), (99, (3, 5))]
)
def test_the_bounds_grow_between_begin_and_end(steps, bounds):
    layer = BatchRenorm(3, begin=10, end=20)
    layer.num_batches_tracked.fill_(steps)
    assert layer.bounds() == pytest.approx(bounds)


def test_renorm_starts_as_batch_norm():
    x, layer, plain = drawn(), with_affine(BatchRenorm(3, begin=1, end=2)), BatchNorm(3)
    for mine, theirs in zip(outcome(layer, x), outcome(with_affine(plain), x), strict=True):
        torch.testing.assert_close(mine, theirs, **CLOSE)


def test_late_freezing_trains_and_evaluates_alike_from_its_step_on():
    layer = with_affine(LateFrozenBatchNorm(3, 2, freeze_at=3))
    for seed in range(3):
        layer(drawn(seed=seed))
    held, x = layer.running_mean.clone(), drawn(seed=9)
    trained = layer(x)
    assert torch.equal(layer.running_mean, held)
    torch.testing.assert_close(trained, layer.eval()(x), **CLOSE)
    trained.sum().backward()
    assert layer.weight.grad.abs().max() > 0


def test_before_its_step_late_freezing_is_batch_norm_of_replicas():
    x = drawn()
    early = with_affine(LateFrozenBatchNorm(3, 2, freeze_at=1))(x)
    torch.testing.assert_close(early, with_affine(ReplicaBatchNorm(3, 2))(x), **CLOSE)


def test_what_does_not_fit_is_refused():
    with pytest.raises(BnbookError, match="whole replicas of 3 examples, found 8"):
        ReplicaBatchNorm(3, 3)(drawn().float())
    with pytest.raises(BnbookError, match="two or more values"):
        ReplicaBatchNorm(3, 1)(torch.randn(4, 3))
    for wrong in ({"r_max": 0.5}, {"d_max": -1.0}, {"begin": 2, "end": 1}, {"r_max": math.nan}):
        with pytest.raises(BnbookError, match="r_max must be at least 1"):
            BatchRenorm(3, **wrong)
