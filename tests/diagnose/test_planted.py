"""Every planted fault is named with its layer, and nothing is found on a healthy network."""

import functools
import re

import pytest

from bnbook.diagnose import diagnose, planted

SMALL = [a for a in planted.ARCHITECTURES if a != "resnet-18"]
SEEDS = (0, 1)


@functools.cache
def healthy(architecture, seed):
    return planted.healthy(architecture, seed)


def report(case):
    return diagnose(case.model, case.batches, case.loss, case.optimizer)


def check(architecture, seed, fault):
    case, layer = planted.faulty(healthy(architecture, seed), fault)
    found = {finding.kind: finding for finding in report(case).findings}
    assert fault.kind in found, list(found)
    if layer is not None:
        assert found[fault.kind].layer == layer
    assert set(found) <= {fault.kind, *fault.follows}


PAIRS = [(a, f) for a in SMALL for f in planted.faults(a)]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("architecture", SMALL)
def test_nothing_is_found_on_a_healthy_network(architecture, seed):
    case = healthy(architecture, seed)
    assert report(case).findings == ()
    case.model.eval()
    try:
        assert report(case).findings == ()
    finally:
        case.model.train()


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(
    ("architecture", "fault"), PAIRS, ids=lambda value: getattr(value, "name", value)
)
def test_a_planted_fault_is_named(architecture, fault, seed):
    check(architecture, seed, fault)


@pytest.mark.slow
@pytest.mark.parametrize(
    "fault", list(planted.faults("resnet-18"))[::6], ids=lambda fault: fault.name
)
def test_a_planted_fault_is_named_in_resnet_18(fault):
    """Every sixth; all of them are in the experiment ``diagnose_faults`` at ``standard``."""
    check("resnet-18", 0, fault)


@pytest.mark.slow
def test_nothing_is_found_on_a_healthy_resnet_18():
    assert report(healthy("resnet-18", 0)).findings == ()


def test_every_kind_has_a_fault_and_a_chapter():
    from bnbook.diagnose import data, scale, statistics, use
    from bnbook.diagnose.findings import SEVERITIES, Kind
    from bnbook.evidence import records

    kinds = [v for m in (statistics, use, scale, data) for v in vars(m).values()
             if isinstance(v, Kind)]  # fmt: skip
    assert {kind.name for kind in kinds} == {fault.kind for fault in planted.FAULTS}
    page = (records.root() / "book" / "71-diagnose.md").read_text("utf-8")
    for kind in kinds:
        assert re.search(rf"^\| [^|]*\b{kind.name}\b[^|]* \|", page, re.MULTILINE), kind.name
        assert (records.root() / "book" / f"{kind.chapter}.md").is_file()
        assert kind.severity in SEVERITIES
        assert all((kind.normal, kind.costs, kind.cure))
        assert "\n" not in kind.cure


def test_planting_leaves_the_healthy_case_alone():
    case = healthy("mlp", 0)
    before = {n: t.clone() for n, t in case.model.state_dict().items()}
    for fault in planted.faults("mlp"):
        planted.faulty(case, fault)
    after = case.model.state_dict()
    assert before.keys() == after.keys()
    assert all(before[n].equal(after[n]) for n in before)
    assert report(case).findings == ()
