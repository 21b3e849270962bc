"""Section 3.3's identities: the layers against the formulas, and mutants that turn the claims."""

import numpy as np
import pandas as pd
import pytest
import torch

from bnbook import formulas
from bnbook.experiments.ioffe_scale import claims as analysis
from bnbook.experiments.ioffe_scale import experiment as ioffe_scale
from bnbook.experiments.ioffe_scale import figures
from bnbook.experiments.ioffe_scale.experiment import EXPERIMENT as SCALE
from bnbook.layers import norm
from bnbook.plots import style
from tests import rounding
from tests.judging import by_name, criteria, criterion

SMALL = {
    "seeds": (0, 1), "factors": (1e-3, 0.3, 30.0), "batch": 8, "inputs": 6, "features": 4,
    "channels": 2, "image": 5,
}  # fmt: skip
IMPOSSIBLE = [
    ({"batch": 1}, "batch must be at least 2, found 1"),
    ({"kernel": 11}, "image must be at least kernel, found 8 and 11"),
    ({"factors": (-1.0,)}, r"factors must be above 0, found \(-1.0,\)"),
    ({"eps": (0.0,)}, "eps must be above 0"),
]
CLAIMS = by_name(SCALE.claims)


def test_the_claims_hold_to_rounding(small_table):
    assert set(criteria(CLAIMS, small_table).values()) == {"reproduced"}
    assert criterion(CLAIMS["scale_invariance"], small_table).cases == 2 * 2 * 3 * 3


def test_the_layer_is_that_of_the_formulas():
    generator = torch.Generator().manual_seed(3)
    u, W, dy = (
        torch.randn(size, generator=generator, dtype=torch.float64)
        for size in ((9, 5), (4, 5), (9, 4))
    )
    y, du, dW, var = ioffe_scale._layer(u, W, dy, 0.1)
    expected, cache = formulas.linear_batch_norm(u.numpy(), W.numpy(), 0.1)
    s = np.sqrt(cache.var + 0.1)
    inputs = (np.abs(u.numpy()) @ np.abs(W.numpy()).T).max(0) / s
    rounding.assert_close(y, expected, np.abs(expected) + 1 + inputs, roundings=9 + 5 + 20)
    terms = rounding.gradient_terms(u @ W.T, dy, s) * (1 + inputs)
    gradients = formulas.linear_batch_norm_backward(dy.numpy(), u.numpy(), W.numpy(), cache)
    rounding.assert_close(du, gradients[0], terms @ np.abs(W.numpy()), roundings=3 * 9 + 30)
    rounding.assert_close(dW, gradients[1], terms.T @ np.abs(u.numpy()), roundings=4 * 9 + 30)
    rounding.assert_close(var, (u @ W.T).numpy().var(0), s**2 * (1 + inputs) ** 2, 9 + 5 + 20)


def test_the_departure_is_that_of_one_feature_worked_out_by_hand():
    """Wu = -1 and 1: BN gives 1 / sqrt(1 + eps), and a / sqrt(a^2 + eps) with weights aW."""
    u, W = torch.tensor([[-1.0], [1.0]]).double(), torch.ones(1, 1).double()
    dy = torch.ones_like(u)
    for a, eps in ((0.1, 0.01), (3.0, 0.5)):
        found = ioffe_scale._compare(u, W, dy, a, eps, eps)
        before, after = (1 + eps) ** -0.5, a * (a**2 + eps) ** -0.5
        assert found["output"] == pytest.approx(abs(after - before) / max(after, before))
        assert found["output_size"] == pytest.approx(after / before)
        assert found["closed_form"] <= 16 * rounding.epsilon(float)  # of numbers of size 1


class EpsOutside(norm.BatchNorm):
    def forward(self, x):
        over = (0, *range(2, x.dim()))
        centred = x - x.mean(over, keepdim=True)
        return centred / (centred.square().mean(over, keepdim=True).sqrt() + self.eps)


class Detached(norm.BatchNorm):
    def forward(self, x):
        over = (0, *range(2, x.dim()))
        mu, var = x.mean(over, keepdim=True), x.var(over, correction=0, keepdim=True)
        return (x - mu.detach()) / (var.detach() + self.eps).sqrt()


class MeanOnly(norm.BatchNorm):
    def forward(self, x):
        return x - x.mean((0, *range(2, x.dim())), keepdim=True)


@pytest.mark.parametrize(
    ("mutant", "wrong"),
    [
        (EpsOutside, {"scale_invariance", "eps_departure"}),
        (Detached, {"orthogonal_gradient"}),
        (MeanOnly, {"scale_invariance", "eps_departure", "orthogonal_gradient"}),
    ],
)
def test_claims_turn_red_for_broken_layers(small, monkeypatch, mutant, wrong):
    monkeypatch.setattr(norm, "BatchNorm", mutant)
    found = criteria(CLAIMS, SCALE.run(small, "cpu"))
    assert {name for name, verdict in found.items() if verdict == "not reproduced"} == wrong


def test_a_case_without_a_number_is_not_passed_over(small_table):
    broken = small_table.copy()
    one = (broken["rule"] == "neglected") & (broken["a"] == broken["a"].max())
    broken.loc[one, "cosine"] = float("nan")
    assert criteria(CLAIMS, broken)["orthogonal_gradient"] == "not reproduced"


def test_facts_are_of_the_linear_layer_at_a_fixed_eps():
    rows = [
        {"seed": s, "layer": layer, "rule": rule, "eps": eps, "a": a, "output": value}
        for s in (0, 1)
        for eps, factor in ((1e-5, 1.0), (1e-3, 100.0))
        for a, value in ((0.001, 0.9), (0.01, 0.004), (0.1, 0.0003), (10.0, 0.00002))
        for layer, rule, value in (
            ("linear", "fixed", factor * value), ("linear", "rescaled", 1.0),
            ("convolution", "fixed", 2.0),
        )
    ]  # fmt: skip
    facts = SCALE.facts(pd.DataFrame(rows))
    assert facts["small_eps_hundredth"]["value"] == pytest.approx(0.4)
    assert facts["large_eps_tenth"]["value"] == pytest.approx(3.0)
    assert (facts["small_eps_thousandth"]["digits"], facts["small_eps_tenth"]["digits"]) == (1, 3)


def test_the_table_has_every_case_once(small_table):
    assert len(small_table) == 2 * 2 * 3 * (1 + 2 + 2)
    assert not small_table.duplicated(["seed", "layer", "rule", "eps", "a"]).any()
    assert small_table["closed_form"].notna().equals(small_table["rule"] != "rescaled")


def test_figures_draw_the_slope_of_the_gradient(small_table):
    ax = style.new_figure(1, 1, 4, 3).axes[0]
    figures.draw_sizes(ax, small_table, "neglected")
    output, _, weights = (line.get_xydata() for line in ax.lines)
    np.testing.assert_allclose(output[:, 1], 1, rtol=1e-12)
    np.testing.assert_allclose(weights[:, 0] * weights[:, 1], 1, rtol=1e-12)
    (ax,) = SCALE.figures["departure"](small_table).axes
    assert len(ax.lines) == 4


def test_the_measures_take_the_worst_of_their_columns():
    row = {
        "seed": 0, "layer": "linear", "rule": "neglected", "eps": 1e-300, "a": 2.0, "output": 1e-15,
        "input_gradient": 3e-5, "weight_gradient": 0.0, "cosine": 0.0, "norm_after_step": 2e-9,
    }  # fmt: skip
    table = pd.DataFrame([row])
    assert analysis.invariance_errors(table).tolist() == [3e-5]
    assert analysis.orthogonality_errors(table).tolist() == [2e-9]
