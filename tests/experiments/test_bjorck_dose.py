"""Dose and response: the plan of rates on made-up worlds, the claims on tables with known truth."""

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bnbook.evidence import claims as judging
from bnbook.experiments.bjorck_dose import cells, claims
from bnbook.experiments.bjorck_dose.experiment import EXPERIMENT
from bnbook.tables import right
from bnbook.tables.arms import WITH, WITHOUT
from tests.judging import by_name, verdicts

RATES = (0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3)
LENGTHS, TUNING, SEEDS, GOAL = (20, 60, 180), (100, 101), (0, 1, 2), 0.99
NETWORKS = ((5, 2.0), (5, 1.0), (9, 1.0))
SMALL = {
    "steps": 6, "seeds": (0,), "networks": ((1, 1.0),), "lengths": (6, 12), "points": 2,
    "learning_rates": (0.01, 0.1, 0.3), "train_images": 64, "test_images": 30, "validation": 30,
    "widths": (2, 2, 4), "side": 4, "batch_size": 16,
}  # fmt: skip
CLAIMS = by_name(claims.CLAIMS)


def edge(n, gain):
    """The largest rate at which the made-up network without BN learns."""
    return {(5, 2.0): 0.0011, (5, 1.0): 0.04, (9, 1.0): 0.011}[n, gain]


