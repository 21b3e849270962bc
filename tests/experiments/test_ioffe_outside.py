"""Statistics outside the gradient: the layer, the example in closed form, claims that turn red."""

import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
import torch

from bnbook.errors import BnbookError
from bnbook.experiments.ioffe_outside import claims as analysis
from bnbook.experiments.ioffe_outside import experiment
from bnbook.experiments.ioffe_outside.experiment import EXPERIMENT as OUTSIDE_GRADIENT
from bnbook.formulas import outside as formulas
from bnbook.layers import norm, outside
from bnbook.networks import models
from bnbook.tables.arms import MEAN_OUTSIDE, OUTSIDE, VARIANCE_OUTSIDE, WITH, WITHOUT
from bnbook.training import fit
from tests import rounding
from tests.judging import by_name, criterion

SMALL = {
    "steps": 20, "seeds": (0, 1), "learning_rates": (1.0,), "hidden": (8,), "probes": 2,
    "probe_images": 50, "draws": 2, "examples": 100, "example_steps": 40,
}  # fmt: skip
"""Changes to the quick profile that make it run in about a second."""
IMPOSSIBLE = [
    ({"steps": 0}, "steps must be at least 1, found 0"),
    ({"steps": 21}, "steps must be even, found 21"),
    ({"cases": ("loss",)}, r"cases must be among .* found \['loss'\]"),
    ({"arms": ("LN",)}, r"arms must be among .* found \['LN'\]"),
    ({"validation": 1.0}, r"validation must lie in \(0, 1\), found 1"),
    ({"target": 0.0}, "target must not be 0"),
]
CLAIMS = by_name(OUTSIDE_GRADIENT.claims)
SUBSETS = [(), ("mean",), ("variance",), ("mean", "variance")]


# The layer.


@pytest.mark.parametrize("shape", [(7, 3), (4, 3, 5), (4, 3, 2, 5)])
@pytest.mark.parametrize("which", SUBSETS, ids=str)
@pytest.mark.parametrize("affine", [True, False])
def test_values_and_statistics_are_those_of_batch_norm(shape, which, affine):
    torch.manual_seed(0)
    right = norm.BatchNorm(3, affine=affine)
    wrong = outside.BatchNormOutside(3, which, affine=affine)
    if affine:
        with torch.no_grad():
            right.weight.uniform_(0.5, 2)
            right.bias.normal_()
        wrong.load_state_dict(right.state_dict())
    for _ in range(3):
        x, dy = 2 * torch.randn(shape) + 5, torch.randn(shape)
        outputs = [layer(x) for layer in (right, wrong)]
        assert torch.equal(*outputs)
        if affine:
            gradients = [
                torch.autograd.grad(y, [layer.weight, layer.bias], dy)
                for y, layer in zip(outputs, (right, wrong), strict=True)
            ]
            for ours, theirs in zip(*gradients, strict=True):
                torch.testing.assert_close(ours, theirs)
    for mine, theirs in zip(wrong.buffers(), right.buffers(), strict=True):
        assert torch.equal(mine, theirs)
    assert torch.equal(right.eval()(x), wrong.eval()(x))


@pytest.mark.parametrize("which", SUBSETS, ids=str)
def test_the_gradient_lacks_the_terms_of_what_is_outside(which):
    """In float64, with a random cotangent, against the sum written out."""
    torch.manual_seed(0)
    layer = outside.BatchNormOutside(4, which).double()
    with torch.no_grad():
        layer.weight.uniform_(0.5, 2)
    x = torch.randn(9, 4, dtype=torch.float64, requires_grad=True)
    dy = torch.randn(9, 4, dtype=torch.float64)
    (dx,) = torch.autograd.grad(layer(x), x, dy)
    s = (x.var(0, unbiased=False) + layer.eps).sqrt()
    xhat, dxhat = (x - x.mean(0)) / s, layer.weight * dy
    expected = dxhat.clone()
    if "mean" not in which:
        expected -= dxhat.mean(0)
    if "variance" not in which:
        expected -= xhat * (dxhat * xhat).mean(0)
    terms = rounding.gradient_terms(x, dxhat, s)
    rounding.assert_close(dx, expected / s, terms, roundings=2 * len(x) + 20)
    if not which:
        (true,) = torch.autograd.grad(_like(layer)(x), x, dy)
        rounding.assert_close(dx, true, terms, roundings=2 * len(x) + 20)


