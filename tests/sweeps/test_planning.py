"""What pays: measured once, kept, and open to force."""

import json
from dataclasses import dataclass

import pytest

from bnbook.errors import BnbookError
from bnbook.experiments.ioffe_fig1.experiment import EXPERIMENT as ioffe_fig1
from bnbook.sweeps import planning
from bnbook.training.session import OutOfTimeError, Plan
from tests.experiments.test_ioffe_fig1 import SMALL


@dataclass(frozen=True)
class Run:
    seeds: tuple[int, ...] = (0,)
    arm: str = "a"


class Fake:
    """An experiment whose step takes as long as it is told."""

    name = "fake"

    def __init__(self, seconds, plans=None):
        self.seconds, self.trials = seconds, []
        self.plans = plans or (Plan(),)

    def fuses(self, run):
        return run.arm

    def together(self, runs, session):
        assert session.trial.steps == planning.TRIAL_STEPS
        self.trials.append((len(runs), session.plan))
        session.trial.seconds = self.seconds(len(runs), session.plan)
        raise OutOfTimeError("the steps are timed.")


RUNS = [Run((seed,), arm) for arm in "ab" for seed in (0, 0, 0, 1, 1, 1)]


@pytest.mark.parametrize(
    ("seconds", "members"),
    [(lambda n, plan: 1.0, 3), (lambda n, plan: 1.5 * n, 3), (lambda n, plan: n**2, 1)],
)
def test_the_cheapest_member_wins(tmp_path, seconds, members):
    """Three fuse: a member takes 1/3 s against 1 s, 1.5 s both ways, 3 s against 1 s."""
    plan = planning.choose(Fake(seconds), RUNS, "cpu", tmp_path)
    assert plan.members == members


def test_the_answer_is_measured_once_and_states_what_it_measured(tmp_path):
    fake = Fake(lambda n, plan: 1.0)
    first = planning.choose(fake, RUNS, "cpu", tmp_path)
    assert planning.choose(fake, RUNS, "cpu", tmp_path) == first
    assert [n for n, _ in fake.trials] == [3, 1]
    (kept,) = tmp_path.glob("plan-*.json")
    measured = json.loads(kept.read_text())["measured"]
    assert [round(row["ms_per_member_step"]) for row in measured] == [333, 1000]
    planning.choose(fake, RUNS[6:], "cpu", tmp_path)
    assert len(fake.trials) == 4


def test_on_a_gpu_all_that_fuse_are_one_ensemble(tmp_path):
    fake = Fake(lambda n, plan: 1.0)
    assert planning.choose(fake, RUNS, "cuda", tmp_path).members == 6


def test_it_can_be_forced(tmp_path):
    fake = Fake(lambda n, plan: 1.0)
    assert planning.choose(fake, RUNS, "cpu", tmp_path, members=2) == Plan(members=2)
    assert fake.trials == []
    with pytest.raises(BnbookError, match="members must be at least 1, found 0"):
        planning.choose(fake, RUNS, "cpu", tmp_path, members=0)


def test_an_experiments_own_plans_are_tried(tmp_path, monkeypatch):
    plans = (Plan(), Plan(channels_last=True), Plan(compiled=True))
    fake = Fake(lambda n, plan: n * (1.0 - 0.5 * plan.channels_last - 0.7 * plan.compiled), plans)
    monkeypatch.setattr("shutil.which", lambda name: None)
    plan = planning.choose(fake, RUNS, "cpu", tmp_path)
    assert plan == Plan(members=3, channels_last=True)  # no compiler, so nothing compiled
    monkeypatch.setattr("shutil.which", lambda name: "/usr/bin/c++")
    assert planning.choose(fake, RUNS, "cpu", tmp_path).compiled


def test_an_experiment_that_does_not_train_through_fit(tmp_path):
    fake = Fake(lambda n, plan: 1.0)
    fake.together = lambda runs, session: []
    with pytest.raises(BnbookError, match="nothing could be timed"):
        planning.choose(fake, RUNS, "cpu", tmp_path)


def test_figure_1_can_be_timed(tmp_path):
    config = ioffe_fig1.configure("quick", **SMALL)
    plan = planning.choose(ioffe_fig1, ioffe_fig1.parts(config), "cpu", tmp_path)
    (kept,) = tmp_path.glob("plan-*.json")
    cost = {
        row["members"]: row["ms_per_member_step"]
        for row in json.loads(kept.read_text())["measured"]
    }
    assert cost.keys() == {1, len(config.learning_rates)}
    assert cost[plan.members] == min(cost.values()) > 0
