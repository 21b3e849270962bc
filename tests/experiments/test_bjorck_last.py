"""BN at some of the layers: measures on made-up tables with known answers, and a small real run."""

import math

import numpy as np
import pandas as pd
import pytest

from bnbook.errors import BnbookError
from bnbook.evidence import claims
from bnbook.experiments.bjorck_last import claims as analysis
from bnbook.experiments.bjorck_last.experiment import EXPERIMENT as bjorck_last
from bnbook.experiments.bjorck_last.experiment import chosen
from bnbook.tables import usable
from bnbook.tables.arms import LAST_ONLY, WITH, WITHOUT
from tests.judging import by_id, criteria

SMALL = {
    "steps": 4, "seeds": (0, 1), "n": 1, "learning_rates": (0.03, 0.3), "train_images": 100,
    "validation": 30, "test_images": 30, "widths": (2, 2, 4), "points": 2,
    "arms": chosen((1, 7), (3,), (4,), (2,)),
}  # fmt: skip
"""Changes to the quick profile that make it a matter of a second."""
IMPOSSIBLE = [
    ({"arms": (WITH, WITHOUT, LAST_ONLY)}, "one with BN at one convolution"),
    ({"arms": (WITH, WITHOUT, analysis.name("only", 1))}, "arms must hold BN at the last"),
    ({"arms": (*SMALL["arms"], "LN")}, "found 'LN'"),
    ({"learning_rates": (0.0, 0.1)}, "must be positive"),
    ({"steps": 0}, "steps must be at least 1"),
]
CLAIMS = by_id(bjorck_last.claims)

GRID = (0.01, 0.1, 1.0, 10.0)
TOP = {WITHOUT: 0.01, WITH: 1.0, LAST_ONLY: 1.0}


def made_up(top=TOP, only=0.01, accuracy=None, seeds=(0, 1, 2)):
    """A table whose truth is known: arms are usable up to their top rate, and diverge above it."""
    accuracy = accuracy or {WITHOUT: 0.4, WITH: 0.8, LAST_ONLY: 0.7}
    top = {**top, analysis.name("only", 2): only, analysis.name("only", 5): only}
    rows = [
        (arm, 1, seed, rate, 10, -1 if rate <= best else 3,
         (accuracy.get(arm, 0.5) + 0.001 * seed) if rate <= best else 0.1)
        for arm, best in top.items() for seed in seeds for rate in GRID
    ]  # fmt: skip
    names = ["arm", "n", "seed", "learning_rate", "step", "diverged_at", "validation_accuracy"]
    table = pd.DataFrame(rows, columns=names)
    return table.assign(test_accuracy=table["validation_accuracy"])


def shares(gains):
    return (gains["part"] / gains["whole"]).tolist()


def test_measures_on_a_table_with_known_truth():
    table = made_up()
    assert usable.largest(table)[WITH].tolist() == [1.0] * 3
    assert shares(analysis.rate_share(table)) == pytest.approx([1.0] * 3)
    assert shares(analysis.rate_share(table, WITHOUT)) == [0.0] * 3
    assert shares(analysis.accuracy_share(table)) == pytest.approx([0.75] * 3)
    assert analysis.last_against_others(table).tolist() == pytest.approx([100.0] * 3)
    assert set(criteria(CLAIMS, table).values()) == {"reproduced"}


@pytest.mark.parametrize(
    ("changes", "claim"),
    [
        ({"top": {**TOP, LAST_ONLY: 0.01}}, "bjorck.sec3_1.last_layer"),
        (
            {"accuracy": {WITHOUT: 0.4, WITH: 0.8, LAST_ONLY: 0.5}},
            "bjorck.sec3_1.last_accuracy",
        ),
        ({"only": 10.0}, "bjorck.sec3_1.last_against_one"),
    ],
)
def test_claims_turn_red_when_the_truth_is_otherwise(changes, claim):
    assert criteria(CLAIMS, made_up(**changes))[claim] == "not reproduced"


def test_halfway_on_a_log_scale_is_half():
    found = analysis.rate_share(made_up({**TOP, LAST_ONLY: 0.1}))
    assert shares(found) == pytest.approx([0.5] * 3)


def test_no_gain_has_no_share_and_no_usable_rate_no_value():
    level = made_up({**TOP, WITHOUT: 1.0})
    assert analysis.rate_share(level)["whole"].tolist() == [0.0] * 3
    (claim, *_) = bjorck_last.claims
    judged = claims.judge(claim, level)
    assert (judged.value, judged.unbounded, judged.verdict) == (None, True, "not tested")
    assert judged.premises[0]["found"] == "1 times"
    none = made_up()
    none.loc[none["arm"] == WITHOUT, "validation_accuracy"] = 0.15
    assert analysis.rate_share(none).isna().all(axis=None)
    assert criteria(CLAIMS, none)["bjorck.sec3_1.last_layer"] == "not tested"


