"""Facts: an experiment states a number beside its claims only where a page prints it."""

import re

import pytest

from bnbook.evidence import ledger, records

ROOT = records.root()
READERS = [
    ROOT / "README.md",
    ROOT / "index.md",
    *ROOT.glob("book/*.md"),
    *ROOT.glob("notebooks/*.ipynb"),
]
PRINTED = re.compile(r"\{fact\}`(\w+)\.(\w+)")
TIMED = ("bench", "bench_deep")
"""Read whole, by directives that draw tables of timings."""
GROWING = ("bjorck_one_layer",)
"""In the queue; its page is written anew as its record grows."""
LEDGER = {n: c for n, c in ledger.read(ROOT / "results").items() if n not in (*TIMED, *GROWING)}


def unprinted(facts, printed):
    """Return the facts that are neither printed nor a cell between printed rows and columns."""
    names = {_parts(name) for name in printed}
    starts = {name[:at] for name in names for at in range(1, len(name))}
    ends = {name[at:] for name in names for at in range(1, len(name))}

    def counts(name):
        parts = _parts(name)
        crossed = any(parts[:at] in starts and parts[at:] in ends for at in range(1, len(parts)))
        return name in printed or crossed

    def directive(name):
        return "paper" in facts[name] or (name.startswith("end_loss_") and "end_loss" in printed)

    return [name for name in facts if not directive(name) and not counts(name)]


def _parts(name):
    """Split a name into its words, with any number for each number."""
    return tuple(re.sub(r"\d+", "#", name).split("_"))


@pytest.mark.parametrize("name", LEDGER)
def test_every_family_of_facts_is_printed(name):
    """A page prints it, or prints both its row and its column.

    Facts are made in loops, of arms by quantities: ``adagrad_course`` stands beside
    ``adagrad_speed`` and ``sgd_course``. To leave out such a cell would take more code than to
    have it. So a name passes whose beginning begins a printed name and whose end ends one. A
    quantity or an arm that no page prints passes nowhere, nor does a count that stands alone.
    What stands beside a paper's number is printed by the directive ``paper``, the loss that
    networks end at by ``settings``.
    """
    text = "\n".join(path.read_text("utf-8") for path in READERS)
    printed = {fact for experiment, fact in PRINTED.findall(text) if experiment == name}
    if re.search(rf"\{{settings\}}[^\n]* {name}\b", text):
        printed.add("end_loss")
    profile = LEDGER[name]["profiles"][ledger.best_profile(LEDGER[name])]
    assert not unprinted(profile["facts"], printed)


def test_a_fact_of_a_new_kind_is_unprinted():
    printed = {"steps", "bn_accuracy", "bn_2", "none_rate", "images_bn_gap"}
    crossed = {name: {} for name in ("steps", "bn_rate", "none_accuracy", "bn_32", "none_bn_gap")}
    assert unprinted(crossed, printed) == []
    made_up = {
        name: {} for name in ("made_up", "bn_made_up", "made_up_rate", "bn", "runs", "bn_steps")
    }
    assert unprinted(made_up, printed) == list(made_up)
    assert unprinted({"paper_00": {"paper": 1.0}}, printed) == []
    assert unprinted({"end_loss_least": {}}, {"end_loss"}) == []
    assert unprinted({"end_loss_least": {}}, printed) == ["end_loss_least"]
