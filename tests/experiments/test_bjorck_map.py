"""What else allows large rates: made-up tables with known answers, and a small real run."""

from dataclasses import replace

import pandas as pd
import pytest
from matplotlib.colors import to_hex

from bnbook.evidence import claims, records
from bnbook.experiments.bjorck_fig1.experiment import EXPERIMENT as bjorck_fig1
from bnbook.experiments.bjorck_map import claims as analysis
from bnbook.experiments.bjorck_map import figures
from bnbook.experiments.bjorck_map.experiment import EXPERIMENT as bjorck_map
from bnbook.experiments.bjorck_map.experiment import network
from bnbook.layers.norm import GroupNorm
from bnbook.plots.style import COLOURS
from bnbook.setups import residual
from bnbook.tables.arms import (
    CLIPPED,
    FIXUP,
    GROUP_NORM,
    LAYER_NORM,
    SKIPINIT,
    WARM_UP,
    WITH,
    WITHOUT,
    of_channels,
    of_groups,
)
from bnbook.training.session import Session
from tests.judging import criterion

SMALL = {
    "data": "digits", "steps": 4, "seeds": (0, 1), "learning_rates": (0.01, 0.4), "points": 1,
    "train_images": 48, "test_images": 30, "validation": 30, "widths": (2, 2, 4), "side": 4,
    "batch_size": 16,
}  # fmt: skip
"""Changes to the quick profile that make it a matter of a second."""
IMPOSSIBLE = [({"arms": (WITH, WITHOUT)}, "arms must hold warm-up")]
TOPS = {
    WITHOUT: 0.60, WITH: 0.80, WARM_UP: 0.798, FIXUP: 0.70, SKIPINIT: 0.796, GROUP_NORM: 0.81,
    LAYER_NORM: 0.60,
}  # fmt: skip


def made_up(seeds=(0, 1, 2), **tops):
    """Arms end at their tops at rate 0.1 and at less at 1.0, where the one without BN diverges."""
    tops = TOPS | {getattr(analysis, name, name): top for name, top in tops.items()}
    rows = []
    for seed in seeds:
        for arm in analysis.ARMS:
            for rate in (0.1, 1.0):
                gone = arm == WITHOUT and rate == 1.0
                top = tops.get(arm, 0.6) - (0.3 if rate == 1.0 else 0)
                value = 0.1 if gone else top + 0.0005 * seed * (arm == WITH)
                rows.append((arm, rate, seed, 10, 4 if gone else -1, value, value))
    names = ["arm", "learning_rate", "seed", "step", "diverged_at"]
    return pd.DataFrame(rows, columns=[*names, "validation_accuracy", "test_accuracy"])


def verdicts(table):
    return [criterion(claim, table).verdict for claim in bjorck_map.claims]


def test_measures_on_a_table_with_known_truth():
    table = made_up()
    leads = [claim.measure(table).iloc[0] for claim in bjorck_map.claims]
    assert leads == pytest.approx([0.2, 0.4, -1.0])  # the better of two: SkipInit, GroupNorm
    assert verdicts(table) == ["reproduced"] * 3


@pytest.mark.parametrize(
    ("changes", "which"),
    [({"WARM_UP": 0.7}, 0), ({"SKIPINIT": 0.7}, 1), ({"GROUP_NORM": 0.7}, 2)],
)
def test_claims_turn_red_when_the_truth_is_otherwise(changes, which):
    expected = ["reproduced"] * 3
    expected[which] = "not reproduced"
    assert verdicts(made_up(**changes)) == expected


def test_the_better_of_two_is_chosen_on_validation_data():
    table = made_up()
    table.loc[table["arm"] == FIXUP, "test_accuracy"] = 0.99
    assert analysis.best_arm(table, (FIXUP, SKIPINIT)) == SKIPINIT


def test_the_groups_of_group_norm_are_chosen_on_validation_data():
    table = made_up(GROUP_NORM=0.7, **{of_channels(8): 0.75, of_groups(2): 0.74})
    assert analysis.best_arm(table, analysis.GROUP_NORMS) == of_channels(8)
    assert bjorck_map.claims[2].measure(table).iloc[0] == pytest.approx(5)
    facts = bjorck_map.facts(table)
    assert facts["groupnorm_accuracy"]["value"] == pytest.approx(75)
    assert facts["channels2_accuracy"]["value"] == pytest.approx(70)
    assert facts["groups2_validation"]["value"] == pytest.approx(74)
    table.loc[table["arm"] == of_groups(2), "test_accuracy"] = 0.99
    assert bjorck_map.claims[2].measure(table).iloc[0] == pytest.approx(5)
    fewer = table[table["arm"] != of_channels(8)]
    assert analysis.best_arm(fewer, analysis.GROUP_NORMS) == of_groups(2)
    assert "channels8_rate" not in bjorck_map.facts(fewer)


