"""The training loop on problems with known answers."""

import re
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import torch
from torch import nn

from bnbook.errors import BnbookError
from bnbook.layers import ensemble
from bnbook.layers.norm import BatchNorm
from bnbook.networks.models import MLP
from bnbook.training import fit, steps
from bnbook.training.session import (
    Every,
    OutOfTimeError,
    Plan,
    Session,
    Trial,
    read_progress,
)


class Scalar(nn.Module):
    """E numbers theta; the output repeats them for each image."""

    def __init__(self, start):
        super().__init__()
        self.theta = nn.Parameter(torch.tensor(start, dtype=torch.float64))

    def forward(self, x):
        return self.theta.expand(len(x), -1)


def half_square(outputs, labels):
    return 0.5 * (outputs - labels[:, None]).square().mean(0)


def train(model, images, labels, batches, rates, **more):
    settings = {k: more.pop(k) for k in ("momentum", "weight_decay", "schedule") if k in more}
    return fit.fit(model, images, labels, batches, fit.SGD(rates, **settings), half_square, **more)


CONSTANT = torch.zeros(4, 1), torch.full((4,), 3.0, dtype=torch.float64)


def test_sgd_on_a_quadratic_in_closed_form():
    # theta - 3 shrinks by (1 - alpha) a step; at alpha = 2 it flips sign for ever.
    model = Scalar([1.0, 1.0, 1.0])
    rates = [0.1, 1.0, 2.0]
    batches = torch.zeros(7, 2, dtype=torch.int64)
    seen = []
    history = train(
        model, *CONSTANT, batches, rates,
        probes=[lambda: seen.append(model.theta.clone()) or {"theta": seen[-1]}], at=(0, 1, 7),
    )  # fmt: skip
    shrink = 1 - torch.tensor(rates, dtype=torch.float64)
    expected = 3 - 2 * shrink**7
    torch.testing.assert_close(model.theta.detach(), expected)
    assert [int(row["step"]) for row in history] == [0, 1, 7]
    assert history[0]["loss"].isnan().all()
    torch.testing.assert_close(history[1]["loss"], torch.full((3,), 2.0, dtype=torch.float64))
    mean_loss = (2 * shrink[0] ** (2 * torch.arange(1, 7))).mean()
    torch.testing.assert_close(history[2]["loss"][0], mean_loss)
    torch.testing.assert_close(history[2]["theta"], expected)
    assert history[2]["diverged_at"].tolist() == [-1, -1, -1]


@pytest.mark.parametrize("steps", [1, 10, 100])
def test_momentum_decay_and_schedule_are_torchs(steps):
    settings = [(0.1, 0.9, 0.01), (0.05, 0.5, 0.0), (0.2, 0.0, 0.1)]
    factor = torch.linspace(1, 0.1, steps)
    model = Scalar([1.0, -2.0, 0.5])
    batches = torch.zeros(steps, 2, dtype=torch.int64)
    rates, momentum, decay = zip(*settings, strict=True)
    train(
        model, *CONSTANT, batches, rates,
        momentum=momentum, weight_decay=decay, schedule=factor.double(),
    )  # fmt: skip
    for e, (rate, mu, lam) in enumerate(settings):
        theta = nn.Parameter(torch.tensor([1.0, -2.0, 0.5][e], dtype=torch.float64))
        torchs = torch.optim.SGD([theta], rate, mu, weight_decay=lam)
        for step in range(steps):
            torchs.param_groups[0]["lr"] = rate * float(factor[step])
            torchs.zero_grad()
            (0.5 * (theta - 3) ** 2).backward()
            torchs.step()
        assert model.theta[e].item() == pytest.approx(theta.item(), rel=1e-7)


