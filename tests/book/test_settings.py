"""The tables of settings: every training experiment has one, and it says what its record says."""

import dataclasses
import json
import re

import pandas as pd
import pytest

from bnbook import datasets, experiments
from bnbook.book.pages import described, evidence, settings
from bnbook.evidence import ledger, records
from bnbook.experiments.inception import claims as inception
from bnbook.layers import ensemble
from bnbook.networks.inception import Inception
from bnbook.setups import sequences
from bnbook.tables import choosing

ROOT = records.root()
CHAPTERS = sorted((ROOT / "book").glob("[0-9][0-9]-*.md"))
LEDGER = ledger.read(ROOT / "results")
ASKED = re.compile(r"```\{settings\} (.+)")
SHOWN = re.compile(r"\{provenance\}`(\w+)`|```\{(?:provenance|claims)\} (\w+)")


def trains(name):
    """Whether an experiment trains at some rate for some steps, by its records' configs."""
    keys = {key for entry in LEDGER[name]["profiles"].values() for key in entry["record"]["config"]}
    return bool(keys & {"learning_rate", "learning_rates"}) and bool(keys & {"steps", "examples"})


def untold(text):
    """Return the training experiments that a page shows without a table of their settings."""
    shown = {name for pair in SHOWN.findall(text) for name in pair if name}
    told = {name for line in ASKED.findall(text) for name in line.split()}
    return sorted(name for name in shown - told if trains(name))


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_every_training_experiment_of_a_chapter_has_a_table_of_settings(path):
    assert untold(path.read_text("utf-8")) == []


def test_an_experiment_without_a_table_is_found():
    assert untold("{provenance}`mlp` {provenance}`ioffe_scale`\n```{claims} inception\n```") == [
        "inception", "mlp",
    ]  # fmt: skip
    assert untold("{provenance}`mlp`\n```{settings} recurrent mlp\n```") == []
    assert sum(trains(name) for name in LEDGER) > 30


def names():
    text = "\n".join(path.read_text("utf-8") for path in CHAPTERS)
    return sorted({name for line in ASKED.findall(text) for name in line.split()})


@pytest.mark.parametrize("name", names())
def test_a_table_can_be_written_of_every_record(name):
    for entry in LEDGER[name]["profiles"].values():
        for rows in described.ours(name, entry).values():
            assert rows.keys() <= set(settings.ROWS)
            assert {
                "layers",
                "epochs",
                "initial weights",
                "training accuracy, at the best rate",
            } <= rows.keys()
            assert all(isinstance(text, str) and text for text in rows.values())


def test_papers_stand_beside_experiments_that_are_shown_and_have_known_rows():
    for heading, paper in settings.PAPERS.items():
        assert any(name.startswith(paper.beside) for name in names()), heading
        assert paper.rows.keys() <= set(settings.ROWS), heading


def told(name, profile="standard", **changes):
    """Describe an experiment's config, as a record of it would keep it."""
    config = dataclasses.replace(experiments.find(name).profiles[profile], **changes)
    entry = {"record": {"config": json.loads(json.dumps(dataclasses.asdict(config)))}, "facts": {}}
    return described.ours(name, entry)


def test_the_gain_of_the_branches_is_the_configs():
    page = (ROOT / "book/37-one-layer.md").read_text("utf-8")
    for profile, said in (("standard", "{} times Xavier's"), ("quick", "not He's, {} times")):
        gain = experiments.find("bjorck_one_layer").profiles[profile].gain
        weights = told("bjorck_one_layer", profile)[""]["initial weights"]
        assert f"in the branches {gain:g} times the variance (He's is 2)" in weights
        assert said.format(f"{gain:g}") in page
    assert "1.2 times" in told("bjorck_one_layer", gain=1.2)[""]["initial weights"]
    assert told("bjorck_one_layer", gain=1.0)[""]["initial weights"].startswith("Xavier's; scaled")
    for name in ("bjorck_dose", "bjorck_edge"):
        gains = sorted({gain for _, gain in experiments.find(name).profiles["standard"].networks})
        weights = told(name)[""]["initial weights"]
        assert [float(each) for each in re.findall(r"[\d.]+(?=,| or| times)", weights)] == gains


