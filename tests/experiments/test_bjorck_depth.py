"""The largest usable rate against depth: laws on made-up tables, and a small real run."""

import math

import numpy as np
import pandas as pd
import pytest

from bnbook.errors import BnbookError
from bnbook.experiments.bjorck_depth import claims as analysis
from bnbook.experiments.bjorck_depth.experiment import EXPERIMENT as bjorck_depth
from bnbook.setups import residual
from bnbook.tables.arms import WITH, WITHOUT
from tests.judging import criterion

SMALL = {
    "steps": 4, "seeds": (0, 1), "n": (1, 2, 3), "learning_rates": (0.03, 0.3), "train_images": 100,
    "validation": 30, "test_images": 30, "widths": (2, 2, 4), "points": 2,
}  # fmt: skip
"""Changes to the quick profile that make it a matter of a second."""

N = (1, 3, 5, 9, 18)


def made_up(without, with_bn=lambda n: 1.0, seeds=(0, 1, 2)):
    """A table in which each depth has one usable rate, made by a function of n, and one above."""
    rows = []
    for arm, rate in ((WITHOUT, without), (WITH, with_bn)):
        for n in N:
            for seed in seeds:
                best = rate(n) * (1 + 0.01 * seed * (n % 4))
                rows += [(arm, n, seed, best, -1, 0.9), (arm, n, seed, 9.0, 4, 0.1)]
    names = ["arm", "n", "seed", "learning_rate", "diverged_at", "validation_accuracy"]
    table = pd.DataFrame(rows, columns=names).assign(step=10)
    return table.assign(test_accuracy=table["validation_accuracy"])


def power(n):
    return 3.0 * (6 * n + 2) ** -1.5


def exponential(n):
    return 0.5 * 0.9 ** (3 * n)


def verdicts(table):
    return {claim.id: criterion(claim, table).verdict for claim in bjorck_depth.claims}


def test_each_law_finds_its_own():
    rates = pd.Series({n: power(n) for n in N})
    slope, intercept = analysis.line(rates, "power")
    assert (slope, math.exp(intercept)) == pytest.approx((-1.5, 3.0))
    rates = pd.Series({n: exponential(n) for n in N})
    slope, intercept = analysis.line(rates, "exponential")
    assert (math.exp(slope), math.exp(intercept)) == pytest.approx((0.9, 0.5))
    one = made_up(exponential, seeds=(0,))
    assert analysis.decays(one, WITHOUT).tolist() == pytest.approx([0.9])
    assert analysis.errors(one, WITHOUT)["exponential"].tolist() == pytest.approx([0], abs=1e-9)
    assert analysis.error_ratio(one).isna().all(), "rounding is nothing to divide by"
    assert (analysis.error_ratio(made_up(power)) < 1).all()
    assert analysis.exponents(made_up(power, seeds=(0,)), WITHOUT).tolist() == pytest.approx([-1.5])


def test_a_depth_that_is_predicted_is_not_fitted():
    """Of three points on a line in log-log and a fourth off it, only the fourth is missed."""
    rates = pd.Series({n: power(n) for n in N})
    rates[18] *= 10.0
    n = np.array([1, 3, 5, 9.0])
    slope, intercept = np.polyfit(np.log(6 * n + 2), np.log(rates[[1, 3, 5, 9]]), 1)
    miss = intercept + slope * math.log(110) - math.log(rates[18])
    assert miss / math.log(10) == pytest.approx(-1.0)
    assert analysis._left_out(rates, "power") ** 2 * 5 >= 1.0


@pytest.mark.parametrize("law", analysis.LAWS)
def test_the_error_of_a_law_is_that_of_the_textbook(law):
    """Of a least-squares line the miss at a point left out is its residual over 1 - leverage."""
    rates = pd.Series((1.0, 0.3, 0.4, 0.05, 0.02), index=N)
    x = np.log(6 * np.array(N) + 2) if law == "power" else 3.0 * np.array(N)
    design = np.stack([np.ones(5), x], 1)
    hat = design @ np.linalg.inv(design.T @ design) @ design.T
    y = np.log10(rates.to_numpy())
    misses = (y - hat @ y) / (1 - np.diag(hat))
    assert analysis._left_out(rates, law) == pytest.approx(np.sqrt(np.mean(misses**2)))


