"""Figure 2 of Bjorck et al.: measures on known distributions, claims that turn, small real runs."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from torch import nn

from bnbook.experiments.bjorck_fig2 import claims as analysis
from bnbook.experiments.bjorck_fig2 import figures
from bnbook.experiments.bjorck_fig2.experiment import BINS, histogram, summary
from bnbook.experiments.bjorck_fig2.experiment import EXPERIMENT as bjorck_fig2
from bnbook.layers import ensemble, norm
from bnbook.setups import first_steps
from bnbook.tables import start as bjorck_start
from bnbook.tables.arms import WITH, WITHOUT
from tests.judging import by_id, criterion

SMALL = {"data": "digits", "seeds": (0, 1), "batch_size": 4, "n": 1, "layer": 4}
IMPOSSIBLE = [
    ({"layer": 110}, r"layers must lie in \[1, 109\] for n = 18, found \(110,\)"),
    ({"arms": (WITH,)}, "arms must hold without BN"),
    ({"minibatches": 0}, "minibatches must be at least 1, found 0"),
]
DEEP = {"data": "digits", "seeds": (0, 1, 2), "batch_size": 4, "n": 9, "layer": 28}
CLAIMS = by_id(bjorck_fig2.claims)


@pytest.mark.parametrize(
    ("draw", "kurtosis", "tail"),
    [
        (stats.norm(loc=3, scale=0.1), 0.0, 3.2905 / 0.6745),
        (stats.laplace, 3.0, math.log(1000) / math.log(2)),
        (stats.uniform(-1, 2), -1.2, 0.999 / 0.5),
    ],
)
def test_summary_of_known_distributions(draw, kurtosis, tail):
    levels = (np.arange(200_000) + 0.5) / 200_000  # a sample without chance
    found = summary(torch.from_numpy(draw.ppf(levels)).view(400, 500))
    assert found["kurtosis"] == pytest.approx(kurtosis, abs=0.01)
    assert found["p999_distance"] / found["median_distance"] == pytest.approx(tail, rel=1e-3)
    assert found["mean"] == pytest.approx(draw.mean(), abs=1e-9)
    assert found["std"] == pytest.approx(draw.std(), rel=1e-3)
    assert found["rms"] == pytest.approx(math.hypot(draw.mean(), draw.std()), rel=1e-3)


def test_the_gaussian_tail_that_the_chapter_quotes():
    expected = stats.norm.ppf(0.9995) / stats.norm.ppf(0.75)
    assert pytest.approx(expected, rel=1e-4) == analysis.GAUSSIAN_TAIL


def test_histogram_counts_every_entry_once():
    entries = torch.tensor([0.0] * 400 + [1.0, -1.0] + [1000.0])  # the last lies beyond the edges
    found = histogram(entries)
    assert found["count"].sum() == 403
    assert found["count"][-1] == 1
    assert (found["low"][0], found["high"][-1]) == (-10, 10)
    np.testing.assert_allclose(found["high"] - found["low"], 0.25)


def made_up(tail=2.0, size=100.0, seeds=(0, 1, 2)):
    """A table whose truth is known: ratios of tails and sizes, the same at all minibatches."""
    rows = []
    for seed in seeds:
        wobble = 1 + 0.001 * seed
        for minibatch, factor in ((0, 0.5), (1, 2.0)):  # cancels in the geometric mean
            for arm, t, s in ((WITH, 5.0, 1.0), (WITHOUT, 5.0 * tail * wobble * factor, size)):
                for number in range(BINS):
                    rows.append({
                        "arm": arm, "seed": seed, "minibatch": minibatch, "bin": number,
                        "low": -10 + number / 4, "high": -9.75 + number / 4, "count": 3,
                        "depth": 110, "layer": 55, "batch_size": 128, "loss": 2.0, "mean": 0.1,
                        "std": s, "rms": s * factor * wobble, "kurtosis": 1.0,
                        "median_distance": 2.0, "p999_distance": 2.0 * t,
                    })  # fmt: skip
    return pd.DataFrame(rows)


def test_measures_on_a_table_with_known_truth():
    table = made_up()
    assert analysis.tail_ratio(table).tolist() == pytest.approx([2, 2.002, 2.004])
    assert analysis.size_ratio(table).tolist() == pytest.approx([100.0] * 3)
    facts = bjorck_fig2.facts(table)
    assert facts["with_tail"]["value"] == pytest.approx(5)
    assert facts["without_tail"]["value"] == pytest.approx(10.01, rel=1e-4)
    assert facts["entries"]["value"] == 240
    assert facts["without_offset"]["value"] == pytest.approx(0.001)
    assert facts["with_positive"]["value"] == 3
    table.loc[(table["arm"] == WITH) & (table["seed"] == 1) & (table["minibatch"] == 1), "mean"] = 0
    assert bjorck_fig2.facts(table)["with_positive"]["value"] == 2


@pytest.mark.parametrize(
    ("claim", "for_it", "against"),
    [
        ("bjorck.fig2.heavy_tails", {"tail": 1.1}, {"tail": 0.9}),
        ("bjorck.fig2.larger", {"size": 1.1}, {"size": 0.9}),
    ],
)
def test_claims_turn_with_the_truth(claim, for_it, against):
    assert criterion(CLAIMS[claim], made_up(**for_it)).verdict == "reproduced"
    assert criterion(CLAIMS[claim], made_up(**against)).verdict == "not reproduced"


def test_a_gradient_that_is_no_number_makes_its_seed_undefined():
    table = made_up()
    table.loc[(table["seed"] == 1) & (table["minibatch"] == 0), "p999_distance"] = np.nan
    assert analysis.tail_ratio(table).isna().tolist() == [False, True, False]


def test_the_gradient_is_that_of_the_layers_kernel_by_hand(small_table):
    """Without the package's probes: plain autograd on the fourth convolution."""
    cpu = torch.device("cpu")
    [(x, y)] = first_steps.minibatches("digits", 4, 1, 1, cpu)
    model = first_steps.network(WITH, 1, 1, cpu)
    ensemble.cross_entropy(model(x), y).sum().backward()
    expected = model.blocks[1].conv1.weight.grad.double()  # 1 the stem, 2 and 3 the first block
    rows = small_table[(small_table["arm"] == WITH) & (small_table["seed"] == 1)]
    assert rows["count"].sum() == expected.numel() == 16 * 32 * 9
    assert rows["rms"].iloc[0] == pytest.approx(expected.square().mean().sqrt().item(), rel=1e-6)


