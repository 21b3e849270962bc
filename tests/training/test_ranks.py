"""Replicas as processes: results of all or of none, and an error that says how each one ended."""

import os
import signal
import time

import pytest
import torch
from torch import distributed

from bnbook.errors import BnbookError
from bnbook.training import ranks


def summed(job):
    """The sum of rank + 1 over replicas, and what was given."""
    total = torch.tensor(distributed.get_rank() + 1.0)
    distributed.all_reduce(total)
    return {"rank": distributed.get_rank(), "total": total, "given": job["x"]}


def raises(job):
    if distributed.get_rank() == 1:
        raise ValueError("no such image")
    distributed.barrier()
    return {}


def is_killed(job):
    if distributed.get_rank() == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    distributed.barrier()
    return {}


def leaves(job):
    if distributed.get_rank() == 0:
        os._exit(3)
    distributed.barrier()
    return {}


def hangs(job):
    if distributed.get_rank() == 1:
        time.sleep(1000)
    distributed.barrier()
    return {}


def test_every_replica_returns_what_all_of_them_made():
    found = ranks.run(summed, {"x": torch.arange(3)}, 2)
    assert [each["rank"] for each in found] == [0, 1]
    assert [each["total"].item() for each in found] == [3.0, 3.0]
    assert all(torch.equal(each["given"], torch.arange(3)) for each in found)


@pytest.mark.parametrize(
    ("job", "told"),
    [
        (raises, "rank 1 raised ValueError: no such image"),
        (is_killed, "rank 1 was killed by signal 9"),
        (leaves, "rank 0 left with exit code 3"),
    ],
)
def test_a_replica_that_dies_ends_all_within_seconds(job, told):
    started = time.monotonic()
    with pytest.raises(BnbookError, match=told) as error:
        ranks.run(job, {}, 2)
    assert "records are as they were" in str(error.value)
    assert time.monotonic() - started < 30  # the limit is 300 seconds


def test_a_replica_that_hangs_is_ended_at_the_time_limit():
    ranks.run(summed, {"x": torch.zeros(1)}, 2)  # the server is there
    with pytest.raises(BnbookError, match="rank 1 had not ended in time"):
        ranks.run(hangs, {}, 2, seconds=4.0)


def test_no_replica_and_no_file_outlives_an_error(tmp_path, monkeypatch):
    import multiprocessing
    import tempfile

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(BnbookError):
        ranks.run(raises, {}, 2)
    assert list(tmp_path.glob("bnbook-replicas-*")) == []
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize(("count", "replicas"), [(15, 2), (1, 2), (8, 0)])
def test_a_minibatch_that_cannot_be_shared_is_refused(count, replicas):
    with pytest.raises(BnbookError, match=f"found {count} examples and {replicas} replicas"):
        ranks.share(count, replicas)
    assert ranks.share(16, 2) == 8


def test_the_error_says_which_batches_would_do():
    with pytest.raises(BnbookError, match="Try batches of 14 or 16"):
        ranks.share(15, 2)


def test_an_unknown_launcher_is_refused():
    with pytest.raises(BnbookError, match="forked, torchrun"):
        ranks.run(summed, {}, 2, launcher="mpi")


@pytest.mark.slow
def test_torchrun_starts_the_same_replicas():
    found = ranks.run(summed, {"x": torch.arange(3)}, 2, launcher="torchrun")
    assert [each["total"].item() for each in found] == [3.0, 3.0]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("job", "told"), [(raises, "rank 1 raised ValueError"), (is_killed, "rank 1 was killed by")]
)
def test_a_replica_of_torchrun_that_dies_ends_all(job, told):
    with pytest.raises(BnbookError, match=told):
        ranks.run(job, {}, 2, launcher="torchrun")
