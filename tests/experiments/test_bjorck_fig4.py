"""Figure 4 of Bjorck et al.: measures on made-up tables, claims that turn, small real runs."""

import math

import numpy as np
import pandas as pd
import pytest
import torch

from bnbook.experiments.bjorck_fig4 import claims as analysis
from bnbook.experiments.bjorck_fig4 import figures
from bnbook.experiments.bjorck_fig4.experiment import EXPERIMENT as bjorck_fig4
from bnbook.experiments.bjorck_fig4.experiment import edge
from bnbook.probes import landscape
from bnbook.setups import first_steps
from bnbook.tables.arms import AS_LONG, WITH, WITHOUT
from tests.judging import criterion

SMALL = {
    "data": "digits", "seeds": (0, 1), "batch_size": 4, "n": 1, "layers": (2, 4, 6),
    "learning_rates": (0.1, 1000.0), "fractions": 2, "updates": 1, "halvings": 1,
}  # fmt: skip
IMPOSSIBLE = [
    ({"layers": (8, 110)}, r"layers must lie in \[1, 109\]"),
    ({"learning_rates": (0.1, 0.01)}, "learning_rates must be positive and rising"),
    ({"learning_rates": (0.0, 0.01)}, "learning_rates must be positive and rising"),
    ({"times": 0.5}, "times must be at least 1 and halvings at least 0, found 0.5 and 2"),
    ({"fractions": 0}, "fractions must be at least 1, found 0"),
]
DEEP = {
    "data": "digits", "seeds": (0, 1, 2), "batch_size": 4, "n": 9, "layers": (4, 22, 40),
    "learning_rates": (0.03, 1.0, 30.0), "fractions": 4, "updates": 2,
}  # fmt: skip
CLAIM = bjorck_fig4.claims[0]


def made_up(rate=0.1, seeds=(0, 1, 2), loss=5000.0):
    """A table whose truth is known: the variance of layer l grows as exp(rate * l * fraction)."""
    rows = []
    for seed in seeds:
        for arm, slope, most in ((WITHOUT, rate + 1e-4 * seed, loss), (WITH, 0.0, 3.0)):
            for fraction in (0.0, 0.5, 1.0):
                for layer in (8, 44, 80, 109):
                    for channel in (-1, *((0, 1) if layer < 100 else ())):
                        rows.append({
                            "arm": arm, "seed": seed, "learning_rate": 0.001, "update": 2,
                            "length": 4.0, "depth": 110, "batch_size": 128, "fraction": fraction,
                            "edge": 0.001 / 3,
                            "loss": 2.0 * (most / 2.0) ** fraction, "layer": layer,
                            "channel": channel, "mean": 0.5,
                            "variance": 7.0 * math.exp(slope * layer * fraction),
                        })  # fmt: skip
    table = pd.DataFrame(rows)
    longer = table[table["arm"] == WITH].assign(arm=AS_LONG)
    return pd.concat([table, longer], ignore_index=True)


def test_measures_on_a_table_with_known_truth():
    table = made_up()
    expected = [math.exp(72 * slope) for slope in (0.1, 0.1001, 0.1002)]
    assert analysis.growth_ratio(table).tolist() == pytest.approx(expected)
    assert analysis.extra_decades(table).tolist() == pytest.approx(np.log10(expected).tolist())
    assert CLAIM.measure is analysis.extra_decades
    assert analysis.probed(table) == [8, 44, 80]
    at = analysis.crossing(table)
    assert at[44][0] == pytest.approx(math.log(10) / 4.4)
    assert at[8].isna().all()
    assert analysis.first_layer(table).tolist() == [109] * 3
    facts = bjorck_fig4.facts(table)
    assert facts["rank_correlation"]["value"] == pytest.approx(1)
    assert facts["without_middle_growth"]["value"] == pytest.approx(math.exp(44 * 0.1001))
    assert facts["with_high_growth"]["value"] == pytest.approx(1)
    assert facts["without_loss_after"]["value"] == pytest.approx(5000)
    assert facts["diverged"]["value"] == 3
    assert facts["last_first"]["value"] == 3
    assert facts["helped"]["value"] == 0  # its loss only rises
    assert facts["at_smallest"]["value"] == 0
    assert facts["least_loss_after"]["value"] == pytest.approx(5000)
    first = table.assign(edge=table["edge"].where(table["seed"] > 0, analysis.SMALLEST))
    assert bjorck_fig4.facts(first)["at_smallest"]["value"] == 1
    assert (analysis.growth(table)[80] > 1).all()
    assert facts["as_long_bottom_growth"]["value"] == pytest.approx(1)
    assert (analysis.growth(made_up(rate=-0.1))[80] < 1).all()