def test_networks_without_bn_in_bns_place_do_not_differ(monkeypatch):
    plain = residual.network
    monkeypatch.setattr(residual, "network", lambda _, *a, **k: plain(WITHOUT, *a, **k))
    found = bjorck_depth.run(bjorck_depth.configure("quick", **SMALL), "cpu")
    pd.testing.assert_frame_equal(analysis.largest(found, WITH), analysis.largest(found, WITHOUT))
    assert verdicts(found)["bjorck.depth"] != "reproduced"


def test_verdicts_follow_the_truth():
    seeds = (1, 2, 3)
    falls = made_up(exponential, seeds=seeds)
    found = verdicts(falls)
    assert (found["bjorck.depth"], found["bjorck.depth.law"]) == ("reproduced", "reproduced")
    assert verdicts(made_up(power, seeds=seeds))["bjorck.depth.law"] == "not reproduced"
    assert verdicts(made_up(lambda n: 1.0, power, seeds))["bjorck.depth"] == "not reproduced"


def by_rate(same=0.5, large=0.8, diverges=True, seeds=3):
    """Three depths; in the shallower ones nothing differs, in the deepest as the arguments say.

    Without BN 0.01 ends at 0.5 and 1.0 diverges or ends at 0.4; with BN at `same` and `large`.
    """
    rows = []
    for n, deep in ((1, False), (5, False), (9, True)):
        for seed in range(seeds):
            bn = {0.01: same, 1.0: large} if deep else {0.01: 0.5, 1.0: 0.4}
            gone = deep and diverges
            for rate in (0.01, 1.0):
                rows.append((WITH, n, seed, rate, -1, bn[rate] + 0.001 * seed))
            rows.append((WITHOUT, n, seed, 0.01, -1, 0.5 + 0.001 * seed))
            rows.append((WITHOUT, n, seed, 1.0, 4 if gone else -1, 0.1 if gone else 0.4))
    names = ["arm", "n", "seed", "learning_rate", "diverged_at", "validation_accuracy"]
    table = pd.DataFrame(rows, columns=names).assign(step=10)
    return table.assign(test_accuracy=table["validation_accuracy"])


@pytest.mark.parametrize(
    ("changes", "same", "gain", "diverges"),
    [
        ({}, "reproduced", "reproduced", "reproduced"),
        ({"same": 0.6}, "not reproduced", "reproduced", "reproduced"),
        ({"large": 0.4}, "reproduced", "not reproduced", "reproduced"),
        ({"diverges": False}, "reproduced", "reproduced", "not reproduced"),
    ],
)
def test_figure_1_at_the_greatest_depth(changes, same, gain, diverges):
    found = verdicts(by_rate(**changes, seeds=6))
    assert found["bjorck.depth.same_rate"] == same
    assert found["bjorck.depth.higher_rate_generalises"] == gain
    assert found["bjorck.depth.unnormalised_diverges"] == diverges


def test_a_rate_beyond_a_gap_is_not_reached():
    """Of five rates the first is too slow, the next two are usable, one fails, the last is luck."""
    rates = (0.001, 0.01, 0.1, 1.0, 10.0)
    rows = [
        (WITHOUT, n, 0, rate, -1, 0.9 if fine else 0.1)
        for n in (1, 2)
        for rate, fine in zip(rates, (False, True, n == 1, False, True), strict=True)
    ]
    names = ["arm", "n", "seed", "learning_rate", "diverged_at", "validation_accuracy"]
    table = pd.DataFrame(rows, columns=names).assign(step=10).sample(frac=1, random_state=0)
    assert analysis.unbroken(table, WITHOUT).loc[0].tolist() == [0.1, 0.01]
    assert analysis.largest(table, WITHOUT).loc[0].tolist() == [10.0, 10.0]
    none = table.assign(validation_accuracy=0.1)
    assert analysis.unbroken(none, WITHOUT).isna().all(axis=None)


