"""Roles, directives and the overlay of notebooks, in a made-up book."""

import copy
import json
import re
from pathlib import Path

import nbformat
import pandas as pd
import pytest
from bs4 import BeautifulSoup
from hypothesis import given
from hypothesis import strategies as st
from nbformat import v4

from bnbook.book.pages import assets, evidence, numbers
from bnbook.errors import BnbookError
from bnbook.tables import coverage
from tests.book.conftest import PAGES

PIXEL = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJ"
    "AAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
DASH = "\N{EN DASH}"
HOME = "# Home\n\n```{{toctree}}\n:glob:\n*/*\n```\n\nX {} Y\n"


def printed(site, content, source: str) -> str:
    """Return what a page prints between X and Y."""
    site.write_ledger(content)
    site.write("index.md", HOME.format(source))
    assert site.build() == (0, "")
    return re.search(r"X (.*) Y", site.text())[1]


def test_roles_print_the_stored_values(site, content):
    expected = {
        "{claim}`toy.fig1.speed`": "7.1× (95 % interval 6.4 to 7.8×)",
        "{claim}`toy.fig1.speed @quick`": "3.2× (95 % interval 2.5 to 4.1×)",
        "{claim}`toy.fig1.speed value`": "7.1×",
        "{claim}`toy.fig1.speed interval @quick`": "2.5 to 4.1×",
        "{claim}`toy.fig1.gap low`": "−1.70 points",
        "{claim}`toy.fig1.gap high`": "−1.41 points",
        "{claim}`toy.fig1.gap value @quick`": "0.00 points",
        "{claim}`toy.fig1.speed n`": "10",
        "{claim}`toy.fig1.gap verdict`": "not reproduced",
        "{claim}`toy.fig1.gap profile`": "standard",
        "{claim}`toy.fig1.gap statement`": "BN ends higher.",
        "{claim}`toy.fig1.gap quantity`": "steps without, divided by steps with",
        "{claim}`toy.fig1.gap criterion`": "Reproduced above 1.",
        "{claim}`toy.fig1.gap paper`": "A & B 2015",
        "{claim}`toy.fig1.gap section`": "4.1, figure 1(a)",
        "{claim}`toy.fig1.never`": "no value (in none of 10 seeds)",
        "{claim}`toy.fig1.never @quick`": "1.00 (no interval)",
        "{fact}`toy_fig1.steps`": "50,000",
        "{fact}`toy_fig1.few`": "9999",
        "{fact}`toy_fig1.accuracy`": "98.00 %",
        "{fact}`toy_fig1.accuracy @quick`": "97.12 %",
        "{fact}`toy_fig1.accuracy interval`": "97.05 to 97.20 %",
        "{fact}`toy_fig1.accuracy low`": "97.05 %",
        "{provenance}`toy_fig1`": (
            "Recorded at standard : n = 10 seeds, data set mnist, on 2 CPU cores (Intel Xeon"
            " Processor), 31 minutes of computing, torch 2.13.0, 2026-11-22, record digest"
            " ab12cd34… , commit 0123456789 ."
        ),
        "{took}`toy_fig1`": "31 minutes",
        "{took}`toy_fig1 toy_fig1 toy_fig1`": "1.6 hours",
    }
    found = printed(site, content, " | ".join(expected)).split(" | ")
    assert dict(zip(expected, found, strict=True)) == expected


def test_a_verdict_says_where_the_adjustment_would_change_it(site, content):
    asked = "{claim}`toy.fig1.speed verdict` and {claim}`toy.fig1.speed verdict @quick`"
    assert printed(site, content, asked) == "reproduced and reproduced"
    content["profiles"]["standard"]["judgements"]["toy.fig1.speed"]["p"] = 0.051
    said = "reproduced , but inconclusive when adjusted and reproduced"  # texts joined by spaces
    assert printed(site, content, asked) == said


