"""Measures of internal covariate shift: made-up tables with known answers, and a small real run."""

from itertools import product

import numpy as np
import pandas as pd
import pytest
import torch

from bnbook.experiments.ics_measures import claims as analysis
from bnbook.experiments.ics_measures.experiment import EXPERIMENT as ics_measures
from bnbook.setups import shift as setup
from bnbook.tables import shift, shift_ratios
from bnbook.tables.arms import WITH, WITHOUT
from bnbook.tables.shift import CONV, LINEAR_25, RELU_MLP, SIGMOID_MLP
from tests.judging import by_id, criterion

SMALL = {
    "steps": 4, "points": 2, "train_images": 40, "validation": 20, "batch_size": 10,
    "hidden": (5, 5, 5), "widths": (2,), "depth": 4, "examples": 20, "probe_images": 10,
    "learning_rates": (0.1, 1.0), "seeds": (0, 1, 2), "tuning": 1, "layers": 2,
}  # fmt: skip
"""Changes to the quick profile that make it a matter of a second."""
IMPOSSIBLE = [
    ({"steps": 4, "points": 3}, "multiple of points"),
    ({"seeds": (0, 1, 2), "tuning": 3}, "tuning must leave seeds"),
    ({"networks": ("ResNet",)}, "networks must be among"),
    ({"depth": 2}, "two hidden layers"),
]
CLAIMS = by_id(ics_measures.claims)


def made_up(course=4.0, gradient=2.0, cosine=-0.3, agree=True):
    """A table whose truth is known.

    With BN the moments drift `course` times less and the gradient changes `gradient` times as much,
    its cosine is greater by `cosine`. Rate 1 is best by the tuning seeds 0 and 1, though the judged
    ones would choose 0.1. All measures rise with the rate if they `agree`, else the gradient falls.
    """
    rows = []
    axes = product(setup.NETWORKS, (WITHOUT, WITH), (0.1, 1.0, 10.0), range(5), (0, 10, 20), (2, 3))
    for network, arm, rate, seed, step, layer in axes:
        normal, jitter = arm == WITH, 1 + 0.01 * seed
        size = rate * jitter / (course if normal else 1)
        factor = gradient if normal else 1
        started = step > 0
        loss = (0.5 if rate == (1.0 if seed < 2 else 0.1) else 2.0) - 0.1 * normal
        rows.append({
            "network": network, "arm": arm, "seed": seed, "learning_rate": rate, "step": step,
            "role": "tuning" if seed < 2 else "judging", "layer": layer, "diverged_at": -1,
            "validation_accuracy": 0.9, "loss": loss if started else np.nan,
            "course": size if started else np.nan, "drift": size, "distance": size,
            "change": factor * jitter, "relative": factor * (size if agree else 1 / size),
            "cosine": 0.5 + (cosine + 0.01 * seed) * normal,
        })  # fmt: skip
    return pd.DataFrame(rows)


def test_measures_on_a_table_with_known_truth():
    table = made_up()
    rates = shift.tuned_rates(shift.runs(table))
    assert set(rates.values()) == {1.0}
    assert analysis.moments_ratio(table).tolist() == pytest.approx([4.0] * 3)
    assert analysis.ratio(table, CONV, "change").tolist() == pytest.approx([2.0] * 3)
    assert analysis.cosine_gap(table).tolist() == pytest.approx([-0.28, -0.27, -0.26])
    assert analysis.least_agreement(table).min() > 0.5
    same = analysis.effects(table)
    assert same["drift"].tolist() == pytest.approx([0.25] * len(same))
    assert same["relative"].tolist() == pytest.approx([0.5] * len(same))


@pytest.mark.parametrize(
    ("changes", "claim"),
    [
        ({"course": 0.5}, "ioffe.ics.moments"),
        ({"agree": False}, "ics.measures_agree"),
        ({"gradient": 0.5}, "santurkar.ics_gradient"),
        ({"gradient": 0.5}, "santurkar.ics_relative"),
        ({"cosine": 0.3}, "santurkar.deep_linear"),
    ],
)
def test_claims_turn_red_when_the_truth_is_otherwise(changes, claim):
    given = {"course": 1.01} if claim == "santurkar.ics_relative" else {}
    assert criterion(CLAIMS[claim], made_up(**given)).verdict == "reproduced"
    assert criterion(CLAIMS[claim], made_up(**{**given, **changes})).verdict == "not reproduced"


