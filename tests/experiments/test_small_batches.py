"""Small minibatches: measures on tables whose truth is known, and a small real run."""

import pandas as pd
import pytest

from bnbook.evidence import claims
from bnbook.experiments.small_batches import claims as analysis
from bnbook.experiments.small_batches.experiment import EXPERIMENT, cells
from bnbook.tables import arms
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
]
GROUP, CROSSING, RENORM, POPULATION = EXPERIMENT.claims
ERRORS = {
    (arms.BN, 2): 0.40, (arms.BN, 32): 0.30, (arms.RENORM, 2): 0.35, (arms.LATE_FROZEN, 2): 0.36,
    (arms.GROUP_NORM, 32): 0.34,
}  # fmt: skip


def made_up(mates=0.32, **_):
    """A table whose truth is known; rates at both ends are worse, and one seed tunes."""
    rows = []
    for seed in (0, 1, 2, 100):
        for (arm, m), error in ERRORS.items():
            for rate in (0.03, 0.1, 0.3) if seed == 100 else (0.1,):
                own = {"arm": arm, "batch_size": m, "seed": seed, "learning_rate": rate}
                kinds = {arms.RUNNING: error, arms.MIXED: mates, arms.ALGORITHM_2: error - 0.01}
                for kind, off in kinds.items() if arm == arms.BN else [(arms.RUNNING, error)]:
                    right = 1 - off - 0.001 * seed * (seed < 100)
                    rows.append(
                        {
                            **own,
                            "tunes": seed == 100,
                            "step": 10,
                            "statistics": kind,
                            "validation_accuracy": right - (rate != 0.1),
                            "test_accuracy": right if seed < 100 else 0.99,
                            "training_accuracy": right,
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
    assert facts["bn_lead"]["value"] == pytest.approx(4.0)


def test_the_claims_turn_red_on_the_other_truth():
    table = made_up(mates=0.45)
    assert criterion(POPULATION, table).verdict == "not reproduced"
    swapped = table.replace({"arm": {arms.RENORM: arms.BN, arms.BN: arms.RENORM}})
    assert criterion(RENORM, swapped).verdict == "not reproduced"
    moved = table.replace({"batch_size": {2: 32, 32: 2}})
    assert criterion(GROUP, moved).verdict == "not reproduced"
    better = table.assign(
        test_accuracy=table["test_accuracy"].where(table["arm"] != arms.GROUP_NORM, 0.5)
    )
    assert criterion(CROSSING, better).verdict == "not reproduced"


def test_nothing_is_tested_where_a_rate_stands_at_an_end_or_nothing_was_learned():
    table = made_up()
    at_end = table[(table["learning_rate"] != 0.3)]
    assert claims.judge(GROUP, at_end).verdict == "not tested"
    poor = table.assign(test_accuracy=table["test_accuracy"] - 0.5)
    assert claims.judge(GROUP, poor).verdict == "not tested"


def test_each_cell_is_judged_at_one_rate_that_the_tuning_seed_chose(small, small_table):
    for (arm, m), rows in small_table.groupby(["arm", "batch_size"]):
        tuning = rows[rows["tunes"] & (rows["statistics"] == arms.RUNNING)]
        scores = tuning.set_index("learning_rate")["validation_accuracy"]
        assert set(scores.index) == set(small.learning_rates)
        judged = rows[~rows["tunes"]]
        assert set(judged["learning_rate"]) == {scores.idxmax()}
        assert set(judged["seed"]) == {0, 1}
        assert (arm, m) in cells(small)
    assert len(small_table.groupby(["arm", "batch_size"])) == 3 * 2 + 3


def test_statistics_differ_for_bn_and_are_one_kind_for_the_others(small_table):
    kinds = small_table.groupby("arm")["statistics"].unique().map(set)
    assert kinds[arms.BN] == {arms.RUNNING, arms.MIXED, arms.ALGORITHM_2}
    assert all(kinds[arm] == {arms.RUNNING} for arm in kinds.index if arm != arms.BN)
