"""BN before or after the nonlinearity: measures on known truths, and small real runs."""

import math

import pandas as pd
import pytest
import torch
from torch import nn

from bnbook.errors import BnbookError
from bnbook.experiments.ioffe_placement import claims as analysis
from bnbook.experiments.ioffe_placement import experiment
from bnbook.experiments.ioffe_placement.experiment import EXPERIMENT as PLACEMENT
from bnbook.layers import norm
from bnbook.tables import right
from bnbook.tables.arms import AFTER, RELU, SIGMOID, WITH
from bnbook.training.session import Session
from tests.judging import by_accuracy, criterion, hits

SMALL = {
    "data": "digits", "steps": 12, "seeds": (0, 1), "learning_rates": (0.3, 1.0),
    "validation": 100, "probe_images": 50, "hidden": (10, 8, 6),
}  # fmt: skip
IMPOSSIBLE = [
    ({"arms": (WITH,)}, "arms must hold BN after the nonlinearity"),
    ({"arms": ("LN",)}, "arms must be among"),
    ({"nonlinearities": (RELU,)}, "nonlinearities must hold sigmoid"),
    ({"hidden": (10,)}, "hidden must have two or more layers"),
    ({"steps": 0}, "steps must be at least 1"),
]
(CLAIM,) = PLACEMENT.claims


def made_up(gap=0.02, images=5000):
    """BN before is `gap` ahead in the sigmoid network and behind with ReLU; best rate 1."""
    rows = []
    for nonlinearity, ahead in ((SIGMOID, gap), (RELU, -0.01)):
        for arm in (WITH, AFTER):
            for rate in (0.3, 1.0, 3.0):
                for seed in (0, 1, 2):
                    top = {0.3: 0.7, 1.0: 0.9, 3.0: 0.5}[rate] + 0.001 * seed
                    top += ahead if arm == WITH else 0.0002 * seed
                    shapes = {
                        f"{of}_{moment}": 0.1 * (1 if of == "wu" else 5)
                        for of in ("u", "wu")
                        for moment in analysis.MOMENTS
                    }
                    rows.append(
                        {
                            "nonlinearity": nonlinearity,
                            "arm": arm,
                            "learning_rate": rate,
                            "seed": seed,
                            "step": 100,
                            "validation_accuracy": top,
                            "test_accuracy": top,
                            "right": hits(top, images),
                            **shapes,
                        }
                    )
    return pd.DataFrame(rows)


def test_the_measure_on_a_table_with_known_truth():
    table = made_up()
    assert analysis.tuned_rates(table, SIGMOID) == {WITH: 1.0, AFTER: 1.0}
    gap = analysis.placement_gap(table)
    assert gap.shape == (3, 5000)
    assert right.by_seed(gap).tolist() == pytest.approx([2.0, 1.98, 1.96])
    assert right.by_seed(analysis.placement_gap(table, RELU)).mean() == pytest.approx(-1.02)
    assert criterion(CLAIM, table).verdict == "reproduced"


def test_the_claim_turns_red_when_after_is_better():
    assert criterion(CLAIM, made_up(gap=-0.02)).verdict == "not reproduced"


def test_few_test_images_leave_open_what_seeds_agree_on(monkeypatch):
    """Two of 100 images are right with BN before only, at every seed: 2 points, off by 1.4."""
    few = made_up(images=100)
    found = criterion(CLAIM, few)
    assert (found.verdict, found.over) == ("inconclusive", "seeds and test images")
    error = 100 * math.sqrt(0.02 * 0.98 / 99)
    assert (found.low, found.high) == pytest.approx(
        (2 - 1.984 * error, 2 + 1.984 * error), abs=0.01
    )
    fact = PLACEMENT.facts(few)["sigmoid_gap"]
    assert (fact["low"], fact["high"]) == (found.low, found.high)
    monkeypatch.setattr(right, "lead", by_accuracy)
    assert criterion(CLAIM, few).verdict == "reproduced"


def test_each_network_is_tuned_on_its_own_validation_accuracy():
    table = made_up()
    lucky = (
        (table["nonlinearity"] == SIGMOID)
        & (table["arm"] == AFTER)
        & (table["learning_rate"] == 3.0)
    )
    table.loc[lucky, "test_accuracy"] = 0.99
    assert analysis.tuned_rates(table, SIGMOID)[AFTER] == 1.0
    table.loc[lucky, "validation_accuracy"] = 0.99
    assert analysis.tuned_rates(table, SIGMOID)[AFTER] == 3.0
    assert analysis.tuned_rates(table, RELU)[AFTER] == 1.0


def test_facts():
    facts = PLACEMENT.facts(made_up())
    assert facts["sigmoid_before_accuracy"]["value"] == pytest.approx(92.1)
    assert facts["relu_gap"]["value"] == pytest.approx(-1.02)
    assert facts["sigmoid_before_usable"]["value"] == 1
    assert facts["relu_u_sparsity"]["value"] == pytest.approx(50)
    assert facts["relu_wu_skewness"]["value"] == pytest.approx(0.1)


