"""The effective learning rate: Ioffe & Szegedy 2015, section 3.3; van Laarhoven 2017.

Networks of fully connected layers with ReLU, trained with plain SGD at a grid of rates. Without BN
and with it, each from the usual initial weights and from larger ones, without decay; with BN also
with every decay of a grid. Beside them one network in which every weight is followed by BN and
nothing else is learned: there the scale of the weights is a change of rate and decay, exactly.

Stated by the papers: that larger weights get smaller gradients, so that their growth is stabilised;
L_lambda(a w) = L_(lambda a^2)(w). Chosen here: network, data, grids, He's initial weights, a decay
of the weights of the linear maps alone, and what is measured.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd

from bnbook.errors import BnbookError
from bnbook.experiments import experiment
from bnbook.experiments.ioffe_effective_rate import claims, figures
from bnbook.experiments.ioffe_effective_rate.claims import (
    COUNTERPART,
    INVARIANT,
    REFERENCE,
    UNSCALED,
)
from bnbook.tables.arms import DECAYED, WITH, WITHOUT
from bnbook.training.session import Session

if TYPE_CHECKING:
    from torch import Tensor, nn

TITLE = "Weight norms, weight decay and the effective learning rate (section 3.3)"

CLAIMS = claims.CLAIMS
FIGURES = {
    "growth": lambda table: figures.growth(
        {arm: claims.norm_growth(table, arm) for arm in (WITH, WITHOUT)}
    ),
    "course": figures.course,
    "angles": lambda table: figures.angles(claims.late_angles(table)),
    "products": figures.products,
    "twins": figures.twins,
}
facts = claims.facts


@dataclass(frozen=True)
class Config:
    """Everything that a run depends on.

    Attributes
    ----------
    data : str
        Name of a data set (see `bnbook.datasets`).
    steps, batch_size : int
        Length of training, and images in a minibatch.
    validation : int
        Training images set aside to choose rates; the split does not depend on the seed.
    seeds : tuple of int
        Each sets the initial weights and the minibatches.
    arms : tuple of str
        Networks without BN, with it, and with every weight normalised.
    hidden : tuple of int
        Widths of the hidden layers.
    learning_rates, decays : tuple of float
        The grids.
    scales : tuple of float
        Factors of the initial weights of the hidden layers, 1 among them.
    probe_intervals, probe_batches : int
        Measurements of a run, and minibatches over which squared gradients are averaged.
    twin_steps : int
        Length of training where every weight is normalised.
    twin_rate, twin_decay, twin_factor : float
        Rate and decay there, and the factor a of the weights.
    temperature : float
        Factor of the scores there, which have a variance of 1.
    """

    data: str
    steps: int
    validation: int
    seeds: tuple[int, ...]
    hidden: tuple[int, ...]
    batch_size: int
    twin_steps: int
    learning_rates: tuple[float, ...]
    decays: tuple[float, ...]
    arms: tuple[str, ...] = (WITHOUT, WITH, INVARIANT)
    scales: tuple[float, ...] = (1.0, 3.0)
    probe_intervals: int = 20
    probe_batches: int = 32
    twin_rate: float = 0.3
    twin_decay: float = 3e-3
    twin_factor: float = 3.0
    temperature: float = 4.0


PROFILES: Mapping[str, Config] = {
    "quick": Config(
        data="digits",
        steps=300,
        validation=300,
        seeds=(0, 1, 2),
        hidden=(32, 32),
        batch_size=50,
        twin_steps=100,
        learning_rates=(0.1, 0.3, 1.0),
        decays=(3e-3, 1e-2, 3e-2),
        probe_intervals=8,
        probe_batches=12,
    ),
    "standard": Config(
        data="mnist or fashion-mnist or mnist5k",
        steps=4000,
        validation=2000,
        seeds=tuple(range(5)),
        hidden=(100, 100),
        batch_size=60,
        twin_steps=500,
        learning_rates=(0.03, 0.1, 0.3, 1.0),
        decays=(3e-4, 1e-3, 3e-3, 1e-2),
    ),
}


def configure(profile: str, seed: int = 0, **changes: Any) -> Config:
    """Return a profile's config, with changes, its data chosen and its fields checked.

    Parameters
    ----------
    profile : str
        ``quick`` or ``standard``.
    seed : int
        Added to every seed, for runs that no record holds.
    **changes
        Fields of `Config` to replace; None leaves a field as it is.

    Returns
    -------
    Config

    Raises
    ------
    BnbookError
        When the profile or a field is unknown, or a value is impossible.
    """
    config = experiment.configure("ioffe_effective_rate", PROFILES, profile, seed, changes)
    names = ("steps", "batch_size", "validation", "probe_intervals", "probe_batches", "twin_steps")
    experiment.check_positive(config, names)
    experiment.check_distinct(config, ("seeds", "arms", "learning_rates", "decays", "scales"))
    known = (WITHOUT, WITH, INVARIANT)
    if unknown := set(config.arms) - set(known):
        raise BnbookError(f"arms must be among {known}, found {sorted(unknown)}.")
    for name in ("learning_rates", "decays", "scales"):
        if min(getattr(config, name)) <= 0:
            raise BnbookError(f"{name} must be above 0, found {getattr(config, name)}.")
    if 1 not in config.scales:
        raise BnbookError(f"scales must hold 1, the usual weights, found {config.scales}.")
    longest = max(config.learning_rates) * max(config.decays) * config.steps
    if longest < claims.SETTLED:
        raise BnbookError(
            f"steps must be so many that rate times decay times steps comes to {claims.SETTLED:g}"
            f" for some run, or none is in equilibrium; found at most {longest:.2g}."
        )
    return config


def parts(config: Config) -> list[Config]:
    """Return one config for each arm and seed."""
    return experiment.single_runs(config, ("arms", "seeds"))


def fuses(part: Config) -> Config:
    """Return the part itself: its networks are one ensemble already."""
    return part


def run(config: Config, device: str = "auto") -> pd.DataFrame:
    """Train every arm and seed of a config.

    Parameters
    ----------
    config : Config
        From `configure`.
    device : str
        ``auto``, ``cpu`` or ``cuda``.

    Returns
    -------
    pandas.DataFrame
        One row per run and step: ``arm`` (with BN and decay it is `bnbook.tables.arms.DECAYED`),
        ``role`` (of the networks with every weight normalised: see the analysis; else empty),
        ``seed``, ``scale``, ``learning_rate``, ``weight_decay``, ``reference_decay`` (of the
        network that the distance is taken from), ``step``, ``loss`` (nats), ``diverged_at`` (-1 for
        none), ``validation_accuracy``, ``test_accuracy`` (in [0, 1]), ``squared_norm`` and
        ``squared_gradient`` (of the weights of a hidden unit, mean over the units; the gradient of
        a minibatch), ``angle`` (by which a step turns the hidden weights, radians),
        ``effective_rate`` (rate over squared norm), ``distance`` (from the reference: root mean
        square over the scores of the validation images as one training batch, NaN without one).
    """
    return pd.concat(train(parts(config), Session(device)), ignore_index=True)


@dataclass(frozen=True)
class _Member:
    """One network of a part's ensemble."""

    arm: str
    scale: float
    rate: float
    decay: float
    role: str = ""
    reference: int = -1
    reference_decay: float = 0.0


