"""A search in rounds: trained to its end, resumed anywhere, and growing in a record."""

import time
from dataclasses import replace

import pandas as pd
import pytest

from bnbook.evidence import records
from bnbook.sweeps import sweep
from bnbook.training import session
from bnbook.training.session import OutOfTimeError
from tests import fake, fake_search
from tests.fake_search import EXPERIMENT, Config

CONFIG = Config()


@pytest.fixture
def log(tmp_path, monkeypatch):
    """The folder in which the made-up experiment writes what it trains."""
    monkeypatch.setenv(fake.LOG, str(tmp_path))
    return tmp_path


def grown(tmp_path, machine="a", config=CONFIG, **options):
    how = {"members": 1, "quiet": True, "cache": tmp_path / machine}
    folder = tmp_path / "results"
    return sweep.grow(EXPERIMENT, "quick", config, folder=folder, **how, **options)


def same(one, other):
    pd.testing.assert_frame_equal(one, other, check_exact=True)


def test_it_runs_round_after_round_until_nothing_is_asked_for(tmp_path, log):
    table = sweep.sweep(EXPERIMENT, CONFIG, members=1, cache=tmp_path / "a").table
    trained = [member for [member] in fake.logged(log)]
    assert trained[:5] == [(0, rate) for rate in CONFIG.rates]
    assert [seed for seed, _ in trained[5:]] == [1, 2]
    (best,) = {rate for _, rate in trained[5:]}
    last = table[(table["step"] > 0) & (table["seed"] == 0)].set_index("rate")["value"]
    assert best == last.idxmax()
    assert len(table) == 14
    again = sweep.sweep(EXPERIMENT, CONFIG, members=1, cache=tmp_path / "a").table
    same(again, table)
    assert len(fake.logged(log)) == 7


def test_the_experiments_own_run_is_the_same_table(tmp_path):
    same(
        EXPERIMENT.run(CONFIG),
        sweep.sweep(EXPERIMENT, CONFIG, members=1, cache=tmp_path / "a").table,
    )


@pytest.mark.parametrize("step", range(5, 75, 10))
def test_a_record_of_a_search_grows_on_other_machines(tmp_path, log, monkeypatch, step):
    expected = sweep.sweep(EXPERIMENT, CONFIG, members=1, cache=tmp_path / "whole").table
    (log / "log").unlink()
    clock = [0.0]
    with monkeypatch.context() as patch:
        patch.setattr(sweep, "_reserve", lambda budget: 0.0)
        patch.setattr(session, "now", lambda: clock[0])
        patch.setattr(time, "sleep", lambda _: clock.__setitem__(0, clock[0] + 1))
        with pytest.raises(OutOfTimeError):
            grown(tmp_path, budget=step - 0.5)
    path = records.path(tmp_path / "results", "fake_search", "quick")
    done = step // 10
    assert path.is_file() == (done > 0)
    if done:
        about = records.read(path).provenance
        # the second round is known once the first is over
        assert (about["members"], about["missing"]) == (
            (5, 5 - done) if done < 5 else (7, 7 - done)
        )
    record = grown(tmp_path, "b")
    same(record.table, expected)
    assert (record.provenance["members"], record.provenance["missing"]) == (7, 0)
    ended = [member for batch in fake.logged(log, "ended") for member in batch]
    assert len(ended) == len(set(ended)) == 7


def test_more_seeds_go_on_with_the_same_search(tmp_path, log):
    grown(tmp_path)
    record = grown(tmp_path, "b", replace(CONFIG, seeds=(0, 1, 2, 3)))
    assert record.provenance["members"] == 8
    assert [member[0][0] for member in fake.logged(log)][7:] == [3]


def test_a_search_sees_only_what_it_asked_for_and_whole_rounds():
    """Runs of the second round that happen to be there do not tell it of the first."""
    seen = []

    def rounds(config, table):
        seen.append(len(table))
        return fake_search.rounds(config, table)

    watched = replace(EXPERIMENT, rounds=rounds)
    first = [run for run in fake_search.split(CONFIG) if run.seeds == (0,)]
    row = pd.DataFrame({"value": [1.0], "step": [10]})
    there = {run: row for run in fake_search.split(CONFIG) if run.seeds != (0,)}
    assert watched.asked(CONFIG, there.get) == first
    there |= {run: row.assign(seed=0, rate=run.rates[0]) for run in first[1:]}
    assert watched.asked(CONFIG, there.get) == first
    assert seen == [0, 0]
    there[first[0]] = row.assign(seed=0, rate=first[0].rates[0])
    assert len(watched.asked(CONFIG, there.get)) == 7


PLACES = replace(CONFIG, places=("here", "there"))
APART = replace(EXPERIMENT, searched="places")


def test_searches_of_their_own_go_to_their_ends_one_after_the_other(tmp_path, log):
    """In the order of the field, and not a round of each in turn."""
    table = sweep.sweep(APART, PLACES, members=1, cache=tmp_path / "a").table
    seeds = [seed for [(seed, _)] in fake.logged(log)]
    assert seeds == 2 * [0, 0, 0, 0, 0, 1, 2]
    same(table, APART.run(PLACES))
    one = sweep.sweep(EXPERIMENT, CONFIG, members=1, cache=tmp_path / "b").table
    same(table, pd.concat([one, one], ignore_index=True))


def test_a_search_of_its_own_does_not_wait_for_another():
    row = pd.DataFrame({"value": [1.0], "step": [10]})
    first = [run for run in fake_search.split(replace(PLACES, places=("there",)))
             if run.seeds == (0,)]  # fmt: skip
    ended = {run: row.assign(seed=0, rate=run.rates[0]) for run in first}
    asked = APART.asked(PLACES, ended.get)
    assert [sum(run.places == (place,) for run in asked) for place in PLACES.places] == [5, 7]
    assert asked[:5] == APART.asked(replace(PLACES, places=("here",)), ended.get)


def test_a_search_that_was_cut_short_goes_on_in_a_record(tmp_path, log, monkeypatch):
    """In the second round of the first search, before the second has begun."""
    expected = APART.run(PLACES)
    (log / "log").unlink()
    clock = [0.0]
    how = {"members": 1, "quiet": True, "folder": tmp_path / "results"}
    with monkeypatch.context() as patch:
        patch.setattr(sweep, "_reserve", lambda budget: 0.0)
        patch.setattr(session, "now", lambda: clock[0])
        patch.setattr(time, "sleep", lambda _: clock.__setitem__(0, clock[0] + 1))
        with pytest.raises(OutOfTimeError):
            sweep.grow(APART, "quick", PLACES, cache=tmp_path / "a", budget=64.5, **how)
    about = records.read(records.path(how["folder"], "fake_search", "quick")).provenance
    assert (about["members"], about["missing"]) == (12, 6)
    record = sweep.grow(APART, "quick", PLACES, cache=tmp_path / "b", **how)
    same(record.table, expected)
    ended = [member for batch in fake.logged(log, "ended") for member in batch]
    assert len(ended) == 14


def test_without_rounds_all_runs_are_wanted():
    plain = replace(EXPERIMENT, rounds=None)
    assert plain.asked(CONFIG, lambda run: None) == plain.parts(CONFIG)