def _like(layer):
    right = norm.BatchNorm(layer.num_features).double()
    right.load_state_dict(layer.state_dict())
    return right


def test_a_sum_reveals_a_detached_mean_and_not_a_detached_variance():
    x = torch.randn(50, 1, dtype=torch.float64, requires_grad=True)
    seen = {}
    for which in SUBSETS:
        y = outside.BatchNormOutside(1, which).double()(x)
        (dx,) = torch.autograd.grad(y.sum(), x)
        seen[which] = dx.abs().max().item() > 1e-9
    assert seen == {(): False, ("mean",): True, ("variance",): False, ("mean", "variance"): True}


def test_gradients_of_a_bias_and_a_weight_before_the_layer():
    """db = (gamma / s) dbeta with the mean outside, 0 inside; W dW = gamma dgamma, variance out."""
    torch.manual_seed(0)
    u = torch.rand(30, 5, dtype=torch.float64)
    dy = torch.randn(30, 3, dtype=torch.float64)
    for which in SUBSETS:
        linear = torch.nn.Linear(5, 3).double()
        layer = outside.BatchNormOutside(3, which).double()
        with torch.no_grad():
            layer.weight.uniform_(0.5, 2)
        x = linear(u)
        layer(x).backward(dy)
        s = (x.var(0, unbiased=False) + layer.eps).sqrt()
        shadow = layer.weight / s * layer.bias.grad
        expected = shadow if "mean" in which else torch.zeros(3, dtype=torch.float64)
        terms = rounding.gradient_terms(x, layer.weight * dy, s).sum(0)
        rounding.assert_close(linear.bias.grad, expected, terms, roundings=3 * len(x) + 20)
        if which == ("variance",):
            along = (linear.weight * linear.weight.grad).sum(1)
            torch.testing.assert_close(along, layer.weight * layer.weight.grad)


def test_the_false_part_of_a_weights_gradient_lies_along_the_mean_input():
    torch.manual_seed(0)
    u, dy = torch.rand(30, 5, dtype=torch.float64), torch.randn(30, 3, dtype=torch.float64)
    linear = torch.nn.Linear(5, 3).double()
    for apart, together in ((("mean",), ()), (("mean", "variance"), ("variance",))):
        (dw, db), (inside, _) = (
            torch.autograd.grad(
                outside.BatchNormOutside(3, which).double()(linear(u)),
                [linear.weight, linear.bias],
                dy,
            )
            for which in (apart, together)
        )
        torch.testing.assert_close(dw - inside, torch.outer(db, u.mean(0)))


def test_what_may_stand_outside():
    with pytest.raises(BnbookError, match=r"outside must hold 'mean', .* found \['median'\]"):
        outside.BatchNormOutside(3, ("median",))


# The examples.


@pytest.fixture(scope="module")
def papers_example():
    """The example of 1000 numbers and 200 steps alone."""
    config = OUTSIDE_GRADIENT.configure("quick", cases=("bias",), seeds=(0, 1, 2))
    return OUTSIDE_GRADIENT.run(config, "cpu")


def test_the_papers_example_in_numbers(papers_example):
    outside_rows = papers_example[papers_example["arm"] == OUTSIDE]
    last = outside_rows[outside_rows["step"] == 200]
    mean = 1000**0.5  # roundings of a mean of 1000 numbers, most likely
    rounding.assert_close(last["bias"], np.full(3, 40.0), terms=40, roundings=200 + mean)
    for _, one in outside_rows.groupby("seed"):
        moved = one["bias"].diff().dropna()
        rounding.assert_close(moved, np.full(len(moved), 0.2), terms=40, roundings=2 * mean)
        # The numbers, on a bias of up to 40, less their mean, and 2, the target, times that.
        rounding.assert_close(one["loss"], one["loss"].iloc[0] + 0 * one["loss"], 80, mean)
    inside = papers_example[papers_example["arm"] == WITH]
    gradient, bias = inside["gradient"], inside["bias"]
    rounding.assert_close(gradient, 0 * gradient, terms=2 * 4, roundings=mean)
    rounding.assert_close(bias, 0 * bias, terms=200 * 0.1 * 2 * 4, roundings=mean)
    assert criterion(OUTSIDE_GRADIENT.claims[0], papers_example).verdict == "reproduced"