def members(part: Config) -> list[_Member]:
    """Return the networks that a part trains at its seed."""
    arm = part.arms[0]
    if arm == INVARIANT:
        return _twins(part)
    plain = [
        _Member(arm, scale, rate, 0.0)
        for scale, rate in itertools.product(part.scales, part.learning_rates)
    ]
    if arm == WITHOUT:
        return plain
    grid = itertools.product(part.decays, part.learning_rates)
    return [*plain, *(_Member(DECAYED, 1.0, rate, decay) for decay, rate in grid)]


def _twins(part: Config) -> list[_Member]:
    """A reference, its counterpart and the network whose weights alone are scaled; then decayed."""
    a, rate = part.twin_factor, part.twin_rate
    found: list[_Member] = []
    for decay in (0.0, part.twin_decay):
        at = len(found)
        found += [
            _Member(INVARIANT, 1.0, rate, decay, REFERENCE, at, decay),
            _Member(INVARIANT, a, a**2 * rate, decay / a**2, COUNTERPART, at, decay),
            _Member(INVARIANT, a, rate, decay, UNSCALED, at, decay),
        ]
    return found


def train(runs: Sequence[Config], session: Session) -> list[pd.DataFrame]:
    """Train arms and seeds, one after the other.

    Parameters
    ----------
    runs : sequence of Config
        Of `parts`.
    session : Session
        Device, plan, checkpoint, deadline and progress.

    Returns
    -------
    list of pandas.DataFrame
        The rows of each, as `run` describes them.

    Raises
    ------
    BnbookError
        When several are to share a checkpoint.
    """
    if len(runs) > 1 and session.checkpoint is not None:
        raise BnbookError(f"runs are trained one by one where there is a checkpoint: {len(runs)}.")
    return [_train(run, session) for run in runs]


