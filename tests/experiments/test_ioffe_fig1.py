"""Figure 1's analysis on made-up tables with known answers, and small real runs."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
import torch

from bnbook.errors import BnbookError
from bnbook.experiments.ioffe_fig1 import claims as analysis
from bnbook.experiments.ioffe_fig1 import experiment
from bnbook.experiments.ioffe_fig1.experiment import EXPERIMENT as FIG1
from bnbook.tables import tuning
from bnbook.tables.arms import WITH, WITHOUT
from tests.judging import criterion

RATES = (0.01, 1.0, 10.0)
SMALL = {
    "data": "digits", "steps": 20, "seeds": (0, 1), "learning_rates": (0.01, 1.0),
    "probe_intervals": 2, "probe_images": 50, "validation": 100, "hidden": (10, 10), "unit": 0,
}  # fmt: skip
"""Changes to the quick profile that make it a matter of a second."""
IMPOSSIBLE = [
    ({"steps": 0}, "steps must be at least 1, found 0"),
    ({"arms": ("LN",)}, r"arms must be among .* found \['LN'\]"),
    ({"unit": 100}, r"unit must lie in \[0, 100\)"),
    ({"learning_rates": (0.1,)}, "learning_rates must hold 0.01"),
]


def made_up(seeds=(0, 1, 2), speed=4, gap=0.02):
    """A table whose truth is known.

    Without BN accuracy rises by 0.01 a step to 0.80 at rate 1.0, and stays at 0.10 at 0.01; with BN
    it rises `speed` times as fast, to `gap` more. At 10.0 both do worse. Movement is 0.6 and 0.2.
    """
    rows = []
    for seed in seeds:
        noise = 0.001 * seed
        for arm in (WITHOUT, WITH):
            for rate in RATES:
                top = {0.01: 0.1, 1.0: 0.8, 10.0: 0.5}[rate]
                pace = 0.01
                if arm == WITH:
                    top = {0.01: 0.7, 1.0: 0.8 + gap, 10.0: 0.6}[rate]
                    pace = 0.01 * speed
                for step in range(0, 201, 5):
                    reached = min(top, pace * step) + noise
                    rows.append(
                        (arm, rate, seed, step, reached, reached, 0.6 if arm == WITHOUT else 0.2)
                    )
    names = ["arm", "learning_rate", "seed", "step"]
    names += ["validation_accuracy", "test_accuracy", "movement"]
    return pd.DataFrame(rows, columns=names)


def test_measures_on_a_table_with_known_truth():
    table = made_up()
    assert analysis.tuned_rates(table) == {WITHOUT: 1.0, WITH: 1.0}
    # The baseline ends at 0.801 on average; BN reaches 0.99 of that, 0.793, at step 20.
    assert analysis.level(table) == pytest.approx(0.99 * 0.801)
    assert analysis.steps_to_target(table).to_dict("list") == {
        WITHOUT: [80.0] * 3,
        WITH: [20.0] * 3,
    }
    assert analysis.speedup(table).tolist() == [4.0, 4.0, 4.0]
    assert analysis.tuned_gap(table).tolist() == pytest.approx([2.0] * 3)
    assert analysis.common_gap(table).tolist() == pytest.approx([60.0] * 3)
    assert analysis.gap_closed(table)["part"].tolist() == pytest.approx([58.0] * 3)
    assert analysis.movement_ratio(table).tolist() == pytest.approx([3.0] * 3)
    verdicts = {c.id: criterion(c, table).verdict for c in FIG1.claims}
    assert set(verdicts.values()) == {"reproduced"}


def test_between_two_readings_the_step_at_the_level_is_that_of_a_line():
    table, noise = made_up(speed=3), 0.001 * np.arange(3)
    short = 0.99 * 0.801 - noise
    # Without BN 0.01 a step; with BN 0.75 at step 25 and 0.82 at step 30.
    truth = (short / 0.01) / (25 + 5 * (short - 0.75) / 0.07)
    assert analysis.speedup_between(table).to_numpy() == pytest.approx(truth)
    assert analysis.speedup(table).tolist() == pytest.approx([80 / 30] * 3)
    assert analysis.speedup_between(made_up(gap=-0.05)).isna().all()


@pytest.mark.parametrize(
    ("changes", "claim", "verdict"),
    [
        ({"speed": 0.5, "gap": 0.1}, "ioffe.fig1a.speed", "not reproduced"),
        ({"gap": -0.05}, "ioffe.fig1a.speed", "not tested"),
        ({"gap": -0.05}, "ioffe.fig1a.accuracy", "not reproduced"),
        ({"gap": 0.4}, "ioffe.fig1.untuned", "not reproduced"),
    ],
)
def test_claims_turn_red_when_the_truth_is_otherwise(changes, claim, verdict):
    (found,) = [c for c in FIG1.claims if c.id == claim]
    assert criterion(found, made_up(**changes)).verdict == verdict


def test_a_target_that_is_never_reached_is_undefined_not_fast():
    judged = criterion(FIG1.claims[0], made_up(gap=-0.05))
    assert (judged.value, judged.undefined) == (None, 3)


def test_stability_turns_red_when_bn_moves_more():
    table = made_up()
    table["movement"] = table["arm"].map({WITHOUT: 0.2, WITH: 0.6}) + 0.001 * table["seed"]
    (claim,) = [c for c in FIG1.claims if c.id == "ioffe.fig1bc.stability"]
    assert criterion(claim, table).verdict == "not reproduced"


def test_rates_are_tuned_on_validation_never_on_test():
    table = made_up()
    lucky = (table["arm"] == WITHOUT) & (table["learning_rate"] == 0.01)
    table.loc[lucky, "test_accuracy"] = 0.99
    assert analysis.tuned_rates(table)[WITHOUT] == 1.0
    table.loc[lucky, "validation_accuracy"] = 0.99
    assert analysis.tuned_rates(table)[WITHOUT] == 0.01


def test_facts():
    facts = FIG1.facts(made_up())
    assert facts["without_rate"]["value"] == facts["with_rate"]["value"] == 1.0
    assert facts["with_accuracy"]["value"] == pytest.approx(82.1)
    assert facts["with_common_accuracy"]["value"] == pytest.approx(70.1)
    assert facts["without_steps"]["value"] == 80
    assert facts["steps"]["value"] == 200
    assert facts["with_usable"]["value"] == 1
    assert facts["without_common_movement"]["value"] == pytest.approx(0.6)


def test_the_ratio_over_levels():
    """Four times as fast at every level, and no level beyond what both networks reach."""
    found = analysis.speedups(made_up())
    # Steps are measured every 5: at level 0.21 step 25 against step 10.
    assert found["ratio"].between(2.5, 5).all()
    assert found.loc[found["accuracy"] == 60, "ratio"].tolist() == [4.0] * 3
    assert (found["accuracy"].min(), found["accuracy"].max()) == (20, 80)
    assert found.groupby("accuracy").size().eq(3).all()
    lower = analysis.speedups(made_up(gap=-0.05))
    assert lower["accuracy"].max() == 75


def test_steps_to_a_fixed_accuracy():
    steps = tuning.steps_to(
        made_up(), {WITHOUT: 1.0, WITH: 1.0}, "validation_accuracy", {0: 0.5, 1: 0.5, 2: 0.9}
    )
    # 0.01 a step: 0.5 at step 50 (seed 1 is ahead by a thousandth), 4 times as fast with BN.
    assert steps[WITHOUT].tolist()[:2] == [50.0, 50.0]
    assert steps[WITH].tolist()[:2] == [15.0, 15.0]
    assert steps.loc[2].isna().all()


def test_usable_rates_count_those_near_the_best():
    table = made_up()
    for within, count in ((0.01, 1), (0.13, 2), (0.3, 3)):
        assert tuning.usable_rates(table, WITH, "test_accuracy", within) == count


def test_probe_steps():
    at = experiment.probe_steps(50_000, 50)
    assert (at[0], at[1], at[-1]) == (0, 10, 50_000)
    gaps = [b - a for a, b in pairwise(at)]
    assert max(gaps) == 1000
    assert all(b - a <= 0.3 * a + 1 for a, b in pairwise(at[1:]))
    assert at == sorted(set(at))


def test_standard_is_the_papers_length():
    config = FIG1.profiles["standard"]
    assert (config.steps, config.batch_size, config.hidden) == (50_000, 60, (100, 100, 100))
    assert len(config.learning_rates) >= 8
    assert len(config.seeds) >= 5
    ratios = [b / a for a, b in pairwise(config.learning_rates)]
    assert max(ratios) < 3.4


@pytest.fixture(scope="module")
def small():
    return FIG1.configure(
        "quick", steps=30, seeds=(0, 1), learning_rates=(0.01, 1.0), probe_intervals=3,
        probe_images=100, validation=200,
    )  # fmt: skip


@pytest.fixture(scope="module")
def small_table(small):
    return FIG1.run(small, "cpu")


def test_a_small_run_is_tidy(small_table):
    at = experiment.probe_steps(30, 3)
    assert len(small_table) == 2 * 2 * 2 * len(at)
    assert not small_table.duplicated(["arm", "learning_rate", "seed", "step"]).any()
    for which in ("unit", "pooled"):
        assert (small_table[f"{which}_p15"] <= small_table[f"{which}_p85"]).all()


def test_both_arms_share_batches_and_the_start_is_normalised(small_table):
    start = small_table[small_table["step"] == 0]
    with_bn = start[start["arm"] == WITH]
    # A normal variable has its 15th percentile at -1.04: BN's input is near it from the start.
    assert with_bn["pooled_p15"].between(-1.3, -0.8).all()
    assert with_bn["pooled_p50"].abs().max() < 0.1
    assert start["loss"].isna().all()


def test_the_loss_is_that_of_a_loop_written_by_hand(small, small_table):
    """One arm, one rate, one seed with torch.nn and torch.optim: the same losses."""
    config = replace(small, seeds=(1,), arms=(WITH,))
    (images, labels), (valid_x, valid_y), _ = experiment.splits(config, torch.device("cpu"))
    from bnbook.layers import norm
    from bnbook.networks import models
    from bnbook.training import fit

    ours = models.MLP(norm.BatchNorm, (1,))
    layers, width = [], 784
    for _ in range(3):
        layers += [torch.nn.Linear(width, 100, bias=False), torch.nn.BatchNorm1d(100)]
        layers += [torch.nn.Sigmoid()]
        width = 100
    net = torch.nn.Sequential(torch.nn.Flatten(), *layers, torch.nn.Linear(100, 10))
    with torch.no_grad():
        for theirs, mine in zip(net.parameters(), ours.parameters(), strict=True):
            theirs.copy_(mine.view_as(theirs))
    optimiser = torch.optim.SGD(net.parameters(), lr=1.0)
    losses = []
    for batch in fit.minibatches(len(labels), 60, 30, seed=1):
        optimiser.zero_grad()
        loss = torch.nn.functional.cross_entropy(net(images[batch]), labels[batch])
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    net.eval()
    accuracy = (net(valid_x).argmax(1) == valid_y).float().mean().item()
    run = small_table.query("arm == @WITH and seed == 1 and learning_rate == 1.0")
    assert run["loss"].iloc[1] == pytest.approx(sum(losses[:10]) / 10, rel=1e-4)
    assert run["loss"].iloc[-1] == pytest.approx(
        sum(losses[run["step"].iloc[-2] :]) / (30 - run["step"].iloc[-2]), rel=1e-3
    )
    assert run["validation_accuracy"].iloc[-1] == pytest.approx(accuracy, abs=0.011)


@pytest.mark.gpu
def test_a_gpu_run_agrees_with_the_cpu(small, small_table):
    """Same batches and weights: after 30 steps the losses agree to single precision."""
    on_gpu = FIG1.run(small, "cuda")
    keys = ["arm", "learning_rate", "seed", "step"]
    pd.testing.assert_frame_equal(on_gpu[keys], small_table[keys])
    assert on_gpu["loss"].sub(small_table["loss"]).abs().max() < 1e-2


def test_validation_does_not_overlap_training(small):
    (train_x, _), (valid_x, _), (test_x, _) = experiment.splits(small, torch.device("cpu"))
    assert (len(train_x), len(valid_x), len(test_x)) == (3800, 200, 1000)
    assert set(train_x.unique().tolist()) == {0.0, 1.0}
    held_out = {tuple(image.flatten().tolist()) for image in valid_x}
    shared = sum(tuple(image.flatten().tolist()) in held_out for image in train_x)
    assert shared == 0


def test_too_much_validation(small):
    with pytest.raises(
        BnbookError, match=r"set aside from 100 to 3999 of the 4000 training images .* found 4000"
    ):
        FIG1.run(replace(small, validation=4000), "cpu")


def test_the_figure_shows_the_mean_over_seeds(small_table):
    rates = analysis.tuned_rates(small_table)
    top = FIG1.figures["accuracy"](small_table).axes[0].lines[0].get_ydata()[-1]
    runs = tuning.final(tuning.at_rates(small_table, rates))
    expected = 100 * runs[runs["arm"] == next(iter(rates))]["test_accuracy"].mean()
    assert top == pytest.approx(expected)
