"""Ioffe & Szegedy 2015, Algorithm 2 and sections 3.2 and 3.4: what holds exactly, and rounding.

Nothing is trained. Small frozen networks with random weights and inputs, in float64: Algorithm 2's
averages over every minibatch that there is, BN of feature maps against BN of their values in rows,
BN folded into the layer before it, the bias that BN cancels, and how far the output for one example
depends on the rest of its minibatch.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pandas as pd

from bnbook.errors import BnbookError
from bnbook.experiments.experiment import Experiment, check_distinct, check_positive
from bnbook.experiments.ioffe_alg2 import claims, figures

Row = dict[str, Any]


@dataclass(frozen=True)
class Config:
    """Everything that a run depends on."""

    seeds: tuple[int, ...]  # each draws weights, inputs and cotangents
    data: str = "generated"
    examples: int = 12  # N, of which all minibatches are formed
    with_replacement: int = 5  # examples whose minibatches may hold one twice
    batch_sizes: tuple[int, ...] = (2, 3, 6, 11)  # m, from 2 to N
    shapes: tuple[tuple[int, int, int, int], ...] = (  # (m, features, p, q) of feature maps
        (2, 3, 4, 5),
        (8, 4, 3, 3),
        (1, 2, 5, 6),
        (6, 3, 1, 1),
    )
    crowd: int = 2048  # examples among which batch mates are drawn
    draws: int = 24  # times that they are drawn anew
    mate_sizes: tuple[int, ...] = (2, 4, 8, 16, 32, 64, 128, 256)  # m there, dividing `crowd`
    eps: float = 1e-5  # added to the variance

    def __post_init__(self) -> None:
        check_positive(self, ("examples", "with_replacement", "crowd", "draws"))
        check_distinct(self, ("seeds", "batch_sizes", "shapes", "mate_sizes"))
        if not 2 <= min(self.batch_sizes) <= max(self.batch_sizes) <= self.examples:
            raise BnbookError(
                f"batch_sizes must lie in [2, {self.examples}], the examples that there are, found"
                f" {self.batch_sizes}."
            )
        if odd := [m for m in self.mate_sizes if m < 2 or self.crowd % m]:
            raise BnbookError(
                f"mate_sizes must be at least 2 and divide crowd = {self.crowd}, found {odd}."
            )
        if small := [shape for shape in self.shapes if shape[0] * shape[2] * shape[3] < 2]:
            raise BnbookError(f"shapes must have m p q >= 2 values of a feature, found {small}.")


PROFILES = {
    "quick": Config(seeds=(0, 1, 2)),
    "standard": Config(seeds=tuple(range(10)), crowd=8192, draws=64),
}

COLUMNS = {
    "seed": "of weights, inputs and cotangents",
    "count": "minibatches averaged over",
    "error": "relative; of fold, bias and evaluation in roundings of the type",
    "value": "a number that theory predicts, else NaN",
    "theory": "its prediction",
    "check": "mean, variance, without the factor, with replacement (Algorithm 2); feature maps,"
    " shift, and shift, one pair a position, which does not hold (section 3.2); fold; bias;"
    " evaluation; mates",
    "case": "layer, shape or quantity that is checked",
    "m": "batch size, or values of a feature",
}


def measure(config: Config, device: Any) -> pd.DataFrame:  # noqa: ARG001
    """Measure a seed, in float64 on the CPU whatever the device."""
    import torch

    (seed,) = config.seeds
    generator = torch.Generator().manual_seed(seed)
    checks = (_population, _replacement, _feature_maps, _shifts, _folding, _bias, _mates)
    rows = [row for check in checks for row in check(config, generator)]
    blank = {"count": 1, "error": math.nan, "value": math.nan, "theory": math.nan}
    return pd.DataFrame([{"seed": seed, **blank, **row} for row in rows])


def _normal(generator: Any, *shape: int) -> Any:
    import torch

    return torch.randn(shape, generator=generator, dtype=torch.float64)


def _batch_norm(generator: Any, features: int, eps: float, momentum: float | None = 0.1) -> Any:
    """Make a BN layer in float64 with random scale and shift."""
    import torch

    from bnbook.layers import norm

    layer = norm.BatchNorm(features, eps, momentum).double()
    with torch.no_grad():
        layer.weight.copy_(1 + 0.3 * _normal(generator, features))
        layer.bias.copy_(0.3 * _normal(generator, features))
    return layer


def _apart(found: Any, expected: Any) -> float:
    """Largest difference between two tensors, in units of the expected one's largest entry."""
    import torch

    found, expected = (torch.as_tensor(x).detach().double() for x in (found, expected))
    return float((found - expected).abs().max() / expected.abs().max())