def _train(run: Config, session: Session) -> pd.DataFrame:
    import torch

    from bnbook.layers import ensemble
    from bnbook.probes import measurements
    from bnbook.training import fit

    device = fit.choose_device(session.device)
    twins = run.arms[0] == INVARIANT
    dtype = torch.float64 if twins else torch.float32
    (train_x, train_y), (valid_x, valid_y), (test_x, test_y) = _splits(run, device, dtype)
    chosen, seed = members(run), run.seeds[0]
    model = _network(run, chosen, train_x[0].numel(), dtype).to(device)
    hidden = [layer for layer in model.modules() if isinstance(layer, ensemble.Linear)]
    hidden = hidden if twins else hidden[:-1]
    units = sum(layer.out_features for layer in hidden)
    steps = run.twin_steps if twins else run.steps
    drawn = fit.minibatches(len(train_y), run.batch_size, steps + run.probe_batches, seed)

    def loss(scores: Tensor, labels: Tensor) -> Tensor:
        return ensemble.cross_entropy(run.temperature * scores if twins else scores, labels)

    def accuracies() -> dict[str, Tensor]:
        return {
            "validation_accuracy": measurements.accuracy(model, valid_x, valid_y),
            "test_accuracy": measurements.accuracy(model, test_x, test_y),
        }

    def sizes() -> dict[str, Tensor]:
        weights = [layer.weight for layer in hidden]
        batches = [(train_x[batch], train_y[batch]) for batch in drawn[steps:].to(device)]
        squares = _squared_gradients(model, weights, loss, batches)
        return {
            "squared_norm": torch.stack([w.square().sum((1, 2)) for w in weights]).sum(0) / units,
            "squared_gradient": squares / units,
        }

    def distances() -> dict[str, Tensor]:
        with measurements.undisturbed(model):
            model.train()
            scores = model(valid_x)
        other = scores[:, [member.reference for member in chosen]]
        return {"distance": (scores - other).square().mean((0, 2)).sqrt()}

    history = fit.fit(
        model,
        train_x,
        train_y,
        drawn[:steps],
        fit.SGD(
            [member.rate for member in chosen],
            weight_decay=[member.decay for member in chosen],
            weights_only=True,
        ),
        loss,
        probes=(accuracies, sizes, distances) if twins else (accuracies, sizes),
        at=probe_steps(steps, run.probe_intervals),
        drop=not twins,
        session=session,
    )
    return _tidy(chosen, seed, history)


def probe_steps(steps: int, intervals: int) -> list[int]:
    """Return the steps measured: twice as far apart each time early on, then evenly."""
    even = {round(steps * k / intervals) for k in range(intervals + 1)}
    early = {2**k for k in range(steps.bit_length()) if 2**k < steps / intervals}
    return sorted(even | early)


