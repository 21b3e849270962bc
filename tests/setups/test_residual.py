"""The training recipe: rates, divergence, crops shared by members, images."""

import functools
import math
from dataclasses import dataclass, replace

import pandas as pd
import pytest
import torch

from bnbook.errors import BnbookError
from bnbook.experiments.bjorck_map.experiment import EXPERIMENT as bjorck_map
from bnbook.experiments.bjorck_map.experiment import Config
from bnbook.layers import norm
from bnbook.setups import residual, search
from bnbook.setups.settings import (
    JUDGING,
    SEARCH_COLUMNS,
    TUNING,
    WATCHED_COLUMNS,
    SearchSetting,
    WatchedSetting,
)
from bnbook.tables import right
from bnbook.tables.arms import (
    CLIPPED,
    FIXUP,
    GROUP_NORM,
    LAYER_NORM,
    SKIPINIT,
    WARM_UP,
    WITH,
    WITHOUT,
)
from bnbook.training import augment, fit
from bnbook.training.session import Session

CONFIG = bjorck_map.configure(
    "quick", steps=8, train_images=64, test_images=20, validation=20, widths=(2, 2, 4), points=2,
    seeds=(0, 1), learning_rates=(0.01, 0.1), batch_size=16,
)  # fmt: skip


def runs(arm, config=CONFIG):
    return [run for run in bjorck_map.parts(config) if run.arms == (arm,)]


def train(found):
    make = functools.partial(residual.network, n=1, widths=CONFIG.widths)
    return residual.train(found, Session("cpu"), make)


def test_the_rate_falls_to_a_tenth_at_half_and_at_three_quarters():
    expected = [1.0] * 4 + [0.1] * 2 + [0.01] * 2
    assert residual.schedule(8).tolist() == pytest.approx(expected)


def test_the_warm_up_rises_to_one_and_changes_nothing_after():
    factors = residual.schedule(40, 0.1)
    assert factors[:5].tolist() == pytest.approx([0.25, 0.5, 0.75, 1, 1])
    assert torch.equal(factors[4:], residual.schedule(40)[4:])


def test_only_the_clipped_arm_is_clipped_and_only_its_own_arm_warms_up():
    for arm in (WITHOUT, WITH, FIXUP, SKIPINIT, GROUP_NORM, LAYER_NORM):
        assert residual.optimiser(runs(arm)).clip_norm == math.inf
        assert residual.optimiser(runs(arm)).schedule[0] == 1
    assert residual.optimiser(runs(CLIPPED)).clip_norm == 1
    slow = replace(CONFIG, steps=40)
    assert residual.optimiser(runs(WARM_UP, slow)).schedule[0] == 0.25


def test_a_loss_above_the_threshold_is_infinite_and_no_gradient_is_clipped():
    logits = torch.zeros(1, 3, 2, requires_grad=True)
    scaled = logits + torch.tensor([[0.0, 0.0], [0.0, 999.0], [0.0, 1001.0]])
    labels = torch.tensor([0])
    losses = residual.cross_entropy(scaled, labels)
    assert losses.tolist() == pytest.approx([math.log(2), 999, math.inf])
    losses.sum().backward()
    assert logits.grad[0, :2].flatten().tolist() == pytest.approx([-0.5, 0.5, -1, 1])


def test_a_run_above_the_threshold_has_diverged_there_and_guesses():
    """At a rate of 10^4 the plain network's loss passes 10^3 while it is still a number."""
    wild = replace(CONFIG, learning_rates=(1e-3, 1e4), seeds=(0,))
    found = runs(WITHOUT, wild)
    history = train(found)
    calm, gone = (residual.table(run, history, e) for e, run in enumerate(found))
    assert (calm["diverged_at"] == -1).all()
    assert gone["diverged_at"].iloc[-1] in range(1, 9)
    assert (gone["test_accuracy"].iloc[1:] == 0.1).all()


def test_members_together_train_as_each_alone():
    found = runs(WITH)
    together = train(found)
    for member, run in enumerate(found):
        alone = train([run])
        for rows, own in zip(together, alone, strict=True):
            torch.testing.assert_close(
                rows["loss"][member], own["loss"][0], equal_nan=True, rtol=1e-3, atol=1e-4
            )


def test_a_diverged_member_leaves_the_others_as_they_were():
    found = runs(WITH, replace(CONFIG, learning_rates=(0.01, 1e6)))
    calm = [run for run in found if run.learning_rates == (0.01,)]
    together, alone = train(found), train(calm)
    kept = torch.tensor([run in calm for run in found])
    assert ((together[-1]["diverged_at"] >= 0) == ~kept).all()
    torch.testing.assert_close(together[-1]["loss"][kept], alone[-1]["loss"], rtol=1e-3, atol=1e-4)


def test_members_with_minibatches_of_their_own_share_the_crops():
    x = torch.randn(2, 5, 3, 6, 6)
    crops = augment.crops(4, 5, 0, 2)
    moved = residual.shaken(crops, 2)(x, 3)
    for member in range(2):
        assert torch.equal(moved[member], augment.crop_and_flip(x[member], crops[3], 2))
        assert torch.equal(moved[member], residual.shaken(crops, 2)(x[member], 3))


@pytest.mark.parametrize(
    ("arm", "layer"),
    [(WITH, norm.FusedBatchNorm), (GROUP_NORM, norm.GroupNorm), (LAYER_NORM, norm.LayerNorm)],
)
def test_each_arm_has_its_layer(arm, layer):
    model = residual.network(arm, (0, 1), n=1, widths=(4, 4, 4))
    assert isinstance(model.stem_norm, layer)
    plain = residual.network(WITHOUT, (0, 1), n=1, widths=(4, 4, 4))
    assert torch.equal(model.blocks[0].conv1.weight, plain.blocks[0].conv1.weight)
    assert residual.network(WARM_UP, (0,)).stem.bias is not None


