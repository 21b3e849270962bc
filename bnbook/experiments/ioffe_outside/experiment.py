"""Ioffe & Szegedy 2015, section 2: statistics that stand outside the gradient.

Four cases, one table.

``bias``: the paper's example. A layer adds a bias, x = u + b, and is centred over the training set;
the gradient step takes the mean for a constant. The paper leaves the loss open; here it is half the
mean square of the distance to a target, in float64.

``scale``: the same with x = w u + b and the division by the standard deviation, for a constant
target and for one that grows with u.

``rounding``: how exact the normalised values still are once the bias is large.

``network``: networks of sigmoid units with a bias before BN. Arms: without BN, with BN, and BN with
the mean, the variance or both outside the gradient, each over the same grid of learning rates and
the same seeds; with and without the affine pair. At one seed all see the same minibatches and
start from the same weights, with all biases zero. Each arm's rate is the one with the best final
validation accuracy, averaged over seeds; the test set chooses nothing.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from bnbook.errors import BnbookError
from bnbook.experiments.experiment import (
    Experiment,
    check_distinct,
    check_positive,
    single_runs,
)
from bnbook.experiments.ioffe_outside import claims, figures
from bnbook.experiments.ioffe_outside.claims import BIAS, CONSTANT, NETWORK, ROUNDING, SCALE, SLOPED
from bnbook.setups import images
from bnbook.tables.arms import MEAN_OUTSIDE, OUTSIDE, VARIANCE_OUTSIDE, WITH, WITHOUT
from bnbook.training.session import Session

CASES = (NETWORK, BIAS, SCALE, ROUNDING)
ARMS = (WITH, OUTSIDE, MEAN_OUTSIDE, VARIANCE_OUTSIDE, WITHOUT)
PLAIN_ARMS = (WITH, OUTSIDE)
"""Arms that are trained without the affine pair too."""
Numbers = np.ndarray[Any, np.dtype[np.float64]]
PRECISIONS = ("float64", "float32", "bfloat16")


@dataclass(frozen=True, kw_only=True)
class Config(images.SigmoidSetting):
    """Everything that a run depends on; seeds set the examples' numbers u too."""

    validation: float = 0.15
    cases: tuple[str, ...] = CASES
    arms: tuple[str, ...] = ARMS
    affine: tuple[bool, ...] = (True, False)  # without the affine pair for `PLAIN_ARMS` alone
    probes: int = 20  # evenly spaced measurements of a network, even
    examples: int = 1000  # numbers u of an example
    example_steps: int = 200
    example_rate: float = 0.1  # learning rate of the examples
    target: float = 2.0  # the examples' mean target
    slope: float = 2.0  # by how much the sloped target grows with u
    draws: int = 10  # of u for the example with the scale, at each seed
    eps: float = 1e-5  # added to the example's variance
    largest_exponent: int = 26  # biases of `rounding` go up to 1.5 times 2 to this power

    def __post_init__(self) -> None:
        check_positive(
            self, ("steps", "batch_size", "probes", "probe_images", "example_steps", "draws")
        )
        check_distinct(self, ("seeds", "learning_rates", "cases", "arms", "affine"))
        for name, allowed in (("cases", CASES), ("arms", ARMS)):
            if unknown := sorted(set(getattr(self, name)) - set(allowed)):
                raise BnbookError(f"{name} must be among {allowed}, found {unknown}.")
        for name in ("steps", "probes"):
            if getattr(self, name) % 2:
                raise BnbookError(f"{name} must be even, found {getattr(self, name)}.")
        if not 0 < self.validation < 1:
            raise BnbookError(f"validation must lie in (0, 1), found {self.validation}.")
        if self.target == 0:
            raise BnbookError("target must not be 0, with which the example's bias stands still.")


PROFILES = {
    "quick": Config(
        data="digits",
        steps=300,
        seeds=(0, 1, 2),
        learning_rates=(0.03, 0.1, 0.3, 1.0, 3.0, 10.0),
        hidden=(50, 50),
        probes=10,
        probe_images=200,
    ),
    "standard": Config(
        data="mnist or fashion-mnist or mnist5k",
        steps=4000,
        seeds=tuple(range(5)),
        learning_rates=(0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0),
        hidden=(100, 100),
    ),
}