def test_shapes_of_known_distributions():
    """A Gaussian, an exponential (skewness 2, excess kurtosis 6), two points (0, -2), zeros."""
    generator = torch.Generator().manual_seed(0)
    n = 200_000
    normal = torch.randn(n, generator=generator, dtype=torch.float64)
    exponential = -torch.rand(n, generator=generator, dtype=torch.float64).log()
    points = torch.where(torch.rand(n, generator=generator) < 0.5, 1.0, -1.0).double()
    units = torch.stack([normal, exponential, points, torch.zeros(n)], 1)[..., None]
    found = {k: v.tolist() for k, v in experiment.shape_of(units).items()}
    assert found["skewness"][:3] == pytest.approx([0, 2, 0], abs=0.1)
    assert found["kurtosis"][:3] == pytest.approx([0, 6, 2], abs=0.3)
    assert found["sparsity"][0] == pytest.approx(math.erf(0.05 / 2**0.5), abs=0.002)
    assert all(math.isnan(values[3]) for values in found.values())


def test_shapes_are_medians_over_units():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn((5000, 1, 3), generator=generator)
    x[:, :, 2] = x[:, :, 2].exp()
    assert experiment.shape_of(x)["skewness"].item() < 0.2


def test_a_small_run_measures_every_shape(small_table):
    assert not small_table.duplicated(["nonlinearity", "arm", "seed", "learning_rate"]).any()
    assert len(small_table) == 2 * 2 * 2 * 2
    columns = [f"{of}_{moment}" for of in ("u", "wu") for moment in analysis.MOMENTS]
    assert small_table[columns].notna().all().all()


@pytest.mark.parametrize(
    ("nonlinearity", "arm", "order"),
    [
        (SIGMOID, WITH, ["Linear", "BatchNorm", "Sigmoid"]),
        (SIGMOID, AFTER, ["Linear", "Sigmoid", "BatchNorm"]),
        (RELU, WITH, ["Linear", "BatchNorm", "ReLU"]),
        (RELU, AFTER, ["Linear", "ReLU", "BatchNorm"]),
    ],
)
def test_where_bn_stands(small, nonlinearity, arm, order):
    (part, *_) = [
        p
        for p in PLACEMENT.parts(small)
        if p.arms == (arm,) and p.nonlinearities == (nonlinearity,)
    ]
    model = experiment._network(part, (0,), 64)
    assert [type(layer).__name__ for layer in model.hidden] == 3 * order
    # A bias only where BN does not cancel it.
    assert (model.hidden[0].bias is None) == (arm == WITH)


def test_u_and_wu_are_what_a_linear_layer_takes_and_gives():
    config = PLACEMENT.configure("quick", **{**SMALL, "hidden": (10, 8)})
    (part, *_) = PLACEMENT.parts(config)
    model = experiment._network(part, (0,), 64)
    images = torch.rand(50, 1, 8, 8)
    found = experiment.distributions(model, images)
    first, bn, g, second = model.hidden[:4]
    with torch.no_grad():
        u = g(bn(first(images.flatten(1))))
        for name, values in (("u", u), ("wu", second(u))):
            for moment, value in experiment.shape_of(values.view(50, 1, -1)).items():
                assert found[f"{name}_{moment}"].item() == pytest.approx(value.item(), rel=1e-5)


def test_accuracy_is_that_of_a_network_in_torch():
    """BN after ReLU, trained with torch.nn and torch.optim from the same weights."""
    from bnbook.training import fit

    changes = {**SMALL, "seeds": (1,), "learning_rates": (0.3,)}
    config = PLACEMENT.configure("quick", **changes)
    (part,) = [
        p for p in PLACEMENT.parts(config) if p.arms == (AFTER,) and p.nonlinearities == (RELU,)
    ]
    (table,) = experiment.train([part], Session("cpu"))
    (images, labels), _, (test_x, test_y) = experiment.splits(config, torch.device("cpu"))
    ours, layers, width = experiment._network(part, (1,), 64), [], 64
    for hidden in config.hidden:
        layers += [nn.Linear(width, hidden), nn.ReLU(), nn.BatchNorm1d(hidden)]
        width = hidden
    net = nn.Sequential(nn.Flatten(), *layers, nn.Linear(width, 10))
    with torch.no_grad():
        for theirs, mine in zip(net.parameters(), ours.parameters(), strict=True):
            theirs.copy_(mine.view_as(theirs))
    optimiser = torch.optim.SGD(net.parameters(), lr=0.3)
    losses = []
    for batch in fit.minibatches(len(labels), 60, 12, seed=1):
        optimiser.zero_grad()
        loss = nn.functional.cross_entropy(net(images[batch]), labels[batch])
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    net.eval()
    expected = net(test_x).argmax(1) == test_y
    found = right.unpack(table["right"].item())
    assert table["loss"].item() == pytest.approx(sum(losses) / 12, rel=1e-3)
    assert table["test_accuracy"].item() == pytest.approx(expected.float().mean().item(), abs=0.01)
    assert (found == expected.numpy()).mean() >= 0.99
    assert found.mean() == pytest.approx(table["test_accuracy"].item())
    assert isinstance(ours.hidden[2], norm.BatchNorm)


def test_too_much_validation():
    config = PLACEMENT.configure("quick", **{**SMALL, "validation": 1437})
    with pytest.raises(BnbookError, match=r"set aside from 50 to 1436 of the 1437 training images"):
        PLACEMENT.run(config)
