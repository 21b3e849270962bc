"""Sequences of symbols for networks that predict the next one: batches, training by Adam, bits.

A symbol is a character of a text or a pixel of an image read row by row. Nothing here imports
torch before something is trained.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import pandas as pd

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

PIECE, EVERY = 512, 8
"""Characters of a piece of training text, and which of the pieces are set aside to choose by."""
_STREAM = 0x7E57_0000  # keeps the batches of a seed apart from its initial weights


class Windows(NamedTuple):
    """Sequences: what is read, what comes next, and which positions are no padding, (N, T)."""

    given: Tensor
    following: Tensor
    real: Tensor


@dataclass(frozen=True)
class Corpus:
    """A kind of sequences: how many symbols there are, and the text or images they are cut from.

    `train`, `validation` and `test` are texts (M,), or images (M, T + 1) that are whole sequences.
    """

    symbols: int
    train: Tensor
    validation: Tensor
    test: Tensor


def text(name: str) -> Corpus:
    """Load a text; every eighth piece of the training text is set aside to choose by.

    The symbols are those of `bnbook.datasets.ALPHABET` and one more, the padding.
    """
    import torch

    from bnbook import datasets

    pieces = datasets.load_text(name).split(PIECE)
    aside = [at % EVERY == EVERY - 1 for at in range(len(pieces))]
    kept, held = (
        torch.cat([piece for piece, out in zip(pieces, aside, strict=True) if out == want])
        for want in (False, True)
    )
    return Corpus(len(datasets.ALPHABET) + 1, kept, held, datasets.load_text(name, "test"))


def words(name: str) -> Corpus:
    """Load a text as words, signs and numbers; those seen once in the training text are one symbol.

    The last symbol is the padding, the one before stands for all rare words.
    """
    import torch

    from bnbook import datasets

    def split(which: str) -> list[str]:
        characters = [datasets.ALPHABET[at] for at in datasets.load_text(name, which).tolist()]
        return re.findall(r"\w+|[^\w\s]", "".join(characters).lower())

    train, test = split("train"), split("test")
    common = sorted(word for word, count in Counter(train).items() if count > 1)
    place = {word: at for at, word in enumerate(common)}
    symbols, reported = (
        torch.tensor([place.get(word, len(place)) for word in those]) for those in (train, test)
    )
    held = len(symbols) // EVERY
    return Corpus(len(place) + 2, symbols[:-held], symbols[-held:], reported)


def pixels(name: str, levels: int, validation: int) -> Corpus:
    """Load images as sequences of grey levels, row by row; the last symbol is the padding."""
    import torch

    from bnbook import datasets

    train, test = (
        (datasets.load(name, split).images.flatten(1) * (levels - 1)).round().long()
        for split in ("train", "test")
    )
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(0))
    return Corpus(levels + 1, train[order[validation:]], train[order[:validation]], test)


def windows(source: Tensor, length: int) -> Windows:
    """Cut a text into sequences of a length, one after the other; images are sequences already."""
    import torch

    if source.dim() == 1:
        count = (len(source) - 1) // length
        at = torch.arange(count)[:, None] * length + torch.arange(length + 1)
        source = source[at]
    real = torch.ones_like(source[:, 1:], dtype=torch.bool)
    return Windows(source[:, :-1], source[:, 1:], real)


def batches(
    corpus: Corpus, size: int, length: int, shortest: int, seed: int
) -> Iterator[Windows]:  # fmt: skip
    """Draw batches without end: windows of a text of random lengths, padded, or whole images."""
    import torch

    generator = torch.Generator().manual_seed(_STREAM + seed)
    source = corpus.train
    while True:
        if source.dim() == 2:
            yield windows(source[torch.randint(len(source), (size,), generator=generator)], length)
            continue
        first = torch.randint(len(source) - length, (size, 1), generator=generator)
        lengths = torch.randint(shortest, length + 1, (size, 1), generator=generator)
        real = torch.arange(length) < lengths
        drawn = windows(source[first + torch.arange(length + 1)], length)
        padding = corpus.symbols - 1
        yield Windows(
            drawn.given.masked_fill(~real, padding), drawn.following.masked_fill(~real, 0), real
        )


def nats(scores: Tensor, batch: Windows) -> Tensor:
    """Cross-entropy of the symbols that follow, averaged over those that are no padding."""
    from torch.nn import functional as F  # noqa: N812

    return F.cross_entropy(scores[batch.real], batch.following[batch.real])


def train(
    model: nn.Module,
    loss: Callable[[], Tensor],
    rate: float,
    steps: int,
    at: Callable[[int, list[float]], None],
    *,
    clip_norm: float = 1.0,
) -> None:
    """Train with Adam: the rate rises over a tenth of the steps and falls to 0 over the others.

    The model is trained in place. `loss` draws a batch and returns its loss. `rate` is the largest
    one. After every step `at` is given the number of steps done and all losses so far. `clip_norm`
    is the largest norm of a gradient.

    Notes
    -----
    `bnbook.training.fit` trains ensembles by SGD, with which Transformers are hard to train; here
    is one network at a time, with Adam as Transformers and LSTMs take it, betas 0.9 and 0.98.
    """
    import torch

    optimiser = torch.optim.Adam(model.parameters(), lr=rate, betas=(0.9, 0.98), foreach=True)
    rise = max(1, steps // 10)
    losses: list[float] = []
    for step in range(1, steps + 1):
        share = min(step / rise, (steps + 1 - step) / (steps + 1 - rise))
        for group in optimiser.param_groups:
            group["lr"] = rate * share
        model.train()
        optimiser.zero_grad()
        value = loss()
        value.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
        optimiser.step()
        losses.append(float(value.detach()))
        at(step, losses)


def followed(
    run: Any, model: nn.Module, loss: Callable[[], Tensor],
    measured: Callable[[bool], Mapping[str, float]],
) -> pd.DataFrame:  # fmt: skip
    """Train a run's network and measure it on the way: a row for each measured step.

    The run is a single one with ``steps``, ``points``, ``arms``, ``seeds``, ``tuning_seeds`` and
    ``learning_rates``. `model` and `loss` are as for `train`. `measured` is told whether it is the
    last time, and returns measurements by name.
    """
    from bnbook.setups.residual import measured_steps

    at = measured_steps(run.steps, run.points)[1:]
    rows: list[dict[str, float]] = []

    def look(step: int, losses: list[float]) -> None:
        if step in at:
            since = int(rows[-1]["step"]) if rows else 0
            mean = bits(sum(losses[since:]) / (step - since))
            rows.append({"step": step, "loss": mean, **measured(step == run.steps)})

    (seed,), (rate,) = run.seeds, run.learning_rates
    train(model, loss, rate, run.steps, look)
    return pd.DataFrame(rows).assign(
        arm=run.arms[0], seed=seed, learning_rate=rate, tunes=seed in run.tuning_seeds
    )


@contextmanager
def mode(model: nn.Module, training: bool) -> Iterator[None]:
    """Put a model in training or evaluation, and leave it and its buffers as they were.

    Statistics of a batch are those of training; its running ones do not move by a measurement.
    """
    import torch

    before = model.training
    buffers = {name: value.clone() for name, value in model.named_buffers()}
    try:
        model.train(training)
        with torch.no_grad():
            yield
    finally:
        model.train(before)
        for name, value in model.named_buffers():
            value.copy_(buffers[name])


def bits(nats: float | torch.Tensor) -> float:
    """Turn nats into bits."""
    return float(nats) / math.log(2)


def on(batch: Windows, device: torch.device | str) -> Windows:
    """Put sequences on a device."""
    return Windows(*(each.to(device) for each in batch))


def first(sequences: Windows, count: int) -> Windows:
    """Return so many of the sequences, at most."""
    return Windows(*(each[:count] for each in sequences))
