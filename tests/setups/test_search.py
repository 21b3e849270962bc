"""The search for rates: what it asks for, and that no seed that is shown ever chooses."""

import math
import zlib
from dataclasses import dataclass, replace

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bnbook.errors import BnbookError
from bnbook.setups import search
from bnbook.setups.settings import JUDGING, SEARCH_COLUMNS, TUNING, SearchSetting
from bnbook.tables import searched as searched_tables

RATES = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64)


@dataclass(frozen=True, kw_only=True)
class Config(SearchSetting):
    """Nothing but the setting."""

    def __post_init__(self):
        self.check_search()


CONFIG = Config(data="digits", seeds=(0, 1, 2), learning_rates=RATES, arms=("a", "b"))


def table(run, score, test=0.5):
    return pd.DataFrame({
        "arm": run.arms[0], "seed": run.seeds[0], "learning_rate": run.learning_rates[0],
        "role": run.role, "step": [0, 10], "validation_accuracy": [0.1, score],
        "test_accuracy": [0.1, test],
    })  # fmt: skip


def searched(config, score, test=lambda run: 0.5):
    """Run a search to its end: the rounds, and the table."""
    found, rounds = pd.DataFrame(), []
    while new := search.rounds(config, found):
        assert not set(new) & {run for some in rounds for run in some}
        rounds.append(new)
        found = pd.concat([found, *(table(run, score(run), test(run)) for run in new)])
    return rounds, found


def cells(runs, arm="a", role=TUNING):
    return sorted(
        (run.learning_rates[0], run.seeds[0])
        for run in runs if run.arms == (arm,) and run.role == role
    )  # fmt: skip


def peak(best):
    """Accuracies that fall with the distance from a rate, the same for all seeds."""
    return lambda run: 1 - abs(math.log2(run.learning_rates[0] / best[run.arms[0]])) / 20


def test_coarse_then_fine_then_judged():
    rounds, finished = searched(CONFIG, peak({"a": 0.08, "b": 0.01}))
    assert cells(rounds[0]) == [(rate, 100) for rate in (0.01, 0.04, 0.16, 0.64)]
    # 0.04 and 0.16 are equally good: the smaller; then its neighbours, with two seeds
    assert cells(rounds[1]) == [
        (0.02, 100), (0.02, 101), (0.04, 101), (0.08, 100), (0.08, 101)
    ]  # fmt: skip
    assert cells(rounds[2]) == [(0.04, 102), (0.04, 103), (0.08, 102), (0.08, 103)]
    assert cells(rounds[1], "b") == [(0.01, 101), (0.02, 100), (0.02, 101)]
    assert cells(rounds[2], "b") == [(0.01, 102), (0.01, 103)] or cells(rounds[2], "b") == []
    assert searched_tables.chosen(finished) == {"a": 0.08, "b": 0.01}
    for arm in "ab":
        assert cells(rounds[-1], arm, JUDGING) == [
            (rate, seed) for rate in (0.01, 0.08) for seed in (0, 1, 2)
        ]
    own = replace(CONFIG, crossed=False)
    rounds, _ = searched(own, peak({"a": 0.08, "b": 0.01}))
    assert cells(rounds[-1], "a", JUDGING) == [(0.08, seed) for seed in (0, 1, 2)]


def test_nothing_is_judged_before_every_arm_has_chosen():
    rounds, _ = searched(CONFIG, peak({"a": 0.08, "b": 0.01}))
    assert all(run.role == TUNING for some in rounds[:-1] for run in some)
    assert all(run.role == JUDGING for run in rounds[-1])


numbers = st.integers(0, 2**32)
grids = st.lists(st.sampled_from(RATES), min_size=2, max_size=7, unique=True).map(sorted).map(tuple)


def noise(of, run):
    """A score that depends on the run alone."""
    text = f"{of} {run.arms} {run.seeds} {run.learning_rates} {run.role}"
    return zlib.crc32(text.encode()) % 1000 / 1000


@settings(deadline=None)
@given(numbers, grids, st.integers(2, 9), st.integers(1, 4))
def test_the_seeds_that_choose_are_never_the_seeds_that_are_shown(of, rates, tuning, judging):
    config = replace(
        CONFIG,
        learning_rates=rates,
        tuning_seeds=tuple(range(100, 100 + tuning)),
        seeds=tuple(range(judging)),
    )
    rounds, finished = searched(config, lambda run: noise(of, run))
    runs = [run for some in rounds for run in some]
    assert len(runs) == len(set(runs))
    for run in runs:
        shown = run.seeds[0] in config.seeds
        assert shown == (run.role == JUDGING)
        assert shown != (run.seeds[0] in config.tuning_seeds)
    chosen = searched_tables.chosen(finished)
    assert chosen.keys() == set(config.arms)
    judged = {(run.arms[0], run.learning_rates[0]) for run in runs if run.role == JUDGING}
    assert judged == {(arm, rate) for arm in config.arms for rate in chosen.values()}


@settings(deadline=None)
@given(numbers, numbers, grids)
def test_no_result_of_a_judging_run_or_on_the_test_set_changes_the_search(of, other, rates):
    """Judging runs and test accuracies are made up anew: what is asked for stays the same."""
    config = replace(CONFIG, learning_rates=rates)
    rounds, _ = searched(config, lambda run: noise(of, run))

    def swapped(run):
        return noise(other if run.role == JUDGING else of, run)

    assert searched(config, swapped, lambda run: noise(other, run))[0] == rounds


@settings(deadline=None)
@given(numbers, grids, st.integers(2, 9))
def test_it_is_halved_over_seeds(of, rates, tuning):
    """Twice as many seeds for half as many rates, each a part of those before."""
    config = replace(CONFIG, learning_rates=rates, tuning_seeds=tuple(range(100, 100 + tuning)))
    rounds, _ = searched(config, lambda run: noise(of, run))
    runs = [run for some in rounds for run in some if run.role == TUNING]
    for arm in config.arms:
        seeds_of = {}
        for rate, seed in cells(runs, arm):
            seeds_of.setdefault(rate, []).append(seed)
        assert seeds_of.keys() >= set(rates[::2])
        counts = sorted(map(len, seeds_of.values()), reverse=True)
        assert all(n in (1, 2, 4, 8) for n in counts)
        assert sum(n >= 2 for n in counts) <= 3
        assert sum(n >= 4 for n in counts) <= 2
        for seeds in seeds_of.values():
            assert seeds == list(config.tuning_seeds[: len(seeds)])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"tuning_seeds": (2, 3)}, r"must not choose rates and be shown, \[2\] would do both"),
        ({"tuning_seeds": (7,)}, "two or more and distinct"),
        ({"tuning_seeds": (7, 7)}, "two or more and distinct"),
        ({"learning_rates": (0.1, 0.01)}, "two or more and rising"),
        ({"learning_rates": (0.1,)}, "two or more and rising"),
    ],
)
def test_impossible_searches_are_refused(change, says):
    with pytest.raises(BnbookError, match=says):
        replace(CONFIG, **change)


def test_a_run_holds_nothing_of_the_rest_of_the_plan():
    """So that more tuning seeds, rates or judging seeds leave the finished runs as they are."""
    larger = replace(CONFIG, tuning_seeds=(100, 101, 102, 103, 104), seeds=(0, 1, 2, 3))
    best = peak({"a": 0.08, "b": 0.01})
    ours, theirs = (
        {run for some in searched(config, best)[0] for run in some} for config in (CONFIG, larger)
    )
    assert ours < theirs
    assert SEARCH_COLUMNS.keys() >= {"role", "right", "dead_at", "jumped_at"}
