"""The queue: in order, in as many sittings as it takes, past what is refused."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from bnbook import experiments
from bnbook.cli import main
from bnbook.errors import BnbookError
from bnbook.evidence import records
from bnbook.sweeps import inventory, schedule, store, sweep
from bnbook.training import session
from bnbook.training.session import OutOfTimeError
from tests import fake
from tests.fake import EXPERIMENT as FAKE

QUICK = schedule.Entry("fake", "quick", "to see it")
PAPER = schedule.Entry("fake", "paper", "to see more")
LISTED = """
[[record]]
experiment = "fake"
profile = "quick"
why = "to see it"

[[record]]
experiment = "fake"
profile = "paper"
why = "to see more"
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A project in which the made-up experiment has two profiles, and both are wanted."""
    (tmp_path / "_toc.yml").write_text("root: index\n")
    (tmp_path / schedule.FILE).write_text(LISTED)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(experiments, "names", lambda: ["fake"])
    found = fake.profiled(quick=fake.Config(), paper=fake.Config(steps=12, seeds=(0, 1, 2)))
    monkeypatch.setattr(experiments, "find", {"fake": found}.__getitem__)
    monkeypatch.setattr(sweep, "CACHE", tmp_path / "_build" / "sweeps")
    monkeypatch.setattr(os, "nice", lambda more: 0)
    return tmp_path / "results"


def entries():
    return schedule.read(records.root() / schedule.FILE)


def worked(folder, budget=None):
    how = {"members": 3, "quiet": True}
    return list(schedule.work(entries(), folder, sweep.grow, budget=budget, **how))


def slowly(monkeypatch):
    """Let each step of the made-up experiment take ten seconds, and nothing else any time."""
    clock = [0.0]
    monkeypatch.setattr(session, "now", lambda: clock[0])
    monkeypatch.setattr(sweep, "_reserve", lambda budget: 0.0)
    monkeypatch.setattr(time, "sleep", lambda _: clock.__setitem__(0, clock[0] + 10))


def test_an_entry_says_whether_its_record_may_be_mixed(folder):
    listed = LISTED.replace('why = "to see more"', 'why = "to see more"\nmixed = true')
    (records.root() / schedule.FILE).write_text(listed)
    asked = []

    def grow(experiment, profile, config, **how):
        asked.append((profile, how["mixed"]))

    list(schedule.work(entries(), folder, grow, budget=None))
    assert asked == [("quick", False), ("paper", True)]


def test_it_is_read_in_order(folder):
    assert entries() == [QUICK, PAPER]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[[record]]\nexperiment = 'fake'\n", "must hold .* with experiment, profile and why"),
        ("[[record]", "must hold"),
        (LISTED.replace("quick", "slow"), "profile must be one of"),
        (LISTED + LISTED, "lists a record twice"),
    ],
)
def test_what_is_no_queue_is_refused(folder, text, says):
    (folder.parent / schedule.FILE).write_text(text)
    with pytest.raises(BnbookError, match=says):
        entries()


def test_a_missing_queue_is_named(folder):
    (folder.parent / schedule.FILE).unlink()
    with pytest.raises(BnbookError, match=r"expected a queue at .*queue\.toml, found none"):
        entries()


def test_it_works_through_what_is_open_and_nothing_else(folder):
    assert [schedule.state(entry, folder).said for entry in entries()] == ["not begun"] * 2
    assert worked(folder) == [(QUICK, "whole"), (PAPER, "whole")]
    assert [schedule.state(entry, folder).done for entry in entries()] == [6, 9]
    assert worked(folder) == []


def test_a_budget_stops_it_and_it_goes_on(folder, monkeypatch):
    slowly(monkeypatch)
    with pytest.raises(OutOfTimeError):  # 2 batches of 10 steps of 10 s, then 1 of 3 of 12
        worked(folder, budget=350.0)
    one, other = (schedule.state(entry, folder) for entry in entries())
    assert (one.said, other.said, other.done, other.members) == ("whole", "3 of 9", 3, 9)
    assert other.left == pytest.approx(2 * other.spent)
    assert other.estimated == pytest.approx(36.0)  # 9 members, 12 steps, 1 s for 3 members
    assert schedule.left_in_words([one, replace(other, left=7200.0)], 2) == (
        "1 of 2 records left, about 60 min with 2 workers"
    )
    with pytest.raises(OutOfTimeError, match="the queue's time is up"):
        worked(folder, budget=20.0)
    assert worked(folder) == [(PAPER, "whole")]


def test_what_is_refused_is_said_and_the_rest_is_recorded(folder, monkeypatch):
    config = fake.Config()
    with monkeypatch.context() as patch:
        patch.setattr(store, "source_digests", lambda experiment: {"train": "0" * 64})
        slowly(patch)
        with pytest.raises(OutOfTimeError):
            sweep.grow(FAKE, "quick", config, members=1, budget=150.0, folder=folder, quiet=True)
    (entry, said), done = worked(folder)
    assert (entry, done) == (QUICK, (PAPER, "whole"))
    assert "do not belong with those of this run (source: " in said


def test_an_older_record_is_open_and_says_what_it_took(folder, monkeypatch):
    worked(folder)
    took = records.read(records.path(folder, "fake", "quick")).provenance["seconds"]
    paper = experiments.find("fake").profiles["paper"]
    longer = fake.profiled(quick=fake.Config(steps=11), paper=paper)
    monkeypatch.setattr(experiments, "find", {"fake": longer}.__getitem__)
    found = schedule.state(QUICK, folder)
    assert (found.said, found.left) == ("not begun; an older record stands", took)
    assert worked(folder) == [(QUICK, "whole")]
    assert not inventory.why("fake", records.read(records.path(folder, "fake", "quick")).provenance)


def test_one_queue_at_a_time(folder):
    with schedule.alone(folder.parent), pytest.raises(BnbookError, match="another `bnbook queue"):
        schedule.alone(folder.parent)
    with schedule.alone(folder.parent):
        pass


def test_status_says_what_is_left(folder, monkeypatch, capsys):
    worked(folder)
    (folder / "fake" / "paper.parquet").unlink()
    monkeypatch.setattr(sys, "argv", ["bnbook", "queue", "status", "--workers", "2"])
    with pytest.raises(SystemExit) as done:
        main()
    out = capsys.readouterr().out
    assert done.value.code in (0, None)
    assert "fake at paper" in out
    assert "to see more" in out
    assert "1 of 2 records left, and 1 of which no member is timed" in out


COMMAND = """
import sys
from bnbook import experiments
from tests import fake
from dataclasses import replace
experiments.names = lambda: ["fake"]
slow = fake.Config(seeds=tuple(range(6)), pause=0.01)
found = fake.profiled(quick=slow, paper=replace(slow, steps=12))
experiments.find = {"fake": found}.__getitem__
from bnbook.cli import main
if __name__ == "__main__":
    sys.argv = ["bnbook", "queue", "run", *sys.argv[1:]]
    main()
