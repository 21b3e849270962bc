"""Scaled initial weights against BN: measures on made-up tables, mutants, and small real runs."""

import math

import pandas as pd
import pytest
import torch

from bnbook.errors import BnbookError
from bnbook.experiments.bjorck_lsuv import claims as analysis
from bnbook.experiments.bjorck_lsuv import experiment as module
from bnbook.experiments.bjorck_lsuv.experiment import EXPERIMENT as experiment
from bnbook.tables.arms import HE, LSUV, WITH, WITHOUT
from tests.judging import criterion

SMALL = {
    "train_images": 200, "validation": 60, "test_images": 60, "steps": 6, "seeds": (0, 1),
    "learning_rates": (0.01, 0.1), "probe_intervals": 2, "probe_images": 30, "start_images": 50,
}  # fmt: skip
"""Changes to the quick profile that make it a matter of a second."""
IMPOSSIBLE = [
    ({"arms": (LSUV, WITH)}, "arms must hold without BN"),
    ({"momentum": 1.0}, r"momentum must lie in \[0, 1\)"),
    ({"probe_images": 301}, r"probe_images must be at most validation \(300\)"),
    ({"steps": 0}, "steps must be at least 1"),
]
(CLAIM,) = experiment.claims


def made_up(lsuv=0.78, base=0.6, bn=0.8, seeds=(0, 1, 2)):
    """Final test accuracies known; every arm is best at rate 0.1, and the same elsewhere."""
    rows = []
    tops = {WITHOUT: base, HE: 0.65, LSUV: lsuv, WITH: bn}
    for seed in seeds:
        for arm, top in tops.items():
            for rate in (0.01, 0.1, 1.0):
                for step in (0, 10):
                    reached = (top if rate == 0.1 else 0.3) if step else 0.1
                    accuracy = reached + 0.001 * seed * (arm == LSUV)
                    shift = 0.0 if not step else 0.1 if arm == WITH else 2.0
                    rows.append({
                        "arm": arm, "seed": seed, "learning_rate": rate, "step": step,
                        "diverged_at": 5 if rate == 1.0 and arm == WITHOUT else -1,
                        "validation_accuracy": accuracy, "test_accuracy": accuracy,
                        "mean_shift": shift, "scale_shift": shift, "size_1": 1.0, "size_2": 4.0,
                    })  # fmt: skip
    return pd.DataFrame(rows)


def test_measures_on_a_table_with_known_truth():
    table = made_up()
    assert analysis.tuned_rates(table) == dict.fromkeys(analysis.ARMS, 0.1)
    gains = analysis.share_of_gain(table)
    assert (gains["part"] / gains["whole"]).tolist() == pytest.approx([0.9, 0.905, 0.91])
    judged = criterion(CLAIM, table)
    assert (judged.verdict, judged.n) == ("reproduced", 3)


@pytest.mark.parametrize(
    ("changes", "verdict"),
    [
        ({"lsuv": 0.65}, "not reproduced"),  # a quarter of the gain
        ({"lsuv": 0.5}, "not reproduced"),  # worse than Xavier's start
        ({"lsuv": 0.7}, "inconclusive"),  # half, to within the seeds
        ({"bn": 0.6}, "inconclusive"),  # no gain to share
    ],
)
def test_the_claim_turns_red(changes, verdict):
    assert criterion(CLAIM, made_up(**changes)).verdict == verdict


def test_a_share_is_not_conditioned_on_the_sign_of_the_gain():
    gains = analysis.share_of_gain(made_up(bn=0.55))
    assert gains["whole"].tolist() == pytest.approx([-5] * 3)


def test_seeds_that_guess_from_hes_weights_are_counted_and_left_out_of_those_that_learn():
    table = made_up()
    table.loc[(table["arm"] == HE) & (table["seed"] == 1), "test_accuracy"] = 0.1
    facts, learned = experiment.facts(table), table["seed"] != 1
    assert facts["he_guess"]["value"] == 1
    assert facts["he_learned"]["value"] == pytest.approx(
        experiment.facts(table[learned])["he_accuracy"]["value"]
    )


def test_rates_are_tuned_on_validation_never_on_test():
    table = made_up()
    lucky = (table["arm"] == LSUV) & (table["learning_rate"] == 0.01)
    table.loc[lucky, "test_accuracy"] = 0.99
    assert analysis.tuned_rates(table)[LSUV] == 0.1
    table.loc[lucky, "validation_accuracy"] = 0.99
    assert analysis.tuned_rates(table)[LSUV] == 0.01


def test_facts():
    facts = experiment.facts(made_up())
    assert facts["gain"]["value"] == pytest.approx(20)
    assert facts["gap"]["value"] == pytest.approx(1.9)
    assert facts["same_rate"]["value"] == pytest.approx(20)
    assert facts["layers"]["value"] == 2
    assert facts["lsuv_rate"]["value"] == 0.1
    assert facts["lsuv_mean_shift"]["value"] == pytest.approx(2)
    assert (facts["lsuv_least_end"]["value"], facts["lsuv_most_end"]["value"]) == (1, 4)


