"""Jacobians at initialisation: Ioffe & Szegedy 2015, section 3.3, and Yang et al. 2019.

Deep networks of equal layers with Gaussian input, weights and cotangent, not trained: the singular
values of their layers' Jacobians and of the whole network's, and how the gradient grows from layer
to layer. With BN, without, and with BN and skips.

Stated by the papers: the conjecture, for normalised inputs of consecutive layers; the growth, for
wide layers and large batches. Chosen here: sizes, nonlinearities, initial weights (He's for ReLU,
Xavier's for the others; with BN their scale does not matter), eps 1e-5, and that a layer's Jacobian
is taken at one example with the batch's statistics held; the batch's Jacobian, with the statistics
differentiated, is measured beside it at a small size.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from bnbook.errors import BnbookError
from bnbook.experiments.experiment import Experiment, check_distinct, check_positive
from bnbook.experiments.jacobians import claims, figures
from bnbook.experiments.jacobians.claims import (
    BATCH,
    GAUSSIAN,
    GRADIENT,
    LAYER,
    NETWORK,
    ORTHOGONAL,
)
from bnbook.tables.arms import RESIDUAL, WITH, WITHOUT

Row = dict[str, Any]


@dataclass(frozen=True)
class Config:
    """Everything that a run depends on."""

    seeds: tuple[int, ...]  # each sets input, weights and cotangent
    width: int  # of the networks whose singular values are measured
    depth: int  # of these
    batch: int  # of these
    layers: tuple[int, ...]  # from 2 to `depth`, at which they are
    gradient_widths: tuple[int, ...]  # of networks that send a gradient back; the widest has all
    gradient_batch: int  # their batch
    linear_batches: tuple[int, ...]  # further batches of the linear network
    examples: int = 2  # at which a Jacobian is taken
    small_width: int = 16  # where the Jacobian is that of the whole batch
    small_batch: int = 24  # there
    gradient_depth: int = 20  # of the networks that send a gradient back
    data: str = "generated"

    def __post_init__(self) -> None:
        check_positive(self, ("width", "examples", "small_width"))
        check_distinct(self, ("seeds", "layers", "gradient_widths", "linear_batches"))
        for name in ("depth", "gradient_depth", "small_batch"):
            if getattr(self, name) < 2:
                raise BnbookError(f"{name} must be at least 2, found {getattr(self, name)}.")
        if not 2 <= min(self.layers) <= max(self.layers) <= self.depth:
            raise BnbookError(f"layers must lie in [2, {self.depth}], found {self.layers}.")
        batches = (self.gradient_batch, *self.linear_batches)
        if min(batches) < 4 or len(set(batches)) < len(batches):
            raise BnbookError(
                f"gradient_batch and linear_batches must be distinct and at least 4, found"
                f" {batches}."
            )
        if self.examples > self.batch:
            raise BnbookError(f"examples must be at most {self.batch}, found {self.examples}.")


PROFILES = {
    "quick": Config(
        seeds=(0, 1, 2),
        width=64,
        depth=20,
        batch=256,
        layers=(2, 5, 10, 20),
        gradient_widths=(32, 64, 192),
        gradient_batch=256,
        linear_batches=(8, 32),
    ),
    "standard": Config(
        seeds=tuple(range(10)),
        width=256,
        depth=50,
        batch=512,
        layers=(2, 5, 10, 20, 35, 50),
        gradient_widths=(64, 128, 256, 512, 1024),
        gradient_batch=512,
        linear_batches=(8, 16, 32, 128),
        examples=4,
    ),
}

COLUMNS = {
    "seed": "of input, weights and cotangent",
    "measured": "layer, network, batch or gradient: see `bnbook.experiments.jacobians.claims`",
    "arm": "with BN, without, or with BN and skips",
    "nonlinearity": "linear, ReLU, tanh or sigmoid",
    "weights": "gaussian or orthogonal",
    "width": "of the network",
    "batch": "examples in it",
    "layer": "from 1",
    "example": "at which the Jacobian is taken, -1 for all",
    "rms": "root mean square of the singular values",
    "zeros": "share of singular values that are zero: `bnbook.probes.jacobian.singular_values`",
    "s10": "10th percentile of the others",
    "s50": "50th percentile of the others",
    "s90": "90th percentile of the others",
    "smax": "largest singular value",
    "squared_gradient": "squared norm, relative to the last layer's",
}


def measure(run: Config, device: Any) -> pd.DataFrame:
    """Measure Jacobians and gradients at a seed."""
    rows = [*_layers(run, device), *_batches(run, device), *_gradients(run, device)]
    return pd.DataFrame([{"seed": run.seeds[0], **row} for row in rows])


def _network(seed: int, width: int, depth: int, g: str, arm: str, weights: str, device: Any) -> Any:
    import torch

    from bnbook.probes import jacobian

    generator = torch.Generator().manual_seed(seed)
    std = 2**0.5 if g == "ReLU" else 1.0
    drawn = jacobian.draw_weights(width, depth, std, generator, weights == ORTHOGONAL)
    on_device = [W.to(device) for W in drawn]
    return jacobian.Network(on_device, g, arm != WITHOUT, skips=arm == RESIDUAL)


def _normal(seed: int, batch: int, width: int, device: Any) -> Any:
    import torch

    generator = torch.Generator().manual_seed(_INPUT_STREAM + seed)
    return torch.randn((batch, width), generator=generator, dtype=torch.float64).to(device)


_INPUT_STREAM = 0x1A90_0000  # keeps a seed's inputs apart from its weights
_COTANGENT = 0x0100_0000  # and its cotangents from both


def _labels(measured: str, arm: str, g: str, weights: str, width: int, batch: int) -> Row:
    return {
        "measured": measured, "arm": arm, "nonlinearity": g, "weights": weights, "width": width,
        "batch": batch,
    }  # fmt: skip


def _layers(run: Config, device: Any) -> Iterator[Row]:
    """Singular values of layers' Jacobians and of their products, at single examples."""
    cases = [(arm, g, GAUSSIAN) for arm in (WITH, WITHOUT) for g in claims.NONLINEARITIES]
    for arm, g, weights in [*cases, (WITH, "linear", ORTHOGONAL)]:
        network = _network(run.seeds[0], run.width, run.depth, g, arm, weights, device)
        labels = [
            _labels(measured, arm, g, weights, run.width, run.batch)
            for measured in (LAYER, NETWORK)
        ]
        yield from _products(run, network, _normal(run.seeds[0], run.batch, run.width, device),
                             labels)  # fmt: skip


