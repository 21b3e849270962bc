"""Probes: what is read off a network without disturbing it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import cast

import torch
from torch import Tensor, nn

from bnbook.errors import BnbookError


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Restore every buffer (running statistics) and every train/eval flag on leaving.

    Parameters
    ----------
    model : nn.Module
        The network to be measured.
    """
    flags = {module: module.training for module in model.modules()}
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, before in buffers:
                buffer.copy_(before)
        for module, training in flags.items():
            module.training = training


@torch.no_grad()
def accuracy(model: nn.Module, images: Tensor, labels: Tensor, chunk: int = 1000) -> Tensor:
    """Share of images classified correctly, in evaluation mode.

    Parameters
    ----------
    model : nn.Module
        Returns logits (N, E, K).
    images, labels : Tensor, (N, ...) and (N,)
        The data.
    chunk : int
        Images per forward pass.

    Returns
    -------
    Tensor, (E,)
        In [0, 1]. A member with logits that are not numbers scores the share of class 0.
    """
    return share(right(model, images, labels, chunk))


def share(right: Tensor) -> Tensor:
    """Return the share that is true of each row, (E, N) -> (E,)."""
    return right.sum(1).to(torch.float64) / right.shape[1]


@torch.no_grad()
def right(model: nn.Module, images: Tensor, labels: Tensor, chunk: int = 1000) -> Tensor:
    """Say which images are classified correctly, in evaluation mode; see `accuracy`.

    Returns
    -------
    Tensor, (E, N), bool
    """
    with undisturbed(model):
        model.eval()
        found = [
            model(x).nan_to_num().argmax(-1) == y[:, None]
            for x, y in zip(images.split(chunk), labels.split(chunk), strict=True)
        ]
    return torch.cat(found).T


@torch.no_grad()
def inputs_to(layer: nn.Module, model: nn.Module, images: Tensor) -> Tensor:
    """Return what a layer receives when these images pass through as one training batch.

    Batch normalisation uses the images' own statistics, as in training; its running statistics
    are put back.

    Parameters
    ----------
    layer : nn.Module
        A layer of the model.
    model : nn.Module
        The network, of ``model.members`` members.
    images : Tensor, (N, ...)
        The batch.

    Returns
    -------
    Tensor, (N, E, C)
    """
    seen: list[Tensor] = []
    hook = layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    try:
        with undisturbed(model):
            model.train()
            model(images)
    finally:
        hook.remove()
    return seen[0].view(len(images), cast(int, model.members), -1)


def percentiles(values: Tensor, levels: Sequence[float]) -> Tensor:
    """Percentiles over the first axis, linearly interpolated.

    Parameters
    ----------
    values : Tensor, (N, ...)
        Values that are not numbers give percentiles that are not numbers.
    levels : sequence of float, length P
        In [0, 100].

    Returns
    -------
    Tensor, (P, ...)
    """
    q = torch.tensor(levels, dtype=values.dtype, device=values.device) / 100
    return torch.quantile(values, q, dim=0)


def movement(tracks: Tensor, steps: Tensor) -> Tensor:
    r"""How far a unit's percentiles move during training, in units of their spread.

    For one unit with percentiles :math:`q_p(t)`, :math:`p = 1..P` in rising order,

    .. math::
        M = \frac{\sqrt{\left\langle \frac1P\sum_p (q_p(t) - \langle q_p\rangle)^2 \right\rangle}}
            {\langle q_P(t) - q_1(t)\rangle}

    where :math:`\langle\cdot\rangle` is the mean over training time (trapezoidal rule). The median
    over units is returned: the typical unit, as in the figure. Ioffe & Szegedy 2015 (figure 1b, c)
    show the percentiles and define no number; this one is ours.

    Parameters
    ----------
    tracks : Tensor, (T, P, E, C)
        Percentiles of C units of E members at T times.
    steps : Tensor, (T,)
        The times, increasing.

    Returns
    -------
    Tensor, (E,)
        Dimensionless, at least 0.

    Raises
    ------
    BnbookError
        When there are fewer than two times.
    """
    if len(steps) < 2:
        raise BnbookError(f"movement needs two or more times, found {len(steps)}.")
    gaps = steps.diff().to(tracks.dtype)
    weights = torch.zeros(len(steps), dtype=tracks.dtype)
    weights[:-1] += gaps / 2
    weights[1:] += gaps / 2
    weights = (weights / weights.sum()).view(-1, 1, 1, 1).to(tracks.device)
    mean = (weights * tracks).sum(0)
    variance = (weights * (tracks - mean).square()).sum(0).mean(0)
    spread = mean[-1] - mean[0]
    return (variance.sqrt() / spread).median(-1).values
