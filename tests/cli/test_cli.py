"""The command line as a reader meets it."""

import itertools
import json
import os
import re
import subprocess
import sys
from dataclasses import replace

import pandas as pd
import pytest

from bnbook import __version__, experiments
from bnbook.book import judging
from bnbook.cli import console
from bnbook.evidence import records
from bnbook.evidence.claims import Claim
from bnbook.sweeps import sweep
from bnbook.training import session
from tests import fake
from tests.book.test_judging import FACTS
from tests.experiments.test_ioffe_fig1 import made_up


def test_check_prints_every_claim(project, bnbook):
    code, out, _ = bnbook("check")
    assert code == 0
    for text in ("ioffe.fig1a.speed", "Ioffe & Szegedy 2015", "BN trains faster.", "4.0×", "quick"):
        assert text in out


def test_check_json(project, bnbook):
    code, out, _ = bnbook("check", "--json")
    rows = {row["id"]: row for row in json.loads(out)}
    assert code == 0
    assert rows["ioffe.fig1a.speed"]["value"] == pytest.approx(4)
    assert rows["ioffe.fig1a.speed"]["verdict"] == "reproduced"


def test_check_exits_with_1_on_a_contradiction(project, bnbook):
    fresh = records.path(project / "_build" / "results", "ioffe_fig1", "quick")
    records.write(fresh, made_up(gap=-0.05), FACTS)
    code, out, err = bnbook("check")
    assert code == 1
    assert "CONFLICT" in out
    assert "ioffe.fig1a.accuracy at quick" in err
    code, out, _ = bnbook("compare", "ioffe_fig1")
    assert code == 1
    assert "contradicted" in out


def test_compare_says_what_differs(project, bnbook):
    fresh = records.path(project / "_build" / "results", "ioffe_fig1", "quick")
    records.write(fresh, made_up(), {**FACTS, "processor": "abacus"})
    code, out, _ = bnbook("compare", "ioffe_fig1")
    assert code == 0
    assert "compatible" in out
    assert f"processor: ours {FACTS['processor']}, yours abacus" in out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["run", "ioffe_fig9"], "; found 'ioffe_fig9'"),
        (["run", "ioffe_fig1", "--profile", "slow"], "profile must be one of quick, standard"),
        (["run", "ioffe_fig1", "--seeds", "0"], "--seeds must be at least 1, found 0"),
        (["run", "ioffe_fig1", "--device", "abacus"], "device must be auto, cpu or cuda"),
        (["run", "ioffe_fig1", "--data", "imagenet"], "imagenet"),
        (["run", "ioffe_fig1", "--budget", "soon"], "a time such as 90s, 9m or 1.5h, found 'soon'"),
        (["run", "ioffe_fig1", "--budget", "0m"], "a time such as 90s, 9m or 1.5h, found '0m'"),
        (["run", "ioffe_fig1", "--members", "0"], "members must be at least 1, found 0"),
        (["run", "ioffe_fig1", "--workers", "0"], "workers must be at least 1, found 0"),
        (["run", "ioffe_fig1", "--executor", "abacus"], "one of inline, processes, dask"),
        (["run", "ioffe_fig1", "--executor", "dask"], "Start one with `dask scheduler`"),
        (["compare", "ioffe_fig1"], "expected a record at"),
        (["data", "verify", "imagenet"], "imagenet"),
    ],
)
def test_errors_are_one_message_and_exit_2(project, bnbook, arguments, says):
    code, _, err = bnbook(*arguments)
    assert code == 2
    assert err.startswith("bnbook: ")
    assert says in err
    assert "Traceback" not in err


def test_debug_shows_the_traceback(project):
    command = [sys.executable, "-c", "from bnbook.cli import main; main()"]
    done = subprocess.run(
        [*command, "run", "ioffe_fig9", "--debug"], capture_output=True, text=True, check=False
    )
    assert "Traceback" in done.stderr
    assert done.returncode == 2


def test_a_claim_of_which_no_seed_has_a_value_says_so(made_up_run, bnbook, monkeypatch):
    def measure(table):
        return pd.Series(float("nan"), index=table["seed"].unique())

    claim = Claim("fake.a", "us", "a", "It grows.", "growth", measure, bound=0.0)
    monkeypatch.setattr(experiments, "find", lambda _: replace(fake.EXPERIMENT, claims=(claim,)))
    assert bnbook("run", "fake", "--record")[0] == 0
    for command in ("run fake", "check", "compare fake"):
        code, out, _ = bnbook(*command.split())
        assert code == 0
        assert "not tested, no seed has a value" in out


@pytest.mark.parametrize(("chosen", "policy"), [(None, "PASSIVE"), ("ACTIVE", "ACTIVE")])
def test_threads_that_wait_sleep_unless_told_otherwise(chosen, policy):
    """As OpenMP itself says; torch is not imported before that is settled."""
    code = (
        "import sys, bnbook.cli; assert 'torch' not in sys.modules;"
        " from bnbook.cli import console; console.let_threads_sleep(); import torch"
    )
    environment = {k: v for k, v in os.environ.items() if k != "OMP_WAIT_POLICY"}
    environment |= {"OMP_DISPLAY_ENV": "TRUE", **({"OMP_WAIT_POLICY": chosen} if chosen else {})}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert re.findall(r"OMP_WAIT_POLICY\W+(\w+)", done.stderr)[0] == policy


