"""Cancellation in kernels' gradients: made-up tables, closed forms, small runs."""

import math

import numpy as np
import pandas as pd
import pytest
import torch

from bnbook.experiments.bjorck_tab1 import claims as analysis
from bnbook.experiments.bjorck_tab1.experiment import EXPERIMENT as bjorck_tab1
from bnbook.probes import moments
from bnbook.setups import first_steps
from bnbook.tables.arms import WITH, WITHOUT
from tests.judging import criterion

SMALL = {"data": "digits", "seeds": (0, 1), "batch_size": 4, "n": 1, "layers": (2, 4, 6)}
IMPOSSIBLE = [
    ({"batch_size": 5}, "batch_size must be even, found 5"),
    ({"layers": (18, 110)}, r"layers must lie in \[1, 109\] for n = 18, found \(18, 110\)"),
    ({"n": 0}, "n must be at least 1, found 0"),
]
(CLAIM,) = bjorck_tab1.claims


def made_up(without=(2.0, 2.0, 2.0), with_bn=(200.0, 100.0, 40.0), seeds=(0, 1, 2)):
    """A table whose truth is known: a / b of each layer, half of its logarithm within images."""
    rows = []
    for seed in seeds:
        for arm, ratios in ((WITHOUT, without), (WITH, with_bn)):
            for layer, ratio, terms in zip((18, 54, 90), ratios, (400, 100, 25), strict=True):
                own = ratio * (1 + 0.01 * seed * (arm == WITH))
                rows.append({
                    "arm": arm, "seed": seed, "layer": layer, "batch_size": 8, "terms": terms,
                    "a": own, "c": own**0.5, "b": 1.0, "agreement": 0.9, "zero_sum": 0.3,
                    "error": 1e-6,
                })  # fmt: skip
    return pd.DataFrame(rows)


def test_measures_on_a_table_with_known_truth():
    table = made_up()
    ratio = (100 * 50 * 20) ** (1 / 3)
    assert analysis.cancellation_ratio(table).tolist() == pytest.approx(
        [ratio, 1.01 * ratio, 1.02 * ratio]
    )
    product = analysis.within_images(table) * analysis.between_images(table)
    pd.testing.assert_frame_equal(product, analysis.cancellation(table))


@pytest.mark.parametrize(
    ("changes", "verdict"),
    [
        ({}, "reproduced"),
        ({"without": (100.0, 50.0, 20.0)}, "not reproduced"),
        ({"with_bn": (4.0, 4.0, 4.0)}, "not reproduced"),
    ],
)
def test_the_claim_turns_with_the_truth(changes, verdict):
    assert criterion(CLAIM, made_up(**changes)).verdict == verdict


def test_facts_on_a_table_with_known_truth():
    facts = bjorck_tab1.facts(made_up())
    assert facts["without_ratio1"]["value"] == pytest.approx(2)
    assert facts["with_ratio3"]["value"] == pytest.approx(40 * (1.01 * 1.02) ** (1 / 3))
    assert facts["with_b2"]["value"] == 1
    assert facts["layer2"]["value"] == 54
    assert facts["layer2_random"]["value"] == 10
    assert facts["with_agreement1"]["value"] == pytest.approx(0.9)
    assert facts["largest_error"]["value"] == 1e-6


def test_a_small_run_has_a_row_for_each_layer(small_table):
    assert not small_table.duplicated(["arm", "seed", "layer"]).any()
    assert len(small_table) == 2 * 2 * 3
    positions = small_table.groupby("layer")["terms"].first() / 4
    assert positions.to_dict() == {2: 1024, 4: 256, 6: 64}


def test_the_sums_are_in_order_and_add_up_to_autograds_gradient(small_table):
    assert (small_table["error"] < 1e-4).all()
    assert (small_table["b"] <= small_table["c"]).all()
    assert (small_table["c"] <= small_table["a"]).all()
    assert small_table["agreement"].between(-1, 1).all()


def test_gradients_of_bns_inputs_sum_to_zero(small_table):
    sums = small_table.groupby("arm")["zero_sum"].max()
    assert sums[WITH] < 1e-5 < sums[WITHOUT]


def test_random_signs_leave_the_root_of_their_number():
    rng = np.random.default_rng(0)
    shape = (64, 8, 16, 16)
    inputs, gradient = (torch.from_numpy(rng.normal(size=shape)) for _ in range(2))
    found = moments.contributions(inputs, gradient, 1)
    ratio = float(found.absolute.mean() / found.total.abs().mean())
    # E|d| = 2 / pi for a product of normals, E|sum| = sqrt(2 N / pi).
    assert ratio == pytest.approx(math.sqrt(found.terms) * math.sqrt(2 / math.pi), rel=0.2)


def test_a_network_without_bn_in_bns_place_turns_the_claim(monkeypatch):
    plain = first_steps.network
    monkeypatch.setattr(first_steps, "network", lambda _, *rest: plain(WITHOUT, *rest))
    table = bjorck_tab1.run(bjorck_tab1.configure("quick", **SMALL), "cpu")
    np.testing.assert_allclose(analysis.cancellation_ratio(table), 1)
    assert criterion(CLAIM, table).verdict == "not reproduced"