def test_images_are_centred_split_and_resized():
    found = residual.splits("digits", 4, 500, 100, 50, "cpu")
    assert [len(labels) for _, labels in found] == [500, 100, 50]
    assert found.train[0].shape == (500, 1, 4, 4)
    assert found.train[0].mean(0).abs().max() < 1e-5
    assert found.train[0].var(0, correction=0).mean() == pytest.approx(1, abs=1e-4)
    with pytest.raises(
        BnbookError, match="from 1 to 437 of the 1437 training images of digits, found 600"
    ):
        residual.splits("digits", 4, 1000, 600, 50, "cpu")


def test_larger_images_are_averaged_and_others_interpolated():
    x = torch.arange(16.0).view(1, 1, 4, 4)
    assert residual._resized(x, 2).flatten().tolist() == [2.5, 4.5, 10.5, 12.5]
    assert residual._resized(x, 4) is x
    assert residual._resized(torch.ones(1, 1, 4, 4), 3).flatten().tolist() == pytest.approx([1] * 9)


def test_steps_measured():
    assert residual.measured_steps(80, 4) == [0, 20, 40, 60, 80]
    assert residual.measured_steps(3, 10) == [0, 1, 2, 3]


@pytest.mark.parametrize("pad", [1, 0])
def test_a_hand_written_loop_has_the_same_losses(pad):
    """SGD of torch.optim with the same batches, crops or none, decay and schedule."""
    (run, *_) = runs(WITHOUT, replace(CONFIG, pad=pad))
    history = train([run])
    images, labels = residual.splits("digits", 8, 64, 20, 20, "cpu").train
    model = residual.network(WITHOUT, (0,), n=1, in_channels=1, widths=(2, 2, 4))
    optimiser = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4)
    crops, losses = augment.crops(8, 16, 0, 1), []
    for step, batch in enumerate(fit.minibatches(64, 16, 8, 0)):
        optimiser.param_groups[0]["lr"] = 0.01 * residual.schedule(8)[step].item()
        x = augment.crop_and_flip(images[batch], crops[step], 1) if pad else images[batch]
        loss = torch.nn.functional.cross_entropy(model(x)[:, 0], labels[batch])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert history[1]["loss"].item() == pytest.approx(sum(losses[:4]) / 4, rel=1e-4)
    assert history[2]["loss"].item() == pytest.approx(sum(losses[4:]) / 4, rel=1e-4)


@dataclass(frozen=True, kw_only=True)
class Watched(Config, WatchedSetting):
    """As the map of figure 1, and watched."""


def watched(arm, rates, steps=40):
    config = Watched(**{**vars(CONFIG), "steps": steps, "learning_rates": rates})
    found = [run for run in bjorck_map.parts(config) if run.arms == (arm,) and run.seeds == (0,)]
    return found, train(found)


def test_a_dead_run_ends_and_says_where_and_by_which_rule():
    found, history = watched(WITHOUT, (1e-9, 1e9))
    slow, wild = (residual.table(run, history, e) for e, run in enumerate(found))
    assert slow["step"].tolist() == [0, 20, 40]
    assert slow["dead_by"].tolist()[-1] == "guessing"
    assert slow["dead_at"].tolist() == [-1, 8, 8]  # a tenth of 40 steps, twice
    assert set(slow["diverged_at"]) == set(slow["jumped_at"]) == {-1}
    assert wild["dead_by"].iloc[-1] in ("not finite", "above 1000")
    first = wild["dead_at"].iloc[-1]
    assert 1 < first < 8
    assert wild["diverged_at"].tolist() == [-1, first, first]
    assert wild["jumped_at"].iloc[-1] >= first or wild["jumped_at"].iloc[-1] == -1
    for table in (slow, wild):
        assert set(table) == WATCHED_COLUMNS.keys()
        assert table["test_accuracy"].tolist()[1:] == [0.1, 0.1]
        assert table["right"].tolist() == ["", "", ""]


def test_a_run_that_lives_has_the_numbers_of_one_that_is_not_watched_and_what_was_right():
    found, history = watched(WITH, (0.1,), steps=60)
    table = residual.table(found[0], history, 0)
    plain = [run for run in bjorck_map.parts(replace(CONFIG, steps=60)) if run.arms == (WITH,)][1:2]
    expected = residual.table(plain[0], train(plain), 0)
    assert table["dead_at"].tolist() == [-1, -1, -1]
    pd.testing.assert_frame_equal(table[expected.columns], expected, check_exact=True)
    assert table["right"].tolist()[:-1] == ["", ""]
    kept = right.unpack(table["right"].iloc[-1])
    assert len(kept) == 20
    assert kept.mean() == table["test_accuracy"].iloc[-1]


@dataclass(frozen=True, kw_only=True)
class Searched(Config, SearchSetting):
    """As the map of figure 1, with rates that are searched for."""


def test_a_search_of_real_networks_shows_seeds_that_chose_nothing():
    given = {**vars(CONFIG), "arms": (WITHOUT, WITH), "learning_rates": (0.01, 0.1, 1.0)}
    config = Searched(**given, tuning_seeds=(7, 8), crossed=False)
    searching = replace(bjorck_map, rounds=search.rounds)
    table = searching.run(config, "cpu")
    assert set(table) == SEARCH_COLUMNS.keys()
    judged = table[table["role"] == JUDGING]
    assert set(judged["seed"]) == {0, 1}
    assert set(table.loc[table["role"] == TUNING, "seed"]) == {7, 8}
    chosen = judged.groupby("arm")["learning_rate"].unique()
    assert {arm: len(rates) for arm, rates in chosen.items()} == {WITHOUT: 1, WITH: 1}