def test_facts_of_both_depths():
    found = bjorck_depth.facts(by_rate())
    assert found["deep_tuned_gap"]["value"] == pytest.approx(30)
    assert found["shallow_tuned_gap"]["value"] == pytest.approx(0)
    assert (found["with_deep_tuned"]["value"], found["without_deep_tuned"]["value"]) == (1.0, 0.01)
    assert found["without_deep_survives"]["value"] == 0.01
    assert found["with_deep_survives"]["value"] == 1.0
    assert found["with_deep_accuracy"]["value"] == pytest.approx(80.1)


def test_a_depth_without_usable_rate_is_undefined():
    table = made_up(exponential)
    deep = (table["n"] == 18) & (table["arm"] == WITHOUT) & (table["seed"] == 1)
    table.loc[deep, "validation_accuracy"] = 0.1
    assert analysis.largest(table, WITHOUT).isna().sum().sum() == 1
    assert criterion(bjorck_depth.claims[0], table).undefined == 1
    assert verdicts(table)["bjorck.depth"] == "inconclusive"
    assert bjorck_depth.facts(table)["without_none"]["value"] == 1


def test_facts():
    found = bjorck_depth.facts(made_up(exponential, seeds=(0,)))
    assert found["without_decay"]["value"] == pytest.approx(0.9)
    assert found["with_exponent"]["value"] == pytest.approx(0.0)
    assert found["deepest"]["value"] == 110
    assert found["without_fall"]["value"] == pytest.approx(0.9**-51)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"n": (1, 2)}, "three values or more"),
        ({"n": (3, 2, 1)}, "n must be positive and rising"),
        ({"learning_rates": (0.1, 0.0)}, "learning_rates must be positive and rising"),
        ({"arms": (WITH,)}, "arms must hold without BN"),
        ({"side": 0}, "side must be at least 1"),
    ],
)
def test_impossible_configs(changes, says):
    with pytest.raises(BnbookError, match=says):
        bjorck_depth.configure("quick", **changes)


def test_profiles():
    for config in bjorck_depth.profiles.values():
        assert max(np.diff(np.log(config.learning_rates))) < 1.21
    paper = bjorck_depth.profiles["paper"]
    assert (paper.n, paper.widths, paper.batch_size) == (N, (16, 32, 64), 128)
    assert len(bjorck_depth.profiles["standard"].seeds) >= 5


@pytest.fixture(scope="module")
def table():
    return bjorck_depth.run(bjorck_depth.configure("quick", **SMALL), "cpu")


def test_a_small_run_has_a_row_for_each_run_and_measured_step(table):
    assert len(table) == 2 * 3 * 2 * 2 * table["step"].nunique()
    assert not table.duplicated(["arm", "n", "seed", "learning_rate", "step"]).any()
    assert bjorck_depth.facts(table)["shallowest"]["value"] == 8


def test_figures_draw():
    table = made_up(exponential)
    rates = bjorck_depth.figures["rates"](table).axes[0]
    assert sum(np.size(line.get_xdata()) > 0 for line in rates.lines) == 2 * 2 + 4
    assert rates.lines[0].get_ydata()[0] == pytest.approx(exponential(1), rel=0.1)
    maps = bjorck_depth.figures["maps"](table)
    assert all(ax.collections[0].get_array().max() == 100 for ax in maps.axes[:2])
    deep = bjorck_depth.figures["accuracy"](by_rate()).axes[2]
    assert deep.get_title("left") == "56 layers"
    assert deep.lines[1].get_ydata() == pytest.approx([50.1, 80.1])
