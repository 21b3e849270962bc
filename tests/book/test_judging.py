"""The ledger and its checks, on results made up in a folder."""

import json
import math
from dataclasses import replace

import pytest
from bs4 import BeautifulSoup
from markdown_it import MarkdownIt

from bnbook import experiments
from bnbook.book import build, judging
from bnbook.errors import BnbookError
from bnbook.evidence import claims, ledger, records
from bnbook.experiments.ioffe_fig1.experiment import EXPERIMENT as ioffe_fig1
from tests.experiments.test_ioffe_fig1 import made_up

FACTS = {
    "experiment": "ioffe_fig1", "profile": "quick", "seeds": 3, "data": "mnist5k",
    "seconds": 12.5, "date": "2026-01-02", "config": {}, **records.environment("cpu"),
}  # fmt: skip


@pytest.fixture
def folders(tmp_path):
    """A recorded and a fresh results folder, the same table in both."""
    both = tmp_path / "results", tmp_path / "fresh"
    for folder in both:
        records.write(records.path(folder, "ioffe_fig1", "quick"), made_up(), FACTS)
    judging.rewrite_ledger(both[0])
    return both


def test_the_ledger_file_holds_claims_judgements_facts_and_the_record(folders):
    content = ledger.read(folders[0])["ioffe_fig1"]
    entry = content["profiles"]["quick"]
    assert [c["id"] for c in content["claims"]] == [c.id for c in ioffe_fig1.claims]
    assert entry["judgements"]["ioffe.fig1a.speed"]["value"] == pytest.approx(4)
    assert entry["facts"]["with_rate"]["value"] == 1.0
    assert entry["record"]["data"] == "mnist5k"
    path = records.path(folders[0], "ioffe_fig1", "quick")
    assert entry["record"]["digest"] == records.read(path).digest


def test_the_best_profile_is_shown(folders):
    record = records.path(folders[0], "ioffe_fig1", "standard")
    records.write(record, made_up(speed=2), {**FACTS, "profile": "standard"})
    judging.rewrite_ledger(folders[0])
    shown = {
        claim["id"]: (profile, j) for claim, profile, j in ledger.judged(ledger.read(folders[0]))
    }
    profile, judgement = shown["ioffe.fig1a.speed"]
    assert profile == "standard"
    assert judgement["value"] == pytest.approx(2)


def test_a_fresh_run_that_agrees(folders):
    rows = list(judging.rows(*folders))
    assert [row.source for row in rows] == ["recorded"] * 4 + ["fresh"] * 4
    assert not any(row.conflict for row in rows)


def test_a_fresh_run_that_contradicts(folders):
    records.write(records.path(folders[1], "ioffe_fig1", "quick"), made_up(gap=-0.05), FACTS)
    contradicted = {row.claim["id"] for row in judging.rows(*folders) if row.conflict}
    assert contradicted == {"ioffe.fig1a.accuracy"}
    found = {c["id"]: c2 for c, *_, c2 in judging.compare(ioffe_fig1, "quick", *folders)}
    assert found["ioffe.fig1a.accuracy"]
    assert not found["ioffe.fig1bc.stability"]


def test_a_ledger_file_edited_by_hand_is_refused(folders):
    path = ledger.path(folders[0], "ioffe_fig1")
    content = json.loads(path.read_text())
    content["profiles"]["quick"]["judgements"]["ioffe.fig1a.speed"]["value"] = 14.0
    path.write_text(json.dumps(content))
    with pytest.raises(BnbookError, match="is not what the records and claims of ioffe_fig1 give"):
        list(judging.rows(*folders))


def test_a_ledger_file_of_another_processor_agrees_and_stays(folders):
    """Its sums were added up in another order: their last digits differ, and nothing else."""
    path = ledger.path(folders[0], "ioffe_fig1")
    content = json.loads(path.read_text())
    judgement = content["profiles"]["quick"]["judgements"]["ioffe.fig1a.speed"]
    judgement["value"] *= 1 + 1e-14
    path.write_text(json.dumps(content))
    before = path.read_text()
    assert list(judging.rows(*folders))
    judging.rewrite_ledger(folders[0])
    assert path.read_text() == before
    judgement["value"] *= 1 + 1e-6
    path.write_text(json.dumps(content))
    judging.rewrite_ledger(folders[0])
    written = json.loads(path.read_text())
    assert written["profiles"]["quick"]["judgements"]["ioffe.fig1a.speed"]["value"] == 4.0


