"""Small ConvNets: the climb to a rate, evaluation among mates, population statistics."""

from dataclasses import dataclass

import pandas as pd
import pytest
import torch

from bnbook.errors import BnbookError
from bnbook.layers.norm import BatchNorm
from bnbook.layers.precise import PreciseBN
from bnbook.networks import models
from bnbook.probes import measurements
from bnbook.setups import convnets
from bnbook.setups.convnets import ConvSetting
from bnbook.tables import climbed
from bnbook.tables.arms import BN, GROUP_NORM

GRID = (0.01, 0.03, 0.1, 0.3, 1.0)


@dataclass(frozen=True, kw_only=True)
class Setting(ConvSetting):
    arms: tuple[str, ...] = (BN,)


SETTING = Setting(
    data="digits", validation=50, seeds=(0, 1), learning_rates=GRID, tuning_seeds=(7, 8),
    train_images=100, test_images=50, examples=64,
)  # fmt: skip


def climbed_by(score):
    """Every rate that the climb tries, and the one that it chooses."""
    scores = {}
    while rates := convnets.climb(GRID, scores):
        scores |= {rate: score(rate) for rate in rates}
    return set(scores), convnets.best(scores)


@pytest.mark.parametrize(
    ("top", "tried"),
    [(0.1, {0.03, 0.1, 0.3}), (0.03, {0.01, 0.03, 0.1, 0.3}), (1.0, {0.03, 0.1, 0.3, 1.0})],
)
def test_the_climb_goes_on_until_the_best_has_a_worse_rate_on_both_sides(top, tried):
    found = climbed_by(lambda rate: -abs(GRID.index(rate) - GRID.index(top)))
    assert found == (tried, top)


def test_of_equals_the_smallest_rate_is_taken():
    assert climbed_by(lambda _: 0.5) == (set(GRID[:4]), 0.01)
    assert convnets.climb((0.1,), {0.1: 0.5}) == ()


def test_judging_seeds_run_when_the_rate_is_chosen_and_choose_nothing():
    table, asked = pd.DataFrame(), []
    cells = {(BN,): {"arms": (BN,)}}
    while runs := convnets.rounds(SETTING, table, cells, ("arm",)):
        assert not set(runs) & set(asked)
        asked += runs
        rows = [
            {
                "arm": BN,
                "seed": run.seeds[0],
                "tunes": run.seeds[0] in run.tuning_seeds,
                "learning_rate": run.learning_rates[0],
                # the judging seeds would have it otherwise
                "validation_accuracy": run.learning_rates[0] * (1 - 2 * (run.seeds[0] < 7)),
            }
            for run in runs
        ]
        table = pd.concat([table, pd.DataFrame(rows)], ignore_index=True)
    assert climbed.judged(table)["learning_rate"].tolist() == [1.0, 1.0]
    assert len(asked) == 2 * 4 + 2
    holds, found, _ = climbed.inside(table, {"BN": {"arm": BN}})
    assert (holds, found) == (False, "BN at 1")
    assert climbed.inside(table.assign(learning_rate=0.1), {"BN": {"arm": BN}})[0] is False
    moved = table.replace({"learning_rate": {1.0: 0.3, 0.3: 1.0}})
    assert climbed.inside(moved, {"BN": {"arm": BN}})[0]


@pytest.mark.parametrize(
    ("changes", "says"),
    [({"tuning_seeds": (1, 9)}, "would do both"), ({"learning_rates": (0.3, 0.1)}, "must rise")],
)
def test_impossible_searches(changes, says):
    from dataclasses import replace

    with pytest.raises(BnbookError, match=says):
        replace(SETTING, **changes).check_seeds()


@pytest.fixture
def model():
    """Two members with BN of replicas of 4, not at their start, and images."""
    torch.manual_seed(0)
    model = convnets.network(BN, (0, 1), 1, SETTING, 4)
    with torch.no_grad():
        for layer in convnets.replica_layers(model):
            layer.weight.uniform_(0.5, 1.5)
            layer.bias.uniform_(-0.5, 0.5)
    return model, torch.randn(26, 1, 6, 6) * torch.rand(26, 1, 1, 1), torch.randint(10, (26,))


def plain(model):
    """The same members with BN of the whole minibatch."""
    found = models.ConvNet(BatchNorm, (0, 1), in_channels=1, widths=SETTING.widths)
    found.load_state_dict(model.state_dict())
    return found


def test_among_mates_each_replica_goes_through_by_itself(model):
    model, images, labels = model
    before = [buffer.clone() for buffer in model.buffers()]
    found = convnets.right_with_mates(model, images, labels, chunk=10)
    one = plain(model).train()
    with torch.no_grad():
        scores = torch.cat([one(images[i : i + 4]) for i in range(0, 24, 4)])
    assert torch.equal(found, (scores.argmax(-1) == labels[:24, None]).T)
    assert all(torch.equal(a, b) for a, b in zip(before, model.buffers(), strict=True))
    forgotten = measurements.right(model, images[:24], labels[:24])
    assert not torch.equal(found, forgotten)  # the mutant: eval() among mates


def test_population_statistics_are_algorithm_2s(model):
    model, images, _ = model
    expected = PreciseBN(plain(model)).measure(images[:24].split(4))
    convnets.take_population(model, images, chunk=10)
    layers = convnets.replica_layers(model)
    for layer, wanted in zip(layers, expected.values(), strict=True):
        torch.testing.assert_close(layer.running_mean.double(), wanted.mean, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(layer.running_var.double(), wanted.var, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("arm", convnets.NORMS)
def test_members_do_not_mix(arm):
    """The second member's scores are those of a network of its own."""
    images = torch.randn(8, 1, 6, 6)
    both, alone = (convnets.network(arm, seeds, 1, SETTING, 4) for seeds in ((0, 5), (5,)))
    torch.testing.assert_close(both(images)[:, 1:], alone(images), rtol=1e-4, atol=1e-5)


def test_group_norm_has_the_groups_that_are_asked_for():
    layers = list(convnets.network(GROUP_NORM, (0, 1), 1, SETTING).hidden)
    assert [layer.num_groups for layer in layers if hasattr(layer, "num_groups")] == [4, 4, 4]
