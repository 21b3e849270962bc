"""The effective rate: its analysis on made-up tables, the experiment's parts, small real runs."""

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from bnbook.errors import BnbookError
from bnbook.experiments.ioffe_effective_rate import claims as analysis
from bnbook.experiments.ioffe_effective_rate import experiment
from bnbook.experiments.ioffe_effective_rate.experiment import EXPERIMENT as RATE
from bnbook.layers import ensemble, norm
from bnbook.networks import models
from bnbook.tables.arms import DECAYED, WITH, WITHOUT
from bnbook.training.session import Session
from tests.judging import by_id, criterion

SMALL = {
    "seeds": (0, 1), "steps": 40, "validation": 100, "hidden": (8, 8), "twin_steps": 10,
    "learning_rates": (0.1, 1.0), "decays": (0.01, 0.1), "probe_intervals": 4, "probe_batches": 2,
}  # fmt: skip
IMPOSSIBLE = [
    ({"scales": (2.0,)}, "scales must hold 1"),
    ({"decays": (-0.1,)}, "decays must be above 0"),
    ({"arms": ("LN",)}, r"arms must be among .* found \['LN'\]"),
    ({"steps": 10}, "comes to 2 for some run"),
    ({"probe_batches": 0}, "probe_batches must be at least 1"),
]
CLAIMS = by_id(RATE.claims)


def made_up(ratio=0.2, bare=3.0, twin=1e-9, turn=1.0, seeds=(0, 1, 2)):
    """A table whose truth is known.

    Norms grow by the rate from the usual weights, by `ratio` of that from larger ones (`bare`
    without BN). The counterpart ends `twin` away from its reference, the other 0.5. Late angles are
    `turn` times the root of twice rate times decay.
    """
    rows = []
    for seed in seeds:
        wobble = 1 + 0.001 * seed
        for arm, factor in ((WITH, ratio), (WITHOUT, bare)):
            for scale, rate, step in (
                (a, r, s) for a in (1.0, 3.0) for r in (0.1, 1.0) for s in (0, 100)
            ):  # fmt: skip
                grown = rate * (factor * wobble if scale > 1 else 1.0) * (step / 100)
                rows.append((arm, "", seed, scale, rate, 0.0, 0.0, step, 2 * scale**2 + grown, 0.9))
        for decay, rate, step in (
            (d, r, s) for d in (0.01, 0.1) for r in (0.1, 1.0) for s in (0, 80, 100)
        ):  # fmt: skip
            accuracy = 0.9 - abs(math.log10(rate * decay / 0.01))  # best where the product is 0.01
            rows.append((DECAYED, "", seed, 1.0, rate, decay, 0.0, step, 1.0, accuracy))
        for role, distance in (("reference", 0.0), (analysis.COUNTERPART, twin * wobble),
                               (analysis.UNSCALED, 0.5)):  # fmt: skip
            for decay in (0.0, 0.003):
                rows.append(
                    (analysis.INVARIANT, role, seed, 1.0, 0.3, 0.0, decay, 50, distance, 0.9)
                )
    names = ["arm", "role", "seed", "scale", "learning_rate", "weight_decay", "reference_decay"]
    table = pd.DataFrame(rows, columns=[*names, "step", "squared_norm", "validation_accuracy"])
    twins = table["role"] != ""
    root = np.sqrt(2 * table["learning_rate"] * table["weight_decay"])
    return table.assign(
        distance=table["squared_norm"].where(twins), diverged_at=-1,
        angle=turn * root * (1 + 0.001 * table["seed"]),
        test_accuracy=table["validation_accuracy"],
    )  # fmt: skip


def test_measures_on_a_table_with_known_truth():
    table = made_up(turn=0.9)
    assert analysis.growth_ratio(table).tolist() == pytest.approx([0.2, 0.2002, 0.2004])
    assert analysis.rescaling_ratio(table).tolist() == pytest.approx([2e-9, 2.002e-9, 2.004e-9])
    # Rate times decay times 100 steps is at least 2 for 0.1 x 1, 0.1 x 0.1 is too short.
    late = analysis.late_angles(table)
    assert late.index.droplevel("seed").unique().tolist() == [(1.0, 0.1)]
    assert analysis.equilibrium_error(table).iloc[0] == pytest.approx(0.1)
    products = analysis.tuned_products(table)
    assert products["rate"].tolist() == [1.0, 0.1]
    assert products["product"].tolist() == pytest.approx([0.01, 0.01])


@pytest.mark.parametrize(
    ("claim", "against"),
    [
        ("ioffe.sec3_3.effective_rate", {"ratio": 1.2}),
        ("laarhoven.l2.equivalence", {"twin": 0.1}),
        ("ioffe.sec3_3.equilibrium", {"turn": 0.7}),
        ("ioffe.sec3_3.equilibrium", {"turn": 1.3}),
    ],
)
def test_claims_turn_with_the_truth(claim, against):
    assert criterion(CLAIMS[claim], made_up()).verdict == "reproduced"
    assert criterion(CLAIMS[claim], made_up(**against)).verdict == "not reproduced"


def test_a_run_that_diverged_has_no_growth():
    table = made_up()
    table.loc[(table["arm"] == WITH) & (table["seed"] == 1), "diverged_at"] = 7
    judged = criterion(CLAIMS["ioffe.sec3_3.effective_rate"], table)
    assert (judged.undefined, judged.verdict) == (1, "inconclusive")


