"""Numbers read off the papers' figures, and ours beside them."""

import math
import re

import pandas as pd
import pytest

from bnbook.errors import BnbookError
from bnbook.experiments.bjorck_fig3.claims import landmarks
from bnbook.experiments.ioffe_fig1.claims import paper_speedups
from bnbook.tables import papers

FILES = ("bjorck_fig1", "bjorck_fig3", "bjorck_fig5", "ioffe_fig1a", "ioffe_fig1bc")


@pytest.mark.parametrize("name", FILES)
def test_files_are_whole_and_know_both_networks(name):
    rows = papers.read(name)
    assert len(rows) >= 40
    assert rows.notna().all(axis=None)
    networks = rows["network"].unique()
    assert any(n.startswith("no BN") for n in networks)
    assert any(n.startswith("BN") for n in networks)


def test_a_file_that_is_not_there():
    with pytest.raises(BnbookError, match=r"expected the paper's curve in .*found no such file"):
        papers.read("bjorck_fig9")


def test_ends_of_the_second_papers_figure_1():
    """All networks end near 100 per cent of the training images; rates tell them apart on test."""
    networks = papers.read("bjorck_fig1")["network"].unique()
    end = {
        (panel, network): papers.final_accuracy(network, panel)
        for panel in ("train", "test")
        for network in networks
    }
    assert all(end["train", network] > 99 for network in networks)
    assert end["test", "BN, rate 0.1"] - end["test", "BN, rate 0.0001"] == pytest.approx(12, abs=1)
    lead = end["test", "BN, rate 0.0001"] - end["test", "no BN, rate 0.0001"]
    assert lead == pytest.approx(-0.6, abs=0.6)


def test_the_list_of_rows_has_the_last_points_of_the_second_papers_figure_1():
    """So that every page prints one number."""
    said = papers.read("rows").set_index("row")["reported"]
    ends = [
        f"{papers.final_accuracy(network):.1f}"
        for network in ("BN, rate 0.1", "BN, rate 0.003", "BN, rate 0.0001", "no BN, rate 0.0001")
    ]
    assert re.findall(r"\d+\.\d", said["B.fig1"]) == ends
    assert re.findall(r"\d+\.\d", said["B.sec2.match"]) == ends[2:]


def test_a_number_beside_the_papers_is_a_fact_that_knows_it():
    fact = papers.beside("accuracy", 90, 0.3, [80.0, 82.0], 1, " %")
    assert (fact["value"], fact["paper"], fact["error"], fact["what"]) == (81, 90, 0.3, "accuracy")
    assert fact["low"] < 80 < 82 < fact["high"]
    assert list(papers.rows([fact, fact])) == ["paper_00", "paper_01"]


def test_landmarks_of_a_curve_by_hand():
    """log10 of the loss: 0, -1, 0, 4 at steps 1, 10, 100, 1000; then it overflows."""
    steps = [1.0, 10.0, 100.0, 1000.0, 1e4]
    curve = pd.DataFrame({"run": 0, "step_size": steps, "loss_ratio": [1, 0.1, 1, 1e4, math.inf]})
    found = landmarks(curve).loc[0]
    # From 10^0 at 10^2 to 10^4 at 10^3: 10^3 is three quarters of the way.
    assert found.tolist() == pytest.approx([10.0, 100.0, 10**2.75])
    short = landmarks(curve[curve["step_size"] < 50]).loc[0]
    assert short.isna().all()  # the lowest point is the last one: a best step may lie beyond it
    assert math.isnan(landmarks(curve[curve["step_size"] > 5]).loc[0, "best"])  # or before it


def test_the_first_papers_own_speed_depends_on_the_level_too():
    ratio = paper_speedups()
    assert ratio.between(1.5, 4).all()
    # Read by eye off the figure: 96.3 per cent after 20,000 and 7,500 steps or so.
    assert ratio[ratio.index.to_series().sub(96.3).abs().idxmin()] == pytest.approx(2.7, rel=0.25)