COLUMNS = {
    "case": "network, bias, scale or rounding; columns of another case are NaN or None",
    "arm": "without BN, with BN, or what is outside the gradient",
    "affine": "of a network: whether BN has the affine pair",
    "seed": "of u, or of the initial weights and the minibatches",
    "learning_rate": "of a network",
    "step": "of a network or an example",
    "loss": "of a network: mean since the row before, nats; of an example: before the step",
    "diverged_at": "step whose loss was not finite, -1 for none",
    "validation_accuracy": "with the running statistics, in [0, 1]",
    "test_accuracy": "with the running statistics, in [0, 1]",
    "batch_accuracy": "of validation images normalised with their own statistics, in [0, 1]",
    "bias_norm": "of all hidden layers",
    "weight_norm": "of all hidden layers",
    "offset": "largest size of a unit's mean over the probe images, in its standard deviations",
    "lag": "distance of running mean from mean, root mean square, in standard deviations",
    "bias": "of an example, before the step; of `rounding`, in standard deviations of u",
    "weight": "of an example, before the step",
    "gradient": "of an example's bias",
    "draw": "which u of an example with the scale",
    "target": "of an example: constant or sloped",
    "expected": "closed form of an example's bias",
    "line": "closed form of the bias given the weight, with the scale",
    "root": "closed form of the weight, with the scale",
    "precision": "type of number that is rounded to",
    "error": "of the normalised values, root mean square",
    "spacing": "of the numbers of that precision at the bias",
}


def _split(config: Config) -> list[Config]:
    """Return one run for each network and for each seed of each other case."""
    found = []
    for name in config.cases:
        one = replace(config, cases=(name,))
        if name == NETWORK:
            runs = single_runs(one, ("affine", "arms", "seeds", "learning_rates"))
            found += [run for run in runs if run.affine[0] or run.arms[0] in PLAIN_ARMS]
        else:
            first = {n: getattr(one, n)[:1] for n in ("affine", "arms", "learning_rates")}
            found += single_runs(replace(one, **first), ("seeds",))
    return found