"""


@pytest.mark.slow
def test_the_command_is_killed_and_goes_on(folder):
    """In processes of its own, of one thread each, nice to others; then to the end."""
    script = folder.parent / "script.py"
    script.write_text(COMMAND)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, str(script), "--workers", "2"]
    process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
    path, started = records.path(folder, "fake", "quick"), time.monotonic()
    while not path.is_file():
        assert time.monotonic() - started < 120
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = {run[0] for run in records.read(path).provenance["runs"]}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "0 of 2 records left" in done.stdout
    about = records.read(path).provenance
    assert before <= {run[0] for run in about["runs"]}
    assert about["missing"] == 0
    assert {origin["threads"] for origin in about["origins"]} == {1}
    slow = fake.Config(seeds=tuple(range(6)), pause=0.0)
    assert len(records.read(path).table) == len(FAKE.parts(replace(slow))) * 2


@pytest.mark.parametrize("leads", [True, False])
def test_a_session_of_its_own_gives_way_as_a_whole(tmp_path, monkeypatch, leads):
    group, more = tmp_path / "autogroup", []
    group.write_text("/autogroup-7 nice 0")
    monkeypatch.setattr(os, "nice", lambda by: more.append(by) or 3)
    monkeypatch.setattr(os, "getsid", lambda _: os.getpid() if leads else 1)
    schedule.give_way(group)
    assert more == [0, 7]
    assert group.read_text() == ("10" if leads else "/autogroup-7 nice 0")
    schedule.give_way(tmp_path / "none")
