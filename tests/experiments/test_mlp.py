"""BN in fully connected networks: the data, the training, and the speeds."""

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from bnbook.experiments.mlp import claims
from bnbook.experiments.mlp import experiment as module
from bnbook.experiments.mlp.claims import IMAGES, RAW, TABLE, arm
from bnbook.experiments.mlp.experiment import EXPERIMENT
from bnbook.tables import choosing, right
from bnbook.tables.arms import BN, WITHOUT
from tests.judging import by_accuracy, hits

SMALL = {"seeds": (0, 1), "steps": 10, "points": 2, "hidden": (4,), "learning_rates": (0.1,)}
IMPOSSIBLE = [
    ({"arms": ("none",)}, "arms must be among"),
    ({"seeds": (0, 100)}, r"\[100\] would do both"),
]


def test_the_standardised_table_is_by_its_training_rows_alone(small):
    (x, y), (held, _), (test, labels) = module.splits(small, TABLE, "cpu")
    torch.testing.assert_close(x.mean(0), torch.zeros(30), rtol=0, atol=1e-5)
    torch.testing.assert_close(x.std(0), torch.ones(30), rtol=1e-5, atol=0)
    assert (len(y), len(held), len(test)) == (364, 91, 114)
    assert held.mean(0).abs().max() > 0.01
    assert labels.float().mean() == pytest.approx(71 / 114)


def test_the_raw_table_keeps_the_sizes_of_its_columns(small):
    (x, _), *_ = module.splits(small, RAW, "cpu")
    assert x.abs().max() == 1
    sizes = x.abs().mean(0)
    assert sizes.max() / sizes.min() > 1e5


def test_images_are_vectors(small):
    (x, y), *_ = module.splits(small, IMAGES, "cpu")
    assert x.shape == (1437 - 287, 64)
    assert set(y.tolist()) == set(range(10))


def test_training_is_that_of_a_plain_torch_network(small):
    """The same weights, minibatches and rate, with torch's layers and optimiser."""
    from dataclasses import replace

    from bnbook.layers import ensemble
    from bnbook.layers.norm import FusedBatchNorm
    from bnbook.networks.models import MLP
    from bnbook.training import fit

    run = replace(small, arms=(arm(TABLE, BN),), seeds=(3,), learning_rates=(0.1,))
    (x, y), _, (test, labels) = module.splits(run, TABLE, "cpu")
    ours = MLP(FusedBatchNorm, (3,), num_inputs=30, hidden=(4,), num_classes=2,
               init_std=ensemble.he, nonlinearity=nn.ReLU)  # fmt: skip
    net = nn.Sequential(nn.Linear(30, 4, bias=False), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2))
    with torch.no_grad():
        for theirs, mine in zip(net.parameters(), ours.parameters(), strict=True):
            theirs.copy_(mine.view_as(theirs))
    optimiser = torch.optim.SGD(net.parameters(), lr=0.1)
    for batch in fit.minibatches(len(y), 32, 10, seed=3):
        optimiser.zero_grad()
        nn.functional.cross_entropy(net(x[batch]), y[batch]).backward()
        optimiser.step()
    net.eval()
    expected = nn.functional.cross_entropy(net(test), labels).item()
    row = module.measure(run, "cpu").iloc[-1]
    found = right.unpack(row["right"])
    assert row["test"] == pytest.approx(expected, rel=1e-4)
    assert found.tolist() == (net(test).argmax(1) == labels).tolist()
    assert row["test_accuracy"] == pytest.approx(found.mean())


def made_up(halves, shares=None):
    """Losses that fall as 2^(-step / h), h the norm's, for every arm and a few seeds.

    `shares` are of 100 test examples that are right, by norm.
    """
    shares = dict.fromkeys(claims.NORMS, 0.9) | (shares or {})
    return pd.DataFrame(
        {
            "arm": arm(task, norm), "seed": seed, "learning_rate": 0.1, "tunes": seed == 9,
            "step": step, "loss": 2.0 ** (-step / halves[norm]), "validation": 1.0, "test": 1.0,
            "test_accuracy": shares[norm], "diverged_at": -1,
            "right": hits(shares[norm], 100) if step == 100 and seed != 9 else "",
        }
        for task in claims.TASKS for norm in claims.NORMS for seed in (0, 1, 9)
        for step in range(0, 101, 2)
    )  # fmt: skip


@pytest.mark.parametrize("times", [0.5, 1.0, 2.0, 4.0])
def test_speed_is_the_ratio_of_steps_to_one_loss_either_way(times):
    halves = dict.fromkeys(claims.NORMS, 20.0) | {BN: 20.0 / times}
    found = claims.speed(made_up(halves), IMAGES)
    assert found.tolist() == pytest.approx([times, times], rel=0.05)


