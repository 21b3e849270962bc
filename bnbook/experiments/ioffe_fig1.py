"""Ioffe & Szegedy 2015, section 4.1 and figure 1: a sigmoid network with and without BN.

Two arms, each over the same grid of learning rates and the same seeds. At one seed both arms see
the same minibatches and start from the same weights. Each arm's rate is the one with the best
final validation accuracy, averaged over seeds; the test set chooses nothing.

Stated by the paper: 3 hidden layers of 100 logistic units, binary 28x28 input, small random
Gaussian weights, batches of 60, 50,000 steps, cross-entropy. Chosen here because the paper does
not say: plain SGD, the grid of rates, a weight std of 0.1, eps 1e-5, no BN at the output, a
validation split, the seeds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from bnbook import claims, tuning
from bnbook.claims import Claim
from bnbook.errors import BnbookError
from bnbook.figures import ioffe_fig1 as figures

TITLE = "A sigmoid network with and without batch normalisation (Ioffe & Szegedy, figure 1)"
WITHOUT, WITH = "without BN", "with BN"
PAPER = "Ioffe & Szegedy 2015"
COMMON_RATE = 0.01
"""The untuned rate, common to both arms, at which public reproductions compare them."""


@dataclass(frozen=True)
class Config:
    """Everything that a run depends on.

    Attributes
    ----------
    data : str
        Name of a data set of 28x28 images (see `bnbook.datasets`).
    steps, batch_size : int
        Length of training, and images in a minibatch.
    validation : int
        Training images set aside to choose learning rates; the split does not depend on the seed.
    seeds : tuple of int
        Each sets the initial weights and the minibatches.
    learning_rates : tuple of float
        The grid, the same for both arms.
    arms : tuple of str
        With and without BN.
    hidden : tuple of int
        Widths of the hidden layers.
    init_std : float
        Standard deviation of the initial weights.
    probe_intervals : int
        The longest gap between measurements is a run's length divided by this.
    probe_images : int
        Validation images through which the sigmoids' inputs are measured, as one batch.
    percentiles : tuple of float
        Levels shown in figure 1(b, c).
    unit : int
        The named unit of the last hidden layer, fixed before any run.
    """

    data: str
    steps: int
    validation: int
    seeds: tuple[int, ...]
    learning_rates: tuple[float, ...] = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
    arms: tuple[str, ...] = (WITHOUT, WITH)
    batch_size: int = 60
    hidden: tuple[int, ...] = (100, 100, 100)
    init_std: float = 0.1
    probe_intervals: int = 50
    probe_images: int = 1000
    percentiles: tuple[float, ...] = (15.0, 50.0, 85.0)
    unit: int = 0


PROFILES: Mapping[str, Config] = {
    "quick": Config(
        data="mnist5k",
        steps=800,
        validation=800,
        seeds=(0, 1, 2),
        probe_intervals=20,
        probe_images=300,
    ),
    "standard": Config(
        data="mnist or fashion-mnist or mnist5k",
        steps=50_000,
        validation=10_000,
        seeds=(0, 1, 2, 3, 4, 5),
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
    if profile not in PROFILES:
        raise BnbookError(
            f"profile must be one of {', '.join(PROFILES)} for ioffe_fig1, found {profile!r}."
        )
    known = Config.__dataclass_fields__
    if unknown := sorted(set(changes) - set(known)):
        raise BnbookError(f"ioffe_fig1 has no field {unknown}; it has {', '.join(known)}.")
    config = replace(PROFILES[profile], **{k: v for k, v in changes.items() if v is not None})
    config = replace(config, seeds=tuple(seed + s for s in config.seeds))
    if " or " in config.data:
        from bnbook import datasets

        config = replace(config, data=datasets.largest(config.data.split(" or ")))
    _check(config)
    return config


def _check(config: Config) -> None:
    if COMMON_RATE not in config.learning_rates:
        raise BnbookError(
            f"learning_rates must hold {COMMON_RATE}, the rate of ioffe.fig1.untuned,"
            f" found {config.learning_rates}."
        )
    for field in ("steps", "batch_size", "validation", "probe_intervals", "probe_images"):
        if getattr(config, field) < 1:
            raise BnbookError(f"{field} must be at least 1, found {getattr(config, field)}.")
    for field in ("seeds", "learning_rates", "arms", "hidden"):
        values = getattr(config, field)
        if not values or (len(set(values)) < len(values) and field != "hidden"):
            raise BnbookError(f"{field} must be distinct and not empty, found {values}.")
    if unknown := set(config.arms) - {WITHOUT, WITH}:
        raise BnbookError(f"arms must be among {(WITHOUT, WITH)}, found {sorted(unknown)}.")
    if not 0 <= config.unit < config.hidden[-1]:
        raise BnbookError(f"unit must lie in [0, {config.hidden[-1]}), found {config.unit}.")


def parts(config: Config) -> list[Config]:
    """One config per seed and arm; its learning rates train as one ensemble."""
    return [
        replace(config, seeds=(seed,), arms=(arm,)) for seed in config.seeds for arm in config.arms
    ]


def probe_steps(steps: int, intervals: int) -> list[int]:
    """Return the steps measured: 30 % apart early on, then evenly, `intervals` to the whole run."""
    at, step = {0, steps}, 10.0
    while step < steps:
        at.add(round(step))
        step += min(0.3 * step, steps / intervals)
    return sorted(at)


def run(config: Config, device: str = "auto") -> pd.DataFrame:
    """Train every arm, rate and seed of a config.

    Parameters
    ----------
    config : Config
        From `configure`.
    device : str
        ``auto``, ``cpu`` or ``cuda``.

    Returns
    -------
    pandas.DataFrame
        One row per run and step: ``arm``, ``learning_rate``, ``seed``, ``step``, ``loss`` (mean
        training loss since the row before, nats), ``validation_accuracy``, ``test_accuracy`` (in
        [0, 1]), ``unit_p15`` ... ``unit_p85`` and ``pooled_p15`` ... (percentiles of the input to
        one named sigmoid of the last hidden layer, and to all of that layer), ``movement`` (of
        the run as a whole: `bnbook.measurements.movement`).
    """
    return pd.concat([_run_part(part, device) for part in parts(config)], ignore_index=True)


def _run_part(config: Config, device_name: str) -> pd.DataFrame:
    import torch

    from bnbook import ensemble, measurements, models, norm, training

    device = training.choose_device(device_name)
    (train_x, train_y), (valid_x, valid_y), (test_x, test_y) = _splits(config, device)
    seed, members = config.seeds[0], len(config.learning_rates)
    model = models.SigmoidMLP(
        norm.BatchNorm if config.arms[0] == WITH else None,
        seeds=(seed,) * members,
        num_inputs=train_x[0].numel(),
        hidden=config.hidden,
        init_std=config.init_std,
    ).to(device)
    tracks: list[torch.Tensor] = []

    def accuracies() -> dict[str, torch.Tensor]:
        return {
            "validation_accuracy": measurements.accuracy(model, valid_x, valid_y),
            "test_accuracy": measurements.accuracy(model, test_x, test_y),
        }

    def sigmoid_inputs() -> dict[str, torch.Tensor]:
        z = measurements.inputs_to(
            model.sigmoids[-1], model, valid_x[: config.probe_images], members
        )
        units = measurements.percentiles(z, config.percentiles)
        pooled = measurements.percentiles(z.transpose(1, 2).flatten(0, 1), config.percentiles)
        tracks.append(units.cpu())
        named = zip(config.percentiles, units[:, :, config.unit], pooled, strict=True)
        return {
            f"{which}_p{level:g}": value
            for level, unit, pool in named
            for which, value in (("unit", unit), ("pooled", pool))
        }

    at = probe_steps(config.steps, config.probe_intervals)
    history = training.fit(
        model,
        train_x,
        train_y,
        training.minibatches(len(train_y), config.batch_size, config.steps, seed),
        torch.tensor(config.learning_rates, device=device),
        ensemble.cross_entropy,
        probes=(accuracies, sigmoid_inputs),
        at=at,
    )
    moved = measurements.movement(torch.stack(tracks), torch.tensor(at))
    return _tidy(config, history, moved.tolist())


def _splits(config: Config, device: Any) -> list[tuple[Any, Any]]:
    """Training, validation and test images, binary as in the paper, and their labels."""
    import torch

    from bnbook import datasets

    train, test = (datasets.load(config.data, split, device=device) for split in ("train", "test"))
    if not config.probe_images <= config.validation < len(train.labels):
        raise BnbookError(
            f"validation must lie in [probe_images, {len(train.labels)}) for {config.data},"
            f" found {config.validation} with probe_images {config.probe_images}."
        )
    order = torch.randperm(len(train.labels), generator=torch.Generator().manual_seed(0))
    held_out, kept = order[: config.validation], order[config.validation :]
    binary = [(train.images > 0.5).float(), (test.images > 0.5).float()]
    return [
        (binary[0][kept.to(device)], train.labels[kept.to(device)]),
        (binary[0][held_out.to(device)], train.labels[held_out.to(device)]),
        (binary[1], test.labels),
    ]


def _tidy(config: Config, history: list[dict[str, Any]], moved: list[float]) -> pd.DataFrame:
    rows = []
    for member, (rate, movement) in enumerate(zip(config.learning_rates, moved, strict=True)):
        for measured in history:
            values = {
                name: value[member].item() for name, value in measured.items() if name != "step"
            }
            rows.append(
                {
                    "arm": config.arms[0],
                    "learning_rate": rate,
                    "seed": config.seeds[0],
                    "step": int(measured["step"]),
                    **values,
                    "movement": movement,
                }
            )
    return pd.DataFrame(rows)


# From the table to numbers. Nothing below needs torch.


def tuned_rates(table: pd.DataFrame) -> dict[str, float]:
    """Each arm's learning rate: best final validation accuracy, averaged over seeds."""
    return tuning.tuned_rates(table, (WITHOUT, WITH))