@pytest.mark.parametrize(
    ("one", "other", "equal"),
    [
        ({"a": [1.0, None, "x"]}, {"a": (1.0 + 1e-12, None, "x")}, True),
        (math.nan, math.nan, True),
        (math.inf, math.inf, True),
        (0.0, 1e-17, True),
        (1.0, 1.0 + 1e-6, False),
        (1.0, math.nan, False),
        (math.inf, 1e300, False),
        (0.0, 1e-9, False),
        (3, 4, False),
        (True, 1.0, True),
        ({"a": 1}, {"a": 1, "b": 2}, False),
        ([1.0], [1.0, 2.0], False),
        ("a", "b", False),
        (1.0, None, False),
        ([1.0], {"a": 1.0}, False),
    ],
)
def test_what_agrees_but_for_rounding(one, other, equal):
    assert ledger.agree(one, other) is equal
    assert ledger.agree(other, one) is equal


@pytest.mark.parametrize("text", ["{", "[]", "3", '{"experiment": "ioffe_fig1"}', "\xff"])
def test_what_is_no_ledger_file_is_refused(folders, text):
    ledger.path(folders[0], "ioffe_fig1").write_bytes(text.encode("latin-1"))
    with pytest.raises(BnbookError, match="is not a ledger file"):
        ledger.read(folders[0])
    judging.rewrite_ledger(folders[0])
    assert ledger.read(folders[0])["ioffe_fig1"]["profiles"]


def test_differences_are_named():
    ours = {"device": "cpu", "processor": "A", "config": {"steps": 1}}
    assert judging.differences(ours, ours) == []
    yours = {**ours, "processor": "B"}
    assert judging.differences(ours, yours) == ["processor: ours A, yours B"]


def test_of_two_configs_and_versions_only_what_differs_is_shown():
    config = {f"field{i}": list(range(100)) for i in range(30)}
    ours = {
        "config": {**config, "steps": 1, "seeds": [0]},
        "versions": {"torch": "1", "numpy": "2"},
    }
    longer = {**config, "steps": 2, "seeds": list(range(200)), "new": None}
    yours = {"config": longer, "versions": {"torch": "1", "numpy": "3"}}
    said = judging.differences(ours, yours)
    assert [line.partition(":")[0] for line in said] == [
        "config.steps", "config.seeds", "versions.numpy",
    ]  # fmt: skip
    assert said[0] == "config.steps: ours 1, yours 2"
    assert said[1].startswith("config.seeds: ours [0], yours [0, 1, 2, ")
    assert said[1].endswith(", 198, 199]")
    assert max(map(len, said)) < 120


def test_the_readmes_table_is_made_between_its_markers(folders):
    text = "# T\n<!-- claims: made by `make judge` -->\nold\n<!-- end -->\nrest\n"
    made = judging.readme(text, folders[0])
    assert "old" not in made
    assert made.endswith("<!-- end -->\nrest\n")
    assert "| 4.0× | 4.0 to 4.0× | 3 | 0.750 | quick | **reproduced** Inconclusive when" in made
    assert "\n| Ioffe & Szegedy 2015 | 3 | 0 | 0 | 0 | 0 | 3 |\n" in made
    assert "\n| **all experiments** | 3 | 0 | 0 | 0 | 0 | 3 |\n" in made
    assert "\n| controls of our own | 1 | 0 | 0 | 0 | 0 | 1 |\n" in made
    assert "\nAdjusted over the claims of their paper, 4 of the reproduced and 0 of the" in made
    assert "<summary>Ioffe &amp; Szegedy 2015: 3 claims</summary>\n\n| claim |" in made
    assert judging.readme(made, folders[0]) == made
    with pytest.raises(BnbookError, match="lacks the markers"):
        judging.readme("# T", folders[0])


