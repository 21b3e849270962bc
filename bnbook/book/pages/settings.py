"""The directive ``{settings}``: what was trained, ours beside the paper's, from the record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.application import Sphinx

from bnbook.book.pages.tables import EvidenceDirective, paragraph, table
from bnbook.errors import BnbookError

DASH = "–"  # noqa: RUF001
SIDES = {"digits": 8, "mnist": 28, "mnist5k": 28, "fashion-mnist": 28, "cifar10": 32}
"""Side of a data set's images in pixels, before any pooling."""
IMAGES = {"digits": 1437, "mnist": 60_000, "mnist5k": 4000, "cifar10": 50_000}
"""Training images of a data set; those set aside for validation count among them."""
RESIDUAL = {
    "layers": "110", "channels": "16, 32, 64", "image side": "32 pixels", "images": "50,000",
    "epochs": "to the end; 2,400 at the smallest rate (as summarised by others)",
    "minibatch": "128 in the set-up that it follows", "augmentation": "crops and flips",
    "initial weights": "not verified", "training accuracy": "near 100 %",
}  # fmt: skip
SIGMOID = {
    "layers": "4", "channels": "100, 100, 100", "image side": "28 pixels", "images": "MNIST's",
    "epochs": "50,000 steps", "minibatch": "60", "augmentation": "not stated",
    "initial weights": "small Gaussian, size not stated", "training accuracy": "not stated",
}  # fmt: skip
PAPERS = {
    "Bjorck et al., figure 1": ("bjorck_", RESIDUAL),
    "Ioffe & Szegedy, figure 1": ("ioffe_fig1", SIGMOID),
}
"""Heading -> the experiments that have a network of the paper's beside them, and its settings."""
STARTS = {
    "bjorck_one_layer": "He's in the branches; scaled once in one network",
    "ioffe_settings": "Gaussian, its size searched for",
    "many_devices": "He's",
    "without_bn": "He's; LeCun's with SELU",
}
"""Initial weights of experiments that do not take the usual ones."""


def _listed(values: Any) -> str:
    """Write one number or several."""
    many = values if isinstance(values, Sequence) and not isinstance(values, str) else [values]
    return ", ".join(f"{value:,}" if isinstance(value, int) else str(value) for value in many)


def _images(config: Mapping[str, Any]) -> int | None:
    """Return how many images are trained on."""
    for field in ("train_images", "examples"):
        if config.get(field) and "cases" not in config:
            return int(config[field])
    whole, held = IMAGES.get(config.get("data", "")), config.get("validation", 0)
    if whole is None:
        return None
    return round(whole * (1 - held)) if 0 < held < 1 else whole - int(held)


def _epochs(config: Mapping[str, Any]) -> str:
    """Write how often each image is seen on average: steps times minibatch over images."""
    images, steps = _images(config), config.get("lengths") or [config.get("steps")]
    sizes = config.get("batch_sizes") or [config.get("batch_size")]
    if images is None or None in steps or not all(sizes):
        return "1" if images and None in steps else DASH
    return ", ".join(f"{each * size / images:.2g}" for each in steps for size in sizes)


def _blocks(config: Mapping[str, Any]) -> Any:
    """Return the residual blocks a stage, one number or several; None of other networks.

    Where a config has ``networks``, these are pairs of blocks and gain, or names of other kinds.
    """
    pairs = [each for each in config.get("networks") or () if not isinstance(each, str)]
    return sorted({n for n, _ in pairs}) if pairs else config.get("n")


def _shape(config: Mapping[str, Any]) -> tuple[str, str]:
    """Return how many layers the networks have, and how many channels or units."""
    n = _blocks(config)
    if n is not None:
        blocks = n if isinstance(n, Sequence) else [n]
        return _listed([6 * one + 2 for one in blocks]), _listed(config["widths"])
    if "depths" in config:  # hidden layers, all of one width
        return _listed([depth + 1 for depth in config["depths"]]), _listed(config["width"])
    widths = config.get("hidden") or config["widths"]
    return str(len(widths) + 1), _listed(widths)


def ours(config: Mapping[str, Any], reached: Sequence[float] | None) -> dict[str, str]:
    """Describe a record's networks and training from its config.

    `reached` has the smallest and largest final training accuracy of the networks, each at its best
    rate, in per cent; it is None where no training accuracy was recorded. The result maps what
    is set to words; its keys are the same for every experiment.
    """
    layers, channels = _shape(config)
    side = config.get("side") or SIDES.get(config["data"], 0) // config.get("pool", 1)
    images = _images(config)
    weights = f"Gaussian, {config['init_std']:g}" if "init_std" in config else "Xavier's"
    said = _blocks(config) is not None or "init_std" in config
    pad = config.get("pad", 0)
    return {
        "layers": layers,
        "channels": channels,
        "image side": f"{side} pixels",
        "images": DASH if images is None else f"{images:,}",
        "epochs": _epochs(config),
        "minibatch": _listed(config.get("batch_sizes") or config["batch_size"]),
        "augmentation": f"crops after a margin of {pad}, and flips" if pad else "none",
        "initial weights": weights if said else "as in the text",
        "training accuracy": "not recorded" if reached is None else _range(reached),
    }


def _range(reached: Sequence[float]) -> str:
    low, high = (f"{value:.0f}" for value in reached)
    return f"{low} %" if low == high else f"{low} to {high} %"


class SettingsDirective(EvidenceDirective):
    """``{settings} experiment ...``: networks and training of records, beside the paper's."""

    option_spec: ClassVar = {"name": directives.unchanged}

    def render(self) -> list[nodes.Node]:
        """Return the table."""
        asked = [self.of(name, None) for name in self.arguments[0].split()]
        columns: dict[str, Mapping[str, str]] = {}
        for content, profile in asked:
            record = content["profiles"][profile]["record"]
            if not record.get("config"):
                raise BnbookError(f"the record of {content['experiment']} has no config to show.")
            name = content["experiment"]
            found = ours(record["config"], record.get("reached"))
            start = STARTS.get(name, found["initial weights"])
            columns[f"{name}, {profile}"] = {**found, "initial weights": start}
            for heading, (prefix, settings) in PAPERS.items():
                if name.startswith(prefix):
                    columns[heading] = settings
        columns = dict(sorted(columns.items(), key=lambda column: column[0] in PAPERS))
        rows = [
            [paragraph(key), *(paragraph(column[key]) for column in columns.values())]
            for key in RESIDUAL
        ]
        widths = [20, *[80 // len(columns)] * len(columns)]
        title = "Settings, from the record; the paper's where they are known."
        return self.finished(table(("", *columns), widths, rows, ["settings"], title))


def setup(app: Sphinx) -> None:
    """Add the directive."""
    app.add_directive("settings", SettingsDirective)
