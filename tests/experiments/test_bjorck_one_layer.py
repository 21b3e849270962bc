"""One BN layer and a scaled start: measures on made-up worlds, the networks, a small real run."""

import math

import pandas as pd
import pytest
import torch

from bnbook.evidence import claims as judging
from bnbook.experiments.bjorck_one_layer import claims
from bnbook.experiments.bjorck_one_layer import experiment as module
from bnbook.experiments.bjorck_one_layer.experiment import EXPERIMENT
from bnbook.layers import norm
from bnbook.tables import searched
from bnbook.tables.arms import LAST_ONLY, LSUV, WITH, WITHOUT
from bnbook.training.session import Session
from tests.judging import assert_begun, by_name, verdicts

SMALL = {
    "steps": 4, "seeds": (0,), "learning_rates": (0.01, 0.1), "train_images": 60, "validation": 20,
    "test_images": 20, "widths": (2, 2, 4), "side": 4, "batch_size": 16, "points": 1,
    "lengths": (2, 4),
}  # fmt: skip
IMPOSSIBLE = [
    ({"seeds": (0, 101)}, r"must not choose rates and be shown, \[101\]"),
    ({"lengths": (20, 20)}, "lengths"),
    ({"lengths": (30, 90)}, "the last of lengths, found 60"),
]
CLAIMS = by_name(claims.CLAIMS)
EDGES = {WITHOUT: 0.001, LSUV: 0.03, LAST_ONLY: 0.1, WITH: 0.3}
HEIGHTS = {WITHOUT: 30.0, LSUV: 42.0, LAST_ONLY: 44.0, WITH: 48.0}


def rows(run, edges, heights, growth):
    """A made-up run: its accuracy peaks one step of the grid below the largest that trains."""
    arm, rate, seed = run.arms[0], run.learning_rates[0], run.seeds[0]
    trains = rate <= edges[arm]
    away = abs(math.log(3 * rate / edges[arm])) if edges[arm] else 0
    percent = heights[arm] - 2 * away + 0.1 * (seed % 3) * (1 + (arm == WITH))
    accuracy = percent / 100 if trains else 0.1
    return pd.DataFrame({
        "arm": arm, "seed": seed, "learning_rate": rate, "role": run.role, "step": [0, 2000],
        "training_accuracy": [0.1, 1.0 if trains else 0.1], "test_accuracy": [0.1, accuracy],
        "validation_accuracy": [0.1, accuracy], "n": run.n, "length": 2000,
        "growth": 1.1 if arm == WITH else growth,
    })  # fmt: skip


def played(edges=EDGES, heights=HEIGHTS, growth=2.0):
    """Run search and climbs in a made-up world."""
    config, table = EXPERIMENT.configure("standard", data="digits"), pd.DataFrame()
    while new := EXPERIMENT.rounds(config, table):
        found = [rows(run, edges, heights, growth) for run in new]
        table = pd.concat([table, *found], ignore_index=True)
    return table


@pytest.fixture(scope="module")
def whole():
    return played()


def test_measures_on_a_world_with_known_truth(whole):
    assert searched.chosen(whole) == {WITHOUT: 0.0003, LSUV: 0.01, LAST_ONLY: 0.03, WITH: 0.1}
    assert {arm: rates.unique().tolist() for arm, rates in claims.largest(whole).items()} == {
        arm: [edge] for arm, edge in EDGES.items()
    }
    gains = claims.accuracy_share(whole)
    assert gains["part"].mean() == pytest.approx(14.0, abs=0.5)
    assert gains["whole"].mean() == pytest.approx(18.0, abs=0.5)
    share = judging.judge(claims.CLAIMS[0], whole).value
    assert share == pytest.approx(gains["part"].mean() / gains["whole"].mean())
    assert claims.rate_of_bn(whole).tolist() == pytest.approx([1 / 3] * 5)
    assert claims.rate_of_bn(whole, LSUV).tolist() == pytest.approx([0.1] * 5)
    shares = claims.rate_share(whole)
    assert (shares["part"] / shares["whole"]).tolist() == pytest.approx(
        [math.log(100) / math.log(300)] * 5
    )
    assert set(verdicts(CLAIMS, whole).values()) == {"reproduced"}


@pytest.mark.parametrize(
    ("changes", "claim"),
    [
        ({"heights": {**HEIGHTS, LAST_ONLY: 34.0}}, "accuracy"),
        ({"heights": {**HEIGHTS, LSUV: 34.0}}, "scaled"),
        ({"edges": {**EDGES, LAST_ONLY: 0.003}}, "rate"),
        ({"edges": {**EDGES, LSUV: 0.003}}, "scaled_rate"),
    ],
)
def test_each_claim_is_false_in_a_world_where_it_is(changes, claim):
    assert verdicts(CLAIMS, played(**changes))[claim] == "not reproduced"


@pytest.mark.parametrize(
    ("changes", "out"),
    [
        ({"growth": 1.2}, {"accuracy", "rate", "scaled", "scaled_rate"}),
        ({"heights": {**HEIGHTS, WITHOUT: 45.0}}, {"accuracy", "scaled"}),
        ({"edges": {**EDGES, WITHOUT: 0.0001}}, {"accuracy", "scaled"}),  # it never trains
    ],
)
def test_claims_whose_premises_fail_are_not_tested(changes, out):
    found = verdicts(CLAIMS, played(**changes))
    assert {claim for claim, verdict in found.items() if verdict == "not tested"} == out


