"""Population statistics of a trained network's batch normalisation layers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.instancenorm import _InstanceNorm

from bnbook.errors import BnbookError


class Statistics(NamedTuple):
    """Mean and variance of each feature, (C,) each, in float64."""

    mean: Tensor
    var: Tensor


def batch_norms(model: nn.Module) -> dict[str, Any]:
    """Find a model's batch normalisation layers: those with torch's names of running statistics.

    Parameters
    ----------
    model : nn.Module

    Returns
    -------
    dict
        Name in the model -> layer: this book's, torch's, and a reader's own if its buffers are
        called ``running_mean`` and ``running_var``. Either may be None.
    """
    return {
        name: layer
        for name, layer in model.named_modules()
        if {"running_mean", "running_var"} <= layer._buffers.keys()
        and not isinstance(layer, _InstanceNorm)
    }


class PreciseBN:
    r"""Replace running averages by population statistics: averages with the weights frozen.

    The minibatches pass through the network once, each BN layer normalising with the statistics of
    the minibatch, so that every layer sees the inputs that the layers below gave it in training.
    With :math:`m_B` values of a feature in minibatch B,

    .. math::
        E[x] = \frac{\sum_B m_B \mu_B}{\sum_B m_B}, \qquad
        Var[x] = \frac{\sum_B m_B \sigma^2_B}{\sum_B (m_B - 1)} ;

    for minibatches of one size m these are :math:`E_B[\mu_B]` and
    :math:`\frac{m}{m-1} E_B[\sigma^2_B]`. With `between_batches` the variance is that of all values
    together, which counts how far the minibatches' means lie apart,

    .. math::
        Var[x] = \frac{\sum_B m_B (\sigma^2_B + (\mu_B - E[x])^2)}{\sum_B m_B} .

    Everything but the BN layers, such as dropout, is as in evaluation meanwhile. A layer that is
    called several times for a minibatch counts each call as one.

    Layers whose running statistics do not move in training do not move here: those that stand in
    evaluation inside a model in training, those with momentum 0, and those that are frozen whatever
    the mode, such as torchvision's. They normalise meanwhile as they do in training.

    Source: Ioffe & Szegedy 2015, algorithm 2 and section 3.1; minibatches of unequal size weighed
    so that both estimates stay unbiased (derived). "Precise BN" and its aggregate: as recalled from
    Wu & Johnson 2021 (not verified).

    Parameters
    ----------
    model : nn.Module
        With one BN layer or more that has running statistics; see `batch_norms`.
    between_batches : bool
        Whether the variance counts that of the minibatches' means.

    Raises
    ------
    BnbookError
        When no layer has running statistics that may move, or the model is none.

    Examples
    --------
    >>> model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    >>> PreciseBN(model).update([torch.randn(20, 2), torch.randn(20, 2)]) is model
    True
    """

    def __init__(self, model: nn.Module, *, between_batches: bool = False) -> None:
        if not isinstance(model, nn.Module):
            raise BnbookError(f"model must be a torch.nn.Module, found {type(model).__name__}.")
        found = batch_norms(model)
        self.model, self.between_batches = model, between_batches
        have = {n: layer for n, layer in found.items() if layer.running_mean is not None}
        if not have:
            raise BnbookError(
                "model must have a batch normalisation layer with running statistics, found"
                f" {len(found)} without and none with, in a {type(model).__name__}."
            )
        self.layers = {n: layer for n, layer in have.items() if _may_move(model, layer)}
        if not self.layers:
            raise BnbookError(
                "a batch normalisation layer must have running statistics that move in training,"
                f" found all {len(have)} in evaluation inside a model in training, or with momentum"
                " 0; call train() on them, or eval() on the model."
            )

    def measure(self, batches: Iterable[Any]) -> dict[str, Statistics]:
        """Compute the statistics of every layer; the model stays as it is.

        Parameters
        ----------
        batches : iterable
            What the model takes, or tuples such as a DataLoader's, of which it is given the first
            entry. Sizes may differ.

        Returns
        -------
        dict
            Name of the layer -> `Statistics`, of layers whose running statistics move in training.
            Values that are not finite spread over their feature.

        Raises
        ------
        BnbookError
            When there is no minibatch, a layer is reached by none, or none moves.
        """
        if not isinstance(batches, Iterable):
            raise BnbookError(f"batches must be iterable, found {type(batches).__name__}.")
        totals, moved = {name: _Total() for name in self.layers}, set[str]()
        with torch.no_grad(), _observed(self.model, self.layers, totals, moved):
            count = 0
            for count, batch in enumerate(batches, start=1):  # noqa: B007
                self.model(batch[0] if isinstance(batch, (tuple, list)) else batch)
        if not count:
            raise BnbookError("batches must hold one minibatch or more, found none.")
        if missed := [name for name, total in totals.items() if not total.values]:
            raise BnbookError(
                f"every layer must be reached by the batches, found {', '.join(missed)} not reached"
                f" by any of {count}; nothing was changed."
            )
        if not moved:
            raise BnbookError(
                "a batch normalisation layer must have running statistics that move in training,"
                f" found {', '.join(totals)} moved by none of {count} minibatches; nothing was"
                " changed."
            )
        return {n: t.statistics(self.between_batches) for n, t in totals.items() if n in moved}

    def update(self, batches: Iterable[Any]) -> nn.Module:
        """Put the statistics in the place of the running ones; all else stays as it is.

        Parameters
        ----------
        batches : iterable
            See `measure`.

        Returns
        -------
        nn.Module
            The model.

        Raises
        ------
        BnbookError
            As `measure`, and when a statistic is not finite in the precision of its buffer; the
            model is then as it was.
        """
        new: list[tuple[Tensor, Tensor]] = []
        for name, found in self.measure(batches).items():
            layer = self.layers[name]
            for what, buffer, value in zip(
                found._fields, (layer.running_mean, layer.running_var), found, strict=True
            ):
                new.append((buffer, value.to(buffer.dtype)))
                _check_finite(name, what, new[-1][1])
        for buffer, value in new:
            buffer.copy_(value)
        return self.model


def _may_move(model: nn.Module, layer: Any) -> bool:
    """Whether a layer's mode and momentum let training move its statistics."""
    stands = model.training and not layer.training
    return not stands and getattr(layer, "momentum", None) != 0


