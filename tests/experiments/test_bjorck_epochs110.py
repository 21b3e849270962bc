"""Fifteen epochs of 110 layers: measures on made-up worlds with known answers, and a small run."""

import math

import numpy as np
import pandas as pd
import pytest

from bnbook.experiments.bjorck_epochs110 import claims
from bnbook.experiments.bjorck_epochs110.experiment import EXPERIMENT
from bnbook.tables import right, searched, two_rates
from bnbook.tables.arms import WITH, WITHOUT
from tests import judging
from tests.judging import assert_begun, by_name, verdicts

SMALL = {
    "steps": 4, "seeds": (0,), "learning_rates": (0.01, 0.1), "train_images": 60, "validation": 20,
    "test_images": 20, "widths": (2, 2, 4), "side": 4, "batch_size": 16, "points": 2,
}  # fmt: skip
IMPOSSIBLE = [
    ({"seeds": (0, 100)}, r"must not choose rates and be shown, \[100\]"),
    ({"n": 0}, "n must be at least 1"),
]
CLAIMS = by_name(claims.CLAIMS)
IMAGES = 1000
"""Test images of the made-up runs."""


def world(arm, rate):
    """Training and test accuracy of a made-up run: without BN nothing learns above 0.001."""
    if arm == WITHOUT:
        return (0.45, 0.44) if rate == 0.001 else (0.4, 0.4) if rate < 0.001 else (0.1, 0.1)
    height = 0.80 - 0.05 * abs(math.log10(rate / 0.1))
    return height, height - 0.02


def played(world=world, n=18):
    """Run the whole search in a made-up world."""
    config = EXPERIMENT.configure("standard", data="digits")
    table = pd.DataFrame()
    while new := EXPERIMENT.rounds(config, table):
        table = pd.concat([table, *(rows(run, world, n) for run in new)], ignore_index=True)
    return table


