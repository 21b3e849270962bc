"""A member trained again: equal, or what differs is said and kept."""

import pandas as pd
import pytest

from bnbook.errors import BnbookError
from bnbook.evidence import records
from bnbook.sweeps import again, growing, sweep
from tests import fake
from tests.fake import EXPERIMENT as FAKE


@pytest.mark.parametrize("members", [1, 3])
def test_it_says_what_differs_and_keeps_it_in_the_record(tmp_path, monkeypatch, members):
    """Alone the made-up experiment gives the same bits, in a batch of three others."""
    folder = tmp_path / "results"
    how = {"members": members, "quiet": True, "cache": tmp_path / "a", "folder": folder}
    record = sweep.grow(FAKE, "quick", fake.Config(), **how)
    run, digest = growing.member_at(FAKE, record, "quick", 4)
    assert (run.seeds, run.rates) == ((1,), (3.7,))
    monkeypatch.setattr(records, "processor", lambda: "abacus")
    said = again.again(FAKE, "quick", run, digest, folder)
    assert f"on {record.provenance['processor']} and on abacus: " in said
    assert said.endswith("equal bit for bit") == (members == 1)
    kept = records.read(records.path(folder, "fake", "quick"))
    (found,) = kept.provenance["again"]
    assert found["run"] == digest
    assert list(found["differences"]) == ([] if members == 1 else ["value"])
    pd.testing.assert_frame_equal(kept.table, record.table, check_exact=True)
    more = sweep.grow(FAKE, "quick", fake.Config(seeds=(0, 1, 2)), **how)
    assert more.provenance["again"] == [found]


def test_differences_of_words_and_of_numbers():
    one = pd.DataFrame({"x": [1.0, float("nan"), 3.0], "y": ["a", "b", "c"], "z": [1, 2, 3]})
    assert again.differences(one, one.copy()) == {}
    other = one.assign(x=[1.0, float("nan"), 3.5], y=["a", "b", "d"])
    assert again.differences(one, other) == {"x": 0.5, "y": None}
    with pytest.raises(BnbookError, match="expected a table"):
        again.differences(one, one[["x"]])


def test_a_record_that_does_not_tell_its_members_apart_is_refused():
    without = records.Record(pd.DataFrame({"value": [1.0]}), {"data": None}, "")
    with pytest.raises(BnbookError, match="must say which run each of its rows is of"):
        growing.member_at(FAKE, without, "quick", 0)


def test_a_member_that_is_not_there_is_refused(tmp_path):
    how = {"quiet": True, "members": 3, "cache": tmp_path / "a", "folder": tmp_path}
    record = sweep.grow(FAKE, "quick", fake.Config(), **how)
    for place in (-1, 6):
        with pytest.raises(BnbookError, match=rf"member must lie in \[0, 5\], found {place}"):
            growing.member_at(FAKE, record, "quick", place)
    with pytest.raises(BnbookError, match="has no member 0000"):
        again.again(FAKE, "quick", fake.Config(), "0000", tmp_path)