def probe_steps(steps: int, count: int) -> list[int]:
    """Return the steps measured: 1, 2, 5, 10, 20 and 50, and `count` evenly spaced ones."""
    even = {steps * i // count for i in range(count + 1)}
    return sorted(even | {step for step in (1, 2, 5, 10, 20, 50) if step < steps})


def train(runs: Sequence[Config], session: Session) -> list[pd.DataFrame]:
    """Train networks that differ in seed and learning rate as one ensemble, or run examples."""
    (name,) = runs[0].cases
    if name == NETWORK:
        return _train_networks(runs, session)
    tables = [(part.seeds[0], _RUNS[name](part)) for part in runs]
    return [table.assign(case=name, seed=seed, diverged_at=-1) for seed, table in tables]


def _numbers(seed: int, draw: int, count: int) -> Numbers:
    """Draw u, standard normal numbers."""
    return np.random.default_rng((seed, draw)).standard_normal(count)


def _run_bias(part: Config) -> pd.DataFrame:
    """Section 2's example through autograd, mean outside and inside, beside the closed form."""
    from bnbook.formulas import outside

    u = _numbers(part.seeds[0], 0, part.examples)[None]
    target = np.full_like(u, part.target)
    steps = range(part.example_steps + 1)
    closed = [outside.bias_after(n, 0.0, part.target, part.example_rate) for n in steps]
    tables = []
    for arm in (OUTSIDE, WITH):
        rows = _descend(part, u, target, arm, scaled=False)
        expected = closed if arm == OUTSIDE else 0.0
        tables.append(rows.assign(arm=arm, target=CONSTANT, expected=expected))
    return pd.concat(tables, ignore_index=True)


def _run_scale(part: Config) -> pd.DataFrame:
    """The example with the scale, for both targets and all draws of u."""
    u = np.stack([_numbers(part.seeds[0], d, part.examples) for d in range(part.draws)])
    tables = []
    for kind, slope in ((CONSTANT, 0.0), (SLOPED, part.slope)):
        target = part.target + slope * u
        for arm in (OUTSIDE, WITH):
            rows = _descend(part, u, target, arm, scaled=True)
            tables.append(rows.assign(arm=arm, target=kind, **_closed(part, u, target, rows)))
    table = pd.concat(tables, ignore_index=True)
    return table[table["step"].isin(probe_steps(part.example_steps, 20))].reset_index(drop=True)


def _closed(part: Config, u: Numbers, target: Numbers, rows: pd.DataFrame) -> dict[str, pd.Series]:
    r"""Closed forms for eps = 0, while w > 0: of b given w, and of w for small steps.

    By `bnbook.formulas.outside.gradient_outside` each step has :math:`\Delta w = \alpha k / w` and
    :math:`\Delta b = \alpha \bar t / (\sigma w)`, with :math:`\sigma^2 = Var[u]` and
    :math:`k = \overline{tu} / \sigma - 1`. Hence b is a line in w, and :math:`w^2` grows by
    :math:`2 \alpha k` a step.
    """
    sigma = u.std(1)
    k = (target * u).mean(1) / sigma - 1
    draw = rows["draw"]
    square = 1 + 2 * part.example_rate * k[draw] * rows["step"]
    line = (target.mean(1) / (sigma * k))[draw] * (rows["weight"] - 1)
    return {"line": line, "root": np.sqrt(square.where(square > 0))}


def _descend(part: Config, u: Numbers, target: Numbers, arm: str, *, scaled: bool) -> pd.DataFrame:
    """Descend on the squared loss through autograd, for each draw: u and target of shape (D, N)."""
    import torch

    inputs, targets = torch.from_numpy(u), torch.from_numpy(target)
    b = torch.zeros(len(u), 1, dtype=torch.float64, requires_grad=True)
    w = torch.ones_like(b, requires_grad=True)
    moving = (b, w) if scaled else (b,)
    found = []
    for _ in range(part.example_steps + 1):
        x = w * inputs + b
        seen = x.detach() if arm == OUTSIDE else x
        xhat = x - seen.mean(1, keepdim=True)
        if scaled:
            xhat = xhat / (seen.var(1, unbiased=False, keepdim=True) + part.eps).sqrt()
        losses = (xhat - targets).square().mean(1, keepdim=True) / 2
        gradients = torch.autograd.grad(losses.sum(), moving)
        found.append(torch.cat([b, w, losses, gradients[0]], 1).detach())
        with torch.no_grad():
            for parameter, gradient in zip(moving, gradients, strict=True):
                parameter -= part.example_rate * gradient
    columns = ("bias", "weight", "loss", "gradient")
    table = pd.DataFrame(torch.cat(found).numpy(), columns=columns)
    draws = np.arange(len(table)) % len(u)
    return table.assign(step=np.arange(len(table)) // len(u), draw=draws)


def _run_rounding(part: Config) -> pd.DataFrame:
    """Error of values that were rounded with a bias on them, then normalised."""
    import torch

    from bnbook.layers import norm

    u = torch.from_numpy(_numbers(part.seeds[0], 0, part.examples))[:, None]
    exact = norm.BatchNorm(1, affine=False, track_running_stats=False)(u)
    rows = []
    for name, exponent in itertools.product(PRECISIONS, range(part.largest_exponent + 1)):
        kind, bias = getattr(torch, name), 1.5 * 2.0**exponent
        x = (u + bias).to(kind)
        x = x.to(torch.promote_types(kind, torch.float32))
        found = norm.BatchNorm(1, affine=False, track_running_stats=False)(x).double()
        rows.append(
            {
                "precision": name,
                "bias": bias,
                "error": (found - exact).square().mean().sqrt().item(),
                "spacing": torch.finfo(kind).eps * 2.0**exponent,
            }
        )
    return pd.DataFrame(rows)


_RUNS: Mapping[str, Callable[[Config], pd.DataFrame]] = {
    BIAS: _run_bias,
    SCALE: _run_scale,
    ROUNDING: _run_rounding,
}


def _norm(arm: str, affine: bool) -> Any:
    """Return what makes an arm's normalisation layer, or None."""
    from bnbook.layers import norm, outside

    if arm in (WITHOUT, WITH):
        return None if arm == WITHOUT else partial(norm.BatchNorm, affine=affine)
    which = {
        OUTSIDE: (outside.MEAN, outside.VARIANCE),
        MEAN_OUTSIDE: (outside.MEAN,),
        VARIANCE_OUTSIDE: (outside.VARIANCE,),
    }[arm]
    return partial(outside.BatchNormOutside, outside=which, affine=affine)


def splits(config: Config, device: Any) -> images.Splits:
    """Load the images."""
    return images.splits(config.data, config.validation, device, least=config.probe_images)


def _train_networks(runs: Sequence[Config], session: Session) -> list[pd.DataFrame]:
    import torch

    from bnbook.layers import ensemble, norm
    from bnbook.networks import models
    from bnbook.probes import measurements
    from bnbook.training import fit

    config = runs[0]
    split = splits(config, fit.choose_device(session.device))
    x = split.train[0]
    model = models.MLP(
        _norm(config.arms[0], config.affine[0]),
        seeds=[run.seeds[0] for run in runs],
        num_inputs=x[0].numel(),
        hidden=config.hidden,
        init_std=config.init_std,
        biases=True,
    ).to(x.device)
    linears = [layer for layer in model.hidden if isinstance(layer, ensemble.Linear)]
    probed, labels = (each[: config.probe_images] for each in split.validation)

    def in_training() -> dict[str, torch.Tensor]:
        with measurements.undisturbed(model):
            model.train()
            right = model(probed).argmax(-1) == labels[:, None]
        return {"batch_accuracy": right.double().mean(0)}

    def sizes() -> dict[str, torch.Tensor]:
        def size(of: str) -> torch.Tensor:
            each = [getattr(layer, of).double().flatten(1) for layer in linears]
            found: torch.Tensor = torch.linalg.vector_norm(torch.cat(each, 1), dim=1)
            return found

        return {"bias_norm": size("bias"), "weight_norm": size("weight")}

    def means() -> dict[str, torch.Tensor]:
        layers = [layer for layer in model.hidden if isinstance(layer, norm.BatchNorm)]
        if not layers:
            nothing = torch.full((model.members,), torch.nan, dtype=torch.float64)
            return {"offset": nothing, "lag": nothing}
        found = []
        for layer in layers:
            x = measurements.inputs_to(layer, model, probed).double()
            var, mu = torch.var_mean(x, 0, correction=0)
            running = layer.running_mean.view_as(mu)
            found.append(torch.stack([mu, mu - running]) / (var + layer.eps).sqrt())
        offset, lag = torch.cat(found, -1)
        return {"offset": offset.abs().amax(1), "lag": lag.square().mean(1).sqrt()}

    history = images.train(
        runs, session, model, split, config.batch_size, config.steps,
        probes=(images.accuracies(model, split), in_training, sizes, means),
        at=probe_steps(config.steps, config.probes),
    )  # fmt: skip
    members = [
        {
            "case": NETWORK,
            "arm": run.arms[0],
            "affine": run.affine[0],
            "seed": run.seeds[0],
            "learning_rate": run.learning_rates[0],
        }
        for run in runs
    ]
    return images.tables(history, members)


EXPERIMENT = Experiment(
    name="ioffe_outside",
    title="Statistics outside the gradient (Ioffe & Szegedy, section 2)",
    profiles=PROFILES,
    axes=("cases", "affine", "arms", "seeds", "learning_rates"),
    fused=("seeds", "learning_rates"),
    apart=("seeds",),
    split=_split,
    train=train,
    columns=COLUMNS,
    claims=claims.CLAIMS,
    facts=claims.facts,
    figures={
        "example": figures.example,
        "scale": figures.scale,
        "rounding": figures.rounding,
        "network": lambda table: figures.network(
            claims.networks(table), claims.tuned_rates(table)[WITH]
        ),
        "rates": lambda table: figures.rates(claims.networks(table), claims.tuned_rates(table)),
    },
)
