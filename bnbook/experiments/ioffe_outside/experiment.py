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
from bnbook.experiments import experiment
from bnbook.experiments.ioffe_outside import claims, figures
from bnbook.experiments.ioffe_outside.claims import BIAS, CONSTANT, NETWORK, ROUNDING, SCALE, SLOPED
from bnbook.tables.arms import MEAN_OUTSIDE, OUTSIDE, VARIANCE_OUTSIDE, WITH, WITHOUT
from bnbook.training.session import Session

TITLE = "Statistics outside the gradient (Ioffe & Szegedy, section 2)"

CLAIMS = claims.CLAIMS
FIGURES = {
    "example": figures.example,
    "scale": figures.scale,
    "rounding": figures.rounding,
    "network": lambda table: figures.network(
        claims.networks(table), claims.tuned_rates(table)[WITH]
    ),
    "rates": lambda table: figures.rates(claims.networks(table), claims.tuned_rates(table)),
}
facts = claims.facts

CASES = (NETWORK, BIAS, SCALE, ROUNDING)
ARMS = (WITH, OUTSIDE, MEAN_OUTSIDE, VARIANCE_OUTSIDE, WITHOUT)
PLAIN_ARMS = (WITH, OUTSIDE)
"""Arms that are trained without the affine pair too."""
Numbers = np.ndarray[Any, np.dtype[np.float64]]
PRECISIONS = ("float64", "float32", "bfloat16")


@dataclass(frozen=True)
class Config:
    """Everything that a run depends on.

    Attributes
    ----------
    data : str
        Name of the networks' data set (see `bnbook.datasets`).
    steps, batch_size : int
        Length of a network's training, even, and images in a minibatch.
    validation : float
        Share of the training images set aside to choose learning rates; the split does not depend
        on the seed.
    seeds : tuple of int
        Each sets the numbers u of the examples, and the initial weights and the minibatches of the
        networks.
    learning_rates : tuple of float
        The networks' grid, the same for all arms.
    cases, arms : tuple of str
        What is run.
    affine : tuple of bool
        BN with the affine pair, and without it for the arms in `PLAIN_ARMS`.
    hidden : tuple of int
        Widths of the hidden layers.
    init_std : float
        Standard deviation of the initial weights.
    probes : int
        Evenly spaced measurements of a network, even, besides those of the first steps.
    probe_images : int
        Validation images that are normalised with their own statistics, as one batch.
    examples, example_steps : int
        Numbers u of an example, and its steps.
    example_rate, target : float
        The examples' learning rate and (mean) target.
    slope : float
        By how much the sloped target grows with u.
    draws : int
        Draws of u with which the example with the scale is run at each seed.
    eps : float
        Added to the example's variance.
    largest_exponent : int
        The biases of the case ``rounding`` go up to 1.5 times 2 to this power.
    """

    data: str
    steps: int
    seeds: tuple[int, ...]
    learning_rates: tuple[float, ...]
    hidden: tuple[int, ...]
    validation: float = 0.15
    cases: tuple[str, ...] = CASES
    arms: tuple[str, ...] = ARMS
    affine: tuple[bool, ...] = (True, False)
    batch_size: int = 60
    init_std: float = 0.1
    probes: int = 20
    probe_images: int = 1000
    examples: int = 1000
    example_steps: int = 200
    example_rate: float = 0.1
    target: float = 2.0
    slope: float = 2.0
    draws: int = 10
    eps: float = 1e-5
    largest_exponent: int = 26


