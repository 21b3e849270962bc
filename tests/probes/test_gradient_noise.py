"""The noise of minibatches: exact expectations, every subset, and what happens without the sum."""

import contextlib
import itertools

import pytest
import torch

from bnbook.errors import BnbookError
from bnbook.layers import ensemble
from bnbook.layers.norm import BatchNorm, FusedBatchNorm
from bnbook.networks import models
from bnbook.probes import gradient_noise
from bnbook.probes.curvature import flattened


def gradients(members=1, total=6, size=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return 3 + torch.randn(members, total, size, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_the_exact_factor_is_the_mean_over_every_subset(size):
    """All subsets, listed: (N - b)/(N - 1) without replacement, not (N - b)/N."""
    (g,) = gradients()
    deviations = g - g.mean(0)
    noise = [
        deviations[list(chosen)].mean(0).square().sum()
        for chosen in itertools.combinations(range(6), size)
    ]
    c = gradient_noise.spread(g[None])[0]
    ratio = (torch.stack(noise).mean() * size / c).item()
    assert ratio == pytest.approx((6 - size) / 5)
    assert abs(ratio - (6 - size) / 6) > 1e-3 or size == 6


def test_with_replacement_the_bound_is_met():
    (g,) = gradients()
    deviations = g - g.mean(0)
    noise = [
        deviations[list(chosen)].mean(0).square().sum()
        for chosen in itertools.product(range(6), repeat=2)
    ]
    c = gradient_noise.spread(g[None])[0]
    assert (torch.stack(noise).mean() * 2 / c).item() == pytest.approx(1)


def test_measured_noise_has_the_exact_factor_for_each_member():
    found = gradient_noise.over_bound(gradients(2, 40, 200), (4, 10, 20, 40), 3000)
    expected = torch.tensor([36 / 39, 30 / 39, 20 / 39, 0], dtype=torch.float64).expand(2, 4)
    torch.testing.assert_close(found, expected, atol=0.02, rtol=0)


def test_correlated_draws_break_the_bound():
    """Minibatches of neighbours in order, when neighbours are alike: far above C/b."""
    g = gradients(1, 8, 5).repeat_interleave(8, 1)
    blocks = (g[0] - g[0].mean(0)).unflatten(0, (8, 8)).mean(1)
    assert (blocks.square().sum(1).mean() * 8 / gradient_noise.spread(g)[0]).item() > 7


def test_subsets_have_no_image_twice_and_every_image_alike():
    drawn = gradient_noise.subsets(10, 4, 5000, 0)
    assert all(len(set(row)) == 4 for row in drawn.tolist())
    share = torch.bincount(drawn.flatten(), minlength=10) / 5000
    torch.testing.assert_close(share, torch.full((10,), 0.4), atol=0.03, rtol=0)
    with pytest.raises(BnbookError, match=r"size must lie in \[1, 10\], found 11"):
        gradient_noise.subsets(10, 11, 1, 0)


@pytest.fixture(scope="module")
def example():
    images = torch.randn(8, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    model = models.ResNet(FusedBatchNorm, (0, 1), n=1, in_channels=1, widths=(2, 2, 4))
    model.train()(images)  # moves the running statistics
    return model, images, torch.arange(8) % 10


def test_gradients_of_examples_average_to_that_of_the_batch(example):
    model, images, labels = example
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = gradient_noise.per_example(model, images, labels)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert {layer.momentum for layer in model.modules() if isinstance(layer, BatchNorm)} == {0.1}
    gradient_noise._fix_statistics(model, images)
    losses = ensemble.cross_entropy(model(images), labels)
    whole = flattened(torch.autograd.grad(losses.sum(), list(model.parameters())), 2)
    first = model.stem(images)
    torch.testing.assert_close(model.stem_norm.running_mean, first.mean((0, 2, 3)))
    model.load_state_dict(before)
    model.train()
    torch.testing.assert_close(found.mean(1), whole, rtol=1e-4, atol=1e-6)
    assert all(p.grad is None for p in model.parameters())


def test_steps_as_trained_without_bn_are_the_sum_again(example):
    """Without BN both measures draw the same subsets of the same gradients."""
    _, images, labels = example
    model = models.ResNet(None, (0, 1), n=1, in_channels=1, widths=(2, 2, 4))
    own = gradient_noise.per_example(model, images, labels)
    c = gradient_noise.spread(own)
    trained = gradient_noise.as_trained_over_bound(model, (images, labels), c, (2, 4), 30, seed=3)
    torch.testing.assert_close(
        trained, gradient_noise.over_bound(own, (2, 4), 30, seed=3), rtol=1e-3, atol=1e-4
    )


def test_steps_as_trained_have_bns_own_statistics_and_leave_no_trace(example):
    model, images, labels = example
    before = {name: value.clone() for name, value in model.state_dict().items()}
    c = gradient_noise.spread(gradient_noise.per_example(model, images, labels))
    found = gradient_noise.as_trained_over_bound(model, (images, labels), c, (2, 8), 4)
    assert found[:, 1].max() < 1e-8  # the whole set is one minibatch, and no noise
    assert found[:, 0].min() > 0
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def measured(which, model, images, labels):
    if which == "per_example":
        return gradient_noise.per_example(model, images, labels)
    c = torch.ones(2, dtype=torch.float64)
    return gradient_noise.as_trained_over_bound(model, (images, labels), c, (2, 4), 3)


def fingerprint(model):
    """All that a measurement must leave: values, flags, momenta, gradients, random numbers."""
    layers = [layer for layer in model.modules() if isinstance(layer, BatchNorm)]
    return {
        **{name: value.clone() for name, value in model.state_dict().items()},
        "flags": torch.tensor([module.training for module in model.modules()]),
        "momenta": torch.tensor([layer.momentum for layer in layers]),
        "gradients": torch.tensor([p.grad is not None for p in model.parameters()]),
        "random": torch.random.get_rng_state(),
    }


def changed(model, before):
    after = fingerprint(model)
    return {name for name, value in before.items() if not torch.equal(after[name], value)}


@pytest.mark.parametrize("which", ["per_example", "as_trained"])
def test_measuring_leaves_the_network_bit_equal(example, which):
    model, images, labels = example
    model.train()
    model.blocks[1].eval()  # a mixture of flags, as no measurement would make it
    before = fingerprint(model)
    measured(which, model, images, labels)
    assert changed(model, before) == set()
    model.train()


@pytest.mark.parametrize("which", ["per_example", "as_trained"])
def test_a_measurement_that_does_not_restore_is_found_out(example, which, monkeypatch):
    model, images, labels = example
    kept = {name: value.clone() for name, value in model.state_dict().items()}
    monkeypatch.setattr(gradient_noise, "undisturbed", contextlib.nullcontext)
    before = fingerprint(model.eval())
    measured(which, model, images, labels)
    assert "stem_norm.running_mean" in changed(model, before)
    model.load_state_dict(kept)
    model.train()


@pytest.mark.parametrize("which", ["per_example", "as_trained"])
def test_a_forward_pass_that_fails_leaves_the_network_bit_equal(example, which):
    """The second of three stages raises, when the layers before have met the images."""
    model, images, labels = example
    model.train()
    before = fingerprint(model)

    def fail(*_):
        raise FloatingPointError

    with contextlib.ExitStack() as hooks:
        hooks.callback(model.blocks[1].register_forward_hook(fail).remove)
        with pytest.raises(FloatingPointError):
            measured(which, model, images, labels)
    assert changed(model, before) == set()


def test_statistics_that_are_not_fixed_are_found_out(example, monkeypatch):
    """Each image with its own statistics: the gradients no longer average to the whole one."""
    model, _, labels = example
    images = torch.randn(8, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    right = gradient_noise.per_example(model, images, labels).mean(1)
    monkeypatch.setattr(gradient_noise, "_fix_statistics", lambda net, _: net.train())
    wrong = gradient_noise.per_example(model, images, labels).mean(1)
    assert ((wrong - right).norm(dim=1) / right.norm(dim=1)).min() > 0.1
