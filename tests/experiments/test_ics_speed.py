"""Shift against speed: made-up tables with known answers, and a small real run."""

from dataclasses import replace
from itertools import product

import numpy as np
import pandas as pd
import pytest
import torch

from bnbook.experiments.ics_speed import claims as analysis
from bnbook.experiments.ics_speed import experiment
from bnbook.experiments.ics_speed.experiment import EXPERIMENT as ics_speed
from bnbook.layers import norm, outside, partial
from bnbook.tables.arms import (
    FROZEN,
    MEANS_ONLY,
    NOISE,
    NOISY,
    OUTSIDE,
    VARIANCES_ONLY,
    WITH,
    WITHOUT,
)
from bnbook.tables.shift import CONV, RELU_MLP
from tests.judging import by_id, criterion

SMALL = {
    "steps": 4, "points": 2, "train_images": 40, "validation": 20, "batch_size": 10,
    "hidden": (5, 5, 5), "widths": (2,), "probe_images": 10, "learning_rates": (0.1, 1.0),
    "seeds": (0, 1, 2), "tuning": 1, "layers": 2,
}  # fmt: skip
"""Changes to the quick profile that make it a matter of a second."""
IMPOSSIBLE = [
    ({"learning_rates": (0.3, 1.0)}, "learning_rates must hold 0.1"),
    ({"arms": (WITH, "LN")}, "arms must"),
    ({"multiples": (1.0, 1.0)}, "multiples must be distinct"),
]
CLAIMS = by_id(ics_speed.claims)
LOSSES = dict(zip(analysis.ARMS, (1.0, 0.25, 0.4, 1.2, 0.3, 0.7, 0.35, 0.9), strict=True))
DRIFTS = dict(zip(analysis.ARMS, (0.8, 0.1, 0.9, 1.5, 0.2, 0.6, 0.3, 0.7), strict=True))


def made_up(noisy=0.4, order=1, means=0.35, rough=2.0):
    """A table whose truth is known: at rate 1, best for all, the losses and drifts above.

    At rate 0.1 the loss is twice as large. With an `order` of -1 the drift falls with the loss.
    Without BN the loss varies `rough` times as much along the gradient as with it.
    """
    rows = []
    axes = product((RELU_MLP, CONV), analysis.ARMS, (0.1, 1.0), range(5), (0, 10, 20), (2, 3))
    for network, arm, rate, seed, step, layer in axes:
        loss = {**LOSSES, NOISY: noisy, MEANS_ONLY: means}[arm] * (1 + 0.01 * seed)
        drift = DRIFTS[arm] if order > 0 else 1 / loss
        loss *= 1 if rate == 1.0 else 2
        drift *= 1 if rate == 1.0 else 2**order
        along = (rough if arm == WITHOUT else 1) * (1 + 0.01 * seed * (arm == WITH))
        rows.append({
            "network": network, "arm": arm, "seed": seed, "learning_rate": rate, "step": step,
            "role": "tuning" if seed < 2 else "judging", "layer": layer, "diverged_at": -1,
            "validation_accuracy": 0.9, "loss": loss if step else np.nan,
            "course": drift if step else np.nan, "drift": drift, "distance": drift,
            "change": 1.0, "relative": drift, "cosine": 0.5,
            "loss_range": along, "gradient_change": along, "smoothness": along,
        })  # fmt: skip
    return pd.DataFrame(rows)


def test_measures_on_a_table_with_known_truth():
    table = made_up()
    assert analysis.loss_ratio(table, NOISY, WITHOUT).tolist() == pytest.approx([0.4] * 3)
    assert analysis.drift_ratio(table, NOISY, WITHOUT).tolist() == pytest.approx([0.9 / 0.8] * 3)
    gain = analysis.kept_gain(table, MEANS_ONLY)
    assert gain["whole"].tolist() == pytest.approx([np.log(4)] * 3)
    assert gain["part"].tolist() == pytest.approx([np.log(1 / 0.35)] * 3)
    expected = pd.Series(LOSSES).corr(pd.Series(DRIFTS), method="spearman")
    assert analysis.correlations(table, tuned=True)["drift"].tolist() == pytest.approx(
        [expected] * 3
    )
    facts = ics_speed.facts(table)
    assert facts["moments"]["value"] == pytest.approx(8)
    assert facts["conv_relative"]["value"] == pytest.approx(1 / 8)
    assert facts["relu_relative"]["value"] == pytest.approx(1 / 8)
    assert facts["conv_without_next_relative"]["value"] == pytest.approx(1 / 16)
    assert facts["conv_without_next_loss"]["value"] == pytest.approx(2)
    ratios = analysis.landscape_ratio(table, "smoothness").tolist()
    assert ratios == pytest.approx([2 / (1 + 0.01 * seed) for seed in (2, 3, 4)])


@pytest.mark.parametrize(
    ("changes", "claim"),
    [
        ({"noisy": 1.1}, "santurkar.noisy_bn"),
        ({"noisy": 0.9}, "ics.noise_costs_little"),
        ({"order": -1}, "ics.predicts_speed"),
        ({"order": -1}, "ics.predicts_tuned"),
        ({"means": 0.8}, "ics.means_only"),
        ({"rough": 0.5}, "santurkar.landscape"),
        ({"rough": 0.5}, "santurkar.smoothness"),
    ],
)
def test_claims_turn_red_when_the_truth_is_otherwise(changes, claim):
    assert criterion(CLAIMS[claim], made_up()).verdict == "reproduced"
    assert criterion(CLAIMS[claim], made_up(**changes)).verdict == "not reproduced"