TOY_NORMS = """
[[question]]
key = "network"
asks = "Which?"
[question.answers]
any = "any"

[[answer]]
where = "anywhere"
network = ["any"]
take = "BN"
because = "it is fast"
claims = ["toy.fig1.speed"]
page = "ledger"
name = "the ledger"
"""


def test_tables_say_where_the_adjustment_would_change_a_verdict(site, content, monkeypatch):
    row = coverage.Row("A.fig1", "A & B 2015", "4.1", "Speed", "", ("toy.fig1.speed",), "", "")
    monkeypatch.setattr(coverage, "rows", lambda _: [row])
    site.write("book/data/norms.toml", TOY_NORMS)
    site.write(
        "book/one.md", "# One\n\n```{coverage} ioffe\n```\n\n```{explorable} norms\nAsk.\n```\n"
    )
    for p, but in ((0.03, ""), (0.051, " , but inconclusive when adjusted")):
        content["profiles"]["standard"]["judgements"]["toy.fig1.speed"]["p"] = p
        site.write_ledger(content)
        assert site.build() == (0, "")
        covered, norms = (rows(each)[0] for each in site.page("book/one")("table"))
        every = rows(site.page("book/ledger").find("table"))[0]
        assert covered[-1].startswith(f"reproduced{but} toy.fig1.speed : 7.1×")
        assert norms[-1].startswith(f"reproduced{but} BN trains faster.")
        assert every[-2] == f"reproduced{but}"


def test_a_claim_leads_to_its_entry_in_the_ledger(site, content):
    printed(site, content, "{claim}`toy.fig1.speed` {claim}`toy.fig1.gap verdict`")
    index, ledger = site.page("index"), site.page("book/ledger")
    number = index.find(class_="claim").a
    badge = index.find(class_="verdict-not-reproduced")
    assert number["href"] == "book/ledger.html#claim-toy-fig1-speed"
    assert badge.a["href"] == "book/ledger.html#claim-toy-fig1-gap"
    assert ledger.find(id="claim-toy-fig1-gap").find(["h2", "h3"]).text.startswith("BN ends higher")


def rows(table) -> list[list[str]]:
    cells = [[cell.get_text(" ", strip=True) for cell in row("td")] for row in table("tr")]
    return [[text.replace("\u00a0", " ") for text in row] for row in cells if row]


def test_the_table_of_claims(site, content):
    site.write_ledger(content)
    site.write("book/one.md", "# One\n\n```{claims} toy_fig1\n:name: tab\n```\n\n{numref}`tab`\n")
    assert site.build() == (0, "")
    what = "Measured: steps without, divided by steps with."
    where, no = f"{what} A & B 2015, section 4.1, figure 1(a)", "not reproduced"
    why = "No seed has a value."
    assert rows(site.page("book/one").find("table")) == [
        [f"BN trains faster. {where}", "7.1×", "6.4 to 7.8×", "10", "0.030", "reproduced"],
        [f"BN ends higher. {where}", "−1.56 points", "−1.70 to −1.41 points", "10", "< 0.001", no],
        [f"BN reaches the moon. {where} {why}", DASH, DASH, "0 of 10", DASH, "not tested"],
    ]
    assert "The 3 claims of this experiment, judged from the standard record." in site.text(
        "book/one"
    )


def test_the_ledger_lists_every_claim_at_every_profile(site, content):
    site.write_ledger(content)
    assert site.build() == (0, "")
    page = site.page("book/ledger")
    assert page.find(class_="tally").text.strip() == (
        "3 experiments: 1 reproduced, 1 not reproduced, 1 not tested."
    )
    section = page.find(id="claim-toy-fig1-never")
    assert rows(section.find("table")) == [
        ["standard", DASH, DASH, "0 of 10", DASH, "not tested No seed has a value."],
        ["quick", "1.00", DASH, "1 of 3", DASH, "inconclusive"],
    ]
    assert "Judged: Reproduced above 1." in " ".join(section.get_text().split())
    assert "toy.fig1.never" in section.code.text
    assert [p.code.text for p in page("p", class_="provenance")] == ["standard", "quick"]


