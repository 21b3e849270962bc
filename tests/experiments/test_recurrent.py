"""BN in an LSTM: its equations, its statistics, and what is measured."""

from dataclasses import replace

import pytest
import torch

from bnbook.experiments.recurrent import claims
from bnbook.experiments.recurrent import experiment as module
from bnbook.experiments.recurrent.claims import (
    INPUT,
    LAYER,
    NONE,
    NORMS,
    PIXELS,
    STEPS,
    STEPS_ONE,
    TEXT,
    arm,
)  # fmt: skip
from bnbook.setups import sequences
from bnbook.tables import choosing

SMALL = {
    "seeds": (0, 1), "steps": 4, "points": 2, "width": 3, "images": 4, "sequences": 3,
    "length": 4, "longer": 2, "tested": 6, "pixels": 16, "validation": 10,
}  # fmt: skip
IMPOSSIBLE = [
    ({"images": 1}, "images, sequences and longer must be 2 or more"),
    ({"longer": 1}, "images, sequences and longer must be 2 or more"),
    ({"arms": ("nothing",)}, "arms must be among"),
]


def test_one_norm_made_four_arms_and_a_gamma(small):
    made = {
        norm: module.network(
            replace(small, arms=(arm(PIXELS, norm),), seeds=(0,)),
            inputs=2, outputs=3, steps=5, width=4,
        )
        for norm in NORMS
    }  # fmt: skip
    kinds = {norm: model.kind for norm, model in made.items()}
    assert kinds == {
        NONE: "none", INPUT: "input", STEPS: "steps", STEPS_ONE: "steps", LAYER: "layer",
    }  # fmt: skip
    assert made[STEPS].norms[0].weight[0].item() == pytest.approx(0.1)
    assert made[STEPS_ONE].norms[0].weight[0].item() == 1
    for model in made.values():
        assert torch.equal(model.recurrent.weight, made[NONE].recurrent.weight)


def test_a_small_run_has_every_arm_and_what_belongs_to_it(small_table):
    rows = choosing.last(small_table).set_index("arm")
    assert set(rows.index) == set(claims.ARMS)
    for norm in NORMS:
        assert rows.loc[[arm(PIXELS, norm)], "beyond"].isna().all()
        assert rows.loc[[arm(TEXT, norm)], "test_accuracy"].isna().all()
        assert rows.loc[[arm(TEXT, norm)], ["inside", "beyond"]].notna().all(axis=None)


def test_positions_are_parted_where_training_ends():
    scores = torch.zeros(2, 12, 4)
    scores[:, 8:, 0] = 3.0  # from the ninth position on the first symbol is expected
    following = torch.zeros(2, 12, dtype=torch.int64)
    batch = sequences.Windows(following, following, following == 0)
    found = module._by_position(scores, batch, 8)
    assert found["inside"] == pytest.approx(2)
    own = torch.log2(3 * torch.ones(()) + torch.e**3) - 3 * torch.log2(torch.tensor(torch.e))
    assert found["beyond"] == pytest.approx(float(own), rel=1e-5)


def test_a_rise_with_length_is_held_against_the_text(small_table):
    moved = small_table.copy()
    late = moved["arm"] == arm(TEXT, STEPS)
    moved.loc[late, "beyond"] += 0.25
    difference = claims.grows(moved) - claims.grows(small_table)
    assert difference.tolist() == pytest.approx([0.25, 0.25])
    moved["beyond"] += 1.0  # a text whose end is harder for all
    expected = claims.grows(small_table) + 0.25
    assert claims.grows(moved).tolist() == pytest.approx(expected.tolist())


def test_accuracies_are_compared_in_points(small_table):
    ends = choosing.ends(small_table, "test_accuracy")
    expected = 100 * (ends[arm(PIXELS, STEPS)] - ends[arm(PIXELS, NONE)])
    assert claims.ahead(small_table, STEPS, NONE).tolist() == pytest.approx(expected.tolist())
