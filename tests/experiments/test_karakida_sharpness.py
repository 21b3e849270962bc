"""Sharpness with BN placed anywhere: claims on made-up tables, and what is measured."""

import numpy as np
import pandas as pd
import pytest
import torch

from bnbook.evidence import claims as evidence
from bnbook.experiments.karakida_sharpness import claims as analysis
from bnbook.experiments.karakida_sharpness import experiment as module
from bnbook.experiments.karakida_sharpness.claims import (
    ARMS,
    CASES,
    CENTRED,
    EVERYWHERE,
    GAUSSIAN,
    HIDDEN,
    IMAGES,
    LAST_HIDDEN,
    LAYER_NORMS,
    MIDDLE,
    SCALED,
    SHOWN,
    SOFTMAX,
)
from bnbook.experiments.karakida_sharpness.experiment import EXPERIMENT
from bnbook.tables.arms import LAST_ONLY, WITHOUT
from tests.judging import by_name, verdicts

SMALL = {"widths": (8, 16), "seeds": (0, 1), "products": 10}
"""Changes to the quick profile that make it a matter of a second."""
IMPOSSIBLE = [
    ({"widths": (2, 16)}, "widths must be at least 4"),
    ({"hidden": 1}, "hidden must be at least 2, found 1"),
    ({"outputs": 0}, "outputs must be at least 1"),
    ({"products": 0}, "products must be at least 1"),
]
CLAIMS = by_name(EXPERIMENT.claims)

LEVELS = {
    WITHOUT: 1.0, LAST_ONLY: 0.02, MIDDLE: 0.7, LAST_HIDDEN: 0.4, HIDDEN: 0.3, EVERYWHERE: 0.02,
    LAYER_NORMS: 0.8, CENTRED: 0.03, SCALED: 1.2,
}  # fmt: skip
"""Largest eigenvalues of a made-up table, over the width."""


def made_up(changes=None, power=1.0, error=0.01, widths=(64, 128, 256), images=None, softmax=None):
    """A table whose truth is known: eigenvalues at `LEVELS` times a power of the width.

    Those of images and of the softmax can have levels of their own; a seed adds a hundredth.
    """
    levels = LEVELS | (changes or {})
    own = {GAUSSIAN: levels, IMAGES: levels | (images or {}), SOFTMAX: levels | (softmax or {})}
    rows = [
        (seed, width, case, arm,
         own[case][arm] * width**power * (1 + 0.01 * seed * (arm != WITHOUT)))
        for seed in range(5) for width in widths for case in CASES
        for arm in (ARMS if case == GAUSSIAN else SHOWN)
    ]  # fmt: skip
    table = pd.DataFrame(rows, columns=["seed", "width", "case", "arm", "eigenvalue"])
    return table.assign(error=error * table["eigenvalue"])


def test_measures_on_a_table_with_known_truth():
    table = made_up()
    assert analysis.exponent(table).tolist() == pytest.approx([1.0] * 5)
    assert analysis.lowered(table, [LAST_ONLY]).tolist() == pytest.approx(
        [50 / (1 + 0.01 * seed) for seed in range(5)]
    )
    assert analysis.lowered(table, analysis.INSIDE).iloc[0] == pytest.approx(1 / 0.3)
    part, whole = analysis.centring(table).iloc[0]
    assert part / whole == pytest.approx(np.log(0.03) / np.log(0.02))
    assert set(verdicts(CLAIMS, table).values()) == {"reproduced"}


@pytest.mark.parametrize(
    ("changes", "turned"),
    [
        ({"power": 0.2}, {"wide"}),
        ({"changes": {LAST_ONLY: 0.3, CENTRED: 0.3}}, {"last_layer", "images", "softmax"}),
        ({"changes": {HIDDEN: 0.02}}, {"middle_layers"}),
        ({"changes": {MIDDLE: 0.02}}, {"middle_layers"}),
        ({"changes": {LAYER_NORMS: 0.02}}, {"layer_norm"}),
        ({"changes": {CENTRED: 0.9}}, {"centring"}),
        ({"images": {LAST_ONLY: 0.3}}, {"images"}),
        ({"softmax": {LAST_ONLY: 0.3}}, {"softmax"}),
    ],
)
def test_claims_turn_red_when_the_truth_is_otherwise(changes, turned):
    found = verdicts(CLAIMS, made_up(**changes))
    assert {name for name, verdict in found.items() if verdict == "not reproduced"} == turned
    assert set(found.values()) <= {"reproduced", "not reproduced"}


@pytest.mark.parametrize(
    ("changes", "untested"),
    [
        ({"widths": (32, 64, 128)}, set(CLAIMS)),
        ({"widths": (128, 256)}, {"wide"}),
        ({"error": 0.2}, set(CLAIMS)),
        ({"changes": {LAST_ONLY: 0.8}}, {"centring"}),
    ],
)
def test_a_table_that_lacks_what_a_claim_needs_does_not_test_it(changes, untested):
    found = verdicts(CLAIMS, made_up(**changes))
    assert {name for name, verdict in found.items() if verdict == "not tested"} == untested