def _network(run: Config, chosen: Sequence[_Member], num_inputs: int, dtype: Any) -> nn.Module:
    """Make the networks of a type of numbers, their weights scaled."""
    import torch

    from bnbook.layers import ensemble, norm
    from bnbook.networks import models

    seeds, arm = [run.seeds[0]] * len(chosen), run.arms[0]
    model: torch.nn.Module
    if arm == INVARIANT:
        model = _invariant(num_inputs, (*run.hidden, 10), seeds)
    else:
        model = models.MLP(
            None if arm == WITHOUT else norm.BatchNorm,
            seeds,
            num_inputs=num_inputs,
            hidden=run.hidden,
            init_std=ensemble.he,
            nonlinearity=torch.nn.ReLU,
        )
    model = model.to(dtype)
    linear = [layer for layer in model.modules() if isinstance(layer, ensemble.Linear)]
    scales = torch.tensor([member.scale for member in chosen], dtype=dtype).view(-1, 1, 1)
    with torch.no_grad():
        for layer in linear if arm == INVARIANT else linear[:-1]:
            layer.weight.mul_(scales)
    return model


def _invariant(num_inputs: int, widths: Sequence[int], seeds: Sequence[int]) -> nn.Module:
    """Make networks in which BN without gamma and beta follows every linear map, the last too."""
    from torch import nn

    from bnbook.layers import ensemble, norm

    count = len(seeds)
    layers: list[nn.Module] = [nn.Flatten()]
    for fan_in, width in itertools.pairwise((num_inputs, *widths)):
        layers.append(ensemble.Linear(count, fan_in, width, bias=False))
        layers.append(norm.BatchNorm(count * width, eps=_TWIN_EPS, affine=False))
        layers.append(nn.ReLU())
    model = nn.Sequential(*layers[:-1], nn.Unflatten(1, (count, widths[-1])))
    ensemble.initialise(model, tuple(seeds), ensemble.he)
    return model


_TWIN_EPS = 1e-12
"""In float64, so that the identity is not blurred by eps."""


def _squared_gradients(
    model: nn.Module,
    weights: Sequence[Tensor],
    loss: Any,
    batches: Sequence[tuple[Tensor, Tensor]],
) -> Tensor:
    """Squared norm of each member's gradient of a minibatch's loss, mean over minibatches, (E,)."""
    import torch

    from bnbook.probes import measurements

    total = torch.zeros(len(weights[0]), dtype=weights[0].dtype, device=weights[0].device)
    with measurements.undisturbed(model), torch.enable_grad():
        model.train()
        for images, labels in batches:
            gradients = torch.autograd.grad(loss(model(images), labels).sum(), weights)
            for gradient in gradients:
                total += gradient.square().sum((1, 2))
    return total / len(batches)


def _splits(run: Config, device: Any, dtype: Any) -> list[tuple[Tensor, Tensor]]:
    """Training, validation and test images and their labels."""
    import torch

    from bnbook import datasets

    train, test = (datasets.load(run.data, split, device=device) for split in ("train", "test"))
    if not run.validation <= len(train.labels) - run.batch_size:
        raise BnbookError(
            f"validation must leave a minibatch of the {len(train.labels)} images of {run.data},"
            f" found {run.validation}."
        )
    order = torch.randperm(len(train.labels), generator=torch.Generator().manual_seed(0)).to(device)
    held_out, kept = order[: run.validation], order[run.validation :]
    images = train.images.to(dtype)
    return [
        (images[kept], train.labels[kept]),
        (images[held_out], train.labels[held_out]),
        (test.images.to(dtype), test.labels),
    ]


def _tidy(chosen: Sequence[_Member], seed: int, history: list[dict[str, Any]]) -> pd.DataFrame:
    import torch

    steps = torch.stack([row.pop("step") for row in history]).numpy()
    columns = {name: torch.stack([row[name] for row in history]).cpu() for name in history[0]}
    tables = []
    for at, member in enumerate(chosen):
        own = {name: column[:, at].double().numpy() for name, column in columns.items()}
        table = pd.DataFrame(
            {
                "arm": member.arm,
                "role": member.role,
                "seed": seed,
                "scale": member.scale,
                "learning_rate": member.rate,
                "weight_decay": member.decay,
                "reference_decay": member.reference_decay,
                "step": steps,
                **own,
            }
        ).astype({"diverged_at": int})
        table["angle"] = (
            table["learning_rate"] * (table["squared_gradient"] / table["squared_norm"]) ** 0.5
        )
        table["effective_rate"] = table["learning_rate"] / table["squared_norm"]
        if "distance" not in table:
            table["distance"] = float("nan")
        tables.append(table)
    return pd.concat(tables, ignore_index=True)
