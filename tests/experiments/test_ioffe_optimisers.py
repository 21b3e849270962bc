"""BN with other optimisers: the training against plain torch, the shapes, and the claims."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from bnbook.experiments.ioffe_optimisers import claims
from bnbook.experiments.ioffe_optimisers import experiment as module
from bnbook.experiments.ioffe_optimisers.claims import (
    ADAGRAD,
    FULL_BATCH,
    METHODS,
    SGD,
    arm,
    pair,
)
from bnbook.experiments.ioffe_optimisers.experiment import EXPERIMENT
from bnbook.tables import choosing
from bnbook.tables.arms import RELU, SIGMOID, WITH, WITHOUT
from bnbook.training import fit
from tests.judging import by_name, criterion

SMALL = {
    "seeds": (0, 1), "steps": 6, "full_steps": 3, "points": 2, "hidden": (5, 4),
    "learning_rates": (0.1,), "train_images": 200, "validation": 60,
}  # fmt: skip
IMPOSSIBLE = [
    ({"arms": ("none",)}, "arms must be among"),
    ({"full_steps": 0}, "full_steps must be at least 1"),
    ({"seeds": (0, 100)}, r"\[100\] would do both"),
]
CLAIMS = by_name(EXPERIMENT.claims)


def one(config, name):
    return replace(config, arms=(name,), seeds=(3,))


@pytest.mark.parametrize("method", METHODS)
def test_training_is_that_of_plain_torch(small, method):
    """The same weights, images and rate, with torch's layers and the update written out."""
    run = one(small, arm(method, RELU, WITH))
    (x, y), *_, (test, labels) = module.splits(run, "cpu")
    ours = module.network(run, x.shape[1])
    net = nn.Sequential(
        nn.Linear(64, 5, bias=False), nn.BatchNorm1d(5), nn.ReLU(),
        nn.Linear(5, 4, bias=False), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 10),
    )  # fmt: skip
    with torch.no_grad():
        for theirs, mine in zip(net.parameters(), ours.parameters(), strict=True):
            theirs.copy_(mine.view_as(theirs))
    squares = [torch.zeros_like(p) for p in net.parameters()]
    everything = [torch.arange(len(y))] * 3
    batches = everything if method == FULL_BATCH else fit.minibatches(len(y), 60, 6, seed=3)
    for batch in batches:
        loss = nn.functional.cross_entropy(net(x[batch]), y[batch])
        gradients = torch.autograd.grad(loss, list(net.parameters()))
        with torch.no_grad():
            for p, g, total in zip(net.parameters(), gradients, squares, strict=True):
                total += g * g
                p -= 0.1 * (g / (total.sqrt() + 1e-10) if method == ADAGRAD else g)
    net.eval()
    row = module.measure(run, "cpu").iloc[-1]
    expected = nn.functional.cross_entropy(net(x), y).item()
    assert row["loss"] == pytest.approx(expected, rel=1e-4)
    assert row["test_accuracy"] == pytest.approx(
        (net(test).argmax(1) == labels).float().mean().item()
    )
    assert row["step"] == len(batches)


def test_both_arms_begin_with_the_same_weights_and_a_full_batch_is_all_images(small):
    networks = [module.network(one(small, name), 64) for name in pair(SGD)]
    plain, normalised = ([p for p in net.parameters() if p.dim() > 2] for net in networks)
    assert all(torch.equal(*two) for two in zip(plain, normalised, strict=True))
    (indices,) = set(map(str, module.minibatches(one(small, pair(FULL_BATCH)[0]), 200)))
    assert indices == "slice(None, None, None)"


def test_shapes_are_of_a_layers_input_and_output_in_training(small):
    """By hand, for the second of two hidden layers, with BN's statistics those of the images."""
    run = one(small, arm(SGD, SIGMOID, WITH))
    images = module.splits(run, "cpu").validation[0]
    model = module.network(run, 64)
    first, bn, g, second = model.layers()[:4]
    with torch.no_grad():
        u = g(bn(first(images)))
        wu = second(u)
    found = module.shapes(model, images)
    for of, values in (("u", u), ("wu", wu)):
        z = (values - values.mean(0)) / values.std(0, correction=0)
        assert found[f"{of}_skewness"] == pytest.approx(z.pow(3).mean(0).abs().mean().item(), 1e-3)
    assert model.training


def test_a_run_that_diverges_ends_and_is_never_chosen(small):
    run = replace(one(small, pair(FULL_BATCH)[0]), learning_rates=(1e30,))
    found = module.measure(run, "cpu")
    last = found.iloc[-1]
    assert last["diverged_at"] == last["step"] <= 3
    assert np.isinf(last["validation"])
    assert found["u_distance"].notna().tolist() == [True] + [False] * (len(found) - 1)


