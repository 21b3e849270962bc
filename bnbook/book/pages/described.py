"""What a record trained, in words: the networks, the images and the training, from its config."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from bnbook.evidence import wording
from bnbook.experiments.bjorck_map.claims import CHANNELS, GROUPS
from bnbook.experiments.small_batches.claims import GROUPS as COUNTS

Rows = dict[str, str]
"""What is set -> words."""
Config = Mapping[str, Any]

DASH = "–"  # noqa: RUF001
SIDES = {"digits": 8, "mnist": 28, "mnist5k": 28, "fashion-mnist": 28, "cifar10": 32}
"""Side of a data set's images in pixels, before any pooling."""
TRAINING = {
    "digits": 1437, "mnist": 60_000, "mnist5k": 4000, "fashion-mnist": 60_000, "cifar10": 50_000,
    "breast-cancer": 455,
}  # fmt: skip
"""Training examples of a data set; those set aside for validation count among them."""
CHARACTERS, WORDS = {"descriptions": 33_326}, {"descriptions": 8085}
"""Of a text, without those set aside."""


def ours(name: str, entry: Mapping[str, Any]) -> dict[str, Rows]:
    """Describe what a record trained: what is learned, "" where it is one kind -> its settings.

    `entry` is a profile of an experiment in the ledger. The training accuracy is the smallest and
    the largest that networks end at, each at its best rate. Where none was recorded the training
    loss stands beside it, if a fact has it. What a kind of network has not is missing in its rows.
    """
    record, facts = entry["record"], entry["facts"]
    found = KINDS.get(name, _one_kind)(record["config"])
    for kind, rows in found.items():
        rows |= CHANGES.get(name, _nothing)(record["config"])
        reached, loss = record.get("reached"), _loss(facts, kind)
        rows.setdefault(
            "training accuracy, at the best rate", _range(reached) if reached else "not recorded"
        )
        if loss:
            rows["training loss at the end"] = loss
    return found


def _one_kind(config: Config) -> dict[str, Rows]:
    """Describe networks that are alike but for their size, and their training on images."""
    layers, channels = _shape(config)
    mixed = any("mixup" in arm for arm in config.get("arms", ()))
    pad = config.get("pad", 0)
    crops = f"crops after a margin of {pad}, and flips" if pad else "none"
    return {
        "": {
            "layers": layers,
            "channels": channels,
            "image side": f"{_side(config)} pixels",
            "trained on": f"{_images(config):,} images",
            "epochs": _epochs(config),
            "minibatch": _minibatch(config),
            "augmentation": f"{crops}; mixup in some" if mixed else crops,
            "initial weights": _weights(config),
        }
    }


def _shape(config: Config) -> tuple[str, str]:
    """Return how many layers the networks have, and how many channels or units."""
    n = _blocks(config)
    if n:
        return _listed([6 * one + 2 for one in n]), _listed(config["widths"])
    if "depths" in config:  # hidden layers, all of one width
        return _listed([depth + 1 for depth in config["depths"]]), _listed([config["width"]])
    widths = config.get("hidden") or config["widths"]
    return str(len(widths) + 1), _listed(widths)


def _blocks(config: Config) -> list[int]:
    """Return the residual blocks a stage, one number or several; none of other networks.

    Where a config has ``networks``, these are pairs of blocks and gain, or names of other kinds.
    """
    pairs = [each for each in config.get("networks") or () if not isinstance(each, str)]
    if pairs:
        return sorted({n for n, _ in pairs})
    n = config.get("n", [])
    return list(n) if isinstance(n, Sequence) else [n]


def _side(config: Config) -> int:
    side = config.get("side") or SIDES[_image_data(config)] // config.get("pool", 1)
    return int(side)


def _image_data(config: Config) -> str:
    """Return which images are read, where a config names a table or a text too."""
    return str(config["data"]).rsplit(" and ", maxsplit=1)[-1]


def _images(config: Config) -> int:
    """Return how many images are trained on."""
    left = _left(TRAINING[_image_data(config)], config.get("validation", 0))
    return min(config.get("train_images") or left, left)


def _left(whole: int, held: float) -> int:
    """Return what is left when a number, or a share, is set aside."""
    return whole - (round(whole * held) if held < 1 else int(held))


def _epochs(config: Config) -> str:
    """Write how often each image is seen on average."""
    images = _images(config)
    if "steps" not in config:
        return rounded(config["examples"] / images)
    steps = config.get("lengths") or [config["steps"]]
    sizes = config.get("batch_sizes") or [config["batch_size"]]
    return ", ".join(rounded(each * size / images) for each in steps for size in sizes)


