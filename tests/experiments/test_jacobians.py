"""Jacobians: against automatic differentiation and closed forms; their claims on made-up tables."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import integrate, stats

from bnbook.errors import BnbookError
from bnbook.experiments.jacobians import claims as analysis
from bnbook.experiments.jacobians.experiment import EXPERIMENT as JACOBIANS
from bnbook.probes import jacobian
from bnbook.tables.arms import RESIDUAL, WITH, WITHOUT
from tests import rounding
from tests.judging import by_id, criterion

SMALL = {
    "seeds": (0, 1), "width": 8, "depth": 4, "batch": 16, "layers": (2, 4), "small_width": 4,
    "small_batch": 6, "gradient_widths": (8, 16), "gradient_depth": 4, "gradient_batch": 16,
    "linear_batches": (8,),
}  # fmt: skip
IMPOSSIBLE = [
    ({"layers": (1, 2)}, r"layers must lie in \[2, 20\], found \(1, 2\)"),
    ({"depth": 1}, "depth must be at least 2, found 1"),
    ({"linear_batches": (3,)}, "linear_batches must be distinct and at least 4"),
    ({"linear_batches": (256,)}, "linear_batches must be distinct and at least 4"),
    ({"examples": 1000}, "examples must be at most 256, found 1000"),
    ({"width": 0}, "width must be at least 1, found 0"),
]
CLAIMS = by_id(JACOBIANS.claims)


def network(g="tanh", width=5, depth=3, **options):
    generator = torch.Generator().manual_seed(7)
    weights = jacobian.draw_weights(width, depth, 1.0, generator)
    x = torch.randn((11, width), generator=generator, dtype=torch.float64)
    made = jacobian.Network(weights, g, **options)
    return made, x, made.states(x)


@pytest.mark.parametrize("g", jacobian.NONLINEARITIES)
@pytest.mark.parametrize("normalised", [True, False])
def test_a_layers_jacobian_is_that_of_the_map_with_the_statistics_held(g, normalised):
    made, _, states = network(g, normalised=normalised)
    W = made.weights[1]
    product = made.g(states[1]) @ W.T
    mu, scale = product.mean(0), (product.var(0, correction=0) + 1e-5).sqrt()

    def held(x):
        z = W @ made.g(x)
        return (z - mu) / scale if normalised else z

    for example, J in enumerate(jacobian.layer_jacobians(made, 2, states, 3)):
        torch.testing.assert_close(held(states[1][example]), states[2][example])
        torch.testing.assert_close(J, torch.func.jacrev(held)(states[1][example]))


def test_the_jacobian_of_a_batch_predicts_a_small_change():
    made, _, states = network("sigmoid")
    J = jacobian.batch_jacobian(made, 2, states)
    change = torch.randn(states[1].shape, dtype=torch.float64)
    ahead, behind = (made.layer(2, states[1] + t * change) for t in (1e-6, -1e-6))
    torch.testing.assert_close(
        (J @ change.flatten()).view_as(ahead), (ahead - behind) / 2e-6, rtol=1e-6, atol=1e-7
    )


def test_bn_takes_two_directions_of_each_feature_out_of_a_batch():
    made, _, states = network("linear")
    found = jacobian.singular_values(jacobian.batch_jacobian(made, 2, states), jacobian.NEARLY_ZERO)
    assert found["zeros"] == pytest.approx(2 / 11)


@pytest.mark.parametrize("options", [{}, {"normalised": False}, {"skips": True}])
def test_gradients_by_layer_are_products_of_batch_jacobians(options):
    made, x, states = network("ReLU", **options)
    cotangent = torch.randn(x.shape, dtype=torch.float64)
    found = jacobian.squared_gradients(made, x, cotangent)
    gradient, expected = cotangent.flatten(), [cotangent.square().sum()]
    for number in (3, 2):
        gradient = jacobian.batch_jacobian(made, number, states).T @ gradient
        expected.append(gradient.square().sum())
    assert found == pytest.approx([float(e / expected[0]) for e in reversed(expected)])
    assert found[-1] == 1


def test_singular_values_of_a_diagonal_matrix():
    found = jacobian.singular_values(torch.diag(torch.tensor([0.0, 1.0, 2.0, 3.0]).double()))
    assert found["zeros"] == 0.25
    assert found["rms"] == pytest.approx(math.sqrt(14 / 4))
    assert (found["s50"], found["smax"]) == (2.0, 3.0)
    assert (found["s10"], found["s90"]) == pytest.approx((1.2, 2.8))


def test_orthogonal_weights_keep_lengths():
    (W,) = jacobian.draw_weights(6, 1, 2.0, torch.Generator().manual_seed(0), orthogonal=True)
    torch.testing.assert_close(W @ W.T, 4 * torch.eye(6, dtype=torch.float64))


FUNCTIONS = {
    "linear": (lambda z: z, lambda z: 1.0),
    "sigmoid": (lambda z: 1 / (1 + math.exp(-z)), lambda z: 1 / (2 + 2 * math.cosh(z))),
    "tanh": (math.tanh, lambda z: math.cosh(z) ** -2),
    "ReLU": (lambda z: max(z, 0.0), lambda z: float(z > 0)),
}


@pytest.mark.parametrize("g", analysis.NONLINEARITIES)
def test_expected_growth_by_integration(g):
    function, slope = FUNCTIONS[g]

    def mean(h):
        return integrate.quad(lambda z: h(z) * stats.norm.pdf(z), -12, 12, points=[0])[0]

    variance = mean(lambda z: function(z) ** 2) - mean(function) ** 2
    expected = mean(lambda z: slope(z) ** 2) / variance
    assert analysis.expected_growth(g) == pytest.approx(expected, rel=1e-6)
    # Never below 1, but for the rounding of three sums over 201 nodes.
    assert analysis.expected_growth(g) >= 1 - 3 * 201 * rounding.epsilon(float)


def made_up(spread=3.0, growth=1.46, seeds=(0, 1, 2)):
    """A table whose truth is known: the least spread is ReLU's, the widest network grows so."""
    rows = []
    for seed in seeds:
        wobble = 1 + 0.001 * seed
        for g in analysis.NONLINEARITIES:
            base = {"seed": seed, "arm": WITH, "nonlinearity": g, "weights": "gaussian"}
            own = spread * (1 if g == "ReLU" else 4)
            for measured, layer in (("layer", 2), ("layer", 3), ("network", 3), ("batch", 2)):
                rows.append({
                    **base, "measured": measured, "width": 8, "batch": 16, "layer": layer,
                    "s10": 0.5, "s50": 1.0, "s90": 0.5 * own * wobble, "smax": 10.0, "rms": 1.0,
                    "zeros": 0.5,
                })  # fmt: skip
        for arm, g, width, batch, rate in (
            (WITH, "ReLU", 64, 32, growth), (WITH, "ReLU", 16, 32, 9.0),
            (WITHOUT, "ReLU", 64, 32, 1.0), (RESIDUAL, "ReLU", 64, 32, 1.1),
            (WITH, "linear", 64, 32, 30 / 29), (WITH, "linear", 64, 8, 1.2),
        ):  # fmt: skip
            for layer in range(1, 7):
                rows.append({
                    "seed": seed, "arm": arm, "nonlinearity": g, "weights": "gaussian",
                    "measured": "gradient", "width": width, "batch": batch, "layer": layer,
                    "squared_gradient": (rate * wobble) ** (6 - layer),
                })  # fmt: skip
    return pd.DataFrame(rows)


