"""The leak between the images of a minibatch: scenes, measures, and a small real run."""

import pandas as pd
import pytest
import torch

from bnbook.evidence import claims
from bnbook.experiments.batch_leak import claims as analysis
from bnbook.experiments.batch_leak.claims import ALIKE, ALONE, ANY, ARMS, REPLICA, SHUFFLED
from bnbook.experiments.batch_leak.experiment import EXPERIMENT, Scenes
from bnbook.tables.arms import GROUP_NORM
from tests.judging import criterion

SMALL = {
    "data": "digits", "seeds": (0, 1), "tuning_seeds": (100,), "learning_rates": (0.1, 0.3),
    "validation": 200, "train_images": 800, "test_images": 96, "examples": 160, "pool": 2,
    "widths": (4, 4),
}  # fmt: skip
IMPOSSIBLE = [
    ({"replica": 5}, "divide batch_size, 32, found 5"),
    ({"share": 0.5}, "between 0.5 and 1"),
    ({"share": 0.7}, "whole images of 8"),
    ({"arms": (GROUP_NORM,)}, "arms must hold"),
]
LEAK, KNOWLEDGE, COST = EXPERIMENT.claims


@pytest.fixture(scope="module")
def scenes():
    """An image of class c is c everywhere, but for one of class 2, which is left out."""
    labels = torch.arange(300) % 3
    return Scenes.of(labels.view(-1, 1, 1, 1).float().expand(-1, 1, 2, 2), labels)


@pytest.mark.parametrize("shuffled", [False, True])
def test_six_of_eight_images_have_their_scenes_class(small, scenes, shuffled):
    of = scenes.minibatches(small, 50, 3, shuffled=shuffled)
    classes, labels = scenes.images[of][..., 0, 0, 0], scenes.labels[of]
    right = (classes == labels).float().view(200, 8)
    assert right.mean() == 0.75
    assert labels.float().mean() == pytest.approx(0.5, abs=0.15)
    if not shuffled:
        assert (right.sum(1) == 6).all()
        assert (labels.view(200, 8).float().std(1) == 0).all()


def test_shuffling_moves_the_same_images_within_a_minibatch(small, scenes):
    plain, mixed = (scenes.minibatches(small, 20, 3, shuffled=s) for s in (False, True))
    assert not torch.equal(plain, mixed)
    assert torch.equal(plain.sort(1).values, mixed.sort(1).values)
    assert (scenes.labels[mixed].view(-1, 8).float().std(1) > 0).any()


def made_up(alike=0.9, alone=0.6):
    values = {
        (REPLICA, ALONE): alone, (REPLICA, ALIKE): alike, (REPLICA, ANY): 0.7,
        (SHUFFLED, ALONE): 0.74, (GROUP_NORM, ALONE): 0.745,
    }  # fmt: skip
    rows = [
        {"arm": arm, "mates": mates, "seed": seed, "tunes": seed == 9, "learning_rate": rate,
         "validation_accuracy": right - (rate != 0.1),
         "test_accuracy": right + 0.001 * seed if seed < 9 else 0}
        for (arm, mates), right in values.items()
        for seed in (0, 1, 2, 9)
        for rate in ((0.03, 0.1, 0.3) if seed == 9 else (0.1,))
    ]  # fmt: skip
    return pd.DataFrame(rows)


def test_the_measures_on_a_table_with_known_truth():
    table = made_up()
    assert analysis.leak(table).tolist() == pytest.approx([30.0] * 3)
    assert analysis.cheat(table).tolist() == pytest.approx([15.0, 15.1, 15.2])
    assert analysis.cost(table).tolist() == pytest.approx([14.0] * 3)
    verdicts = [claims.judge(claim, table).verdict for claim in EXPERIMENT.claims[:2]]
    assert verdicts == ["reproduced", "reproduced"]
    assert analysis.accuracy(table, REPLICA, ANY).mean() == pytest.approx(70.1)
    facts = EXPERIMENT.facts(table)
    assert (facts["chosen_rate"]["value"], facts["tried_rate"]["value"]) == (0.1, 0.3)
    assert facts["tried_alike"]["value"] == 0


def test_the_claims_turn_red_where_nothing_leaks():
    table = made_up(alike=0.74, alone=0.76)
    assert criterion(LEAK, table).verdict == "not reproduced"
    assert criterion(KNOWLEDGE, table).verdict == "not reproduced"
    assert criterion(COST, table).verdict == "not reproduced"


def test_nothing_is_tested_where_group_norm_has_not_learned():
    table = made_up()
    poor = table["test_accuracy"].where(table["arm"] != GROUP_NORM, 0.5)
    assert claims.judge(LEAK, table.assign(test_accuracy=poor)).verdict == "not tested"


def test_a_small_run_tests_every_arm_alone_and_bn_among_mates(small_table):
    seen = small_table.groupby("arm")["mates"].unique().map(set)
    assert set(seen.index) == set(ARMS)
    assert seen[GROUP_NORM] == {ALONE}
    assert seen[REPLICA] == {ALONE, ALIKE, ANY}
    assert small_table["test_accuracy"].between(0, 1).all()
    assert small_table["validation_accuracy"].notna().equals(small_table["mates"] == ALONE)