def test_every_premise_can_hold_and_fail():
    table = made_up()
    none = made_up({LAST_ONLY: 0.8}, widths=(64, 65), error=0.5)
    for claim in EXPERIMENT.claims:
        assert claim.premises
        assert all(each["holds"] for each in evidence.judge(claim, table).premises)
        assert not any(each["holds"] for each in evidence.judge(claim, none).premises)


def test_facts():
    found = EXPERIMENT.facts(made_up())
    assert found["widest"]["value"] == 256
    assert found["narrowest"]["value"] == 64
    assert found["error"]["value"] == pytest.approx(1)
    assert found["without_gaussian_eigenvalue"]["value"] == pytest.approx(256)
    assert found["scaled_gaussian_power"]["value"] == pytest.approx(1)
    assert "scaled_images_power" not in found


def test_powers_separate_what_one_width_does_not():
    """Hidden layers halve the eigenvalue at every width; the last layer stops its growth."""
    table = made_up()
    grows = table["case"] == GAUSSIAN
    for arm, power in ((HIDDEN, 1.0), (LAST_ONLY, -0.5)):
        own = grows & (table["arm"] == arm)
        table.loc[own, "eigenvalue"] = 0.5 * table.loc[own, "width"] ** power
    found = EXPERIMENT.facts(table)
    assert found["without_gaussian_power"]["value"] == pytest.approx(1)
    assert found["hidden_gaussian_power"]["value"] == pytest.approx(1)
    assert found["last_gaussian_power"]["value"] == pytest.approx(-0.5)


def test_the_claims_bound_is_one_for_what_lowers_and_for_what_does_not():
    assert {c.bound for c in EXPERIMENT.claims if c.unit == "×"} == {analysis.SHARPLY}
    assert CLAIMS["last_layer"].direction == "above"
    assert {CLAIMS[n].direction for n in ("middle_layers", "layer_norm")} == {"below"}


# --- the measurements ---


def test_a_small_run_has_a_row_for_each_network(small_table):
    assert len(small_table) == 2 * 2 * (len(ARMS) + 2 * len(SHOWN))
    assert not small_table.duplicated(["seed", "width", "case", "arm"]).any()
    assert (small_table["eigenvalue"] > 0).all()


def test_norms_are_where_the_arms_say():
    at = {arm: sorted(module.norms(arm, 3)) for arm in ARMS}
    assert at == {
        WITHOUT: [], LAST_ONLY: [4], MIDDLE: [2], LAST_HIDDEN: [3], HIDDEN: [1, 2, 3],
        EVERYWHERE: [1, 2, 3, 4], LAYER_NORMS: [1, 2, 3, 4], CENTRED: [4], SCALED: [4],
    }  # fmt: skip


def test_centred_outputs_have_no_mean_and_scaled_ones_keep_it():
    x = 3 + torch.randn(50, 10, generator=torch.Generator().manual_seed(0))
    centred, scaled = (module.norms(arm, 3)[4](10)(x) for arm in (CENTRED, SCALED))
    torch.testing.assert_close(centred, x - x.mean(0))
    torch.testing.assert_close(scaled, x / (x.var(0, correction=0) + 1e-5).sqrt())


def test_the_outputs_bias_alone_has_the_eigenvalue_one(monkeypatch):
    """With weights of zero the outputs are their bias: the Fisher information is the identity."""
    from bnbook.layers import ensemble

    monkeypatch.setattr(ensemble, "he", lambda layer: 0.0)
    run = EXPERIMENT.parts(EXPERIMENT.configure("quick", **SMALL))[0]
    found = module._top(run, WITHOUT, module._normal(0, 8), "gaussian")
    assert found["eigenvalue"] == pytest.approx(1, rel=1e-5)


def test_inputs_are_as_many_as_the_width_and_of_variance_one():
    run = EXPERIMENT.parts(EXPERIMENT.configure("quick", widths=(200,), seeds=(0,)))[0]
    images, normal = module._images(run), module._normal(0, 200)
    assert (len(images), normal.shape) == (200, (200, 200))
    assert images.var(0, correction=0).mean().item() == pytest.approx(1, rel=0.1)
    assert normal.std().item() == pytest.approx(1, rel=0.02)


def test_networks_without_bn_in_bns_place_do_not_differ(monkeypatch):
    plain = module.norms
    monkeypatch.setattr(module, "norms", lambda arm, hidden: plain(WITHOUT, hidden))
    found = EXPERIMENT.run(EXPERIMENT.configure("quick", **SMALL), "cpu")
    assert (found.groupby(["seed", "width", "case"])["eigenvalue"].nunique() == 1).all()
    assert analysis.lowered(found, [LAST_ONLY]).tolist() == [1.0, 1.0]


def test_the_figure_draws_what_the_table_says():
    figure = EXPERIMENT.figures["widths"](made_up())
    assert [ax.get_title("left") for ax in figure.axes] == list(CASES)
    line = figure.axes[0].lines[0]
    assert line.get_ydata() == pytest.approx([64, 128, 256])