def _check_finite(name: str, what: str, value: Tensor) -> None:
    if not value.isfinite().all():
        feature = int((~value.isfinite()).flatten().nonzero()[0])
        raise BnbookError(
            f"every statistic must be finite, found the {what} {value.flatten()[feature].item()} of"
            f" feature {feature} of {name or 'the model'} ({value.dtype}); nothing was changed."
            " Look for a minibatch that holds values that are not finite, or too large."
        )


@dataclass
class _Total:
    """Sums over minibatches; the squares between them about the running mean, to lose no digit."""

    values: int = 0
    free: int = 0
    mean: Tensor | float = 0.0
    within: Tensor | float = 0.0
    between: Tensor | float = 0.0

    def add(self, x: Tensor) -> None:
        """Count a layer's input, (N, C, ...)."""
        rows = x.movedim(1, -1).flatten(0, -2).double()
        m = len(rows)
        if m < 2:
            raise BnbookError(
                "each minibatch must have two or more values of a feature to have a variance,"
                f" found {m}, a layer's input of shape {tuple(x.shape)}."
            )
        self.values += m
        self.free += m - 1
        mu = rows.mean(0)
        off = mu - self.mean
        self.mean = self.mean + off * (m / self.values)
        self.within = self.within + (rows - mu).square().sum(0)
        self.between = self.between + off.square() * (m * (self.values - m) / self.values)

    def statistics(self, between_batches: bool) -> Statistics:
        """Return the average mean and the variance asked for."""
        if between_batches:
            var = (self.within + self.between) / self.values
        else:
            var = self.within / self.free
        return Statistics(torch.as_tensor(self.mean), torch.as_tensor(var))


@contextmanager
def _observed(
    model: nn.Module, layers: dict[str, Any], totals: dict[str, _Total], moved: set[str]
) -> Iterator[None]:
    """Evaluate the model but for the layers, count their inputs, and put everything back.

    Names of layers whose running statistics the model moved are added to `moved`.
    """

    def seen(name: str) -> Any:
        def hook(_: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
            totals[name].add(next(iter((*inputs, *named.values()))))

        return hook

    modes = {module: module.training for module in model.modules()}
    every = batch_norms(model).values()
    buffers = [(m, n, b, b.clone()) for m in every for n, b in m.named_buffers(recurse=False)]
    hooks = [
        layer.register_forward_pre_hook(seen(name), with_kwargs=True)
        for name, layer in layers.items()
    ]
    model.eval()
    for layer in every:
        layer.train(modes[layer] or not modes[model])  # not what stands in evaluation on its own
    try:
        yield
        was = {(m, n): old for m, n, _, old in buffers}
        for name, layer in layers.items():
            statistics = [(n, getattr(layer, n)) for n in ("running_mean", "running_var")]
            if any(not torch.equal(now, was[layer, n]) for n, now in statistics):
                moved.add(name)
    finally:
        for hook in hooks:
            hook.remove()
        for module, training in modes.items():
            module.training = training
        for module, name, buffer, value in buffers:
            setattr(module, name, buffer.copy_(value))
