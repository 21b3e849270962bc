"""Without BN: measures on made-up tables with known answers, and a small real run."""

from dataclasses import replace

import pandas as pd
import pytest
import torch

from bnbook.evidence import claims
from bnbook.experiments.without_bn import claims as analysis
from bnbook.experiments.without_bn import experiment
from bnbook.experiments.without_bn.experiment import EXPERIMENT as without_bn
from bnbook.tables.arms import (
    AFFINE_ONLY,
    FIXUP,
    FIXUP_MIXUP,
    NORMALISER_FREE,
    OTHERS_ONLY,
    SELF_NORMALISING,
    SKIPINIT,
    WITH,
    WITH_MIXUP,
    WITHOUT,
)
from tests.judging import criterion

SMALL = {
    "data": "digits", "steps": 4, "seeds": (0, 1), "learning_rates": (0.01, 0.4), "points": 1,
    "train_images": 48, "test_images": 30, "validation": 30, "widths": (2, 2, 4), "side": 4,
    "batch_size": 16, "n": 1,
}  # fmt: skip
"""Changes to the quick profile that make it a matter of a second."""
IMPOSSIBLE = [
    ({"arms": (WITH,)}, "arms must hold without BN"),
    ({"n": 0}, "n must be at least 1"),
]
TOPS = {
    WITHOUT: 0.3, WITH: 0.5, WITH_MIXUP: 0.4, FIXUP: 0.48, FIXUP_MIXUP: 0.35, SKIPINIT: 0.46,
    NORMALISER_FREE: 0.5, SELF_NORMALISING: 0.42, AFFINE_ONLY: 0.35, OTHERS_ONLY: 0.25,
}  # fmt: skip
GRID = (0.01, 0.1, 1.0, 10.0)


def made_up(seeds=range(6), best=0.1, **tops):
    """Arms end at their tops at the second rate, lower at the first, and fail at the last two.

    Without BN the first rate is best and the others fail.
    """
    tops = TOPS | {getattr(analysis, name): top for name, top in tops.items()}
    rows = []
    for seed in seeds:
        for arm, top in tops.items():
            for rate in GRID:
                own = {0.01: top - 0.1, best: top}.get(rate, 0.1)
                if arm == WITHOUT:
                    own = top if rate == 0.01 else 0.1
                value = own + 0.001 * (seed % 3) * (own > 0.1)
                learned = 100 if arm in (AFFINE_ONLY, OTHERS_ONLY) else 1000
                gone = 4 if own == 0.1 and rate == 10.0 else -1
                rows.append((arm, rate, seed, 10, gone, value, value, learned))
    names = ["arm", "learning_rate", "seed", "step", "diverged_at", "validation_accuracy"]
    return pd.DataFrame(rows, columns=[*names, "test_accuracy", "learned"])


def values(table):
    found = claims.assess(without_bn.claims, table)
    return [found[claim.id]["value"] for claim in without_bn.claims]


def verdicts(table):
    return [criterion(claim, table).verdict for claim in without_bn.claims]


def test_measures_on_a_table_with_known_truth():
    table = made_up()
    assert values(table) == pytest.approx([0.9, 0.8, 1.0, 10.0])
    assert verdicts(table) == ["reproduced"] * 4
    facts = without_bn.facts(table)
    assert facts["gain"]["value"] == pytest.approx(20)
    assert facts["affine_learned"]["value"] == 10
    assert facts["without_largest"]["value"] == pytest.approx(0.01)
    assert facts["with_largest"]["value"] == pytest.approx(0.1)
    assert facts["fixup_rate_share"]["value"] == pytest.approx(1.0)
    assert facts["selu_share"]["value"] == pytest.approx(0.6)
    assert facts["with_near"]["value"] == 1
    assert facts["with_same_rate"]["value"] == pytest.approx(40, abs=0.2)
    assert facts["same_rate"]["value"] == pytest.approx(10)
    assert facts["without_usable"]["value"] == 4
    other = table.copy()
    lucky = (table["arm"] == WITHOUT) & (table["learning_rate"] == 0.1) & (table["seed"] >= 2)
    other.loc[lucky, "test_accuracy"] = 0.4
    assert without_bn.facts(other)["without_at_best"]["value"] == pytest.approx(40)
    assert values(other) == values(table)
    idle = (table["arm"] == WITHOUT) & (table["seed"] == 3)
    table.loc[idle, "validation_accuracy"] = 0.1
    assert without_bn.facts(table)["without_usable"]["value"] == 3


