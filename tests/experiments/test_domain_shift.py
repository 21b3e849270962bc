"""Statistics estimated again: the changes of images, measures, and a small real run."""

import copy

import pandas as pd
import pytest
import torch

from bnbook.evidence import claims
from bnbook.experiments.domain_shift import claims as analysis
from bnbook.experiments.domain_shift import experiment as shift
from bnbook.experiments.domain_shift.claims import (
    BLUR,
    CONTRAST,
    DOMAINS,
    DRIFT,
    MOVING,
    NOISE,
    PLAIN,
)
from bnbook.experiments.domain_shift.experiment import EXPERIMENT
from bnbook.setups import convnets
from bnbook.tables.arms import ADAPTED, BN, GROUP_NORM, MIXED, RUNNING
from tests.judging import criterion

SMALL = {
    "data": "digits", "seeds": (0, 1), "tuning_seeds": (100,), "learning_rates": (0.1, 0.3),
    "validation": 64, "train_images": 300, "test_images": 64, "examples": 160, "pool": 2,
    "widths": (4, 4), "adapting": (4, 32),
}  # fmt: skip
IMPOSSIBLE = [
    ({"contrast": 1.0}, "contrast must lie between 0 and 1"),
    ({"blur": 2}, "blur odd"),
    ({"adapting": (1, 32)}, "adapting must lie from 2"),
    ({"validation": 64, "adapting": (4, 65)}, "64 validation images"),
    ({"arms": (BN,)}, "arms must hold"),
]
SHIFT, DRIFTS = EXPERIMENT.claims
CONFIG = EXPERIMENT.configure("quick", **SMALL)


def drawn(n=12):
    return torch.rand(n, 2, 6, 6, generator=torch.Generator().manual_seed(0))


def test_less_contrast_keeps_each_images_mean_and_shrinks_its_spread():
    x = drawn()
    y = shift.changed(x, CONTRAST, CONFIG)
    torch.testing.assert_close(y.mean((1, 2, 3)), x.mean((1, 2, 3)))
    torch.testing.assert_close(y.std((1, 2, 3)), 0.3 * x.std((1, 2, 3)))
    assert shift.changed(x, PLAIN, CONFIG) is x


def test_noise_has_its_size_and_blur_keeps_constant_images():
    x = torch.zeros(50, 1, 20, 20)
    assert shift.changed(x, NOISE, CONFIG, 1).std() == pytest.approx(CONFIG.noise, rel=0.02)
    flat = torch.full((2, 1, 5, 5), 0.7)
    torch.testing.assert_close(shift.changed(flat, BLUR, CONFIG), flat)
    point = torch.zeros(1, 1, 5, 5)
    point[..., 2, 2] = 9.0
    assert shift.changed(point, BLUR, CONFIG)[0, 0, 1:4, 1:4].tolist() == [[1.0] * 3] * 3


@pytest.fixture
def model():
    torch.manual_seed(0)
    return convnets.network(BN, (0, 1), 2, CONFIG, 4)


def test_adapting_to_a_contrast_undoes_it(model):
    """A factor on images that are centred changes no normalised value, but for eps and borders."""
    for layer in convnets.replica_layers(model):
        layer.eps = 1e-12
    x = drawn(16)
    x = x - x.mean((1, 2, 3), keepdim=True)
    scores = []
    for images in (x, convnets.faded(x, torch.full((16,), 0.1))):
        with shift.adapted(model, images), torch.no_grad():
            scores.append(model(images))
    torch.testing.assert_close(*scores, rtol=1e-3, atol=1e-3)


def test_adapting_takes_the_images_as_one_minibatch_and_puts_its_settings_back(model):
    x, layers = drawn(10), convnets.replica_layers(model)
    with shift.adapted(model, x):
        seen = []
        hook = layers[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        with torch.no_grad():
            model.train()(x)
        hook.remove()
        mean = seen[0].mean((0, 2, 3))
        torch.testing.assert_close(layers[0].running_mean, mean, rtol=1e-4, atol=1e-5)
    assert {(each.batch_size, each.momentum, each.every_replica) for each in layers} == {
        (4, 0.1, False)
    }


def test_moving_on_classifies_each_minibatch_after_it_has_moved_the_statistics(model):
    x, y = drawn(16), torch.arange(16) % 10
    found = shift._moving(model, x, y, 8)
    other, right = copy.deepcopy(model), []
    with torch.no_grad():
        for part, labels in zip(x.split(8), y.split(8), strict=True):
            other.train()(part)
            right.append(other.eval()(part).argmax(-1) == labels[:, None])
    assert torch.equal(found, torch.cat(right).T)
    assert all(int(each.num_batches_tracked) == 0 for each in convnets.replica_layers(model))


def made_up(again=0.3, moving=0.35):
    """Errors per domain whose truth is known; plain 0.2, changed 0.5 before and `again` after."""
    rows = []
    for seed in (0, 1, 2, 9):
        for arm, domain in [(a, d) for a in (BN, GROUP_NORM) for d in (*DOMAINS, DRIFT)]:
            for rate in (0.03, 0.1, 0.3) if seed == 9 else (0.1,):
                before = 0.2 if domain == PLAIN else 0.5
                kinds = [(RUNNING, 0, before), (MIXED, 0, 0.4), (ADAPTED, 4, 0.45)]
                kinds += [(ADAPTED, 32, again), (MOVING, 0, moving)]
                for statistics, number, error in kinds if arm == BN else kinds[:1]:
                    rows.append(
                        {
                            "arm": arm,
                            "domain": domain,
                            "seed": seed,
                            "tunes": seed == 9,
                            "learning_rate": rate,
                            "statistics": statistics,
                            "adapting": number,
                            "validation_accuracy": 0.5 - (rate != 0.1),
                            "test_accuracy": 1 - error - 0.001 * seed if seed < 9 else 0.0,
                        }
                    )
    return pd.DataFrame(rows)


def test_the_measures_on_a_table_with_known_truth():
    table = made_up()
    assert analysis.shift_gain(table).tolist() == pytest.approx([20.0] * 3)
    assert analysis.drift_gain(table).tolist() == pytest.approx([15.0] * 3)
    assert all(claims.judge(c, table).verdict == "reproduced" for c in EXPERIMENT.claims)
    assert EXPERIMENT.facts(table)["few_plain"]["value"] == pytest.approx(45.1)
    assert analysis.gain(table, PLAIN).tolist() == pytest.approx([-10.0] * 3)


def test_the_claims_turn_red_where_new_statistics_hurt():
    table = made_up(again=0.6, moving=0.55)
    assert criterion(SHIFT, table).verdict == "not reproduced"
    assert criterion(DRIFTS, table).verdict == "not reproduced"


def test_nothing_is_tested_where_the_shift_costs_nothing():
    table = made_up()
    easy = table["test_accuracy"].where(table["statistics"] != RUNNING, 0.8)
    assert claims.judge(SHIFT, table.assign(test_accuracy=easy)).verdict == "not tested"


def test_a_small_run_evaluates_every_domain_with_every_kind_of_statistics():
    table = EXPERIMENT.run(CONFIG, "cpu")
    kinds = table.groupby(["arm", "domain"])["statistics"].unique().map(set)
    assert kinds[GROUP_NORM].map(lambda own: own == {RUNNING}).all()
    assert kinds[BN, NOISE] == {RUNNING, MIXED, ADAPTED}
    assert kinds[BN, DRIFT] == {RUNNING, MIXED, MOVING}
    assert (
        table["validation_accuracy"]
        .notna()
        .equals((table["domain"] == PLAIN) & (table["statistics"] == RUNNING))
    )