@pytest.mark.parametrize(
    "broken",
    [
        lambda t: t.assign(bias=np.where(t["arm"] == OUTSIDE, 2 * t["bias"], 0)),  # no half
        lambda t: t.assign(bias=t["bias"] * (1 + 1e-9 * t["step"])),
        lambda t: t.assign(loss=t["loss"] * (1 + 1e-9 * t["step"])),
        lambda t: t.assign(arm=t["arm"].map({OUTSIDE: WITH, WITH: OUTSIDE})),
        lambda t: t.assign(gradient=1.0),
    ],
    ids=["another loss", "growth", "loss falls", "gradients swapped", "gradient inside"],
)
def test_the_exact_claim_turns_red(papers_example, broken):
    assert criterion(OUTSIDE_GRADIENT.claims[0], broken(papers_example)).verdict == "not reproduced"


def test_the_convention_is_half_the_mean_square():
    u = np.random.default_rng(0).standard_normal(1000)
    b, loss = formulas.bias_step_outside(u, 0.0, 2.0, 0.1)
    rounding.assert_close(b, 0.2, terms=0.1 * (2 + np.abs(u).mean()), roundings=2 * 1000**0.5)
    xhat = u - u.mean()
    assert loss == pytest.approx(0.5 * ((xhat - 2) ** 2).mean())


@pytest.mark.parametrize("kind", ["constant", "sloped"])
def test_the_scaled_example_is_that_of_the_formulas(small, small_table, kind):
    """Autograd and NumPy, step by step, until chaos has pulled them apart."""
    rows = analysis.case(small_table, "scale")
    rows = rows[(rows["arm"] == OUTSIDE) & (rows["seed"] == 1) & (rows["draw"] == 1)]
    rows = rows[rows["target"] == kind].set_index("step")
    u = experiment._numbers(1, 1, small.examples)
    target = small.target + (small.slope * u if kind == "sloped" else 0 * u)
    w, b = 1.0, 0.0
    for step in range(6 if kind == "constant" else 41):
        if step in rows.index:
            assert (w, b) == pytest.approx(tuple(rows.loc[step, ["weight", "bias"]]), rel=1e-8)
        w, b, loss = formulas.scaled_step_outside(u, w, b, target, 0.1, small.eps)
        if step in rows.index:
            assert loss == pytest.approx(rows.loc[step, "loss"], rel=1e-9)


def test_the_scaled_example_follows_its_line_and_root(small_table):
    assert analysis.line_error(small_table).max() < 1e-4
    rows = analysis.case(small_table, "scale")
    sloped = rows[(rows["arm"] == OUTSIDE) & (rows["target"] == "sloped")]
    assert (sloped["weight"] / sloped["root"]).between(0.999, 1.02).all()
    inside = rows[rows["arm"] == WITH]
    assert np.hypot(inside["bias"], inside["weight"] - 1).max() < 1e-3
    constant = rows[(rows["arm"] == OUTSIDE) & (rows["target"] == "constant")]
    assert constant["root"].isna().any()


def test_rounding_follows_the_spacing_of_the_numbers(small_table):
    rows = analysis.case(small_table, "rounding")
    fine = rows[(rows["spacing"] < 0.1) & (rows["bias"] > 6)]
    in_spacings = (fine["error"] / fine["spacing"]).groupby(fine["precision"])
    # Rounding alone gives 1/sqrt(12) = 0.29. In bfloat16 that is all, for the mean is taken in
    # float32; in the others the mean is as coarse, and its sum coarser still.
    assert in_spacings.min().min() > 0.25
    assert in_spacings.max()["bfloat16"] < 0.35
    assert in_spacings.max().max() < 5
    gone = rows[rows["spacing"] > 64]
    assert gone["error"].to_numpy() == pytest.approx(1, abs=0.01)
    biases = analysis.noticeable_bias(small_table)
    assert biases["float32"].between(5e4, 1e6).all()
    assert biases["bfloat16"].between(3, 24).all()
    assert "float64" not in biases


def test_in_float32_the_bias_stands_still_at_last():
    """Where half the spacing exceeds the step, 0.2, it is rounded away: from 2 ** 22 on."""
    b = np.float32(2**22 - 5)
    for _ in range(100):
        b = np.float32(b + np.float32(0.2))
    assert b == 2**22
    assert np.spacing(np.float32(2**22)) / 2 > 0.2 > np.spacing(np.float32(2**22 - 1)) / 2


