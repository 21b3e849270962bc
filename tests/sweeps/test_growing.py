"""Records that grow: on another machine, killed at any moment, by two processes, and refused."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from bnbook.errors import BnbookError
from bnbook.evidence import records, sources
from bnbook.sweeps import growing, planning, store, sweep, worker
from bnbook.training import session
from bnbook.training.session import OutOfTimeError
from tests import fake
from tests.fake import EXPERIMENT as FAKE
from tests.sweeps.test_sweep import contents, same

CONFIG = fake.Config()


@pytest.fixture
def log(tmp_path, monkeypatch):
    """The folder in which the made-up experiment writes what it trains."""
    monkeypatch.setenv(fake.LOG, str(tmp_path))
    return tmp_path


def grown(tmp_path, config=CONFIG, machine="a", members=2, **options):
    """Grow the record in tmp_path / results with the cache of a machine."""
    folders = {"cache": tmp_path / machine, "folder": tmp_path / "results"}
    return sweep.grow(FAKE, "quick", config, members=members, quiet=True, **folders, **options)


def path(tmp_path, stem="quick"):
    return tmp_path / "results" / "fake" / f"{stem}.parquet"


def stopped(tmp_path, monkeypatch, step, **options):
    """Grow until time runs out at a step; return the record that stands then."""
    clock = [0.0]
    with monkeypatch.context() as patch:
        patch.setattr(sweep, "_reserve", lambda budget: 0.0)
        patch.setattr(session, "now", lambda: clock[0])
        patch.setattr(time, "sleep", lambda _: clock.__setitem__(0, clock[0] + 1))
        with pytest.raises(OutOfTimeError, match="ran out of time"):
            grown(tmp_path, budget=step - 0.5, **options)
    return records.read(path(tmp_path)) if path(tmp_path).is_file() else None


def uninterrupted(tmp_path, config=CONFIG, members=2):
    return sweep.sweep(FAKE, config, members=members, cache=tmp_path / "whole").table


@pytest.mark.parametrize("step", range(1, 31, 3))
def test_another_machine_goes_on_from_the_record_alone(tmp_path, log, monkeypatch, step):
    expected = uninterrupted(tmp_path)
    (log / "log").unlink()
    before = stopped(tmp_path, monkeypatch, step)
    assert (before is None) == (step < 10)
    if before is not None:
        about = before.provenance
        assert (about["members"], about["missing"]) == (6, 6 - 2 * (step // 10))
        assert len(before.table) == 2 * (6 - about["missing"])
    record = grown(tmp_path, machine="b")
    same(record.table, expected)
    assert record.provenance["missing"] == 0
    ended = [member for batch in fake.logged(log, "ended") for member in batch]
    assert sorted(ended) == sorted({(s, r) for s in CONFIG.seeds for r in CONFIG.rates})


def killed_after_one_member(tmp_path, monkeypatch):
    """Kill a sweep of threes as it writes its second member, without a checkpoint."""
    write, written = records.write, []

    def dies(file, *rest):
        written.append(file)
        if len(written) == 2:
            raise KeyboardInterrupt
        return write(file, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(records, "write", dies)
        with pytest.raises(KeyboardInterrupt):
            grown(tmp_path, members=3)
    for checkpoint in written[0].parent.glob("*.checkpoint"):
        checkpoint.unlink()
    return written[0]


@pytest.mark.parametrize("then", ["a", "b"])
def test_killed_while_a_batch_is_written_it_trains_the_whole_batch_again(
    tmp_path, monkeypatch, then
):
    """The record takes a batch as a whole, for another machine could not train it as one again."""
    expected = uninterrupted(tmp_path, members=3)
    member = killed_after_one_member(tmp_path, monkeypatch)
    stopped(tmp_path, monkeypatch, 1, members=3)
    assert member.is_file()
    assert not path(tmp_path).exists()
    record = grown(tmp_path, machine=then, members=3)
    same(record.table, expected)
    assert record.provenance["missing"] == 0


def test_a_member_stands_alone_when_the_rest_of_its_batch_is_not_wanted(tmp_path, monkeypatch):
    killed_after_one_member(tmp_path, monkeypatch)
    first = replace(CONFIG, seeds=(0,), rates=CONFIG.rates[:1])
    assert len(grown(tmp_path, first, members=3).table) == 2


def test_each_member_states_where_it_was_trained_and_a_mixture_says_so(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(store, "today", lambda: "2026-01-01")
        first = stopped(tmp_path, monkeypatch, 11)
    assert first.provenance["processor"] == records.processor()
    monkeypatch.setattr(records, "processor", lambda: "abacus")
    worker._machine.cache_clear()
    about = grown(tmp_path, machine="b").provenance
    worker._machine.cache_clear()
    assert about["processor"] == f"{first.provenance['processor']}; abacus"
    assert [about["origins"][run[3]]["processor"] == "abacus" for run in about["runs"]] == [
        False, False, True, True, True, True,
    ]  # fmt: skip
    assert [origin["date"] for origin in about["origins"]] == ["2026-01-01", store.today()]
    for origin in about["origins"]:
        assert origin["threads"] >= 1
        assert origin["versions"]["python"] == sys.version.split()[0]
        assert origin["facts"]["precision"] == origin["plan"]["precision"] == "float32"
        assert origin["facts"]["source"] == sources.combined(about["sources"])
    assert about["seconds"] == pytest.approx(sum(run[2] for run in about["runs"]), abs=0.1)


def test_a_whole_record_is_not_trained_again_and_fewer_seeds_leave_it_as_it_is(tmp_path, log):
    record = grown(tmp_path)
    trained = len(fake.logged(log))
    again = grown(tmp_path, replace(CONFIG, seeds=(0,)), machine="b")
    assert again.digest == record.digest
    assert len(fake.logged(log)) == trained


def test_more_seeds_add_to_a_record(tmp_path, log):
    grown(tmp_path, replace(CONFIG, seeds=(1,)), members=1)
    record = grown(tmp_path, replace(CONFIG, seeds=(0, 1, 2)), machine="b", members=1)
    assert sorted(member for [member] in fake.logged(log)[3:]) == [
        (seed, rate) for seed in (0, 2) for rate in CONFIG.rates
    ]
    same(record.table, FAKE.run(replace(CONFIG, seeds=(0, 1, 2))))
    assert record.provenance["seeds"] == 3


def test_a_plan_that_is_larger_stays_the_plan(tmp_path, monkeypatch):
    """Two of three seeds asked for by somebody else do not make a record of two seeds whole."""
    three = replace(CONFIG, seeds=(0, 1, 2))
    stopped(tmp_path, monkeypatch, 11, config=three)
    record = grown(tmp_path, CONFIG, machine="b")
    assert (record.provenance["members"], record.provenance["missing"]) == (9, 3)
    assert grown(tmp_path, three, machine="c").provenance["missing"] == 0


def changed_source(monkeypatch):
    now = store.source_digests(FAKE)
    monkeypatch.setattr(store, "source_digests", lambda experiment: {**now, "train": "0" * 64})


def changed_data(monkeypatch):
    monkeypatch.setattr("bnbook.datasets.digest", lambda name: "d" * 64)


def changed_torch(monkeypatch):
    real = records.installed
    monkeypatch.setattr(records, "installed", lambda p: "9.9" if p == "torch" else real(p))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (changed_source, "source: train changed"),
        (changed_data, "data: digits had digest .*, has dddddddddddd"),
        (changed_torch, r"torch: was .*, is 9\.9"),
    ],
)
def test_members_of_other_source_data_or_torch_are_refused(tmp_path, monkeypatch, change, says):
    stopped(tmp_path, monkeypatch, 11)
    before = contents(tmp_path / "results")
    with monkeypatch.context() as patch:
        change(patch)
        refusal = f"holds 2 of 6 members that do not belong with those of this run .{says}.*replace"
        with pytest.raises(BnbookError, match=refusal):
            grown(tmp_path, machine="b")
        assert contents(tmp_path / "results") == before
        record = grown(tmp_path, machine="b", replace=True)
        assert record.provenance["missing"] == 0
        assert len(record.provenance["origins"]) == 1


def test_members_of_another_release_stay_in_a_record_that_may_be_mixed(tmp_path, log, monkeypatch):
    held = stopped(tmp_path, monkeypatch, 11)
    trained = len(fake.logged(log))
    changed_torch(monkeypatch)
    worker._machine.cache_clear()
    record = grown(tmp_path, machine="b", mixed=True)
    worker._machine.cache_clear()
    assert record.provenance["missing"] == 0
    assert len(fake.logged(log)) - trained == 4 // 2  # batches of two members, none of them again
    assert [origin["facts"]["torch"] for origin in record.provenance["origins"]] == [
        held.provenance["origins"][0]["facts"]["torch"], "9.9",
    ]  # fmt: skip
    assert [run[:3] for run in record.provenance["runs"][:2]] == [
        run[:3] for run in held.provenance["runs"]
    ]
    pd.testing.assert_frame_equal(record.table.head(len(held.table)), held.table)


@pytest.mark.parametrize("change", [changed_source, changed_data])
def test_members_of_other_source_or_data_never_mix(tmp_path, monkeypatch, change):
    stopped(tmp_path, monkeypatch, 11)
    before = contents(tmp_path / "results")
    change(monkeypatch)
    with pytest.raises(BnbookError, match="do not belong"):
        grown(tmp_path, machine="b", mixed=True)
    assert contents(tmp_path / "results") == before


def test_members_of_another_config_are_refused(tmp_path, monkeypatch):
    stopped(tmp_path, monkeypatch, 11)
    with pytest.raises(BnbookError, match="config: steps was 10, is 12"):
        grown(tmp_path, replace(CONFIG, steps=12), machine="b")


def test_a_config_that_is_refused_by_now_is_reported_as_what_changed(tmp_path, monkeypatch):
    before = stopped(tmp_path, monkeypatch, 11)
    now = fake.Config.__post_init__

    def refuse(config):
        now(config)
        if config.steps == CONFIG.steps:
            raise BnbookError(f"steps must not be {config.steps}.")

    monkeypatch.setattr(fake.Config, "__post_init__", refuse)
    with pytest.raises(BnbookError, match=r"left as it is\. Go back") as refused:
        grown(tmp_path, fake.Config(steps=12), machine="b")
    assert "config: steps was 10, is 12" in str(refused.value)
    assert records.read(path(tmp_path)).digest == before.digest


def test_a_stale_whole_record_stands_until_the_new_one_covers_it(tmp_path, monkeypatch):
    old = grown(tmp_path)
    changed_source(monkeypatch)
    with pytest.raises(
        BnbookError,
        match=r"holds 6 members with seeds \[0, 1\], this run would have 3 with seeds \[0\]",
    ):
        grown(tmp_path, replace(CONFIG, seeds=(0,)), machine="b")
    assert stopped(tmp_path, monkeypatch, 11, machine="b").digest == old.digest
    aside = records.read(path(tmp_path, "quick.growing"))
    assert (aside.provenance["members"], aside.provenance["missing"]) == (6, 4)
    new = grown(tmp_path, machine="c")
    assert new.digest == records.read(path(tmp_path)).digest != old.digest
    assert not path(tmp_path, "quick.growing").exists()


def test_replace_lets_a_smaller_record_stand(tmp_path, monkeypatch):
    grown(tmp_path)
    one = replace(CONFIG, seeds=(7,))
    with pytest.raises(
        BnbookError, match=r"holds 6 members with seeds \[0, 1\], .* 3 with seeds \[7\]"
    ):
        grown(tmp_path, one, machine="b")
    assert grown(tmp_path, one, machine="b", replace=True).table["seed"].unique() == [7]


def test_a_record_without_origins_is_read_as_it_is_and_replaced_when_covered(tmp_path):
    old = records.write(
        path(tmp_path),
        pd.DataFrame({"x": [1.0]}),
        {"seeds": 2, "config": {}, "experiment": "fake", "profile": "quick"},
    )
    record = records.read(path(tmp_path))
    assert (record.digest, growing.members_of(record)) == (old, {})
    with pytest.raises(BnbookError, match="holds 0 members with seeds 2, this run would have 3"):
        grown(tmp_path, replace(CONFIG, seeds=(0,)))
    assert len(grown(tmp_path).table) == 12


def test_members_keep_their_columns_and_types(tmp_path):
    """Members of other columns stand in one table and come out of it as they went in."""
    tables = {
        "a": pd.DataFrame({"x": [1, 2], "y": ["p", "q"]}),
        "b": pd.DataFrame({"y": ["r"], "z": [True], "w": [0.1]}),
    }
    origin = {**dict.fromkeys(growing._MACHINE, "m"), "date": "2026-01-01", "facts": {}}
    members = {
        growing.run_digest({"config": name}): growing.Member(table, 1.5, origin)
        for name, table in tables.items()
    }
    facts = [{"config": name} for name in "cab"]
    itself = {"experiment": "fake", "profile": "quick"}
    records.write(path(tmp_path), *growing.assemble(itself, facts, members))
    record = records.read(path(tmp_path))
    assert (record.provenance["members"], record.provenance["missing"]) == (3, 1)
    back = growing.members_of(record)
    for digest, member in members.items():
        same(back[digest].table, member.table)
        assert back[digest].seconds == 1.5


def test_the_estimate_is_said_before_and_kept_beside_what_it_took(tmp_path, monkeypatch, capsys):
    clock = {"cache": tmp_path / "a", "folder": tmp_path / "results"}
    record = sweep.grow(FAKE, "quick", CONFIG, members=2, **clock)
    assert "fake: about 30 s of computing, by a step timed." in capsys.readouterr().err
    assert record.provenance["estimated_seconds"] == 30.0  # 6 members, 10 steps, 1 s for 2 members
    assert record.provenance["seconds"] < 30
    assert planning.estimate(FAKE, FAKE.parts(CONFIG)[:1], "cpu", session.Plan()) == 10.0
    assert planning.estimate(FAKE, FAKE.parts(CONFIG), "cpu", session.Plan(), -1.0) is None


MANY = fake.Config(seeds=tuple(range(40)), steps=3)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_killed_fifty_times_it_loses_nothing_and_leaves_nothing_half_written(tmp_path):
    """At random moments, each time on a machine that has the record alone or the cache too."""
    sweep.sweep(FAKE, CONFIG, members=1, cache=tmp_path / "warm")
    chance, kills, done = random.Random(0), 0, set()
    while kills < 50:
        machine = chance.choice(["a", "b"])
        if machine == "b":
            shutil.rmtree(tmp_path / "b", ignore_errors=True)
        child = os.fork()
        if child == 0:
            try:
                grown(tmp_path, MANY, machine, members=3)
            finally:
                os._exit(0)
        time.sleep(chance.uniform(0.0, 0.3))
        os.kill(child, signal.SIGKILL)
        kills += os.WIFSIGNALED(os.waitpid(child, 0)[1])
        for file in (tmp_path / "results").glob("*/*.parquet"):
            now = set(growing.members_of(records.read(file)))
            assert done <= now
            done = now
        if len(done) == 120:  # whole: again from nothing
            shutil.rmtree(tmp_path / "results")
            done = set()
    record = grown(tmp_path, MANY, "c", members=3)
    same(record.table, uninterrupted(tmp_path, MANY, members=3))
    assert {p.name for p in path(tmp_path).parent.iterdir()} == {"quick.parquet", ".quick.lock"}


TWIN = """
import pathlib, sys
from tests.sweeps.test_growing import MANY, grown
grown(pathlib.Path(sys.argv[1]), MANY, "machine" + sys.argv[2], members=1)
"""


@pytest.mark.slow
def test_two_processes_record_into_one_file(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-c", TWIN, str(tmp_path)]
    twins = [
        subprocess.Popen([*command, str(k)], env=environment, stderr=subprocess.PIPE)
        for k in (0, 1)
    ]
    for twin in twins:
        _, err = twin.communicate(timeout=240)
        assert (twin.returncode, err) == (0, b"")
    same(records.read(path(tmp_path)).table, FAKE.run(MANY))