def _minibatch(config: Config) -> str:
    """Write the images of a step, and how many of them are normalised together if not all are."""
    sizes = config.get("batch_sizes")
    if "groups" in config:  # of `bnbook.setups.convnets`, where a step's size is the same
        together = sizes or ([config["replica"]] if "replica" in config else [])
        size = _listed([config["batch_size"]])
        return f"{size}, normalised {_either(together)} at a time" if together else size
    size = _listed(sizes or [config["batch_size"]])
    return f"{size}, normalised {config['ghost']} at a time" if "ghost" in config else size


def _weights(config: Config) -> str:
    """Write the size of initial weights that the config has; else they are He's or Xavier's."""
    if "init_std" in config:
        return f"Gaussian of standard deviation {config['init_std']:g}"
    if "stds" in config:
        return f"Gaussian of standard deviation {_either(config['stds'])}, chosen with the rate"
    if "starts" in config:
        return f"Xavier's, {_either(config['starts'])} times as large, chosen with the rate"
    if "scales" in config:
        return f"He's, in hidden layers {_either(config['scales'])} times as large"
    return _branches(config) if _blocks(config) else "He's"


def _branches(config: Config) -> str:
    """Write the initial weights of residual networks, whose branches may start larger."""
    pairs = [each for each in config.get("networks") or () if not isinstance(each, str)]
    gains = sorted({gain for _, gain in pairs}) or [config.get("gain", 1.0)]
    found = "Xavier's"
    if gains != [1.0]:
        found += f"; in the branches {_either(gains)} times the variance (He's is 2)"
    arms = config.get("arms", ())
    found += "; He's in one network" if any(arm.startswith("He ") for arm in arms) else ""
    return found + ("; scaled once in one" if any(arm.startswith("LSUV") for arm in arms) else "")


FIXUP = (
    "with Fixup He's, scaled down in the branches, and 0 in their last layers and in the classifier"
)
"""Initial weights of `bnbook.networks.unnormalised.FixupResNet`."""


def _nothing(_: Config) -> Rows:
    return {}


def _relu_and_sigmoid(config: Config) -> Rows:
    return {"initial weights": f"He's with ReLU; with sigmoids a {_weights(config)}"}


def _optimisers(config: Config) -> Rows:
    images = _images(config)
    return {
        **_relu_and_sigmoid(config),
        "epochs": f"{_epochs(config)}; {config['full_steps']:,} of full batches",
        "minibatch": f"{config['batch_size']}; {images:,} in full batches",
    }


def _fine_tuned(config: Config) -> Rows:
    half = config["train_images"] / 2
    again, before = config["examples"] / config["target_images"], config["source_examples"] / half
    return {
        "trained on": f"{config['target_images']:,} images of five classes, after about"
        f" {half:,.0f} of the other five",
        "epochs": f"{rounded(again)}, after about {rounded(before)}",
    }


OF_GROUP_NORM = "groups of GroupNorm"


def _one_count(config: Config) -> Rows:
    return {OF_GROUP_NORM: str(config["groups"])}


def _counts(config: Config) -> Rows:
    counts = [groups for arm, groups in COUNTS.items() if arm in config["arms"]]
    return {OF_GROUP_NORM: f"{_either(counts)}, chosen with the rate"}


def _groups_and_starts(config: Config) -> Rows:
    channels, counts = (
        [size for arm, size in sizes.items() if arm in config["arms"]]
        for sizes in (CHANNELS, GROUPS)
    )
    either = [
        *([f"of {_either(channels)} channels"] if channels else []),
        *([f"{_either(counts)} in every layer"] if counts else []),
    ]
    return {
        "initial weights": f"Xavier's; with SkipInit He's; {FIXUP}",
        OF_GROUP_NORM: f"{', or '.join(either)}; chosen with the rate",
    }


def _scenes(config: Config) -> Rows:
    return _one_count(config) | {
        "trained on": f"those of two classes among {config['train_images']:,} images",
        "epochs": f"{config['examples']:,} images are drawn",
    }


