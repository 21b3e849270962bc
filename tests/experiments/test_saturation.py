"""Saturating nonlinearities: made-up tables with known answers, and a small real run."""

from dataclasses import replace
from itertools import product

import numpy as np
import pandas as pd
import pytest
import torch

from bnbook.evidence import claims
from bnbook.experiments.saturation import claims as analysis
from bnbook.experiments.saturation import experiment as module
from bnbook.experiments.saturation.claims import SIGMOID, TANH
from bnbook.experiments.saturation.experiment import EXPERIMENT
from bnbook.layers import norm
from bnbook.tables.arms import WITH, WITHOUT
from bnbook.training.session import Session
from tests.judging import by_id, criterion, verdicts

SMALL = {
    "steps": 6, "points": 2, "depths": (2, 3), "starts": (1.0, 4.0), "seeds": (0, 1), "width": 4,
    "learning_rates": (0.1, 1.0), "probe_images": 20, "batch_size": 10, "validation": 50,
}  # fmt: skip
IMPOSSIBLE = [
    ({"arms": (WITH,)}, "arms must hold"),
    ({"nonlinearities": (SIGMOID, TANH, "ReLU")}, "nonlinearities must be among"),
    ({"seeds": (0, 100)}, "would do both"),
    ({"points": 0}, "points must be at least 1"),
]
CLAIMS = by_id(EXPERIMENT.claims)
RATES = (0.01, 0.1, 1.0)


def made_up(reach=None, shares=None, deepest=20):
    """A table whose truth is known.

    A network learns (90 % right) up to its depth of `reach`, at the middle rate and start 4 alone;
    its share of saturated activations is that of `shares`, plus a hundredth of the seed.
    """
    reach = {(SIGMOID, WITHOUT): 8, (TANH, WITHOUT): 10} | (reach or {})
    shares = {WITHOUT: 0.3, WITH: 0.1} | (shares or {})
    rows = []
    cells = product((SIGMOID, TANH), (5, 8, 10, deepest), (WITHOUT, WITH))
    for (kind, depth, arm), start, rate, seed in product(cells, (1.0, 4.0), RATES, (0, 1, 2, 100)):
        tunes, best = seed == 100, (start, rate) == (4.0, 0.1)
        if not (tunes or best):
            continue
        learns = best and depth <= reach.get((kind, arm), deepest)
        right = 0.9 if learns else 0.1
        for step, layer in product((0, 20), (1, depth)):
            rows.append({
                "nonlinearity": kind, "depth": depth, "arm": arm, "start": start, "seed": seed,
                "learning_rate": rate, "tunes": tunes, "step": step, "diverged_at": -1,
                "validation": 2.5 - 2 * best, "validation_accuracy": right,
                "test_accuracy": right, "layer": layer, "share": shares[arm] + 0.01 * (seed % 100),
                "slope": 0.5, "input_gradient": 2.0 if layer == 1 else 8.0, "weight_gradient": 1.0,
            })  # fmt: skip
    return pd.DataFrame(rows)


def test_measures_on_a_table_with_known_truth():
    table = made_up()
    assert set(analysis.chosen(table).values()) == {(4.0, 0.1)}
    assert analysis.gain(table).tolist() == pytest.approx([80.0] * 3)
    assert analysis.depth_ratio(table, SIGMOID).tolist() == [2.5] * 3
    assert analysis.depth_ratio(table, TANH).tolist() == [2.0] * 3
    assert analysis.both_learn(table, SIGMOID) == [5, 8]
    assert analysis.both_learn(table, TANH) == [5, 8, 10]
    for kind in (SIGMOID, TANH):
        assert analysis.share_difference(table, kind).tolist() == pytest.approx([-20.0] * 3)
    assert analysis.evenness(table, (SIGMOID, 5, WITH), 4.0).tolist() == [0.25] * 4
    assert analysis.evenness(table, (SIGMOID, 5, WITH), 1.0).tolist() == [0.25]
    assert set(verdicts(CLAIMS, table).values()) == {"reproduced"}


@pytest.mark.parametrize(
    ("changes", "claim"),
    [
        ({"reach": {(SIGMOID, WITH): 5}}, "ioffe.saturation"),
        ({"reach": {(SIGMOID, WITHOUT): 20, (SIGMOID, WITH): 5}}, "ioffe.saturation.depth"),
        ({"reach": {(TANH, WITHOUT): 20, (TANH, WITH): 5}}, "ioffe.saturation.tanh"),
        ({"shares": {WITH: 0.5}}, "ioffe.saturation.share"),
        ({"shares": {WITH: 0.5}}, "ioffe.saturation.share_tanh"),
    ],
)
def test_claims_turn_red_when_the_truth_is_otherwise(changes, claim):
    assert criterion(CLAIMS[claim], made_up()).verdict == "reproduced"
    assert criterion(CLAIMS[claim], made_up(**changes)).verdict == "not reproduced"


def test_equal_depths_are_no_gain():
    even = made_up(reach={(TANH, WITHOUT): 20})
    assert criterion(CLAIMS["ioffe.saturation.tanh"], even).verdict == "inconclusive"


