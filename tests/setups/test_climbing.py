"""The climb to the largest rate that trains: found in made-up worlds, and nothing else touched."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import pytest

from bnbook.setups import climbing
from bnbook.setups.settings import JUDGING, TUNING, SearchSetting
from bnbook.tables import searched

GRID = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3)


@dataclass(frozen=True, kw_only=True)
class Config(SearchSetting):
    """Nothing but the setting."""


CONFIG = Config(
    data="digits", seeds=(0, 1, 2), learning_rates=GRID, arms=("a", "b"), tuning_seeds=(100, 101),
    crossed=False,
)  # fmt: skip


def rows(run, edge):
    rate = run.learning_rates[0]
    trains = rate <= edge[run.arms[0], run.seeds[0]]
    return pd.DataFrame({
        "arm": run.arms[0], "seed": run.seeds[0], "learning_rate": rate, "role": run.role,
        "step": [0, 10], "training_accuracy": [0.1, 1.0 if trains else 0.5],
        "validation_accuracy": [0.1, 0.5 + rate if trains else 0.1],
    })  # fmt: skip


def climbed(edge):
    """Play search and climbs in a world where an arm and seed train up to an edge."""
    table, asked = pd.DataFrame(), []
    while new := climbing.rounds(CONFIG, table, 0.95):
        assert not set(new) & set(asked)
        asked += new
        table = pd.concat([table, *(rows(run, edge) for run in new)], ignore_index=True)
    return table, asked


def drawn(number):
    """A world: how far each arm and seed trains, some below the whole grid."""
    draw = np.random.default_rng(number)
    keys = [(arm, seed) for arm in "ab" for seed in (0, 1, 2, 100, 101)]
    return {key: float(draw.choice([0.0005, *GRID])) for key in keys}


WORLDS = pytest.mark.parametrize("number", range(5))


@WORLDS
def test_every_seed_comes_to_its_own_edge_and_no_further(number):
    edge = drawn(number)
    table, asked = climbed(edge)
    for arm in "ab":
        found = searched.largest(table, arm, 0.95)
        assert found.index.tolist() == [0, 1, 2]
        for seed in (0, 1, 2):
            own = edge[arm, seed]
            assert found[seed] == own or (own == 0.0005 and found[seed] != found[seed])
            tried = [r.learning_rates[0] for r in asked if r.role == JUDGING
                     and (r.arms[0], r.seeds[0]) == (arm, seed)]  # fmt: skip
            begin = searched.chosen(table)[arm]
            beyond = [rate for rate in tried if rate > max(own, begin)]
            assert len(beyond) <= 1  # the first that fails


@WORLDS
def test_what_the_judging_seeds_do_chooses_no_rate(number):
    one, other = drawn(number), drawn(number + 100)
    mixed = {key: (one if key[1] >= 100 else other)[key] for key in one}
    (first, asked), (second, also) = climbed(one), climbed(mixed)
    assert searched.chosen(first) == searched.chosen(second)
    assert [r for r in asked if r.role == TUNING] == [r for r in also if r.role == TUNING]


@pytest.mark.parametrize(
    ("trains", "then"),
    [
        ({0.01: True}, 0.03),
        ({0.01: True, 0.03: True}, 0.1),
        ({0.01: True, 0.03: False}, None),
        ({0.01: False}, 0.003),
        ({0.01: False, 0.003: True}, None),
        ({0.001: False}, None),
        ({0.3: True}, None),
    ],
)
def test_one_step_of_a_climb(trains, then):
    assert climbing.step(GRID, trains) == then