def test_a_schedule_of_each_members_own():
    model = Scalar([1.0, 1.0])
    schedule = torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    batches = torch.zeros(2, 2, dtype=torch.int64)
    history = train(
        model, *CONSTANT, batches, [0.5, 0.25], schedule=schedule,
        probes=[lambda: {"theta": model.theta}], at=(1, 2),
    )  # fmt: skip
    assert history[0]["theta"].tolist() == [2.0, 1.0]
    assert history[1]["theta"].tolist() == [2.0, 1.5]


def test_streams_give_members_their_own_minibatches():
    class Mean(Scalar):
        def forward(self, x):
            return self.theta + x.view(len(x), -1)

    images = torch.tensor([[0.0], [1.0], [10.0], [11.0]], dtype=torch.float64)
    labels = torch.zeros(4, dtype=torch.float64)
    batches = torch.tensor([[[0, 1], [2, 3]]])
    model = Mean([0.0, 0.0, 0.0])
    loss = lambda outputs, y: (outputs + y).mean(0)  # noqa: E731
    history = fit.fit(model, images, labels, batches, fit.SGD([1.0] * 3), loss, streams=[1, 0, 1])
    assert history[-1]["loss"].tolist() == [10.5, 0.5, 10.5]


def test_a_transform_changes_what_the_model_sees():
    class Seen(Scalar):
        def forward(self, x):
            return self.theta + x

    model, data = Seen([0.0]), (torch.ones(4, 1).double(), torch.zeros(4).double())
    history = train(
        model, *data, torch.zeros(3, 2, dtype=torch.int64), [0.0],
        transform=lambda x, step: x * step, at=(1, 2, 3),
    )  # fmt: skip
    assert [row["loss"].item() for row in history] == [0.0, 0.5, 2.0]


def test_probes_run_in_evaluation_mode_and_training_goes_on_in_training_mode():
    flags = []

    class Modes(Scalar):
        def forward(self, x):
            flags.append(self.training)
            return super().forward(x)

    model = Modes([0.0])
    data = torch.zeros(4, 1), torch.zeros(4, dtype=torch.float64)
    train(
        model, *data, torch.zeros(2, 2, dtype=torch.int64), [1.0],
        probes=[lambda: {"seen": model(data[0])[0]}], at=(0, 1, 2),
    )  # fmt: skip
    assert flags == [False, True, False, True, False]


def test_batches_are_not_drawn_from_the_stream_of_the_weights():
    """Torch's generator on the CPU takes 32 bits of a seed: a larger offset would be lost."""
    plain = torch.randperm(100, generator=torch.Generator().manual_seed(7))
    assert not torch.equal(fit.minibatches(100, 100, 1, seed=7)[0], plain)


def test_minibatches_are_permutations_and_repeat():
    batches = fit.minibatches(10, 3, 8, seed=5)
    assert batches.shape == (8, 3)
    for epoch in (batches[:3], batches[3:6]):
        assert len(set(epoch.flatten().tolist())) == 9
    assert torch.equal(batches, fit.minibatches(10, 3, 8, seed=5))
    assert not torch.equal(batches, fit.minibatches(10, 3, 8, seed=6))
    assert not torch.equal(batches[:3], batches[3:6])


@pytest.mark.parametrize(("n", "size"), [(3, 4), (3, 0)])
def test_impossible_batches(n, size):
    with pytest.raises(BnbookError, match=r"batch_size must lie in \[1, 3\]"):
        fit.minibatches(n, size, 1, seed=0)


@pytest.mark.parametrize("at", [(2, 1), (0, 0), (0, 4), (-1, 2)])
def test_impossible_probe_steps(at):
    with pytest.raises(BnbookError, match=r"at must increase within \[0, 3\]"):
        train(Scalar([0.0]), *CONSTANT, torch.zeros(3, 2, dtype=torch.int64), [1.0], at=at)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"learning_rate": [0.1, 0.2]}, "learning_rate has 2 members"),
        ({"learning_rate": []}, "one value for each member"),
        ({"learning_rate": [0.1] * 3, "momentum": [0.9]}, "momentum must be a number or one for"),
        (
            {"learning_rate": [0.1] * 3, "schedule": torch.ones(2)},
            r"schedule must have shape \(3,\) or \(3, 3\), found \(2,\)",
        ),
    ],
)
def test_settings_that_do_not_fit(settings, message):
    batches = torch.zeros(3, 2, dtype=torch.int64)
    with pytest.raises(BnbookError, match=message):
        fit.fit(Scalar([0.0] * 3), *CONSTANT, batches, fit.SGD(**settings), half_square)


