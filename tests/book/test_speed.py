"""The benchmark on the pages: targets, contenders and facts come from its record."""

import json

import pandas as pd
import pytest

from bnbook.bench import gpu, recording, timing
from bnbook.book import build
from bnbook.evidence import timings


@pytest.fixture
def recorded(site):
    """A made-up record in the made-up book: one target met, one missed, the others not run."""
    rows = [timing.row(timings.PRODUCT, "square", 1, 1, 0, 0.5) | {"gflop": 1.0}]
    for repetition in range(2):
        for name, taken in (("ours", 1.0), ("tutorial loop", 4.0), ("jax.vmap", 1.05)):
            made = timing.row("mnist", name, 1, 10, repetition, taken)
            rows.append(made | {"gflop": 0.02})
        made = timing.row("growth members", "ours", 1, 10, repetition, 1.0)
        rows.append(made | {"gflop": 0.02, "setting": 1.0})
    rows.append(timings.empty("mnist", "skorch", 1, "not installed"))
    rows += gpu.absent(gpu.NAMES)
    table = pd.DataFrame(rows, columns=list(timings.COLUMNS))
    about = {"device": "cpu", "threads": 2, "load": 0.1, "seconds": 30.0}
    recording.write(table, "quick", **about, folder=site.root / "results")


def cells(table):
    rows = ([cell.get_text(" ", strip=True) for cell in row("td")] for row in table("tr"))
    return {row[0].replace("\u2019", "'"): row[1:] for row in rows if row}


def test_the_tables_of_the_benchmark(site, content, recorded):
    site.write_ledger(content)
    page = "# Speed\n\n```{targets} bench\n```\n\n```{timings} bench mnist\n```\n\n"
    site.write("book/fast.md", page + "{fact}`bench.mnist_tutorial`, {provenance}`bench`\n")
    assert site.build() == (0, "")
    targets, contenders = (cells(table) for table in site.page("book/fast")("table"))
    assert len(targets) == len(timings.TARGETS)
    assert targets["the sigmoid network: tutorial loop"] == [
        "at least 3.0× as fast per member", "4.0×", "4.0 to 4.0×", "2", "met",
    ]  # fmt: skip
    assert targets["the sigmoid network: jax.vmap"][-1] == "missed"
    assert targets["ResNet-110 on a GPU: tutorial loop"][-1] == "not run"
    assert contenders["tutorial loop"][3:] == ["4.00", "4.00 to 4.00", "2 %"]
    assert contenders["skorch"][1] == "not installed"
    assert "4.0×, Recorded at quick : 2 repetitions" in site.text("book/fast").replace(" ,", ",")
    assert "Speed on a CPU" not in site.text("book/ledger"), "it makes no claims"


def test_the_tables_of_deep_networks(site, content):
    rows = [timing.row(timings.PRODUCT, "square", 1, 1, 0, 0.5) | {"gflop": 1.0}]
    for name, taken in (("ours", 1.0), ("loop, compiled", 1.3), ("floor, bfloat16", 0.4)):
        rows.append(timing.row("resnet56-16 without BN", name, 1, 10, 0, taken))
    made = timing.row("cost side", "ours", 1, 4, 0, 0.5)
    rows.append(made | {"setting": 32.0, "mebibytes": 110.4})
    about = {"device": "cpu", "threads": 1, "load": 0.1, "seconds": 30.0, "deep": True}
    table = pd.DataFrame(rows, columns=list(timings.COLUMNS))
    recording.write(table, "quick", **about, folder=site.root / "results")
    site.write_ledger(content)
    asked = ("targets", ""), ("timings", " resnet56-16 without BN"), ("costs", "")
    blocks = [f"```{{{name}}} bench_deep{rest}\n```\n" for name, rest in asked]
    site.write("book/deep.md", "# Deep\n\n" + "\n".join(blocks))
    assert site.build() == (0, "")
    targets, contenders, costs = (cells(found) for found in site.page("book/deep")("table"))
    assert list(targets) == ["resnet56-16 without BN: the best of the others"]
    assert targets["resnet56-16 without BN: the best of the others"][1] == "1.30×"
    assert contenders["loop, compiled"][3] == "1.30"
    assert costs == {"side": ["32", "125.0", "110"]}


def test_what_the_record_lacks_is_not_spoken_of(site, content, recorded):
    """A directive that would be a warning is not even read."""
    site.write_ledger(content)
    held = {
        "mnist": "```{timings} bench mnist\n```",
        "cost side": "```{costs} bench\n```",
    }
    blocks = [
        f":::{{measured}} bench {name}\nOf {name}.\n\n{what}\n:::" for name, what in held.items()
    ]
    blocks += [f":::{{measured}} bench {name}\n:not:\nNo {name}.\n:::" for name in held]
    site.write("book/fast.md", "# Speed\n\n" + "\n\n".join(blocks) + "\n")
    assert site.build() == (0, "")
    text = site.text("book/fast")
    assert "Of mnist." in text
    assert "No cost side." in text
    assert "Of cost side." not in text
    assert "No mnist." not in text
    assert len(site.page("book/fast")("table")) == 1


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (":::{measured} toy_fig1 mnist\nText.\n:::", "expected a benchmark and a workload"),
        (":::{measured} bench\nText.\n:::", "expected a benchmark and a workload"),
        ("```{costs} bench\n```", "expected costs, found none in bench"),
        ("```{targets} toy_fig1\n```", "found toy_fig1: no targets"),
        ("```{timings} bench mnits\n```", "found 'mnits'; there are: growth members"),
        ("```{timings} bench mnist @standard\n```", "found 'standard'; there are: quick"),
    ],
)
def test_a_table_that_is_not_there_is_a_warning(site, content, recorded, source, message):
    site.write_ledger(content)
    site.write("book/fast.md", f"# Speed\n\n{source}\n")
    status, warnings = site.build()
    assert status == 1
    assert message in warnings


def test_the_figures_are_drawn_from_the_record(site, recorded):
    names = {path.name for path in build.draw_figures(site.root)}
    assert names == {"bench-ratios.svg", "bench-growth.svg"}
    assert build.draw_figures(site.root) == []
    digest = json.loads((site.root / "results/claims/bench.json").read_text())
    digest = digest["profiles"]["quick"]["record"]["digest"]
    assert digest in (site.root / "_build/figures/bench-ratios.svg").read_text()
