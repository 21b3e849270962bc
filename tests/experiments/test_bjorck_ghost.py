"""Less noise by larger minibatches: the plan, the claims on known truth, and BN's ghost batches."""

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from bnbook.evidence import claims as judging
from bnbook.experiments.bjorck_ghost import claims
from bnbook.experiments.bjorck_ghost.experiment import EXPERIMENT, network, rounds
from bnbook.setups import search
from bnbook.setups.settings import JUDGING, TUNING
from bnbook.tables import right

SMALL = {
    "seeds": (0,), "learning_rates": (0.05, 0.2), "train_images": 64, "test_images": 30,
    "validation": 30, "widths": (2, 2, 4), "side": 4, "batch_sizes": (8, 32), "ghost": 8,
    "steps": 3,
}  # fmt: skip
IMPOSSIBLE = [
    ({"ghost": 128, "batch_sizes": (128, 1000)}, "must be multiples of the 128 images"),
    ({"batch_sizes": (1024, 128)}, "must be two that rise"),
    ({"seeds": (0, 100)}, "would do both"),
]
CONFIG = EXPERIMENT.profiles["standard"]
GENERALISES, IS_THE_RATE = claims.CLAIMS


def world(run, noise=4.0, path=2.0, known=1.0):
    """The rows of a run: each factor 8 of noise and of path length brings so many points."""
    (size,), (rate,), (seed,) = run.batch_sizes, run.learning_rates, run.seeds
    eighths = math.log(rate / 0.2, 8)
    share = 0.5 + (noise * (eighths - math.log(size / 128, 8)) + path * eighths) / 100
    share += 0.002 * (seed % 5) - (0.2 if rate > 0.3 else 0)
    bits = np.arange(1000) < round(1000 * share)
    return pd.DataFrame({
        "arm": run.arms[0], "seed": seed, "learning_rate": rate, "role": run.role,
        "batch_size": size, "step": (0, 10), "diverged_at": -1,
        "training_accuracy": (0.1, known), "validation_accuracy": (0.1, share),
        "test_accuracy": (0.1, share), "right": ("", right.pack(bits)),
    })  # fmt: skip


def played(make=world, config=CONFIG):
    table, asked = pd.DataFrame(), []
    while new := rounds(config, table):
        assert not set(new) & {run for some in asked for run in some}
        asked.append(new)
        table = pd.concat([table, *map(make, new)], ignore_index=True)
        assert len(asked) < 10, "the plan does not end"
    return table, asked


@pytest.fixture(scope="module")
def whole():
    return played()


def verdict(claim, table):
    return judging.judge(claim, table).verdict


def test_the_rate_is_searched_at_the_small_size_and_three_cells_are_shown(whole):
    table, asked = whole
    assert claims.rate(table) == 0.2
    tuning = [run for some in asked for run in some if run.role == TUNING]
    assert {run.batch_sizes for run in tuning} == {(128,)}
    assert {run.seeds[0] for run in tuning} == set(CONFIG.tuning_seeds)
    shown = {(*r.batch_sizes, *r.learning_rates, *r.seeds) for r in asked[-1]}
    cells = ((128, 0.2), (1024, 0.2), (128, 0.025))
    assert shown == {(*cell, seed) for cell in cells for seed in CONFIG.seeds}
    assert [run.seeds[0] for run in asked[-1]] == sorted(run.seeds[0] for run in asked[-1])


@pytest.mark.parametrize("luck", [0.0, 0.99])
def test_the_seeds_that_are_shown_choose_nothing(whole, luck):
    def lucky(run):
        rows = world(run)
        if run.role == JUDGING and run.learning_rates == (0.025,):
            rows["validation_accuracy"] = luck
        return rows

    table, asked = played(lucky)
    assert claims.rate(table) == 0.2
    assert asked == whole[1]
    mutant = table[table["role"] == JUDGING].assign(role=TUNING)
    assert (claims.rate(mutant) == 0.025) == (luck == 0.99)


def test_measures_on_known_truth(whole):
    table, _ = whole
    assert claims.noise_gain(table).mean(axis=1).tolist() == pytest.approx([4.0] * 5)
    assert claims.rate_gain(table).mean(axis=1).tolist() == pytest.approx([6.0] * 5)
    assert judging.judge(IS_THE_RATE, table).value == pytest.approx(4 / 6)
    assert {verdict(claim, table) for claim in claims.CLAIMS} == {"reproduced"}


def test_claims_turn_when_the_truth_is_otherwise():
    table, _ = played(lambda run: world(run, noise=-1.0, path=7.0))
    assert verdict(GENERALISES, table) == "not reproduced"
    assert verdict(IS_THE_RATE, table) == "not reproduced"


def test_nothing_is_tested_of_networks_that_stop_early_or_where_the_rate_brings_nothing():
    early, _ = played(lambda run: world(run, known=0.98))
    assert {verdict(claim, early) for claim in claims.CLAIMS} == {"not tested"}
    flat, _ = played(lambda run: world(run, noise=0.1, path=0.1))
    assert verdict(IS_THE_RATE, flat) == "not tested"
    end, _ = played(config=replace(CONFIG, learning_rates=(0.05, 0.1, 0.2)))
    assert verdict(GENERALISES, end) == "not tested"


def test_cells_swapped_are_caught(whole, monkeypatch):
    """The mutant takes the large minibatch for the small one."""
    monkeypatch.setattr(claims, "NOISY", claims.LARGE)
    monkeypatch.setattr(claims, "LARGE", 0)
    assert verdict(GENERALISES, whole[0]) == "not reproduced"


def test_a_record_of_one_run_has_facts_and_figures(whole):
    table = world(whole[1][0][0])
    assert EXPERIMENT.facts(table)["large_batch"]["value"] is None
    assert {judging.judge(c, table, 9).verdict for c in claims.CLAIMS} == {"provisional"}
    for draw in EXPERIMENT.figures.values():
        draw(table).draw_without_rendering()


def features(config, x):
    """Scores of the networks in training, which depend on what is normalised together."""
    return network(config, (0,), in_channels=1).double().train()(x)


@pytest.mark.parametrize(("ghost", "same"), [(8, True), (32, False)])
def test_a_large_minibatch_is_normalised_in_ghost_batches(ghost, same):
    """As its parts are by themselves; a mutant that normalises all of it together is caught."""
    config = EXPERIMENT.configure("quick", **{**SMALL, "ghost": 8})
    x = torch.randn(32, 1, 4, 4, dtype=torch.float64)
    together = features(replace(config, batch_sizes=(32,), ghost=ghost), x)
    parts = torch.cat([features(config, part) for part in x.split(8)])
    assert torch.allclose(together, parts, rtol=0, atol=1e-12) == same


def test_running_statistics_are_those_of_all_ghost_batches(small):
    x = torch.randn(32, 1, 4, 4)
    moved = []
    for images in (x, x.flip(0)):
        model = network(small, (0,), in_channels=1).train()
        model(images)
        moved.append(dict(model.named_buffers()))
    for name, value in moved[0].items():
        assert torch.allclose(value.float(), moved[1][name].float(), atol=1e-6), name


def test_a_single_run_holds_nothing_of_the_rest_of_the_plan():
    larger = replace(CONFIG, seeds=(*CONFIG.seeds, 5))
    ours, theirs = ({run for some in played(config=c)[1] for run in some} for c in (CONFIG, larger))
    assert ours < theirs
    assert search.one_run(CONFIG, "with BN", 0, 0.2, JUDGING).tuning_seeds == ()
