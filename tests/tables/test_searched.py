"""Reading a search's table: the rates that the search itself chose, from the same seeds."""

from dataclasses import dataclass

import pandas as pd
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bnbook.setups import search
from bnbook.setups import settings as names
from bnbook.setups.settings import SearchSetting
from bnbook.tables import searched

RATES = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64)


@dataclass(frozen=True, kw_only=True)
class Config(SearchSetting):
    """Nothing but the setting."""


def config(tuning):
    return Config(
        data="digits", seeds=(0, 1), learning_rates=RATES, arms=("a", "b"), tuning_seeds=tuning
    )


def finished(asked, score):
    """Run a search to its end in a world where `score` is a run's validation accuracy."""
    table = pd.DataFrame()
    while new := search.rounds(asked, table):
        table = pd.concat([table, *(rows(run, score(run)) for run in new)], ignore_index=True)
    return table


def rows(run, score):
    return pd.DataFrame({
        "arm": run.arms[0], "seed": run.seeds[0], "learning_rate": run.learning_rates[0],
        "role": run.role, "step": [0, 10], "validation_accuracy": [0.9, score],
    })  # fmt: skip


def test_the_roles_are_called_alike():
    assert (searched.TUNING, searched.JUDGING) == (names.TUNING, names.JUDGING)


@settings(max_examples=25, deadline=None)
@example({("a", 0.02, 101): 3, ("a", 0.04, 100): 3}, (100, 101, 102, 103))  # a tie
@given(st.dictionaries(st.tuples(st.sampled_from("ab"), st.sampled_from(RATES),
                                 st.integers(100, 103)), st.integers(0, 5)),
       st.sampled_from([(100, 101), (100, 101, 102, 103)]))  # fmt: skip
def test_the_rates_are_those_that_the_search_chose(scores, tuning):
    def score(run):
        return scores.get((run.arms[0], run.learning_rates[0], run.seeds[0]), 2) / 10

    asked = config(tuning)
    table = finished(asked, score)
    scores = search._scores(asked, table)
    tuned = {run: value for run, value in scores.items() if run.role == names.TUNING}
    assert searched.chosen(table) == {arm: search._tune(asked, arm, tuned)[1] for arm in "ab"}


def test_the_seeds_that_judge_choose_nothing_and_those_that_choose_are_not_shown():
    table = finished(config((100, 101)), lambda run: 0.5 - abs(run.learning_rates[0] - 0.08))
    other = table.assign(
        validation_accuracy=table["validation_accuracy"].where(table["role"] == "tuning", 1.0)
    )
    assert searched.chosen(other) == searched.chosen(table) == {"a": 0.08, "b": 0.08}
    found = searched.own(table, "a")
    assert found.index.tolist() == [0, 1]
    assert found["validation_accuracy"].tolist() == pytest.approx([0.5, 0.5])
    assert searched.shown(table, "a", 0.04).empty
    assert searched.own(table.iloc[:0], "a").empty