def test_premises():
    table = made_up()
    noisy, costs = CLAIMS["santurkar.noisy_bn"], CLAIMS["ics.noise_costs_little"]
    assert [p.find(table)["holds"] for p in noisy.premises] == [True, True, False]  # a grid of two
    assert costs.premises[0].find(table)["holds"]
    table.loc[table["arm"] == NOISY, "course"] /= 4
    assert not noisy.premises[0].find(table)["holds"]
    assert not costs.premises[0].find(table)["holds"]
    table.loc[table["arm"] == WITH, "loss"] = 3.0
    assert not noisy.premises[1].find(table)["holds"]


def test_drift_predicts_speed_only_of_networks_that_learn():
    """Of most runs, or, where arms are compared at their rates, of every run there."""
    table = made_up()
    most, measured = CLAIMS["ics.predicts_speed"].premises
    (every,) = CLAIMS["ics.predicts_tuned"].premises
    assert all(premise.find(table)["holds"] for premise in (most, measured, every))
    slow = (table["arm"] == OUTSIDE) & (table["network"] == CONV) & (table["seed"] == 3)
    table["validation_accuracy"] = table["validation_accuracy"].mask(slow, 0.15)
    assert most.find(table)["holds"]
    assert (every.find(table)["holds"], every.find(table)["found"]) == (False, "15 %")
    small = (table["learning_rate"] < 1) & (table["network"] == CONV)
    table["validation_accuracy"] = table["validation_accuracy"].mask(small, 0.15)
    assert not most.find(table)["holds"]


def test_landscapes_are_compared_at_the_equal_rate():
    table = made_up()
    table.loc[table["learning_rate"] == 1.0, "loss_range"] = 77.0
    assert analysis.landscape_ratio(table, "loss_range").mean() < 3
    assert analysis.landscape_ratio(table, "loss_range", tuned=True).tolist() == [1.0] * 3


def test_an_arm_is_made_of_its_layer(small):
    made = {}
    for run in ics_speed.parts(small):
        make = experiment.norm_of(run, (1, 2))
        made[run.arms[0]] = None if make is None else make(6)
    assert made[WITHOUT] is None
    assert type(made[WITH]) is norm.BatchNorm
    assert type(made[OUTSIDE]) is outside.BatchNormOutside
    assert made[OUTSIDE].outside == {outside.MEAN, outside.VARIANCE}
    assert type(made[FROZEN]) is partial.FrozenBatchNorm
    assert made[MEANS_ONLY].fixes == {outside.MEAN}
    assert made[VARIANCES_ONLY].fixes == {outside.VARIANCE}
    assert type(made[NOISY].before) is norm.BatchNorm
    assert type(made[NOISE].before) is torch.nn.Identity
    for arm in (NOISY, NOISE):
        assert (made[arm].n_mu, made[arm].n_sigma, made[arm].jitter) == (0.5, 1.25, 0.1)


def test_layers_of_one_network_have_noise_of_their_own(small):
    run = next(run for run in ics_speed.parts(small) if run.arms == (NOISY,))
    make = experiment.norm_of(run, (1,))
    assert [make(3).layer for _ in range(3)] == [0, 1, 2]
    assert experiment.norm_of(run, (1,))(3).layer == 0


def test_the_probes_move_nothing(small):
    """Measured more often, the losses are the same, with noise and frozen statistics too."""
    runs = [r for r in ics_speed.parts(small) if r.seeds == (1,) and r.learning_rates == (0.1,)]
    for arm in (WITH, NOISY, FROZEN):
        run = next(r for r in runs if r.arms == (arm,))
        few = ics_speed.run(run, "cpu")
        many = ics_speed.run(replace(run, points=4), "cpu")
        loss = [t.drop_duplicates("step").set_index("step")["loss"] for t in (few, many)]
        assert loss[0].loc[2] == pytest.approx(loss[1].loc[[1, 2]].mean(), rel=1e-6)
        assert loss[0].loc[4] == pytest.approx(loss[1].loc[[3, 4]].mean(), rel=1e-6)


def test_runs_that_guess_can_be_left_out_of_the_correlations():
    table = made_up()
    guesses = table["learning_rate"] == 0.1
    table.loc[guesses, "validation_accuracy"] = 0.1
    table.loc[guesses, "drift"] = 1e-3 / table.loc[guesses, "loss"].fillna(1.0)
    at_its_rate = analysis.correlations(made_up(), tuned=True)["drift"]
    assert (analysis.correlations(table)["drift"] < at_its_rate).all()
    learned = analysis.correlations(table, learned=True)["drift"]
    assert learned.tolist() == pytest.approx(at_its_rate.tolist())
    assert analysis.facts(table)["guessing"]["value"] == 3 * len(analysis.ARMS) * 2


def test_a_network_that_a_record_does_not_hold_has_facts_without_a_value():
    found = analysis.facts(made_up().query("network == @RELU_MLP"))
    assert found["tuned_loss_range_relu"]["value"] == pytest.approx(2, rel=0.05)
    assert found["tuned_loss_range_conv"]["value"] is None
    assert found["noisy_drift_relu"]["value"] == pytest.approx(0.9)
