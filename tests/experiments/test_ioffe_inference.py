"""Statistics for inference: the aggregates against closed forms, and small real runs."""

from functools import partial
from itertools import product

import pandas as pd
import pytest
import torch
from torch import nn

from bnbook import formulas
from bnbook.errors import BnbookError
from bnbook.experiments.ioffe_inference import claims as analysis
from bnbook.experiments.ioffe_inference import experiment as inference
from bnbook.experiments.ioffe_inference.experiment import EXPERIMENT as INFERENCE
from bnbook.layers import norm
from bnbook.layers.precise import PreciseBN
from bnbook.networks import models
from bnbook.probes import measurements
from bnbook.tables import arms
from tests.judging import criterion

SMALL = {
    "data": "digits", "examples": 80, "validation": 100, "seeds": (0, 1),
    "learning_rates": (0.1, 0.3), "batch_sizes": (2, 8), "momenta": (0.01, 0.1, 1.0),
    "widths": (4, 4), "pool": 2, "population": 200,
}  # fmt: skip
IMPOSSIBLE = [
    ({"batch_sizes": (4, 8)}, "batch_sizes must hold 2"),
    ({"batch_sizes": (1, 2)}, "batch_sizes must be at least 2"),
    ({"momenta": (0.01,)}, r"momenta must hold 0.1"),
    ({"momenta": (0.0, 0.1)}, r"must lie in \(0, 1\]"),
    ({"momenta": (0.1, 1.5)}, r"must lie in \(0, 1\]"),
    ({"batch_sizes": (2, 5000)}, "at most examples, validation and population"),
]
(GAP,) = INFERENCE.claims
KINDS = (arms.ALGORITHM_2, arms.NO_FACTOR, arms.POOLED, arms.BOTH)


def made_up(gap=0.02, better=0.3):
    """A table whose truth is known: Algorithm 2 is `gap` ahead at m = 2, none at m = 8."""
    rows = []
    for seed in (0, 1, 2):
        for m in (2, 8):
            for rate in (0.1, 0.3):
                base = 0.8 + 0.001 * seed + (0.05 if rate == better else 0)
                own = {"batch_size": m, "seed": seed, "learning_rate": rate, "shift": "none"}
                running = {**own, "statistics": arms.RUNNING, "validation_accuracy": base}
                rows.append({**running, "momentum": 0.1, "test_accuracy": base})
                rows.append({**running, "momentum": 1.0, "test_accuracy": 0.1})
                ahead = base + (gap if m == 2 else 0) + 0.0001 * seed
                rows.append({**own, "statistics": arms.ALGORITHM_2, "test_accuracy": ahead})
    return pd.DataFrame(rows)


def test_the_measure_on_a_table_with_known_truth():
    table = made_up()
    assert analysis.tuned_rates(table) == {2: 0.3, 8: 0.3}
    assert analysis.inference_gap(table).tolist() == pytest.approx([2.0, 2.01, 2.02])
    assert criterion(GAP, table).verdict == "reproduced"


def test_the_claim_turns_red_when_the_running_average_is_better():
    assert criterion(GAP, made_up(gap=-0.02)).verdict == "not reproduced"


def test_rates_are_tuned_on_validation_never_on_test():
    table = made_up()
    table.loc[table["learning_rate"] == 0.1, "test_accuracy"] = 0.99
    assert analysis.tuned_rates(table)[2] == 0.3


@pytest.fixture(scope="module")
def trained():
    """A small network of two members that is not at its start, and images."""
    torch.manual_seed(0)
    model = models.ConvNet(norm.BatchNorm, (0, 1), in_channels=1, widths=(3, 4))
    images = torch.randn(24, 1, 6, 6) * torch.rand(24, 1, 1, 1)
    with torch.no_grad():
        for layer in inference.norms_of(model):
            layer.weight.uniform_(0.5, 1.5)
            layer.bias.uniform_(-0.5, 0.5)
    return model, images


@torch.no_grad()
def inputs_by_hand(model, images, m):
    """What each BN layer receives, minibatch by minibatch, in training."""
    seen = {layer: [] for layer in inference.norms_of(model)}
    hooks = [
        layer.register_forward_pre_hook(lambda own, x: seen[own].append(x[0])) for layer in seen
    ]
    with measurements.undisturbed(model):
        model.train()
        for batch in images.split(m):
            model(batch)
    for hook in hooks:
        hook.remove()
    return [
        torch.stack([x.movedim(1, -1).flatten(0, 2) for x in batches]).double().numpy()
        for batches in seen.values()
    ]