def test_an_unknown_precision():
    session = Session(plan=Plan(precision="half"))
    with pytest.raises(BnbookError, match="precision must be one of float32, tf32, bfloat16"):
        train(
            Scalar([0.0]), *CONSTANT, torch.zeros(3, 2, dtype=torch.int64), [1.0], session=session
        )


# Divergence.


def diverging(drop, at=(20, 60, 100, 120), rates=(0.1, 1e200, 0.5), **settings):
    model = Scalar([1.0] * len(rates))
    batches = torch.zeros(120, 2, dtype=torch.int64)
    seen = []

    def probe():
        seen.append(len(model.theta))
        return {"theta": model.theta.clone()}

    more = {"probes": [probe], "at": at, "drop": drop, **settings}
    return train(model, *CONSTANT, batches, list(rates), **more), seen


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_a_diverged_member_is_marked_at_its_step_and_leaves_the_others_bit_equal(momentum):
    alone, _ = diverging(False, rates=(0.1, 0.5), momentum=momentum)
    for drop in (False, True):
        history, _ = diverging(drop, momentum=momentum)
        # 1 -> 2e200 -> 2e400: the third loss is infinite already, the square of the second theta.
        assert history[-1]["diverged_at"].tolist() == [-1, 2, -1]
        for row, other in zip(history, alone, strict=True):
            assert torch.equal(row["theta"][[0, 2]], other["theta"])
            assert torch.equal(row["loss"][[0, 2]], other["loss"])


def test_a_diverged_member_is_dropped_after_its_next_measurement():
    history, seen = diverging(True)
    assert seen == [3, 2, 2, 2]
    assert all(torch.equal(history[0]["theta"][1:2], row["theta"][1:2]) or
               row["theta"][1].isnan() for row in history)  # fmt: skip
    assert [row["loss"][1].isnan().item() for row in history[1:]] == [True] * 3
    _, seen = diverging(False)
    assert seen == [3, 3, 3, 3]


def test_when_all_have_diverged_nothing_is_computed_any_more():
    history, seen = diverging(True, rates=(1e200, 1e250))
    assert seen == [2]
    assert len(history) == 4
    assert history[-1]["diverged_at"].tolist() == [2, 2]


# Interruptions.


class Interrupted(Exception):
    pass


class Graphless(steps.CapturedStep):
    """A captured step for machines without a GPU: what the graph would replay is computed."""

    def _capture(self, x, y):
        self.x, self.y, self.graph = x.clone(), y.clone(), self

    def replay(self):
        self.losses = self.step.update(self.x, self.y)


def sessions(tmp_path, **more):
    return Session(checkpoint=tmp_path / "run.checkpoint", interval=0.0, **more)


def small_run(
    session,
    interrupt_at=None,
    handwritten=True,
    rates=(0.1, 1e200, 0.7),
    schedule=None,
    ends=None,
    at=(0, 130, 310, 400),
):
    torch.manual_seed(0)
    images, labels = torch.rand(90, 16), torch.randint(0, 3, (90,))
    model = MLP(BatchNorm, (1, 1, 2), num_inputs=16, hidden=(8,), num_classes=3)
    batches = fit.minibatches(90, 15, 400, seed=1)
    if not handwritten:
        session = replace(session, plan=replace(session.plan, handwritten=False))

    def interrupt(x, step):
        if step == interrupt_at:
            raise Interrupted
        return x

    def weights():
        return {"output": model.output.weight.clone(), "var": model.hidden[1].running_var.clone()
                .view(model.members, -1)}  # fmt: skip

    momentum = 0.0 if handwritten else 0.9
    optimiser = fit.SGD(list(rates), momentum=momentum, schedule=schedule)
    history = fit.fit(
        model, images, labels, batches, optimiser,
        ensemble.cross_entropy, [weights], at, transform=interrupt,
        ends=ends, session=session,
    )  # fmt: skip
    small_run.model = model
    return history