FAULTS = {
    "{claim}`toy.fig1.sped`": "toy.fig1.gap, toy.fig1.never, toy.fig1.speed",
    "{claim}`toy.fig1.gap colour`": "found 'colour'; there are: cases, criterion, high, interval",
    "{claim}`toy.fig1.gap @paper`": "expected a recorded profile of toy_fig1, found 'paper'",
    "{claim}`toy.fig1.gap value now`": "expected `name [field] [@profile]`",
    "{fact}`toy_fig1.stops`": "found 'stops'; there are: accuracy, few, steps",
    "{fact}`toy_fig1.steps interval`": "found 'interval'; there are: both, value",
    "{fact}`toy_fig2.steps`": "found 'toy_fig2'; there are: toy_fig1",
    "{provenance}`toy_fig1 value`": "expected `experiment [@profile]`",
    "{took}`toy_fig1 toy_fig3`": "found 'toy_fig3'; there are: toy_fig1",
    "{took}`toy_fig1 @paper`": "expected `name [field] [@profile]`, found '@paper'",
    "```{claims} toy_fig3\n```": "found 'toy_fig3'; there are: toy_fig1",
    "```{provenance} toy_fig1 @paper\n```": "found 'paper'; there are: quick, standard",
    "{doc}`nowhere`": "unknown document",
    "{ref}`no-such-label`": "undefined label",
    "![](no.png)": "image file not readable",
}


def test_a_fault_fails_every_build_until_it_is_mended(site, content):
    site.write_ledger(content)
    for number, source in enumerate(FAULTS):
        site.write(f"book/fault-{number}.md", f"# Fault {number}\n\n{source}\n")
    for _ in range(2):
        status, warnings = site.build()
        assert status == 1
        for number, message in enumerate(FAULTS.values()):
            said = [line for line in warnings.splitlines() if f"fault-{number}.md" in line]
            assert any(message in line for line in said), (message, said)
    for number in range(len(FAULTS)):
        site.write(f"book/fault-{number}.md", f"# Fault {number}, mended\n")
    assert site.build() == (0, "")


@pytest.mark.parametrize(
    ("ends", "text"),
    [
        ({"value": 2.04, "low": 1.5, "high": 2.5}, "2.0 (1.5 to 2.5)"),
        ({"value": 2.04, "low": None, "high": None}, "2.0"),
        ({"value": 2.04, "low": None, "high": None, "unbounded": True}, "2.0 (without ends)"),
        ({"value": None, "low": None, "high": None}, "–"),  # noqa: RUF001
    ],
)
def test_a_fact_and_its_interval_are_written_together(ends, text):
    fact = {**ends, "digits": 1, "unit": ""}
    content = {"experiment": "toy", "profiles": {"quick": {"facts": {"gain": fact}}}}
    written = evidence.fact_text(content, "gain", "both", "quick")
    assert written.replace("\xa0", " ") == text
    assert written.count(" ") == text.count(" (")  # a line may end there alone


def test_of_many_names_an_error_lists_the_nearest():
    facts = {f"fact_{i}": {"value": 1.0} for i in range(100)} | {"with_accuracy": {"value": 1.0}}
    content = {"experiment": "toy", "profiles": {"quick": {"facts": facts}}}
    with pytest.raises(BnbookError) as error:
        evidence.fact_text(content, "with_acuracy", "", "quick")
    assert "there are 101, the nearest: with_accuracy" in str(error.value)
    assert len(str(error.value)) < 200


def test_a_broken_ledger_file_is_named(site, content):
    site.write_ledger(content)
    site.write("results/claims/other.json", "{")
    status, warnings = site.build()
    assert status == 1
    assert "other.json is not a ledger file" in warnings
    assert "Traceback" not in warnings


def test_an_empty_ledger_says_how_to_fill_it(site):
    status, warnings = site.build()
    assert status == 1
    assert "`bnbook judge`" in warnings


