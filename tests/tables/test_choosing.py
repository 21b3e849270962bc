"""Rates chosen by some seeds, and the others shown."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import pytest

from bnbook.errors import BnbookError
from bnbook.tables import choosing


@dataclass(frozen=True)
class Config:
    arms: tuple = ("a", "b")
    seeds: tuple = (0, 1)
    tuning_seeds: tuple = (10, 11)
    learning_rates: tuple = (0.1, 1.0, 10.0)


def ran(runs, validation):
    rows = []
    for run in runs:
        arm, seed, rate = run.arms[0], run.seeds[0], run.learning_rates[0]
        one = {"arm": arm, "seed": seed, "learning_rate": rate, "tunes": seed >= 10}
        rows += [
            {**one, "step": 1, "validation": -5.0, "test": -5.0},
            {**one, "step": 2, "validation": validation(arm, seed, rate), "test": rate + seed},
        ]
    return pd.DataFrame(rows)


def loss(arm, seed, rate):
    if arm == "b" and rate == 10:
        return np.nan
    return abs(np.log10(rate) - (0 if arm == "a" else 1)) + (1 if seed == 11 and rate == 1 else 0)


def test_two_rounds_and_then_none():
    config = Config()
    first = choosing.rounds(config, pd.DataFrame())
    assert [(r.arms, r.seeds, r.learning_rates) for r in first[:4]] == [
        (("a",), (10,), (0.1,)), (("a",), (10,), (1.0,)), (("a",), (10,), (10.0,)),
        (("a",), (11,), (0.1,)),
    ]  # fmt: skip
    assert len(first) == 12
    table = ran(first, loss)
    assert choosing.rounds(config, ran(first[:5], loss)) == first[5:]
    second = choosing.rounds(config, table)
    assert {r.seeds[0] for r in second} == {0, 1}
    assert len(second) == 4
    whole = pd.concat([table, ran(second, lambda *_: -100.0)])
    assert choosing.rounds(config, whole) == []
    # The seeds that are shown choose nothing, however well they do; no number is the worst of all.
    assert choosing.chosen(whole) == {"a": 1.0, "b": 1.0}
    assert set(choosing.shown(whole)["seed"]) == {0, 1}
    assert choosing.ends(whole, "test").loc[1, "a"] == 2.0
    assert choosing.better(whole, ("b", "a")) == "a"


def test_an_end_of_the_grid_is_named():
    table = ran(choosing.rounds(Config(), pd.DataFrame()), lambda arm, seed, rate: rate)
    holds, found, _ = choosing.inside(table, ["a"])
    assert (holds, found) == (False, "a at 0.1")


def test_seeds_that_would_choose_and_be_shown():
    with pytest.raises(BnbookError, match=r"\[1\] would do both"):
        choosing.check(Config(tuning_seeds=(1, 2)))
    choosing.check(Config(seeds=(10,)))