def test_a_ratio_at_the_next_best_rates():
    """Rate 0.1 without BN is made next-best: there the gradient changes a tenth as much as at 1."""
    table = made_up()
    tuning = table["role"] == "tuning"
    near = tuning & (table["arm"] == WITHOUT) & (table["learning_rate"] == 0.1)
    table.loc[near & table["loss"].notna(), "loss"] = 0.6
    large = tuning & (table["arm"] == WITH) & (table["learning_rate"] == 10.0)
    table.loc[large & table["loss"].notna(), "loss"] = 0.5
    order = shift_ratios.losses(shift.runs(table), CONV, WITHOUT)
    assert list(order.index) == [1.0, 0.1, 10.0]
    found = ics_measures.facts(table)
    values = {name: fact["value"] for name, fact in found.items() if name.startswith("conv_")}
    best = values["conv_relative"]
    assert best == pytest.approx(0.5)
    assert values["conv_without_next_relative"] == pytest.approx(10 * best)
    assert values["conv_with_next_relative"] == pytest.approx(10 * best)
    assert (values["conv_without_rate"], values["conv_without_next"]) == (1.0, 0.1)
    assert (values["conv_with_rate"], values["conv_with_next"]) == (1.0, 10.0)
    assert values["conv_without_next_loss"] == pytest.approx(1.2)
    assert values["conv_with_next_loss"] == pytest.approx(1.25)
    assert values["conv_without_least"] == pytest.approx(90)


def test_without_a_next_best_rate_there_is_no_ratio():
    table = made_up()
    one = table[table["learning_rate"] == 1.0]
    assert shift_ratios.ratio(one, CONV, "relative").tolist() == pytest.approx([0.5] * 3)
    assert shift_ratios.ratio(one, CONV, "relative", shift_ratios.NEXT).empty
    found = shift_ratios.facts(one)
    for name in ("conv_without_next_relative", "conv_without_next", "conv_without_next_loss"):
        assert found[name]["value"] is None
    gone = table.assign(diverged_at=table["diverged_at"].mask(table["learning_rate"] != 1.0, 5))
    assert shift_ratios.ratio(gone, CONV, "relative", shift_ratios.NEXT).empty


def test_the_judged_seeds_choose_no_rate():
    table = made_up()
    worse = table["role"] != "tuning"
    table.loc[worse, "loss"] = 100 * table["learning_rate"]
    changed = shift.tuned_rates(shift.runs(table))
    assert changed == shift.tuned_rates(shift.runs(made_up()))
    table.loc[~worse & (table["learning_rate"] == 10.0), "loss"] = 0.01
    assert set(shift.tuned_rates(shift.runs(table)).values()) == {10.0}


def test_a_run_that_diverged_has_no_measures_and_is_never_chosen():
    table = made_up()
    gone = (table["seed"] == 0) & (table["learning_rate"] == 1.0)
    table.loc[gone & (table["step"] == 20), "diverged_at"] = 15
    found = shift.runs(table)
    lost = found[(found["seed"] == 0) & (found["learning_rate"] == 1.0)]
    assert np.isinf(lost["loss"]).all()
    assert lost["drift"].isna().all()
    assert 1.0 not in shift.tuned_rates(found).values()


def test_premises():
    table = made_up()
    moments, deep = CLAIMS["ioffe.ics.moments"], CLAIMS["santurkar.deep_linear"]
    assert moments.premises[0].find(table)["holds"]
    table.loc[(table["network"] == SIGMOID_MLP) & (table["seed"] == 3), "validation_accuracy"] = 0.1
    assert moments.premises[0].find(table)["holds"]  # two are left
    assert analysis.learning(table) == (RELU_MLP, CONV)
    table.loc[(table["network"] == CONV) & (table["seed"] == 4), "validation_accuracy"] = 0.4
    assert not moments.premises[0].find(table)["holds"]
    assert deep.premises[0].find(table)["holds"]
    table.loc[(table["network"] == LINEAR_25) & (table["arm"] == WITH), "loss"] += 9
    assert not deep.premises[0].find(table)["holds"]