def test_bns_lead_is_at_the_other_networks_rate():
    table = made_up()
    own = (table["arm"] == WITH) & (table["learning_rate"] == 0.01) & (table["step"] == 10)
    table.loc[own, ["validation_accuracy", "test_accuracy"]] = 0.9
    facts = experiment.facts(table)
    assert facts["gain"]["value"] == pytest.approx(30)
    assert facts["same_rate"]["value"] == pytest.approx(20)


def test_a_diverged_seed_at_a_tuned_rate_leaves_the_other_facts():
    table = made_up()
    lost = table.eval("arm == @LSUV and learning_rate == 0.1 and seed == 1 and step == 10")
    table.loc[lost, ["mean_shift", "size_1"]] = [math.nan, math.inf]
    table.loc[lost, "scale_shift"] = math.inf
    facts = experiment.facts(table)
    assert facts["lsuv_mean_shift"]["value"] == pytest.approx(2)
    assert facts["lsuv_scale_shift"]["value"] == pytest.approx(2)
    assert facts["lsuv_least_end"]["value"] == 1


def test_more_images_than_there_are():
    config = experiment.configure("quick", **{**SMALL, "train_images": 1400})
    with pytest.raises(
        BnbookError, match="from 1 to 37 of the 1437 training images of digits, found 60"
    ):
        experiment.run(config, "cpu")


def test_the_schedule_is_the_papers():
    factors = module.schedule(8).tolist()
    assert factors == pytest.approx([1, 1, 1, 1, 0.1, 0.1, 0.01, 0.01])
    assert module.probe_steps(400, 4) == [0, 100, 200, 300, 400]


def test_standard_has_seeds_and_rates_enough():
    config = experiment.profiles["standard"]
    assert len(config.seeds) >= 5
    assert len(config.learning_rates) >= 7


def test_a_small_run_has_a_row_for_each_run_and_measured_step(small_table):
    assert len(small_table) == 4 * 2 * 2 * 3
    assert not small_table.duplicated(["arm", "learning_rate", "seed", "step"]).any()
    assert small_table["test_accuracy"].between(0, 1).all()


def test_the_start_is_normalised_where_it_should_be(small_table):
    start = small_table[small_table["step"] == 0]
    sizes = start.filter(like="size_")
    assert sizes.shape[1] == 7
    assert (sizes[start["arm"] == WITH] - 1).abs().max().max() < 1e-3
    # Other images than those of the scaling, and means that are not 0: near 1, not at it.
    assert (sizes[start["arm"] == LSUV] - 1).abs().max().max() < 0.3
    assert sizes[start["arm"] == WITHOUT].min().min() < 0.7
    assert (start[["mean_shift", "scale_shift"]] == 0).all().all()


def test_shifts_are_those_of_the_moments(small, small_table):
    """BN's outputs have mean beta and deviation gamma: they shift as these do, to the digit."""
    assert small_table.query("arm == @WITH and step == 6")["mean_shift"].between(1e-5, 1).all()
    part = next(p for p in experiment.parts(small) if p.arms == (WITH,))
    model = module._network(part, (0,), torch.rand(4, 1, 8, 8))
    with torch.no_grad():
        model.stem_norm.bias[2], model.stem_norm.weight[2] = 0.7, 3.0
    found = module._moments(model, torch.rand(20, 1, 8, 8))
    assert found["means"][0, 2].item() == pytest.approx(0.7, abs=1e-5)
    assert found["deviations"][0, 2].item() == pytest.approx(3, rel=1e-3)


def test_measuring_moments_leaves_the_network_bit_for_bit(small):
    part = next(p for p in experiment.parts(small) if p.arms == (WITH,))
    model = module._network(part, (0, 1), torch.rand(4, 1, 8, 8))
    model.eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    module._moments(model, torch.rand(20, 1, 8, 8))
    assert not model.training
    assert not any(layer._forward_hooks for layer in model.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_arms_start_from_the_same_directions(small):
    """Xavier's weights under all but He's; LSUV changes their scale alone."""
    images = module._splits(small, torch.device("cpu"))[0][0][:50]
    kernels = {}
    for part in experiment.parts(small):
        if part.seeds == (0,):
            model = module._network(part, (0,), images)
            kernels[part.arms[0]] = model.convolutions[3].weight.flatten()
    assert torch.equal(kernels[WITHOUT], kernels[WITH])
    for arm in (HE, LSUV):
        cosine = torch.cosine_similarity(kernels[arm], kernels[WITH], 0)
        assert cosine.item() == pytest.approx(1, abs=1e-6)
        assert not torch.allclose(kernels[arm], kernels[WITH])


def test_validation_does_not_overlap_training(small):
    (train_x, _), (valid_x, _), (test_x, _) = module._splits(small, torch.device("cpu"))
    assert (len(train_x), len(valid_x), len(test_x)) == (200, 60, 60)
    held_out = {tuple(image.flatten().tolist()) for image in valid_x}
    assert not any(tuple(image.flatten().tolist()) in held_out for image in train_x)


def test_accuracy_is_measured_in_evaluation_mode(small_table):
    """At step 0 a BN network's running statistics are still 0 and 1; it must not fail for it."""
    start = small_table[(small_table["step"] == 0) & (small_table["arm"] == WITH)]
    assert start["validation_accuracy"].between(0, 0.5).all()