def steps_to_target(table: pd.DataFrame) -> pd.DataFrame:
    """Steps that each tuned arm needs to reach the tuned baseline's best validation accuracy.

    Parameters
    ----------
    table : pandas.DataFrame
        The experiment's table.

    Returns
    -------
    pandas.DataFrame
        Index seed; columns the arms: the first measured step at or above the target of that seed,
        NaN where it is never reached.
    """
    rates = tuned_rates(table)
    baseline = tuning.at_rates(table, {WITHOUT: rates[WITHOUT]})
    best = baseline.groupby("seed")["validation_accuracy"].max()
    targets = {int(str(seed)): float(value) for seed, value in best.items()}
    return tuning.steps_to(table, rates, "validation_accuracy", targets)


def speedup(table: pd.DataFrame) -> pd.Series:
    """Steps of the tuned baseline divided by steps of tuned BN, to the same accuracy, per seed."""
    steps = steps_to_target(table)
    return pd.Series(steps[WITHOUT] / steps[WITH])


def accuracy_gap(table: pd.DataFrame, rates: Mapping[str, float]) -> pd.Series:
    """Final test accuracy with BN minus without, in percentage points, per seed."""
    final = tuning.final_by_arm(table, rates, "test_accuracy")
    return pd.Series(100 * (final[WITH] - final[WITHOUT]))