def _population(config: Config, generator: Any) -> Iterator[Row]:
    """Algorithm 2 on a frozen network of two BN layers, over all minibatches of each size.

    A layer's statistics are taken with the layers below already replaced by their affine maps, in
    the order of the algorithm's loop.
    """
    import torch

    from bnbook import formulas

    u = _normal(generator, config.examples, 6)
    for layer, width in ((1, 5), (2, 4)):
        x = u @ _normal(generator, u.shape[1], width)
        mean, variance = x.mean(0), x.var(0, correction=1)
        for m in config.batch_sizes:
            batches = torch.tensor(list(itertools.combinations(range(len(x)), m)))
            bn = _batch_norm(generator, width, config.eps, momentum=None)
            for batch in batches:
                bn(x[batch])
            facts = {"case": f"layer {layer}", "m": m, "count": len(batches)}
            off = (bn.running_mean - mean) / variance.sqrt()
            yield {"check": "mean", "error": float(off.abs().max()), **facts}
            ratio = bn.running_var / variance
            yield {"check": "variance", **facts, **_held(ratio, 1.0)}
            _, biased = formulas.batch_statistics(x[batches].numpy())
            ratio = torch.as_tensor(biased.mean(0)) / variance
            yield {"check": "without the factor", **facts, **_held(ratio, (m - 1) / m)}
        gamma, beta = bn.weight.detach().numpy(), bn.bias.detach().numpy()
        y = formulas.inference(x.numpy(), gamma, beta, mean.numpy(), variance.numpy(), config.eps)
        u = torch.as_tensor(y).sigmoid()


def _held(ratio: Any, theory: float) -> Row:
    error = float((ratio / theory - 1).abs().max())
    return {"value": float(ratio.mean()), "theory": theory, "error": error}


def _replacement(config: Config, generator: Any) -> Iterator[Row]:
    """The same where a minibatch may hold an example twice: 1/N in place of 1/(N-1)."""
    import torch

    from bnbook import formulas

    n = config.with_replacement
    x = _normal(generator, n, 4)
    for m in (2, 3, 4):
        batches = torch.tensor(list(itertools.product(range(n), repeat=m)))
        mean, variance = formulas.population_statistics(x[batches].numpy())
        facts = {"check": "with replacement", "m": m, "count": len(batches)}
        off = (torch.as_tensor(mean) - x.mean(0)) / x.std(0, correction=0)
        yield {**facts, "case": "mean", "error": float(off.abs().max())}
        ratio = torch.as_tensor(variance) / x.var(0, correction=0)
        yield {**facts, "case": "variance", **_held(ratio, 1.0)}


def _feature_maps(config: Config, generator: Any) -> Iterator[Row]:
    """The layer on feature maps against the formulas on rows: outputs, gradients, statistics."""
    from bnbook import formulas

    for shape in config.shapes:
        features = shape[1]
        x, dy = 2 + _normal(generator, *shape), _normal(generator, *shape)
        x.requires_grad_()
        bn = _batch_norm(generator, features, config.eps)
        y = bn(x)
        y.backward(dy)
        gamma, beta = bn.weight.detach().numpy(), bn.bias.detach().numpy()
        rows = _rows(x).detach().numpy()
        expected_y, cache = formulas.batch_norm_forward(rows, gamma, beta, config.eps)
        dx, dgamma, dbeta = formulas.batch_norm_backward(_rows(dy).numpy(), cache)
        mean, variance = formulas.running_statistics(rows[None], 0.1)
        pairs = {
            "y": (_rows(y), expected_y),
            "dx": (_rows(x.grad), dx),
            "dgamma": (bn.weight.grad, dgamma),
            "dbeta": (bn.bias.grad, dbeta),
            "running mean": (bn.running_mean, mean),
            "running variance": (bn.running_var, variance),
        }
        for name, (found, expected) in pairs.items():
            case = f"{name} of {' x '.join(map(str, shape))}"
            yield {
                "check": "feature maps",
                "case": case,
                "m": len(rows),
                "error": _apart(found, expected),
            }


def _rows(maps: Any) -> Any:
    """(m, features, p, q) -> (m p q, features)."""
    return maps.permute(0, 2, 3, 1).reshape(-1, maps.shape[1])


def _shifts(config: Config, generator: Any) -> Iterator[Row]:
    """Normalise shifted maps and shift normalised maps, cyclically."""
    for shape in config.shapes:
        if shape[2] * shape[3] == 1:
            continue
        x = _normal(generator, *shape)
        facts = {"case": " x ".join(map(str, shape)), "m": shape[0] * shape[2] * shape[3]}
        bn = _batch_norm(generator, shape[1], config.eps)
        error = _apart(bn(_shifted(x)), _shifted(bn(x)))
        yield {"check": "shift", "error": error, **facts}
        if shape[0] > 1:
            each = _batch_norm(generator, math.prod(shape[1:]), config.eps)
            error = _apart(
                each(_shifted(x).flatten(1)).view(shape), _shifted(each(x.flatten(1)).view(shape))
            )
            yield {"check": "shift, one pair a position", "error": error, **facts}


