"""``bnbook records``: what there is, why it is stale, for other programs, and what may go."""

import json
import math
import sys
from dataclasses import asdict

import pandas as pd
import pytest

from bnbook import cli, experiments
from bnbook.book import judging
from bnbook.errors import BnbookError
from bnbook.evidence import records, sources
from bnbook.sweeps import inventory, store, sweep
from tests import fake
from tests.fake import EXPERIMENT as FAKE
from tests.sweeps.test_sweep import contents


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A folder with a recorded run of the made-up experiment and its finished members."""
    (tmp_path / "_toc.yml").write_text("root: index\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(experiments, "names", lambda: ["fake"])
    monkeypatch.setattr(experiments, "find", find)
    monkeypatch.setattr(sweep, "CACHE", tmp_path / "_build" / "sweeps")
    sweep.record(FAKE, "quick", fake.Config(), members=4, folder=tmp_path / "results")
    judging.rewrite_ledger(tmp_path / "results")
    return tmp_path


def find(name):
    if name != "fake":
        raise BnbookError(f"expected the name of an experiment, one of fake; found {name!r}.")
    return FAKE


@pytest.fixture
def bnbook(monkeypatch, capsys):
    """Run a command in this process: (exit status, stdout, stderr)."""

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["bnbook", "records", *map(str, arguments)])
        with pytest.raises(SystemExit) as done:
            cli.main()
        captured = capsys.readouterr()
        return done.value.code or 0, captured.out, captured.err

    return call


def states(project):
    rows = inventory.listing(records.recorded(), records.fresh(), sweep.CACHE)
    return {row.where: (row.what, row.n, row.state) for row in rows}


def edit(monkeypatch, change):
    """Pretend that the source differs: change maps the digests of modules."""
    now = store.source_digests(FAKE)
    monkeypatch.setattr(store, "source_digests", lambda experiment: change(now))


def test_what_was_just_recorded_is_fresh(project, bnbook):
    assert states(project) == {
        "results": ("quick", 2, "fresh"), "_build/sweeps": ("6 members", None, "fresh"),
    }  # fmt: skip
    code, out, _ = bnbook("list")
    assert code == 0
    assert "6 members" in out
    code, out, _ = bnbook("why", "fake")
    assert code == 0
    assert "fresh, nothing that it depends on differs" in out
    assert bnbook("prune")[1] == "0 files deleted\n"


def test_changed_source_is_named_by_definition(project, bnbook, monkeypatch):
    edit(monkeypatch, lambda now: {**now, "BnbookError": "0" * 64, "new": "1" * 64})
    assert states(project)["results"][2] == states(project)["_build/sweeps"][2] == "stale"
    out = bnbook("why", "fake")[1]
    assert "quick.parquet: stale" in out
    assert "  source: BnbookError changed\n" in out
    assert "  source: new counts now\n" in out
    assert "source: train" not in out


def test_changed_config_data_and_torch_are_named(project, bnbook, monkeypatch):
    longer = fake.profiled(quick=fake.Config(steps=11))
    monkeypatch.setattr(experiments, "find", {"fake": longer}.__getitem__)
    monkeypatch.setattr("bnbook.datasets.digest", lambda name: "d" * 64)
    real = records.installed
    monkeypatch.setattr(records, "installed", lambda p: "9.9" if p == "torch" else real(p))
    out = bnbook("why", "fake")[1]
    assert "config: steps was 10, is 11" in out
    assert "data: digits had digest " in out
    assert "has dddddddddddd" in out
    assert f"torch: was {real('torch').partition('+')[0]}, is 9.9" in out
    assert states(project)["_build/sweeps"][2] == "stale"


def test_prune_deletes_what_no_sweep_would_use_and_nothing_else(project, bnbook, monkeypatch):
    folder = sweep.CACHE / "fake"
    damaged = folder / f"{'0' * 64}.parquet"
    damaged.write_bytes(b"no record")
    orphan = folder / f"{'1' * 64}.checkpoint"
    orphan.write_bytes(b"state")
    live = FAKE.parts(fake.Config(seeds=(7,)))[0]
    facts = store.facts(live, sources.combined(store.source_digests(FAKE)), "cpu", sweep.Plan())
    kept = store.Store(folder)
    kept.begin([store.key(facts)], facts)
    kept.checkpoint(store.batch_key([store.key(facts)])).write_bytes(b"state")
    assert states(project)["_build/sweeps"] == ("7 members", None, "partly")
    before = contents(project)
    code, out, _ = bnbook("prune", "--dry-run")
    assert code == 0
    assert "damaged" in out
    assert "2 files would be deleted" in out
    assert contents(project) == before
    assert "2 files deleted" in bnbook("prune")[1]
    gone = {name for name in before if name not in contents(project)}
    assert gone == {str(damaged), str(orphan)}
    edit(monkeypatch, lambda now: {**now, "tests.fake": "0" * 64})
    assert "8 files deleted" in bnbook("prune")[1]
    assert list(folder.iterdir()) == []
    assert records.read(project / "results" / "fake" / "quick.parquet")


def test_export(project, bnbook, tmp_path):
    path = project / "results" / "fake" / "quick.parquet"
    table = records.read(path).table
    for suffix in ("csv", "json", "parquet"):
        assert bnbook("export", "fake", "--to", tmp_path / f"a.{suffix}")[0] == 0
    same = pd.read_csv(tmp_path / "a.csv", dtype=str).fillna("nan").astype(table.dtypes)
    pd.testing.assert_frame_equal(same, table, check_exact=True)
    content = json.loads((tmp_path / "a.json").read_text())
    assert content["digest"] == records.read(path).digest
    assert content["provenance"]["config"] == json.loads(json.dumps(asdict(fake.Config())))
    values = [math.nan if row["value"] is None else row["value"] for row in content["rows"]]
    assert values == pytest.approx(table["value"].tolist(), abs=0, nan_ok=True)
    assert records.read(tmp_path / "a.parquet").digest == records.read(path).digest


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["why", "ioffe_fig9"], "one of fake; found 'ioffe_fig9'"),
        (["why", "fake", "--profile", "paper"], "expected a record at"),
        (["export", "fake", "--to", "a.xlsx"], "--to must end in one of .csv, .json, .parquet"),
        (["export", "fake", "--to", "_toc.yml"], "--to must end in one of"),
        (["export", "fake", "--to", "results/fake/quick.parquet"], "exists and was left as it is"),
    ],
)
def test_bad_input_is_one_line_and_touches_nothing(project, bnbook, arguments, says):
    before = contents(project)
    code, _, err = bnbook(*arguments)
    assert code == 2
    assert err.startswith("bnbook: ")
    assert says in err
    assert err.count("\n") == 1
    assert contents(project) == before


def test_members_of_an_older_version_are_stale(project):
    path = next((sweep.CACHE / "fake").glob("*.parquet"))
    record = records.read(path)
    records.write(path, record.table, {"experiment": "fake", "config": {}, "seconds": 1.0})
    assert states(project)["_build/sweeps"][2] == "partly"
    assert [p for p, _ in inventory.prune(sweep.CACHE)] == [path]


def test_a_config_that_differs_in_seeds_says_so(project):
    found = records.read(project / "results" / "fake" / "quick.parquet").provenance
    config = {**found["config"], "seeds": [0]}
    assert inventory.why("fake", {**found, "config": config}) == [
        "config: seeds was [0], is [0, 1]"
    ]
