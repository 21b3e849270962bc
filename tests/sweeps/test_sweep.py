"""Sweeps: members run once, resume, and give the table that an uninterrupted sweep gives."""

import errno
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from bnbook import datasets, files
from bnbook.errors import BnbookError
from bnbook.evidence import records, sources
from bnbook.experiments.ioffe_fig1.experiment import EXPERIMENT as ioffe_fig1
from bnbook.sweeps import inventory, store, sweep
from bnbook.sweeps.progress import Progress, Work
from bnbook.training import session
from bnbook.training.session import OutOfTimeError, Plan
from tests import fake
from tests.experiments.test_ioffe_fig1 import SMALL
from tests.fake import EXPERIMENT as FAKE

CONFIG = fake.Config()
PLAN = Plan()


@pytest.fixture
def log(tmp_path, monkeypatch):
    """The folder in which the made-up experiment writes what it trains."""
    folder = tmp_path / "log"
    folder.mkdir()
    monkeypatch.setenv(fake.LOG, str(folder))
    return folder


def swept(folder, config=CONFIG, members=4, **options):
    return sweep.sweep(FAKE, config, members=members, cache=folder, **options)


def same(one, other):
    pd.testing.assert_frame_equal(one, other, check_exact=True)


def test_batches_are_cut_in_the_order_of_the_table_and_nothing_runs_twice(tmp_path, log):
    outcome = swept(tmp_path)
    assert list(map(len, fake.logged(log))) == [4, 2]
    assert outcome.table["seed"].tolist() == [0] * 6 + [1] * 6
    assert outcome.table["rate"].tolist() == [3.5, 3.5, 3.7, 3.7, 3.9, 3.9] * 2
    again = swept(tmp_path)
    same(again.table, outcome.table)
    assert len(fake.logged(log)) == 2
    assert (again.seconds, again.left, again.members) == (outcome.seconds, 0, 6)
    assert outcome.plan["members"] == 4


def test_one_by_one_it_is_the_experiments_own_table(tmp_path):
    same(swept(tmp_path, members=1).table, FAKE.run(fake.Config()))


def test_members_that_do_not_fuse_train_apart(tmp_path, log):
    both = [fake.Config(), fake.Config(arm="right", seeds=(0,))]
    table = sweep.sweep(FAKE, both, members=16, cache=tmp_path).table
    assert list(map(len, fake.logged(log))) == [6, 3]
    assert table["arm"].tolist() == ["left"] * 12 + ["right"] * 6


def test_several_configs_share_what_they_have_in_common(tmp_path, log):
    configs = [fake.Config(seeds=(0,)), fake.Config(seeds=(0, 1))]
    outcome = sweep.sweep(FAKE, configs, members=16, cache=tmp_path)
    assert list(map(len, fake.logged(log))) == [6]
    assert outcome.table["seed"].tolist() == [0] * 12 + [1] * 6


@pytest.mark.parametrize(
    ("change", "new"),
    [
        ({"rates": (3.5, 3.6, 3.7, 3.9)}, [(0, 3.6), (1, 3.6)]),
        ({"seeds": (0, 1, 2)}, [(2, 3.5), (2, 3.7), (2, 3.9)]),
    ],
)
def test_adding_to_the_grid_runs_only_what_is_new(tmp_path, log, change, new):
    before = swept(tmp_path).table
    after = swept(tmp_path, replace(fake.Config(), **change)).table
    assert sorted(itertools.chain(*fake.logged(log)[2:])) == new
    old = after.merge(before[["seed", "rate"]].drop_duplicates())
    same(old[before.columns], before)


@pytest.mark.parametrize("step", range(1, 12, 2))
def test_a_budget_stops_in_time_and_resumes_to_the_same_bits(tmp_path, log, monkeypatch, step):
    """Time runs out at a given step, wherever that is in a batch."""
    expected = swept(tmp_path / "whole").table
    clock = [0.0]
    monkeypatch.setattr(sweep, "_reserve", lambda budget: 0.0)
    monkeypatch.setattr(session, "now", lambda: clock[0])
    monkeypatch.setattr(time, "sleep", lambda _: clock.__setitem__(0, clock[0] + 1))
    stopped = swept(tmp_path, budget=step - 0.5)
    assert clock[0] == step  # it ends the step that it is in
    assert stopped.left == {True: 2, False: 6}[step > 10]
    assert stopped.part_way == {True: 2, False: 4}[step > 10]
    assert "run the same command again" in stopped.remains()
    resumed = swept(tmp_path)
    assert resumed.left == 0
    same(resumed.table, expected)
    assert fake.logged(log, "from 5") or step != 5