PROFILES: Mapping[str, Config] = {
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
        Where `data` names several sets ("a or b"), the largest that this machine has.

    Raises
    ------
    BnbookError
        When the profile or a field is unknown, or a value is impossible.
    """
    config = experiment.configure("ioffe_outside", PROFILES, profile, seed, changes)
    _check(config)
    return config


def _check(config: Config) -> None:
    positive = ("steps", "batch_size", "probes", "probe_images", "example_steps", "draws")
    experiment.check_positive(config, positive)
    experiment.check_distinct(config, ("seeds", "learning_rates", "cases", "arms", "affine"))
    for name, allowed in (("cases", CASES), ("arms", ARMS)):
        if unknown := sorted(set(getattr(config, name)) - set(allowed)):
            raise BnbookError(f"{name} must be among {allowed}, found {unknown}.")
    for name in ("steps", "probes"):
        if getattr(config, name) % 2:
            raise BnbookError(f"{name} must be even, found {getattr(config, name)}.")
    if not 0 < config.validation < 1:
        raise BnbookError(f"validation must lie in (0, 1), found {config.validation}.")
    if config.target == 0:
        raise BnbookError("target must not be 0, with which the example's bias stands still.")


def parts(config: Config) -> list[Config]:
    """Return one config for each network (pair, arm, seed, rate) and each other case and seed."""
    return [part for name in config.cases for part in _parts_of(name, config)]


def _parts_of(name: str, config: Config) -> list[Config]:
    one = replace(config, cases=(name,))
    if name != NETWORK:
        only = replace(one, arms=(), affine=(), learning_rates=())
        return experiment.single_runs(only, ("seeds",))
    runs = experiment.single_runs(one, ("affine", "arms", "seeds", "learning_rates"))
    return [run for run in runs if run.affine[0] or run.arms[0] in PLAIN_ARMS]


def fuses(part: Config) -> Config:
    """Return what networks share that train as one ensemble; the other cases run alone."""
    if part.cases != (NETWORK,):
        return part
    return experiment.common(part, ("seeds", "learning_rates"))


def probe_steps(steps: int, count: int) -> list[int]:
    """Return the steps measured: 1, 2, 5, 10, 20 and 50, and `count` evenly spaced ones."""
    even = {steps * i // count for i in range(count + 1)}
    return sorted(even | {step for step in (1, 2, 5, 10, 20, 50) if step < steps})


def run(config: Config, device: str = "auto") -> pd.DataFrame:
    """Run every case of a config.

    Parameters
    ----------
    config : Config
        From `configure`.
    device : str
        ``auto``, ``cpu`` or ``cuda``.

    Returns
    -------
    pandas.DataFrame
        Columns ``case`` and ``seed``, and by case, NaN or None elsewhere:

        - ``network``, one row per run and step: ``arm``, ``affine``, ``learning_rate``, ``step``,
          ``loss`` (mean training loss since the row before, nats), ``diverged_at`` (step whose
          loss was not finite, -1 for none), ``validation_accuracy`` and ``test_accuracy`` (with
          the running statistics, in [0, 1]), ``batch_accuracy`` (validation images normalised with
          their own statistics), ``bias_norm`` and ``weight_norm`` (of all hidden layers),
          ``offset`` (largest size of a unit's mean) and ``lag`` (distance of the running mean from
          the mean, root mean square over units), both over the probe images and in the unit's
          standard deviations.
        - ``bias`` and ``scale``, one row per arm, draw and step: ``bias``, ``weight``, ``loss``,
          ``gradient`` (of the bias) before that step; ``target``; ``expected``, the closed form of
          the bias, or, with the scale, ``line``, that of the bias given the weight, and ``root``,
          that of the weight.
        - ``rounding``, one row per ``precision`` and ``bias``: ``error``, root mean square of the
          normalised values' error, and ``spacing``, of the numbers of that precision at the bias.
    """
    tables = []
    for _, runs in itertools.groupby(parts(config), lambda part: (fuses(part), part.seeds)):
        tables += train(list(runs), Session(device))
    return pd.concat(tables, ignore_index=True)


def train(runs: Sequence[Config], session: Session) -> list[pd.DataFrame]:
    """Train networks that differ in seed and learning rate as one ensemble, or run examples.

    Parameters
    ----------
    runs : sequence of Config
        Of `parts`, equal under `fuses`.
    session : Session
        Device, plan, checkpoint, deadline and progress.

    Returns
    -------
    list of pandas.DataFrame
        The rows of each run, as `run` describes them.

    Raises
    ------
    BnbookError
        When runs do not fuse.
    """
    if odd := [run for run in runs if fuses(run) != fuses(runs[0])]:
        raise BnbookError(f"runs of one ensemble differ in seed and rate alone, found {odd[0]}.")
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


def _train_networks(runs: Sequence[Config], session: Session) -> list[pd.DataFrame]:
    import torch

    from bnbook.layers import ensemble, norm
    from bnbook.networks import models
    from bnbook.probes import measurements
    from bnbook.training import fit

    config = runs[0]
    device = fit.choose_device(session.device)
    (train_x, train_y), (valid_x, valid_y), (test_x, test_y) = _splits(config, device)
    seeds = [run.seeds[0] for run in runs]
    model = models.MLP(
        _norm(config.arms[0], config.affine[0]),
        seeds=seeds,
        num_inputs=train_x[0].numel(),
        hidden=config.hidden,
        init_std=config.init_std,
        biases=True,
    ).to(device)
    linears = [layer for layer in model.hidden if isinstance(layer, ensemble.Linear)]

    def accuracies() -> dict[str, torch.Tensor]:
        batch = slice(config.probe_images)
        with measurements.undisturbed(model):
            model.train()
            right = model(valid_x[batch]).argmax(-1) == valid_y[batch, None]
        return {
            "validation_accuracy": measurements.accuracy(model, valid_x, valid_y),
            "test_accuracy": measurements.accuracy(model, test_x, test_y),
            "batch_accuracy": right.double().mean(0),
        }

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
            x = measurements.inputs_to(layer, model, valid_x[: config.probe_images]).double()
            var, mu = torch.var_mean(x, 0, correction=0)
            running = layer.running_mean.view_as(mu)
            found.append(torch.stack([mu, mu - running]) / (var + layer.eps).sqrt())
        offset, lag = torch.cat(found, -1)
        return {"offset": offset.abs().amax(1), "lag": lag.square().mean(1).sqrt()}

    distinct = sorted(set(seeds))
    batches = [
        fit.minibatches(len(train_y), config.batch_size, config.steps, seed) for seed in distinct
    ]
    history = fit.fit(
        model,
        train_x,
        train_y,
        torch.stack(batches, 1) if len(distinct) > 1 else batches[0],
        fit.SGD([run.learning_rates[0] for run in runs]),
        ensemble.cross_entropy,
        probes=(accuracies, sizes, means),
        at=probe_steps(config.steps, config.probes),
        streams=[distinct.index(seed) for seed in seeds],
        session=session,
    )
    return _tidy(runs, history)


def _splits(config: Config, device: Any) -> list[tuple[Any, Any]]:
    """Training, validation and test images and their labels."""
    import torch

    from bnbook import datasets

    train, test = (datasets.load(config.data, split, device=device) for split in ("train", "test"))
    count = round(config.validation * len(train.labels))
    if not 2 <= config.probe_images <= count:
        raise BnbookError(
            f"probe_images must lie in [2, {count}], the validation images of {config.data}, found"
            f" {config.probe_images}."
        )
    order = torch.randperm(len(train.labels), generator=torch.Generator().manual_seed(0)).to(device)
    held_out, kept = order[:count], order[count:]
    return [
        (train.images[kept], train.labels[kept]),
        (train.images[held_out], train.labels[held_out]),
        (test.images, test.labels),
    ]


def _tidy(runs: Sequence[Config], history: list[dict[str, Any]]) -> list[pd.DataFrame]:
    import torch

    steps = torch.stack([row.pop("step") for row in history]).numpy()
    columns = {name: torch.stack([row[name] for row in history]).cpu() for name in history[0]}
    return [
        pd.DataFrame(
            {
                "case": NETWORK,
                "arm": run.arms[0],
                "affine": run.affine[0],
                "seed": run.seeds[0],
                "learning_rate": run.learning_rates[0],
                "step": steps,
                **{name: column[:, member].double().numpy() for name, column in columns.items()},
            }
        ).astype({"diverged_at": int})
        for member, run in enumerate(runs)
    ]
