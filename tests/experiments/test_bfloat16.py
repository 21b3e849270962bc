"""Float32 against bfloat16: the precision reaches the step, claims on tables with known truth."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from bnbook.evidence import claims as judging
from bnbook.experiments.bfloat16 import claims
from bnbook.experiments.bfloat16.experiment import EXPERIMENT
from bnbook.tables import right
from bnbook.tables.arms import WITH, WITHOUT
from bnbook.training import fit
from bnbook.training.session import Session

SMALL = {
    "steps": 6, "seeds": (0,), "points": 2, "train_images": 64, "test_images": 30, "validation": 30,
    "side": 4, "batch_size": 16,
}  # fmt: skip
ACCURACY, FATE = EXPERIMENT.claims


def run(arm, rate, seed, precision, accuracy=0.5, dead=False):
    """The last row of a made-up run, with the first images right."""
    bits = np.arange(1000) < round(1000 * accuracy)
    return {
        "arm": arm, "learning_rate": rate, "seed": seed, "precision": precision, "step": 10, "n": 9,
        "dead_at": 5 if dead else -1, "diverged_at": -1, "training_accuracy": 0.1 if dead else 0.95,
        "test_accuracy": 0.1 if dead else accuracy, "right": "" if dead else right.pack(bits),
    }  # fmt: skip


def made(lost=0.0, seeds=6, odd=()):
    """A table in which bfloat16 loses so many points, and `odd` seeds with BN fail in it alone."""
    return pd.DataFrame([
        run(
            arm, rate, seed, precision, 0.5 - lost / 100 * (precision == claims.BFLOAT16),
            (arm, rate) == (WITHOUT, 0.1)
            or ((arm, rate, precision) == (WITH, 0.1, claims.BFLOAT16) and seed in odd),
        )
        for arm in (WITHOUT, WITH) for rate in (0.003, 0.1) for seed in range(seeds)
        for precision in (claims.FLOAT32, claims.BFLOAT16)
    ])  # fmt: skip


@pytest.mark.parametrize(
    ("lost", "verdict"), [(0.0, "reproduced"), (1.0, "reproduced"), (5.0, "not reproduced")]
)
def test_what_bfloat16_loses_is_found(lost, verdict):
    found = judging.judge(ACCURACY, made(lost))
    assert found.value == pytest.approx(-lost)
    assert (found.verdict, found.n, found.over) == (verdict, 6, "seeds and test images")


def test_a_seed_whose_fate_differs_counts_against_it():
    assert judging.judge(FATE, made()).verdict == "reproduced"
    found = judging.judge(FATE, made(odd=(0, 1, 2)))
    assert (found.value, found.verdict) == (0.5, "inconclusive")
    assert claims.living(made(odd=(0,))) == [(WITH, 0.003), (WITHOUT, 0.003)]


def test_nothing_is_tested_where_bn_does_not_train_or_all_networks_do():
    poor = made().assign(training_accuracy=0.5)
    assert judging.judge(ACCURACY, poor).verdict == "not tested"
    calm = made().assign(dead_at=-1)
    assert judging.judge(FATE, calm).verdict == "not tested"


def test_the_precision_of_a_run_is_that_of_its_step(monkeypatch):
    plans, real = [], fit.fit

    def watched(*args, session, **options):
        plans.append(session.plan.precision)
        return real(*args, session=session, **options)

    monkeypatch.setattr(fit, "fit", watched)
    config = EXPERIMENT.configure("quick", **SMALL, arms=(WITH,), learning_rates=(0.1,))
    tables = {
        each: EXPERIMENT.together([replace(config, precisions=(each,))], Session("cpu"))[0]
        for each in (claims.FLOAT32, claims.BFLOAT16)
    }
    assert plans == [claims.FLOAT32, claims.BFLOAT16]
    first, second = (table["loss"].to_numpy()[1:] for table in tables.values())
    assert (first != second).all()
    np.testing.assert_allclose(first, second, rtol=0.05)


def test_facts_read_the_spread_of_pairs_beside_that_of_seeds():
    """Both are of a difference: two seeds that vary by themselves differ by root two as much."""
    table = made(1.0)
    table["test_accuracy"] += 0.01 * table["seed"] * (table["test_accuracy"] > 0.1)
    facts = EXPERIMENT.facts(table)
    assert facts["pair"]["value"] == pytest.approx(0.0, abs=1e-12)
    assert facts["two_seeds"]["value"] == pytest.approx(2**0.5 * np.std(range(6), ddof=1))