def _products(run: Config, network: Any, x: Any, labels: Sequence[Row]) -> Iterator[Row]:
    import torch

    from bnbook.probes import jacobian

    states = network.states(x)
    product = torch.eye(run.width, dtype=x.dtype, device=x.device)
    for layer in range(2, max(run.layers) + 1):
        J = jacobian.layer_jacobians(network, layer, states, run.examples)
        product = J @ product
        if layer not in run.layers:
            continue
        for example in range(run.examples):
            at = {"layer": layer, "example": example}
            for label, matrices in zip(labels, (J, product), strict=True):
                yield {**label, **at, **jacobian.singular_values(matrices[example])}


def _batches(run: Config, device: Any) -> Iterator[Row]:
    """Singular values of the Jacobian of layer 2 with respect to a whole small batch."""
    from bnbook.probes import jacobian

    width, batch = run.small_width, run.small_batch
    for g in claims.NONLINEARITIES:
        network = _network(run.seeds[0], width, 2, g, WITH, GAUSSIAN, device)
        states = network.states(_normal(run.seeds[0], batch, width, device))
        J = jacobian.batch_jacobian(network, 2, states)
        found = jacobian.singular_values(J, jacobian.NEARLY_ZERO)
        label = _labels(BATCH, WITH, g, GAUSSIAN, width, batch)
        yield {**label, "layer": 2, "example": -1, **found}


def _gradients(run: Config, device: Any) -> Iterator[Row]:
    """Squared gradient norms by layer."""
    from bnbook.probes import jacobian

    seed = run.seeds[0]
    for arm, g, width, batch in _gradient_cases(run):
        network = _network(seed, width, run.gradient_depth, g, arm, GAUSSIAN, device)
        x = _normal(seed, batch, width, device)
        cotangent = _normal(_COTANGENT + seed, batch, width, device)
        squares = jacobian.squared_gradients(network, x, cotangent)
        label = _labels(GRADIENT, arm, g, GAUSSIAN, width, batch)
        for layer, square in enumerate(squares, start=1):
            yield {**label, "layer": layer, "example": -1, "squared_gradient": square}


def _gradient_cases(run: Config) -> list[tuple[str, str, int, int]]:
    """Arm, nonlinearity, width and batch of each network through which a gradient is sent."""
    widest, batch = max(run.gradient_widths), run.gradient_batch
    arms = [(arm, g) for arm in (WITH, WITHOUT) for g in claims.NONLINEARITIES]
    main = [(arm, g, widest, batch) for arm, g in [*arms, (RESIDUAL, "ReLU")]]
    narrower = [(WITH, "ReLU", width, batch) for width in run.gradient_widths if width < widest]
    return [*main, *narrower, *((WITH, "linear", widest, size) for size in run.linear_batches)]


EXPERIMENT = Experiment(
    name="jacobians",
    title="Jacobians and gradients of deep networks at initialisation (section 3.3; Yang et al.)",
    profiles=PROFILES,
    measure=measure,
    columns=COLUMNS,
    claims=claims.CLAIMS,
    facts=claims.facts,
    figures={
        "spectra": figures.spectra,
        "gradients": lambda table: figures.gradients(table, claims.expected_growth),
        "limits": lambda table: figures.limits(claims.growth(table)),
    },
)
