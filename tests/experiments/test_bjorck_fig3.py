"""Figure 3 of Bjorck et al.: measures on made-up tables, claims that turn, small real runs."""

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from bnbook.experiments.bjorck_fig3 import claims as analysis
from bnbook.experiments.bjorck_fig3.experiment import EXPERIMENT as bjorck_fig3
from bnbook.layers import ensemble, norm
from bnbook.setups import first_steps
from bnbook.tables.arms import WITH, WITHOUT
from tests.judging import by_id, criterion

SMALL = {
    "data": "digits", "seeds": (0, 1), "batch_size": 4, "n": 1, "minibatches": 2, "refinements": 1,
}  # fmt: skip
IMPOSSIBLE = [
    ({"smallest": 1}, "smallest below largest, found 2, 1 and 1"),
    ({"refinements": -1}, "refinements must be at least 0"),
    ({"momentum": 1.0}, r"momentum must lie in \[0, 1\)"),
    ({"with_rate": 0.0}, "the rates be positive"),
    ({"per_decade": 0}, "per_decade must be at least 1, found 0"),
]
DEEP = {"data": "digits", "seeds": (0, 1, 2), "batch_size": 4, "minibatches": 1}
CLAIMS = by_id(bjorck_fig3.claims)


def made_up(steps=100.0, norms=50.0, seeds=(0, 1, 2)):
    """A table whose truth is known: how much larger BN's steps are, and how much smaller its g."""
    rows = []
    for seed in seeds:
        wobble = 1 + 0.001 * seed
        for minibatch, factor in ((0, 0.25), (1, 4.0)):  # cancels in the geometric mean
            for arm, largest, length in (
                (WITHOUT, 1e-3, norms), (WITH, 1e-3 * steps * wobble * factor, 1.0)
            ):  # fmt: skip
                for k in range(-6, 2):
                    rows.append({
                        "arm": arm, "seed": seed, "minibatch": minibatch, "rate": 0.1, "depth": 110,
                        "batch_size": 128, "loss": 3.0, "gradient_norm": length,
                        "largest_step": largest, "step_size": 10.0**k, "loss_ratio": 0.5 + 1e-3 * k,
                    })  # fmt: skip
    return pd.DataFrame(rows)


def test_measures_on_a_table_with_known_truth():
    table = made_up()
    assert analysis.step_ratio(table).tolist() == pytest.approx([100, 100.1, 100.2])
    assert analysis.length_ratio(table).tolist() == pytest.approx([2, 2.002, 2.004])
    facts = bjorck_fig3.facts(table)
    assert facts["norm_ratio"]["value"] == pytest.approx(50)
    assert facts["start_ratio"]["value"] == pytest.approx(25.025, rel=1e-4)
    assert facts["without_largest"]["value"] == pytest.approx(1e-3)
    assert facts["without_best"]["value"] == pytest.approx(0.494)


def test_the_loss_ten_times_beyond_the_largest_step():
    table = made_up(seeds=(0, 1))
    far = analysis.beyond(table)
    assert far[WITHOUT].tolist() == pytest.approx([0.498] * 4)  # at 0.01 = 10 * 1e-3
    assert far[WITH].tolist() == pytest.approx([0.5, 0.501] * 2)  # at 1 and 10, of 0.025 and 0.4
    assert analysis.beyond(made_up(steps=1000.0))[WITH].isna().tolist() == [False, True] * 3
    table.loc[table["step_size"] == 0.01, "loss_ratio"] = np.nan
    assert analysis.beyond(table)[WITHOUT].tolist() == [np.inf] * 4
    facts = bjorck_fig3.facts(table)
    assert facts["with_beyond_most"]["value"] == pytest.approx(0.501)
    assert facts["without_beyond_least"]["value"] is None  # no number anywhere
    assert facts["last_ratio"]["value"] == pytest.approx(400, rel=0.01)
    assert facts["least_change"]["value"] == pytest.approx(1 - 0.494)


def test_a_flat_curve_tells_little_of_its_best_step():
    """Down to a tenth at 10^-3 and up again with slopes of 1 a decade, or a tenth of that."""
    powers = np.arange(-6, 1, 0.125)

    def errors(slope, loss_error):
        ratio = 10 ** (slope * np.abs(powers + 3) - 1)
        curve = pd.DataFrame({"step_size": 10.0**powers, "loss_ratio": ratio})
        return analysis.reading_errors(curve, loss_error)

    assert errors(1.0, 0.13) == pytest.approx({"best": 0.125, "back": 0.13, "burst": 0.02})
    assert errors(0.5, 0.13) == pytest.approx({"best": 0.25, "back": 0.26, "burst": 0.02})
    assert set(errors(1.0, 0.001).values()) == {analysis.STEP_READ}