def made_up(times=2.0, u=0.4, wu=0.1, near=0.04):
    """Every arm's loss halves each 20 steps, with BN each 20 / times; shapes as given."""
    return pd.DataFrame(
        {
            "arm": name, "seed": seed, "learning_rate": 0.1, "tunes": seed == 9, "step": step,
            "loss": 2.0 ** (-step * (times if claims.parts(name)[2] == WITH else 1) / 20),
            "validation": 1.0, "test_accuracy": 0.9, "diverged_at": -1,
            "u_distance": u + 0.001 * seed, "wu_distance": wu, "u_near_zero": 0.5,
            "wu_near_zero": near + 0.001 * seed if name.startswith(SGD) else 0.5,
        }
        for name in claims.ARMS for seed in (0, 1, 9) for step in range(0, 201, 2)
    )  # fmt: skip


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("times", [0.5, 2.0, 4.0])
def test_speed_is_the_ratio_of_steps_to_one_loss(method, times):
    assert claims.speed(made_up(times), method).tolist() == pytest.approx([times] * 2, rel=0.05)


@pytest.mark.parametrize("method", METHODS)
def test_the_loss_over_training_is_a_ratio_of_means(method):
    steps = np.arange(2, 201, 2)
    expected = np.mean(2.0 ** (-steps / 10)) / np.mean(2.0 ** (-steps / 20))
    assert claims.course(made_up(2.0), method).tolist() == pytest.approx([expected] * 2)


def test_the_best_course_is_of_the_rates_with_the_lowest_loss_and_not_of_the_chosen():
    """Without BN the loss halves each 20 steps at the chosen rate, and each 10 at another."""
    table = made_up(4.0)
    own = table["tunes"] & (table["arm"] == pair(ADAGRAD)[0])
    faster = table[own].assign(learning_rate=0.3, validation=2.0)
    faster["loss"] = 2.0 ** (-faster["step"] / 10)
    dies = faster[faster["step"] < 6].assign(learning_rate=1.0, loss=1e-9, validation=np.inf)
    dies.loc[dies["step"] == 4, "diverged_at"] = 4
    table = pd.concat([table, faster, dies], ignore_index=True)
    steps = np.arange(2, 201, 2)
    mean = {h: np.mean(2.0 ** (-steps / h)) for h in (5, 10, 20)}
    assert choosing.chosen(table)[pair(ADAGRAD)[0]] == 0.1
    assert claims.course(table, ADAGRAD).tolist() == pytest.approx([mean[5] / mean[20]] * 2)
    assert claims.best_course(table, ADAGRAD).to_dict() == pytest.approx({9: mean[5] / mean[10]})
    assert claims.best_course(table, FULL_BATCH).to_dict() == pytest.approx({9: mean[5] / mean[20]})


@pytest.mark.parametrize("name", ["adagrad", "full_batch"])
def test_a_method_under_which_bn_fails_turns_its_claim_red(name):
    assert criterion(CLAIMS[name], made_up(2.0)).verdict == "reproduced"
    assert criterion(CLAIMS[name], made_up(0.1)).verdict == "not reproduced"
    own = ADAGRAD if name == "adagrad" else FULL_BATCH
    table = made_up(2.0)
    stalled = (table["arm"] == arm(own, RELU, WITH)) & (table["step"] > 0)
    table.loc[stalled, "loss"] = 0.9
    assert criterion(CLAIMS[name], table).verdict == "not reproduced"


@pytest.mark.parametrize("name", ["gaussian_relu", "gaussian_sigmoid"])
def test_the_claim_of_shapes_turns_red_where_wu_is_further(name):
    assert criterion(CLAIMS[name], made_up()).verdict == "reproduced"
    assert criterion(CLAIMS[name], made_up(u=0.1, wu=0.2)).verdict == "not reproduced"


def test_the_sparsest_network_is_judged():
    table = made_up()
    assert claims.sparsest(table).tolist() == pytest.approx([4.0, 4.1])
    table.loc[table["arm"] == arm(SGD, SIGMOID, WITHOUT), "wu_near_zero"] = 0.3
    assert criterion(CLAIMS["not_sparse"], table).verdict == "not reproduced"


def test_an_untrained_network_leaves_claims_untested(small_table):
    found = {claim.id: claim.premises[-1].find(small_table) for claim in EXPERIMENT.claims}
    assert not any(premise["holds"] for premise in found.values())


def test_facts(small_table):
    facts = EXPERIMENT.facts(small_table)
    assert facts["steps"]["value"] == 6
    assert facts["full_steps"]["value"] == 3
    ends = choosing.ends(small_table, "test_accuracy")
    assert facts["adagrad_with"]["value"] == pytest.approx(100 * ends[pair(ADAGRAD)[1]].mean())
    start = claims.shape(small_table, "u_distance", pair(SGD)[1], start=True)
    rows = small_table[
        (small_table["arm"] == pair(SGD)[1]) & ~small_table["tunes"] & (small_table["step"] == 0)
    ]
    assert start.mean() == pytest.approx(rows["u_distance"].mean())
