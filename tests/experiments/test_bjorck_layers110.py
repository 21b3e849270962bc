"""Failing to train at 110 layers: measures on tables whose truth is known, and a small real run."""

import math

import pandas as pd
import pytest
import torch

from bnbook.evidence import claims as judging
from bnbook.experiments.bjorck_layers110 import claims
from bnbook.experiments.bjorck_layers110 import experiment as module
from bnbook.experiments.bjorck_layers110.experiment import EXPERIMENT
from bnbook.tables.arms import WITH, WITHOUT
from bnbook.training.session import Session
from tests.judging import assert_begun, by_name, verdicts

SMALL = {
    "steps": 8, "seeds": (0,), "n": 1, "learning_rates": (0.0001, 0.1, 1e6), "train_images": 100,
    "validation": 30, "test_images": 30, "widths": (2, 2, 4), "side": 4, "points": 4,
}  # fmt: skip
CLAIMS = by_name(claims.CLAIMS)
RATES = (0.0001, 0.001, 0.01, 0.1, 0.3)
SEEDS = tuple(range(10))
STEPS = (50, 150, 181, 200)


def world(arm, rate, seed):
    """Return the step at which a made-up run diverges, and the share of late losses that is good.

    Without BN runs diverge above 0.001, two minibatches later at odd seeds, and never learn. With
    BN they learn from 0.001 to 0.1.
    """
    if arm == WITH:
        return -1, (0.8 if 0.001 <= rate <= 0.1 else 0.1)
    return (2 + 2 * (seed % 2), 0.0) if rate > 0.001 else (-1, 0.3)


def made_up(world=world, n=18):
    """The table of a world."""
    rows = []
    for arm in (WITHOUT, WITH):
        for rate in RATES:
            for seed in SEEDS:
                diverged, good = world(arm, rate, seed)
                rows += [
                    (arm, seed, rate, n, step, diverged, diverged, 50.0 + seed,
                     math.nan if diverged > 0 else 2.0, 0.0 if step <= 180 else good)
                    for step in STEPS
                ]  # fmt: skip
    return pd.DataFrame(rows, columns=list(EXPERIMENT.columns))


def test_measures_on_a_table_with_known_truth():
    table = made_up()
    assert claims.diverges(table).tolist() == [1.0] * 10
    assert claims.when(table).tolist() == [2.0, 4.0] * 5
    assert claims.survives(table).tolist() == [1.0] * 10
    assert claims.ratio(table).tolist() == pytest.approx([100.0] * 10)
    assert claims.shares(table, "learned")[WITH].tolist() == [0, 1, 1, 1, 0]
    assert claims.shares(table, "diverged")[WITHOUT].tolist() == [0, 0, 1, 1, 1]
    assert claims.shares(table, "guessing")[WITHOUT].tolist() == [1, 1, 0, 0, 0]
    assert set(verdicts(CLAIMS, table).values()) == {"reproduced"}


def test_a_run_ends_in_one_of_three_ways_and_early_minibatches_do_not_count():
    found = claims.runs(made_up())
    assert (found[["diverged", "learned", "guessing"]].sum(axis=1) == 1).all()

    early = made_up().assign(better=lambda t: (t["step"] <= 180).astype(float))
    assert not claims.runs(early)["learned"].any()


MUTANTS = {
    "diverges": lambda a, r, s: (-1, 0.3) if a == WITHOUT and r <= 0.1 else world(a, r, s),
    "early": lambda a, r, s: (40 + s, 0.0) if a == WITHOUT and r > 0.001 else world(a, r, s),
    "small_rate": lambda a, r, s: (2, 0.0) if a == WITHOUT else world(a, r, s),
    "rates": lambda a, r, s: (-1, 0.1) if a == WITH and r > 0.001 else world(a, r, s),
}
"""For each claim a world in which it is false."""


@pytest.mark.parametrize("claim", MUTANTS)
def test_each_claim_is_false_in_a_world_where_it_is(claim):
    assert verdicts(CLAIMS, made_up(MUTANTS[claim]))[claim] == "not reproduced"


@pytest.mark.parametrize(
    ("changed", "claim", "premise", "said"),
    [
        (lambda a, r, s: (3, 0.0) if s == 4 else world(a, r, s), "diverges", 1, "1 of 10 seeds"),
        (lambda a, r, s: (-1, 0.0) if s == 4 else world(a, r, s), "early", 1, "9 of 10 seeds"),
        (lambda a, r, s: (-1, 0.0) if s == 4 else world(a, r, s), "small_rate", 1, "9 of 10 seeds"),
        (lambda a, r, s: (-1, 0.0) if s == 4 else world(a, r, s), "rates", 1, "2 seeds"),
    ],
)
def test_a_claim_is_not_tested_where_its_premise_fails(changed, claim, premise, said):
    found = judging.judge(CLAIMS[claim], made_up(changed))
    assert found.verdict == "not tested"
    assert found.premises[premise]["found"] == said
    assert set(verdicts(CLAIMS, made_up(n=9)).values()) == {"not tested"}  # 56 layers


