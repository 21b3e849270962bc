"""What is done with the configs of all experiments: profiles, checks, ensembles."""

import pickle
from dataclasses import dataclass, replace

import pandas as pd
import pytest

from bnbook.errors import BnbookError
from bnbook.experiments import experiment
from bnbook.training.session import Session


@dataclass(frozen=True)
class Config:
    data: str = "generated"
    seeds: tuple[int, ...] = (0, 1)
    learning_rates: tuple[float, ...] = (0.1, 1.0)
    arms: tuple[str, ...] = ("without", "with")
    steps: int = 10


PROFILES = {"quick": Config(), "standard": Config(seeds=(0, 1, 2, 3, 4))}
AXES = ("arms", "seeds", "learning_rates")


def train(runs, session):
    """Says which runs it was given together."""
    together = f"{len(runs)} from {runs[0].arms[0]}, {runs[0].seeds[0]}"
    return [pd.DataFrame({"arm": run.arms, "seed": run.seeds, "of": together}) for run in runs]


EXPERIMENT = experiment.Experiment(
    name="name", title="", profiles=PROFILES, columns={}, claims=(), facts=lambda _: {},
    figures={}, axes=AXES, fused=AXES[1:], train=train,
)  # fmt: skip


def test_a_profile_with_changes_and_another_seed():
    config = EXPERIMENT.configure("standard", 7, steps=3, arms=None)
    assert config == Config(seeds=(7, 8, 9, 10, 11), steps=3)


@pytest.mark.parametrize(
    ("profile", "changes", "says"),
    [("fast", {}, "quick"), ("quick", {"step": 3}, "steps")],
)
def test_unknown_names_are_told_the_right_ones(profile, changes, says):
    with pytest.raises(BnbookError, match=says):
        EXPERIMENT.configure(profile, **changes)


@pytest.mark.parametrize(
    ("usual", "data", "found"),
    [
        ("generated", "digits", "must be generated, .* found 'digits', which is images"),
        ("digits", "generated", "must be images, .* found 'generated', which is generated"),
        ("cifar10 or mnist5k", "descriptions", "must be images, such as 'cifar10'; .* is text"),
        ("breast-cancer and digits", "digits", "must be table and images, .* which is images"),
        ("digits", "abacus", "no data set is called 'abacus'"),
    ],
)
def test_data_of_another_kind_are_refused(usual, data, found):
    of_data = replace(EXPERIMENT, profiles={"quick": Config(data=usual)})
    with pytest.raises(BnbookError, match=found):
        of_data.configure("quick", data=data)


def test_data_of_the_same_kind_take_the_place_of_the_usual():
    of_data = replace(EXPERIMENT, profiles={"quick": Config(data="breast-cancer and digits")})
    chosen = of_data.configure("quick", data="breast-cancer and mnist5k")
    assert chosen.data == "breast-cancer and mnist5k"


def test_single_runs_are_all_combinations_in_order():
    runs = experiment.single_runs(Config(), AXES)
    assert len(runs) == len(set(runs)) == 2**3
    assert runs[0] == Config(seeds=(0,), learning_rates=(0.1,), arms=("without",))
    assert runs[-1] == Config(seeds=(1,), learning_rates=(1.0,), arms=("with",))


def test_a_run_that_is_unlike_the_others_is_named():
    odd = replace(Config(), steps=11)
    with pytest.raises(BnbookError, match=r"seeds and learning_rates alone, found .*steps=11\)"):
        EXPERIMENT.together([Config(), odd, Config()], Session())


def test_a_worker_takes_the_experiment_from_its_own_module():
    assert pickle.loads(pickle.dumps(EXPERIMENT)) is EXPERIMENT
    assert replace(EXPERIMENT, title="another") != EXPERIMENT


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
    whole = replace(EXPERIMENT, needs={"learning_rates": (0.1,)})
    assert whole.configure("quick") == Config()
    with pytest.raises(BnbookError, match=r"learning_rates must hold 0.1, which the claims"):
        whole.configure("quick", learning_rates=(1.0,))


@pytest.mark.parametrize(
    ("apart", "of"),
    [((), ["4 from without, 0"] * 4), (("seeds",), ["2 from without, 0", "2 from without, 1"] * 2)],
)
def test_run_trains_apart_what_it_is_told_to(apart, of):
    table = replace(EXPERIMENT, apart=apart).run(Config(), "cpu")
    assert table["arm"].tolist() == ["without"] * 4 + ["with"] * 4
    assert table["seed"].tolist() == [0, 0, 1, 1] * 2
    assert sorted(table["of"][:4]) == sorted(of)