def test_the_seed_that_is_drawn():
    table = made_up(seeds=(0, 1, 2, 3))
    assert analysis.middle_seed(table) == 2
    calm = made_up(loss=900.0)  # nothing diverged
    assert analysis.middle_seed(calm) == 0


@pytest.mark.parametrize(
    ("changes", "verdict"),
    [
        ({"rate": 0.1}, "reproduced"),
        ({"rate": -0.1}, "not reproduced"),
        ({"loss": 900.0}, "not tested"),  # nothing diverged
    ],
)
def test_the_claim_turns_with_the_truth(changes, verdict):
    assert criterion(CLAIM, made_up(**changes)).verdict == verdict


def test_a_seed_that_does_not_diverge_or_overflows_is_undefined():
    table = made_up()
    table.loc[(table["seed"] == 1), "loss"] = 10.0
    plain = (table["arm"] == WITHOUT) & (table["fraction"] == 1.0)
    table.loc[plain & (table["seed"] == 2), ["loss", "variance"]] = np.nan
    assert analysis.diverged(table).tolist() == [True, False, True]
    assert analysis.growth_ratio(table).isna().tolist() == [False, True, True]
    assert criterion(CLAIM, table).verdict != "reproduced"


def test_reaches_interpolates_on_the_logarithm():
    values = pd.Series([1.0, 1e2, 1e4], index=[0.0, 0.5, 1.0])
    assert analysis.reaches(values, 10.0) == pytest.approx(0.25)
    assert analysis.reaches(values, 0.5) == 0.0
    assert math.isnan(analysis.reaches(values, 1e5))
    assert analysis.reaches(values.replace(1e4, math.inf), 1e3) == 1.0


def test_a_small_run_has_every_layer_and_fraction(small_table):
    assert not small_table.duplicated(["arm", "seed", "fraction", "layer", "channel"]).any()
    assert sorted(small_table["layer"].unique()) == list(range(1, 8))
    assert small_table["fraction"].unique().tolist() == [0.0, 0.5, 1.0]


def test_the_update_as_long_has_the_length_of_the_diverging_one(small_table):
    length = small_table.groupby(["seed", "arm"])["length"].first().unstack()
    np.testing.assert_allclose(length[AS_LONG], length[WITHOUT], rtol=1e-5)
    assert (length[WITH] != length[WITHOUT]).all()


def test_moments_before_and_after_the_update_by_hand(small_table):
    """Plain SGD through torch.optim, and a forward pass cut off at the fourth convolution."""
    cpu = torch.device("cpu")
    batches = first_steps.minibatches("digits", 4, 2, 0, cpu)
    rows = small_table[(small_table["arm"] == WITHOUT) & (small_table["seed"] == 0)]
    rate = rows["learning_rate"].iloc[0]
    model = first_steps.network(WITHOUT, 0, 1, cpu)
    for fraction in (0.0, 1.0):
        with torch.no_grad():
            y = model.blocks[1].conv1(model.blocks[0](model.stem(batches[1][0]).relu()))
        at = rows[(rows["layer"] == 4) & (rows["fraction"] == fraction)].set_index("channel")
        expected = y.double().var((0, 2, 3), correction=0)
        np.testing.assert_allclose(at["variance"].drop(-1), expected, rtol=1e-4)
        np.testing.assert_allclose(at["mean"].drop(-1), y.double().mean((0, 2, 3)), rtol=1e-3)
        assert at["variance"][-1] == pytest.approx(expected.mean().item(), rel=1e-4)
        optimiser = torch.optim.SGD(model.parameters(), lr=rate)
        optimiser.zero_grad()
        first_steps.objective(model, batches[0])().backward()
        optimiser.step()


