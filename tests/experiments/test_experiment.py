"""What experiments share: profiles, their checks, and the gathering of runs into ensembles."""

import itertools
from dataclasses import dataclass, replace

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bnbook.errors import BnbookError
from bnbook.experiments import experiment


@dataclass(frozen=True)
class Config:
    data: str = "generated"
    seeds: tuple[int, ...] = (0, 1)
    learning_rates: tuple[float, ...] = (0.1, 1.0)
    arms: tuple[str, ...] = ("without", "with")
    steps: int = 10


PROFILES = {"quick": Config(), "standard": Config(seeds=(0, 1, 2, 3, 4))}
AXES = ("arms", "seeds", "learning_rates")


def fuses(part):
    return experiment.common(part, ("seeds", "learning_rates"))


def test_a_profile_with_changes_and_another_seed():
    config = experiment.configure("name", PROFILES, "standard", 7, {"steps": 3, "arms": None})
    assert config == Config(seeds=(7, 8, 9, 10, 11), steps=3)


@pytest.mark.parametrize(
    ("profile", "changes", "says"),
    [("fast", {}, "quick"), ("quick", {"step": 3}, "steps")],
)
def test_unknown_names_are_told_the_right_ones(profile, changes, says):
    with pytest.raises(BnbookError, match=says):
        experiment.configure("name", PROFILES, profile, 0, changes)


def test_single_runs_are_all_combinations_in_order():
    runs = experiment.single_runs(Config(), AXES)
    assert len(runs) == len(set(runs)) == 2**3
    assert runs[0] == Config(seeds=(0,), learning_rates=(0.1,), arms=("without",))
    assert runs[-1] == Config(seeds=(1,), learning_rates=(1.0,), arms=("with",))


def test_runs_of_an_arm_train_as_one_ensemble():
    runs = experiment.single_runs(Config(), AXES)
    groups = experiment.ensembles(runs, fuses)
    assert [[run.arms for run in group] for group in groups] == [
        [("without",)] * 4,
        [("with",)] * 4,
    ]
    for group in groups:
        experiment.check_fused(group, fuses)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3))))
def test_ensembles_hold_every_run_once_and_in_its_order(pairs):
    runs = [replace(Config(), steps=steps, seeds=(seed,)) for steps, seed in pairs]
    groups = experiment.ensembles(runs, fuses)
    assert sorted(map(repr, itertools.chain(*groups))) == sorted(map(repr, runs))
    assert len(groups) == len({steps for steps, _ in pairs})
    for group in groups:
        assert group == [run for run in runs if run.steps == group[0].steps]


def test_a_run_that_is_unlike_the_others_is_named():
    odd = replace(Config(), steps=11)
    with pytest.raises(BnbookError, match=r"found Config\(.*steps=11\)"):
        experiment.check_fused([Config(), odd, Config()], fuses)


@pytest.mark.parametrize(
    ("check", "fields", "config", "says"),
    [
        (
            experiment.check_positive,
            ("steps",),
            Config(steps=0),
            "steps must be at least 1, found 0",
        ),
        (experiment.check_distinct, ("seeds",), Config(seeds=(1, 1)), "seeds must be distinct"),
    ],
)
def test_impossible_values(check, fields, config, says):
    with pytest.raises(BnbookError, match=says):
        check(config, fields)
    check(Config(), fields)


def test_a_config_that_lacks_what_the_claims_need_is_refused():
    whole = experiment.Experiment(
        name="name", title="", profiles=PROFILES, columns={}, claims=(), facts=lambda _: {},
        figures={}, axes=AXES, needs={"learning_rates": (0.1,)},
    )  # fmt: skip
    assert whole.configure("quick") == Config()
    with pytest.raises(BnbookError, match=r"learning_rates must hold 0.1, which the claims"):
        whole.configure("quick", learning_rates=(1.0,))


@pytest.mark.parametrize(("apart", "sizes"), [((), [4, 4]), (("seeds",), [2, 2, 2, 2])])
def test_run_trains_apart_what_it_is_told_to(apart, sizes):
    trained = []

    def train(runs, session):
        trained.append(len(runs))
        return [pd.DataFrame({"arm": run.arms, "seed": run.seeds}) for run in runs]

    whole = experiment.Experiment(
        name="name", title="", profiles=PROFILES, columns={}, claims=(), facts=lambda _: {},
        figures={}, axes=AXES, fused=AXES[1:], apart=apart, train=train,
    )  # fmt: skip
    table = whole.run(Config(), "cpu")
    assert trained == sizes
    assert table["arm"].tolist() == ["without"] * 4 + ["with"] * 4
    assert table["seed"].tolist() == [0, 0, 1, 1] * 2
