"""What a report says: in the terminal, as JSON, as a page; and the command that makes it."""

import io
import json
import math
import re
from html.parser import HTMLParser

import pytest
import torch
from matplotlib.figure import Figure
from rich.console import Console
from torch import nn
from torch.nn import functional as F

from bnbook.diagnose import diagnose, report
from bnbook.diagnose.findings import NOTE, Kind, make
from tests.diagnose.test_diagnose import draws, plain, settled


@pytest.fixture(scope="module")
def faulty():
    model = settled(plain(), draws())
    model[4].running_mean.add_(5)
    return diagnose(model, draws(), F.cross_entropy, torch.optim.SGD(model.parameters(), 0.1))


@pytest.fixture(scope="module")
def healthy():
    return diagnose(settled(plain(), draws()), draws())


def test_the_terminal_says_all_of_a_finding(faulty):
    (finding,) = faulty.findings
    assert (finding.kind, finding.layer, finding.severity) == ("other statistics", "4", "error")
    assert finding.value >= 5 / faulty.layers[1].spread  # a mean of 5 / s over channels
    sink = io.StringIO()
    Console(file=sink, width=600).print(faulty)
    text = sink.getvalue()
    for said in (finding.kind, finding.layer, "this layer alone moves the outputs by",
                 "PreciseBN(model).update(batches)", "book/13-training-and-inference.md",
                 "1 finding in 2 layers", "Largest step"):  # fmt: skip
        assert said in text


def test_the_cure_cures():
    model = settled(plain(), draws())
    model[4].running_mean.add_(5)
    (finding,) = diagnose(model, draws(), F.cross_entropy).findings
    exec(finding.cure, {"model": model, "batches": [x for x, _ in draws()]})
    assert diagnose(model, draws(), F.cross_entropy).findings == ()


def test_the_cure_of_weights_that_stand_still_is_about_the_weights():
    model = settled(plain(depth=4), draws())
    model[3].weight.data.mul_(1000)
    model[4].running_mean.mul_(1000)
    model[4].running_var.mul_(1e6)
    found = {f.kind: f for f in diagnose(model, draws(), F.cross_entropy).findings}
    finding = found["weights stand still"]
    assert finding.layer == "4"
    assert 'get_submodule("3").weight' in finding.cure


def test_json_holds_every_number(faulty, healthy):
    content = json.loads(faulty.json())
    assert content["findings"][0]["layer"] == "4"
    assert content["layers"][1]["effect"] == pytest.approx(faulty.layers[1].effect)
    assert content["losses"].keys() == {"batch", "running", "population", "training"}
    assert content["passes"] == faulty.passes
    bare = json.loads(healthy.json())
    assert bare["edge"] is None
    assert bare["findings"] == []


class Reader(HTMLParser):
    """Collects what a page asks for, its open tags, and its pictures."""

    def __init__(self):
        super().__init__()
        self.wanted, self.open, self.pictures, self.text = [], [], 0, ""

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.pictures += tag == "svg"
        wants = ("src", "srcset", "data") if tag == "a" else ("src", "srcset", "data", "href")
        self.wanted += [values[a] for a in wants if values.get(a, "#").partition("#")[0]]
        if tag not in ("meta", "link", "br", "img", "use"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in ("use", "br"):
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def test_the_page_needs_no_other_file_and_has_two_pictures(faulty):
    page = faulty.html()
    reader = Reader()
    reader.feed(page)
    assert reader.open == []
    assert reader.wanted == []
    assert reader.pictures == 2
    assert "other statistics, layer 4" in reader.text
    assert not re.search(r"@import|url\((?!#)", page)
    ids = re.findall(r'\bid="([^"]+)"', page)
    twice = {i for i in ids if ids.count(i) > 1}
    shared = {"DejaVuSans"}  # glyphs: the same drawing wherever it stands
    assert all(any(i.startswith(s) for s in shared) or not re.search(rf"#{i}\b", page)
               for i in twice), twice  # fmt: skip
    assert faulty.html() == page


def test_names_are_escaped():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.add_module("<b>&", nn.BatchNorm1d(8))

        def forward(self, x):
            return next(self.children())(x)

    page = diagnose(Odd(), draws()).html()
    assert "<b>&" not in page
    assert "&lt;b&gt;&amp;" in page


def test_the_pictures_show_the_numbers(faulty):
    figure = Figure()
    ax, other = figure.subplots(2)
    report.draw_gap(ax, faulty)
    widths = [bar.get_width() for bar in ax.patches]
    assert widths == pytest.approx([100 * row.effect for row in faulty.layers])
    assert [bar.get_hatch() for bar in ax.patches] == [None, "//"]
    report.draw_depth(other, faulty)
    assert other.lines[0].get_ydata() == pytest.approx([row.spread for row in faulty.layers])
    assert other.lines[1].get_ydata() == pytest.approx([row.gradient for row in faulty.layers])


def test_a_note_does_not_make_a_network_ill(healthy):
    note = make(Kind("k", NOTE, "n", "c", "at {layer}", "11-transform"), ["a"], 1, "f")
    assert healthy.healthy
    healthy_with_note = report.Report((note,), (), {}, 0, 0, math.nan, 1, 1, 1)
    assert healthy_with_note.healthy
    assert note.cure == "at a"
