"""An LSTM with BN at its inputs, with recurrent BN, with LayerNorm and with none.

It reads an image two pixels at a time and names the digit at the end, or a text and predicts the
next character at every step. At one seed all start from the same weights and see the same batches.

Known: BN of the input transition alone, over batch and time (Laurent et al. 2015); BN of both
transitions with the statistics of each time step apart, initial gamma 0.1 (Cooijmans et al. 2016,
at second hand). As remembered: BN of the cell where the state is computed from it, which those
authors have too. Chosen here: the data, the sizes, Adam, the grid.

Timed at `standard`: a step of one network takes about 10 ms of one core, all runs about 5 minutes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd

from bnbook.errors import BnbookError
from bnbook.experiments.experiment import Experiment, check_distinct, check_known, check_positive
from bnbook.experiments.recurrent import claims, figures
from bnbook.experiments.recurrent.claims import INPUT, LAYER, PIXELS, STEPS, STEPS_ONE
from bnbook.tables import choosing

if TYPE_CHECKING:
    from torch import Tensor

    from bnbook.networks.recurrent import LSTM
    from bnbook.setups.sequences import Windows


@dataclass(frozen=True, kw_only=True)
class Config:
    """What a run depends on. A single run has one arm, seed and rate."""

    seeds: tuple[int, ...]
    tuning_seeds: tuple[int, ...]
    learning_rates: tuple[float, ...]  # of Adam, the largest of a run
    steps: int
    arms: tuple[str, ...] = claims.ARMS
    data: str = "descriptions and digits"  # a text and images
    pixels: int = 2  # read at a time
    length: int = 32  # characters of a sequence in training
    longer: int = 4  # times as long are the sequences of the test
    images: int = 50  # in a batch
    sequences: int = 16  # of text in a batch
    validation: int = 200  # images set aside to choose by
    tested: int = 1000  # images or sequences in the test, at most
    width: int = 32  # of the state that reads pixels; of that which reads text twice as many
    points: int = 20  # measurements, evenly spread over the steps

    def __post_init__(self) -> None:
        """Refuse impossible values."""
        check_positive(self, ("steps", "pixels", "length", "width", "points", "tested"))
        check_distinct(self, ("seeds", "arms", "learning_rates"))
        check_known(self, "arms", claims.ARMS)
        choosing.check(self)
        if min(self.images, self.sequences, self.longer) < 2:
            raise BnbookError(
                "images, sequences and longer must be 2 or more, found"
                f" {self.images}, {self.sequences} and {self.longer}."
            )


COLUMNS = {
    "arm": "what is read, and the norm",
    "seed": "sets initial weights and batches",
    "learning_rate": "largest rate of Adam",
    "tunes": choosing.TUNES,
    "step": "steps done when the row was measured",
    "loss": "mean training loss since the row before, bits an image or a character",
    "validation": "loss on what is set aside to choose rates, bits; with running statistics, as all"
    " that follow",
    "test": "loss on test images, or on test sequences no longer than those of training, bits",
    "test_accuracy": "of the test images, in [0, 1]; NaN of characters",
    "inside": "loss on the second half of a training length, bits a character; in the last row",
    "beyond": "loss on what follows it up to the test sequences' end, bits a character",
}


def measure(run: Config, device: Any) -> pd.DataFrame:
    """Train one network and measure it on the way."""
    from bnbook.setups import sequences

    task = _image_task if claims.parts(run.arms[0])[0] == PIXELS else _text_task
    table = sequences.followed(run, *task(run, device))
    floats = {"test_accuracy": float, "inside": float, "beyond": float}
    return table.reindex(columns=list(COLUMNS)).astype(floats)


def network(run: Config, *, inputs: int, outputs: int, steps: int, width: int) -> LSTM:
    """Return the LSTM of an arm."""
    from bnbook.networks.recurrent import LSTM, Kind

    norm = claims.parts(run.arms[0])[1]
    kinds: dict[str, Kind] = {INPUT: "input", STEPS: "steps", STEPS_ONE: "steps", LAYER: "layer"}
    return LSTM(
        kinds.get(norm, "none"), run.seeds[0], inputs=inputs, width=width, outputs=outputs,
        steps=steps, gamma=0.1 if norm == STEPS else 1.0,
    )  # fmt: skip


def _image_task(run: Config, device: Any) -> tuple[Any, ...]:
    """Return an LSTM that reads pixels, its loss on a new batch, and its measurements."""
    import torch
    from torch.nn import functional as F  # noqa: N812

    from bnbook.setups.images import splits
    from bnbook.setups.sequences import bits, mode

    data = splits(run.data.split(" and ")[1], run.validation, device)
    read = data.each(lambda x: x.flatten(1).unflatten(1, (-1, run.pixels)), device)
    (images, labels), *others = read.first(0, run.tested)
    model = network(
        run, inputs=run.pixels, outputs=10, steps=images.shape[1], width=run.width
    ).to(device)  # fmt: skip
    generator = torch.Generator().manual_seed(run.seeds[0])

    def loss() -> Tensor:
        batch = torch.randint(len(labels), (run.images,), generator=generator)
        return F.cross_entropy(model(images[batch])[:, -1], labels[batch])

    def measured(_: bool) -> dict[str, float]:
        with mode(model, training=False):
            scores = [model(x)[:, -1] for x, _ in others]
        losses = [bits(F.cross_entropy(s, y)) for s, (_, y) in zip(scores, others, strict=True)]
        right = (scores[1].argmax(1) == others[1][1]).float().mean()
        return {"validation": losses[0], "test": losses[1], "test_accuracy": float(right)}

    return model, loss, measured


def _text_task(run: Config, device: Any) -> tuple[Any, ...]:
    """Return an LSTM that reads characters, its loss on a new batch, and its measurements."""
    from torch.nn import functional as F  # noqa: N812

    from bnbook.setups import sequences

    corpus = sequences.text(run.data.split(" and ")[0])
    model = network(
        run, inputs=corpus.symbols, outputs=corpus.symbols, steps=run.length, width=2 * run.width
    ).to(device)  # fmt: skip
    stream = sequences.batches(corpus, run.sequences, run.length, run.length, run.seeds[0])
    held, test, longer = (
        sequences.on(sequences.first(sequences.windows(source, length), run.tested), device)
        for source, length in (
            (corpus.validation, run.length), (corpus.test, run.length),
            (corpus.test, run.longer * run.length),
        )
    )  # fmt: skip

    def scores(batch: Windows) -> Tensor:
        found: Tensor = model(F.one_hot(batch.given, corpus.symbols).float())
        return found

    def loss() -> Tensor:
        batch = sequences.on(next(stream), device)
        return sequences.nats(scores(batch), batch)

    def measured(final: bool) -> dict[str, float]:
        with sequences.mode(model, training=False):
            found = {
                name: sequences.bits(sequences.nats(scores(batch), batch))
                for name, batch in (("validation", held), ("test", test))
            }
            if final:
                found |= _by_position(scores(longer), longer, run.length)
        return found

    return model, loss, measured


def _by_position(scores: Tensor, batch: Windows, length: int) -> dict[str, float]:
    """Return the loss late in a training length, and beyond it."""
    from torch.nn import functional as F  # noqa: N812

    from bnbook.setups.sequences import bits

    losses = F.cross_entropy(scores.transpose(1, 2), batch.following, reduction="none").mean(0)
    return {
        "inside": bits(losses[length // 2 : length].mean()),
        "beyond": bits(losses[length:].mean()),
    }


EXPERIMENT = Experiment(
    name="recurrent",
    title="BN in an LSTM, on pixels and on characters",
    profiles={
        "quick": Config(
            seeds=(0, 1, 2), tuning_seeds=(100,), learning_rates=(0.02,), steps=50, points=10,
            pixels=8, length=8, longer=2, width=16, tested=50,
        ),
        "standard": Config(
            seeds=(10, 11, 12, 13, 14), tuning_seeds=(100,),
            learning_rates=(0.01, 0.03, 0.1, 0.3), steps=300,
        ),
    },
    axes=("arms", "seeds", "learning_rates"),
    measure=measure,
    rounds=choosing.rounds,
    needs={"arms": claims.ARMS},
    columns=COLUMNS,
    claims=claims.CLAIMS,
    facts=claims.facts,
    figures={"curves": figures.curves, "lengths": figures.lengths},
)  # fmt: skip