@pytest.mark.parametrize(
    ("changes", "which"),
    [
        ({"FIXUP": 0.35}, 0), ({"SKIPINIT": 0.35}, 1), ({"NORMALISER_FREE": 0.35}, 2),
        ({"OTHERS_ONLY": 0.4}, 3),
    ],
)  # fmt: skip
def test_claims_turn_red_when_the_truth_is_otherwise(changes, which):
    expected = ["reproduced"] * 4
    expected[which] = "not reproduced"
    assert verdicts(made_up(**changes)) == expected


def test_the_seeds_that_choose_are_shown_nowhere():
    """Their test accuracy may be anything; their validation accuracy chooses rates and arms."""
    table = made_up()
    tunes = table["seed"] < 2
    assert split_seeds(table) == ([0, 1], [2, 3, 4, 5])
    other = table.copy()
    other.loc[tunes, "test_accuracy"] = 0.99
    assert values(other) == values(table)
    other = table.copy()
    other.loc[tunes & (other["arm"] == WITH) & (other["learning_rate"] == 1.0),
              "validation_accuracy"] = 0.9  # fmt: skip
    assert analysis.rates(other)[WITH] == 1.0
    other = table.copy()
    other.loc[~tunes, "validation_accuracy"] = 0.9
    assert analysis.rates(other) == analysis.rates(table)


def split_seeds(table):
    return tuple(sorted(part["seed"].unique()) for part in analysis.split(table))


@pytest.mark.parametrize(("count", "tuning"), [(2, 1), (3, 1), (6, 2), (7, 2)])
def test_a_third_of_the_seeds_choose(count, tuning):
    chosen, judging = split_seeds(made_up(seeds=range(count)))
    assert (len(chosen), len(judging)) == (tuning, count - tuning)


def test_facts_of_a_growing_record():
    """Arms that have not been run have facts without a value; the others have theirs."""
    whole = made_up()
    facts = without_bn.facts(whole[whole["arm"].isin((WITHOUT, WITH, WITH_MIXUP, FIXUP))])
    assert facts.keys() == without_bn.facts(whole).keys()
    assert facts["fixup_share"] == without_bn.facts(whole)["fixup_share"]
    missing = {name for name, fact in facts.items() if fact["value"] is None}
    assert {"nf_share", "nf_rate", "nf_accuracy", "affine_learned", "skipinit_largest"} <= missing


def test_mixup_counts_where_it_helps():
    table = made_up(FIXUP_MIXUP=0.5, WITH_MIXUP=0.55)
    assert analysis.better(table, (FIXUP, FIXUP_MIXUP)) == FIXUP_MIXUP
    assert values(table)[0] == pytest.approx((0.5 - 0.3) / (0.55 - 0.3))


def test_premises_fail_where_there_is_nothing_to_recover():
    for table in (made_up(WITH=0.33, WITH_MIXUP=0.33), made_up(best=0.01)):
        found = claims.assess(without_bn.claims, table)
        assert found["skipinit.recovers"]["verdict"] == "not tested"
    plain = made_up()
    plain.loc[(plain["arm"] == WITHOUT) & (plain["learning_rate"] == 0.1), "test_accuracy"] = 0.3
    found = claims.assess(without_bn.claims, plain)["nf.recovers"]
    assert [p["holds"] for p in found["premises"]] == [True, False, False]


def test_a_small_run_is_tidy(small_table):
    assert len(small_table) == len(analysis.ARMS) * 2 * 2 * 2
    assert not small_table.duplicated(["arm", "learning_rate", "seed", "step"]).any()
    learned = small_table.groupby("arm")["learned"].first()
    assert learned[AFFINE_ONLY] == learned[OTHERS_ONLY] == 2 * (2 * 5 + 4 * 2)
    assert learned[FIXUP_MIXUP] == learned[FIXUP]
    assert learned[NORMALISER_FREE] > learned[WITHOUT] > learned[FIXUP] > learned[AFFINE_ONLY]


def test_mixup_changes_training_and_not_the_start(small_table):
    rows = small_table.set_index(["arm", "learning_rate", "seed", "step"]).sort_index()
    for plain, mixed in ((WITH, WITH_MIXUP), (FIXUP, FIXUP_MIXUP)):
        assert (rows.loc[plain]["loss"].dropna() != rows.loc[mixed]["loss"].dropna()).all()
        start = [rows.loc[arm].xs(0, level="step") for arm in (plain, mixed)]
        pd.testing.assert_frame_equal(*start)


def test_arms_have_hes_weights_but_for_selu():
    run = without_bn.configure("quick", **SMALL)

    def stem(arm):
        return experiment.network(replace(run, arms=(arm,)), (3,), 1).stem.weight

    plain = stem(WITHOUT)
    for arm in set(analysis.ARMS) - {SELF_NORMALISING, OTHERS_ONLY}:
        assert torch.equal(stem(arm), plain), arm
    torch.testing.assert_close(stem(SELF_NORMALISING), plain / 2**0.5)
