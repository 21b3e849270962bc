"""How far the statistics of training batches are from the running ones, layer by layer."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from bnbook.layers.power import PowerNorm


class Distance(NamedTuple):
    """Of one layer and batch, root mean squares over the features.

    ``mean`` is the batch's mean less the running one, in running standard deviations (0 for
    PowerNorm, which has none); ``scale`` the batch's variance, or quadratic mean, over the running
    one, less 1; ``excess`` the first over what independent values would give, 1 over the root of
    their number.
    """

    mean: float
    scale: float
    excess: float


class Watch:
    """Measures every training batch that a model's norms see, before they take it into account.

    Attributes
    ----------
    seen : list of Distance
        Of every layer and batch so far; whoever reads it may clear it.
    """

    def __init__(self, model: nn.Module) -> None:
        self.seen: list[Distance] = []
        for layer in model.modules():
            if isinstance(layer, _BatchNorm | PowerNorm):
                layer.register_forward_pre_hook(self._look)

    @torch.no_grad()
    def _look(self, layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if layer.training:
            self.seen.append(distance(layer, inputs[0]))


def distance(layer: nn.Module, x: Tensor) -> Distance:
    """Return how far the statistics of a batch x (N, C, ...) are from a layer's running ones."""
    over = (0, *range(2, x.dim()))
    if isinstance(layer, PowerNorm):
        ratio = x.square().mean(over) / layer.running_square
        return Distance(0.0, _rms(ratio - 1), 0.0)
    var, mean = torch.var_mean(x, over, correction=0)
    running_mean, running_var = layer.get_buffer("running_mean"), layer.get_buffer("running_var")
    apart = _rms((mean - running_mean) / running_var.sqrt())
    values = x.numel() // x.shape[1]
    return Distance(apart, _rms(var / running_var - 1), apart * values**0.5)


def _rms(values: Tensor) -> float:
    return float(values.square().mean().sqrt())