@pytest.mark.parametrize(
    ("table", "claim"),
    [
        (made_up(deepest=12), "ioffe.saturation"),
        (made_up(reach={(SIGMOID, WITHOUT): 20}), "ioffe.saturation"),
        (made_up(reach={(SIGMOID, WITHOUT): 0}), "ioffe.saturation.depth"),
        (made_up(reach={(TANH, WITHOUT): 20}), "ioffe.saturation.tanh"),
        (made_up(reach={(SIGMOID, WITHOUT): 5}), "ioffe.saturation.share"),
        (made_up(reach={(TANH, WITHOUT): 5}), "ioffe.saturation.share_tanh"),
    ],
)  # fmt: skip
def test_a_claim_is_not_tested_where_its_premise_fails(table, claim):
    assert claims.judge(CLAIMS[claim], table).verdict == "not tested"


def test_a_rate_at_an_end_of_the_grid_tests_nothing():
    table = made_up()
    fewer = table[table["learning_rate"] != 1.0]
    for claim in CLAIMS.values():
        assert claims.judge(claim, fewer).verdict == "not tested"


def test_the_judging_seeds_choose_nothing():
    table = made_up()
    judges = ~table["tunes"]
    table.loc[judges, "validation"] = 100.0
    assert set(analysis.chosen(table).values()) == {(4.0, 0.1)}
    table.loc[
        table["tunes"] & (table["start"] == 1) & (table["learning_rate"] == 1), "validation"
    ] = 0
    assert set(analysis.chosen(table).values()) == {(1.0, 1.0)}
    table.loc[table["tunes"] & (table["learning_rate"] == 1), "validation"] = np.nan
    assert set(analysis.chosen(table).values()) == {(4.0, 0.1)}


def test_every_network_is_judged_as_the_tuning_seed_chose(small_table):
    chosen = analysis.chosen(small_table)
    assert len(chosen) == 2 * 2 * 2
    for cell, rows in analysis.judged(small_table).groupby(analysis.CELL):
        assert set(rows["seed"]) == {0, 1}
        assert {(s, r) for s, r in zip(rows["start"], rows["learning_rate"], strict=True)} == {
            chosen[cell]
        }
        assert len(rows) == 2 * 3 * cell[1]  # seeds, measured steps, layers
    tuning = small_table[small_table["tunes"]]
    assert len(tuning) == 2 * 2 * (2 + 3) * 2 * 2 * 2
    assert set(tuning["step"]) == {0, 6}


def run_of(**one):
    config = EXPERIMENT.configure("quick", **SMALL)
    given = {"nonlinearities": (SIGMOID,), "depths": (3,), "arms": (WITH,), "starts": (4.0,),
             "seeds": (1,), "learning_rates": (1.0,)} | one  # fmt: skip
    return replace(config, **given)


@pytest.mark.parametrize(("kind", "function"), [(SIGMOID, torch.sigmoid), (TANH, torch.tanh)])
def test_what_is_measured_at_the_start_is_what_torch_computes(kind, function):
    """The same weights in plain torch, on the same images, with the batch's statistics."""
    from bnbook.setups import images

    run = run_of(nonlinearities=(kind,))
    (table,) = EXPERIMENT.together([run], Session("cpu"))
    x = 2 * images.splits("digits", 50, "cpu").train[0][:20].flatten(1) - 1
    model = module.network(run, (1,), 64)
    linears = [layer for layer in model.hidden if hasattr(layer, "in_features")]
    assert not any(isinstance(layer.bias, torch.Tensor) for layer in linears)
    edge = {SIGMOID: 2.0, TANH: 1.0}[kind] * np.arccosh(np.sqrt(10))
    shares, slopes = [], []
    for layer in linears:
        z = torch.nn.functional.batch_norm(x @ layer.weight[0].T, None, None, training=True)
        shares.append((z.abs() > edge).double().mean().item())
        x = function(z)
        slopes.append((4 * x * (1 - x) if kind == SIGMOID else 1 - x**2).mean().item())
    first = table[table["step"] == 0].sort_values("layer")
    assert first["share"].tolist() == pytest.approx(shares)
    assert first["slope"].tolist() == pytest.approx(slopes, rel=1e-5)


def test_arms_start_from_the_same_draws_and_a_start_is_their_size():
    plain, normalised, small = (
        module.network(run_of(**one), (5,), 64)
        for one in ({"arms": (WITHOUT,)}, {}, {"starts": (1.0,)})
    )
    assert torch.equal(plain.hidden[0].weight, normalised.hidden[0].weight)
    torch.testing.assert_close(plain.hidden[0].weight, 4 * small.hidden[0].weight)
    assert isinstance(normalised.hidden[1], norm.BatchNorm)
    assert isinstance(plain.hidden[1], torch.nn.Sigmoid)


def test_a_diverged_run_guesses_and_is_never_chosen():
    row = {
        "step": torch.tensor(6), "diverged_at": torch.tensor([3]),
        **{name: torch.tensor([0.9]) for name in module.HELD},
        **{name: torch.ones(1, 3) for name in analysis.MEASURED},
    }  # fmt: skip
    table = module._table(run_of(seeds=(100,)), [row, row], 0)
    assert np.isinf(table["validation"]).all()
    assert set(table["test_accuracy"]) == {0.1}