def test_the_seeds_that_are_shown_choose_nothing(whole):
    judged = whole["role"] == searched.JUDGING
    other = whole.assign(validation_accuracy=whole["validation_accuracy"].where(~judged, 0.99))
    assert searched.chosen(other) == searched.chosen(whole)
    assert not set(whole.loc[judged, "seed"]) & set(whole.loc[~judged, "seed"])


def made(arm, seeds=(0,)):
    config = EXPERIMENT.configure("quick", **SMALL)
    return module.network(arm, seeds, run=config, in_channels=1)


def test_arms_differ_in_where_bn_is_and_start_from_the_same_weights():
    counts = {
        arm: sum(isinstance(layer, norm.FusedBatchNorm) for layer in made(arm).modules())
        for arm in claims.ARMS
    }
    assert counts == {WITHOUT: 0, LSUV: 0, LAST_ONLY: 1, WITH: 7}
    plain, last = made(WITHOUT), made(LAST_ONLY)
    assert isinstance(last.last_norm, norm.FusedBatchNorm)
    pairs = zip(plain.convolutions, last.convolutions, strict=True)
    assert all(torch.equal(one.weight, other.weight) for one, other in pairs)


def test_the_branches_start_from_hes_weights():
    config = EXPERIMENT.configure("quick", widths=(64, 64, 64))
    found = module.network(WITHOUT, (0,), run=config, in_channels=1)
    inner = found.convolutions[3].weight
    assert inner.var().item() == pytest.approx(2 / (64 * 9), rel=0.03)  # 36,864 weights


def test_the_scaled_start_has_outputs_of_variance_one_in_every_layer(small):
    from bnbook.setups import residual

    images, _ = residual.splits(
        small.data, small.side, small.train_images, small.validation, small.test_images, "cpu"
    ).train
    model, seen = made(LSUV), []
    for layer in [*model.convolutions, model.output]:
        layer.register_forward_hook(lambda _, __, output: seen.append(output.var(correction=0)))
    model(images)
    assert torch.stack(seen).tolist() == pytest.approx([1.0] * 8, rel=1e-4)


def test_runs_get_longer_until_all_is_learned_and_stop_where_they_diverge(monkeypatch):
    from bnbook.setups import residual

    lengths, ends = [], iter([
        (0.5, -1, ""), (0.5, 300, "guessing"), (0.99, -1, ""),  # slow, slower, done
        (0.1, 3, "above 1000"),
        (0.6, -1, ""), (0.7, -1, ""), (0.8, -1, ""),
    ])  # fmt: skip

    def tables(runs, *_):
        lengths.append(runs[0].steps)
        names = ["training_accuracy", "dead_at", "dead_by"]
        return [pd.DataFrame([next(ends)], columns=names)]

    monkeypatch.setattr(residual, "tables", tables)
    monkeypatch.setattr(residual, "growth", lambda runs, *_: [2.0] * len(runs))
    config = EXPERIMENT.configure("quick", **{**SMALL, "lengths": (20, 60, 180), "steps": 180})
    one = EXPERIMENT.parts(config)[0]
    found = [EXPERIMENT.together([one], Session("cpu"))[0] for _ in range(3)]
    assert lengths == [20, 60, 180, 20, 20, 60, 180]
    assert [int(table["length"].iloc[-1]) for table in found] == [180, 20, 180]


def test_without_bn_anywhere_nothing_is_reproduced(monkeypatch):
    """Mutant: the one layer and BN everywhere are left out."""
    real = module.network
    monkeypatch.setattr(module, "network", lambda arm, *a, **k: real(WITHOUT, *a, **k))
    table = EXPERIMENT.run(EXPERIMENT.configure("quick", **SMALL), "cpu")
    found = claims.accuracies(table)
    assert (found.nunique(axis=1) == 1).all()
    assert (claims.accuracy_share(table)["whole"] == 0).all()
    assert "reproduced" not in verdicts(CLAIMS, table).values()


def test_figures_and_facts(whole):
    found = EXPERIMENT.facts(whole)
    assert found["last_largest"]["value"] == pytest.approx(0.1)
    assert found["with_rate"]["value"] == pytest.approx(0.1)
    assert found["layers"]["value"] == 32
    assert found["without_never"]["value"] == 0
    assert found["last_rate_share"]["value"] == pytest.approx(math.log(100) / math.log(300))
    left, right = EXPERIMENT.figures["shares"](whole).axes
    assert [len(ax.lines) for ax in (left, right)] == [8, 8]
    largest = [line.get_xdata()[0] for line in right.lines[1::2]]
    assert largest == pytest.approx([0.001, 0.03, 0.1, 0.3])
    (ax,) = EXPERIMENT.figures["rates"](whole).axes
    assert len(ax.lines) == 8


def test_a_record_that_has_just_begun_is_described_and_drawn(whole):
    tuned = whole[whole["role"] == searched.TUNING]
    assert_begun(EXPERIMENT, whole, (whole.head(2), whole[whole["arm"] == LSUV], tuned))