def test_new_numbers_reach_the_pages_that_print_them(site, content):
    assert printed(site, content, "{claim}`toy.fig1.speed value`") == "7.1×"
    changed = copy.deepcopy(content)
    changed["profiles"]["standard"]["judgements"]["toy.fig1.speed"]["value"] = 6.96
    site.write_ledger(changed)
    assert site.build() == (0, "")
    assert "X 7.0× Y" in site.text()
    assert "7.0×" in site.text("book/ledger")


def test_a_new_experiment_reaches_the_ledger_and_a_removed_one_leaves(site, content):
    site.write_ledger(content)
    assert site.build() == (0, "")
    other = json.loads(json.dumps(content).replace("toy", "duo"))
    site.write_ledger({**other, "title": "A second network"})
    assert site.build() == (0, "")
    assert "A second network" in site.text("book/ledger")
    (site.root / "results/claims/duo_fig1.json").unlink()
    assert site.build() == (0, "")
    assert "A second network" not in site.text("book/ledger")


def notebook(executed: bool, profile="quick", alt="A rising line.", cell="plot()"):
    image = {"mystnb": {"image": {"alt": alt}}} if alt else {}
    cells = [
        v4.new_markdown_cell("# A run\n\nThe question.", id="a"),
        v4.new_code_cell(f'profile = "{profile}"', id="b", metadata={"tags": ["parameters"]}),
        v4.new_code_cell(cell, id="c", metadata=image),
    ]
    if executed:
        data = {"image/png": PIXEL, "text/plain": "<Figure>"}
        plain = pd.DataFrame({"loss": [0.5], "n": [3]})
        said = pd.DataFrame({"because": ["The record has more steps and seeds than this run."]})
        tables = [{"text/html": t.to_html()} for t in (plain, plain.rename_axis("arm"), said)]
        cells[2].outputs = [v4.new_output("display_data", shown) for shown in (data, *tables)]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    ran = {"bnbook": {"profile": profile}} if executed else {}
    return v4.new_notebook(cells=cells, metadata={"kernelspec": kernel, **ran})


def write_notebooks(site, **options) -> None:
    site.write("notebooks/01-a.ipynb", nbformat.writes(notebook(False)))
    write_executed(site, **options)


def write_executed(site, **options) -> None:
    site.write("_build/executed/notebooks/01-a.ipynb", nbformat.writes(notebook(True, **options)))


def test_a_notebook_is_shown_as_executed(site, content):
    site.write_ledger(content)
    write_notebooks(site)
    assert site.build() == (0, "")
    assert site.page("notebooks/01-a").find("img")["alt"] == "A rising line."
    text = site.text("notebooks/01-a")
    assert "Quick run This notebook was executed at the quick profile" in text
    assert text.index("The question.") < text.index("Quick run") < text.index("profile =")
    download = (site.root / "_build/html/_sources/notebooks/01-a.ipynb.txt").read_text("utf-8")
    assert PIXEL not in download
    heads = [[th.text for th in t.thead("th")] for t in site.page("notebooks/01-a")("table")]
    assert heads == [["loss", "n"], ["arm", "loss", "n"], ["because"]]
    folded = [cell.text for cell in site.page("notebooks/01-a")("td", class_="words")]
    assert folded == ["The record has more steps and seeds than this run."]


def test_only_a_quick_run_has_the_banner(site, content):
    site.write_ledger(content)
    write_notebooks(site, profile="standard")
    assert site.build() == (0, "")
    assert "Quick run" not in site.text("notebooks/01-a")


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (None, "expected the executed notebook at _build/executed/notebooks/01-a.ipynb"),
        ({"cell": "plot(2)"}, "was made from other cells"),
        ({"alt": ""}, "has no text alternative"),
    ],
)
def test_a_faulty_notebook_fails_every_build_until_it_is_mended(site, content, fault, message):
    site.write_ledger(content)
    write_notebooks(site, **(fault or {}))
    if fault is None:
        (site.root / "_build/executed/notebooks/01-a.ipynb").unlink()
    for _ in range(2):
        status, warnings = site.build()
        assert status == 1
        assert message in warnings
        assert "01-a.ipynb" in warnings
    write_executed(site)
    assert site.build() == (0, "")
    assert site.page("notebooks/01-a").find("img")["alt"] == "A rising line."