def test_the_edge_is_the_smallest_rate_that_diverges():
    """Held against a scan of the first update over many rates."""
    batches = first_steps.minibatches("digits", 4, 2, 0, torch.device("cpu"))
    model = first_steps.network(WITHOUT, 0, 1, torch.device("cpu"))
    _, gradients = landscape.gradient(model, first_steps.objective(model, batches[0]))
    after = first_steps.objective(model, batches[1])
    scanned = [
        rate for rate in np.geomspace(0.1, 1000, 200)
        if not landscape.loss_after(model, after, [-rate * g for g in gradients], 1.0) <= 1000
    ]  # fmt: skip

    def found(**changes):
        config = bjorck_fig4.configure("quick", **{**SMALL, "seeds": (0,), **changes})
        return edge(config, batches)

    width = 1e4 ** (1 / 2**8) * 1e4 ** (1 / 199)  # of the bisection, and of the scan
    assert 1 / width < found(halvings=8) / scanned[0] < width
    assert found(halvings=0) == 1000.0
    assert found(learning_rates=(1e-4, 1e-3)) == 1e-3  # none diverges
    assert found(learning_rates=(500.0, 1000.0)) == 500.0  # all do


def test_the_update_is_made_at_a_multiple_of_the_edge(small_table):
    updates = small_table[small_table["arm"] == WITHOUT].groupby("seed").first()
    np.testing.assert_allclose(updates["learning_rate"], 3 * updates["edge"])
    assert analysis.diverged(small_table).all()


def test_largest_moments_are_those_of_the_channels():
    table = made_up()
    last = (table["fraction"] == 1.0) & (table["arm"] == WITHOUT) & (table["layer"] == 44)
    table.loc[last & (table["channel"] == 1), ["mean", "variance"]] = -8.0, 1e20
    table.loc[last & (table["channel"] == -1), ["mean", "variance"]] = 99.0, 1e30
    most = analysis.largest_moments(table, 44)
    assert (most["mean"] == 8.0).all()
    assert (most["variance"] == 1e20).all()
    facts = analysis.facts(table)
    assert [facts[f"middle_beyond_{name}"]["value"] for name in ("mean", "variance")] == [0, 3]


@pytest.fixture(scope="module")
def deep_table():
    return bjorck_fig4.run(bjorck_fig4.configure("quick", **DEEP), "cpu")


@pytest.mark.slow
def test_the_claim_holds_without_bn_only(deep_table):
    assert analysis.diverged(deep_table).all()
    assert analysis.growth_ratio(deep_table).min() > 1
    others = {WITHOUT: WITH, WITH: WITHOUT, AS_LONG: AS_LONG}
    swapped = deep_table.assign(arm=deep_table["arm"].map(others))
    assert criterion(CLAIM, swapped).verdict != "reproduced"


@pytest.mark.slow
def test_a_clipped_gradient_hides_the_divergence(monkeypatch):
    """The mutant that the chapter warns of: no update diverges, and the claim is not reproduced."""
    honest = landscape.gradient

    def clipped(model, objective):
        loss, gradients = honest(model, objective)
        norm = landscape.norm(gradients)
        return loss, [g * min(1.0, 1e-3 / norm) for g in gradients]

    monkeypatch.setattr(landscape, "gradient", clipped)
    table = bjorck_fig4.run(bjorck_fig4.configure("quick", **{**DEEP, "updates": 1}), "cpu")
    assert not analysis.diverged(table).any()
    assert criterion(CLAIM, table).verdict == "not tested"


def test_a_colour_bar_has_powers_of_ten_and_no_computers_exponents():
    numbers = (0, 0.5, -3900, 5.4e6, 9.94e17, -3.1e-8)
    assert [figures.power(number) for number in numbers] == [
        "$0$", "$0.5$", "$-3900$", r"$5.4\times10^{6}$", r"$9.9\times10^{17}$",
        r"$-3.1\times10^{-8}$",
    ]  # fmt: skip
