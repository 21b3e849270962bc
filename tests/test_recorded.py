"""The committed tables and what is judged from them, held against a list that was made before.

Moving or shortening code changes neither. A table that is recorded anew, or a claim that is
measured in another way, changes its line in ``recorded.json`` in the same commit, which says why.
"""

import json
import math
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from bnbook.evidence import records
from bnbook.sweeps import inventory, schedule

LISTED = json.loads((Path(__file__).parent / "recorded.json").read_text("utf-8"))
RESULTS = records.root() / "results"


@pytest.mark.parametrize("name", LISTED["tables"])
def test_a_committed_table_has_the_bits_it_had(name):
    table = pq.read_table(RESULTS / f"{name}.parquet").replace_schema_metadata(None)
    assert records.content_digest(table, b"") == LISTED["tables"][name]


def test_what_is_judged_from_them_has_the_values_it_had():
    found = {}
    for path in (RESULTS / "claims").glob("*.json"):
        for profile, content in json.loads(path.read_text("utf-8")).get("profiles", {}).items():
            for claim, judged in content["judgements"].items():
                found[f"{path.stem}/{profile}/{claim}"] = judged["value"]
    assert found.keys() >= LISTED["values"].keys()
    off = {name for name, value in LISTED["values"].items() if not same(value, found[name])}
    assert not off


def test_no_record_is_of_other_code_but_those_that_the_queue_makes_anew():
    queue = schedule.read(RESULTS.parent / schedule.FILE)
    awaited = {(entry.experiment, entry.profile) for entry in queue}
    assert inventory.behind(RESULTS, awaited) == []


def test_a_record_of_other_code_is_named(monkeypatch):
    real = inventory._sources
    monkeypatch.setattr(
        inventory, "_sources", lambda n: {**real(n), **({"x": "0"} if n == "jacobians" else {})}
    )
    queue = {("ioffe_fig1", "standard"), ("bjorck_dose", "standard"), ("jacobians", "quick")}
    assert inventory.behind(RESULTS, queue) == ["jacobians/standard"]


def same(one, other):
    """Whether two values are equal but for the order in which their terms were added up."""
    if one is None or other is None:
        return one is other
    return one == other or math.isclose(one, other, rel_tol=1e-9, abs_tol=1e-12)