def test_usable_asks_for_both_learning_and_no_divergence():
    table = made_up(seeds=(0,))
    diverged = (table["arm"] == WITH) & (table["learning_rate"] == 1.0)
    table.loc[diverged, "diverged_at"] = 2
    assert usable.largest(table)[WITH].tolist() == [0.1]
    table.loc[table["arm"] == WITH, "validation_accuracy"] = 0.199
    assert usable.largest(table)[WITH].isna().all()


def test_places():
    assert analysis.places(WITHOUT, 1) == ()
    assert analysis.places(WITH, 1) == tuple(range(1, 8))
    assert analysis.places(LAST_ONLY, 1) == (8,)
    assert analysis.places(analysis.name("only", 3), 1) == (3,)
    assert analysis.places(analysis.name("but", 3), 1) == (1, 2, 4, 5, 6, 7)
    assert analysis.places(analysis.name("since", 5), 1) == (5, 6, 7)
    assert analysis.places(analysis.name("every", 3), 1) == (1, 4, 7)
    for family in analysis.FAMILIES:
        assert analysis.member_of(analysis.name(family, 12)) == (family, 12)
    with pytest.raises(BnbookError, match="a layer from 1 to 7, found 'BN at layer 8 only'"):
        analysis.places(analysis.name("only", 8), 1)


def test_profiles():
    for profile in bjorck_last.profiles:
        config = bjorck_last.profiles[profile]
        assert {*analysis.MAIN} < set(config.arms)
        ratios = np.diff(np.log(config.learning_rates))
        assert max(ratios) < 1.21
    paper = bjorck_last.profiles["paper"]
    assert (paper.n, paper.batch_size, paper.widths, paper.steps) == (18, 128, (16, 32, 64), 64_000)
    assert len(bjorck_last.profiles["standard"].seeds) >= 5


def test_a_small_run_has_a_row_for_each_run_and_measured_step(small_table):
    assert len(small_table) == len(SMALL["arms"]) * 2 * 2 * small_table["step"].nunique()
    assert not small_table.duplicated(["arm", "seed", "learning_rate", "step"]).any()
    assert small_table["test_accuracy"].between(0, 1).all()


def test_without_bn_at_any_place_nothing_is_reproduced(monkeypatch):
    """All arms trained without BN: equal runs, no gain to have a share of, no last layer ahead."""
    monkeypatch.setattr(analysis, "places", lambda *_: ())
    found = bjorck_last.run(bjorck_last.configure("quick", **SMALL), "cpu")
    final = found[found["step"] == found["step"].max()]
    keys = ["learning_rate", "seed"]
    assert (final.groupby(keys)["loss"].nunique() == 1).all()
    assert (analysis.accuracy_share(found)["whole"] == 0).all()
    assert "reproduced" not in criteria(CLAIMS, found).values()


def test_facts():
    found = bjorck_last.facts(made_up())
    assert found["with_rate"]["value"] == pytest.approx(1.0)
    assert found["with_gain"]["value"] == pytest.approx(100.0)
    assert found["last_accuracy"]["value"] == pytest.approx(70.1)
    assert found["only_share"]["value"] == 0
    assert found["only_networks"]["value"] == 2
    assert found["but_share"]["value"] is None
    assert found["layers"]["value"] == 8
    assert found["last_lead"]["value"] == pytest.approx(-10)
    assert found["accuracy_gain"]["value"] == pytest.approx(40)
    assert found["same_rate"]["value"] == pytest.approx(40)
    assert found["with_strict"]["value"] == pytest.approx(1.0)


def test_bns_lead_is_at_the_other_networks_rate():
    table = made_up()
    own = (table["arm"] == WITH) & (table["learning_rate"] == 1.0)
    table.loc[own, ["validation_accuracy", "test_accuracy"]] = 0.9
    found = bjorck_last.facts(table)
    assert found["accuracy_gain"]["value"] == pytest.approx(49.9)
    assert found["same_rate"]["value"] == pytest.approx(40)


def test_a_second_look_at_what_is_usable_asks_for_more():
    table = made_up()
    weak = (table["arm"] == LAST_ONLY) & (table["learning_rate"] == 1.0)
    table.loc[weak, "validation_accuracy"] = 0.25
    found = bjorck_last.facts(table)
    assert found["last_rate"]["value"] == pytest.approx(1.0)
    assert found["last_strict"]["value"] == pytest.approx(0.1)


def test_figures_draw_every_panel():
    for name, draw in bjorck_last.figures.items():
        figure = draw(made_up())
        for ax in figure.axes:
            assert ax.lines, name
            for line in ax.lines:
                assert all(map(math.isfinite, line.get_ydata())), name
    convolutions, _, last, *_ = bjorck_last.figures["places"](made_up()).axes[0].lines
    assert convolutions.get_ydata() == pytest.approx([0.01, 0.01])
    assert last.get_ydata() == pytest.approx([1.0])
    assert last.get_xdata() == [8]  # the output of the last block, apart from the convolutions