def test_a_budget_that_is_gone_starts_nothing(tmp_path, log):
    outcome = swept(tmp_path, budget=1e-9)
    assert (outcome.left, outcome.part_way, len(outcome.table)) == (6, 0, 0)
    assert fake.logged(log) == []
    with pytest.raises(OutOfTimeError, match="0 of 6 members are done, 0 part way, 6 not begun"):
        sweep.record(
            FAKE,
            "quick",
            fake.Config(),
            budget=1e-9,
            cache=tmp_path,
            folder=tmp_path / "results",
        )
    assert not (tmp_path / "results").exists()


def test_ctrl_c_keeps_what_is_finished_and_the_checkpoint(tmp_path, log, monkeypatch):
    expected = swept(tmp_path / "whole").table
    began = fake.logged(log)
    real, calls = fake._keep, []

    def interrupted(*arguments):
        real(*arguments)
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(fake, "_keep", interrupted)
        with pytest.raises(KeyboardInterrupt):
            swept(tmp_path)
    same(swept(tmp_path).table, expected)
    assert fake.logged(log) == [*began, *began, began[1]]
    assert fake.logged(log, "from 5") == [began[1]]


def test_a_batch_killed_while_its_members_are_recorded_trains_again_whole(
    tmp_path, log, monkeypatch
):
    expected = swept(tmp_path / "whole").table
    real, written = records.write, []

    def killed(path, *rest):
        written.append(path)
        if len(written) == 3:
            raise KeyboardInterrupt
        return real(path, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(records, "write", killed)
        with pytest.raises(KeyboardInterrupt):
            swept(tmp_path)
    assert len(list((tmp_path / "fake").glob("*.parquet"))) == 2
    same(swept(tmp_path).table, expected)
    left = {path.suffix for path in (tmp_path / "fake").iterdir()}
    assert left == {".parquet"}


def test_fewer_members_after_a_stop_do_not_go_on_with_the_larger_batch(tmp_path, log, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(session, "now", iter([0.0] * 4 + [1e9] * 99).__next__)
        assert swept(tmp_path, budget=60).part_way in (0, 4)
    swept(tmp_path, members=1)
    assert set(map(len, fake.logged(log)[1:])) == {1}
    assert {path.suffix for path in (tmp_path / "fake").iterdir()} == {".parquet"}


def test_the_key_covers_config_source_data_torch_device_and_precision(monkeypatch):
    part = FAKE.parts(fake.Config())[0]

    def key(part=part, source="source", device="cpu", plan=PLAN):
        return store.key(store.facts(part, source, device, plan))

    keys = {
        key(), key(replace(part, steps=21)), key(replace(part, data="mnist5k")),
        key(source="other"), key(device="cuda"), key(plan=Plan(precision="tf32")),
    }  # fmt: skip
    assert len(keys) == 6
    assert key(plan=Plan(members=3, channels_last=True)) == key()
    monkeypatch.setattr(records, "installed", lambda package: "0.0")
    assert key() not in keys


def test_the_key_covers_the_scaling_of_the_data_and_numpy(monkeypatch):
    """The digest of the bytes is the same whatever `load` makes of them."""
    part = FAKE.parts(fake.Config())[0]
    before = store.facts(part, "source", "cpu", PLAN)
    whiter = datasets.SPECS["digits"]._replace(white=15)
    with monkeypatch.context() as patch:
        patch.setitem(datasets.SPECS, "digits", whiter)
        after = store.facts(part, "source", "cpu", PLAN)
    assert {name for name in before if before[name] != after[name]} == {"scaling"}
    with monkeypatch.context() as patch:
        patch.setattr(datasets, "_scaled", lambda name, images: images / 16 - 0.5)
        assert store.facts(part, "source", "cpu", PLAN)["scaling"] != before["scaling"]
    real = records.installed
    monkeypatch.setattr(records, "installed", lambda p: f"{real(p)}.1" if p == "numpy" else real(p))
    again = store.facts(part, "source", "cpu", PLAN)
    assert {name for name in before if before[name] != again[name]} == {"numpy"}


def test_a_build_for_other_hardware_is_the_same_release(monkeypatch):
    monkeypatch.setattr(records, "installed", lambda package: "2.13.0+cu130")
    assert records.released("torch") == "2.13.0"


def test_the_date_may_be_changed_while_a_budget_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(time, "time", iter(range(0, 10**9, 10**6)).__next__)
    assert swept(tmp_path, budget=60).left == 0


def test_two_sweeps_may_end_one_batch_at_once(tmp_path):
    """The first is kept; the second neither fails nor writes over it, nor pauses what has ended."""
    part = FAKE.parts(fake.Config())[0]
    facts = store.facts(part, "source", "cpu", PLAN)
    key = store.key(facts)
    one, other = store.Store(tmp_path / "fake"), store.Store(tmp_path / "fake")
    tables = [pd.DataFrame({"x": [1.0]}), pd.DataFrame({"x": [2.0]})]
    for kept in (one, other):
        kept.begin([key], facts)
    for kept, table in zip((one, other), tables, strict=True):
        kept.finish({key: facts}, [table], 1.0, {})
    same(one.read(key).table, tables[0])
    other.pause([key], 1.0)
    assert not other.begun()
    assert not other.part_way(store.batch_key([key]))


TWIN = """
import pathlib, sys
from bnbook.sweeps import sweep
from tests import fake
sweep.sweep(fake.EXPERIMENT, fake.Config(seeds=tuple(range(8)), steps=3), members=2,
            cache=pathlib.Path(sys.argv[1]))
"""


@pytest.mark.slow
def test_two_sweeps_of_the_same_members_at_once_both_end(tmp_path, log):
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-c", TWIN, str(tmp_path)]
    twins = [subprocess.Popen(command, env=environment, stderr=subprocess.PIPE) for _ in range(2)]
    for twin in twins:
        _, err = twin.communicate(timeout=120)
        assert (twin.returncode, err) == (0, b"")
    assert len(list((tmp_path / "fake").iterdir())) == 24


def test_a_damaged_member_is_refused_by_name(tmp_path):
    swept(tmp_path)
    damaged = next((tmp_path / "fake").glob("*.parquet"))
    damaged.write_bytes(damaged.read_bytes()[:100])
    with pytest.raises(BnbookError, match=f"{damaged.name}.*bnbook records prune"):
        swept(tmp_path)


def test_a_member_under_anothers_name_is_refused_and_pruned(tmp_path):
    whole = swept(tmp_path, members=1).table
    one, other = sorted((tmp_path / "fake").glob("*.parquet"))[:2]
    other.write_bytes(one.read_bytes())
    with pytest.raises(BnbookError, match=f"{other.name} is the record of another member.*prune"):
        swept(tmp_path)
    assert dict(store.Store(tmp_path / "fake").finished())[other] is None
    assert other in dict(inventory.prune(tmp_path, dry_run=True))
    other.unlink()
    same(swept(tmp_path, members=1).table, whole)


@pytest.mark.parametrize("text", ["", "[]", "3", '{"members": 3}', "\xff", "copied"])
def test_a_note_that_is_not_this_batchs_is_refused_and_pruned(tmp_path, monkeypatch, text):
    clock = [0.0]
    with monkeypatch.context() as patch:
        patch.setattr(session, "now", lambda: clock[0])
        patch.setattr(time, "sleep", lambda _: clock.__setitem__(0, clock[0] + 1))
        swept(tmp_path, budget=4.0)
    note = next((tmp_path / "fake").glob("*.json"))
    bad = note.with_name(f"{'0' * 64}.json") if text == "copied" else note
    bad.write_bytes(note.read_bytes() if text == "copied" else text.encode("latin-1"))
    with pytest.raises(BnbookError, match=rf"{bad.name} is not the note of a batch.*records prune"):
        swept(tmp_path)
    monkeypatch.setattr(inventory, "_sources", lambda _: store.source_digests(FAKE))
    assert dict(inventory.prune(tmp_path))[bad] == "damaged"
    assert len(swept(tmp_path).table) == 12


def test_a_damaged_plan_is_measured_again(tmp_path, monkeypatch):
    whole = sweep.sweep(FAKE, fake.Config(), cache=tmp_path).table
    (plan,) = tmp_path.glob("plan-*.json")
    before = plan.read_bytes()
    for text in (b"", b"[]", b'{"plan": {"speed": 3}}', b"\xff"):
        plan.write_bytes(text)
        same(sweep.sweep(FAKE, fake.Config(), cache=tmp_path).table, whole)
        assert plan.read_bytes() == before


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"workers": 0}, "workers must be at least 1, found 0"),
        ({"members": 0}, "members must be at least 1, found 0"),
        ({"budget": -1.0}, "the budget must be more than 0 seconds, found -1.0"),
        ({"executor": "abacus"}, "executor must be one of inline, processes, dask, found 'abacus'"),
        ({"executor": "dask"}, "needs the address of a scheduler"),
        ({"executor": "inline", "workers": 2}, "inline was asked for 2 workers"),
        ({"executor": "inline", "scheduler": "tcp://a:1"}, "inline has no scheduler"),
        ({"device": "abacus"}, "device must be auto, cpu or cuda"),
        ({"config": fake.Config(data="imagenet")}, "imagenet"),
        ({"config": fake.Config(seeds=())}, "at least one config with a single run"),
        ({"config": []}, "at least one config with a single run"),
        ({"config": fake.Config(trouble="memory")}, "not enough memory. Try `--members 4`"),
        ({"config": fake.Config(trouble="torch")}, "not enough memory. Try `--members 4`"),
        ({"config": fake.Config(trouble="cpu")}, "not enough memory. Try `--members 4`"),
        ({"config": fake.Config(trouble="disk")}, "the disk is full"),
        ({"config": fake.Config(trouble="alone")}, "cannot be fused with the others"),
    ],
)
def test_bad_input_is_one_line_and_touches_nothing(tmp_path, options, says):
    swept(tmp_path)
    before = contents(tmp_path)
    with pytest.raises(BnbookError) as error:
        swept(tmp_path, **options)
    assert says in str(error.value)
    assert "\n" not in str(error.value) or "imagenet" in says
    after = contents(tmp_path)
    assert before.items() <= after.items()
    assert {Path(name).suffix for name in after.keys() - before.keys()} <= {".json"}


