"""A notebook's verdicts beside those of the record."""

import pandas as pd
import pytest

from bnbook.evidence import claims, ledger, records


def gain(table):
    return table.groupby("seed")["gain"].first()


CLAIM = claims.Claim(
    id="toy.gain", paper="A & B 2015", section="1", statement="It gains.", quantity="the gain",
    measure=gain, bound=0.0, digits=1, unit="",
)  # fmt: skip
LOSES = pd.DataFrame({"seed": range(5), "gain": [-2.0, -2.1, -1.9, -2.0, -2.2]})
GAINS = LOSES.assign(gain=-LOSES["gain"])


@pytest.fixture
def judged(tmp_path, monkeypatch):
    """What a notebook shows of a run at `quick`, beside these records."""
    (tmp_path / "_toc.yml").touch()
    monkeypatch.chdir(tmp_path)

    def shown(**recorded):
        for profile, (table, config) in recorded.items():
            path = records.path(tmp_path / "results", "toy", profile)
            facts = {
                "experiment": "toy", "profile": profile, "config": config, "seeds": 5,
                "seconds": 1.0, "data": "digits", **records.environment("cpu"),
            }  # fmt: skip
            records.write(path, table, facts)
        entries = {
            profile: ledger.entry(
                (CLAIM,), {}, records.read(records.path(tmp_path / "results", "toy", profile))
            )
            for profile in recorded
        }
        content = ledger.describe("toy", "Toy", (CLAIM,), entries)
        if entries:
            ledger.write(tmp_path / "results", "toy", content)
        return ledger.verdicts((CLAIM,), LOSES, "toy", "quick").loc["toy.gain"]

    return shown


SMALL, LARGE = {"steps": 800, "rates": [1, 2]}, {"steps": 50000, "rates": [1, 2, 3]}


def test_what_differs_is_named_where_the_verdicts_do(judged):
    row = judged(quick=(LOSES, SMALL), standard=(GAINS, LARGE))
    assert row["verdict"] == "not reproduced"
    assert row["the record's"] == "reproduced (at standard)"
    assert row["because"] == (
        "The record at standard has rates 3 (here 2), steps 50000 (here 800)."
    )


def test_a_long_reason_is_shown_whole(judged):
    row = judged(quick=(LOSES, SMALL), standard=(GAINS, LARGE))
    assert row["because"] in row.to_frame().T.to_html()


def test_equal_verdicts_need_no_reason(judged):
    row = judged(quick=(LOSES, SMALL), standard=(LOSES, LARGE))
    assert (row["the record's"], row["because"]) == ("not reproduced (at standard)", "")


def test_a_record_of_the_same_profile_differs_by_machine_or_seeds(judged):
    row = judged(quick=(GAINS, SMALL))
    assert row["the record's"] == "reproduced (at quick)"
    assert "another machine or other seeds" in row["because"]


def test_without_a_record_it_says_so(judged):
    row = judged()
    assert (row["the record's"], row["because"]) == ("no record", "")