def tuned_gap(table: pd.DataFrame) -> pd.Series:
    """`accuracy_gap` at each arm's own best rate."""
    return accuracy_gap(table, tuned_rates(table))


def common_gap(table: pd.DataFrame) -> pd.Series:
    """`accuracy_gap` at `COMMON_RATE`, the same for both arms."""
    return accuracy_gap(table, {WITHOUT: COMMON_RATE, WITH: COMMON_RATE})


def gap_closed(table: pd.DataFrame) -> pd.Series:
    """Share of `common_gap` that is gone when each arm is tuned, per seed."""
    return pd.Series(1 - tuned_gap(table) / common_gap(table))


def movement_ratio(table: pd.DataFrame) -> pd.Series:
    """Movement of the percentiles without BN divided by with BN, tuned arms, per seed."""
    final = tuning.final_by_arm(table, tuned_rates(table), "movement")
    return pd.Series(final[WITHOUT] / final[WITH])


CLAIMS = (
    Claim(
        id="ioffe.fig1a.speed",
        paper=PAPER,
        section="4.1, figure 1(a)",
        statement="BN trains faster.",
        quantity=(
            "steps of the tuned network without BN to its best validation accuracy, divided by"
            " steps of the tuned BN network to the same accuracy"
        ),
        measure=speedup,
        bound=1.0,
        scale="log",
        digits=1,
        unit="×",
    ),
    Claim(
        id="ioffe.fig1a.accuracy",
        paper=PAPER,
        section="4.1, figure 1(a)",
        statement="BN ends at a higher test accuracy.",
        quantity="final test accuracy with BN minus without, each at its tuned rate",
        measure=tuned_gap,
        bound=0.0,
        unit=" points",
    ),
    Claim(
        id="ioffe.fig1bc.stability",
        paper=PAPER,
        section="4.1, figure 1(b, c)",
        statement="BN makes the distribution of a sigmoid's input much more stable in training.",
        quantity=(
            "movement of the 15th, 50th and 85th percentiles during training, in units of their"
            " spread, median unit of the last hidden layer: without BN divided by with BN, each"
            " at its tuned rate"
        ),
        measure=movement_ratio,
        bound=1.0,
        scale="log",
        digits=2,
        unit="×",
    ),
    Claim(
        id="ioffe.fig1.untuned",
        paper="this book",
        section="a control for figure 1(a)",
        statement=(
            f"Most of the gap at an untuned common rate ({COMMON_RATE}) comes from the rate: it"
            " vanishes when each network has its own."
        ),
        quantity=(
            f"share of the gap in final test accuracy at the common rate {COMMON_RATE} that is"
            " gone when each network is at its tuned rate"
        ),
        measure=gap_closed,
        bound=0.5,
        digits=3,
    ),
)

