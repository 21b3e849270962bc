"""From short to long training: the plan on made-up worlds, the claims on tables of known truth."""

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bnbook.evidence import claims as judging
from bnbook.experiments.bjorck_whole import claims
from bnbook.experiments.bjorck_whole.experiment import EXPERIMENT, rounds
from bnbook.setups.settings import JUDGING, TUNING
from bnbook.tables import right, two_rates
from bnbook.tables.arms import WITH, WITHOUT

SMALL = {
    "seeds": (0,), "first": 1, "learning_rates": (0.03, 0.3), "train_images": 64,
    "test_images": 30, "validation": 30, "widths": (2, 2, 4), "side": 4, "batch_size": 16,
    "lengths": (2, 4), "searched_at": 2,
}  # fmt: skip
IMPOSSIBLE = [
    ({"lengths": (10, 5), "searched_at": 5}, "lengths must rise"),
    ({"searched_at": 7}, "searched_at must be one of"),
]
CONFIG = EXPERIMENT.profiles["standard"]
EDGE = 0.0011
"""The largest rate at which the made-up network without BN learns."""


def percent(run, lead=(2.0, 6.0, 10.0, 1.0), per_decade=4.0):
    """Accuracy of a run that learns, by length: BN leads by so many points at each of them."""
    at = CONFIG.lengths.index(run.lengths[0])
    found = 40 + 10 * at + per_decade * math.log10(run.learning_rates[0])
    found += lead[at] if run.arms == (WITH,) else 0.0
    return found - (20 if run.learning_rates[0] > 0.1 else 0) + 0.1 * (run.seeds[0] % 7)


def world(run, **truth):
    """The rows of one made-up run."""
    fails = run.arms == (WITHOUT,) and run.learning_rates[0] > EDGE
    share = 0.1 if fails else percent(run, **truth) / 100
    long = run.lengths == CONFIG.lengths[-1:]
    bits = np.arange(1000) < round(1000 * share)
    return pd.DataFrame({
        "arm": run.arms[0], "seed": run.seeds[0], "learning_rate": run.learning_rates[0],
        "role": run.role, "length": run.lengths[0], "epochs": run.lengths[0] / 351,
        "step": (0, run.lengths[0]), "diverged_at": (-1, 2 if fails else -1),
        "training_accuracy": (0.1, 0.1 if fails else 0.99 if long else 0.5),
        "validation_accuracy": share, "test_accuracy": share,
        "right": ("", "" if fails else right.pack(bits)),
    })  # fmt: skip


def played(make=world, config=CONFIG):
    """Run the whole plan in a made-up world: the table, and the rounds."""
    table, asked = pd.DataFrame(), []
    while new := rounds(config, table):
        assert len(set(new)) == len(new)
        assert not set(new) & {run for some in asked for run in some}
        asked.append(new)
        table = pd.concat([table, *map(make, new)], ignore_index=True)
        assert len(asked) < 20, "the plan does not end"
    return table, asked


@pytest.fixture(scope="module")
def whole():
    return played()


def ran(table, length, role=JUDGING):
    runs = claims.shown(table) if role == JUDGING else table[table["role"] == role]
    own = runs[runs["length"] == length]
    return {tuple(row) for row in own[["arm", "learning_rate", "seed"]].to_numpy()}


def test_it_finds_the_best_rates_and_runs_the_five_cells_at_every_length(whole):
    table, _ = whole
    assert two_rates.rates(table) == (0.001, 0.1)
    cells = [(WITHOUT, 0.001), (WITH, 0.001), (WITH, 0.01), (WITH, 0.1), (WITHOUT, 0.1)]
    assert sorted(two_rates.cells(two_rates.rates(table))) == sorted(cells)
    for length in CONFIG.lengths:
        assert ran(table, length) >= {(*cell, seed) for cell in cells for seed in (0, 1, 2)}
    assert ran(table, CONFIG.lengths[-1]) == {(*cell, s) for cell in cells for s in (0, 1, 2)}


def test_a_record_shows_the_whole_map_from_its_first_round_on(whole):
    _, asked = whole
    grid = {(arm, rate) for arm in CONFIG.arms for rate in CONFIG.learning_rates}
    shown = [run for run in asked[0] if run.role == JUDGING]
    for length in CONFIG.lengths[:2]:
        own = {(*r.arms, *r.learning_rates) for r in shown if r.lengths == (length,)}
        assert own == grid
    assert {run.seeds for run in shown} == {(0,)}
    assert asked[0].index(shown[-1]) == len(shown) - 1  # the search comes after the map
    table = pd.concat(map(world, asked[0]), ignore_index=True)
    assert EXPERIMENT.facts(table)["long_lead"]["value"] is None
    for draw in EXPERIMENT.figures.values():
        draw(table).draw_without_rendering()


def test_cells_are_run_seed_by_seed_the_short_ones_first(whole):
    _, asked = whole
    cells = [run for run in asked[-1] if run.lengths[0] in CONFIG.lengths]
    seeds = [run.seeds[0] for run in cells if run.lengths == CONFIG.lengths[-1:]]
    assert seeds == sorted(seeds)
    first = [run.lengths[0] for run in cells if run.seeds == (1,)]
    assert first == sorted(first)