def rates_tried(halves):
    """Runs of the choosing seed whose loss falls as 2^(-step / h), h of a task, norm and rate.

    Validation loss is lowest at the first rate of each arm; h of None is a run that diverges.
    """
    rows = [
        {
            "arm": arm(task, norm), "seed": 9, "learning_rate": rate, "tunes": True, "step": step,
            "loss": 2.0 ** (-step / h) if h else 1e-6 if step < 10 else np.nan,
            "validation": place + 1.0 if h else np.inf,
            "diverged_at": -1 if h or step < 10 else 10,
        }
        for (task, norm), tried in halves.items()
        for place, (rate, h) in enumerate(tried.items())
        for step in range(0, 101 if h else 11, 2)
    ]  # fmt: skip
    return pd.DataFrame(rows)


@pytest.mark.parametrize("quick", [5.0, 10.0, 40.0])
def test_the_fastest_rates_are_not_those_that_validation_chooses(quick):
    """Without BN a loss halves each 20 steps at rate 0.1, which is chosen, and each 10 at 0.3."""
    table = rates_tried({
        (IMAGES, WITHOUT): {0.1: 20.0, 0.3: 10.0, 1.0: None},
        (IMAGES, BN): {0.1: 20.0, 0.3: quick},
    })  # fmt: skip
    assert claims.fastest(table, IMAGES).tolist() == pytest.approx([10 / min(quick, 20)], rel=0.05)
    losses = claims.tuning_losses(table, IMAGES, WITHOUT)
    assert choosing.chosen(table)[arm(IMAGES, WITHOUT)] == 0.1
    assert losses.to_dict() == pytest.approx({0.1: 2.0**-5, 0.3: 2.0**-10})


def test_facts_hold_the_chosen_rate_against_the_fastest():
    tuned = rates_tried({
        (IMAGES, WITHOUT): {0.1: 20.0, 0.3: 10.0}, (IMAGES, BN): {0.1: 10.0, 0.3: 5.0},
        (TABLE, WITHOUT): {0.1: 10.0, 0.3: 20.0}, (TABLE, BN): {0.1: 40.0, 0.3: 20.0},
    })  # fmt: skip
    shown = made_up(dict.fromkeys(claims.NORMS, 20.0))
    kept = ~shown["tunes"] | ~shown["arm"].isin(tuned["arm"])
    facts = EXPERIMENT.facts(pd.concat([shown[kept], tuned], ignore_index=True))
    found = {name: fact["value"] for name, fact in facts.items()}
    assert found["fastest_images"] == pytest.approx(2, rel=0.05)
    assert found["fastest_table"] == pytest.approx(0.5, rel=0.05)
    assert found["tuning_loss_images_without_bn"] == pytest.approx(2.0**-5)
    assert found["lowest_loss_images_without_bn"] == pytest.approx(2.0**-10)
    assert found["lowest_rate_images_without_bn"] == found["lowest_rate_table_bn"] == 0.3
    assert found["tuning_loss_table_bn"] == pytest.approx(2.0**-2.5)
    assert found["lowest_loss_table_bn"] == pytest.approx(2.0**-5)
    assert found["tuning_loss_table_without_bn"] == pytest.approx(2.0**-10)
    assert facts["fastest_images"]["low"] is None


def test_few_test_examples_leave_open_what_seeds_agree_on(monkeypatch):
    """Two of 100 are right with BN only, at every seed: 2 points, off by 1.4."""
    table = made_up(dict.fromkeys(claims.NORMS, 20.0), {BN: 0.92})
    fact = EXPERIMENT.facts(table)["gain_images_bn"]
    half = 1.984 * 100 * np.sqrt(0.02 * 0.98 / 99)
    assert (fact["low"], fact["high"]) == pytest.approx((2 - half, 2 + half), abs=0.01)
    monkeypatch.setattr(right, "lead", by_accuracy)
    assert EXPERIMENT.facts(table)["gain_images_bn"]["low"] == pytest.approx(2)


def test_a_small_run_has_all_arms_and_its_facts(small_table):
    assert set(choosing.ends(small_table, "loss")) == set(claims.ARMS)
    assert (small_table["diverged_at"] == -1).all()
    facts = EXPERIMENT.facts(small_table)
    ends = choosing.ends(small_table, "test_accuracy")
    gain = 100 * (ends[arm(TABLE, BN)] - ends[arm(TABLE, WITHOUT)]).mean()
    assert facts["gain_table_bn"]["value"] == pytest.approx(gain, abs=1e-4)  # float32


def test_a_diverged_run_is_never_chosen():
    row = {"diverged_at": torch.tensor([3]), "at_validation": torch.tensor([0.1])}
    assert np.isinf(module._or_infinite(row))
    row["diverged_at"] = torch.tensor([-1])
    assert module._or_infinite(row) == pytest.approx(0.1)
