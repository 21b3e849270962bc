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
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd

from bnbook.errors import BnbookError
from bnbook.experiments.experiment import Experiment, check_distinct, check_positive
from bnbook.experiments.ioffe_effective_rate import claims, figures
from bnbook.experiments.ioffe_effective_rate.claims import (
    COUNTERPART,
    INVARIANT,
    REFERENCE,
    UNSCALED,
)
from bnbook.setups import images
from bnbook.tables.arms import DECAYED, WITH, WITHOUT
from bnbook.training.session import Session

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class Config(images.ImageSetting):
    """Everything that a run depends on."""

    steps: int  # length of training
    batch_size: int  # images in a minibatch
    hidden: tuple[int, ...]  # widths of the hidden layers
    decays: tuple[float, ...]  # the grid
    twin_steps: int  # length of training where every weight is normalised
    arms: tuple[str, ...] = (WITHOUT, WITH, INVARIANT)
    scales: tuple[float, ...] = (1.0, 3.0)  # factors of the hidden layers' initial weights
    probe_intervals: int = 20  # measurements of a run
    probe_batches: int = 32  # minibatches over which squared gradients are averaged
    twin_rate: float = 0.3  # learning rate where every weight is normalised
    twin_decay: float = 3e-3  # there
    twin_factor: float = 3.0  # the factor a of the weights there
    temperature: float = 4.0  # factor of the scores there, which have a variance of 1

    def __post_init__(self) -> None:
        names = ("steps", "batch_size", "validation", "probe_intervals", "probe_batches")
        check_positive(self, (*names, "twin_steps"))
        check_distinct(self, ("seeds", "arms", "learning_rates", "decays", "scales"))
        known = (WITHOUT, WITH, INVARIANT)
        if unknown := set(self.arms) - set(known):
            raise BnbookError(f"arms must be among {known}, found {sorted(unknown)}.")
        for name in ("learning_rates", "decays", "scales"):
            if min(getattr(self, name)) <= 0:
                raise BnbookError(f"{name} must be above 0, found {getattr(self, name)}.")
        longest = max(self.learning_rates) * max(self.decays) * self.steps
        if longest < claims.SETTLED:
            raise BnbookError(
                f"steps must be so many that rate times decay times steps comes to"
                f" {claims.SETTLED:g} for some run, or none is in equilibrium; found at most"
                f" {longest:.2g}."
            )


PROFILES = {
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

COLUMNS = {
    "arm": "without BN, with BN, with BN and decay, or every weight normalised",
    "role": "where every weight is normalised: reference, counterpart or unscaled; else empty",
    "seed": "of the initial weights and the minibatches",
    "scale": "factor of the initial weights",
    "learning_rate": "of SGD",
    "weight_decay": "of the weights of the linear maps",
    "reference_decay": "of the network that the distance is taken from",
    "step": "updates done",
    "loss": "mean training loss since the row before, nats",
    "diverged_at": "step whose loss was not finite, -1 for none",
    "validation_accuracy": "in [0, 1]",
    "test_accuracy": "in [0, 1]",
    "squared_norm": "of the weights of a hidden unit, mean over the units",
    "squared_gradient": "of a minibatch's loss by these weights, mean over units and minibatches",
    "angle": "by which a step turns the hidden weights, radians",
    "effective_rate": "rate over squared norm",
    "distance": "of the scores of the validation images from the reference's, root mean square,"
    " NaN without one",
}


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
    """Train the ensemble of an arm and a seed."""
    import torch

    from bnbook.layers import ensemble
    from bnbook.probes import measurements
    from bnbook.training import fit

    (run,) = runs
    device = fit.choose_device(session.device)
    twins = run.arms[0] == INVARIANT
    dtype = torch.float64 if twins else torch.float32
    split = images.splits(
        run.data, run.validation, device, lambda given: given.to(dtype), left=run.batch_size
    )
    train_x, train_y = split.train
    chosen, seed = members(run), run.seeds[0]
    model = _network(run, chosen, train_x[0].numel(), dtype).to(device)
    hidden = [layer for layer in model.modules() if isinstance(layer, ensemble.Linear)]
    hidden = hidden if twins else hidden[:-1]
    units = sum(layer.out_features for layer in hidden)
    steps = run.twin_steps if twins else run.steps
    drawn = fit.minibatches(len(train_y), run.batch_size, steps + run.probe_batches, seed)

    def loss(scores: Tensor, labels: Tensor) -> Tensor:
        return ensemble.cross_entropy(run.temperature * scores if twins else scores, labels)

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
            scores = model(split.validation[0])
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
        probes=(images.accuracies(model, split), sizes, *((distances,) if twins else ())),
        at=probe_steps(steps, run.probe_intervals),
        drop=not twins,
        session=session,
    )
    return [_tidy(chosen, seed, history)]


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


def _tidy(chosen: Sequence[_Member], seed: int, history: list[dict[str, Any]]) -> pd.DataFrame:
    labels = [
        {
            "arm": member.arm,
            "role": member.role,
            "seed": seed,
            "scale": member.scale,
            "learning_rate": member.rate,
            "weight_decay": member.decay,
            "reference_decay": member.reference_decay,
        }
        for member in chosen
    ]
    table = pd.concat(images.tables(history, labels), ignore_index=True)
    distance = table.pop("distance") if "distance" in table else float("nan")
    rate, square = table["learning_rate"], table["squared_norm"]
    return table.assign(
        angle=rate * (table["squared_gradient"] / square) ** 0.5,
        effective_rate=rate / square,
        distance=distance,
    )


EXPERIMENT = Experiment(
    name="ioffe_effective_rate",
    title="Weight norms, weight decay and the effective learning rate (section 3.3)",
    profiles=PROFILES,
    axes=("arms", "seeds"),
    needs={"scales": (1.0,)},
    train=train,
    columns=COLUMNS,
    claims=claims.CLAIMS,
    facts=claims.facts,
    figures={
        "growth": lambda table: figures.growth(
            {arm: claims.norm_growth(table, arm) for arm in (WITH, WITHOUT)}
        ),
        "course": figures.course,
        "angles": lambda table: figures.angles(claims.late_angles(table)),
        "products": figures.products,
    },
)