CHANGES: Mapping[str, Callable[[Config], Rows]] = {
    "batch_leak": _scenes,
    "bjorck_map": _groups_and_starts,
    "bjorck_weights": lambda _: {
        "initial weights": "Xavier's; in two networks smaller or larger by a factor"
    },
    "domain_shift": _one_count,
    "finetune_frozen": _fine_tuned,
    "ioffe_optimisers": _optimisers,
    "ioffe_placement": _relu_and_sigmoid,
    "positions": lambda config: {
        "channels": f"{_listed(config['widths'])}; fully connected {_listed(config['hidden'])}"
    },
    "small_batches": _counts,
    "without_bn": lambda _: {"initial weights": f"He's; with SELU LeCun's; {FIXUP}"},
}
"""What differs from `_one_kind` in single experiments."""


def _shift(config: Config) -> dict[str, Rows]:
    """Describe the networks of `bnbook.setups.shift`."""
    found: dict[str, Rows] = {}
    (common,) = _one_kind(config).values()
    if mlps := [name for name in config["networks"] if "MLP" in name]:
        starts = {"sigmoid MLP": "Xavier's with sigmoids", "ReLU MLP": "He's with ReLU"}
        weights = ", ".join(starts[name] for name in mlps)
        found["fully connected"] = {**common, "initial weights": weights}
    if "conv net" in config["networks"]:
        widths = config["widths"]
        found["convolutional"] = {
            **common, "layers": str(2 * len(widths) + 1), "channels": _listed(widths),
            "initial weights": "He's",
        }  # fmt: skip
    if "deep linear net" in config["networks"]:
        found["linear"] = {
            "layers": str(config["depth"]),
            "channels": "10",
            "trained on": f"{config['examples']:,} Gaussian vectors",
            "epochs": f"{config['steps']:,}",
            "minibatch": f"all {config['examples']:,}",
            "augmentation": "none",
            "initial weights": "Xavier's",
            "training accuracy, at the best rate": DASH,
        }
    return found


def _inception(config: Config) -> dict[str, Rows]:
    (rows,) = _one_kind({**config, "widths": []}).values()
    few, many = INCEPTION_WIDTHS
    unit, short = config["unit"], config["steps"] // config["short"]
    seen, briefly = (
        f"{rounded(steps * config['batch_size'] / _images(config))} ({steps:,} steps)"
        for steps in (config["steps"], short)
    )
    held, test = config["validation"], config["test_images"]
    rows |= {
        "layers": str(INCEPTION_LAYERS),
        "channels": f"{few * unit} to {many * unit} after a module",
        "trained on": f"{rows['trained on']}; {held:,} more choose the rate, {test:,} test",
        "epochs": f"{seen}; with the paper's changes {briefly}",
        "augmentation": f"{rows['augmentation']}; contrast and colours changed by up to"
        f" {config['distortion']:g}, with the paper's change {config['less_distortion']:g}",
        "initial weights": "He's; with sigmoids Xavier's",
        "optimiser": f"SGD, momentum {config['momentum']:g}, L2 weight {config['weight_decay']:g};"
        f" the rate falls exponentially, in {config['cooling']:,} steps to"
        f" {config['coolest']:g} of its start",
        **_choice(config),
    }
    return {"": rows}


INCEPTION_LAYERS, INCEPTION_WIDTHS = 19, (8, 16)
"""Layers with weights, and the fewest and most channels after a module, in units."""


def _choice(config: Config) -> Rows:
    rates, choosing = config["learning_rates"], len(config["tuning_seeds"])
    said = f"{rates[0]:g}" if len(rates) == 1 else f"{rates[0]:g} to {rates[-1]:g}"
    seeds = "1 seed" if choosing == 1 else f"{choosing} seeds"
    return {"rates tried": f"{said}; {seeds} chose, {len(config['seeds'])} others are shown"}


def _mlp(config: Config) -> dict[str, Rows]:
    (rows,) = _one_kind(config).values()
    rows |= {
        "epochs": f"{rows['epochs']} ({config['steps']:,} steps)",
        "optimiser": "SGD, at a constant rate",
        **_choice(config),
    }
    count = _left(TRAINING[_text(config)], config["validation"])
    seen = config["steps"] * config["batch_size"] / count
    table = {
        **rows,
        "trained on": f"{count:,} rows of 30 columns",
        "epochs": f"{rounded(seen)} ({config['steps']:,} steps)",
    }
    del table["image side"]
    return {"raw table": table, "table": dict(table), "images": rows}


ADAM = (
    "Adam; the rate rises over a tenth of the steps, then falls to 0; gradients clipped to norm 1"
)
"""How `bnbook.setups.sequences` trains."""