def test_curves_that_come_back_are_counted():
    table = made_up(seeds=(0, 1))
    assert analysis.recrossings(table) == 0
    one = (table["arm"] == WITH) & (table["seed"] == 1) & (table["minibatch"] == 0)
    table.loc[one & (table["step_size"] == 0.1), "loss_ratio"] = np.nan
    assert analysis.recrossings(table) == 1
    assert bjorck_fig3.facts(table)["curves"]["value"] == 8


@pytest.mark.parametrize(
    ("claim", "for_it", "against"),
    [
        ("bjorck.fig3.step_size", {"steps": 1.1}, {"steps": 0.9}),
        ("bjorck.fig3.step_length", {"norms": 90.0}, {"norms": 110.0}),  # all of it the norm's
    ],
)
def test_claims_turn_with_the_truth(claim, for_it, against):
    assert criterion(CLAIMS[claim], made_up(**for_it)).verdict == "reproduced"
    assert criterion(CLAIMS[claim], made_up(**against)).verdict == "not reproduced"


def test_a_minibatch_without_a_largest_step_makes_its_seed_undefined():
    table = made_up()
    table.loc[(table["seed"] == 2) & (table["minibatch"] == 1), "largest_step"] = np.nan
    assert analysis.step_ratio(table).isna().tolist() == [False, False, True]
    judged = criterion(CLAIMS["bjorck.fig3.step_size"], table)
    assert (judged.undefined, judged.verdict) == (1, "inconclusive")


def test_a_small_run_takes_every_step_size_once(small_table):
    assert not small_table.duplicated(["arm", "seed", "minibatch", "step_size"]).any()
    grid = bjorck_fig3.configure("quick", **SMALL).step_sizes
    assert grid == pytest.approx([10.0**k for k in range(-6, 2)])
    for _, run in small_table.groupby(["arm", "seed", "minibatch"]):
        assert set(grid) <= set(run["step_size"])


def test_the_minibatches_are_those_of_a_training_with_momentum(small_table):
    """torch's own optimiser, the loss at the second minibatch after one update."""
    cpu = torch.device("cpu")
    batches = first_steps.minibatches("digits", 4, 2, 0, cpu)
    for arm, rate in ((WITH, 0.1), (WITHOUT, 0.0001)):
        model = first_steps.network(arm, 0, 1, cpu)
        optimiser = torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9)
        losses = []
        for x, y in batches:
            optimiser.zero_grad()
            loss = ensemble.cross_entropy(model(x), y).sum()
            loss.backward()
            optimiser.step()
            losses.append(loss.item())
        rows = small_table[(small_table["arm"] == arm) & (small_table["seed"] == 0)]
        found = rows.groupby("minibatch")["loss"].first()
        assert found.tolist() == pytest.approx(losses, rel=1e-4)
        assert rows["rate"].unique().tolist() == [rate]


def test_a_tiny_step_falls_by_the_gradient_squared(small_table):
    rows = small_table[np.isclose(small_table["step_size"], 1e-3)]
    expected = 1 - 1e-3 * rows["gradient_norm"] ** 2 / rows["loss"]
    gentle = rows["gradient_norm"] < 3
    assert gentle.any()
    np.testing.assert_allclose(rows["loss_ratio"][gentle], expected[gentle], atol=3e-3)


@pytest.mark.slow
def test_the_claim_needs_a_bn_that_normalises(monkeypatch):
    """BN that takes its initial running statistics, 0 and 1, in training: the claim turns."""
    config = bjorck_fig3.configure("quick", **DEEP)
    claim = CLAIMS["bjorck.fig3.step_size"]
    assert criterion(claim, bjorck_fig3.run(config, "cpu")).verdict == "reproduced"
    monkeypatch.setattr(norm, "BatchNorm", lambda features: nn.Identity())
    broken = bjorck_fig3.run(config, "cpu")
    assert criterion(claim, broken).verdict != "reproduced"
    assert claim.measure(broken).tolist() == pytest.approx([1.0] * 3)


def test_figures_draw_every_panel(small_table):
    for draw in bjorck_fig3.figures.values():
        for ax in draw(small_table).axes:
            assert ax.lines
            assert np.isfinite(ax.lines[0].get_ydata()).all()
