"""A record from another processor: its bits differ, `compare` and `check` go by the intervals."""

import subprocess
import sys

import pandas as pd
import pytest

from bnbook.book import judging
from bnbook.evidence import claims, records
from bnbook.experiments.ioffe_fig1.experiment import EXPERIMENT as ioffe_fig1
from tests import matrix
from tests.book.test_judging import FACTS

RUN = """
import sys
import torch
from bnbook.experiments.ioffe_fig1.experiment import EXPERIMENT as ioffe_fig1

torch.set_num_threads(int(sys.argv[2]))
config = ioffe_fig1.configure(
    "quick", data="digits", steps=100, learning_rates=(0.01, 0.1), probe_intervals=10,
    seeds=(0, 1, 2), hidden=(50, 50), validation=300, probe_images=200,
)
ioffe_fig1.run(config, "cpu").to_parquet(sys.argv[1])
"""


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    """One small experiment as the oldest and as the newest processor at hand computes it."""
    found = {}
    for name, threads in ((matrix.available()[0], 1), (matrix.available()[-1], 2)):
        path = tmp_path_factory.mktemp("tables") / f"{name}.parquet"
        subprocess.run(
            [sys.executable, "-c", RUN, path, str(threads)],
            env=matrix.environment(name, threads), check=True,
        )  # fmt: skip
        found[name, threads] = pd.read_parquet(path)
    return list(found.values())


@pytest.fixture
def project(tmp_path, monkeypatch, tables):
    """A folder with the one recorded and the other fresh, and the working folder in it."""
    (tmp_path / "_toc.yml").write_text("root: index\n")
    queued = 'experiment = "ioffe_fig1"\nprofile = "quick"\nwhy = "its record is made up"\n'
    (tmp_path / "queue.toml").write_text(f"[[record]]\n{queued}")
    folders = tmp_path / "results", tmp_path / "_build" / "results"
    for folder, table, who in zip(folders, tables, ("theirs", "ours"), strict=True):
        about = {**FACTS, "processor": who}
        records.write(records.path(folder, "ioffe_fig1", "quick"), table, about)
    judging.rewrite_ledger(folders[0])
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
def test_the_bits_differ_and_the_verdicts_do_not(tables):
    if len(matrix.available()) > 1:
        assert not tables[0].equals(tables[1]), "nothing is shown by equal tables"
    for claim in ioffe_fig1.claims:
        ours, theirs = (claims.judge(claim, table).as_dict() for table in tables)
        assert not claims.conflict(theirs, ours), claim.id


@pytest.mark.slow
def test_compare_and_check_go_by_the_intervals(project, bnbook):
    code, out, _ = bnbook("compare", "ioffe_fig1")
    assert code == 0
    assert "compatible" in out
    assert "contradicted" not in out
    assert "processor: ours theirs, yours ours" in out
    code, out, _ = bnbook("check")
    assert code == 0
    assert "quick, fresh" in out
    assert "CONFLICT" not in out