def test_the_figure_draws_the_chosen_groups_and_the_others_paler():
    table = made_up(GROUP_NORM=0.7, **{of_channels(8): 0.75})
    last = bjorck_map.figures["rates"](table).axes[2]
    pink = [line for line in last.lines if to_hex(line.get_color()) == COLOURS[GROUP_NORM].lower()]
    pale = [line for line in pink if line.get_alpha() == 0.6]
    assert sorted(max(line.get_ydata()) for line in pale) == pytest.approx([60, 60, 60, 60, 70])
    assert any(max(line.get_ydata()) == pytest.approx(75) for line in pink if line not in pale)
    assert set(figures.chosen_groups(table)["arm"]) == set(analysis.NEEDED)


@pytest.mark.parametrize(
    ("arm", "expected"),
    [
        (GROUP_NORM, [4, 8, 16]),
        (of_channels(4), [2, 4, 8]),
        (of_channels(8), [1, 2, 4]),
        (of_channels(16), [1, 1, 2]),
        (of_groups(2), [2, 2, 2]),
        (of_groups(4), [4, 4, 4]),
    ],
)
def test_each_arm_of_group_norm_has_its_groups(arm, expected):
    """The layer after the first convolution counts with the first stage."""
    model = network(arm, (0, 1), n=1, widths=(8, 16, 32))
    found = [each.num_groups for each in model.modules() if isinstance(each, GroupNorm)]
    assert found == [*expected[:1] * 3, *expected[1:2] * 2, *expected[2:] * 2]


def test_groups_of_two_channels_are_what_the_setup_makes():
    ours, theirs = (make(GROUP_NORM, (0, 3), n=1) for make in (network, residual.network))
    assert str(ours) == str(theirs)
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert one.equal(other)


def losses(config, *arms):
    """The loss after some steps of one run of each arm."""
    one = replace(config, seeds=(0,), learning_rates=(0.4,), widths=(8, 16, 32))
    runs = [replace(one, arms=(arm,)) for arm in arms]
    return [bjorck_map.together([run], Session("cpu"))[0]["loss"].iloc[-1] for run in runs]


def test_groups_that_are_ignored_are_seen(small, monkeypatch):
    assert len(set(losses(small, *analysis.GROUP_NORMS))) == 6
    monkeypatch.setattr(analysis, "groups", lambda *_: 4)
    assert len(set(losses(small, *analysis.GROUP_NORMS))) == 1


def test_clipped_gradients_are_in_no_claim():
    table = made_up()
    table.loc[table["arm"] == CLIPPED, ["validation_accuracy", "test_accuracy"]] = 1.0
    before, after = (claims.assess(bjorck_map.claims, each) for each in (made_up(), table))
    assert before == after


def test_shares_of_bns_gain():
    table = made_up(GROUP_NORM=0.70)
    arms = (WITHOUT, WITH, GROUP_NORM)
    shares = {arm: analysis.gain_share(table, arm)["value"] for arm in arms}
    assert shares == pytest.approx({WITHOUT: 0, WITH: 1, GROUP_NORM: 0.5}, abs=2e-3)
    level = analysis.gain_share(made_up(WITH=0.6), GROUP_NORM)
    assert (level["low"], level["high"], level["unbounded"]) == (None, None, True)


def test_facts():
    facts = bjorck_map.facts(made_up())
    assert facts["without_survives"]["value"] == 0.1
    assert facts["fixup_survives"]["value"] == 1.0
    assert facts["without_failed"]["value"] == 50
    assert facts["groupnorm_accuracy"]["value"] == pytest.approx(81)


def test_bns_gain_and_its_lead_at_the_other_networks_rate():
    """BN's own rate becomes 1.0: it gains 25 points there, and leads by 20 at the other's."""
    table = made_up()
    own = (table["arm"] == WITH) & (table["learning_rate"] == 1.0)
    table.loc[own, ["validation_accuracy", "test_accuracy"]] = 0.85
    facts = bjorck_map.facts(table)
    assert facts["tuned_gap"]["value"] == pytest.approx(25)
    assert facts["same_rate"]["value"] == pytest.approx(20.05)


def test_the_map_is_figure_1s():
    """The same networks, data, training and rates; fewer steps."""
    for profile, config in bjorck_map.profiles.items():
        other = bjorck_fig1.profiles[profile]
        fields = ("data", "seeds", "batch_size", "side", "train_images", "validation", "n")
        fields += ("widths", "momentum", "weight_decay", "pad")
        assert [getattr(config, f) for f in fields] == [getattr(other, f) for f in fields]
        if profile != "quick":
            assert config.learning_rates == other.learning_rates


def test_a_small_run_is_tidy(small_table):
    assert len(small_table) == 10 * 2 * 2 * 2
    assert not small_table.duplicated(["arm", "learning_rate", "seed", "step"]).any()
    start = small_table[small_table["step"] == 0].set_index(["seed", "learning_rate"])
    plain, warm = (
        start[start["arm"] == a].sort_index()["test_accuracy"] for a in (WITHOUT, WARM_UP)
    )
    assert (plain == warm).all()


def test_the_chosen_groups_are_what_the_chapter_says():
    table = records.read(records.path(records.recorded(), "bjorck_map", "standard")).table
    page = (records.root() / "book" / "31-one-rate-two-networks.md").read_text("utf-8")
    best = analysis.best_arm(table, analysis.GROUP_NORMS)
    assert (best == GROUP_NORM) == ("Its groups have two channels" in page)