def test_the_running_mean_lags_behind_a_drifting_bias():
    """By v (1 - rho) / rho, v the drift of a step: 1.8 for 0.2 and 0.1."""
    u = torch.randn(1000, 1, dtype=torch.float64)
    layer, b = norm.BatchNorm(1).double(), 0.0
    for _ in range(300):
        layer(u - u.mean() + b)
        b += 0.2
    assert b - 0.2 - layer.running_mean.item() == pytest.approx(1.8)


# The networks.


def made_up(accuracy=0.1, power=1.0, bad_rate=3.0, distance=60.0, seeds=(0, 1, 2)):
    """A table of known truth: at 1.0 all are at their best, but WITH is better still at 3.0."""
    rows = []
    for seed in seeds:
        for arm in experiment.ARMS:
            for rate in (1.0, 3.0):
                for step in (0, 50, 100):
                    top = 0.9 + 0.05 * (arm == WITH and rate == 3.0) - 0.01 * (rate == 3.0)
                    if arm == OUTSIDE and rate == bad_rate:
                        top = accuracy
                    top += 0.001 * seed
                    biases = (1 + 0.01 * seed) * (step / 100) ** (power + 0.01 * seed) + 1e-9
                    rows.append(("network", seed, arm, True, rate, step, top, top, biases))
    names = ["case", "seed", "arm", "affine", "learning_rate", "step", "validation_accuracy"]
    table = pd.DataFrame(rows, columns=[*names, "test_accuracy", "bias_norm"])
    table["batch_accuracy"], table["weight_norm"] = table["test_accuracy"], 1.0
    table["loss"], table["diverged_at"], table["offset"], table["lag"] = 1.0, -1, 1.0, 0.1
    scale = [
        ("scale", seed, OUTSIDE, "constant", step, draw, 1.0, (distance + seed) * step / 200)
        for seed in seeds
        for step in (0, 200)
        for draw in (0, 1)
    ]
    names = ["case", "seed", "arm", "target", "step", "draw", "weight", "bias"]
    alone = [("bias", seed, OUTSIDE, step, 0.2 * step) for seed in seeds for step in (0, 200)]
    return pd.concat(
        [
            table,
            pd.DataFrame(scale, columns=names),
            pd.DataFrame(alone, columns=["case", "seed", "arm", "step", "bias"]),
        ],
        ignore_index=True,
    )


def test_measures_on_a_table_with_known_truth():
    table = made_up()
    rates = analysis.tuned_rates(table)
    assert (rates[WITH], rates[OUTSIDE], rates[WITHOUT]) == (3.0, 1.0, 1.0)
    assert analysis.surviving_accuracy(table).tolist() == pytest.approx([10.0, 10.1, 10.2])
    assert analysis.bias_growth(table).tolist() == pytest.approx([1.0, 1.01, 1.02])
    assert analysis.worsening(table).tolist() == pytest.approx([1.5, 61 / 40, 62 / 40])
    runs = analysis.networks(table)
    assert analysis.last_surviving_rate(runs, OUTSIDE) == 1.0
    assert analysis.last_surviving_rate(runs, WITH) == 3.0
    dead = analysis.networks(made_up(accuracy=0.1, bad_rate=1.0))
    assert analysis.last_surviving_rate(dead, OUTSIDE) == 3.0


@pytest.mark.parametrize(
    ("changes", "name", "verdict"),
    [
        ({}, "network_divergence", "reproduced"),
        ({"accuracy": 0.85}, "network_divergence", "not reproduced"),
        ({}, "network_growth", "reproduced"),
        ({"power": 0.0}, "network_growth", "not reproduced"),
        ({"power": 0.3}, "network_growth", "not reproduced"),
        ({}, "scale_worse", "reproduced"),
        ({"distance": 20.0}, "scale_worse", "not reproduced"),
    ],
)
def test_claims_turn_red_when_the_truth_is_otherwise(changes, name, verdict):
    assert criterion(CLAIMS[name], made_up(**changes)).verdict == verdict


def test_no_rate_survives():
    table = made_up()
    table.loc[table["arm"] == OUTSIDE, "test_accuracy"] = 0.1
    assert analysis.last_surviving_rate(analysis.networks(table), OUTSIDE) is None