@pytest.mark.parametrize("m", [2, 4, 24])
def test_statistics_are_those_of_a_network_in_training(trained, m):
    model, images = trained
    with torch.no_grad():
        found = inference.batch_statistics(model, images, m)
    for layer, rows in zip(found, inputs_by_hand(model, images, m), strict=True):
        mean, var = formulas.batch_statistics(rows)
        torch.testing.assert_close(layer.mean.double(), torch.tensor(mean), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(layer.var.double(), torch.tensor(var), rtol=1e-4, atol=1e-5)
        assert layer.values == rows.shape[1]


@pytest.mark.parametrize("m", [2, 8])
def test_aggregates_are_the_formulas_and_precise_bn(trained, m):
    model, images = trained
    rows = inputs_by_hand(model, images, m)
    with torch.no_grad():
        found = inference.batch_statistics(model, images, m)
    made = {kind: inference.aggregated(found, kind) for kind in KINDS}
    for kind, expected in (
        (arms.ALGORITHM_2, formulas.population_statistics),
        (arms.POOLED, formulas.pooled_statistics),
    ):
        precise = PreciseBN(model, between_batches=kind == arms.POOLED).measure(images.split(m))
        for own, x, theirs in zip(made[kind], rows, precise.values(), strict=True):
            mean, var = (torch.tensor(v) for v in expected(x))
            torch.testing.assert_close(own.mean.double(), mean, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(own.var.double(), var, rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(theirs.var, var, rtol=1e-4, atol=1e-5)
    for at, x in enumerate(rows):
        n = x.shape[1]
        plain, pooled = (made[kind][at].var for kind in (arms.NO_FACTOR, arms.POOLED))
        torch.testing.assert_close(made[arms.ALGORITHM_2][at].var, n / (n - 1) * plain)
        extra = made[arms.BOTH][at].var - made[arms.ALGORITHM_2][at].var
        torch.testing.assert_close(extra, pooled - plain, rtol=1e-3, atol=1e-5)


def test_pooling_the_first_layer_is_the_whole_set_exactly_and_algorithm_2_is_not(trained):
    """Values of one image are not independent: the factor m'/(m'-1) does not make up for it."""
    model, images = trained
    with torch.no_grad():
        found = inference.batch_statistics(model, images, 2)
        everything = inference.batch_statistics(model, images, len(images))
    whole = everything[0].var[0]
    pooled, population = (
        inference.aggregated(found, kind)[0].var for kind in (arms.POOLED, arms.ALGORITHM_2)
    )
    torch.testing.assert_close(pooled, whole, rtol=1e-5, atol=0)
    assert (population / whole - 1).abs().max() > 0.01


def test_layer_by_layer_with_one_minibatch_is_the_whole_set(trained):
    model, images = trained
    with torch.no_grad():
        own = inference.layer_by_layer(model, images, len(images))
        whole = inference.aggregated(
            inference.batch_statistics(model, images, len(images)), arms.ALGORITHM_2
        )
    # The layer below is replaced with the unbiased variance, training has the biased one.
    torch.testing.assert_close(own[0].var, whole[0].var)
    torch.testing.assert_close(own[1].var, whole[1].var, rtol=0.02, atol=0)


def test_running_averages_at_several_momenta_are_those_of_plain_layers():
    momenta = (0.01, 0.1, 1.0)
    many = inference._tracking(momenta)(6)
    plain = [norm.BatchNorm(6, momentum=momentum) for momentum in momenta]
    generator = torch.Generator().manual_seed(0)
    for _ in range(10):
        x = 3 + torch.randn((5, 6, 2, 2), generator=generator)
        outputs = [layer(x) for layer in (many, *plain)]
        assert all(torch.equal(outputs[0], y) for y in outputs[1:])
    for at, layer in enumerate(plain):
        torch.testing.assert_close(many.means[:, at], layer.running_mean)
        torch.testing.assert_close(many.variances[:, at], layer.running_var)


def test_shifts(small):
    images = torch.rand(3, 1, 4, 4)
    assert torch.equal(inference.shifted(images, "inversion", small, 1), 1 - images)
    assert torch.equal(inference.shifted(images, "contrast", small, 1), 0.3 * images)
    noise = inference.shifted(torch.zeros(100, 1, 8, 8), "noise", small, 1)
    assert noise.std().item() == pytest.approx(0.5, rel=0.05)
    assert torch.equal(inference.shifted(images, "noise", small, 1),
                       inference.shifted(images, "noise", small, 1))  # fmt: skip


def test_a_small_run_has_every_statistics_and_shift(small_table):
    keys = ["batch_size", "seed", "learning_rate", "statistics", "momentum", "shift"]
    assert not small_table.duplicated(keys).any()
    assert len(small_table) == 2 * 2 * 2 * (3 + 6 + 2 + 2 * len(arms.SHIFTS))
    assert (small_table["diverged_at"] == -1).all()
    whole = small_table[small_table["statistics"] == arms.WHOLE]
    assert whole["mean_error"].max() == 0 == whole["variance_error"].max()


def test_the_mean_over_disjoint_minibatches_is_the_whole_sets(small_table):
    rows = small_table[small_table["statistics"] == arms.POOLED]
    assert rows["mean_error"].max() < 0.02
    assert rows["variance_error"].max() < 0.02


def test_less_contrast_is_undone_by_new_statistics():
    """A positive factor on the images changes no normalised value, but for eps."""
    config = INFERENCE.configure("quick", **{**SMALL, "contrast": 0.3})
    model = models.ConvNet(partial(norm.BatchNorm, eps=1e-12), (0,), in_channels=1, widths=(4, 4))
    images = torch.rand(16, 1, 8, 8)
    with torch.no_grad():
        plain, moved = (
            inference._grouped(model, x, 16)[1]
            for x in (images, inference.shifted(images, "contrast", config, 1))
        )
    torch.testing.assert_close(plain, moved, rtol=1e-4, atol=1e-5)


def test_accuracy_is_that_of_a_plain_torch_network_with_the_same_statistics():
    config = INFERENCE.configure(
        "quick", **{**SMALL, "seeds": (0,), "learning_rates": (0.1,), "batch_sizes": (2,)}
    )
    table = INFERENCE.run(config, "cpu")
    from bnbook.layers import ensemble
    from bnbook.training import fit

    split = inference.splits(config, torch.device("cpu"))
    images, labels = split.train
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3, 1, 1, bias=False), nn.BatchNorm2d(4), nn.ReLU(),
        nn.Conv2d(4, 4, 3, 2, 1, bias=False), nn.BatchNorm2d(4), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10),
    )  # fmt: skip
    ours = models.ConvNet(norm.BatchNorm, (0,), in_channels=1, widths=(4, 4))
    assert isinstance(ours.output, ensemble.Linear)
    with torch.no_grad():
        for theirs, mine in zip(net.parameters(), ours.parameters(), strict=True):
            theirs.copy_(mine.view_as(theirs))
    optimiser = torch.optim.SGD(net.parameters(), lr=0.1)
    for batch in fit.minibatches(len(labels), 2, 40, seed=0):
        optimiser.zero_grad()
        nn.functional.cross_entropy(net(images[batch]), labels[batch]).backward()
        optimiser.step()
    net.eval()
    right = (net(split.test[0]).argmax(1) == split.test[1]).float().mean().item()
    row = table.query("statistics == @arms.RUNNING and momentum == 0.1")
    assert row["test_accuracy"].item() == pytest.approx(right, abs=0.02)


