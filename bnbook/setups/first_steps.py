"""The start of training of Bjorck et al.'s residual network: network, images, layers, minibatches.

The layers are counted as in the paper: 1 is the first convolution, each residual block has two
more, and the last is the linear one. Of 110 layers, 2 to 37 are the first stage, 38 to 73 the
second, 74 to 109 the third.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from bnbook import datasets
from bnbook.layers import ensemble, norm
from bnbook.networks import models
from bnbook.tables.arms import WITH
from bnbook.training import fit

SIDE = 32
"""Rows and columns of the images, as in CIFAR-10."""

Batch = tuple[Tensor, Tensor]
"""Images (N, 3, 32, 32) and labels (N,)."""


def network(arm: str, seed: int, n: int, device: torch.device) -> models.ResNet:
    """Make the residual network of 6n + 2 layers; a seed's convolutions are the same in both arms.

    Source: He et al. 2016, section 4.2; Xavier's initial weights, as we recall Bjorck et al. 2018.
    """
    make = norm.BatchNorm if arm == WITH else None
    return models.ResNet(make, (seed,), n=n, init_std=ensemble.xavier).to(device).train()


def convolution(model: models.ResNet, layer: int) -> ensemble.Conv2d:
    """Return the convolution with this number, from 1."""
    return model.convolutions[layer - 1]


def minibatches(
    data: str, batch_size: int, count: int, seed: int, device: torch.device
) -> list[Batch]:
    """Return the first minibatches of training: images (N, 3, 32, 32) and labels.

    Each pixel has its mean over the training set subtracted; all are divided by the standard
    deviation of what remains. Images of another size are then resized (bilinear), and grey ones
    repeated for the three channels. Nothing is augmented.
    """
    images, labels = datasets.load(data)
    mean = images.mean(0)
    std = images.var(0, correction=0).mean().sqrt()
    batches = []
    for chosen in fit.minibatches(len(labels), batch_size, count, seed):
        x = (images[chosen] - mean) / std
        if x.shape[-1] != SIDE:
            x = F.interpolate(x, size=(SIDE, SIDE), mode="bilinear", align_corners=False)
        batches.append((x.expand(-1, 3, -1, -1).contiguous().to(device), labels[chosen].to(device)))
    return batches


def objective(model: models.ResNet, batch: Batch) -> Callable[[], Tensor]:
    """Return the function that computes the network's cross-entropy on a minibatch, in nats."""
    images, labels = batch
    return lambda: ensemble.cross_entropy(model(images), labels).sum()
