"""Networks in which internal covariate shift is measured while they train.

Nothing here imports torch before something is trained.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np
import pandas as pd

from bnbook.errors import BnbookError
from bnbook.setups.settings import JUDGING, TUNING
from bnbook.tables.shift import CONV, LINEAR_25, RELU_MLP, SIGMOID_MLP
from bnbook.training.session import Session

if TYPE_CHECKING:
    from torch import Tensor

NETWORKS = (SIGMOID_MLP, RELU_MLP, CONV, LINEAR_25)


@dataclass(frozen=True, kw_only=True)
class ShiftSetting:
    """What the training of these networks depends on. A single run has one of each axis.

    Attributes
    ----------
    data : str
        Name of a data set of grey images (see `bnbook.datasets`).
    seeds : tuple of int
        Each sets the initial weights, the minibatches and the noise.
    tuning : int
        The first so many seeds choose the rates; the others are judged.
    learning_rates : tuple of float
        The grid, the same for all arms.
    linear_factor : float
        What the deep linear network's rates are multiplied by: its loss is a squared distance.
    networks, arms : tuple of str
        What is trained.
    side : int
        Rows and columns of the images, averaged down to that.
    train_images, validation : int
        Images trained on, at most, and set aside.
    steps, batch_size, points : int
        Length of training, images in a minibatch, and measurements after the start, evenly spread.
    hidden : tuple of int
        Widths of the fully connected networks of images.
    widths : tuple of int
        Channels of the pairs of convolutions.
    examples, depth : int
        Of the deep linear network: vectors of ten Gaussian numbers, and layers of ten units.
    probe_images : int
        Training images on which shift is measured, as one batch; the linear network takes all.
    layers : int
        Hidden layers measured, at most, evenly spread; the first has no layer below.
    role : str
        Of a single run: whether it chooses rates or is judged.
    """

    data: str
    seeds: tuple[int, ...]
    learning_rates: tuple[float, ...]
    networks: tuple[str, ...]
    arms: tuple[str, ...]
    tuning: int = 2
    side: int = 8
    train_images: int = 1000
    validation: int = 300
    steps: int = 100
    batch_size: int = 64
    points: int = 5
    hidden: tuple[int, ...] = (50, 50, 50)
    widths: tuple[int, ...] = (8, 16)
    examples: int = 200
    depth: int = 25
    linear_factor: float = 0.03
    probe_images: int = 64
    layers: int = 3
    role: str = ""

    def check_shift(self) -> None:
        """Refuse impossible values.

        Raises
        ------
        BnbookError
            With the field, what was expected and what was found.
        """
        if self.steps % self.points:
            raise BnbookError(
                f"steps must be a multiple of points, found {self.steps} and {self.points}."
            )
        if len(self.seeds) > 1 and not 0 < self.tuning < len(self.seeds):
            raise BnbookError(
                f"tuning must leave seeds to be judged, of {len(self.seeds)} found {self.tuning}."
            )
        if self.depth < 3 or len(self.hidden) < 2:
            raise BnbookError("networks need two hidden layers or more: the first has none below.")


C = TypeVar("C", bound=ShiftSetting)


def split(config: C, single: Sequence[C]) -> list[C]:
    """Return single runs with their roles; a single run stays what it is."""
    if config.role:
        return [config]
    tuning = config.seeds[: config.tuning]
    return [replace(run, role=TUNING if run.seeds[0] in tuning else JUDGING) for run in single]


class Task(NamedTuple):
    """What a network trains on.

    Attributes
    ----------
    images, labels : Tensor, (M, ...) and (M,)
        The training set.
    held : tuple of Tensor, or None
        Images and labels set aside.
    loss : callable
        ``(outputs, labels) -> (E,)``.
    batch_size : int
        Examples in a minibatch.
    """

    images: Tensor
    labels: Tensor
    held: tuple[Tensor, Tensor] | None
    loss: Callable[[Tensor, Tensor], Tensor]
    batch_size: int


def task(config: ShiftSetting, device: Any) -> Task:
    """Load the images, or draw the linear network's examples: y = A x, A and x Gaussian."""
    import torch
    from torch.nn import functional as F  # noqa: N812

    from bnbook.layers import ensemble
    from bnbook.setups import images

    if config.networks[0] == LINEAR_25:
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(config.examples, 10, generator=generator)
        targets = (x @ torch.randn(10, 10, generator=generator) / 10**0.5).to(device)

        def squared(outputs: Tensor, labels: Tensor) -> Tensor:
            own = targets[labels.view(len(labels), -1)]  # (N, E, 10), or 1 for all
            return (outputs - own).square().sum(-1).mean(0) / 2

        every = torch.arange(config.examples, device=device)
        return Task(x.to(device), every, None, squared, config.examples)

    def prepare(given: Tensor) -> Tensor:
        return 2 * F.adaptive_avg_pool2d(given, config.side) - 1

    found = images.splits(config.data, config.validation, device, prepare)
    x, y = found.first(config.train_images, 0).train
    return Task(x, y, found.validation, ensemble.cross_entropy, config.batch_size)