def test_a_new_execution_reaches_the_page(site, content):
    site.write_ledger(content)
    write_notebooks(site)
    assert site.build() == (0, "")
    write_executed(site, alt="A falling line.")
    assert site.build() == (0, "")
    assert site.page("notebooks/01-a").find("img")["alt"] == "A falling line."


def test_a_figure_needs_a_caption_and_an_alternative(site, content):
    site.write_ledger(content)
    site.write("index.md", HOME.format("\n```{figure} a.svg\n```\n"))
    site.write("a.svg", '<svg xmlns="http://www.w3.org/2000/svg" width="1" height="1"/>')
    status, warnings = site.build()
    assert status == 1
    assert "a.svg has no text alternative" in warnings
    assert "a figure has no caption" in warnings


def test_a_table_without_headings_has_no_head(site, content):
    site.write_ledger(content)
    site.write(
        "book/one.md", "# One\n\n| | |\n|---|---|\n| a | b |\n\n| x | |\n|---|---|\n| c | d |\n"
    )
    assert site.build() == (0, "")
    bare, headed = site.page("book/one")("table")
    assert (bare.find("th"), rows(bare)) == (None, [["a", "b"]])
    assert [th.text for th in headed("th")] == ["x", "row"]
    assert headed("th")[1].find(class_="sr-only").text == "row"


def test_a_head_that_is_a_formula_is_said_in_words_too(site, content):
    site.write_ledger(content)
    site.write("book/one.md", "# One\n\n| $a/b$ | of $x$ |\n|---|---|\n| 1 | 2 |\n")
    assert site.build() == (0, "")
    formula, words = site.page("book/one").table("th")
    assert formula.find(class_="sr-only").text == "a/b"
    assert words.find(class_="sr-only") is None


def test_formulas_are_typeset_from_files_beside_the_pages(site, content):
    printed(site, content, "$x^2$")
    scripts = [script.get("src", "") for script in site.page("index")("script")]
    assert [s.split("?")[0] for s in scripts if "mathjax" in s] == [
        f"_static/mathjax/{assets.SCRIPT}"
    ]
    folder = site.root / "_build/html/_static/mathjax"
    files = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    fonts = [file for file in files if file.startswith(f"{assets.FONTS}/")]
    assert files == sorted([assets.SCRIPT, *fonts])
    assert len(fonts) == 23
    assert sum((folder / file).stat().st_size for file in files) < 2_000_000


@given(
    number=st.floats(-999_999, 999_999),
    digits=st.integers(0, 4),
    unit=st.sampled_from(["", "×", " %", " points"]),
)
def test_printed_digits_round_from_the_stored_value(number, digits, unit):
    texts = [
        evidence.fact_number({"digits": digits, "unit": unit}, number),
        evidence.claim_texts(
            {**dict.fromkeys(evidence.DESCRIPTIONS, ""), "digits": digits, "unit": unit},
            {
                "value": number,
                "low": None,
                "high": None,
                "n": 3,
                "cases": None,
                "verdict": "inconclusive",
            },
            "quick",
        )["value"].replace("\u00a0", " "),
    ]
    for text in texts:
        assert text.endswith(unit)
        shown = text.removesuffix(unit).replace("−", "-").replace(",", "")
        assert len(shown.partition(".")[2]) == digits
        assert abs(float(shown) - number) <= 0.5 * 10**-digits * (1 + 1e-9) + 1e-9
        assert shown not in ("-0", "-0.0", "-0.00", "-0.000", "-0.0000")