def contents(folder):
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_bug_is_not_explained_away(tmp_path):
    with pytest.raises(ZeroDivisionError, match="a bug"):
        swept(tmp_path, fake.Config(trouble="bug"))


def test_a_full_disk_while_recording_leaves_every_record_as_it_was(tmp_path, monkeypatch):
    folder = tmp_path / "results"
    sweep.record(FAKE, "quick", fake.Config(), cache=tmp_path / "cache", folder=folder)
    before = contents(tmp_path)

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    for config in (fake.Config(seeds=(0, 1, 2)), fake.Config()):
        with pytest.raises(BnbookError, match=r"the disk is full .No space left on device"):
            sweep.record(FAKE, "quick", config, cache=tmp_path / "cache", folder=folder)
    assert contents(tmp_path) == before


def test_a_record_states_where_it_came_from(tmp_path):
    config = fake.Config(rates=(3.5, 4.0))
    record = sweep.record(FAKE, "quick", config, cache=tmp_path / "cache", folder=tmp_path)
    facts = record.provenance
    assert (facts["experiment"], facts["profile"], facts["data"]) == ("fake", "quick", "digits")
    assert facts["config"]["rates"] == [3.5, 4.0]
    assert (facts["device"], facts["seeds"], facts["diverged"]) == ("cpu", 2, 2)
    assert facts["plan"]["precision"] == "float32"
    assert facts["seconds"] >= 0
    assert {"train", "BnbookError"} < facts["sources"].keys()
    assert facts["source_digest"] == sources.combined(facts["sources"])
    assert len(facts["data_digest"]) == 64
    assert records.read(tmp_path / "fake" / "quick.parquet").digest == record.digest