def network(config: ShiftSetting, make: Any, seeds: Sequence[int], channels: int) -> Any:
    """Make the config's network with a norm layer, or None for none."""
    from torch import nn

    from bnbook.layers import ensemble
    from bnbook.networks import models, vgg

    name = config.networks[0]
    if name == CONV:
        return vgg.VGG(make, seeds, in_channels=channels, widths=config.widths)
    if name == LINEAR_25:
        return models.MLP(
            make, seeds, num_inputs=10, hidden=(10,) * (config.depth - 1),
            init_std=ensemble.xavier, nonlinearity=nn.Identity,
        )  # fmt: skip
    sigmoid = name == SIGMOID_MLP
    return models.MLP(
        make, seeds, num_inputs=channels * config.side**2, hidden=config.hidden,
        init_std=ensemble.xavier if sigmoid else ensemble.he,
        nonlinearity=nn.Sigmoid if sigmoid else nn.ReLU,
    )  # fmt: skip


def rate(run: ShiftSetting) -> float:
    """Return the rate at which a single run trains."""
    factor = run.linear_factor if run.networks[0] == LINEAR_25 else 1.0
    return float(f"{factor * run.learning_rates[0]:.3g}")


def measured_layers(count: int, most: int) -> list[int]:
    """Return which of so many hidden layers are measured: the second to the last, evenly."""
    return sorted({round(each) for each in np.linspace(1, count - 1, min(most, count - 1))})


Probe = Callable[[], "dict[str, Tensor]"]


