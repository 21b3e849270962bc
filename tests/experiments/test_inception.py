"""The small Inception: recipes, training, and claims on tables with known truth."""

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from bnbook.evidence import claims as judging
from bnbook.experiments.inception import claims
from bnbook.experiments.inception.experiment import EXPERIMENT, length, planned, rounds
from bnbook.setups import dead
from bnbook.setups import inception as setup
from bnbook.tables import inception as recipes
from bnbook.tables import probabilities
from bnbook.tables.inception import (
    ABLATED,
    BASELINE,
    CHANGES,
    FAST,
    INCEPTION,
    MAIN,
    MEMBERS,
    RECIPES,
    SHUFFLING,
    SIGMOID,
    X5,
    X5_SIGMOID,
    X30,
)
from tests.judging import by_name, verdicts

SMALL = {
    "seeds": (0,), "learning_rates": (0.01, 0.03), "train_images": 64, "test_images": 20,
    "validation": 20, "kept": 20, "unit": 1, "steps": 8, "cooling": 8, "first": 3,
    "batch_size": 8, "side": 8,
}  # fmt: skip
IMPOSSIBLE = [({"seeds": (0, 50)}, "choose"), ({"coolest": 1.0}, "coolest")]
CLAIMS = by_name(claims.CLAIMS)
STANDARD = EXPERIMENT.configure("standard", data="digits")


def single(arm, seed=0, **changes):
    """A single run of the standard profile."""
    found = next(
        replace(STANDARD, arms=(a,), seeds=(s,), learning_rates=(0.02,),
                steps=length(STANDARD, a))
        for a, s in planned(STANDARD) if (a, s) == (arm, seed)
    )  # fmt: skip
    return replace(found, **changes)


# The recipes


@pytest.mark.parametrize(
    ("arm", "rate"),
    [(INCEPTION, 0.0015), (BASELINE, 0.0015), (X5, 0.0075), (X30, 0.045), (X5_SIGMOID, 0.0075),
     (FAST, 0.0075), (SIGMOID, 0.0015)],
)  # fmt: skip
def test_rates_are_the_papers_when_inceptions_is(arm, rate):
    run = replace(single(arm), learning_rates=(0.0015,))
    assert setup.rate(run) == pytest.approx(rate, rel=1e-12)


def test_each_ablated_network_is_bn_x5_but_for_one_change():
    assert len(ABLATED) == len(CHANGES) == 7
    for change, arm in zip(CHANGES, ABLATED, strict=True):
        recipe = RECIPES[arm]
        assert RECIPES[X5].changes - recipe.changes == {change}
        assert recipe.factor == (1 if change == "higher rate" else 5)
        assert recipe.bn
        assert not recipe.sigmoid


def test_the_rate_falls_six_times_as_fast_and_l2_is_a_fifth():
    slow, fast = setup.schedule(single(BASELINE)), setup.schedule(single(X5))
    assert len(fast) == len(slow) // 4
    torch.testing.assert_close(fast[:1000], slow[: 6 * 1000 : 6])
    assert float(slow[-1]) == pytest.approx(0.03, rel=1e-3)
    assert setup.weight_decay(single(BASELINE)) == 5 * setup.weight_decay(single(X5))


def test_without_shuffling_the_images_of_a_minibatch_stay_together():
    run = single(BASELINE, steps=40, batch_size=8)
    fixed = setup.minibatches(run, 80).reshape(4, 10, 8)
    together = [{tuple(sorted(batch)) for batch in epoch} for epoch in fixed.tolist()]
    assert together[0] == together[1] == together[2] == together[3]
    assert len({tuple(map(tuple, epoch)) for epoch in fixed.tolist()}) == 4  # in another order
    fresh = setup.minibatches(replace(run, arms=(X5,)), 80).reshape(4, 10, 8)
    groups = [{tuple(sorted(batch)) for batch in epoch} for epoch in fresh.tolist()]
    assert groups[0].isdisjoint(groups[1])
    for epochs in (fixed, fresh):  # every image once an epoch
        assert (epochs.flatten(1).sort(1).values == torch.arange(80)).all()
    assert SHUFFLING not in RECIPES[BASELINE].changes