def test_the_papers_numbers_stand_beside_ours(site, content):
    facts = content["profiles"]["standard"]["facts"]
    facts["paper_00"] = {
        "value": 81.25, "low": 80.0, "high": 82.5, "digits": 1, "unit": " %", "what": "the end",
        "paper": 90.0, "error": 0.3,
    }  # fmt: skip
    site.write_ledger(content)
    site.write("book/one.md", "# One\n\n```{paper} toy_fig1\n:name: tab\n```\n\n{numref}`tab`\n")
    assert site.build() == (0, "")
    assert rows(site.page("book/one").find("table")) == [
        ["the end", "90.0 %", "81.2 %", "80.0 to 82.5", "−8.8", "0.3"]
    ]


def test_a_record_without_numbers_of_the_paper_is_a_fault(site, content):
    site.write_ledger(content)
    site.write("book/one.md", "# One\n\n```{paper} toy_fig1\n```\n")
    status, warnings = site.build()
    assert status == 1
    assert "toy_fig1 has no number of the paper's at standard" in warnings


CONFIG = {
    "data": "cifar10", "n": [2, 9], "widths": [8, 16, 32], "side": 16, "train_images": 3200,
    "steps": 400, "batch_size": 64, "pad": 2,
}  # fmt: skip


def test_settings_come_from_the_record(site, content):
    about = content["profiles"]["standard"]["record"]
    content = {**content, "experiment": "bjorck_toy"}
    about["config"], about["reached"] = CONFIG, [33.4, 46.6]
    site.write_ledger(content)
    site.write("book/one.md", "# One\n\n```{settings} bjorck_toy\n```\n")
    assert site.build() == (0, "")
    found = {row[0]: row[1:] for row in rows(site.page("book/one").find("table"))}
    assert found["layers"] == ["14, 56", "110"]
    assert found["trained on"] == ["3,200 images", "50,000 images"]
    assert found["epochs"][0] == "8"  # 400 x 64 / 3,200
    assert found["augmentation"][0] == "crops after a margin of 2, and flips"
    assert found["initial weights"] == ["Xavier\u2019s", "not verified"]
    assert not found.keys() & {"sequence", "optimiser", "training loss at the end"}
    assert found["training accuracy, at the best rate"] == ["33 to 47 %", "near 100 %"]


def test_settings_of_several_kinds_have_a_column_each_and_leave_out_what_means_nothing(
    site, content
):
    content = {**content, "experiment": "ics_measures"}
    content["profiles"]["standard"]["record"]["config"] = {
        "data": "mnist5k", "networks": ["deep linear net"], "depth": 25, "examples": 300,
        "steps": 300, "batch_size": 64, "side": 8, "hidden": [50], "widths": [4], "validation": 500,
    }  # fmt: skip
    site.write_ledger(content)
    site.write("book/one.md", "# One\n\n```{settings} ics_measures\n```\n")
    assert site.build() == (0, "")
    table = site.page("book/one").find("table")
    assert [cell.text.strip() for cell in table.find_all("th")][1:] == [
        "ics_measures, standard: linear", "Santurkar et al., VGG", "Santurkar et al., deep linear",
    ]  # fmt: skip
    found = {row[0]: row[1:] for row in rows(table)}
    assert "image side" not in found
    assert found["layers"] == ["25", "not verified", "25"]
    assert found["minibatch"] == ["all 300", "128", "all 1,000"]


def test_claims_about_one_quantity_are_shown_on_either_row(site, content):
    other = json.loads(json.dumps(content).replace("toy", "tay"))
    content["claims"][0]["concerns"] = other["claims"][0]["concerns"] = "speed"
    site.write_ledger(content)
    site.write_ledger(other)
    site.write("book/one.md", "# One\n\n```{claims} toy_fig1\n```\n")
    assert site.build() == (0, "")
    first = rows(site.page("book/one").find("table"))[0][0]
    said = "7.1× (95 % interval 6.4 to 7.8×), reproduced, but inconclusive when adjusted."
    assert f"The same quantity in tay_fig1 : {said}" in first