def rows(run, world, n):
    """The rows of one made-up run; seeds differ by a tenth of a point, and in their images."""
    train, test = world(run.arms[0], run.learning_rates[0])
    train, test = (each + 0.001 * (run.seeds[0] % 5) * (each > 0.1) for each in (train, test))
    dead = train <= 0.1
    bits = np.roll(np.arange(IMAGES) < round(IMAGES * test), 100 * run.seeds[0])
    return pd.DataFrame({
        "arm": run.arms[0], "seed": run.seeds[0], "learning_rate": run.learning_rates[0],
        "role": run.role, "n": n, "step": [0, run.steps // 2, run.steps],
        "training_accuracy": [0.1, 0.9 * train, train], "dead_at": [-1, -1, 500 if dead else -1],
        "validation_accuracy": [0.1, test, test], "test_accuracy": [0.1, test, test],
        "right": ["", "", "" if dead else right.pack(bits)],
    })  # fmt: skip


@pytest.fixture(scope="module")
def whole():
    return played()


def test_five_cells_are_shown_by_other_seeds_than_those_that_chose(whole):
    """Both networks at both best rates, and BN at their geometric mean."""
    assert two_rates.rates(whole) == (0.001, 0.1)
    judged = searched.ends(whole, searched.JUDGING)
    cells = list(zip(judged["arm"], judged["learning_rate"], judged["seed"], strict=True))
    asked = [(a, r) for a in (WITHOUT, WITH) for r in (0.001, 0.1)] + [(WITH, 0.01)]
    assert sorted(cells) == sorted((*cell, seed) for cell in asked for seed in (0, 1, 2))
    assert set(whole.loc[whole["role"] == searched.TUNING, "seed"]) == {100, 101}


def test_measures_on_a_world_with_known_truth(whole):
    assert claims.without_at_large(whole).tolist() == [10.0] * 3  # all are dead
    assert claims.rate_gain(whole).tolist() == pytest.approx([10.0] * 3)
    lead = claims.lead(whole)
    assert lead.shape == (3, IMAGES)
    assert lead.mean(axis=1).tolist() == pytest.approx([68.0 - 44.0] * 3)
    assert set(verdicts(CLAIMS, whole).values()) == {"reproduced"}


MUTANTS = {
    "fails": lambda arm, rate: (0.45, 0.44) if arm == WITHOUT else world(arm, rate),
    "faster": lambda arm, rate: (0.9 if rate < 0.002 else 0.8, world(WITH, rate)[1])
    if arm == WITH else world(arm, rate),
    "leads": lambda arm, rate: (0.8, 0.7) if (arm, rate) == (WITHOUT, 0.001)
    else world(arm, rate),
}  # fmt: skip
"""For each claim a world in which it is false."""


@pytest.mark.parametrize("claim", MUTANTS)
def test_each_claim_is_false_in_a_world_where_it_is(claim):
    assert verdicts(CLAIMS, played(MUTANTS[claim]))[claim] == "not reproduced"


def test_differences_of_accuracies_resample_seeds_and_test_images():
    """Without BN a seed's run that lived is known by its images, a dead one guesses on each."""
    table = played(MUTANTS["fails"])
    low = claims.without_at_large(table)
    assert low.shape == (3, IMAGES)
    assert low.mean(axis=1).tolist() == pytest.approx([44.0, 44.1, 44.2])
    over = {name: judging.criterion(claim, table).over for name, claim in CLAIMS.items()}
    both = "seeds and test images"
    assert over == {"fails": both, "leads": both, "faster": "seeds"}  # of training images
    last = (table["role"] == searched.JUDGING) & (table["seed"] == 2)
    died = table.assign(right=table["right"].mask(last & (table["arm"] == WITHOUT), ""))
    assert (claims.without_at_large(died).loc[2] == 10.0).all()
    assert claims.without_at_large(died).loc[0].mean() == pytest.approx(44.0)


def test_where_the_network_without_bn_learns_nowhere_its_rate_is_the_papers():
    table = played(lambda arm, rate: (0.1, 0.1) if arm == WITHOUT else world(arm, rate))
    assert two_rates.rates(table) == (0.0001, 0.1)
    found = verdicts(CLAIMS, table)
    assert found["leads"] == "not tested"
    assert found["fails"] == found["faster"] == "reproduced"


@pytest.mark.parametrize(
    ("world", "n", "out"),
    [
        (world, 9, {"fails", "faster", "leads"}),  # 56 layers
        (lambda a, r: (0.3, 0.3) if a == WITH else world(a, r), 18, {"fails", "faster"}),
        (lambda a, r: world(a, r * 30) if a == WITH else world(a, r), 18, {"faster"}),
    ],
)
def test_claims_whose_premises_fail_are_not_tested(world, n, out):
    found = verdicts(CLAIMS, played(world, n))
    assert {claim for claim, verdict in found.items() if verdict == "not tested"} == out


def test_standard_is_fifteen_epochs_of_110_layers():
    config = EXPERIMENT.profiles["standard"]
    assert config.steps == 15 * ((50_000 - config.validation) // config.batch_size)
    assert (6 * config.n + 2, config.widths, config.batch_size) == (110, (16, 32, 64), 128)
    assert not set(config.seeds) & set(config.tuning_seeds)


def test_without_bn_in_bns_place_nothing_is_reproduced(monkeypatch):
    """Mutant: both arms are trained without BN, and end alike at the rate that both choose."""
    from bnbook.setups import residual

    real = residual.network
    monkeypatch.setattr(residual, "network", lambda arm, *a, **k: real(WITHOUT, *a, **k))
    table = EXPERIMENT.run(EXPERIMENT.configure("quick", **SMALL, tuning_seeds=(100, 101)), "cpu")
    assert len(set(two_rates.rates(table))) == 1
    assert not claims.lead(table).to_numpy().any()
    assert claims.rate_gain(table).tolist() == [0.0]


def test_figures_and_facts(whole):
    found = EXPERIMENT.facts(whole)
    assert found["without_small"]["value"] == pytest.approx(44.1)
    assert found["with_large"]["value"] == pytest.approx(78.1)
    assert (found["without_learned"]["value"], found["with_tried"]["value"]) == (3, 6)
    assert (found["middle_rate"]["value"], found["with_middle"]["value"]) == pytest.approx((
        0.01, 73.1,
    ))  # fmt: skip
    training, test = EXPERIMENT.figures["curves"](whole).axes
    assert len(training.lines) == 6
    ends = [line.get_ydata()[-1] for line in test.lines[:5]]
    assert ends == pytest.approx([44.1, 68.1, 73.1, 10.0, 78.1])
    (ax,) = EXPERIMENT.figures["rates"](whole).axes
    assert all(np.isfinite(line.get_ydata()).all() for line in ax.lines)


def test_a_record_that_has_just_begun_is_described_and_drawn(whole):
    tuned = whole[whole["role"] == searched.TUNING]
    assert_begun(EXPERIMENT, whole, (whole.head(3), whole[whole["arm"] == WITH], tuned))