def verdict(claim, **changes):
    return criterion(CLAIMS[claim], made_up(**changes)).verdict


def test_measures_on_a_table_with_known_truth():
    table = made_up()
    assert analysis.least_spread(table).tolist() == pytest.approx([3, 3.003, 3.006])
    assert analysis.relu_growth(table).tolist() == pytest.approx([1.46, 1.46146, 1.46292])
    assert analysis.relu_departure(table).iloc[0] == pytest.approx(1 - 1.46 / 1.466942, rel=1e-4)


@pytest.mark.parametrize(
    ("claim", "for_it", "against"),
    [
        ("ioffe.sec3_3.jacobian", {"spread": 1.5}, {"spread": 3.0}),
        ("yang.gradient_explosion", {"growth": 1.1}, {"growth": 0.9}),
        ("yang.relu.rate", {"growth": 1.46}, {"growth": 1.6}),
    ],
)
def test_claims_turn_with_the_truth(claim, for_it, against):
    assert verdict(claim, **for_it) == "reproduced"
    assert verdict(claim, **against) == "not reproduced"


def test_facts_on_a_table_with_known_truth():
    plain = made_up().assign(arm=lambda t: t["arm"].where(t["measured"] != "layer", WITHOUT))
    orthogonal = made_up().query("measured == 'layer'").assign(weights="orthogonal")
    facts = JACOBIANS.facts(pd.concat([made_up(), plain.query("measured == 'layer'"), orthogonal]))
    assert facts["relu_spread"]["value"] == pytest.approx(3.003)
    assert facts["relu_zeros"]["value"] == 50
    assert facts["residual_late_growth"]["value"] == pytest.approx(1.1 * 1.001)
    assert facts["linear_batch_8"]["value"] == pytest.approx(1.2 * 1.001)
    assert facts["linear_formula_error"]["value"] == pytest.approx(0.1, rel=0.01)
    assert facts["narrowest_growth"]["value"] == pytest.approx(9.009)


def test_a_small_run_measures_everything(small_table):
    keys = ["seed", "measured", "arm", "nonlinearity", "weights", "width", "batch", "layer"]
    assert not small_table.duplicated([*keys, "example"]).any()
    assert set(small_table["measured"]) == {"layer", "network", "batch", "gradient"}
    assert set(JACOBIANS.facts(small_table)) > {"with_tanh_growth", "orthogonal_spread"}


def test_a_networks_jacobian_begins_as_its_second_layers(small_table):
    rows = small_table[(small_table["layer"] == 2) & (small_table["example"] >= 0)]
    values = rows.pivot_table(
        index=["seed", "arm", "nonlinearity", "weights", "example"], columns="measured",
        values="smax",
    )  # fmt: skip
    np.testing.assert_allclose(values["layer"], values["network"])


@pytest.mark.slow
def test_the_explosion_needs_bn():
    """The network without BN in the place of the one with it: the claim turns."""
    config = JACOBIANS.configure(
        "quick", **{**SMALL, "seeds": (0, 1, 2), "gradient_widths": (16, 128),
                    "gradient_batch": 128, "gradient_depth": 10},
    )  # fmt: skip
    table = JACOBIANS.run(config, "cpu")
    judged = criterion(CLAIMS["yang.gradient_explosion"], table)
    assert judged.verdict == "reproduced"
    swapped = table.assign(arm=table["arm"].map({WITH: WITHOUT, WITHOUT: WITH}))
    assert criterion(CLAIMS["yang.gradient_explosion"], swapped).verdict != "reproduced"


def test_impossible_networks():
    with pytest.raises(BnbookError, match=r"nonlinearity must be one of .* found 'GELU'"):
        jacobian.Network([torch.eye(2)], "GELU")
    with pytest.raises(BnbookError, match="weights must not be empty"):
        jacobian.Network([], "tanh")
    made, _, states = network()
    with pytest.raises(BnbookError, match="number must be at least 2"):
        jacobian.layer_jacobians(made, 1, states, 1)