def test_facts_on_a_table_with_known_truth():
    facts = RATE.facts(made_up())
    assert facts["with_ratio_largest_rate"]["value"] == pytest.approx(0.2002, rel=1e-4)
    assert facts["without_ratio_smallest_rate"]["value"] == pytest.approx(3.003, rel=1e-4)
    assert facts["with_large_weights_factor"]["value"] == pytest.approx(1 + 0.2002 / 18)
    assert facts["without_burst"]["value"] == 0
    burst = RATE.facts(made_up(bare=1e6))
    assert burst["without_burst"]["value"] == 3
    assert facts["largest_rate_fall"]["value"] == pytest.approx(1.5)
    assert facts["best_rate_spread"]["value"] == pytest.approx(10)
    assert facts["best_product_spread"]["value"] == pytest.approx(1)


def test_the_networks_of_a_part(small):
    parts = RATE.parts(small)
    assert len(parts) == 3 * 2
    without, with_bn, twins = (experiment.members(part) for part in parts[::2])
    assert [m.scale for m in without] == [1.0, 1.0, 3.0, 3.0]
    assert [(m.arm, m.decay) for m in with_bn[4:]] == [
        (DECAYED, 0.01), (DECAYED, 0.01), (DECAYED, 0.1), (DECAYED, 0.1),
    ]  # fmt: skip
    reference, counterpart, unscaled = twins[3:]
    assert counterpart.rate == pytest.approx(9 * reference.rate)
    assert counterpart.decay == pytest.approx(reference.decay / 9)
    assert (unscaled.scale, unscaled.rate, unscaled.decay) == (3, reference.rate, reference.decay)
    assert [m.reference for m in twins] == [0, 0, 0, 3, 3, 3]


def test_probe_steps():
    at = experiment.probe_steps(400, 4)
    assert at == [0, 1, 2, 4, 8, 16, 32, 64, 100, 200, 300, 400]


def test_a_small_run_is_that_of_its_parts(small_table):
    keys = ["arm", "role", "seed", "scale", "learning_rate", "weight_decay", "reference_decay"]
    assert not small_table.duplicated([*keys, "step"]).any()
    part = RATE.parts(RATE.configure("quick", **SMALL))[2]
    (again,) = experiment.train([part], Session("cpu"))
    rows = small_table[small_table["arm"].isin((WITH, DECAYED)) & (small_table["seed"] == 0)]
    pd.testing.assert_frame_equal(again, rows.reset_index(drop=True))
    assert set(RATE.facts(small_table)) > {"steps", "settled_runs"}


def test_without_decay_the_norm_never_falls(small_table):
    plain = small_table[small_table["arm"] == WITH]
    for _, run in plain.groupby(["seed", "scale", "learning_rate"]):
        assert (run["squared_norm"].diff().dropna() > 0).all()


def test_the_norm_grows_by_the_squared_step(small_table):
    """One step from the measured start: the norm after it is that of Pythagoras."""
    plain = small_table[(small_table["arm"] == WITH) & (small_table["scale"] == 3)]
    start = plain[plain["step"] == 0].reset_index(drop=True)
    first = plain[plain["step"] == 1].reset_index(drop=True)
    grown = first["squared_norm"] - start["squared_norm"]
    expected = start["learning_rate"] ** 2 * start["squared_gradient"]  # of other minibatches
    assert (grown / expected).between(0.4, 2.5).all()


def test_twins_agree_and_the_claim_turns_when_the_rate_is_not_squared(small_table, monkeypatch):
    claim = CLAIMS["laarhoven.l2.equivalence"]
    assert criterion(claim, small_table).value < 1e-8
    twins = experiment._twins

    def broken(part):
        return [
            replace(m, rate=m.rate / 3) if m.role == analysis.COUNTERPART else m
            for m in twins(part)
        ]

    monkeypatch.setattr(experiment, "_twins", broken)
    config = RATE.configure("quick", **SMALL, arms=(analysis.INVARIANT,))
    assert criterion(claim, RATE.run(config, "cpu")).verdict == "not reproduced"


def test_squared_gradients_by_hand_and_nothing_is_disturbed():
    model = models.MLP(norm.BatchNorm, (0, 1), num_inputs=4, hidden=(3,), init_std=1.0)
    x, y = torch.randn(12, 4), torch.arange(12) % 10
    batches = [(x[:6], y[:6]), (x[6:], y[6:])]
    weights = [model.hidden[0].weight]
    before = model.hidden[1].running_mean.clone()
    found = experiment._squared_gradients(model, weights, ensemble.cross_entropy, batches)
    assert torch.equal(model.hidden[1].running_mean, before)
    expected = torch.zeros(2)
    for member in range(2):
        for images, labels in batches:
            loss = ensemble.cross_entropy(model(images), labels)[member]
            (gradient,) = torch.autograd.grad(loss, weights)
            expected[member] += gradient[member].square().sum() / 2
    torch.testing.assert_close(found, expected)


def test_too_much_validation():
    config = RATE.configure("quick", **{**SMALL, "validation": 1430})
    with pytest.raises(BnbookError, match="set aside from 1 to 1387 of the 1437"):
        RATE.run(config, "cpu")