def _shifted(maps: Any) -> Any:
    return maps.roll((1, 2), (2, 3))


def _folding(config: Config, generator: Any) -> Iterator[Row]:
    """BN in evaluation after a layer against the layer that it folds into, in two precisions."""
    import torch
    from torch.nn import functional

    from bnbook import formulas

    layers: dict[str, Any] = {
        "linear": (formulas.fold_linear, functional.linear, (6, 20), (32, 20)),
        "conv": (formulas.fold_conv, functional.conv2d, (6, 4, 3, 3), (8, 4, 9, 9)),
    }
    for name, (fold, apply, weights, inputs) in layers.items():
        W, b, u = (_normal(generator, *shape) for shape in (weights, (weights[0],), inputs))
        bn = _batch_norm(generator, weights[0], config.eps, momentum=None)
        bn(apply(u, W, b))
        bn.eval()
        affine = (bn.weight, bn.bias, bn.running_mean, bn.running_var)
        folded = fold(W.numpy(), b.numpy(), *(v.detach().numpy() for v in affine), config.eps)
        for kind in (torch.float64, torch.float32):
            new = apply(u.to(kind), *(torch.as_tensor(v).to(kind) for v in folded))
            old = bn.to(kind)(apply(u.to(kind), W.to(kind), b.to(kind)))
            case = f"fold {name} {str(kind)[6:]}"
            yield {
                "check": "fold",
                "case": case,
                "m": len(u),
                "error": _apart(new, old) / torch.finfo(kind).eps,
            }


def _bias(config: Config, generator: Any) -> Iterator[Row]:
    """A bias before BN: what it changes, and its gradient beside that of the shift."""
    import torch

    eps = torch.finfo(torch.float64).eps
    Wu, b, dy = (_normal(generator, *shape) for shape in ((16, 6), (6,), (16, 6)))
    b.requires_grad_()
    bn = _batch_norm(generator, 6, config.eps)
    y, without = bn(Wu + b), bn(Wu)
    db, dbeta = torch.autograd.grad(y, (b, bn.bias), dy)
    yield {"check": "bias", "case": "bias output", "m": 16, "error": _apart(y, without) / eps}
    error = float(db.abs().max() / dbeta.abs().max()) / eps
    yield {"check": "bias", "case": "bias gradient", "m": 16, "error": error}


def _mates(config: Config, generator: Any) -> Iterator[Row]:
    """Spread of a normalised value over batch mates, in training and in evaluation."""
    import torch

    x = _normal(generator, config.crowd, 16) @ _normal(generator, 16, 8) / 4
    bn = _batch_norm(generator, 8, config.eps, momentum=None)
    bn(x)
    bn.eval()
    alone = torch.cat([bn(row[None]) for row in x[:64]])
    error = _apart(alone, bn(x)[:64]) / torch.finfo(torch.float64).eps
    yield {"check": "evaluation", "case": "evaluation alone", "m": 1, "error": error}
    plain = (x - x.mean(0)) / x.std(0)
    for m in config.mate_sizes:
        drawn = torch.stack([_normalised(plain, m, generator) for _ in range(config.draws)])
        value = float(drawn.var(0).mean().sqrt())
        facts = {"case": "spread", "m": m, "count": config.draws}
        yield {"check": "mates", "value": value, "theory": math.sqrt(3 / (2 * m)), **facts}


def _normalised(x: Any, m: int, generator: Any) -> Any:
    """Normalise in random minibatches of m; rows of the result belong to rows of x."""
    import torch

    order = torch.randperm(len(x), generator=generator)
    batches = x[order].view(-1, m, x.shape[1])
    centred = batches - batches.mean(1, keepdim=True)
    var = centred.square().mean(1, keepdim=True)
    normalised = torch.empty_like(x)
    normalised[order] = (centred / (var + 1e-12).sqrt()).view_as(x)
    return normalised


EXPERIMENT = Experiment(
    name="ioffe_alg2",
    title=(
        "Algorithm 2 and BN of feature maps, exactly (Ioffe & Szegedy, sections 3.1, 3.2 and 3.4)"
    ),
    profiles=PROFILES,
    measure=measure,
    columns=COLUMNS,
    claims=claims.CLAIMS,
    facts=claims.facts,
    figures={"mates": lambda table: figures.mates(claims.mates(table))},
)
