"""A small Transformer with five norms and with none, on characters, words and pixels.

Every network predicts the next symbol: of a text, cut into sequences of random lengths that are
padded to one length, or of an image read row by row. A ConvNet that classifies the same images
stands for the networks that BN was made for. At one seed all start from the same weights and see
the same batches. Batches of text and of images hold about as many values of a feature.

Known of PowerNorm's paper (Shen et al. 2020): the claims, and the form of PowerNorm. Chosen here:
everything else, the text (scikit-learn's descriptions of its data sets), the sizes, Adam, the grid.

Timed at `standard`: a step of one network takes about 11 ms of one core, all runs about 10 minutes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import pandas as pd

from bnbook.errors import BnbookError
from bnbook.experiments.experiment import Experiment, check_distinct, check_known, check_positive
from bnbook.experiments.transformer import claims, figures
from bnbook.experiments.transformer.claims import (
    COUNTED,
    IMAGES,
    PIXELS,
    POST,
    POWER_NORM,
    RMS_NORM,
    TEXT,
    WORDS,
)
from bnbook.tables import choosing
from bnbook.tables.arms import BN, LAYER_NORM

if TYPE_CHECKING:
    from torch import Tensor, nn

    from bnbook.probes.distances import Distance
    from bnbook.setups.sequences import Corpus, Windows


@dataclass(frozen=True, kw_only=True)
class Config:
    """What a run depends on. A single run has one arm, seed and rate."""

    seeds: tuple[int, ...]
    tuning_seeds: tuple[int, ...]
    learning_rates: tuple[float, ...]  # of Adam, the largest of a run
    steps: int
    arms: tuple[str, ...] = claims.ARMS
    data: str = "descriptions and digits"  # a text and images
    length: int = 32  # symbols of a sequence of text, at most
    shortest: int = 8  # and at least; the rest is padding
    batch_size: int = 16  # sequences of text in a batch
    images: int = 5  # images in a batch: about as many values of a feature as 16 sequences have
    levels: int = 17  # grey levels of a pixel
    validation: int = 200  # images set aside to choose by
    evaluated: int = 1000  # sequences to choose by, and to test on, at most
    width: int = 64  # of the Transformer
    heads: int = 4
    layers: int = 2
    channels: tuple[int, ...] = (16, 32, 64)  # of the ConvNet
    points: int = 8  # measurements, evenly spread over the steps

    def __post_init__(self) -> None:
        """Refuse impossible values."""
        check_positive(
            self, ("steps", "length", "shortest", "images", "evaluated", "layers", "points")
        )
        check_distinct(self, ("seeds", "arms", "learning_rates"))
        check_known(self, "arms", claims.ARMS)
        choosing.check(self)
        if self.batch_size < 2 or self.shortest > self.length or self.width % self.heads:
            raise BnbookError(
                "batch_size must be 2 or more, shortest at most length and width a multiple of"
                f" heads, found {self.batch_size}, {self.shortest} of {self.length}, and"
                f" {self.width} of {self.heads}."
            )


_MEDIAN = "median over layers and batches since the row before, NaN for norms without statistics"
COLUMNS = {
    "arm": "what is read, the norm, and its place",
    "seed": "sets initial weights and batches",
    "learning_rate": "largest rate of Adam",
    "tunes": choosing.TUNES,
    "step": "steps done when the row was measured",
    "loss": "mean training loss since the row before, bits a symbol; of the ConvNet, an image",
    "validation": "loss on what is set aside to choose rates, bits",
    "test": "loss on test sequences, bits, in evaluation: with running statistics",
    "test_batch": "the same with each batch's own statistics, as in training; in the last row",
    "decode": "the same in evaluation, characters one at a time; in the last row",
    "decode_batch": "the same with the statistics of a batch's characters of one step",
    "mean_distance": "batch mean less running one, in running stds, rms of a layer's features:"
    f" {_MEDIAN}",
    "mean_distance_95": "its 95th percentile",
    "scale_distance": "batch variance over running one less 1, rms of a layer: median, as above; of"
    " PowerNorm the quadratic mean's",
    "scale_distance_95": "its 95th percentile",
    "mean_excess": "mean_distance times the root of a feature's values in the batch, each layer's:"
    " about 1 were they independent draws; median, as above",
}  # fmt: skip


def measure(run: Config, device: Any) -> pd.DataFrame:
    """Train one network and measure it on the way."""
    from bnbook.probes.distances import Watch
    from bnbook.setups import sequences

    task = _image_task if claims.read(run.arms[0]) == IMAGES else _sequence_task
    model, loss, measured = task(run, device)
    watch = Watch(model)

    def both(final: bool) -> dict[str, float]:
        distances = _distances(watch.seen)
        found = measured(final)
        watch.seen.clear()
        return {**found, **distances}

    table = sequences.followed(run, model, loss, both)
    return table.reindex(columns=list(COLUMNS)).astype({"decode": float, "decode_batch": float})


def make_norm(name: str, warm_up: int) -> Callable[[int], nn.Module] | None:
    """Return what makes the norm of an arm, of rows (m, C)."""
    from torch import nn

    from bnbook.layers.norm import FusedBatchNorm
    from bnbook.layers.power import PowerNorm

    makers: dict[str, Callable[[int], nn.Module]] = {
        BN: FusedBatchNorm,
        COUNTED: FusedBatchNorm,
        LAYER_NORM: nn.LayerNorm,
        RMS_NORM: nn.RMSNorm,
        POWER_NORM: partial(PowerNorm, warm_up=warm_up),
    }
    return makers.get(name)


def _sequence_task(run: Config, device: Any) -> tuple[Any, ...]:
    """Return a Transformer, its loss on a new batch, and its measurements."""
    from bnbook.networks.transformer import Sizes, Transformer
    from bnbook.setups import sequences

    kind, norm, place = claims.parts(run.arms[0])
    corpus, length, size = _corpus(run, kind)
    sizes = Sizes(corpus.symbols, length, run.width, run.heads, run.layers)
    model = Transformer(
        make_norm(norm, run.steps // 10), run.seeds[0], sizes,
        post=place == POST, masked=norm != COUNTED,
    ).to(device)  # fmt: skip
    stream = sequences.batches(corpus, size, length, run.shortest, run.seeds[0])
    held, test = (
        sequences.first(sequences.windows(source, length), run.evaluated)
        for source in (corpus.validation, corpus.test)
    )

    def loss() -> Tensor:
        batch = sequences.on(next(stream), device)
        return sequences.nats(model(batch.given, batch.real), batch)

    def measured(final: bool) -> dict[str, float]:
        whole = partial(read, model, sequences.on(test, device))
        found = {"validation": read(model, sequences.on(held, device)), "test": whole()}
        if final:
            found["test_batch"] = whole(of_batches=size)
            if kind == TEXT:
                found["decode"] = whole(one_at_a_time=True)
                found["decode_batch"] = whole(one_at_a_time=True, of_batches=size)
        return found

    return model, loss, measured


def _corpus(run: Config, kind: str) -> tuple[Corpus, int, int]:
    """Return what an arm reads, the length of its sequences, and how many are in a batch."""
    from bnbook.setups import sequences

    text, images = run.data.split(" and ")
    if kind == PIXELS:
        corpus = sequences.pixels(images, run.levels, run.validation)
        return corpus, corpus.train.shape[1] - 1, run.images
    corpus = {TEXT: sequences.text, WORDS: sequences.words}[kind](text)
    return corpus, run.length, run.batch_size


def read(
    model: nn.Module, sequences: Windows, *, of_batches: int = 0, one_at_a_time: bool = False
) -> float:
    """Return the bits a symbol of sequences, with running statistics or those of batches.

    Of batches of `of_batches` sequences, a rest that fills none is left out.
    """
    from bnbook.setups.sequences import Windows, bits, mode, nats

    size = of_batches or 64
    count = len(sequences.given) // size * size if of_batches else len(sequences.given)
    total = 0.0
    with mode(model, training=of_batches > 0):
        for first in range(0, count, size):
            batch = Windows(*(each[first : min(first + size, count)] for each in sequences))
            scores = decoded(model, batch.given) if one_at_a_time else model(batch.given)
            total += bits(nats(scores, batch)) * len(batch.given)
    return total / count


def decoded(model: nn.Module, symbols: Tensor) -> Tensor:
    """Return a Transformer's scores when it reads symbols (N, T) one step after the other."""
    import torch

    past: list[list[Tensor]] = [[] for _ in model.get_submodule("blocks").children()]
    return torch.cat([model(step, past=past) for step in symbols.split(1, 1)], 1)