def test_distortion_is_linear_in_each_image_within_its_bounds_and_repeats():
    x = torch.randn(50, 3, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    y = setup.distorted(x, 0.5, 3, 7)
    assert torch.equal(y, setup.distorted(x, 0.5, 3, 7))
    assert not torch.equal(y, setup.distorted(x, 0.5, 3, 8))
    slope = (y[:, :, 0, 0] - y[:, :, 0, 1]) / (x[:, :, 0, 0] - x[:, :, 0, 1])
    torch.testing.assert_close(slope, slope[:, :1].expand_as(slope))  # one contrast an image
    shift = y - slope[:, :, None, None] * x
    torch.testing.assert_close(shift, shift[:, :, :1, :1].expand_as(shift))
    assert 0.4 < (slope - 1).abs().max() <= 0.5
    assert 0.4 < shift.abs().max() <= 0.5
    assert not torch.allclose(shift[:, 0], shift[:, 1])  # one brightness a channel
    assert torch.equal(setup.distorted(x, 0.0, 3, 7), x)


def test_networks_differ_as_their_recipes_say():
    made = {arm: setup.network(single(arm, unit=1), 3) for arm in MAIN}
    layers = {arm: [type(m).__name__ for m in net.modules()] for arm, net in made.items()}
    for arm, names in layers.items():
        recipe = RECIPES[arm]
        assert ("FusedBatchNorm" in names) == recipe.bn
        assert ("Sigmoid" in names, "ReLU" in names) == (recipe.sigmoid, not recipe.sigmoid)
        assert names.count("ResponseNorm") == (0 if recipe.changes else 2)
    assert made[INCEPTION].dropout.share == made[BASELINE].dropout.share == 0.4
    assert made[X5].dropout.share == 0
    assert [setup.network(single(arm), 3).dropout.share for arm in MEMBERS] == [0, 0.05, 0.1]
    start = [made[arm].stem[0].convolution.weight for arm in (INCEPTION, BASELINE, X5)]
    assert torch.equal(start[0], start[1])
    assert torch.equal(start[0], start[2])


def bn_comes_first(unit):
    """Whether a unit normalises before its nonlinearity: then half its outputs are zeros."""
    unit.train()
    x = torch.randn(64, 4, 5, 5, generator=torch.Generator().manual_seed(0)) + 3
    y = unit(x)
    moments = y.mean((0, 2, 3)), (y == 0).float().mean()
    return bool((moments[0] > 0.2).all()) and 0.3 < float(moments[1]) < 0.7


def test_bn_comes_before_each_nonlinearity_and_the_other_order_is_caught():
    unit = setup.network(single(BASELINE, unit=1), 4).stem[0]
    assert bn_comes_first(unit)
    unit.norm, unit.nonlinearity = unit.nonlinearity, unit.norm  # BN after the nonlinearity
    assert not bn_comes_first(unit)


def test_every_convolution_of_a_network_with_bn_has_its_norm_and_no_bias():
    net = setup.network(single(X5), 3)
    units = [m for m in net.modules() if type(m).__name__ == "Unit"]
    assert len(units) == sum(isinstance(m, nn.BatchNorm2d) or "BatchNorm" in type(m).__name__
                             for m in net.modules())  # fmt: skip
    assert all(unit.convolution.bias is None for unit in units)


# The plan


def played(config, world):
    """Run the plan in a made-up world: the table."""
    table = pd.DataFrame()
    while asked := rounds(config, table):
        assert len(set(asked)) == len(asked)
        table = pd.concat([table, *(world(run) for run in asked)], ignore_index=True)
    return table


def paper(run, best=None, dead=(FAST,)):
    """A made-up run: accuracy rises ever more slowly to the paper's best, at the paper's steps.

    Steps are the paper's over 2,500, so that Inception needs 12,400.
    """
    arm, seed, rate = run.arms[0], run.seeds[0], run.learning_rates[0]
    tunes = seed in run.tuning_seeds
    top = {**claims.BEST, SIGMOID: 10.0, FAST: 10.0, **(best or {})}.get(arm, 73.0)
    full = claims.STEPS.get(arm, 4e6) / 2500
    step = np.arange(0, 16_001, 40)
    rise = np.minimum(step / full, 1)
    # At Inception's level at the paper's step, at its own top from there on.
    level = min(top, claims.BEST[INCEPTION])
    accuracy = np.where(rise < 1, 10 + (level - 10) * (1 - (1 - rise) ** 4), top) / 100
    rows = pd.DataFrame({"arm": arm, "seed": seed, "learning_rate": rate, "tunes": tunes,
                         "step": step, "loss": 1.0, "test_accuracy": accuracy,
                         "dead_at": 100 if arm in dead else -1, "dead_by": ""})  # fmt: skip
    rows["validation_accuracy"] = 0.5 - abs(math.log(rate / 0.02)) if tunes else top / 100
    rows["probabilities"] = ""
    if arm in MEMBERS and not tunes:
        rows.loc[rows.index[-1], "probabilities"] = member(seed, MEMBERS.index(arm))
    return rows


def member(seed, which, n=200):
    """Probabilities of a member that has 60 % right, wrong in places of its own."""
    draw = np.random.default_rng((seed, which))
    p = draw.dirichlet(np.ones(10), n)
    labels = np.zeros(n, dtype=int)
    right = draw.random(n) < 0.6
    p[np.arange(n), np.where(right, 0, draw.integers(1, 10, n))] += 1.0
    return probabilities.pack(p / p.sum(1, keepdims=True), labels)


@pytest.fixture(scope="module")
def whole():
    return played(STANDARD, paper)


def test_the_rate_is_climbed_to_by_seeds_that_are_not_shown(whole):
    tuned = whole[whole["tunes"]]
    assert set(tuned["seed"]) == {100}
    assert set(tuned["arm"]) == {INCEPTION}
    assert set(tuned["learning_rate"]) == {0.01, 0.02, 0.04}
    assert set(whole.loc[~whole["tunes"], "learning_rate"]) == {0.02}
    ran = set(whole.loc[~whole["tunes"], ["arm", "seed"]].itertuples(index=False, name=None))
    assert ran == set(planned(STANDARD))
    assert len([run for run in ran if run[0] in MEMBERS]) == 18
    assert {arm for arm, seed in planned(STANDARD)[:7] if seed == 0} == set(MAIN)


def test_short_runs_are_a_quarter_and_the_rate_is_chosen_on_a_schedule_of_its_own():
    first = rounds(STANDARD, pd.DataFrame())
    assert {(run.steps, run.cooling) for run in first} == {(2500, 2500)}
    then = rounds(STANDARD, pd.concat([paper(run) for run in first]))
    assert {run.arms[0]: run.steps for run in then if run.arms[0] in MAIN} == {
        INCEPTION: 10_000, BASELINE: 10_000, SIGMOID: 10_000, FAST: 10_000, X5: 2500, X30: 2500,
        X5_SIGMOID: 2500,
    }  # fmt: skip
    assert {run.cooling for run in then} == {10_000}
    assert {run.steps for run in then if run.arms[0] in ABLATED} == {2500}


# The claims


def test_on_the_papers_own_numbers_the_ratios_are_the_papers_and_all_is_reproduced(whole):
    for arm, ratio in ((BASELINE, 2.33), (X5, 14.8), (X30, 11.5)):
        assert claims.fewer(whole, arm).tolist() == pytest.approx([ratio] * 3, rel=0.03)
    assert claims.lead(whole, X30, X5).tolist() == pytest.approx([1.8] * 3)
    assert claims.lead(whole, X5_SIGMOID, INCEPTION).tolist() == pytest.approx([-2.4] * 3)
    assert set(verdicts(CLAIMS, whole).values()) == {"reproduced"}


@pytest.mark.parametrize(
    ("best", "claim", "verdict"),
    [
        ({X30: 72.5}, "x30", "not reproduced"),
        ({X5_SIGMOID: 60.0}, "sigmoid", "not reproduced"),
        ({SIGMOID: 50.0}, "sigmoid_chance", "not reproduced"),
        ({FAST: 60.0}, "fails_without_bn", "not reproduced"),
        ({BASELINE: 71.0}, "baseline", "not reproduced"),  # it never reaches the target
        ({INCEPTION: 30.0, FAST: 10.0}, "fails_without_bn", "not tested"),
    ],
)
def test_claims_turn_when_the_truth_is_otherwise(best, claim, verdict):
    table = played(STANDARD, lambda run: paper(run, best))
    assert verdicts(CLAIMS, table)[claim] == verdict


def test_a_baseline_that_still_rises_tests_nothing():
    def rising(run):
        rows = paper(run)
        if run.arms[0] == INCEPTION and run.seeds[0] < 50:
            rows["test_accuracy"] = 0.1 + 0.6 * rows["step"] / rows["step"].max()
        return rows

    table = played(STANDARD, rising)
    assert verdicts(CLAIMS, table)["x5"] == "not tested"
    premise = judging.judge(claims.CLAIMS[0], table).premises[0]
    assert not premise["holds"]
    assert premise["found"].startswith("15")  # of 60 points in all, over a quarter of the steps


def test_a_rate_at_an_end_tests_nothing():
    def end(run):
        rows = paper(run)
        if rows["tunes"].all():
            rows["validation_accuracy"] = run.learning_rates[0]
        return rows

    assert verdicts(CLAIMS, played(STANDARD, end))["baseline"] == "not tested"


def steps_table(accuracy, seed=0, arm=INCEPTION):
    return pd.DataFrame({
        "arm": arm, "seed": seed, "learning_rate": 0.02, "tunes": False,
        "step": 10 * np.arange(len(accuracy)), "test_accuracy": accuracy,
    })  # fmt: skip


def test_steps_are_those_of_the_first_reading_at_the_level_itself():
    table = steps_table([0.1, 0.3, 0.5, 0.4, 0.6])
    level = pd.Series({0: 50.0})
    assert claims.steps_to(table, INCEPTION, level).tolist() == [20.0]  # not 10, nor 30
    assert claims.steps_to(table, INCEPTION, level + 0.1).tolist() == [40.0]
    assert math.isnan(claims.steps_to(table, INCEPTION, level + 11)[0])
    assert math.isnan(claims.steps_to(table, X5, level)[0])
    assert claims.best(table, INCEPTION).tolist() == [60.0]


def test_a_network_that_never_gets_there_has_at_most_the_factor_of_its_last_step():
    table = pd.concat([
        steps_table([0.1, 0.2, 0.3, 0.4]), steps_table([0.1, 0.3, 0.35], arm=X5),
        steps_table([0.1, 0.2, 0.3, 0.4], 1), steps_table([0.1, 0.4, 0.4], 1, X5),
    ])  # fmt: skip
    assert claims.fewer(table, X5).isna().tolist() == [True, False]
    assert claims.fewer_at_most(table, X5).tolist() == [30 / 20, 30 / 10]


def test_the_target_is_each_seeds_own():
    table = pd.concat([
        steps_table([0.1, 0.2, 0.3, 0.4]), steps_table([0.1, 0.4, 0.5, 0.6], seed=1),
        steps_table([0.1, 0.4, 0.5, 0.6], arm=X5), steps_table([0.1, 0.6, 0.6, 0.6], 1, X5),
    ])  # fmt: skip
    assert claims.fewer(table, X5).tolist() == [30 / 10, 30 / 10]
    assert claims.fewer(table, X5, below=10).tolist() == [20 / 10, 20 / 10]


def test_accuracies_in_the_table_are_of_the_same_seeds():
    """BN-x5 has runs of further seeds, members of ensembles, that Inception has not."""
    table = pd.concat([
        steps_table([0.1, 0.5]), steps_table([0.1, 0.6], 1), steps_table([0.1, 0.55], arm=X5),
        steps_table([0.1, 0.61], 1, X5), steps_table([0.1, 0.9], 50, X5),
    ])  # fmt: skip
    found = claims._of_networks(table)
    assert found["inception_best"]["value"] == pytest.approx(55)
    assert found["x5_best"]["value"] == pytest.approx(58)
    assert claims.lead(table, X5, INCEPTION).to_dict() == pytest.approx({0: 5, 1: 1})


# The ensemble


def test_probabilities_come_back_with_the_true_class_first():
    p = np.random.default_rng(0).dirichlet(np.ones(10), 50)
    labels = np.random.default_rng(1).integers(0, 10, 50)
    found = probabilities.unpack(probabilities.pack(p, labels))
    assert np.abs(found[:, 0] - p[np.arange(50), labels]).max() <= 0.5 / probabilities.LEVELS
    assert np.abs(np.sort(found, 1) - np.sort(p, 1)).max() <= 0.5 / probabilities.LEVELS
    assert (probabilities.right([found]) == (p.argmax(1) == labels)).all()


def test_members_are_averaged_image_by_image_and_class_by_class():
    one = np.array([[0.4, 0.6, 0.0], [0.2, 0.8, 0.0]])
    two = np.array([[0.4, 0.0, 0.6], [0.3, 0.1, 0.6]])
    assert probabilities.right([one]).tolist() == [False, False]
    # Both wrong about the first image, and right together; the second is lost.
    assert probabilities.right([one, two]).tolist() == [True, False]
    wrong_axis = np.stack([one, two]).mean(1)  # over images
    assert (wrong_axis[:, 0] > wrong_axis[:, 1:].max(1)).tolist() != [True, False]


def test_an_ensemble_is_held_against_the_member_that_validation_calls_best(whole):
    assert list(claims.teams(whole)) == [0, 1, 2]
    whole = whole.copy()
    mine = (whole["arm"] == MEMBERS[1]) & (whole["seed"] == 51)
    whole.loc[mine, "validation_accuracy"] = 0.99
    gain = claims.ensemble_gain(whole)
    assert gain.shape == (3, 200)
    own = probabilities.unpack(member(51, 1))
    six = [probabilities.unpack(member(s, k)) for k in range(3) for s in (1, 51)]
    expected = 100 * (probabilities.right(six).mean() - probabilities.right([own]).mean())
    assert gain.loc[1].mean() == pytest.approx(expected)
    assert claims.ensembles(whole).loc[1, "best"] == pytest.approx(
        100 * probabilities.right([own]).mean()
    )


def test_an_ensemble_that_lacks_a_member_is_left_out(whole):
    lacking = whole[~((whole["arm"] == X5) & (whole["seed"] == 51))]
    assert list(claims.teams(lacking)) == [0, 2]
    assert claims.ensemble_gain(whole[~whole["arm"].isin(MEMBERS)]).empty


# Training itself


def test_a_run_has_a_reading_at_each_of_its_steps_and_what_an_ensemble_needs(small_table):
    steps = small_table.groupby(["arm", "tunes"])["step"].unique()
    assert steps[INCEPTION, False].tolist() == [0, 3, 4, 5, 6, 7, 8]  # no step twice
    assert steps[X5, False].tolist() == [0, 2]
    last = claims.shown(small_table, X5).iloc[-1]
    p = probabilities.unpack(last["probabilities"])
    assert p.shape == (20, 10)
    assert np.abs(p.sum(1) - 1).max() <= 10 / probabilities.LEVELS
    assert probabilities.right([p]).mean() == pytest.approx(last["test_accuracy"])
    assert recipes.scores(small_table).keys() == {0.01, 0.03}


def test_a_run_that_guesses_ends_at_half_of_its_steps_and_not_before():
    run = replace(single(SIGMOID), steps=400)
    guesses = torch.full((400, 1), math.log(10))
    found = dead.dead(guesses[:, 0], 10, setup._patient(run))
    assert found == (200, "guessing")
    late = guesses.clone()
    late[150:] = 1.0  # half of the second quarter is better
    assert dead.dead(late[:, 0], 10, setup._patient(run)) is None


def test_a_run_that_explodes_is_dead_and_counts_as_guessing():
    config = EXPERIMENT.configure("quick", **{**SMALL, "steps": 30, "learning_rates": (1e4,)})
    run = replace(config, arms=(FAST,), steps=30)
    (table,) = EXPERIMENT.train([run], setup.Session("cpu"))
    assert table["dead_at"].iloc[-1] > 0
    assert table["test_accuracy"].iloc[-1] == table["validation_accuracy"].iloc[-1] == 0.1
    assert table["probabilities"].eq("").all()


def test_figures_draw_ours_beside_the_papers(whole):
    assert len(EXPERIMENT.figures["curves"](whole).axes[0].get_legend_handles_labels()[1]) == 7
    left, right = EXPERIMENT.figures["figure3"](whole).axes
    rings = [line.get_xdata()[0] for line in left.lines if line.get_mfc() == "none"
             and len(line.get_xdata())]  # fmt: skip
    assert sorted(rings) == pytest.approx([2.33, 11.5, 14.8], rel=0.01)
    theirs = [line.get_xdata()[0] for line in right.lines if line.get_mfc() == "none"]
    assert sorted(theirs) == pytest.approx([-2.4, 0.5, 0.8, 2.6])