def test_measures_agree_only_where_most_runs_have_them():
    table = made_up()
    learn, measured = CLAIMS["ics.measures_agree"].premises
    assert learn is CLAIMS["ioffe.ics.moments"].premises[0]
    assert measured.find(table)["found"] == "100 %"
    one = (table["network"] == CONV) & (table["learning_rate"] > 0.5)
    lost = table.assign(diverged_at=table["diverged_at"].mask(one, 5))
    found = measured.find(lost)
    assert (found["holds"], found["found"]) == (False, "33 %")
    none = table.assign(diverged_at=table["diverged_at"].mask(table["network"] == CONV, 5))
    assert measured.find(none)["found"] == "0 %"


def test_the_first_loss_is_that_of_a_network_of_torchs():
    """One step of the sigmoid MLP with BN, from the same weights on the same minibatch."""
    from bnbook.layers import norm
    from bnbook.training import fit

    config = ics_measures.configure("quick", **SMALL, arms=(WITHOUT, WITH))
    run = next(
        r for r in ics_measures.parts(config)
        if (r.networks, r.arms, r.seeds, r.learning_rates) == ((CONV,), (WITH,), (1,), (1.0,))
    )  # fmt: skip
    table = ics_measures.run(run, "cpu")
    data = setup.task(run, torch.device("cpu"))
    model = setup.network(run, norm.BatchNorm, (1,), 1)
    descent = torch.optim.SGD(model.parameters(), lr=1.0)
    losses = []
    for chosen in fit.minibatches(len(data.labels), run.batch_size, 2, 1):
        loss = torch.nn.functional.cross_entropy(
            model(data.images[chosen])[:, 0], data.labels[chosen]
        )
        descent.zero_grad()
        loss.backward()
        descent.step()
        losses.append(loss.item())
    found = table.loc[table["step"] == 2, "loss"]
    assert found.tolist() == pytest.approx([sum(losses) / 2] * len(found), rel=1e-4)


def test_the_linear_network_sees_its_targets(small):
    run = next(r for r in ics_measures.parts(small) if r.networks == (LINEAR_25,))
    data = setup.task(run, torch.device("cpu"))
    outputs = torch.zeros(20, 3, 10)
    alone = data.loss(outputs, data.labels)
    each = data.loss(outputs, data.labels[:, None].expand(-1, 3))
    assert torch.equal(alone, each)
    assert alone.std() == 0
    assert 1 < alone[0] < 20  # half of ten variances of about one
    assert run.seeds == (0,)
    assert setup.rate(run) == pytest.approx(0.03 * run.learning_rates[0])


def test_measured_layers_are_spread_from_the_second_to_the_last():
    assert setup.measured_layers(24, 4) == [1, 8, 16, 23]
    assert setup.measured_layers(3, 4) == [1, 2]


def test_runs_that_guess_can_be_left_out_of_correlations_and_pairs():
    table = made_up()
    plain = (table["network"] == CONV) & (table["arm"] == WITHOUT)
    table.loc[plain, "validation_accuracy"] = 0.1
    whole, learned = analysis.effects(table), analysis.effects(table, learned=True)
    assert set(whole.index.get_level_values("network")) >= {CONV, RELU_MLP}
    assert CONV not in learned.index.get_level_values("network")
    assert learned.equals(whole.drop(CONV, level="network"))
    without = analysis.correlations(table[~plain])
    assert analysis.correlations(table, learned=True).equals(without)


def test_medians_do_not_follow_a_reading_far_above_the_rest_and_one_rate_is_bns():
    table = made_up()
    truth = analysis.by_median(table, "change")
    plain = (table["network"] == CONV) & (table["arm"] == WITHOUT)
    far = table[plain].groupby(["seed", "learning_rate"]).head(1).index
    table.loc[far, "change"] = 1e3
    assert analysis.by_median(table, "change").tolist() == pytest.approx(truth.tolist())
    assert (analysis.ratio(table, CONV, "change") < 0.1 * truth).all()
    rate = shift.tuned_rates(shift.runs(table))[LINEAR_25, WITH]
    both = table[(table["network"] != LINEAR_25) | (table["learning_rate"] == rate)]
    expected = analysis.cosine_gap(both).tolist()
    assert analysis.cosine_at_one_rate(table).tolist() == pytest.approx(expected)