def test_the_progress_line_says_members_rate_time_left_and_diverged(tmp_path, capsys):
    work = {"a": Work(tmp_path / "a", 4, 100), "b": Work(tmp_path / "b", 2, 50)}
    with Progress("fake", work, 6, 1, quiet=False, seconds=(0.01, 0.02)) as progress:
        files.write_bytes(tmp_path / "a", json.dumps({"step": 50, "diverged": 2}).encode())
        time.sleep(0.2)
        progress.finished("b", 1)
        time.sleep(0.1)
    lines = capsys.readouterr().err.splitlines()
    assert any("fake: 6 of 12 members done, 3 diverged" in line for line in lines)
    assert "fake: 8 of 12 members done, 4 diverged" in lines[-1]
    assert " steps/s, " in lines[-1]
    assert lines[-1].endswith(" left")


def test_a_pipe_is_told_nothing_unless_asked(tmp_path, capsys):
    swept(tmp_path)
    swept(tmp_path, fake.Config(seeds=(3,)), quiet=False)  # too short for a line
    assert capsys.readouterr().err == ""


@pytest.mark.slow
def test_two_processes_give_the_same_table_and_a_dead_one_says_what_to_try(tmp_path, log):
    outcome = swept(tmp_path, workers=2)
    same(outcome.table, swept(tmp_path / "alone").table)
    pids = {json.loads(line)[1] for line in (log / "log").read_text().splitlines()[:4]}
    assert os.getpid() not in pids
    with pytest.raises(BnbookError, match=r"a worker process died.*Try fewer `--workers`"):
        swept(tmp_path, fake.Config(trouble="die"), workers=2)