@pytest.mark.parametrize(
    ("name", "kind", "row", "text"),
    [
        ("bjorck_fig1", "", "initial weights", "Xavier's"),
        ("bjorck_lsuv", "", "initial weights", "Xavier's; He's in one network; scaled once in one"),
        (
            "saturation", "", "initial weights",
            "Xavier's, 1 or 4 times as large, chosen with the rate",
        ),
        ("bjorck_dose", "", "epochs", "51, 154, 461"),
        ("ioffe_inference", "", "trained on", "50,000 images"),
        ("ioffe_inference", "", "epochs", "0.4"),
        ("ioffe_optimisers", "", "minibatch", "60; 3,000 in full batches"),
        ("small_batches", "", "minibatch", "32, normalised 2, 4, 8 or 32 at a time"),
        ("small_batches", "", "epochs", "2"),
        ("small_batches", "", "groups of GroupNorm", "2, 4, 8 or 16, chosen with the rate"),
        ("batch_leak", "", "groups of GroupNorm", "4"),
        (
            "bjorck_map", "", "groups of GroupNorm",
            "of 2, 4, 8 or 16 channels, or 2 or 4 in every layer; chosen with the rate",
        ),
        ("finetune_frozen", "", "epochs", "6.4, after about 2"),
        ("ics_measures", "fully connected", "trained on", "3,500 images"),
        ("ics_measures", "linear", "trained on", "300 Gaussian vectors"),
        ("ics_speed", "convolutional", "layers", "5"),
        ("inception", "", "trained on", "45,000 images; 5,000 more choose the rate, 5,000 test"),
        (
            "inception", "", "epochs",
            "14 (10,000 steps); with the paper's changes 3.6 (2,500 steps)",
        ),
        ("mlp", "table", "trained on", "364 rows of 30 columns"),
        ("mlp", "images", "epochs", "17 (600 steps)"),
        ("recurrent", "pixels", "sequence", "32 steps of 2 pixels"),
        ("recurrent", "characters", "channels", "64"),
        ("transformer", "words", "epochs", "20 (500 steps)"),
        ("transformer", "images", "layers", "4"),
        (
            "transformer", "images", "rates tried",
            "0.0003 to 0.03; 1 seed chose, 5 others are shown",
        ),
    ],
)  # fmt: skip
def test_a_row_is_what_the_records_config_says(name, kind, row, text):
    entry = LEDGER[name]["profiles"]["standard"]
    assert described.ours(name, entry)[kind][row] == text


def test_the_groups_are_those_of_the_arms():
    row = "groups of GroupNorm"
    assert told("small_batches", "quick")[""][row] == "2 or 4, chosen with the rate"
    assert told("bjorck_map", "quick")[""][row].startswith("of 2 or 8 channels, or 2 in every")
    of_two = experiments.find("bjorck_map").profiles["standard"].arms[:8]
    assert (
        told("bjorck_map", arms=of_two, data="cifar10")[""][row]
        == "of 2 channels; chosen with the rate"
    )


def test_what_has_no_meaning_is_left_out():
    assert "image side" not in told("mlp")["table"]
    assert "image side" not in told("transformer")["characters"]
    assert "sequence" not in told("transformer")["images"]
    assert "image side" not in told("ics_measures")["linear"]


def test_the_inception_is_as_deep_and_wide_as_said():
    unit = 8
    model = Inception(None, unit=unit)
    depth = [
        max(
            sum(isinstance(part, ensemble.Conv2d) for part in branch.modules())
            for branch in module.branches
        )
        for module in model.inception
    ]
    assert 3 + sum(depth) + 1 == described.INCEPTION_LAYERS
    widths = [module.out_channels // unit for module in model.inception]
    assert (min(widths), max(widths)) == described.INCEPTION_WIDTHS


@pytest.mark.parametrize("data", ["digits", "mnist5k"])
def test_sizes_of_images_are_those_of_the_data(data):
    images = datasets.load(data, "train").images
    assert len(images) == described.TRAINING[data]
    assert images.shape[-1] == described.SIDES[data]


def test_sizes_of_the_table_and_of_the_text_are_those_of_the_data():
    rows = datasets.load_table("breast-cancer", "train").values
    assert rows.shape == (described.TRAINING["breast-cancer"], 30)
    for found, load in ((described.CHARACTERS, sequences.text), (described.WORDS, sequences.words)):
        for name, count in found.items():
            assert len(load(name).train) == count


@pytest.mark.parametrize("name", ["inception", "mlp", "recurrent", "transformer"])
def test_the_loss_at_the_end_is_the_records(name):
    table = pd.read_parquet(ROOT / f"results/{name}/standard.parquet")
    if name == "inception":
        ends = {"": inception.last_losses(table)}
    else:
        losses = choosing.ends(table, "loss").mean()
        ends = dict(iter(losses.groupby(lambda arm: arm.split(" | ")[0])))
    for kind, rows in described.ours(name, LEDGER[name]["profiles"]["standard"]).items():
        said = [float(each) for each in re.findall(r"[\d.]+", rows["training loss at the end"])]
        least, most = ends[kind].min(), ends[kind].max()
        assert said == pytest.approx(sorted({least, most}), abs=0.0051)
        assert rows["training accuracy, at the best rate"] == "not recorded"


def test_a_record_without_a_loss_has_no_such_row():
    entry = evidence.read(ROOT / "results").experiment("ioffe_fig1")["profiles"]["standard"]
    assert "training loss at the end" not in described.ours("ioffe_fig1", entry)[""]
