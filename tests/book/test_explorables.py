"""The explorables: their data are the records', their scripts reckon as `bnbook.formulas` does."""

import json
import math
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from bs4 import BeautifulSoup

from bnbook import formulas
from bnbook.book.pages import evidence, explorables
from bnbook.book.pages.explorables import growth, norms, rates, scale, transform
from bnbook.errors import BnbookError
from bnbook.evidence import ledger, records
from bnbook.experiments.bjorck_dose.claims import doses
from bnbook.experiments.bjorck_fig5.claims import stage_growth, wide_limit
from bnbook.tables.arms import WITH, WITHOUT

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "results"
SCRIPTS = ROOT / "book" / "_static" / "explorables"


def record(name):
    """The best record of an experiment, as pages show it."""
    profile = ledger.best_profile(ledger.read(RESULTS)[name])
    return records.read(records.path(RESULTS, name, profile))


def made(piece):
    return piece.data({name: record(name) for name in piece.RECORDS})


def close(a, b):
    return a == pytest.approx(b, rel=2e-6, abs=2e-6)


@pytest.fixture(scope="module")
def map_():
    return made(rates)


def test_a_curve_of_the_map_is_the_mean_of_the_records_last_rows(map_):
    for name in ("bjorck_fig1", "bjorck_map"):
        (network,) = next(f for f in map_["families"] if f["record"] == name)["networks"]
        table, config = record(name).table, record(name).provenance["config"]
        last = table[table["step"] == table["step"].max()]
        assert network["name"] == f"{6 * config['n'] + 2} layers"
        for arm, curve in network["arms"].items():
            own = last[last["arm"] == arm]
            for rate, mean, low, high, runs, failed in curve["points"]:
                here = own[own["learning_rate"] == rate]
                assert close(mean, 100 * here["test_accuracy"].mean())
                assert low <= mean <= high
                assert (runs, failed) == (len(here), (here["diverged_at"] >= 0).sum())
            learns = own[own["diverged_at"] < 0]["learning_rate"].unique()
            means = own.groupby("learning_rate")["validation_accuracy"].mean()
            assert curve["tuned"] == means[means.index.isin(learns)].idxmax()


def test_the_map_by_growth_has_each_run_at_the_length_that_it_needed(map_):
    family = map_["families"][0]
    table = record("bjorck_dose").table
    growths = [network["growth"] for network in family["networks"]]
    assert growths == sorted(growths)
    small = doses(table)["small"].rename("learning_rate").reset_index()
    runs = table[table["arm"] == WITHOUT].merge(small, on=["n", "gain"], suffixes=("", "_small"))
    unknown = runs["learning_rate_small"].isna()  # no rate is chosen yet
    at_small = runs[unknown | (runs["learning_rate"] == runs["learning_rate_small"])]
    without = at_small.drop_duplicates(["n", "gain", "seed"])
    shown = {each: own.loc[~own["tunes"], "growth"] for each, own in without.groupby(["n", "gain"])}
    all_seeds = without.groupby(["n", "gain"])["growth"].mean()
    expected = [own.mean() if len(own) else all_seeds[each] for each, own in shown.items()]
    assert close(growths, sorted(expected))
    shown = sum(p[4] for n in family["networks"] for a in n["arms"].values() for p in a["points"])
    assert shown == len(table.drop_duplicates(["n", "gain", "arm", "learning_rate", "seed"]))


def test_the_map_by_growth_marks_the_rates_that_tuning_seeds_have_chosen(map_):
    found = doses(record("bjorck_dose").table)
    for network, dose in zip(map_["families"][0]["networks"], found.itertuples(), strict=True):
        for arm, rate in ((WITHOUT, dose.small), (WITH, dose.large)):
            assert network["arms"][arm]["tuned"] == (None if math.isnan(rate) else rate)


def test_the_papers_points_are_the_ends_of_its_curves(map_):
    lines = (ROOT / "book/data/papers/bjorck_fig1.csv").read_text().splitlines()[1:]
    last = {}
    for line in lines:
        panel, name, accuracy = line.split(",")[0], line.split('"')[1], line.rsplit(",", 1)[1]
        if panel == "test":
            last[name] = float(accuracy)
    expected = {
        (WITHOUT if name.startswith("no BN") else WITH, float(name.split()[-1])): accuracy
        for name, accuracy in last.items()
    }
    assert {(p["arm"], p["rate"]): p["accuracy"] for p in map_["paper"]} == expected
    assert len(expected) == 4


