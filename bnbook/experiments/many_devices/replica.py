"""What a replica does, and the same in one process: data-parallel steps, written down."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from bnbook.experiments.many_devices.claims import FROZEN, LOCAL, SYNC
from bnbook.layers import ensemble
from bnbook.layers.synchronised import GhostBatchNorm, SyncBatchNorm
from bnbook.networks import models
from bnbook.training import ranks

Steps = dict[str, list[Tensor]]
"""Of each step: the gradient, the parameters and running statistics after it, each as a vector."""


def train(job: Mapping[str, Any]) -> dict[str, Any]:
    """Train with each norm in turn on this replica's share; see `ranks.run`.

    The job has ``images``, ``labels``, ``batches`` (steps, m), ``seed``, ``widths``, ``rate`` and
    ``norms``. The result has for each norm the `Steps`, ``messages`` and ``numbers`` that its
    statistics sent in a step, and ``seconds`` of each step.
    """
    rank, replicas = distributed.get_rank(), distributed.get_world_size()
    size = ranks.share(job["batches"].shape[1], replicas)
    mine = job["batches"][:, rank * size : (rank + 1) * size]
    layers = {LOCAL: nn.BatchNorm2d, SYNC: SyncBatchNorm, FROZEN: nn.BatchNorm2d}
    found = {}
    for name in job["norms"]:
        model = network(job, layers[name], freeze=name == FROZEN)
        with _counted() as sent:
            steps, seconds = descend(DistributedDataParallel(model), model, job, mine)
        per_step = [total / len(mine) for total in sent]
        sizes = dict(zip(("messages", "numbers"), per_step, strict=True))
        found[name] = {**steps, **sizes, "seconds": seconds}
    return found


def alone(job: Mapping[str, Any], norm: str, replicas: int) -> Steps:
    """Train in one process what replicas with a norm should equal: torch's layers, no messages."""

    def ghost(num_features: int) -> nn.Module:
        return GhostBatchNorm(num_features, replicas)

    model = network(job, ghost if norm == LOCAL else nn.BatchNorm2d, freeze=norm == FROZEN)
    return descend(model, model, job, job["batches"])[0]


def network(
    job: Mapping[str, Any], norm: Callable[[int], nn.Module], freeze: bool = False
) -> models.ConvNet:
    """Make the network of a seed in float64, its statistics frozen after one batch if asked."""
    channels = job["images"].shape[1]
    sizes = {"in_channels": channels, "widths": tuple(job["widths"])}
    model = models.ConvNet(norm, (job["seed"],), **sizes).double().train()
    if freeze:
        layers = [layer for layer in model.modules() if isinstance(layer, nn.BatchNorm2d)]
        for layer in layers:
            layer.momentum = 1.0
        with torch.no_grad():
            model(job["images"][job["batches"][0]])
        for layer in layers:
            layer.eval()
    return model


def descend(
    computes: nn.Module, model: models.ConvNet, job: Mapping[str, Any], batches: Tensor
) -> tuple[Steps, list[float]]:
    """Make steps of plain SGD and write each down, with the seconds that it took."""
    steps: Steps = {"gradient": [], "parameters": [], "statistics": []}
    seconds = []
    parameters = list(model.parameters())
    for batch in batches:
        started = time.perf_counter()
        for parameter in parameters:
            parameter.grad = None
        loss = ensemble.cross_entropy(computes(job["images"][batch]), job["labels"][batch])
        loss.sum().backward()
        gradients = [p.grad for p in parameters if p.grad is not None]
        with torch.no_grad():
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.sub_(gradient, alpha=job["rate"])
        seconds.append(time.perf_counter() - started)
        steps["gradient"].append(_vector(gradients))
        steps["parameters"].append(_vector(parameters))
        running = [b for n, b in model.named_buffers() if "running" in n]
        steps["statistics"].append(_vector(running))
    return steps, seconds


def _vector(tensors: Any) -> Tensor:
    return torch.cat([tensor.detach().flatten().clone() for tensor in tensors])


@contextmanager
def _counted() -> Iterator[list[int]]:
    """Count the messages that layers send from Python, and the numbers in them."""
    sent = [0, 0]
    real = distributed.all_reduce

    def counting(tensor: Tensor, *args: Any, **options: Any) -> Any:
        sent[0] += 1
        sent[1] += tensor.numel()
        return real(tensor, *args, **options)

    distributed.all_reduce = counting
    try:
        yield sent
    finally:
        distributed.all_reduce = real