def test_a_rehearsal_of_one_quantity_is_said_to_be_one(site, content):
    other = json.loads(json.dumps(content).replace("toy", "tay"))
    content["claims"][0]["concerns"] = other["claims"][0]["concerns"] = "speed"
    content["profiles"] = {"standard": content["profiles"]["quick"]}
    other["profiles"] = {"quick": other["profiles"]["quick"]}
    site.write_ledger(content)
    site.write_ledger(other)
    for name in ("toy", "tay"):
        site.write(f"book/{name}.md", f"# One\n\n```{{claims}} {name}_fig1\n```\n")
    assert site.build() == (0, "")
    first, second = (rows(site.page(f"book/{name}").find("table"))[0][0] for name in ("toy", "tay"))
    assert "The same quantity in tay_fig1 , a rehearsal at quick: 3.2×" in first
    assert "The same quantity in toy_fig1 : 3.2×" in second


def test_a_claim_of_the_opposite_about_one_quantity_is_said_to_be_so(site, content):
    """Or its "reproduced" would read as one of the row that it stands in."""
    other = json.loads(json.dumps(content).replace("toy", "tay"))
    content["claims"][0]["concerns"] = other["claims"][0]["concerns"] = "speed"
    other["claims"][0].update(direction="below", bound=9.0)
    site.write_ledger(content)
    site.write_ledger(other)
    site.write("book/one.md", "# One\n\n```{claims} toy_fig1\n```\n")
    assert site.build() == (0, "")
    first = rows(site.page("book/one").find("table"))[0][0]
    said = "reproduced, but inconclusive when adjusted."
    assert f"6.4 to 7.8×), of the claim that it lies below 9.0×: {said}" in first


def test_a_record_that_grows_says_how_far_it_is():
    record = {
        "seeds": 5, "data": "digits", "device": "cpu", "processor": "A; B", "cores": 2,
        "seconds": 60.0, "date": "2026-01-02", "digest": "0" * 64, "versions": {},
    }  # fmt: skip
    grows = {**record, "members": 20, "missing": 6}
    said = ["".join(text for _, text in evidence.provenance("paper", r)) for r in (record, grows)]
    assert "14 of 20 runs so far" in said[1]
    assert said[0] == said[1].replace("14 of 20 runs so far, ", "")


BLOCKS = """```python
print(1)
```

````{admonition} Folded
:class: dropdown
```python
x = 2
```
````
"""


def write_outputs(site, *held) -> None:
    found = [{"key": "k", "code": code, "printed": printed} for code, printed in held]
    site.write("_build/executed/blocks/one.json", json.dumps(found))


def test_what_a_block_prints_stands_below_it_with_a_name(site, content):
    site.write_ledger(content)
    site.write("book/one.md", f"# One\n\n{BLOCKS}")
    write_outputs(site, ("print(1)\n", "1\n<b> & 2\n"), ("x = 2\n", ""))
    assert site.build() == (0, "")
    (box,) = site.page("book/one").select(".block-output")
    assert [each.text.strip() for each in (box.p, box.pre)] == ["Output", "1\n<b> & 2"]
    assert "print" in box.find_previous_sibling("div").text


def test_a_block_that_was_not_run_fails_every_build_until_it_is(site, content):
    site.write_ledger(content)
    site.write("book/one.md", f"# One\n\n{BLOCKS}")
    write_outputs(site, ("print(2)\n", "2\n"), ("x = 2\n", ""))
    for _ in range(2):
        status, warnings = site.build()
        assert status == 1
        assert "one.md:3: WARNING: this code block has not been run as it stands" in warnings
    write_outputs(site, ("print(1)\n", "1\n"), ("x = 2\n", ""))
    assert site.build() == (0, "")


NUMBERED = """# {0}

```{{figure}} a.svg
:name: fig-{0}
:alt: a

A picture.
```

$$ x = 1 $$ (eq-{0}-a)

$$ x = 2 $$ (eq-{0}-b)

{{numref}}`fig-31-b` {{eq}}`eq-31-b-b` {{numref}}`fig-speed`
"""


