"""Weights and rates under BN: the equivalence itself, and measures on a table of known truth."""

import pandas as pd
import pytest
import torch

from bnbook.evidence import claims as judging
from bnbook.experiments.bjorck_weights import claims
from bnbook.experiments.bjorck_weights.experiment import EXPERIMENT, network, rounds
from tests.judging import by_id, criterion, verdicts

SMALL = {
    "steps": 4, "seeds": (0, 1), "learning_rates": (0.01, 1.0), "points": 2, "train_images": 64,
    "test_images": 30, "validation": 30, "widths": (2, 2, 4), "side": 4, "batch_size": 16,
}  # fmt: skip
IMPOSSIBLE = [
    ({"learning_rates": (0.1, 0.01)}, "two that rise"),
    ({"learning_rates": (0.01, 0.1, 1.0)}, "two that rise"),
    ({"arms": ("without BN",)}, "arms"),
    ({"scales": (0.0,)}, "positive"),
]
GIVES, TAKES = EXPERIMENT.claims
TRUTH = {(0.001, 1.0): 0.35, (0.001, 0.1): 0.44, (0.1, 1.0): 0.45, (0.1, 10.0): 0.37}


def made_up(truth=TRUTH, training=1.0):
    """A table whose truth is known: two rows a run, the last one counts."""
    return pd.DataFrame(
        [
            {
                "seed": seed, "learning_rate": rate, "scale": scale, "step": step,
                "training_accuracy": training, "test_accuracy": share + 0.001 * seed - (step == 0),
            }
            for (rate, scale), share in truth.items()
            for seed in (0, 1, 2)
            for step in (0, 10)
        ]
    )  # fmt: skip


def test_the_scales_are_those_that_give_a_rate_the_steps_of_the_other():
    assert claims.cells((0.001, 0.1)) == [(0.001, 1.0), (0.001, 0.1), (0.1, 1.0), (0.1, 10.0)]
    small, scaled, large, large_scaled = claims.cells((0.02, 0.3))
    assert small[0] / small[1] ** 2 == pytest.approx(large_scaled[0] / large_scaled[1] ** 2)
    assert large[0] / large[1] ** 2 == pytest.approx(scaled[0] / scaled[1] ** 2)


def test_the_measures_on_a_table_with_known_truth():
    table = made_up()
    found = claims.brought(table)
    assert found["part"].tolist() == pytest.approx([9.0] * 3)
    assert found["whole"].tolist() == pytest.approx([10.0] * 3)
    assert claims.taken(table)["part"].tolist() == pytest.approx([8.0] * 3)
    assert set(verdicts(by_id(EXPERIMENT.claims), table).values()) == {"reproduced"}
    facts = EXPERIMENT.facts(table)
    assert facts["small_scaled"]["value"] == pytest.approx(44.1)
    assert facts["gain"]["value"] == pytest.approx(10.0)


def test_the_claims_turn_red_on_the_other_truth():
    other = {**TRUTH, (0.001, 0.1): 0.37, (0.1, 10.0): 0.44}
    assert criterion(GIVES, made_up(other)).verdict == "not reproduced"
    assert criterion(TAKES, made_up(other)).verdict == "not reproduced"


def test_premises_ask_for_trained_networks_and_a_gain():
    assert judging.judge(GIVES, made_up(training=0.94)).verdict == "not tested"
    level = {**TRUTH, (0.1, 1.0): 0.36}
    assert judging.judge(TAKES, made_up(level)).verdict == "not tested"


def test_it_runs_seed_by_seed_and_nothing_twice(small, small_table):
    asked = rounds(small, small_table.iloc[:0])
    assert [run.seeds[0] for run in asked] == [0] * 4 + [1] * 4
    assert len(set(asked)) == 8
    assert rounds(small, small_table) == []
    first = small_table[small_table["seed"] == 0]
    assert {run.seeds for run in rounds(small, first)} == {(1,)}


def test_the_output_does_not_see_the_scale_and_a_step_does(small):
    """One step at rate r from weights a times as large moves them as one at r / a² moves others."""
    torch.manual_seed(0)
    images, outputs, moved = torch.randn(16, 1, 8, 8), [], []
    for scale in (1.0, 4.0):
        run = EXPERIMENT.configure("quick", **SMALL, scales=(scale,))
        made = network("with BN", (0,), run=run, in_channels=1).double().train()
        for module in made.modules():
            if hasattr(module, "eps"):
                module.eps = 1e-30  # so that the equivalence is exact
        scores = made(images.double())
        outputs.append(scores)
        scores.square().mean().backward()
        weight = made.convolutions[1].weight
        moved.append(weight.grad * scale)
    torch.testing.assert_close(*outputs)
    torch.testing.assert_close(*moved)