def same(ours, theirs):
    for row, other in zip(ours, theirs, strict=True):
        assert row.keys() == other.keys()
        for name in row:
            assert row[name].equal(other[name]) or (
                row[name].isnan().equal(other[name].isnan())
                and row[name].nan_to_num().equal(other[name].nan_to_num())
            ), name


@pytest.mark.parametrize("handwritten", [True, False])
@pytest.mark.parametrize("step", [49, 60, 149, 320, 399])
def test_an_interrupted_run_ends_with_the_same_bits(tmp_path, step, handwritten):
    whole = small_run(Session(), handwritten=handwritten)
    assert whole[-1]["diverged_at"][1] > 0
    session = sessions(tmp_path)
    with pytest.raises(Interrupted):
        small_run(session, step, handwritten)
    assert session.checkpoint.is_file() == (step > 50)
    same(small_run(session, handwritten=handwritten), whole)


@pytest.mark.parametrize("step", [149, 320, 399])
def test_a_captured_step_loses_no_momentum(tmp_path, step, monkeypatch):
    """Neither when a member is dropped nor when a run goes on from its checkpoint."""
    more = {"handwritten": False, "schedule": torch.linspace(1, 0.1, 400)}
    whole = small_run(Session(), **more)
    made = steps.AutogradStep
    monkeypatch.setattr(steps, "choose", lambda m, *a: Graphless(made(m, *a[:2]), m))
    same(small_run(Session(), **more), whole)
    session = sessions(tmp_path)
    with pytest.raises(Interrupted):
        small_run(session, step, **more)
    same(small_run(session, **more), whole)


@dataclass(frozen=True)
class Late(Session):
    """A session whose time is up when it is asked for the n-th time: after n steps."""

    after: int = 1
    asked: list = field(default_factory=list)

    def out_of_time(self):
        self.asked.append(True)
        return len(self.asked) == self.after


def in_sittings(tmp_path, after, **more):
    """Run as often as it takes when the time is up so many steps later; also, where it stopped."""
    stops = []
    while True:
        session = Late(checkpoint=tmp_path / "run.checkpoint", interval=1e9, after=after)
        try:
            return small_run(session, **more), stops
        except OutOfTimeError as error:
            stops.append(int(re.search(r"after (\d+) of 400 steps", str(error))[1]))


@pytest.mark.parametrize("handwritten", [True, False])
@pytest.mark.parametrize("after", [17, 50, 111, 310])
def test_a_run_whose_members_diverge_in_stages_until_none_is_left_goes_on(
    tmp_path, after, handwritten
):
    """One leaves after step 130, the others, at infinite rates from 200 on, after step 310."""
    late = torch.ones(400, 3)
    late[200:] = torch.inf
    more = {"handwritten": handwritten, "schedule": late}
    whole = small_run(Session(), **more)
    first, second = whole[1]["diverged_at"], whole[-1]["diverged_at"]
    assert first.tolist()[::2] == [-1, -1]
    assert first[1] > 0
    assert (second > 0).all()
    assert second[[0, 2]].min() > 200
    left = [tensor.clone() for tensor in small_run.model.state_dict().values()]
    again, stops = in_sittings(tmp_path, after, **more)
    assert stops[0] == after
    same(again, whole)
    for mine, theirs in zip(small_run.model.state_dict().values(), left, strict=True):
        assert torch.equal(mine.nan_to_num(), theirs.nan_to_num())