def world(run, same=0.0, per_decade=4.0):
    """The rows of one made-up run: BN gains `per_decade` points for each factor ten of the rate."""
    dead = run.arm == WITHOUT and run.learning_rate > edge(run.n, run.gain)
    enough = 20 if run.learning_rate >= 0.01 else 60
    whole = run.length >= enough
    percent = 55 + per_decade * math.log10(run.learning_rate)
    percent += (same if run.arm == WITH else 0.0) + 0.1 * (run.seed % 7)
    if run.learning_rate > 0.1:
        percent -= 10
    accuracy = 0.1 if dead else percent / 100 * (1 if whole else 0.8)
    bits = np.arange(1000) < round(1000 * accuracy)
    done = 1.0 if whole and not dead else 0.5
    steps = (0, run.length // 4, run.length // 2, run.length)
    return pd.DataFrame({
        **run._asdict(), "step": steps, "tunes": run.seed in TUNING,
        "growth": run.gain + run.n / 100,
        "dead_at": [-1, -1, *(2 * [run.length // 2] if dead else [-1, -1])],
        "dead_by": ["", "", *(2 * ["above 1000" if dead else ""])],
        "training_accuracy": [0.1, 0.95 * done if run.learning_rate > 0.05 else 0.2, done, done],
        "validation_accuracy": accuracy, "test_accuracy": accuracy,
        "right": ["", "", "", "" if dead else right.pack(bits)],
    })  # fmt: skip


def played(make=world, networks=NETWORKS):
    """Run the whole plan in a made-up world: the table, and the rounds."""
    table, rounds = pd.DataFrame(), []
    for _ in range(60):
        asked = cells.wanted(
            cells.ends(table), networks, RATES, LENGTHS, TUNING, SEEDS, GOAL
        )  # fmt: skip
        if not asked:
            return table, rounds
        assert len(set(asked)) == len(asked)
        rounds.append(asked)
        table = pd.concat([table, *map(make, asked)], ignore_index=True)
    raise AssertionError("the plan does not end")


@pytest.fixture(scope="module")
def whole():
    return played()


def test_it_finds_the_best_rates_and_runs_four_cells_with_the_seeds_that_are_shown(whole):
    table, _ = whole
    for network in NETWORKS:
        own = cells.ends(table)
        own = own[(own["n"] == network[0]) & (own["gain"] == network[1])]
        small, large = cells.chosen(own)
        assert (small, large) == (max(r for r in RATES if r <= edge(*network)), 0.1)
        judged = own[~own["tunes"]]
        ran = set(zip(judged["arm"], judged["learning_rate"], judged["seed"], strict=True))
        assert ran == {(a, r, s) for a in (WITHOUT, WITH) for r in (small, large) for s in SEEDS}


def test_runs_get_longer_until_they_reach_the_goal_and_begin_where_tuning_settled(whole):
    table, rounds = whole
    ended = cells.ends(table)
    last = cells.settled(ended)
    assert ((last["dead_at"] >= 0) | (last["training_accuracy"] >= GOAL)).all()
    small = ended[(ended["learning_rate"] == 0.001) & ~ended["tunes"] & (ended["gain"] == 2.0)]
    assert set(small["length"]) == {60}  # 20 steps were found too few by the tuning seeds
    coarse = {run.learning_rate for run in rounds[0]}
    assert coarse == set(RATES[::2])


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from(NETWORKS))
def test_the_seeds_that_are_shown_choose_nothing(noise, network):
    def other(run):
        rows = world(run)
        if run.seed in SEEDS:
            lucky = np.random.default_rng((noise, run.seed, int(1e6 * run.learning_rate)))
            rows["validation_accuracy"] = rows["test_accuracy"] = lucky.random()
        return rows

    tables = [cells.ends(played(make, (network,))[0]) for make in (world, other)]
    assert cells.chosen(tables[0]) == cells.chosen(tables[1])
    tuned = [{tuple(row) for row in t[t["tunes"]][cells.RUN].to_numpy()} for t in tables]
    assert tuned[0] == tuned[1]


def test_a_network_that_never_learns_asks_for_nothing_more():
    def never(run):
        return world(run).assign(dead_at=1, dead_by="guessing", training_accuracy=0.1)

    table, _ = played(never, ((5, 2.0),))
    assert set(table["seed"]) == {100}
    assert set(table["length"]) == set(LENGTHS)  # guessing may be slowness
    small, large = cells.chosen(cells.ends(table))
    assert small == RATES[0]
    assert math.isnan(large)


def test_without_bn_learning_nowhere_the_smallest_rate_is_compared_and_nothing_tested():
    def never_without(run):
        dead = {"dead_at": 1, "dead_by": "guessing", "training_accuracy": 0.1}
        return world(run).assign(**(dead if run.arm == WITHOUT and run.seed in TUNING else {}))

    table, _ = played(never_without, ((5, 2.0),))
    ended = cells.ends(table)
    assert cells.chosen(ended) == (RATES[0], 0.1)
    judged = ended[~ended["tunes"]]
    ran = set(zip(judged["arm"], judged["learning_rate"], judged["seed"], strict=True))
    assert ran == {(a, r, s) for a in (WITHOUT, WITH) for r in (RATES[0], 0.1) for s in SEEDS}
    assert set(verdicts(CLAIMS, table).values()) <= {"not tested", "inconclusive"}


def test_claims_on_the_papers_own_picture(whole):
    table, _ = whole
    assert claims.judged(table) == (5, 2.0)
    assert claims.compared(table).rates == (0.001, 0.1)
    assert claims.same_rate(table).mean(axis=1).tolist() == pytest.approx([0, 0, 0])
    assert claims.rate_gain(table).mean(axis=1).tolist() == pytest.approx([8, 8, 8])
    assert claims.explained(table)["part"].tolist() == pytest.approx([8, 8, 8])
    assert claims.speedup(table).tolist() == [2 * 3 * 2 / 2] * 3  # half of 60 over a quarter of 20
    assert claims.least_speedup(table).tolist() == [15 / 5] * 3  # readings at quarters
    found = verdicts(CLAIMS, table)
    del found["share_rises"]  # the rate brings all of the gain in each network
    assert found.pop("rises") == "reproduced"
    assert found.pop("fails_to_train") == "inconclusive"  # 3 of 3 is 0.29 to 1
    assert found.pop("without_too") == "not tested"  # no network trains at BN's rate without it
    assert set(found.values()) == {"reproduced"}


def test_of_networks_far_enough_apart_one_that_ends_is_judged(whole):
    def unfinished(run):
        rows = world(run)
        if run.gain == 2.0 and run.arm == WITHOUT:
            rows["training_accuracy"] = rows["training_accuracy"].clip(upper=0.9)
        return rows

    networks = ((5, 2.0), (5, 1.0), (9, 1.0))
    low = {(5, 2.0): 0.0011, (5, 1.0): 0.0011, (9, 1.0): 0.0011}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(f"{__name__}.edge", lambda n, gain: low[n, gain])
        assert claims.judged(played(unfinished, networks)[0]) == (9, 1.0)  # 1.09 a block, not 1.05
        assert claims.judged(played(world, networks)[0]) == (5, 2.0)
    table, _ = played(unfinished, ((5, 2.0),))
    assert claims.judged(table) == (5, 2.0)
    assert verdicts(CLAIMS, table)["same_rate"] == "not tested"


def test_growth_raises_what_the_rate_explains(whole):
    found = claims.response(whole[0]).groupby("gain")["rate"].mean()
    assert found[2.0] == pytest.approx(8.0)
    assert found[1.0] == pytest.approx(
        (4 * math.log10(0.1 / 0.03) + 4 * math.log10(10)) / 2, abs=0.1
    )


def test_networks_that_meet_the_premises_have_five_seeds_and_the_judged_one_ten_that_fail():
    standard = EXPERIMENT.profiles["standard"]
    config = replace(standard, networks=NETWORKS, learning_rates=RATES, lengths=LENGTHS)
    tables = {}

    def table_of(run):
        return tables.get(run)

    while new := [run for run in EXPERIMENT.asked(config, table_of) if run not in tables]:
        for run in new:
            ((n, gain),), (arm,), (rate,) = run.networks, run.arms, run.learning_rates
            wanted = cells.Wanted(n, gain, arm, rate, run.seeds[0], run.lengths[0])
            tables[run] = world(wanted)
    table = pd.concat(tables.values())
    ended = cells.ends(table)
    seeds = {
        network: set(table.loc[(table["n"] == network[0]) & (table["gain"] == network[1]), "seed"])
        for network in NETWORKS
    }
    assert [network for network in NETWORKS if claims.meets(ended, network)] == [(5, 2.0)]
    first = {*TUNING, *SEEDS}
    assert seeds == {(5, 2.0): {*TUNING, *range(15)}, (5, 1.0): first, (9, 1.0): first}
    further = table[(table["seed"] >= 5) & ~table["tunes"]]
    assert set(zip(further["arm"], further["learning_rate"], strict=True)) == {(WITHOUT, 0.1)}
    assert len(claims.same_rate(table)) == len(claims.explained(table)) == 5
    assert len(claims.fails(table)) == 15
    assert verdicts(CLAIMS, table)["fails_to_train"] == "reproduced"
    at_start = table.assign(growth=table["growth"].where(table["seed"] < 5, 9.0))
    assert claims.doses(at_start)["growth"][5, 2.0] == 2.05  # of the seeds that run all cells
    assert list(claims.rising(table).index) == list(SEEDS)  # the others have one network alone


def test_the_slope_takes_networks_that_three_seeds_have_and_seeds_that_have_them_all(whole):
    table, _ = whole
    slopes = claims.rising(table)
    assert len(slopes) == 3
    begun = table[(table["gain"] == 2.0) | (table["seed"] == 0) | table["tunes"]]
    assert claims.rising(begun).empty  # two networks have one seed each
    one_less = table[(table["gain"] == 2.0) | (table["n"] == 9) | (table["seed"] != 2)]
    assert claims.rising(one_less).empty  # two networks are left


def test_lines_take_networks_that_are_trained_to_the_end(whole):
    table, _ = whole
    short = (table["n"] == 9) & (table["arm"] == WITHOUT)
    assert len(claims.along(table)) == 9
    less = table.assign(training_accuracy=table["training_accuracy"].mask(short, 0.5))
    assert set(claims.along(less)["n"]) == {5}
    assert verdicts(CLAIMS, less)["rises"] == "not tested"


@pytest.mark.parametrize(("same", "verdict"), [(2.0, "reproduced"), (-2.0, "not reproduced")])
def test_the_share_rises_where_bn_gains_more_than_the_rate_brings(same, verdict):
    table, _ = played(lambda run: world(run, same=same))
    assert claims.at_no_gain(table).to_numpy() == pytest.approx(-same, abs=0.3)
    shares = claims.response(table).groupby("growth")[["rate", "whole"]].mean()
    assert (shares["rate"] / shares["whole"]).is_monotonic_increasing == (verdict == "reproduced")
    assert verdicts(CLAIMS, table)["share_rises"] == verdict


@pytest.mark.parametrize("at", ["small", "large"])
def test_a_best_rate_at_an_end_of_those_tried_tests_nothing(whole, at):
    found = claims.compared(whole[0])
    assert found.tried[0] == 0.0001
    assert found.tried[-1] == 0.3
    end = found.tried[0] if at == "small" else found.tried[-1]
    moved = found._replace(rates=found.rates._replace(**{at: end}))
    assert claims._inside(found)[0]
    assert claims._inside(moved)[:2] == (False, f"{end:g}")


def test_growth_is_that_of_the_seeds_that_are_shown_once_there_are_any(whole):
    table, _ = whole
    table = table.assign(growth=np.where(table["tunes"], 9.0, 1 + table["seed"] / 10))
    assert claims.doses(table)["growth"].tolist() == pytest.approx([1.1] * 3)
    assert claims.doses(table[table["tunes"]])["growth"].tolist() == [9.0] * 3
    assert claims.facts(table)["growth_tuned"]["value"] == 9.0


def test_a_network_is_judged_once_its_runs_are_there(whole):
    table, _ = whole
    own = (table["n"] == 5) & (table["gain"] == 2.0) & ~table["tunes"]
    assert claims.meets(cells.ends(table), (5, 2.0))
    for arm, rate in ((WITHOUT, 0.001), (WITH, 0.001), (WITH, 0.1), (WITHOUT, 0.1)):
        cell = own & (table["arm"] == arm) & (table["learning_rate"] == rate)
        assert not claims.meets(cells.ends(table[~cell]), (5, 2.0))


def test_claims_are_judged_once_no_run_that_is_missing_can_change_them(whole):
    """All runs of the judged network are there, and all others have begun and grow less."""
    table, _ = whole
    plan = {
        "networks": [list(network) for network in NETWORKS], "seeds": list(SEEDS), "goal": GOAL,
        "learning_rates": list(RATES), "lengths": list(LENGTHS), "tuning_seeds": list(TUNING),
    }  # fmt: skip
    judged, other = table["gain"] == 2.0, (table["n"] == 9) & ~table["tunes"]
    last = judged & (table["seed"] == 2) & (table["arm"] == WITH)
    growing = table[~other]
    for rows, config, decided in (
        (growing, plan, True),
        (table[~last], plan, False),  # a run of its own is missing
        (table[judged], plan, False),  # another network may yet grow more
        (growing.assign(growth=growing["growth"].mask(growing["n"] == 9, 9.0)), plan, False),
        (growing, {**plan, "seeds": [0, 1, 2, 3]}, False),  # another seed is asked for
        (growing, {**plan, "networks": [*plan["networks"], [18, 1.0]]}, False),  # not begun
    ):
        found = judging.assess(claims.CLAIMS, rows, 7, config)
        verdict = found["bjorck.dose.same_rate"]["verdict"]
        assert verdict == ("reproduced" if decided else "provisional")
        assert found["bjorck.dose.rises"]["verdict"] == "provisional"
    assert found["bjorck.dose.same_rate"]["missing"] == 7


def test_a_hundred_times_is_a_hundred_times_at_every_rate_of_the_grid(whole):
    found = claims.compared(whole[0])
    for small, large in zip(RATES, RATES[4:], strict=False):
        apart = found._replace(rates=cells.Rates(small, large))
        assert claims._apart(apart)[:2] == (True, "100 times")
    assert not claims._apart(found._replace(rates=cells.Rates(0.001, 0.03)))[0]


def test_a_record_without_a_run_has_no_values(whole):
    empty = whole[0].iloc[:0]
    assert claims.response(empty).empty
    assert claims.judged(empty) is None
    assert {fact["value"] for name, fact in claims.facts(empty).items() if "_" in name} == {None}


def test_the_parts_add_up_to_the_whole_gain(whole):
    found = claims.response(whole[0])
    assert found["whole"].to_numpy() == pytest.approx((found["same"] + found["rate"]).to_numpy())


def test_facts_of_a_network_are_those_of_its_cells(whole):
    table = whole[0]
    found, response = claims.facts(table), claims.response(table)
    dose = claims.doses(table).loc[(5, 2.0)]
    assert found["layers32_2_0_small"]["value"] == dose["small"]
    assert found["layers32_2_0_large"]["value"] == dose["large"]
    means = response[response["gain"] == 2.0].mean()
    none, low, high = (found[f"layers32_2_0_{name}"]["value"] for name in ("none", "low", "high"))
    assert found["layers32_2_0_far"]["value"] == pytest.approx(10.0)  # it dies there
    assert low - none == pytest.approx(means["same"])
    assert high - low == pytest.approx(means["rate"])
    assert found["layers32_2_0_gained"]["value"] == pytest.approx(means["whole"])
    judged = judging.judge(CLAIMS["rate_generalises"], table)
    rate = found["layers32_2_0_rate"]
    assert (rate["low"], rate["high"]) == (judged.low, judged.high)
    assert found["layers32_2_0_share"]["value"] == pytest.approx(means["rate"] / means["whole"])


def test_the_chapter_prints_the_networks_of_the_record_run_or_not(whole):
    assert sorted(claims.DOSES) == sorted(EXPERIMENT.profiles["standard"].networks)
    assert claims.facts(whole[0])["layers110_1_0_none"]["value"] is None


@pytest.mark.parametrize(
    ("options", "claim", "verdict"),
    [
        ({"same": 6.0}, "same_rate", "not reproduced"),
        ({"per_decade": -1.0}, "rate_generalises", "not tested"),  # then r1 is no larger rate
    ],
)
def test_claims_turn_when_the_truth_is_otherwise(options, claim, verdict):
    table, _ = played(lambda run: world(run, **options))
    assert verdicts(CLAIMS, table)[claim] == verdict


@pytest.mark.parametrize(("per_decade", "verdict"), [(-0.5, "not reproduced"), (3, "reproduced")])
def test_what_the_larger_rate_brings_without_bn_where_it_trains(monkeypatch, per_decade, verdict):
    """Validation chooses 0.001 without BN and 0.1 with it; test images say what that brings."""

    def make(run):
        rows = world(run)
        if run.arm == WITHOUT and run.gain == 1.0:
            decades = math.log10(run.learning_rate / 0.001)
            test = (45 + per_decade * decades + 0.1 * run.seed) / 100
            return rows.assign(validation_accuracy=0.4 - abs(decades) / 100, test_accuracy=test)
        return rows

    monkeypatch.setattr(f"{__name__}.edge", lambda n, gain: 1.0 if (n, gain) == (5, 1.0) else 0.002)
    table, _ = played(make)
    found = claims.without_too(table)
    assert found["part"].tolist() == pytest.approx([2 * per_decade] * 3)
    assert found["whole"].tolist() == pytest.approx([8.0] * 3)
    assert verdicts(CLAIMS, table)["without_too"] == verdict
    config = {"networks": NETWORKS, "learning_rates": RATES, "lengths": LENGTHS, "seeds": SEEDS,
              "tuning_seeds": TUNING, "goal": GOAL}  # fmt: skip
    assert claims.shallow_settled(table, config)
    assert claims.shallow_settled(table[table["n"] == 5], config)
    assert not claims.shallow_settled(table[(table["gain"] != 2.0) | (table["seed"] != 2)], config)
    assert not claims.shallow_settled(table[table["seed"] != TUNING[0]], config)
    assert claims.facts(table)["larger_rate_without"]["value"] == pytest.approx(2 * per_decade)
    poor = table["training_accuracy"].where((table["arm"] == WITH) | (table["gain"] != 1.0), 0.9)
    assert verdicts(CLAIMS, table.assign(training_accuracy=poor))["without_too"] == "not tested"


def test_without_the_papers_regime_nothing_is_tested():
    table, _ = played(networks=((5, 1.0),))
    found = verdicts(CLAIMS, table)
    assert found["same_rate"] == found["rate_explains"] == found["faster"] == "not tested"
    first = judging.judge(claims.CLAIMS[0], table).premises[0]
    assert not first["holds"]
    assert first["found"] == "3 times"


def test_figures_draw_every_dose(whole):
    (ax,) = EXPERIMENT.figures["response"](whole[0]).axes
    assert len(ax.get_legend_handles_labels()[1]) == 3
    curves = EXPERIMENT.figures["curves"](whole[0]).axes
    ends = [line.get_ydata()[-1] for line in curves[2].lines[:4]]  # of the test images
    assert ends == pytest.approx([43.1, 43.1, 51.1, 10], abs=0.05)
    assert len(curves[3].lines) == 8  # the paper's four too
    maps = EXPERIMENT.figures["rates"](whole[0]).axes
    assert [len(ax.lines) for ax in maps] == [2, 2, 2]