def test_figures_and_equations_are_numbered_by_chapter(site, content):
    site.write_ledger(content)
    for name in ("11-a", "31-b", "speed"):
        site.write(f"book/{name}.md", NUMBERED.format(name))
    site.write("book/a.svg", '<svg xmlns="http://www.w3.org/2000/svg" width="1" height="1"/>')
    assert site.build() == (0, "")
    for name, number in (("11-a", "11"), ("31-b", "31"), ("speed", "S")):
        page = site.page(f"book/{name}")
        assert page.find(class_="caption-number").text.strip() == f"Fig. {number}.1"
        assert [e.text[:-1] for e in page(class_="eqno")] == [f"({number}.1)", f"({number}.2)"]
        assert site.text(f"book/{name}").split("Fig. ", 2)[2].split()[0] == "31.1"
        assert "(31.2) Fig. S.1" in site.text(f"book/{name}")


def test_pages_that_begin_alike_have_different_numbers():
    book = [Path(name).with_suffix("").as_posix() for name in PAGES if "notebooks/" not in name]
    book.remove("book/references")  # which numbers nothing
    beginnings = [numbers.chapter(name) for name in book]
    assert len(set(beginnings)) == len(beginnings), sorted(beginnings)


SVG = '<svg xmlns="http://www.w3.org/2000/svg" width="1" height="1"/>'


def test_a_narrow_screen_is_shown_the_drawing_that_was_made_for_it(site, content):
    site.write_ledger(content)
    figure = "```{{figure}} ../{}.svg\n:alt: a\n\nA picture.\n```\n"
    site.write("book/one.md", "# One\n\n" + figure.format("a") + figure.format("b"))
    for name in ("a.svg", "a.narrow.svg", "b.svg"):
        site.write(name, SVG)
    assert site.build() == (0, "")
    page = site.page("book/one")
    (source,) = page("source")
    assert source["srcset"] == "../_images/a.narrow.svg"
    assert [image["src"] for image in page("img")] == ["../_images/a.svg", "../_images/b.svg"]
    assert source.parent.img["alt"] == "a"
    assert (site.root / "_build/html/_images/a.narrow.svg").read_text() == SVG


def test_a_figure_leads_to_its_record(site, content):
    site.write_ledger(content)
    site.write("_build/figures/toy_fig1-curves.svg", SVG)
    site.write("a.svg", SVG)
    figure = "```{{figure}} ../{}.svg\n:alt: a\n\nA picture.\n```\n"
    figures = figure.format("_build/figures/toy_fig1-curves") + figure.format("a")
    site.write("book/one.md", "# One\n\n" + figures)
    assert site.build() == (0, "")
    ours, other = site.page("book/one")("figure")
    assert "A picture. Record." in " ".join(ours.text.split())
    (link,) = ours("a", class_="external") + ours("a", class_="internal")
    assert link["href"] == "ledger.html#experiment-toy-fig1"
    assert "Record" not in other.text


def test_figures_of_the_book_lead_to_their_record_and_the_code_that_draws_them(book):
    html = (book / "book" / "31-one-rate-two-networks.html").read_text("utf-8")
    captions = BeautifulSoup(html, "html.parser").select("figcaption .caption-text")
    found = [[link["href"] for link in caption("a", string=["Record", "code"])]
             for caption in captions]  # fmt: skip
    code = "https://github.com/bnbook/bnbook/blob/main/bnbook/experiments/{}/figures.py"
    assert {drawn.split("/")[-2] for _, drawn in found} == {
        "bjorck_fig1", "bjorck_epochs110", "bjorck_map"
    }  # fmt: skip
    for record, drawn in found:
        name = drawn.split("/")[-2]
        assert (record, drawn) == (
            f"ledger.html#experiment-{name.replace('_', '-')}", code.format(name)
        )  # fmt: skip
