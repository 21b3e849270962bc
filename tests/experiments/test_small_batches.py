"""Small minibatches: measures on tables whose truth is known, and a small real run."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from bnbook.evidence import claims, records
from bnbook.experiments.small_batches import claims as analysis
from bnbook.experiments.small_batches.experiment import EXPERIMENT, cells, network
from bnbook.layers.norm import GroupNorm
from bnbook.tables import arms, right
from bnbook.training.session import Session
from tests.judging import by_id, criterion, verdicts

SMALL = {
    "data": "digits", "seeds": (0, 1), "tuning_seeds": (100,), "learning_rates": (0.1, 0.3),
    "validation": 64, "train_images": 300, "test_images": 64, "examples": 160, "pool": 2,
    "widths": (4, 4), "batch_sizes": (2, 32),
}  # fmt: skip
IMPOSSIBLE = [
    ({"batch_sizes": (2, 32, 5)}, "divide batch_size, 32, found 5"),
    ({"batch_sizes": (1, 2, 32)}, "2 or more"),
    ({"batch_sizes": (4, 32)}, "must hold 2"),
    ({"arms": (arms.BN,)}, "arms must hold"),
    ({"seeds": (0, 100)}, "would do both"),
    ({"arms": analysis.ARMS}, "multiples of the groups of 'GroupNorm, 16 groups', found 8"),
]
GROUP, CROSSING, RENORM, POPULATION = EXPERIMENT.claims
TWO, FOUR, EIGHT, _ = analysis.GROUPS
ERRORS = {
    (arms.BN, 2): 0.40, (arms.BN, 32): 0.30, (arms.RENORM, 2): 0.35, (arms.LATE_FROZEN, 2): 0.36,
    (TWO, 32): 0.37, (FOUR, 32): 0.34, (EIGHT, 32): 0.36,
}  # fmt: skip
IMAGES = 1000


def hits(share):
    """Say of each image whether it is right: the first ones are."""
    return right.pack(np.arange(IMAGES) < round(share * IMAGES))


def made_up(mates=0.32, images=False):
    """A table whose truth is known; rates at both ends are worse, and one seed tunes."""
    rows = []
    for seed in (0, 1, 2, 100):
        for (arm, m), error in ERRORS.items():
            for rate in (0.03, 0.1, 0.3) if seed == 100 else (0.1,):
                own = {"arm": arm, "batch_size": m, "seed": seed, "learning_rate": rate}
                kinds = {arms.RUNNING: error, arms.MIXED: mates, arms.ALGORITHM_2: error - 0.01}
                for kind, off in kinds.items() if arm == arms.BN else [(arms.RUNNING, error)]:
                    share = 1 - off - 0.001 * seed * (seed < 100)
                    rows.append(
                        {
                            **own,
                            "tunes": seed == 100,
                            "step": 10,
                            "statistics": kind,
                            "validation_accuracy": share - (rate != 0.1),
                            "test_accuracy": share if seed < 100 else 0.99,
                            "training_accuracy": share,
                            "right": hits(share) if images and seed < 100 else "",
                        }
                    )
    return pd.DataFrame(rows)


def test_the_measures_on_a_table_with_known_truth():
    table = made_up()
    assert analysis.rise(table).tolist() == pytest.approx([10.0] * 3)
    assert analysis.group_lead(table).tolist() == pytest.approx([6.0] * 3)
    assert analysis.renorm_lead(table).tolist() == pytest.approx([5.0] * 3)
    assert analysis.population_cost(table).tolist() == pytest.approx([7.0] * 3)
    assert set(verdicts(by_id(EXPERIMENT.claims), table).values()) == {"reproduced"}
    facts = EXPERIMENT.facts(table)
    assert facts["bn_2"]["value"] == pytest.approx(40.1)
    assert facts["frozen_gain"]["value"] == pytest.approx(4.0)
    assert facts["precise_gain"]["value"] == pytest.approx(1.0)
    assert facts["bn_lead_32"]["value"] == pytest.approx(4.0)
    assert facts["bn_lead_2"]["value"] == pytest.approx(-6.0)
    assert facts["groups"]["value"] == 4
    assert facts["group"] == facts["groups_4"]
    assert facts["groups_8"]["value"] == pytest.approx(36.1)


def test_differences_are_taken_over_seeds_and_test_images():
    table = made_up(images=True)
    assert analysis.group_lead(table).shape == (3, IMAGES)
    for claim in EXPERIMENT.claims:
        judged = claims.judge(claim, table)
        assert judged.value == pytest.approx(claim.measure(made_up()).mean())
        assert judged.over == "seeds and test images"
        assert judged.high - judged.low > 1  # these seeds agree; so many images do not decide more
    for name in ("frozen_gain", "precise_gain", "bn_lead_32"):
        fact, by_seed = (EXPERIMENT.facts(each)[name] for each in (table, made_up()))
        assert fact["value"] == pytest.approx(by_seed["value"])
        assert fact["high"] - fact["low"] > 1 > by_seed["high"] - by_seed["low"]


def test_the_seeds_that_tune_choose_the_number_of_groups():
    table = made_up()
    assert analysis.group_norm(table) == FOUR
    shown = ~table["tunes"] & (table["arm"] == EIGHT)
    better = table.assign(validation_accuracy=table["validation_accuracy"].mask(shown, 1.0))
    assert analysis.group_norm(better.assign(test_accuracy=better["validation_accuracy"])) == FOUR
    tuned = table["tunes"] & (table["arm"] == EIGHT) & (table["learning_rate"] == 0.3)
    chosen = table.assign(validation_accuracy=table["validation_accuracy"].mask(tuned, 0.9))
    assert analysis.group_norm(chosen) == EIGHT
    assert analysis.group_lead(chosen).tolist() == pytest.approx([4.0] * 3)
    assert analysis.bn_lead(chosen, 32).tolist() == pytest.approx([6.0] * 3)
    equal = table.assign(validation_accuracy=0.5)
    assert analysis.group_norm(equal) == TWO


def test_the_claims_turn_red_on_the_other_truth():
    table = made_up(mates=0.45)
    assert criterion(POPULATION, table).verdict == "not reproduced"
    swapped = table.replace({"arm": {arms.RENORM: arms.BN, arms.BN: arms.RENORM}})
    assert criterion(RENORM, swapped).verdict == "not reproduced"
    moved = table.replace({"batch_size": {2: 32, 32: 2}})
    assert criterion(GROUP, moved).verdict == "not reproduced"
    better = table.assign(test_accuracy=table["test_accuracy"].where(table["arm"] != FOUR, 0.5))
    assert criterion(CROSSING, better).verdict == "not reproduced"


def test_nothing_is_tested_where_a_rate_stands_at_an_end_or_nothing_was_learned():
    table = made_up()
    at_end = table[(table["learning_rate"] != 0.3)]
    assert claims.judge(GROUP, at_end).verdict == "not tested"
    poor = table.assign(test_accuracy=table["test_accuracy"] - 0.5)
    assert claims.judge(GROUP, poor).verdict == "not tested"
    others = table[(table["arm"] != EIGHT) | (table["learning_rate"] != 0.3)]
    assert claims.judge(CROSSING, others).verdict == "reproduced"  # of groups that are not chosen


def test_each_cell_is_judged_at_one_rate_that_the_tuning_seed_chose(small, small_table):
    for (arm, m), rows in small_table.groupby(["arm", "batch_size"]):
        tuning = rows[rows["tunes"] & (rows["statistics"] == arms.RUNNING)]
        scores = tuning.set_index("learning_rate")["validation_accuracy"]
        assert set(scores.index) == set(small.learning_rates)
        judged = rows[~rows["tunes"]]
        assert set(judged["learning_rate"]) == {scores.idxmax()}
        assert set(judged["seed"]) == {0, 1}
        assert (arm, m) in cells(small)
    assert len(small_table.groupby(["arm", "batch_size"])) == 3 * 2 + 4


def test_statistics_differ_for_bn_and_are_one_kind_for_the_others(small_table):
    kinds = small_table.groupby("arm")["statistics"].unique().map(set)
    assert kinds[arms.BN] == {arms.RUNNING, arms.MIXED, arms.ALGORITHM_2}
    assert all(kinds[arm] == {arms.RUNNING} for arm in kinds.index if arm != arms.BN)


def test_it_is_kept_which_test_images_a_judged_run_has_right(small, small_table):
    shown = small_table[~small_table["tunes"]]
    kept = shown["right"].map(right.unpack)
    assert set(kept.map(len)) == {small.test_images}
    assert (kept.map(np.mean) == shown["test_accuracy"]).all()
    assert set(small_table.loc[small_table["tunes"], "right"]) == {""}


def test_each_arm_of_group_norm_has_its_number_of_groups():
    config = EXPERIMENT.profiles["standard"]
    for arm, groups in analysis.GROUPS.items():
        layers = network(arm, (0, 1), 3, config, 32).modules()
        found = [layer.num_groups for layer in layers if isinstance(layer, GroupNorm)]
        assert found == [groups] * 3


def ends(small, *which):
    """The mean training loss of a run of each arm."""
    fields = {"batch_sizes": (32,), "seeds": (0,), "learning_rates": (0.3,)}
    runs = [replace(small, arms=(arm,), **fields) for arm in which]
    return [EXPERIMENT.together([run], Session("cpu"))[0]["loss"].iloc[0] for run in runs]


def test_a_number_of_groups_that_is_ignored_is_seen(small, monkeypatch):
    assert len(set(ends(small, TWO, FOUR))) == 2
    monkeypatch.setattr(analysis, "GROUPS", dict.fromkeys(analysis.GROUPS, 4))
    assert len(set(ends(small, TWO, FOUR))) == 1


def test_layer_norm_is_one_group(small, monkeypatch):
    monkeypatch.setattr(analysis, "GROUPS", dict.fromkeys(analysis.GROUPS, 1))
    assert len(set(ends(small, TWO, arms.LAYER_NORM))) == 1


def test_the_number_of_groups_is_what_the_chapter_says():
    record = records.read(records.path(records.recorded(), "small_batches", "standard"))
    groups, widths = EXPERIMENT.facts(record.table)["groups"], record.provenance["config"]["widths"]
    page = (records.root() / "book" / "41-small-batches.md").read_text("utf-8")
    assert (groups["value"] == widths[0]) == ("as many as the first layer has channels" in page)
