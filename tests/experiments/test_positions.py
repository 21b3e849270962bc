"""What an image is worth: the layer of one position, and measures on a table of known truth."""

import numpy as np
import pandas as pd
import pytest
import torch

from bnbook.evidence import claims
from bnbook.experiments.positions.claims import CONNECTED, CONVNET, ONE_POSITION
from bnbook.experiments.positions.experiment import EXPERIMENT
from bnbook.experiments.positions.layer import OnePositionBatchNorm
from bnbook.layers.norm import BatchNorm
from bnbook.layers.renorm import ReplicaBatchNorm
from bnbook.tables import right
from tests.judging import by_id, criterion, verdicts

SMALL = {
    "data": "digits", "seeds": (0, 1), "tuning_seeds": (100,), "learning_rates": (0.1, 0.3),
    "validation": 64, "train_images": 300, "test_images": 64, "examples": 160, "pool": 2,
    "widths": (4, 4), "hidden": (8, 8), "batch_sizes": (2, 8, 32),
}  # fmt: skip
IMPOSSIBLE = [
    ({"batch_sizes": (2, 8, 32, 5)}, "divide batch_size, 32, found 5"),
    ({"batch_sizes": (2, 32)}, "must hold 8"),
    ({"arms": (CONVNET,)}, "arms must hold"),
    ({"seeds": (0, 100)}, "would do both"),
]
DRAWS, ONE, COST = EXPERIMENT.claims
ERRORS = {
    CONVNET: {2: 0.62, 8: 0.55, 32: 0.54},
    ONE_POSITION: {2: 0.90, 8: 0.64, 32: 0.57},
    CONNECTED: {2: 0.79, 8: 0.60, 32: 0.57},
}
WORTH = {CONVNET: (4.0, 9.0), ONE_POSITION: (3.0, 3.0), CONNECTED: (1.0, 1.0)}


def made_up(images=0):
    """A table whose truth is known; rates at both ends are worse, and one seed tunes."""
    rows = []
    for arm, errors in ERRORS.items():
        for m, error in errors.items():
            for seed in (0, 1, 2, 100):
                for rate in (0.03, 0.1, 0.3) if seed == 100 else (0.1,):
                    share = 1 - error - 0.001 * seed * (seed < 100)
                    kept = right.pack(np.arange(images) < round(share * images)) if images else ""
                    rows += [
                        {
                            "arm": arm, "batch_size": m, "seed": seed, "learning_rate": rate,
                            "tunes": seed == 100, "layer": layer, "draws_of_mean": worth,
                            "draws_of_variance": 2 * worth, "test_accuracy": share,
                            "validation_accuracy": share - (rate != 0.1),
                            "right": kept if layer == 1 and seed < 100 else "",
                        }
                        for layer, worth in enumerate(WORTH[arm], start=1)
                    ]  # fmt: skip
    return pd.DataFrame(rows)


def test_the_measures_on_a_table_with_known_truth():
    table = made_up()
    assert DRAWS.measure(table).tolist() == pytest.approx([6.0] * 3)  # the root of 4 times 9
    assert ONE.measure(table).tolist() == pytest.approx([9.0] * 3)
    assert COST.measure(table).tolist() == pytest.approx([14.0] * 3)  # 22 and 8
    assert set(verdicts(by_id(EXPERIMENT.claims), table).values()) == {"reproduced"}
    facts = EXPERIMENT.facts(table)
    assert facts["convnet_rise_2"]["value"] == pytest.approx(8.0)
    assert facts["one_position_32"]["value"] == pytest.approx(57.1)
    assert facts["draws_2"]["value"] == pytest.approx(9.0)
    assert facts["variance_draws"]["value"] == pytest.approx(12.0)


def test_differences_are_taken_over_seeds_and_test_images():
    table = made_up(images=1000)
    for claim in (ONE, COST):
        judged = claims.judge(claim, table)
        assert judged.value == pytest.approx(claim.measure(made_up()).mean())
        assert judged.over == "seeds and test images"


def test_the_claims_turn_red_on_the_other_truth():
    table = made_up()
    other = table.replace({"arm": {CONVNET: CONNECTED, CONNECTED: CONVNET}})
    assert criterion(DRAWS, other).verdict == "not reproduced"
    assert criterion(COST, other).verdict == "not reproduced"
    swapped = table.replace({"arm": {CONVNET: ONE_POSITION, ONE_POSITION: CONVNET}})
    assert criterion(ONE, swapped).verdict == "not reproduced"