def test_a_network_whose_runs_all_died_has_no_rate():
    rows = {"arm": WITHOUT, "learning_rate": 0.1, "test_accuracy": 0.1, "validation_accuracy": 0.1}
    dead = pd.DataFrame([{**rows, "seed": seed, "dead_at": 400} for seed in range(2)])
    arms = rates._arms(dead)
    assert arms[WITHOUT] == {"points": [[0.1, 10.0, 10.0, 10.0, 2, 2]], "tuned": None}
    family = {"name": "f", "networks": [{"name": "made up", "arms": arms}]}
    (row,) = rates.rows({"families": [family]})
    assert row[1:] == ["no run learns, of 2", rates.DASH, "not run yet", rates.DASH]


def test_what_the_transform_says_of_the_record_is_in_it():
    found = made(transform)
    table = record("ioffe_inference").table
    running = table[table["statistics"] == "running average"]
    for m, line in zip(found["sizes"], found["recorded"], strict=True):
        own = running[running["batch_size"] == m]
        usual = own[own["momentum"] == 0.1].groupby("learning_rate")["validation_accuracy"].mean()
        own = own[own["learning_rate"] == usual.idxmax()]
        for momentum, cell in zip(found["momenta"], line, strict=True):
            mean = own[own["momentum"] == momentum].mean(numeric_only=True)
            assert close(cell["running"], 100 * mean["test_accuracy"])
            assert close(cell["mean_error"], mean["mean_error"])
            assert close(cell["variance_error"], mean["variance_error"])


def test_features_have_a_variance_and_every_epoch_visits_each_value_once():
    for values in transform.features().values():
        assert len(values) == transform.IMAGES
        assert values.var() > 0.01
    for epoch in range(4):
        visited = {(at * (2 * epoch + 1)) % transform.IMAGES for at in range(transform.IMAGES)}
        assert len(visited) == transform.IMAGES


def test_the_courses_of_the_scale_are_the_records_geometric_means():
    found = made(scale)
    table = record("ioffe_effective_rate").table
    for run in found["runs"]:
        own = table[
            table["arm"].isin(("with BN", "BN with weight decay"))
            & (table["scale"] == run["a"])
            & (table["learning_rate"] == run["rate"])
            & (table["weight_decay"] == run["decay"])
        ]
        for step, squared, angle in zip(
            run["steps"], run["squared_norm"], run["angle"], strict=True
        ):
            here = own[own["step"] == step]
            assert squared == pytest.approx(math.exp(np.log(here["squared_norm"]).mean()), rel=1e-5)
            assert angle == pytest.approx(math.exp(np.log(here["angle"]).mean()), rel=1e-5)
    three = table[(table["arm"] == WITH) & (table["scale"] == 3) & (table["step"] == 0)]
    size = (three["squared_gradient"] * three["squared_norm"]).mean()
    assert size == pytest.approx(found["size"], rel=1e-3), "the product does not see the scale"


def test_growth_of_activations_is_the_records_and_theory_keeps_its_bounds():
    found = made(growth)
    table = record("bjorck_dose").table
    for depth in found["depths"]:
        for at, gain in enumerate(found["gains"]):
            for arm in (WITHOUT, WITH):
                own = table[
                    (table["n"] == depth["n"]) & (table["gain"] == gain) & (table["arm"] == arm)
                ]
                own = own[own["step"] == 0].groupby("seed")["growth"].first()
                measured = depth["measured"][arm][at]
                assert (measured is None) == own.empty
                if measured is not None:
                    assert measured == pytest.approx(math.exp(np.log(own).mean()), rel=1e-5)
                    theory = growth.per_block(depth["theory"][arm][at if arm == WITHOUT else 0])
                    # theory is of endless width: few channels fluctuate, which lowers the
                    # geometric mean over seeds, at 110 layers by more than at 32
                    assert theory == pytest.approx(measured, rel=0.08), (depth["n"], gain, arm)
            course = pd.Series(depth["theory"][WITHOUT][at])
            stages = [stage_growth(course, stage) for stage in (1, 2, 3)]
            assert max(stages) <= 1 + gain**2 / 2
            assert stages[0] >= 1 + gain**2 / 4, "borders, where it falls short, matter least here"
    deep = next(d for d in found["depths"] if d["blocks"])
    blocks = record("bjorck_fig5").table.query("kind == 'block' and inputs == 'images'")
    logs = np.log(blocks["second"]).groupby([blocks["arm"], blocks["index"]]).mean()
    for arm in (WITHOUT, WITH):
        assert deep["blocks"][arm] == pytest.approx(np.exp(logs[arm] - logs[arm][1]), rel=1e-5)