def train(
    runs: Sequence[ShiftSetting],
    session: Session,
    make: Callable[[Sequence[int]], Any],
    more: Callable[[Any, Callable[[], Tensor], Tensor], Probe] | None = None,
) -> list[pd.DataFrame]:
    """Train runs that differ in seed and rate as one ensemble, and measure the shift.

    `make` maps the members' seeds to what makes a norm layer, or None. `more` maps the model, the
    objective and the members' rates to a further probe, its values (E,). Each run's table has one
    row for each measured step and layer; see `COLUMNS`. A run that diverged has no numbers from
    there on.
    """
    import torch

    from bnbook.probes import shift
    from bnbook.training import fit

    config, seeds = runs[0], [run.seeds[0] for run in runs]
    data = task(config, fit.choose_device(session.device))
    device, channels = data.images.device, data.images.shape[1]
    model = network(config, make(seeds), seeds, channels).to(device)
    rates = torch.tensor([rate(run) for run in runs], device=device)
    shown = min(config.probe_images, len(data.labels))
    x, y = (each[: len(each) if data.held is None else shown] for each in data[:2])

    def objective() -> Tensor:
        return data.loss(model(x), y)

    layers = shift.layers_of(model.hidden)
    at = measured_layers(len(layers), config.layers)
    probes = [lambda: _shift(model, layers, objective, rates, at), _held(model, data)]
    if more is not None:
        probes.append(more(model, objective, rates))
    batches, streams = fit.streams(len(data.labels), data.batch_size, config.steps, seeds)
    history = fit.fit(
        model, data.images, data.labels, batches, fit.SGD(rates.tolist()), data.loss, probes,
        range(0, config.steps + 1, config.steps // config.points),
        streams=streams, drop=False, session=session,
    )  # fmt: skip
    return [_table(run, history, member, at) for member, run in enumerate(runs)]


def _shift(
    model: Any, layers: Any, objective: Callable[[], Tensor], rates: Tensor, at: Sequence[int]
) -> dict[str, Tensor]:
    """Measure one step's shift, and the moments of the measured layers' inputs."""
    from bnbook.probes import shift

    found = shift.measure(model, layers, objective, rates, at)
    seen = shift.inputs(model, layers, objective)
    moments = {f"moments{i}": shift.moments(seen[i]).transpose(0, 1) for i in at}
    return {**found._asdict(), **moments}


def _held(model: Any, data: Task) -> Probe:
    """Return the probe of the accuracy on images set aside; the linear network has none."""
    import torch

    from bnbook.probes import measurements

    held = data.held
    if held is None:
        return lambda: {"validation_accuracy": torch.full((model.members,), torch.nan)}
    return lambda: {"validation_accuracy": measurements.accuracy(model, *held)}


def _table(
    run: ShiftSetting, history: Sequence[Mapping[str, Tensor]], member: int, at: Sequence[int]
) -> pd.DataFrame:
    """Return one run's rows."""
    from bnbook.probes import shift

    scalars = ("loss", "validation_accuracy", *(n for n in EXTRA if n in history[0]))
    rows, last = [], None
    for row in history:
        own = {n: float(row[n][member]) for n in scalars}
        own |= {"step": int(row["step"]), "diverged_at": int(row["diverged_at"][member])}
        moments = [row[f"moments{i}"][member] for i in at]
        for which, i in enumerate(at):
            values = {n: float(row[n][member, which]) for n in shift.Shift._fields}
            moved = NO if last is None else float(shift.drift(last[which], moments[which]))
            rows.append({**own, "layer": i + 1, "course": moved, **values})
        last = moments
    key = {
        "network": run.networks[0], "arm": run.arms[0], "seed": run.seeds[0],
        "learning_rate": rate(run), "role": run.role,
    }  # fmt: skip
    return pd.DataFrame(rows).assign(**key)[  # type: ignore[arg-type]
        [*COLUMNS, *(n for n in EXTRA if n in history[0])]
    ]


NO = float("nan")
COLUMNS: Mapping[str, str] = {
    "network": "what is trained",
    "arm": "how it is normalised",
    "seed": "sets initial weights, minibatches and noise",
    "learning_rate": "of plain SGD",
    "role": "tuning: the run chose rates; judging: it is shown, and chose nothing",
    "step": "steps done when the row was measured",
    "diverged_at": "step whose loss was no number, -1 for none so far",
    "loss": "mean training loss since the measurement before: nats, or half a squared distance",
    "validation_accuracy": "of the images set aside, in [0, 1]; none for the linear network",
    "layer": "hidden layer, from 1",
    "course": "drift of the moments of its inputs since the measurement before, in spreads",
    "drift": "the same over one step",
    "distance": "Wasserstein distance of its inputs when the layers below step, in spreads",
    "change": "length of G - G'",
    "relative": "length of G - G' over that of G",
    "cosine": "of the angle between G and G'",
}
"""Columns of the tables: one row per run, measured step and layer. Inputs are those to the layer's
nonlinearity, spreads are standard deviations, averaged over units."""
EXTRA = ("loss_range", "gradient_change", "smoothness")
"""Columns that a further probe may add."""
