"""Fully connected networks on a table, as it is and standardised, and on images.

The same network with BN, with LayerNorm and with neither, trained by plain SGD. At one seed all
start from the same weights and see the same minibatches. Each arm's rate is chosen by other seeds
than those that are shown, from one grid.

Chosen here: everything; no paper says how much BN gains in such networks on a table. The table is
scikit-learn's of breast cancers, whose columns differ in size by five decades.

Timed at `standard`: about 1.5 s of one core a run, all runs about 3 minutes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd

from bnbook.experiments.experiment import Experiment, check_distinct, check_known, check_positive
from bnbook.experiments.mlp import claims, figures
from bnbook.experiments.mlp.claims import IMAGES, RAW
from bnbook.tables import choosing, right
from bnbook.tables.arms import BN, LAYER_NORM

if TYPE_CHECKING:
    from torch import Tensor

    from bnbook.setups.images import Splits


@dataclass(frozen=True, kw_only=True)
class Config:
    """What a run depends on. A single run has one arm, seed and rate."""

    seeds: tuple[int, ...]
    tuning_seeds: tuple[int, ...]
    learning_rates: tuple[float, ...]  # of SGD
    steps: int
    data: str  # a table and images
    arms: tuple[str, ...] = claims.ARMS
    validation: float = 0.2  # share of the training data set aside to choose by
    batch_size: int = 32
    hidden: tuple[int, ...] = (64, 64, 64)  # widths of the hidden layers
    points: int = 50  # measurements after the start, evenly spread over the steps

    def __post_init__(self) -> None:
        """Refuse impossible values."""
        check_positive(self, ("steps", "batch_size", "points"))
        check_distinct(self, ("seeds", "arms", "learning_rates"))
        check_known(self, "arms", claims.ARMS)
        choosing.check(self)


COLUMNS = {
    "arm": "what is learned, and the norm",
    "seed": "sets initial weights and minibatches",
    "learning_rate": "of SGD",
    "tunes": choosing.TUNES,
    "step": "steps done when the row was measured",
    "loss": "loss on all training data, nats",
    "validation": "loss on what is set aside to choose rates, nats; infinite once a run diverged",
    "test": "loss on test data, nats",
    "test_accuracy": "of the test data, in [0, 1]",
    "diverged_at": "step whose loss was not finite; -1 for none",
    "right": f"of the runs that judge, {right.COLUMN}",
}


def measure(run: Config, device: Any) -> pd.DataFrame:
    """Train one network and measure it on the way."""
    from torch import nn

    from bnbook.layers import ensemble
    from bnbook.layers.norm import FusedBatchNorm, LayerNorm
    from bnbook.networks.models import MLP
    from bnbook.setups import residual
    from bnbook.training import fit

    (seed,), (rate,) = run.seeds, run.learning_rates
    task, norm = claims.parts(run.arms[0])
    data = splits(run, task, device)
    (x, y), *others = data
    norms: dict[str, type[nn.Module]] = {BN: FusedBatchNorm, LAYER_NORM: LayerNorm}
    model = MLP(
        norms.get(norm),
        (seed,),
        num_inputs=x.shape[1],
        hidden=run.hidden,
        num_classes=int(y.max()) + 1,
        init_std=ensemble.he,
        nonlinearity=nn.ReLU,
    ).to(device)

    def probe() -> dict[str, Tensor]:
        scores = [(model(images), labels) for images, labels in ((x, y), *others)]
        names = ("loss", "validation", "test")
        losses = [ensemble.cross_entropy(*pair) for pair in scores]
        hits = (scores[2][0].argmax(2) == scores[2][1][:, None]).T
        return {f"at_{n}": each for n, each in zip(names, losses, strict=True)} | {"right": hits}

    batches = fit.minibatches(len(y), run.batch_size, run.steps, seed)
    at = residual.measured_steps(run.steps, run.points)
    history = fit.fit(model, x, y, batches, fit.SGD([rate]), ensemble.cross_entropy, [probe], at)
    rows = [
        {
            "arm": run.arms[0], "seed": seed, "learning_rate": rate,
            "tunes": seed in run.tuning_seeds, "step": int(row["step"]),
            "loss": float(row["at_loss"]), "validation": _or_infinite(row),
            "test": float(row["at_test"]), "test_accuracy": float(row["right"].float().mean()),
            "diverged_at": int(row["diverged_at"]), "right": "",
        }
        for row in history
    ]  # fmt: skip
    if seed not in run.tuning_seeds:
        rows[-1]["right"] = right.pack(history[-1]["right"][0].tolist())
    return pd.DataFrame(rows)


def _or_infinite(row: dict[str, Tensor]) -> float:
    return float("inf") if int(row["diverged_at"]) >= 0 else float(row["at_validation"])


def splits(run: Config, task: str, device: Any) -> Splits:
    """Return vectors and labels to train on, to choose by, and to test on.

    The standardised table has columns of mean 0 and variance 1 over the training rows; a raw one is
    divided by one number, its largest value, so that a rate of the grid suits it at all.
    """
    import torch

    from bnbook import datasets
    from bnbook.setups import images

    table, of_images = run.data.split(" and ")
    if task == IMAGES:
        return images.splits(of_images, run.validation, device).each(lambda x: x.flatten(1), device)
    given, test = (datasets.load_table(table, split) for split in datasets.SPLITS)
    order = torch.randperm(len(given.labels), generator=torch.Generator().manual_seed(0))
    aside = round(run.validation * len(order))
    held, kept = order[:aside], order[aside:]
    own = given.values[kept]
    shift, scale = (0.0, own.abs().max()) if task == RAW else (own.mean(0), own.std(0))
    whole = images.Splits(
        (own, given.labels[kept]),
        (given.values[held], given.labels[held]),
        (test.values, test.labels),
    )
    return whole.each(lambda x: (x - shift) / scale, device)


EXPERIMENT = Experiment(
    name="mlp",
    title="BN in fully connected networks, on a table and on images",
    profiles={
        "quick": Config(
            data="breast-cancer and digits", seeds=(0, 1, 2), tuning_seeds=(100,), steps=100,
            learning_rates=(0.01, 0.1, 1.0), hidden=(32, 32), points=20,
        ),
        "standard": Config(
            data="breast-cancer and digits", seeds=(10, 11, 12, 13, 14), tuning_seeds=(100,),
            steps=600, learning_rates=(0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0),
        ),
    },
    axes=("arms", "seeds", "learning_rates"),
    measure=measure,
    rounds=choosing.rounds,
    needs={"arms": claims.ARMS},
    columns=COLUMNS,
    claims=claims.CLAIMS,
    facts=claims.facts,
    figures={"curves": figures.curves, "rates": figures.rates},
)  # fmt: skip