def _image_task(run: Config, device: Any) -> tuple[Any, ...]:
    """Return a ConvNet with BN, its loss on a new batch of images, and its measurements."""
    import torch
    from torch.nn import functional as F  # noqa: N812

    from bnbook.layers.norm import FusedBatchNorm
    from bnbook.networks.models import ConvNet
    from bnbook.setups.images import splits
    from bnbook.setups.sequences import bits, mode

    (images, labels), *others = splits(run.data.split(" and ")[1], run.validation, device)
    model = ConvNet(
        FusedBatchNorm, run.seeds, in_channels=images.shape[1], widths=run.channels
    ).to(device)  # fmt: skip
    generator = torch.Generator().manual_seed(run.seeds[0])

    def loss() -> Tensor:
        batch = torch.randint(len(labels), (run.images,), generator=generator)
        return F.cross_entropy(model(images[batch])[:, 0], labels[batch])

    def measured(_: bool) -> dict[str, float]:
        with mode(model, training=False):
            ends = [bits(F.cross_entropy(model(x)[:, 0], y)) for x, y in others]
        return {"validation": ends[0], "test": ends[1]}

    return model, loss, measured


def _distances(seen: list[Distance]) -> dict[str, float]:
    """Return medians and 95th percentiles of what was seen; NaN where nothing was."""
    found = pd.DataFrame(seen, columns=["mean", "scale", "excess"], dtype=float)
    return {
        f"{name}_distance{suffix}": float(found[name].quantile(at))
        for name in ("mean", "scale")
        for suffix, at in (("", 0.5), ("_95", 0.95))
    } | {"mean_excess": float(found["excess"].median())}


EXPERIMENT = Experiment(
    name="transformer",
    title="BN in a small Transformer, on text and on images",
    profiles={
        "quick": Config(
            seeds=(0, 1, 2), tuning_seeds=(100,), learning_rates=(0.01,), steps=40, points=1,
            width=16, heads=2, layers=1, batch_size=8, images=3, length=24, shortest=6,
            evaluated=64, channels=(4, 8),
        ),
        "standard": Config(
            seeds=(10, 11, 12, 13, 14), tuning_seeds=(100,),
            learning_rates=(0.0003, 0.001, 0.003, 0.01, 0.03), steps=500,
        ),
    },
    axes=("arms", "seeds", "learning_rates"),
    measure=measure,
    rounds=choosing.rounds,
    needs={"arms": claims.NEEDED},
    columns=COLUMNS,
    claims=claims.CLAIMS,
    facts=claims.facts,
    figures={"loss": figures.loss, "distances": figures.distances, "decoding": figures.decoding},
)  # fmt: skip
