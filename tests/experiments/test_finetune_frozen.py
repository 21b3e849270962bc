"""Fine-tuning: halves of the classes, what moves and what stands, measures, a small real run."""

from dataclasses import replace

import pandas as pd
import pytest
import torch

from bnbook.evidence import claims
from bnbook.experiments.finetune_frozen import claims as analysis
from bnbook.experiments.finetune_frozen import experiment as tuning
from bnbook.experiments.finetune_frozen.claims import (
    ESTIMATED,
    FADED,
    FROZEN,
    MODES,
    MOVING,
    PLAIN,
    TARGETS,
)
from bnbook.experiments.finetune_frozen.experiment import EXPERIMENT
from bnbook.setups import convnets
from bnbook.tables.arms import ALGORITHM_2, RUNNING
from tests.judging import criterion

SMALL = {
    "data": "digits", "seeds": (0, 1), "tuning_seeds": (100,), "learning_rates": (0.1, 0.3),
    "validation": 64, "train_images": 400, "test_images": 100, "examples": 96, "pool": 2,
    "widths": (4, 4), "batch_sizes": (2, 32), "source_examples": 96, "target_images": 64,
}  # fmt: skip
IMPOSSIBLE = [
    ({"batch_sizes": (2, 5, 32)}, "divide batch_size, 32, found 5"),
    ({"batch_sizes": (4, 32)}, "must hold 2"),
    ({"modes": (MOVING,)}, "modes must hold"),
    ({"target_images": 0}, "target_images"),
]
FIRST, SECOND = EXPERIMENT.claims
CONFIG = EXPERIMENT.configure("quick", **SMALL)


def single(mode, m=32, target=PLAIN):
    return replace(
        CONFIG, targets=(target,), modes=(mode,), batch_sizes=(m,), seeds=(0,),
        learning_rates=(0.1,),
    )  # fmt: skip


def test_source_and_target_are_halves_of_the_classes():
    source, new = tuning.halves(CONFIG, PLAIN, torch.device("cpu"))
    whole = convnets.splits(CONFIG, torch.device("cpu"))
    assert len(source.test[1]) + len(new.test[1]) == 100
    for split in (source, new):
        assert set(split.train[1].tolist()) == set(range(5))
    assert len(new.train[1]) == 64
    first = whole.test[0][whole.test[1] >= 5][0]
    assert torch.equal(new.test[0][0], first)
    _, faded = tuning.halves(CONFIG, FADED, torch.device("cpu"))
    torch.testing.assert_close(faded.test[0][0] - first.mean(), 0.3 * (first - first.mean()))


def members(mode, m=32):
    """Two members at the start of their fine-tuning, and the states that they start from."""
    config = single(mode, m)
    states = [tuning._trained(tuning.source_of(config), seed, "cpu") for seed in (0, 1)]
    return tuning.started(config, (0, 1), 1, states), states


def test_each_member_starts_from_its_own_trained_layers():
    model, states = members(FROZEN)
    for name, value in model.hidden.state_dict().items():
        if value.dim():
            torch.testing.assert_close(value, torch.cat([state[name] for state in states]))
    assert not torch.equal(states[0]["0.weight"], states[1]["0.weight"])
    assert model.output.weight.shape[-2:].numel() == 4 * 5
    first, _ = members(MOVING)
    assert torch.equal(first.output.weight, model.output.weight)


@pytest.mark.parametrize("mode", MODES)
def test_statistics_move_or_stand(mode, monkeypatch):
    """What a run leaves in the running statistics, caught before Algorithm 2 replaces them."""
    seen, made = [], []
    real, start = convnets.take_population, tuning.started
    monkeypatch.setattr(tuning, "started", lambda *a: made.append(start(*a)) or made[0])
    monkeypatch.setattr(
        convnets,
        "take_population",
        lambda model, images: (seen.append(running(model)), real(model, images))[1],
    )
    tuning.train([single(mode, 8)], tuning.Session("cpu"))
    (model,) = made
    start_values = members(mode, 8)[1][0]["1.running_mean"]
    if mode == FROZEN:
        assert not seen
        assert torch.equal(running(model), start_values)
    elif mode == MOVING:
        assert not torch.allclose(seen[0], start_values)
    else:
        assert torch.equal(seen[0], start_values)
        assert not torch.allclose(running(model), start_values)
        assert running(model).abs().max() > 0  # and not those of a layer that has seen nothing


def running(model):
    return convnets.replica_layers(model)[0].running_mean.clone()


def test_estimated_statistics_are_the_targets():
    model, _ = members(ESTIMATED)
    _, split = tuning.halves(CONFIG, FADED, torch.device("cpu"))
    seen = []
    first = convnets.replica_layers(model)[0]
    hook = first.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    convnets.take_population(model, split.train[0])
    hook.remove()
    expected = torch.cat(seen)[:64].mean((0, 2, 3))
    torch.testing.assert_close(first.running_mean, expected, rtol=1e-4, atol=1e-5)


def made_up(frozen=0.8, estimated=0.7):
    values = {
        (PLAIN, FROZEN, 32, RUNNING): frozen, (PLAIN, MOVING, 2, RUNNING): 0.7,
        (PLAIN, MOVING, 2, ALGORITHM_2): 0.72, (PLAIN, MOVING, 32, RUNNING): 0.82,
        (PLAIN, ESTIMATED, 32, RUNNING): 0.8, (FADED, FROZEN, 32, RUNNING): 0.6,
        (FADED, ESTIMATED, 32, RUNNING): estimated,
    }  # fmt: skip
    rows = [
        {"target": target, "mode": mode, "batch_size": m, "statistics": statistics, "seed": seed,
         "tunes": seed == 9, "learning_rate": rate, "validation_accuracy": right - (rate != 0.1),
         "test_accuracy": right + 0.001 * seed if seed < 9 else 0.0}
        for (target, mode, m, statistics), right in values.items()
        for seed in (0, 1, 2, 9)
        for rate in ((0.03, 0.1, 0.3) if seed == 9 else (0.1,))
    ]  # fmt: skip
    return pd.DataFrame(rows)


def test_the_measures_on_a_table_with_known_truth():
    table = made_up()
    assert analysis.frozen_lead(table).tolist() == pytest.approx([10.0] * 3)
    assert analysis.shifted_cost(table).tolist() == pytest.approx([10.0] * 3)
    assert all(claims.judge(c, table).verdict == "reproduced" for c in EXPERIMENT.claims)
    assert EXPERIMENT.facts(table)["moving_lead"]["value"] == pytest.approx(2.0)


def test_the_claims_turn_red_on_the_other_truth():
    table = made_up(frozen=0.6, estimated=0.5)
    assert criterion(FIRST, table).verdict == "not reproduced"
    assert criterion(SECOND, table).verdict == "not reproduced"


def test_nothing_is_tested_at_an_end_of_the_grid():
    table = made_up()
    cut = table[~((table["learning_rate"] == 0.3) & (table["mode"] == FROZEN))]
    assert claims.judge(FIRST, cut).verdict == "not tested"


def test_a_small_run_has_every_cell_once():
    table = EXPERIMENT.run(CONFIG, "cpu")
    cells = set(zip(table["target"], table["mode"], table["batch_size"], strict=True))
    standing = {(target, mode, 32) for target in TARGETS for mode in (FROZEN, ESTIMATED)}
    assert cells == standing | {(target, MOVING, m) for target in TARGETS for m in (2, 32)}
    assert not table[table["mode"] != MOVING]["statistics"].eq(ALGORITHM_2).any()