def test_layers_are_counted_as_in_the_paper():
    """Layers 8, 44 and 80 of 110 lie in the three stages, 55 in the middle of the second."""
    model = first_steps.network(WITHOUT, 0, 18, torch.device("cpu"))
    assert model.depth == 110
    widths = {layer: first_steps.convolution(model, layer).out_channels for layer in (1, 8, 37, 38)}
    assert widths == {1: 16, 8: 16, 37: 16, 38: 32}
    assert [first_steps.convolution(model, at).out_channels for at in (44, 55, 73)] == [32] * 3
    assert [first_steps.convolution(model, at).out_channels for at in (74, 80, 109)] == [64] * 3
    assert first_steps.convolution(model, 55) is model.blocks[26].conv2


def test_both_networks_have_the_same_convolutions_and_minibatches():
    cpu = torch.device("cpu")
    plain, normed = (first_steps.network(arm, 3, 1, cpu) for arm in (WITHOUT, WITH))
    for one, other in zip(plain.convolutions, normed.convolutions, strict=True):
        assert torch.equal(one.weight, other.weight)
    first, again = (first_steps.minibatches("digits", 4, 2, 3, cpu) for _ in range(2))
    assert all(torch.equal(a[0], b[0]) for a, b in zip(first, again, strict=True))


def test_images_are_standardised_resized_and_have_three_channels():
    [(x, y)] = first_steps.minibatches("digits", 256, 1, 0, torch.device("cpu"))
    assert x.shape == (256, 3, 32, 32)
    assert y.shape == (256,)
    assert torch.equal(x[:, 0], x[:, 2])
    assert abs(x.mean().item()) < 0.05
    assert 0.6 < x.std().item() < 1.1  # interpolation between pixels takes some of the spread


@pytest.mark.slow
def test_the_claims_need_a_bn_that_normalises(monkeypatch):
    """BN that takes its initial running statistics, 0 and 1, in training: both claims turn."""
    config = bjorck_fig2.configure("quick", **DEEP)
    table = bjorck_fig2.run(config, "cpu")
    assert criterion(CLAIMS["bjorck.fig2.larger"], table).verdict == "reproduced"
    monkeypatch.setattr(norm, "BatchNorm", lambda features: nn.Identity())
    broken = bjorck_fig2.run(config, "cpu")
    for claim in CLAIMS.values():
        assert criterion(claim, broken).verdict != "reproduced"
        assert claim.measure(broken).tolist() == pytest.approx([1.0] * 3, rel=1e-3)


def test_densities_hold_at_most_all_entries(small_table):
    density = figures.densities(small_table, WITH)
    assert (density["density"] * 0.25).groupby(density["seed"]).sum().max() <= 1 + 1e-9


def test_significant_digits():
    shown = {1234.5: 0, 45.0: 0, 4.5: 1, 0.45: 2, 0.045: 3, 0.0045: None, 45_000.0: None}
    for value, digits in shown.items():
        assert bjorck_start.significant([value])["digits"] == digits
    assert bjorck_start.significant([1.0, math.nan])["value"] is None
    assert bjorck_start.significant([1e-3, 1.0, 1e3])["digits"] is None  # a wide interval
    assert bjorck_start.significant([4.0, 10.0, 60.0])["digits"] is None  # its low end, 0.45
    assert bjorck_start.geometric([1.0, 100.0], 1)["value"] == pytest.approx(10)