def test_usage_errors_exit_2(bnbook):
    code, _, err = bnbook("run")
    assert code == 2
    assert "Missing argument" in err


def test_version(bnbook):
    assert bnbook("--version")[:2] == (0, __version__ + "\n")


def test_judge_writes_the_ledger_and_the_readme(project, bnbook):
    readme = project / "README.md"
    readme.write_text("<!-- claims: made by `make judge` -->\n<!-- end -->\n")
    (project / "results" / "claims" / "ioffe_fig1.json").unlink()
    assert bnbook("judge")[0] == 0
    assert "**reproduced**" in readme.read_text()
    assert bnbook("check")[0] == 0


def test_doctor_and_data_list_say_what_there_is(project, bnbook, monkeypatch):
    monkeypatch.delenv("BNBOOK_DATA", raising=False)
    code, out, _ = bnbook("doctor")
    assert code == 0
    for text in (
        f"bnbook {__version__}",
        "torch 2.",
        "device:",
        "digits",
        "cifar10",
        "requirements.lock",
    ):
        assert text in out
    code, out, _ = bnbook("data", "list")
    assert code == 0
    assert "1,797" in out


def test_a_budget_that_ends_exits_with_3_and_the_same_command_goes_on(
    made_up_run, bnbook, monkeypatch
):
    with monkeypatch.context() as patch:
        clock = itertools.chain([0.0] * 10, itertools.repeat(1e9))
        patch.setattr(session, "now", lambda: next(clock))
        code, _, err = bnbook("run", "fake", "--budget", "9m", "--record")
    assert code == 3
    assert re.fullmatch(
        r"bnbook: fake: about 20 s of computing, by a step timed\.\n"
        r"bnbook: fake ran out of time: \d of 6 members are done, \d part way, \d not begun; run"
        r" the same command again to go on\.\n",
        err,
    )
    assert not list((made_up_run / "results").rglob("fake*/*.parquet"))
    assert bnbook("run", "fake", "--record")[0] == 0
    assert len(records.read(made_up_run / "results/fake/quick.parquet").table) == 12


def test_a_run_judges_its_own_experiment_alone(made_up_run, bnbook, monkeypatch):
    """Another's ledger that is wrong, which `check` refuses, is none of its business."""
    monkeypatch.setattr(experiments, "names", lambda: ["fake", "ioffe_fig1"])
    (made_up_run / "results/claims/ioffe_fig1.json").write_text(
        '{"experiment": "ioffe_fig1", "claims": [], "profiles": {}}'
    )
    code, _, err = bnbook("run", "fake", "--record")
    assert (code, err.count("\n")) == (0, 1)  # the estimate


def test_ctrl_c_says_that_nothing_is_lost(made_up_run, bnbook, monkeypatch):
    found = fake.profiled(quick=fake.Config(trouble="interrupt"))
    monkeypatch.setattr(experiments, "find", {"fake": found}.__getitem__)
    code, _, err = bnbook("run", "fake")
    assert code == 130
    assert "Finished members and checkpoints are kept" in err


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("9m", 540), ("1.5h", 5400)])
def test_times(text, seconds):
    assert console.duration(text) == seconds


def test_a_measurement_without_claims_has_a_ledger_entry(project, bnbook):
    from bnbook.bench import scaling

    table = pd.DataFrame({
        "workers": [1, 1, 2, 2], "repeat": [0, 1, 0, 1], "members": 72, "steps": 800,
        "seconds": [10.0, 12.0, 5.5, 5.5],
    })  # fmt: skip
    about = {**FACTS, "experiment": "scaling"}
    records.write(records.path(project / "results", "scaling", "quick"), table, about)
    (project / "README.md").write_text("<!-- claims: made by `make judge` -->\n<!-- end -->\n")
    judging.rewrite_ledger(project / "results")
    entry = json.loads((project / "results/claims/scaling.json").read_text())
    assert entry["title"] == scaling.TITLE
    assert entry["profiles"]["quick"]["facts"]["ratio"]["value"] == 2.0
    assert entry["profiles"]["quick"]["facts"]["one_worker"]["value"] == 11.0
    assert bnbook("check")[0] == 0


@pytest.mark.slow
def test_run_and_record_from_nothing(tmp_path, monkeypatch, bnbook):
    (tmp_path / "_toc.yml").write_text("root: index\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sweep, "CACHE", tmp_path / "_build" / "sweeps")
    from bnbook.experiments.ioffe_fig1 import experiment
    from tests.experiments.test_ioffe_fig1 import SMALL

    whole = experiment.EXPERIMENT
    small = replace(whole, profiles={"quick": whole.configure("quick", **SMALL)})
    monkeypatch.setattr(experiment, "EXPERIMENT", small)
    code, out, _ = bnbook("run", "ioffe_fig1", "--seeds", "2", "--device", "cpu")
    assert code == 0
    assert "ioffe.fig1bc.stability" in out
    assert (
        records.read(tmp_path / "_build/results/ioffe_fig1/quick.parquet").provenance["seeds"] == 2
    )
    assert not (tmp_path / "results").exists()
    assert bnbook("run", "ioffe_fig1", "--device", "cpu", "--record")[0] == 0
    assert bnbook("check")[0] == 0
    assert (tmp_path / "results" / "claims" / "ioffe_fig1.json").is_file()