SCRIPT = """
import pathlib, signal, sys
from bnbook.sweeps import sweep
from tests import fake
from tests.experiments.test_ioffe_fig1 import SMALL
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
config = fake.Config(steps=60, pause=0.04)
if __name__ == "__main__":
    sweep.sweep(fake.EXPERIMENT, config, members=4, workers=2, cache=pathlib.Path(sys.argv[1]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_killed_in_mid_batch_it_goes_on_to_the_same_bits(tmp_path, log, how):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    folder = tmp_path / "cache"
    process = subprocess.Popen(
        [sys.executable, str(script), str(folder)],
        env=environment,
        stderr=subprocess.DEVNULL,
    )
    started = time.monotonic()
    while not list((folder / "fake").glob("*.checkpoint")):
        assert time.monotonic() - started < 60
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(how)
    process.wait()
    workers_end(log)
    config = fake.Config(steps=60, pause=0.04)
    assert len(list((folder / "fake").glob("*.parquet"))) < len(FAKE.parts(config))
    resumed = sweep.sweep(FAKE, config, members=4, cache=folder)
    went_on = [json.loads(line)[0] for line in (log / "log").read_text().splitlines()]
    assert any(word.startswith("from ") for word in went_on)
    same(resumed.table, swept(tmp_path / "whole", replace(config, pause=0.0)).table)


def workers_end(log):
    """Wait until no process that trained is alive."""
    pids = {json.loads(line)[1] for line in (log / "log").read_text().splitlines()}
    started = time.monotonic()
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        assert time.monotonic() - started < 10, "a worker outlived the sweep"
        time.sleep(0.02)


REAL = """
import functools, pathlib, sys, torch
from bnbook.sweeps import sweep
from bnbook.experiments.ioffe_fig1.experiment import EXPERIMENT as ioffe_fig1
torch.set_num_threads(1)
sweep.Session = functools.partial(sweep.Session, interval=0.0)
config = ioffe_fig1.configure("quick", **%r)
sweep.sweep(ioffe_fig1, config, members=2, cache=pathlib.Path(sys.argv[1]))
"""


@pytest.mark.slow
def test_a_real_experiment_killed_in_mid_batch_goes_on_to_the_same_bits(tmp_path):
    """Figure 1 itself: networks, minibatches, statistics and history come from the checkpoint."""
    changes = {**SMALL, "steps": 1200}
    process = subprocess.Popen([sys.executable, "-c", REAL % changes, str(tmp_path)])
    folder, started = tmp_path / "ioffe_fig1", time.monotonic()
    first, second = set(), set()
    while not second:
        seen = {path.name for path in folder.glob("*.checkpoint")}
        if list(folder.glob("*.parquet")):
            second = seen - first
        else:
            first |= seen
        assert time.monotonic() - started < 120
        assert process.poll() is None
        time.sleep(0.002)
    process.kill()
    process.wait()
    before = {path.name: path.stat().st_mtime_ns for path in folder.glob("*.parquet")}
    config = ioffe_fig1.configure("quick", **changes)
    resumed = sweep.sweep(ioffe_fig1, config, members=2, cache=tmp_path)
    after = {path.name: path.stat().st_mtime_ns for path in folder.glob("*.parquet")}
    assert len(after) == 8
    assert len(before) < 8
    assert before.items() <= after.items()
    same(resumed.table, ioffe_fig1.run(config, "cpu"))
    assert resumed.table["step"].max() == 1200