def _sequences(config: Config, rows: Rows, each: int, count: int) -> Rows:
    """Add to rows how networks train on sequences; a step sees `each` of `count` examples."""
    return rows | {
        "epochs": f"{rounded(config['steps'] * each / count)} ({config['steps']:,} steps)",
        "augmentation": "none",
        "optimiser": ADAM,
        **_choice(config),
    }


def _read_images(config: Config) -> Rows:
    """Describe images in experiments whose main data is a text."""
    return {
        "image side": f"{_side(config)} pixels",
        "trained on": f"{_images(config):,} images",
        "minibatch": f"{config['images']} images",
    }


def _recurrent(config: Config) -> dict[str, Rows]:
    width, length, count = config["width"], config["length"], CHARACTERS[_text(config)]
    common = {
        "layers": "2: an LSTM, a linear one",
        "initial weights": "Xavier's, from state to state orthogonal; forget gates' bias 1,"
        " others 0",
    }
    pixels = common | {
        "channels": str(width),
        **_read_images(config),
        "sequence": f"{_side(config) ** 2 // config['pixels']} steps of {config['pixels']} pixels",
    }
    characters = common | {
        "channels": str(2 * width),
        "trained on": f"{count:,} characters",
        "sequence": f"{length} characters",
        "minibatch": f"{config['sequences']} sequences",
    }
    return {
        "pixels": _sequences(config, pixels, config["images"], _images(config)),
        "characters": _sequences(config, characters, config["sequences"] * length, count),
    }


def _text(config: Config) -> str:
    """Return which text or table is read, of a config that names images too."""
    return str(config["data"]).split(" and ")[0]


def _transformer(config: Config) -> dict[str, Rows]:
    size, longest, shortest = config["batch_size"], config["length"], config["shortest"]
    network = {
        "layers": f"{config['layers']} blocks",
        "channels": f"{config['width']}, {config['heads']} heads",
        "initial weights": f"Xavier's; embeddings Gaussian of variance 1/{config['width']}",
    }
    found: dict[str, Rows] = {}
    for kind, counts in (("characters", CHARACTERS), ("words", WORDS)):
        count = counts[_text(config)]
        rows = network | {
            "trained on": f"{count:,} {kind}",
            "sequence": f"{shortest} to {longest} {kind}, padded to {longest}",
            "minibatch": f"{size} sequences",
        }
        found[kind] = _sequences(config, rows, size * (shortest + longest) // 2, count)
    pixels = network | {
        **_read_images(config),
        "sequence": f"{_side(config) ** 2} pixels of {config['levels']} grey levels",
    }
    convnet = {
        "layers": str(len(config["channels"]) + 1),
        "channels": _listed(config["channels"]),
        "initial weights": "He's",
        **_read_images(config),
    }
    for kind, rows in (("pixels", pixels), ("images", convnet)):
        found[kind] = _sequences(config, rows, config["images"], _images(config))
    return found


KINDS: Mapping[str, Callable[[Config], dict[str, Rows]]] = {
    "ics_measures": _shift,
    "ics_speed": _shift,
    "inception": _inception,
    "mlp": _mlp,
    "recurrent": _recurrent,
    "transformer": _transformer,
}
"""Experiments with networks of several kinds, or of a kind of their own."""


def _loss(facts: Mapping[str, Any], kind: str) -> str:
    """Write the least and the most that networks of a kind end at; "" where no fact has it."""
    of = "_".join(["end_loss", *kind.split()])
    if f"{of}_least" not in facts:
        return ""
    least, most = facts[f"{of}_least"], facts[f"{of}_most"]
    if least["value"] == most["value"]:
        return wording.format_value(most, most["value"])
    low = wording.format_value({**least, "unit": ""}, least["value"])
    return f"{low} to {wording.format_value(most, most['value'])}"


def _range(reached: Sequence[float]) -> str:
    low, high = (f"{value:.0f}" for value in reached)
    return f"{low} %" if low == high else f"{low} to {high} %"


def rounded(value: float) -> str:
    """Write a number with two digits, or with all before its point."""
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


def _listed(values: Sequence[Any]) -> str:
    """Write one number or several."""
    return ", ".join(f"{value:,}" if isinstance(value, int) else f"{value:g}" for value in values)


def _either(values: Sequence[Any]) -> str:
    """Write numbers of which each stands in some networks."""
    *before, last = (f"{value:g}" for value in values)
    return f"{', '.join(before)} or {last}" if before else str(last)