def test_rows_of_a_run_by_its_losses():
    run = EXPERIMENT.parts(EXPERIMENT.configure("quick", **SMALL))[0]
    learns = module._rows(run, torch.tensor([8.0, 2.0, 2.4, 2.1, 2.3, 2.2, 2.0, 1.0]))
    assert learns["step"].tolist() == [2, 4, 6, 8]
    assert learns["loss"].tolist() == pytest.approx(
        [4.0, math.sqrt(2.4 * 2.1), math.sqrt(2.3 * 2.2), math.sqrt(2.0)]
    )
    assert learns["better"].tolist() == [0.5, 0.5, 0.5, 1.0]  # below log 10 - 0.05 = 2.2526
    assert set(learns["diverged_at"]) == set(learns["above_at"]) == {-1}

    nan = torch.nan
    diverges = module._rows(run, torch.tensor([8.0, 2.0, 2.0, 8001.0, nan, nan, nan, nan]))
    assert diverges["diverged_at"].tolist() == [-1, 4, 4, 4]
    assert diverges["above_at"].tolist() == [-1, 4, 4, 4]
    assert diverges["better"].tolist() == [0.5, 0.0, 0.0, 0.0]
    assert diverges["loss"].isna().tolist() == [False, True, True, True]

    starts_high = module._rows(run, torch.tensor([1500.0, 900.0, 2.3, 2.3, 2.3, 2.3, 2.3, 2.3]))
    assert set(starts_high["diverged_at"]) == {-1}  # its start is above 10^3, and it has not moved
    assert set(starts_high["above_at"]) == {1}


def test_a_small_run_diverges_at_an_absurd_rate_and_starts_alike_at_every_rate(small_table):
    ended = claims.runs(small_table).set_index(["arm", "learning_rate"])
    assert ended.loc[(WITHOUT, 1e6), "diverged"]
    assert not ended.loc[(WITHOUT, 0.0001), "diverged"]
    assert (small_table.groupby(["arm", "seed"])["first_loss"].nunique() == 1).all()


def test_a_run_that_ends_long_before_the_others_has_all_its_rows():
    """`bnbook.training.fit` lets it leave after 50 steps, before anything else was measured."""
    config = EXPERIMENT.configure("quick", **{**SMALL, "steps": 120})
    absurd = [run for run in EXPERIMENT.parts(config) if run.learning_rates == (1e6,)][:1]
    (found,) = EXPERIMENT.together(absurd, Session("cpu"))
    assert found["step"].tolist() == [30, 60, 90, 120]
    assert (found["diverged_at"] > 0).all()


def test_without_bn_in_bns_place_nothing_is_reproduced(monkeypatch):
    """Mutant: both arms are trained without BN."""
    from bnbook.setups import residual

    real = residual.network
    monkeypatch.setattr(residual, "network", lambda arm, *a, **k: real(WITHOUT, *a, **k))
    found = EXPERIMENT.run(EXPERIMENT.configure("quick", **SMALL), "cpu")
    each = [found[found["arm"] == arm].drop(columns="arm") for arm in (WITHOUT, WITH)]
    pd.testing.assert_frame_equal(*(rows.reset_index(drop=True) for rows in each))
    deep = found.assign(n=18)
    assert "reproduced" not in verdicts(CLAIMS, deep).values()


def test_the_rate_stays_as_it_begins(monkeypatch):
    """A schedule, as of a whole training, would divide it by ten in the midst of these steps."""
    from bnbook.training import fit

    real, seen = fit.SGD, []

    def spy(rates, **options):
        seen.append(options)
        return real(rates, **options)

    monkeypatch.setattr(fit, "SGD", spy)
    run = EXPERIMENT.parts(EXPERIMENT.configure("quick", **SMALL))[0]
    EXPERIMENT.together([run], Session("cpu"))
    assert [set(options) for options in seen] == [{"momentum", "weight_decay"}]


def test_figures_and_facts_on_the_made_up_table():
    found = EXPERIMENT.facts(made_up())
    assert found["without_diverged"]["value"] == 30
    assert found["with_learned"]["value"] == 30
    assert found["with_learned_usual"]["value"] == 10
    assert found["without_largest"]["value"] == pytest.approx(0.001)
    assert [found[f"without_first_{end}"]["value"] for end in ("least", "most")] == [50, 59]
    assert found["other_reading"]["value"] == 0
    high = made_up().assign(above_at=lambda t: t["above_at"].where(t["diverged_at"] > 0, 1))
    assert EXPERIMENT.facts(high)["other_reading"]["value"] == 70  # all that do not diverge
    without_number = made_up().assign(above_at=-1)
    assert EXPERIMENT.facts(without_number)["other_reading"]["value"] == 0
    left, right = EXPERIMENT.figures["shares"](made_up()).axes
    assert left.lines[0].get_ydata().tolist() == [0, 0, 100, 100, 100]
    assert right.lines[1].get_ydata().tolist() == [0, 100, 100, 100, 0]
    small, usual = EXPERIMENT.figures["losses"](made_up()).axes
    crosses = [line for line in usual.lines if line.get_marker() == "x"]
    assert len(crosses) == 10
    assert not [line for line in small.lines if line.get_marker() == "x"]


def test_a_record_that_has_just_begun_is_described_and_drawn():
    whole = made_up()
    assert_begun(
        EXPERIMENT, whole, (whole.head(4), whole[whole["arm"] == WITH], whole[whole["seed"] == 0])
    )