def test_premises_ask_for_rates_inside_and_for_learning_with_whole_minibatches_only():
    table = made_up()
    assert claims.judge(COST, table).verdict == "reproduced"  # with 21 % right at m = 2
    at_end = table[table["learning_rate"] != 0.3]
    assert {claims.judge(claim, at_end).verdict for claim in EXPERIMENT.claims} == {"not tested"}
    poor = table["test_accuracy"].where(table["batch_size"] != 32, 0.2)
    assert claims.judge(ONE, table.assign(test_accuracy=poor)).verdict == "not tested"


def test_a_small_run_has_a_row_for_each_layer_and_one_draw_where_there_is_one_position(
    small, small_table
):
    assert set(small_table["layer"]) == {1, 2}
    whole = small_table[small_table["batch_size"] == 32]
    of = whole.groupby("arm")["draws_of_mean"]
    assert of.min()[CONNECTED] == pytest.approx(1) == of.max()[CONNECTED]
    assert of.min()[CONVNET] > 1
    shown = small_table[~small_table["tunes"] & (small_table["layer"] == 1)]
    kept = shown["right"].map(right.unpack)
    assert set(kept.map(len)) == {small.test_images}
    assert (kept.map(np.mean) == shown["test_accuracy"]).all()


def layers(m=4, features=3):
    made = [kind(features, m).double() for kind in (OnePositionBatchNorm, ReplicaBatchNorm)]
    for layer in made:
        with torch.no_grad():
            layer.weight.copy_(torch.tensor([1.0, 2.0, -0.5]))
            layer.bias.copy_(torch.tensor([0.0, 1.0, 3.0]))
    return made


def normal(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_on_maps_of_one_position_it_is_bn_of_each_replica():
    one, all_of_them = layers()
    x, v = normal(8, 3, 1, 1).requires_grad_(), normal(8, 3, 1, 1)
    results = []
    for layer in (one, all_of_them):
        y = layer(x)
        results.append((y, *torch.autograd.grad((v * y).sum(), (x, layer.weight, layer.bias))))
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)
    for name in ("running_mean", "running_var"):
        torch.testing.assert_close(getattr(one, name), getattr(all_of_them, name))


def test_statistics_are_those_of_one_position_of_each_example_drawn_anew():
    layer, _ = layers(m=4)
    places = (torch.arange(6) * 1000.0).view(1, 1, 2, 3)
    x = normal(8, 3, 2, 3) + places
    seen = set()
    for _ in range(3):
        y = layer(x).detach()
        y = (y - layer.bias.detach().view(1, 3, 1, 1)) / layer.weight.detach().view(1, 3, 1, 1)
        for part, of in zip(y.split(4), x.split(4), strict=True):
            scale = (of[0, 0, 1, 2] - of[0, 0, 0, 0]) / (part[0, 0, 1, 2] - part[0, 0, 0, 0])
            mean = of[0, 0, 0, 0] - part[0, 0, 0, 0] * scale
            whole = round(float(mean) / 250)  # 4 places, in units of 1000, on average
            assert float(mean) == pytest.approx(250 * whole, abs=5)
            seen.add(whole)
    assert len(seen) > 2  # other positions in other replicas and steps


def test_the_positions_are_those_of_the_step_whatever_else_is_drawn():
    results = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        layer, _ = layers()
        results.append([layer(normal(8, 3, 4, 4)) for _ in range(2)])
    for a, b in zip(*results, strict=True):
        assert torch.equal(a, b)
    assert not torch.allclose(*results[0])


def test_its_gradient_is_that_of_finite_differences_and_it_passes_for_bn_elsewhere():
    layer, all_of_them = layers()
    x = normal(8, 3, 2, 2).requires_grad_()

    def first_step(x):
        layer.num_batches_tracked.zero_()
        return layer(x)

    assert torch.autograd.gradcheck(first_step, (x,))
    layer.one_position = False
    torch.testing.assert_close(layer(x), all_of_them(x))
    plain = BatchNorm(3).double().eval()
    plain.load_state_dict(layer.state_dict())
    torch.testing.assert_close(layer.eval()(x), plain(x))
