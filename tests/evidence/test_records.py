"""Records: what goes in comes out, cut or edited files are refused, a kill leaves a whole one."""

import hashlib
import json
import os
import platform
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bnbook.errors import BnbookError
from bnbook.evidence import records

FACTS = {"experiment": "made_up", "profile": "quick", "seeds": 2, "data": "digits"}
LEFT = "It was left as it is; restore it with `git checkout` or record it again."


@pytest.fixture
def table():
    return pd.DataFrame(
        {
            "arm": ["with BN", "without BN"],
            "step": [1, 2],
            "loss": [0.1, np.nan],
            "diverged": [False, True],
        }
    )


def test_round_trip(tmp_path, table):
    path = tmp_path / "deep" / "made_up" / "quick.parquet"
    digest = records.write(path, table, FACTS)
    record = records.read(path)
    pd.testing.assert_frame_equal(record.table, table)
    assert record.provenance == FACTS
    assert record.digest == digest
    assert [p.name for p in path.parent.iterdir()] == ["quick.parquet"]
    assert records.write(path, table, FACTS) == digest


@pytest.mark.parametrize(
    "change", [{"loss": [0.2, np.nan]}, {"arm": ["a", "b"]}, {"diverged": [True, True]}]
)
def test_the_digest_covers_every_column_and_the_provenance(tmp_path, table, change):
    digest = records.write(tmp_path / "a", table, FACTS)
    assert records.write(tmp_path / "b", table.assign(**change), FACTS) != digest
    assert records.write(tmp_path / "c", table, {**FACTS, "seeds": 3}) != digest
    assert records.write(tmp_path / "d", table.rename(columns={"loss": "x"}), FACTS) != digest


def test_the_digest_is_of_the_content_alone(tmp_path, table):
    """Not of the index, the order of the facts, or how pandas keeps its strings."""
    digest = records.write(tmp_path / "a", table, FACTS)
    assert records.write(tmp_path / "b", table.set_axis([7, 3]), FACTS) == digest
    assert list(records.read(tmp_path / "b").table.columns) == list(table.columns)
    backwards = dict(reversed(FACTS.items()))
    assert list(backwards) != list(FACTS)
    assert records.write(tmp_path / "c", table, backwards) == digest
    stored = pa.Table.from_pandas(table, preserve_index=False).replace_schema_metadata(None)
    at = stored.schema.get_field_index("arm")
    for kind in (pa.string(), pa.large_string()):
        other = stored.set_column(at, "arm", stored["arm"].cast(kind))
        facts = json.dumps(FACTS, sort_keys=True).encode()
        assert records.content_digest(other, facts) == digest
    number = stored.schema.get_field_index("step")
    narrow = stored.set_column(number, "step", stored["step"].cast(pa.int32()))
    assert records.content_digest(narrow, facts) != digest


def test_missing(tmp_path):
    expected = r"expected a record at .*found none.*bnbook run` \(recorded tables: `git checkout"
    with pytest.raises(BnbookError, match=expected):
        records.read(tmp_path / "none.parquet")


