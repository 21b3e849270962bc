"""The table of checks and mutants: its measures on made-up tables, and a small real run."""

import pandas as pd

from bnbook import conformance
from bnbook.conformance import mutants
from bnbook.evidence import records
from bnbook.experiments.conformance_table import claims as analysis
from bnbook.experiments.conformance_table import figures
from bnbook.experiments.conformance_table.experiment import EXPERIMENT as TABLE
from bnbook.sweeps import sweep
from tests.judging import criterion

SMALL = {
    "seeds": (0,),
    "layers": ("torch.nn:BatchNorm1d",),
    "mutants": ("BiasedRunningVariance", "DetachedVariance"),
}
IMPOSSIBLE = [
    ({"seeds": (-1,)}, "seeds must be at least 0, found -1"),
    ({"layers": ()}, "layers must be distinct and not empty"),
    ({"mutants": ("InPlace", "InPlace")}, "mutants must be distinct"),
]
ESCAPED, PASS = TABLE.claims


def made_up(caught=(), seeds=(0, 1)):
    """Two mutants and two layers, three checks; `caught` holds (layer, check) or with a seed."""
    checks = ("training output", "input gradient", analysis.TRAP)
    layers = {"m:OnlyGradient": "mutant", "m:Both": "mutant", "ours": "layer", "torch": "layer"}
    usual = {("m:OnlyGradient", "input gradient"), ("m:Both", "training output"),
             ("m:Both", "input gradient")}  # fmt: skip
    rows = [
        {"seed": seed, "layer": layer, "kind": kind, "check": check,
         "caught": ((layer, check) in usual) != bool({(layer, check), (layer, check, seed)}
                                                     & set(caught))}
        for seed in seeds for layer, kind in layers.items() for check in checks
    ]  # fmt: skip
    return pd.DataFrame(rows)


def verdict(claim, table):
    return criterion(claim, table).verdict


def test_measures_on_a_table_with_known_truth():
    table = made_up()
    assert analysis.escaped(table).tolist() == [0, 0, 0, 0]
    assert analysis.failing(table).tolist() == [0, 0, 0, 0]
    found = analysis.matrix(table)
    assert list(found.index) == ["m:OnlyGradient", "m:Both"]
    assert found.loc["m:OnlyGradient"].tolist() == [0, 1, 0]
    facts = {name: fact["value"] for name, fact in TABLE.facts(table).items()}
    assert facts == {
        "checks": 3, "mutants": 2, "layers": 2, "seeds": 2, "seen_in_outputs": 1,
        "unseen_in_outputs": 1, "wrong_gradients": 1, "wrong_gradients_in_a_sum": 0,
        "caught_once": 1, "checks_that_caught": 2, "undecided": 0,
    }  # fmt: skip
    assert verdict(ESCAPED, table) == verdict(PASS, table) == "reproduced"


def test_a_mutant_that_escapes_at_one_seed_turns_the_claim_red():
    table = made_up(caught=[("m:OnlyGradient", "input gradient", 1)])
    assert verdict(ESCAPED, table) == "not reproduced"
    assert verdict(PASS, table) == "reproduced"
    assert TABLE.facts(table)["undecided"]["value"] == 1


def test_a_right_layer_that_fails_one_check_turns_the_claim_red():
    table = made_up(caught=[("torch", analysis.TRAP, 0)])
    assert verdict(PASS, table) == "not reproduced"
    assert verdict(ESCAPED, table) == "reproduced"


def test_a_layer_that_is_wrong_is_no_layer_that_passes():
    config = TABLE.configure("quick", **SMALL | {"layers": ("bnbook.conformance.mutants:InPlace",)})
    assert verdict(PASS, TABLE.run(config)) == "not reproduced"


def test_a_mutant_that_is_none_is_seen_to_escape(monkeypatch):
    monkeypatch.setattr(mutants, "DetachedVariance", mutants.Sample)
    table = TABLE.run(TABLE.configure("quick", **SMALL))
    assert verdict(ESCAPED, table) == "not reproduced"


def test_a_small_run():
    config = TABLE.configure("quick", **SMALL | {"seeds": (0, 1)})
    table = TABLE.run(config)
    assert list(table["check"].unique()) == [check.name for check in conformance.CHECKS]
    found = analysis.matrix(table)
    assert found.index.tolist() == [
        f"bnbook.conformance.mutants:{name}" for name in SMALL["mutants"]
    ]
    caught = found.loc["bnbook.conformance.mutants:DetachedVariance"]
    assert caught["input gradient"] == 1
    assert caught[analysis.TRAP] == caught["training output"] == 0
    assert analysis.TRAP == conformance.TRAP
    assert analysis.TRAP in found.columns
    assert set(table["layer"]) == {*found.index, "torch.nn:BatchNorm1d"}


def test_it_goes_through_the_sweep(small, monkeypatch, tmp_path):
    monkeypatch.setattr(sweep, "CACHE", tmp_path)
    table = sweep.sweep(TABLE, small).table
    pd.testing.assert_frame_equal(table, TABLE.run(small))


def test_by_default_every_mutant_and_layer():
    config = TABLE.configure("standard")
    assert config.mutants == ()
    targets = {*config.layers}
    assert {
        "bnbook.layers.norm:LeanBatchNorm",
        "torch.nn:BatchNorm3d",
        "bnbook.conformance.mutants:Sample",
    } < targets
    assert all(conformance.load(target) for target in config.layers)


def test_the_figure_shows_every_cell():
    table = made_up(caught=[("m:OnlyGradient", "input gradient", 1)])
    figure = TABLE.figures["matrix"](table)
    (ax,) = figure.axes
    missed, caught, sometimes = (len(c.get_offsets()) for c in ax.collections)
    assert (missed, caught, sometimes) == (3, 2, 1)
    assert [t.get_text() for t in ax.get_yticklabels()] == ["only gradient", "both"]
    trap = ax.get_xticklabels()[2]
    assert trap.get_text() == analysis.TRAP
    assert trap.get_style() == "italic"
    assert figures.height(analysis.matrix(table)) < 4
    assert figures.words("bnbook.conformance.mutants:OnePassVariance") == "one pass variance"
    assert figures.words("Float32Inside") == "float32 inside"
    assert figures.words("ScaleIsABuffer") == "scale is a buffer"


def test_the_chapter_names_every_check_and_every_mutant():
    text = (records.root() / "book" / "15-conformance.md").read_text("utf-8")
    tables = [line.split("|")[1].strip() for line in text.splitlines() if line.startswith("| ")]
    assert [name for name in tables if name in {c.name for c in conformance.CHECKS}] == [
        check.name for check in conformance.CHECKS
    ]
    described = [name.strip("`") for name in tables if name.startswith("`")]
    assert set(described) == {mutant.__name__ for mutant in mutants.MUTANTS}