def test_a_gain_of_one_leaves_the_wide_limit_and_bn_takes_any_gain_away():
    for normalised in (False, True):
        plain, one = (wide_limit(2, normalised, 8, **g) for g in ({}, {"gain": 1.0}))
        assert (plain.blocks == one.blocks).all()
    twice = wide_limit(2, True, 8, gain=2.0)
    assert twice.blocks == pytest.approx(wide_limit(2, True, 8).blocks, rel=1e-9)
    assert wide_limit(2, False, 8, gain=2.0).blocks[-1] > wide_limit(2, False, 8).blocks[-1]


def test_growth_of_gradients_is_the_records_and_its_theory_the_books():
    found = made(growth)["gradients"]
    table = record("jacobians").table
    table = table[(table["measured"] == "gradient") & (table["batch"] == 512)]
    assert {each["width"] for each in found} == set(table["width"])
    for each in found:
        own = table[
            (table["arm"] == each["arm"])
            & (table["nonlinearity"] == each["nonlinearity"])
            & (table["width"] == each["width"])
        ]
        logs = np.log(own["squared_gradient"]).groupby(own["layer"]).mean()
        assert each["layers"] == pytest.approx(np.exp(logs - logs.iloc[-1]), rel=1e-5)
        assert (each["theory"] is None) == (each["arm"] != WITH)
        if each["arm"] == WITH and each["nonlinearity"] == "ReLU":
            assert each["theory"] == pytest.approx(formulas.gradient_growth_relu(), rel=1e-5)
            assert each["growth"] == pytest.approx(each["theory"], rel=0.02)


def test_every_answer_has_a_claim_a_chapter_and_a_way_to_it():
    found, said = norms.read(ROOT), evidence.read(RESULTS)
    data = norms.data(found)
    options = {q["key"]: list(q["answers"]) for q in found["question"]}
    assert len(options) == 4
    for answer, shown in zip(found["answer"], data["answers"], strict=True):
        assert answer["claims"]
        assert all(said.claim(name) for name in answer["claims"])
        assert (ROOT / "book" / f"{answer['page']}.md").is_file()
        assert shown["take"] == answer["take"]
    for key, values in options.items():
        named = {value for answer in found["answer"] for value in answer.get(key, values)}
        assert named == set(values), f"an answer to {key} leads nowhere"


def test_an_answer_that_no_question_has_is_refused(tmp_path):
    text = (ROOT / norms.FILE).read_text()
    (tmp_path / "book" / "data").mkdir(parents=True)
    (tmp_path / norms.FILE).write_text(text.replace('network = ["residual"]', 'network = ["mlp"]'))
    with pytest.raises(BnbookError, match=r"expected for network some of .*found \['mlp'\]"):
        norms.read(tmp_path)


def test_data_in_a_page_cannot_end_their_script():
    text = explorables.as_script({"take": "</script><b>", "x": [1.5, None]})
    soup = BeautifulSoup(text, "html.parser")
    assert json.loads(soup.script.string) == {"take": "</script><b>", "x": [1.5, None]}
    assert soup.b is None


def test_each_table_has_the_columns_that_it_names():
    for name, piece in explorables.PIECES.items():
        if name != "norms":
            lines = piece.rows(made(piece))
            assert lines
            assert {len(line) for line in lines} == {len(piece.COLUMNS)}


def test_scripts_are_short_offline_and_one_for_each_piece():
    scripts = {path.stem: path.read_text("utf-8") for path in SCRIPTS.glob("*.js")}
    assert set(scripts) == {"shared", *explorables.PIECES}
    for name, text in scripts.items():
        assert text.count("\n") <= (250 if name == "shared" else 200), name
        assert not re.search(r"fetch\(|XMLHttp|import\s|innerHTML|https?://(?!www\.w3\.org)", text)
    assert not re.search(r"dasharray(?!: 7 4)", (SCRIPTS / "explorables.css").read_text())


def test_an_unknown_piece_is_a_warning_that_lists_those_there_are(site, content):
    site.write_ledger(content)
    site.write(
        "index.md", "# Home\n\n```{toctree}\nbook/ledger\n```\n\n```{explorable} maps\n```\n"
    )
    status, warnings = site.build()
    assert status == 1
    assert "expected one of rates, transform, scale, norms, growth, found 'maps'" in warnings