def test_a_small_run_is_tidy(small_table):
    runs = analysis.case(small_table, "network")
    at = experiment.probe_steps(20, 2)
    assert at == [0, 1, 2, 5, 10, 20]
    assert len(runs) == (5 + 2) * 2 * len(at)
    keys = ["arm", "affine", "learning_rate", "seed", "step"]
    assert not runs.duplicated(keys).any()
    assert set(runs.loc[~runs["affine"].astype(bool), "arm"]) == {WITH, OUTSIDE}


def test_biases_move_only_where_the_mean_is_outside(small_table):
    runs = analysis.case(small_table, "network")
    last = runs[runs["step"] == 20].groupby("arm")["bias_norm"]
    assert last.max()[[WITH, VARIANCE_OUTSIDE]].max() < 1e-5
    assert last.min()[[OUTSIDE, MEAN_OUTSIDE, WITHOUT]].min() > 1e-2
    assert runs.loc[runs["step"] == 0, "bias_norm"].max() == 0


def test_the_losses_are_those_of_a_loop_written_by_hand(small, small_table):
    """Statistics outside, with torch.nn's layers, a detach and torch's SGD."""
    config = replace(small, seeds=(1,), arms=(OUTSIDE,), affine=(True,))
    (images, labels), _, _ = experiment.splits(config, torch.device("cpu"))
    ours = models.MLP(
        outside.BatchNormOutside, (1,), num_inputs=64, hidden=(8,), init_std=0.1, biases=True
    )
    first, last = torch.nn.Linear(64, 8), torch.nn.Linear(8, 10)
    gamma, beta = torch.nn.Parameter(torch.ones(8)), torch.nn.Parameter(torch.zeros(8))
    with torch.no_grad():
        for theirs, mine in zip((first, last), (ours.hidden[0], ours.output), strict=True):
            theirs.weight.copy_(mine.weight[0])
            theirs.bias.zero_()
    parameters = [*first.parameters(), *last.parameters(), gamma, beta]
    optimiser, losses = torch.optim.SGD(parameters, lr=1.0), []
    for batch in fit.minibatches(len(labels), 60, 20, seed=1):
        x = first(images[batch].flatten(1))
        mu, var = x.mean(0).detach(), x.var(0, unbiased=False).detach()
        z = torch.sigmoid(gamma * (x - mu) / (var + 1e-5).sqrt() + beta)
        loss = torch.nn.functional.cross_entropy(last(z), labels[batch])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    run = analysis.networks(small_table).query("arm == @OUTSIDE and seed == 1").set_index("step")
    assert run.loc[20, "loss"] == pytest.approx(sum(losses[10:]) / 10, rel=1e-4)
    assert run.loc[20, "bias_norm"] == pytest.approx(first.bias.norm().item(), rel=1e-3)
    assert run.loc[20, "weight_norm"] == pytest.approx(first.weight.norm().item(), rel=1e-4)


def test_the_running_mean_lags_where_the_mean_is_outside(small_table):
    runs = analysis.networks(small_table)
    last = runs[(runs["step"] == 20) & (runs["arm"] != WITHOUT)].groupby("arm")["lag"]
    assert last.max()[[WITH, VARIANCE_OUTSIDE]].max() < last.min()[MEAN_OUTSIDE]
    start = runs[(runs["step"] == 0) & (runs["arm"] != WITHOUT)]
    # The running mean is still 0: the lag is a mean square of what `offset` is the largest of.
    assert (start["lag"] <= start["offset"]).all()
    assert (start["lag"] > 0.1 * start["offset"]).all()


def test_facts_are_numbers(small_table):
    found = OUTSIDE_GRADIENT.facts(small_table)
    for name, fact in found.items():
        assert fact["value"] is None or math.isfinite(fact["value"]), name
    assert found["example_bias"]["value"] == pytest.approx(8.0)
    assert found["example_step"]["value"] == pytest.approx(0.2)
    assert found["float32_steps"]["value"] == pytest.approx(
        found["float32_noticeable"]["value"] / 0.2
    )


def test_too_many_probe_images(small):
    with pytest.raises(BnbookError, match=r"set aside from 1000 to 1436 of the 1437 .* found 216"):
        OUTSIDE_GRADIENT.run(replace(small, probe_images=1000), "cpu")


def test_standard_is_tuned_widely():
    config = OUTSIDE_GRADIENT.profiles["standard"]
    assert len(config.seeds) >= 5
    rates = config.learning_rates
    assert max(b / a for a, b in pairwise(rates)) < 3.4
