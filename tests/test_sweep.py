"""Sweeps: parts run once, resume, and give the table that an uninterrupted run gives."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pandas as pd
import pytest

from bnbook import records, sweep
from bnbook.errors import BnbookError
from bnbook.experiments import ioffe_fig1

SMALL = {
    "data": "digits", "steps": 20, "seeds": (0, 1), "learning_rates": (0.01, 1.0),
    "probe_intervals": 2, "probe_images": 50, "validation": 100, "hidden": (10, 10),
}  # fmt: skip


@pytest.fixture(scope="module")
def config():
    return ioffe_fig1.configure("quick", **{**SMALL, "unit": 0})


@pytest.fixture
def count(monkeypatch):
    """Parts that were run, in order."""
    ran = []
    real = ioffe_fig1._run_part
    monkeypatch.setattr(
        ioffe_fig1, "_run_part", lambda part, device: ran.append(part) or real(part, device)
    )
    return ran


def test_a_sweep_gives_the_experiments_own_table_and_runs_nothing_twice(tmp_path, config, count):
    expected = ioffe_fig1.run(config, "cpu")
    count.clear()
    outcome = sweep.run(ioffe_fig1, config, cache=tmp_path)
    pd.testing.assert_frame_equal(outcome.table, expected)
    assert count == ioffe_fig1.parts(config)
    again = sweep.run(ioffe_fig1, config, cache=tmp_path)
    pd.testing.assert_frame_equal(again.table, expected)
    assert len(count) == 4
    assert again.seconds == outcome.seconds > 0


def test_an_interrupted_sweep_resumes(tmp_path, config, count, monkeypatch):
    counted = ioffe_fig1._run_part

    def fails_at_the_third(part, device):
        if len(count) == 2:
            raise KeyboardInterrupt
        return counted(part, device)

    with monkeypatch.context() as patch:
        patch.setattr(ioffe_fig1, "_run_part", fails_at_the_third)
        with pytest.raises(KeyboardInterrupt):
            sweep.run(ioffe_fig1, config, cache=tmp_path)
    outcome = sweep.run(ioffe_fig1, config, cache=tmp_path)
    assert count == ioffe_fig1.parts(config)
    pd.testing.assert_frame_equal(outcome.table, ioffe_fig1.run(config, "cpu"))


def test_adding_seeds_runs_only_those(tmp_path, config, count):
    sweep.run(ioffe_fig1, config, cache=tmp_path)
    count.clear()
    sweep.run(ioffe_fig1, replace(config, seeds=(0, 1, 2)), cache=tmp_path)
    assert {part.seeds for part in count} == {(2,)}


def test_the_key_covers_config_source_data_and_device(config):
    part = ioffe_fig1.parts(config)[0]
    key = sweep.part_key(part, "source", "cpu")
    others = [
        sweep.part_key(replace(part, steps=21), "source", "cpu"),
        sweep.part_key(replace(part, data="mnist5k"), "source", "cpu"),
        sweep.part_key(part, "other", "cpu"),
        sweep.part_key(part, "source", "cuda"),
    ]
    assert len({key, *others}) == 5


def test_a_damaged_part_is_refused_by_name(tmp_path, config):
    sweep.run(ioffe_fig1, config, cache=tmp_path)
    part = next((tmp_path / "ioffe_fig1").glob("*.parquet"))
    part.write_bytes(part.read_bytes()[:100])
    with pytest.raises(BnbookError, match=part.name):
        sweep.run(ioffe_fig1, config, cache=tmp_path)


def test_workers_must_be_positive(config):
    with pytest.raises(BnbookError, match="workers must be at least 1, found 0"):
        sweep.run(ioffe_fig1, config, workers=0)


@pytest.mark.slow
def test_two_workers_give_the_same_table(tmp_path, config):
    outcome = sweep.run(ioffe_fig1, config, workers=2, cache=tmp_path)
    expected = sweep.run(ioffe_fig1, config, cache=tmp_path / "alone")
    pd.testing.assert_frame_equal(outcome.table, expected.table)


@pytest.mark.slow
def test_kill_in_mid_sweep_then_resume(tmp_path, config):
    """A process is killed after its first part; the next sweep goes on from there."""
    script = (
        "import pathlib, sys, torch\n"
        "from bnbook import sweep\n"
        "from bnbook.experiments import ioffe_fig1\n"
        "torch.set_num_threads(1)\n"
        f"config = ioffe_fig1.configure('quick', unit=0, **{SMALL!r})\n"
        "sweep.run(ioffe_fig1, config, cache=pathlib.Path(sys.argv[1]))\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)])
    folder, started = tmp_path / "ioffe_fig1", time.monotonic()
    while not list(folder.glob("*.parquet")) and time.monotonic() - started < 60:
        time.sleep(0.001)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    kept = {path.name: path.stat().st_mtime_ns for path in folder.glob("*.parquet")}
    assert kept
    outcome = sweep.run(ioffe_fig1, config, cache=tmp_path)
    now = {path.name: path.stat().st_mtime_ns for path in folder.glob("*.parquet")}
    assert len(now) == 4
    assert kept.items() <= now.items()
    pd.testing.assert_frame_equal(outcome.table, ioffe_fig1.run(config, "cpu"))


def test_a_record_states_where_it_came_from(tmp_path, config, monkeypatch):
    monkeypatch.setattr(sweep, "CACHE", tmp_path / "cache")
    record = sweep.record(ioffe_fig1, "quick", config, device="cpu", folder=tmp_path)
    facts = record.provenance
    assert (facts["experiment"], facts["profile"], facts["data"]) == (
        "ioffe_fig1", "quick", "digits",
    )  # fmt: skip
    assert facts["config"]["learning_rates"] == [0.01, 1.0]
    assert facts["device"] == "cpu"
    assert facts["seconds"] > 0
    assert len(facts["data_digest"]) == len(facts["source_digest"]) == 64
    assert records.read(tmp_path / "ioffe_fig1" / "quick.parquet").digest == record.digest
