"""Replicas against one process: made-up tables, a small real run, and what is refused."""

import pandas as pd
import pytest

from bnbook.errors import BnbookError
from bnbook.evidence import claims
from bnbook.experiments.many_devices import claims as analysis
from bnbook.experiments.many_devices import experiment, replica
from bnbook.experiments.many_devices.claims import FROZEN, LOCAL, SYNC
from bnbook.experiments.many_devices.experiment import EXPERIMENT as many_devices
from bnbook.sweeps import sweep
from bnbook.training import ranks
from tests.judging import by_id, verdicts

SMALL = {"seeds": (0, 1), "replicas": (2,), "batch_size": 8, "steps": 2, "widths": (2, 4)}
"""Changes to the quick profile that make it a matter of a second."""
CLAIMS = by_id(many_devices.claims)
SYNCHRONISED, GHOST = (claim.id for claim in many_devices.claims)


def made_up(**changes):
    """Two replica counts and three seeds; errors of 1e-15, and a gap of 0.2 without synchrony."""
    rows = [
        {
            "replicas": replicas, "seed": seed, "norm": norm, "step": step,
            "gradient_error": 1e-15, "parameter_error": 1e-16, "statistics_error": 0.0,
            "large_gap": {LOCAL: 0.2, SYNC: 1e-15, FROZEN: 0.9}[norm], "apart": 0.0,
            "learned": 100, "messages": 8 * (norm == SYNC), "numbers": 52 * (norm == SYNC),
            "seconds_step": {LOCAL: 0.01, SYNC: 0.03, FROZEN: 0.01}[norm],
        }
        for replicas in (1, 2, 4) for seed in range(3) for norm in analysis.NORMS for step in (1, 2)
    ]  # fmt: skip
    return pd.DataFrame(rows).assign(**changes)


def test_measures_on_a_table_with_known_truth():
    table = made_up()
    found = claims.assess(many_devices.claims, table)[SYNCHRONISED]
    assert found["value"] == 1e-15
    assert found["cases"] == 2 * 3 * 2 * 4  # replicas above one, seeds, steps, quantities
    assert set(verdicts(CLAIMS, table).values()) == {"reproduced"}
    facts = many_devices.facts(table)
    assert facts["sync_slower"]["value"] == pytest.approx(3.0)
    assert facts["messages"]["value"] == 8
    assert facts["local_gap_most"]["value"] == pytest.approx(20.0)


@pytest.mark.parametrize("column", analysis.ERRORS)
@pytest.mark.parametrize(("norm", "name"), [(SYNC, SYNCHRONISED), (LOCAL, GHOST)])
def test_one_bad_case_turns_its_claim_alone(column, norm, name):
    table = made_up()
    bad = (table["norm"] == norm) & (table["seed"] == 1) & (table["step"] == 2)
    table.loc[bad & (table["replicas"] == 4), column] = 1e-6
    expected = {SYNCHRONISED: "reproduced", GHOST: "reproduced", name: "not reproduced"}
    assert verdicts(CLAIMS, table) == expected


def test_where_nothing_could_be_seen_nothing_is_tested():
    assert set(verdicts(CLAIMS, made_up(large_gap=1e-15)).values()) == {"not tested"}


def test_a_small_run_in_real_processes(small_table):
    rows = small_table.set_index(["norm", "step"]).sort_index()
    assert (small_table[analysis.ERRORS] < analysis.BOUND).all(axis=None)
    assert (rows.loc[LOCAL, "large_gap"] > analysis.DIFFERENT).all()
    assert (rows.loc[SYNC, "large_gap"] < analysis.BOUND).all()
    layers, features = 2, 2 + 4
    assert set(rows.loc[SYNC, "messages"]) == {4 * layers}
    assert set(rows.loc[SYNC, "numbers"]) == {2 * (2 * features + layers)}
    assert set(rows.loc[LOCAL, "messages"]) == {0}
    assert (small_table["seconds_step"] > 0).all()


def test_a_layer_that_does_the_other_is_caught(small_table, monkeypatch):
    """Replicas with statistics of their own, held against one large minibatch."""
    real = replica.alone
    monkeypatch.setattr(replica, "alone", lambda job, norm, n: real(job, SYNC, n))
    config = many_devices.configure("quick", **{**SMALL, "seeds": (0,)})
    table = many_devices.run(config, "cpu")
    assert verdicts(CLAIMS, table) == {SYNCHRONISED: "reproduced", GHOST: "not reproduced"}


@pytest.mark.parametrize("replicas", [(3,), (0,), (2, 16)])
def test_replicas_that_do_not_divide_the_minibatch_are_refused_before_anything_starts(replicas):
    with pytest.raises(BnbookError, match="batch_size must be a multiple of replicas, found 8"):
        many_devices.configure("quick", **{**SMALL, "replicas": replicas})


def dies(job):
    """A replica that falls out of the second step."""
    from torch import distributed

    if distributed.get_rank() == 1:
        raise MemoryError("no room for the minibatch")
    return replica.train(job)


def test_when_a_replica_dies_the_record_stays_as_it_was(tmp_path, monkeypatch):
    """The first seed is kept and whole; the second leaves nothing; the same command goes on."""
    monkeypatch.setattr(sweep, "CACHE", tmp_path)
    config = many_devices.configure("quick", **{**SMALL, "seeds": (0, 1)})
    real, calls = ranks.run, []

    def second_dies(job, argument, replicas, *rest):
        calls.append(argument["seed"])
        return real(dies if calls == [0, 1] else job, argument, replicas, *rest)

    monkeypatch.setattr(ranks, "run", second_dies)
    with pytest.raises(BnbookError, match="rank 1 raised MemoryError: no room"):
        sweep.record(many_devices, "quick", config, device="cpu")
    record = sweep.record(many_devices, "quick", config, device="cpu")
    assert calls == [0, 1, 1]
    assert sorted(record.table["seed"].unique()) == [0, 1]
    assert experiment.COLUMNS.keys() == set(record.table.columns)