def test_every_row_of_the_readmes_tables_has_the_cells_of_its_head():
    text = (records.root() / "README.md").read_text("utf-8")
    page = BeautifulSoup(MarkdownIt().enable("table").render(text), "html.parser")
    tables = page.find_all("table")
    assert len(tables) > 3
    for table in tables:
        heads = [head.text for head in table.find("thead").find_all("th")]
        for row in table.find("tbody").find_all("tr"):
            cells = [cell.text for cell in row.find_all("td")]
            assert len(cells) == len(heads)
            assert heads[-1] != "verdict" or cells[-1].startswith(claims.VERDICTS), cells
    assert "α² C / |B|" in page.text


def test_the_committed_ledger_and_readme_are_current():
    root = records.root()
    assert list(judging.rows(root / "results", root / "nothing-fresh"))
    text = (root / "README.md").read_text("utf-8")
    assert judging.readme(text, root / "results") == text
    for name in build.PICTURES:
        content = ledger.read(root / "results")[name.partition("-")[0]]
        digest = content["profiles"][ledger.best_profile(content)]["record"]["digest"]
        picture = (root / "book" / "_static" / name).read_text("utf-8")
        assert f"record {digest}" in picture
        assert f"book/_static/{name}" in text


def test_a_record_that_grows_is_judged_provisional(tmp_path):
    path = records.path(tmp_path, "ioffe_fig1", "quick")
    records.write(path, made_up(), {**FACTS, "members": 30, "missing": 6})
    judging.rewrite_ledger(tmp_path)
    judged = list(ledger.judged(ledger.read(tmp_path)))
    assert {(j["verdict"], j["missing"]) for _, _, j in judged} == {("provisional", 6)}


def test_p_values_are_adjusted_over_the_claims_of_a_paper(folders):
    """Three claims of one paper; the fourth is this book's, a family of its own."""
    on_file = ledger.read(folders[0])
    p = {claim["id"]: j["p"] for claim, _, j in ledger.judged(on_file)}
    adjusted = ledger.adjusted(on_file)
    assert adjusted.keys() == p.keys()
    assert adjusted["ioffe.fig1.untuned"] == p["ioffe.fig1.untuned"]
    smallest = min(p[name] for name in p if name != "ioffe.fig1.untuned")
    assert min(a for name, a in adjusted.items() if "fig1.untuned" not in name) == 3 * smallest


def test_what_training_could_contradict_has_premises_and_the_books_own_is_no_experiment():
    content = ledger.read(records.root() / "results")
    claims = [claim for one in content.values() for claim in one["claims"]]
    assert {claim["kind"] for claim in claims} == {"experiment", "identity", "control"}
    for claim in claims:
        assert claim["premises"] or claim["kind"] != "experiment", claim["id"]
        assert claim["kind"] != "experiment" or claim["paper"] != "this book", claim["id"]


@pytest.mark.slow
@pytest.mark.parametrize("name", experiments.names())
def test_every_part_of_a_record_can_be_judged_while_it_grows(name):
    """Whatever members are there, the ledger can be written; a whole record gets no such mercy."""
    record = records.read(records.path(records.recorded(), name, "quick"))
    count, experiment = len(record.table), experiments.find(name)
    for first, last in ((0, 0.02), (0, 0.1), (0, 0.5), (0.3, 0.4), (0.5, 1)):
        rows = slice(int(first * count), max(int(first * count) + 1, int(last * count)))
        part = replace(
            record,
            table=record.table.iloc[rows].reset_index(drop=True),
            provenance={**record.provenance, "members": 6, "missing": 3},
        )
        entry = ledger.entry(experiment.claims, judging._facts(experiment, part), part)
        config = part.provenance["config"]
        for claim in experiment.claims:
            settled = claim.settled is not None and claim.settled(part.table, config)
            provisional = entry["judgements"][claim.id]["verdict"] == "provisional"
            assert provisional != settled, claim.id
