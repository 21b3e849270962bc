"""The grid's training: data, schedule, divergence, and members that do not touch each other."""

from dataclasses import dataclass, replace

import pytest
import torch

from bnbook import ensemble, models, norm, rate_grid
from bnbook.errors import BnbookError
from bnbook.session import Session


@dataclass(frozen=True)
class Settings:
    data: str = "digits"
    side: int = 8
    images: int = 300
    validation: int = 50
    test: int = 60
    augmented: bool = False
    steps: int = 20
    batch_size: int = 16
    momentum: float = 0.9
    weight_decay: float = 1e-4


def train(settings=Settings(), seeds=(0, 0, 1), rates=(0.01, 1000.0, 0.01), make=None):
    def network(channels):
        return models.ResNet(
            norm.FusedBatchNorm, seeds, n=1, in_channels=channels, widths=(2, 2, 4),
            init_std=ensemble.xavier,
        )  # fmt: skip

    session = Session("cpu")
    return rate_grid.fit(make or network, settings, seeds, rates, 1e3, session)


def test_splits_are_apart_centred_and_scaled():
    split = rate_grid.splits(Settings(), torch.device("cpu"))
    assert [len(labels) for _, labels in (split.train, split.validation, split.test)] == [
        300, 50, 60,
    ]  # fmt: skip
    assert split.train[0].mean(0).abs().max() < 1e-5
    assert split.train[0].square().mean().item() == pytest.approx(1, abs=1e-4)
    seen = {tuple(image.flatten().tolist()) for image in split.train[0]}
    assert not any(tuple(image.flatten().tolist()) in seen for image in split.validation[0])


def test_images_are_resized():
    split = rate_grid.splits(replace(Settings(), side=4), torch.device("cpu"))
    assert split.train[0].shape == (300, 1, 4, 4)


def test_too_many_images():
    with pytest.raises(BnbookError, match="at most 1437 for digits, found 1400 and 50"):
        rate_grid.splits(replace(Settings(), images=1400), torch.device("cpu"))


def test_the_rate_is_divided_at_half_and_three_quarters():
    factor = rate_grid.schedule(100)
    assert factor[[0, 49, 50, 74, 75, 99]].tolist() == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])


def test_a_loss_above_the_threshold_is_infinite_and_others_are_left_alone():
    logits = torch.tensor([[[0.0, 1.0], [0.0, 2000.0]]], requires_grad=True)
    labels = torch.tensor([0])
    loss = rate_grid.marked(1e3)(logits, labels)
    plain = ensemble.cross_entropy(logits, labels)
    assert loss[0] == plain[0]
    assert loss[1].isinf()
    assert plain[1].isfinite()
    (ours,) = torch.autograd.grad(loss.sum(), logits, retain_graph=True)
    (theirs,) = torch.autograd.grad(plain[0], logits)
    assert torch.equal(ours[:, 0], theirs[:, 0])


def test_a_large_loss_within_the_threshold_is_no_divergence_and_nothing_is_clipped():
    logits = torch.tensor([[[0.0, 999.0]]])
    assert rate_grid.marked(1e3)(logits, torch.tensor([0])).item() == 999.0


def test_a_diverged_member_leaves_the_others_as_they_were():
    together = train()
    alone = train(seeds=(0, 1), rates=(0.01, 0.01))
    last = together[-1]
    assert last["diverged_at"][1] > 0
    assert last["diverged_at"][[0, 2]].tolist() == [-1, -1]
    torch.testing.assert_close(last["loss"][[0, 2]], alone[-1]["loss"], rtol=1e-3, atol=1e-4)


def test_the_same_augmentation_for_every_member():
    settings = replace(Settings(), augmented=True)
    crops = rate_grid._crops(settings, 0, torch.device("cpu"))
    x = torch.randn(2, 16, 1, 8, 8)
    both = crops(x, 3)
    assert both.shape == x.shape
    for member in range(2):
        assert torch.equal(both[member], crops(x[member], 3))
    assert not torch.equal(both, x)
    assert train(settings)[-1]["validation_accuracy"].shape == (3,)


def test_tables():
    labels = [{"arm": name} for name in "abc"]
    tables = rate_grid.tables(train(), labels)
    assert [table["arm"].unique().tolist() for table in tables] == [["a"], ["b"], ["c"]]
    assert tables[0]["step"].tolist() == rate_grid.measured_at(20) == [1, 6, 20]
    assert tables[0]["diverged_at"].dtype == int
    assert tables[0]["test_accuracy"].between(0, 1).all()