def test_truncated(tmp_path, table):
    path = tmp_path / "quick.parquet"
    records.write(path, table, FACTS)
    whole = path.read_bytes()
    for length in (0, 10, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(BnbookError) as error:
            records.read(path)
        assert "cut short" in str(error.value)
        sha = hashlib.sha256(whole[:length]).hexdigest()
        assert f"{length} bytes with SHA-256 {sha}. {LEFT}" in str(error.value)
        assert path.read_bytes() == whole[:length]


def test_edited_by_hand(tmp_path, table):
    path = tmp_path / "quick.parquet"
    expected = records.write(path, table, FACTS)
    stored = pq.read_table(path)
    edited = stored.set_column(2, "loss", [[0.5, 0.6]]).replace_schema_metadata(
        stored.schema.metadata
    )
    pq.write_table(edited, path)
    with pytest.raises(BnbookError) as error:
        records.read(path)
    assert f"the record says {expected}" in str(error.value)
    assert "was edited after it was recorded" in str(error.value)
    assert str(error.value).endswith(LEFT)


def test_written_by_other_means(tmp_path, table):
    path = tmp_path / "quick.parquet"
    table.to_parquet(path)
    with pytest.raises(BnbookError, match="without a record's provenance and digest"):
        records.read(path)
    records.write(path, table, FACTS)
    stored = pq.read_table(path)
    for key, value in stored.schema.metadata.items():  # one of the two alone is no record
        pq.write_table(stored.replace_schema_metadata({key: value}), path)
        with pytest.raises(BnbookError, match="without a record's provenance and digest"):
            records.read(path)


def test_a_failure_while_writing_leaves_the_old_file(tmp_path, table, monkeypatch):
    path = tmp_path / "a.parquet"
    digest = records.write(path, table, FACTS)

    def full(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space left"):
        records.write(path, table.assign(step=0), FACTS)
    assert records.read(path).digest == digest
    assert [p.name for p in tmp_path.iterdir()] == ["a.parquet"]


@pytest.mark.parametrize("place", ["made_up/standard", "other/quick", "other/quick.growing"])
def test_a_record_that_was_copied_elsewhere_is_refused(tmp_path, table, place):
    home = records.path(tmp_path, "made_up", "quick")
    records.write(home, table, FACTS)
    copy = tmp_path / f"{place}.parquet"
    copy.parent.mkdir(exist_ok=True)
    copy.write_bytes(home.read_bytes())
    with pytest.raises(BnbookError, match=r"it says of itself made_up at quick: it was copied"):
        records.read(copy)
    assert records.read(home).provenance == FACTS


@pytest.mark.slow
def test_kill_while_writing_then_read(tmp_path):
    """A process that does nothing but rewrite a record is killed; the record is always whole."""
    path = tmp_path / "record.parquet"
    writer = (
        "import sys, itertools, pathlib, pandas as pd\n"
        "from bnbook.evidence import records\n"
        "for k in itertools.count():\n"
        "    table = pd.DataFrame({'k': [k] * 20_000})\n"
        "    records.write(pathlib.Path(sys.argv[1]), table, {'k': k})\n"
    )
    seen = set()
    for delay in (0.0, 0.013, 0.031, 0.057, 0.111):
        process = subprocess.Popen([sys.executable, "-c", writer, str(path)])
        started = time.monotonic()
        before = path.stat().st_mtime_ns if path.exists() else 0
        while (path.stat().st_mtime_ns if path.exists() else 0) == before:
            assert process.poll() is None, "the writer died by itself"
            assert time.monotonic() - started < 60
            time.sleep(0.002)
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        process.wait()
        record = records.read(path)
        assert (record.table["k"] == record.provenance["k"]).all()
        assert len(record.table) == 20_000
        seen.add(record.provenance["k"])
    assert len(seen) > 1, "the writer never got past its first record"


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity on this system")
def test_cores_are_those_that_the_process_may_use():
    ask = "from bnbook.evidence import records; print(records.cores())"
    only = min(os.sched_getaffinity(0))
    found = subprocess.run(
        [sys.executable, "-c", ask], capture_output=True, text=True, check=True,
        preexec_fn=lambda: os.sched_setaffinity(0, {only}),
    )  # fmt: skip
    assert found.stdout == "1\n"


def test_environment_states_what_a_reader_needs():
    facts = records.environment("cpu")
    assert facts["device"] == "cpu"
    assert facts["processor"] == records.processor()
    assert facts["system"].startswith(platform.system())
    assert facts["versions"]["python"] == platform.python_version()
    for name in ("bnbook", "numpy", "pandas"):
        assert facts["versions"][name] == records.installed(name)
    assert 1 <= facts["cores"] <= os.cpu_count()
    assert facts["versions"]["torch"].startswith("2.")
    assert json.loads(json.dumps(facts)) == facts
    assert str(os.getcwd()) not in json.dumps(facts)


def test_the_processors_name_is_the_systems():
    info = Path("/proc/cpuinfo")
    if not info.is_file() or "model name" not in info.read_text():
        pytest.skip("the system does not name it in /proc/cpuinfo")
    assert f": {records.processor()}\n" in info.read_text()
    assert ":" not in records.processor()


def test_the_commit_is_that_of_the_code_and_says_when_it_was_changed(tmp_path, monkeypatch):
    code = tmp_path / "bnbook" / "evidence" / "records.py"
    code.parent.mkdir(parents=True)
    code.write_text("one = 1\n")
    monkeypatch.setattr(records, "__file__", str(code))
    assert records._commit() is None, "no repository"

    def git(*arguments):
        who = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
        command = ["git", "-C", str(tmp_path), *who, *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    git("init", "--quiet")
    assert records._commit() is None, "no commit"
    git("add", ".")
    git("commit", "--quiet", "--message=one")
    assert records._commit() == git("rev-parse", "HEAD")
    (tmp_path / "notes.md").write_text("not code\n")
    assert records._commit() == git("rev-parse", "HEAD")
    code.write_text("one = 2\n")
    assert records._commit() == git("rev-parse", "HEAD") + "+"
    monkeypatch.setenv("PATH", "")
    assert records._commit() is None, "no git"
