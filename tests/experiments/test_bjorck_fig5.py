"""Channel moments against depth: theory against wide networks, claims on made-up tables."""

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import integrate, stats

from bnbook.experiments.bjorck_fig5 import claims as analysis
from bnbook.experiments.bjorck_fig5.claims import BLOCK, IMAGES, LAYER, NOISE
from bnbook.experiments.bjorck_fig5.experiment import EXPERIMENT as bjorck_fig5
from bnbook.layers import ensemble
from bnbook.layers.norm import BatchNorm
from bnbook.networks import models
from bnbook.probes import moments
from bnbook.setups import first_steps
from bnbook.tables.arms import WITH, WITHOUT
from tests.judging import criterion

SMALL = {"data": "digits", "seeds": (0, 1), "batch_size": 4, "n": 1}
IMPOSSIBLE = [
    ({"batch_size": 0}, "batch_size must be at least 1, found 0"),
    ({"n": 0}, "n must be at least 1, found 0"),
]
(CLAIM,) = bjorck_fig5.claims
N = 4


def made_up(without=1.5, with_bn=1.02, seeds=(0, 1, 2)):
    """A table whose truth is known: moments grow by a factor a block."""
    rows = []
    for seed in seeds:
        for arm, factor in ((WITHOUT, without), (WITH, with_bn)):
            for inputs in (IMAGES, NOISE):
                outputs = [(LAYER, i, i // 2) for i in range(1, 6 * N + 3)]
                outputs += [(BLOCK, i, i) for i in range(1, 3 * N + 1)]
                for kind, index, block in outputs:
                    moment = (1 + 0.01 * seed) * factor**block
                    rows.append({
                        "arm": arm, "seed": seed, "inputs": inputs, "kind": kind, "index": index,
                        "mean": moment**0.5, "mean_std": 0.1, "largest_mean": 2 * moment**0.5,
                        "variance": moment * (1 + index % 2), "variance_std": 0.2,
                        "second": 4 * moment, "batch_size": 8, "input_second": 1.0,
                    })  # fmt: skip
    return pd.DataFrame(rows)


def test_measures_on_a_table_with_known_truth():
    table = made_up()
    growth = analysis.total_growth(table, "variance")
    np.testing.assert_allclose(growth[WITHOUT], 1.5**11)
    np.testing.assert_allclose(growth[WITH], 1.02**11)
    np.testing.assert_allclose(analysis.growth_gap(table), 11 * np.log10(1.5 / 1.02))
    for stage in (1, 2, 3):
        np.testing.assert_allclose(analysis.fitted_growth(table, WITHOUT, stage), 1.5)


@pytest.mark.parametrize(
    ("changes", "verdict"),
    [
        ({}, "reproduced"),
        ({"without": 1.02}, "not reproduced"),
        ({"with_bn": 1.5}, "not reproduced"),
        ({"without": 1.2, "with_bn": 1.02}, "not reproduced"),
    ],
)
def test_the_claim_turns_with_the_truth(changes, verdict):
    table = made_up(**changes)
    wobble = table["arm"].eq(WITHOUT) * 0.001 * table["seed"] * table["index"]
    table["variance"] *= 1 + wobble
    assert criterion(CLAIM, table).verdict == verdict


def test_the_fit_leaves_out_the_block_that_changes_size():
    blocks = pd.Series([1.0, 2, 4, 8, 1, 3, 9, 27, 7, 14, 28, 56])
    assert [analysis.stage_growth(blocks, s) for s in (1, 2, 3)] == pytest.approx([2, 3, 2])


def test_facts_on_a_table_with_known_truth():
    facts = bjorck_fig5.facts(made_up())
    assert facts["layers"]["value"] == 26
    assert facts["without_variance_growth"]["value"] == pytest.approx(1.5**11)
    assert facts["without_mean_growth"]["value"] == pytest.approx(1.5**5.5)
    assert facts["without_first_convolution_growth"]["value"] == pytest.approx(1.5**11)
    apart = analysis.convolution_growth(made_up().query("index != 4"), WITH)
    assert apart["second"].tolist() == pytest.approx([1.02**11] * 3)
    assert facts["with_stage2_growth"]["value"] == pytest.approx(1.02)
    assert facts["without_noise_gap"]["value"] == pytest.approx(0)
    assert facts["with_last_mean_share"]["value"] == pytest.approx(75)
    assert facts["without_last_second_theory"]["value"] == analysis.wide_limit(N, False).blocks[-1]


def test_the_first_block_by_integration():
    """Far from the border: x = relu(z), z of variance v, then relu(x + r), r of variance v / 4."""
    v = 6 / 19

    def cut(x, s):
        return (x**2 + s**2) * stats.norm.cdf(x / s) + x * s * stats.norm.pdf(x / s)

    expected = integrate.quad(
        lambda x: cut(x, (v / 4) ** 0.5) * stats.norm.pdf(x, scale=v**0.5), 0, 6
    )[0] + 0.5 * cut(0, (v / 4) ** 0.5)
    side = 64  # the border is thin
    found = analysis.wide_limit(1, False, side)
    assert found.layers[0] == pytest.approx(v * ((3 * side - 2) / (3 * side)) ** 2)
    assert found.blocks[0] == pytest.approx(expected, rel=0.03)
    q = v / 2
    assert found.layers[1:3] == pytest.approx([q, q / 2], rel=0.05)


def test_growth_without_bn_lies_between_its_bounds():
    """The skip keeps the stream, half to all of the branch's variance q/2 is added to it."""
    blocks = pd.Series(analysis.wide_limit(18, False).blocks)
    assert all(1.25 < analysis.stage_growth(blocks, stage) < 1.5 for stage in (1, 2, 3))


def test_growth_with_bn_is_linear():
    """A walk reflected at zero: its mean square grows by nearly 1 a step."""
    blocks = analysis.wide_limit(18, True).blocks[:18]
    assert np.diff(blocks)[5:] == pytest.approx(np.ones(12), abs=0.25)


@pytest.mark.parametrize(("layer", "tolerance"), [(None, 0.12), (BatchNorm, 0.04)])
def test_the_limit_is_that_of_wide_networks(layer, tolerance):
    """Eight times as wide: 24 colours stand to 128 channels as 3 to 16."""
    found = []
    for seed in range(6):
        model = models.ResNet(
            layer, (seed,), n=2, in_channels=24, widths=(128, 256, 512), init_std=ensemble.xavier
        )
        noise = torch.randn(2, 24, 32, 32, generator=torch.Generator().manual_seed(seed))
        outputs = [*model.convolutions, *model.blocks]
        measured = moments.channel_moments(model, outputs, noise)
        found.append([float((m.mean**2 + m.variance).mean()) for m in measured])
    limit = analysis.wide_limit(2, layer is not None)
    np.testing.assert_allclose(
        np.mean(found, 0), np.concatenate([limit.layers, limit.blocks]), rtol=tolerance
    )


def test_a_small_run_has_every_layer_and_block(small_table):
    assert not small_table.duplicated(["arm", "seed", "inputs", "kind", "index"]).any()
    assert len(small_table) == 2 * 2 * 2 * (8 + 3)
    assert small_table.groupby("kind")["index"].max().to_dict() == {LAYER: 8, BLOCK: 3}


def test_both_networks_start_alike(small_table):
    first = small_table[(small_table["kind"] == LAYER) & (small_table["index"] == 1)]
    values = first.pivot_table(index=["seed", "inputs"], columns="arm", values="variance")
    assert (values[WITH] == values[WITHOUT]).all()


def test_a_network_without_bn_in_bns_place_turns_the_claim(monkeypatch):
    plain = first_steps.network
    monkeypatch.setattr(first_steps, "network", lambda _, *rest: plain(WITHOUT, *rest))
    table = bjorck_fig5.run(bjorck_fig5.configure("quick", **SMALL), "cpu")
    assert (analysis.growth_gap(table) == 0).all()
    assert criterion(CLAIM, table).verdict == "not reproduced"


def test_figures_draw_every_panel(small_table):
    for name, draw in bjorck_fig5.figures.items():
        for ax in draw(small_table).axes:
            assert ax.lines, name
            assert np.isfinite(ax.lines[0].get_ydata()).all(), name
