"""The directive ``{settings}``: what was trained, ours beside the paper's, from the record.

Of a paper only what was read in it is printed, or in published notes on it, which is then said.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, NamedTuple

from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.application import Sphinx

from bnbook.book.pages.described import DASH, Rows, ours
from bnbook.book.pages.tables import EvidenceDirective, paragraph, table
from bnbook.errors import BnbookError

ROWS = (
    "layers", "channels", "image side", "trained on", "sequence", "epochs", "minibatch",
    "groups of GroupNorm", "augmentation", "initial weights", "optimiser", "rates tried",
    "training accuracy, at the best rate", "training loss at the end",
)  # fmt: skip
"""In the order of the table, which leaves out those that none of our networks has."""
NOTES = "as summarised by others"


class Paper(NamedTuple):
    """A paper's networks: beginnings of the names of experiments they stand beside, and rows."""

    beside: tuple[str, ...]
    rows: Rows


PAPERS: Mapping[str, Paper] = {
    "Bjorck et al., figure 1": Paper(("bjorck_",), {
        "layers": "110", "channels": "16, 32, 64", "image side": "32 pixels",
        "trained on": "50,000 images",
        "epochs": f"to the end; 2,400 at the smallest rate ({NOTES})",
        "minibatch": "128 in the set-up that it follows", "groups of GroupNorm": DASH,
        "augmentation": "crops and flips",
        "training accuracy, at the best rate": "near 100 %",
    }),
    "Ioffe & Szegedy, figure 1": Paper(("ioffe_fig1",), {
        "layers": "4", "channels": "100, 100, 100", "image side": "28 pixels",
        "trained on": "MNIST's images", "epochs": "50,000 steps", "minibatch": "60",
        "augmentation": "not stated", "initial weights": "small Gaussian, size not stated",
        "training accuracy, at the best rate": "not stated",
    }),
    "Ioffe & Szegedy, section 4.2": Paper(("inception",), {
        "channels": "256 to 1,024 after a module", "image side": "224 pixels",
        "trained on": "ImageNet's images, 1,000 classes",
        "epochs": "31.0 million steps of Inception, 2.1 of BN-x5, to the same accuracy",
        "minibatch": "32",
        "augmentation": "photometric distortion, less of it with the changes",
        "optimiser": "SGD with momentum; numbers not stated",
        "rates tried": "0.0015 for Inception; 5 and 30 times it",
    }),
    "Santurkar et al., VGG": Paper(("ics_",), {
        "image side": "32 pixels", "trained on": "CIFAR-10's images", "epochs": "15,000 steps",
        "minibatch": "128", "augmentation": "none", "initial weights": "Xavier's",
        "training accuracy, at the best rate":
            "98.6 % with BN, 99.6 % without, at rate 0.1 (off figure 1)",
    }),
    "Santurkar et al., deep linear": Paper(("ics_measures",), {
        "layers": "25", "channels": "10", "image side": DASH,
        "trained on": "1,000 Gaussian vectors", "epochs": "10,000", "minibatch": "all 1,000",
        "training accuracy, at the best rate": DASH,
    }),
    "Wu & He": Paper(("small_batches",), {
        "layers": "50", "trained on": f"ImageNet's images ({NOTES})",
        "minibatch": "2 to 32 a GPU",
        "groups of GroupNorm": f"32; 1 to 64 were tried ({NOTES})",
        "training accuracy, at the best rate": "72 to 79 % at 32 a GPU",
    }),
    "Wu & Johnson": Paper(("small_batches",), {
        "layers": f"50 ({NOTES})", "trained on": "ImageNet's images",
        "epochs": f"100 ({NOTES})",
        "minibatch": f"8,192 ({NOTES}), normalised 2 to 1,024 at a time",
        "training accuracy, at the best rate": "83 to 92 %",
    }),
    "Cooijmans et al.": Paper(("recurrent",), {
        "image side": DASH, "trained on": "Text8's characters, among others",
    }),
    "Shen et al.": Paper(("transformer",), {
        "image side": DASH, "trained on": "two corpora to translate, two to predict",
    }),
    "Zhang et al.": Paper(("without_bn",), {
        "layers": "up to 10,000", "image side": "32 pixels",
        "trained on": "CIFAR-10's and SVHN's images, among others",
        "augmentation": "mixup and cutout in the best",
    }),
    "Brock et al.": Paper(("without_bn",), {
        "layers": "50, among others", "minibatch": "256 to 4,096",
    }),
}  # fmt: skip
"""Heading -> what is known of it; a row that is missing was not verified."""


class SettingsDirective(EvidenceDirective):
    """``{settings} experiment ...``: networks and training of records, beside the paper's."""

    option_spec: ClassVar = {"name": directives.unchanged}

    def render(self) -> list[nodes.Node]:
        """Return the table."""
        columns: dict[str, Rows] = {}
        names = self.arguments[0].split()
        for name in names:
            content, profile = self.of(name, None)
            entry = content["profiles"][profile]
            if not entry["record"].get("config"):
                raise BnbookError(f"the record of {name} has no config to show.")
            for kind, rows in ours(name, entry).items():
                columns[f"{name}, {profile}{kind and ': '}{kind}"] = rows
        shown = [row for row in ROWS if any(row in rows for rows in columns.values())]
        cells = {
            heading: [rows.get(row, DASH) for row in shown] for heading, rows in columns.items()
        }
        cells |= {
            heading: [paper.rows.get(row, "not verified") for row in shown]
            for heading, paper in PAPERS.items()
            if any(name.startswith(paper.beside) for name in names)
        }
        body = [
            [paragraph(row), *(paragraph(column[at]) for column in cells.values())]
            for at, row in enumerate(shown)
        ]
        widths = [20, *[80 // len(cells)] * len(cells)]
        title = "Settings, from the record; the paper's where they are known."
        return self.finished(table(("", *cells), widths, body, ["settings"], title))


def setup(app: Sphinx) -> None:
    """Add the directive."""
    app.add_directive("settings", SettingsDirective)