FIGURES = {
    "accuracy": lambda table: figures.accuracy(table, tuned_rates(table)),
    "equal_rates": figures.equal_rates,
    "percentiles": lambda table: figures.percentiles(table, tuned_rates(table)),
    "rates": lambda table: figures.rates(table, tuned_rates(table)),
}


def facts(table: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """Return the numbers that the chapter quotes beside the claims.

    Parameters
    ----------
    table : pandas.DataFrame
        The experiment's table.

    Returns
    -------
    dict
        Name -> ``value``, ``digits``, ``unit`` and, for means over seeds, ``low``, ``high``.
    """
    rates, steps = tuned_rates(table), steps_to_target(table)
    grid = sorted(table["learning_rate"].unique())
    common, most = dict.fromkeys(rates, COMMON_RATE), dict.fromkeys(rates, grid[-1])
    tuned, untuned, largest = (
        tuning.final_by_arm(table, r, "test_accuracy") for r in (rates, common, most)
    )
    seeds = table["seed"].unique()
    half, most_of = (
        tuning.steps_to(table, rates, "validation_accuracy", {int(s): level for s in seeds})
        for level in (0.5, 0.9)
    )
    movement, early = (tuning.final_by_arm(table, r, "movement") for r in (rates, common))
    found = {
        "rates": claims.fact([len(grid)], 0),
        "steps": claims.fact([table["step"].max()], 0),
        "seeds": claims.fact([table["seed"].nunique()], 0),
        "common_gap": claims.fact(common_gap(table), 1, " points"),
    }
    for name, arm in (("without", WITHOUT), ("with", WITH)):
        found |= {
            f"{name}_rate": claims.fact([rates[arm]], 0 if rates[arm] >= 1 else 2),
            f"{name}_on_edge": claims.fact([rates[arm] in (grid[0], grid[-1])], 0),
            f"{name}_accuracy": claims.fact(100 * tuned[arm], 2, " %"),
            f"{name}_common_accuracy": claims.fact(100 * untuned[arm], 1, " %"),
            f"{name}_movement": claims.fact(movement[arm], 3),
            f"{name}_common_movement": claims.fact(early[arm], 3),
            f"{name}_steps": claims.fact(steps[arm].dropna(), 0),
            f"{name}_steps_to_50": claims.fact(half[arm].dropna(), 0),
            f"{name}_steps_to_90": claims.fact(most_of[arm].dropna(), 0),
            f"{name}_usable": claims.fact(
                [tuning.usable_rates(table, arm, "test_accuracy", 0.01)], 0
            ),
            f"{name}_largest_accuracy": claims.fact(100 * largest[arm], 1, " %"),
        }
    return found