def test_a_deadline_stops_within_a_step_with_a_checkpoint(tmp_path):
    session = sessions(tmp_path, deadline=time.monotonic() - 1)
    for done in range(1, 4):
        with pytest.raises(OutOfTimeError, match=f"after {done} of 400 steps"):
            small_run(session)
    same(small_run(sessions(tmp_path)), small_run(Session()))


@pytest.mark.parametrize("after", [7, 50, 133])
def test_stopped_anywhere_again_and_again_it_ends_with_the_same_bits(tmp_path, after):
    again, stops = in_sittings(tmp_path, after)
    assert stops == list(range(after, 400, after))
    same(again, small_run(Session()))


@pytest.mark.parametrize("after", [1000, 13, 50, 210])
def test_a_run_that_ends_leaves_at_once_and_its_losses_stay(tmp_path, after):
    """The rule: the loss of the step is below 1 / 2, asked every 50 steps and where measured."""

    def low(losses):
        return (losses < 0.5).any(0)

    more = {"rates": (0.05, 0.7, 0.01), "ends": low}
    history, _ = in_sittings(tmp_path, after, **more)
    whole = small_run(Session(), **{**more, "ends": lambda losses: losses[-1] < -1})
    losses, full = history[-1]["losses"], whole[-1]["losses"]
    assert losses.shape == full.shape == (3, 400)
    assert not full.isnan().any()
    asked = sorted({*range(50, 401, 50), 130, 310})
    lasts = []
    for mine, theirs in zip(losses, full, strict=True):
        first = 1 + int((theirs < 0.5).to(torch.uint8).argmax()) if (theirs < 0.5).any() else 400
        last = next(stop for stop in asked if stop >= first)
        assert mine[:last].equal(theirs[:last])
        assert mine[last:].isnan().all()
        lasts.append(last)
    assert min(lasts) < 400
    for e, last in enumerate(lasts):
        for row, other in zip(history, whole, strict=True):
            if int(row["step"]) <= last:
                assert row["output"][e].equal(other["output"][e])
            else:
                assert row["loss"][e].isnan()
                assert row["output"][e].equal(history[(last >= 130) + (last >= 310)]["output"][e])


@pytest.mark.parametrize("after", [1000, 49, 60, 120, 350])
@pytest.mark.parametrize("stops", [(50, 100, 500), (50, 100, 100)], ids=["one stays", "none does"])
def test_a_run_that_ends_before_the_first_row_is_measured_as_it_leaves(tmp_path, after, stops):
    """Each member's run ends after a step of its own; the rows are asked for from 130 on."""

    def over(losses):
        return len(losses) >= torch.tensor(stops)

    whole = small_run(Session(), rates=(0.05, 0.7, 0.01), at=(50, 100, 130, 310, 400))
    more = {"rates": (0.05, 0.7, 0.01), "ends": over, "at": (130, 310, 400)}
    history, _ = in_sittings(tmp_path, after, **more)
    assert [int(row["step"]) for row in history] == [130, 310, 400]
    for row, full in zip(history, whole[2:], strict=True):
        for e, stop in enumerate(stops):
            last = {50: whole[0], 100: whole[1]}.get(stop, full)
            assert row["output"][e].equal(last["output"][e])
            assert row["var"][e].equal(last["var"][e])
            assert row["loss"][e].isnan() == (stop <= 100)
    counted = history[-1]["losses"].isfinite().sum(1).tolist()
    assert counted == [min(stop, 400) for stop in stops]


def test_progress_is_reported(tmp_path, monkeypatch):
    monkeypatch.setattr(Every, "due", lambda self: True)
    session = Session(progress=tmp_path / "run.progress")
    assert read_progress(session.progress) == {"step": 0, "members": 0, "diverged": 0}
    small_run(session)
    assert read_progress(session.progress) == {"step": 400, "members": 3, "diverged": 1}