@settings(max_examples=5, deadline=None)
@given(st.integers(0, 2**31))
def test_the_seeds_that_are_shown_choose_nothing(noise):
    """Whatever those that are shown reach, the same runs are searched and the same rates found."""

    def lucky(run):
        rows = world(run)
        if run.role == JUDGING:
            of = (noise, run.seeds[0], run.lengths[0], int(1e6 * run.learning_rates[0]))
            rows["validation_accuracy"] = rows["test_accuracy"] = np.random.default_rng(of).random()
        return rows

    ours, theirs = (played(make)[0] for make in (world, lucky))
    assert two_rates.rates(ours) == two_rates.rates(theirs)
    searched = [ran(table, CONFIG.searched_at, TUNING) for table in (ours, theirs)]
    assert searched[0] == searched[1]
    for table in (ours, theirs):
        tunes = table["seed"].isin(CONFIG.tuning_seeds)
        assert (tunes == (table["role"] == TUNING)).all()
        assert not claims.shown(table)["seed"].isin(CONFIG.tuning_seeds).any()


def test_a_single_run_holds_nothing_of_the_rest_of_the_plan(whole):
    larger = replace(CONFIG, seeds=(*CONFIG.seeds, 5), tuning_seeds=(100, 101, 102), first=4)
    ours, theirs = ({run for some in played(config=c)[1] for run in some} for c in (CONFIG, larger))
    assert ours < theirs


def spread(points):
    """A world in which the longest trainings differ by seed."""

    def make(run):
        rows = world(run)
        if run.lengths == CONFIG.lengths[-1:] and run.arms == (WITH,):
            share = rows["test_accuracy"] + points / 100 * (run.seeds[0] - 1)
            bits = np.arange(1000) < round(1000 * share.iloc[0])
            rows = rows.assign(test_accuracy=share, right=("", right.pack(bits)))
        return rows

    return make


def test_more_seeds_run_only_where_an_interval_holds_its_bound(whole):
    assert set(claims.shown(whole[0])["seed"]) == {0, 1, 2}
    table, asked = played(spread(8.0))
    assert {run.seeds[0] for run in asked[-1]} == {3, 4}
    lengths = {run.lengths[0] for run in asked[-1]}
    assert lengths == {CONFIG.searched_at, CONFIG.lengths[-1]}
    assert {(*r.arms, *r.learning_rates) for r in asked[-1]} == {
        (WITHOUT, 0.001), (WITH, 0.001), (WITH, 0.1),
    }  # fmt: skip
    assert judging.judge(claims.CLAIMS[0], table).n == 5


def verdicts(table):
    return {c.id.rpartition(".")[2]: judging.judge(c, table) for c in claims.CLAIMS}


def test_claims_on_a_picture_like_the_papers(whole):
    table, _ = whole
    found = verdicts(table)
    assert found["same_rate"].value == pytest.approx(1.0)
    assert found["rate_generalises"].value == pytest.approx(8.0)  # two decades of four points
    assert found["lead_shrinks"].value == pytest.approx(9.0)
    failing = found["fails_to_train"]
    assert (failing.value, failing.low) == (1.0, pytest.approx(0.025 ** (1 / 3)))  # of three
    assert {one.verdict for one in found.values()} == {"reproduced"}
    by = claims.by_length(table).groupby("length")[["lead", "gain"]].mean()
    assert by["lead"].tolist() == pytest.approx([2, 6, 10, 1])
    assert by["gain"].tolist() == pytest.approx([8] * 4)


@pytest.mark.parametrize(
    ("truth", "claim"),
    [
        ({"lead": (2.0, 6.0, 10.0, 9.0)}, "same_rate"),
        ({"lead": (2.0, 6.0, 10.0, 14.0)}, "lead_shrinks"),
    ],
)
def test_claims_turn_when_the_truth_is_otherwise(truth, claim):
    table, _ = played(lambda run: world(run, **truth))
    assert verdicts(table)[claim].verdict == "not reproduced"


def test_nothing_of_the_paper_is_tested_when_training_does_not_end(whole):
    table = whole[0].assign(training_accuracy=0.8)
    found = verdicts(table)
    assert found["same_rate"].verdict == found["rate_generalises"].verdict == "not tested"
    assert found["lead_shrinks"].verdict == "reproduced"


def test_a_lead_that_is_read_at_another_length_is_caught(whole, monkeypatch):
    """The mutant reads the shortest training where the search's length is meant."""
    monkeypatch.setattr(claims, "searched_at", lambda table: claims.lengths(table)[0])
    assert claims.shrinks(whole[0]).to_numpy().mean() == pytest.approx(2.0 - 1.0)


def test_a_plan_that_chooses_by_shown_seeds_is_caught():
    """The mutant chooses by the runs that are shown: it finds the rate at which they are lucky."""

    def lucky(run):
        rows = world(run)
        if run.role == JUDGING and run.learning_rates == (0.001,) and run.arms == (WITH,):
            rows["validation_accuracy"] = 0.99
        return rows

    table, _ = played(lucky)
    assert two_rates.rates(table).large == 0.1
    mutant = table[table["role"] == JUDGING].assign(role=TUNING)
    assert two_rates.rates(mutant).large == 0.001


def test_each_length_is_a_run_of_its_own_with_a_schedule_of_its_own(small_table):
    """Half way the short run's rate has fallen and the long one's has not: their ends differ."""
    assert small_table.groupby("length")["step"].max().to_dict() == {2: 2, 4: 4}
    assert small_table.groupby("length")["epochs"].first().to_dict() == {2: 2 * 16 / 64, 4: 1.0}


def test_a_record_of_one_run_has_facts_and_figures(whole):
    """So that a page can show a record that has just begun."""
    table = world(whole[1][0][0])
    assert EXPERIMENT.facts(table)["small_rate"]["value"] is None
    assert {j.verdict for j in (judging.judge(c, table, 9) for c in claims.CLAIMS)} == {
        "provisional"
    }
    for draw in EXPERIMENT.figures.values():
        draw(table).draw_without_rendering()