def test_facts(small_table):
    facts = INFERENCE.facts(small_table)
    assert facts["smallest_batch"]["value"] == 2
    gap = facts["small_algorithm_2"]["value"] - facts["small_running"]["value"]
    assert gap == pytest.approx(analysis.inference_gap(small_table).mean())
    for shift in arms.SHIFTS:
        before, adapted = (facts[f"{shift}_{key}"]["value"] for key in ("before", "adapted"))
        assert facts[f"{shift}_gain"]["value"] == pytest.approx(adapted - before)
    assert facts["small_no_factor_variance"]["value"] > 1
    assert all(fact["value"] is not None for fact in facts.values())


def test_what_new_statistics_gain_on_changed_images():
    rows = []
    for seed, shift in product((0, 1, 2), arms.SHIFTS):
        after = 0.4 if shift == "inversion" else 0.7 + 0.01 * seed
        for of, right in ((arms.ALGORITHM_2, 0.5), (arms.ADAPTED, after)):
            rows.append({
                "batch_size": 8, "seed": seed, "learning_rate": 0.3, "shift": shift,
                "statistics": of, "test_accuracy": right,
            })  # fmt: skip
    table = pd.concat([made_up(), pd.DataFrame(rows)], ignore_index=True)
    facts = analysis._shifted(table, 8)
    assert facts["noise_gain"]["value"] == pytest.approx(21)
    assert facts["noise_gain"]["low"] < 21 < facts["noise_gain"]["high"]
    assert facts["noise_adapted"]["value"] == pytest.approx(71)
    assert facts["inversion_gain"]["value"] == pytest.approx(-10)


def test_too_much_validation():
    with pytest.raises(BnbookError, match="set aside from 1 to 1436 of the 1437"):
        INFERENCE.run(INFERENCE.configure("quick", **{**SMALL, "validation": 1437}))