class Program:
    """What unpickling would run."""

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_a_checkpoint_runs_no_program(tmp_path):
    program = Program()
    program.path = tmp_path / "touched"
    session = sessions(tmp_path)
    torch.save({"count": 400, "program": program}, session.checkpoint)
    with pytest.raises(BnbookError, match=r"(?s)cannot be read .* remove it to start that"):
        small_run(session)
    assert not program.path.exists()
    torch.load(session.checkpoint, weights_only=False)
    assert program.path.exists(), "it would have been run"


@pytest.mark.parametrize(("steps_", "members"), [(100, 3), (120, 2), (100, 2)])
def test_a_checkpoint_of_more_steps_or_members_is_refused(tmp_path, steps_, members):
    """Each alone is enough: with as many members of one size the state would fit."""

    def run(count, members, **more):
        batches = torch.zeros(count, 2, dtype=torch.int64)
        session = sessions(tmp_path, **more)
        return train(Scalar([1.0] * members), *CONSTANT, batches, [0.1] * members, session=session)

    with pytest.raises(OutOfTimeError):
        run(120, 3, deadline=time.monotonic() - 1)
    before = (tmp_path / "run.checkpoint").read_bytes()
    says = rf"members \[0, 1, 2\], this one has {steps_} steps and {members} members"
    with pytest.raises(BnbookError, match=says):
        run(steps_, members)
    assert (tmp_path / "run.checkpoint").read_bytes() == before
    assert run(120, 3)[-1]["step"] == 120


def test_a_checkpoint_of_another_run_or_damaged(tmp_path):
    session = sessions(tmp_path)
    with pytest.raises(Interrupted):
        small_run(session, 399)
    content = session.checkpoint.read_bytes()
    batches = torch.zeros(3, 2, dtype=torch.int64)
    with pytest.raises(BnbookError, match=r"is of a run of 400 steps .* this one has 3 steps"):
        train(Scalar([0.0]), *CONSTANT, batches, [1.0], session=session)
    with pytest.raises(BnbookError, match="is of another network or optimiser: expected tensors"):
        small_run(session, handwritten=False)
    assert session.checkpoint.read_bytes() == content
    for damaged in (content[:100], b"", b"nonsense"):
        session.checkpoint.write_bytes(damaged)
        with pytest.raises(BnbookError, match="cannot be read"):
            small_run(session)
        assert session.checkpoint.read_bytes() == damaged


def test_a_trial_times_steps_and_trains_nothing():
    trial = Trial(20)
    with pytest.raises(OutOfTimeError, match="timed"):
        small_run(Session(trial=trial))
    assert 0 < trial.seconds < 1


def test_a_trials_time_is_the_best_of_one_step(monkeypatch):
    """By a clock that stands still but for the steps: the first time slow, the third fast."""
    clock, asked, each = [0.0], [], iter((9.0, 2.0, 0.5, 3.0))
    monkeypatch.setattr(fit.time, "perf_counter", lambda: clock[0])

    def advance(first, stop):
        asked.append((first, stop))
        clock[0] += (stop - first) * next(each)

    assert fit._timed(advance, 20, torch.device("cpu")) == 0.5
    assert asked == [(0, 20)] * 4


def test_devices_where_there_is_a_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert fit.choose_device("auto").type == fit.choose_device("cuda").type == "cuda"
    assert fit.choose_device("cpu").type == "cpu"


def test_devices():
    assert fit.choose_device("cpu").type == "cpu"
    with pytest.raises(BnbookError, match="must be auto, cpu or cuda, found 'abacus'"):
        fit.choose_device("abacus")
    if not torch.cuda.is_available():
        assert fit.choose_device("auto").type == "cpu"
        with pytest.raises(BnbookError, match="torch sees none"):
            fit.choose_device("cuda")
