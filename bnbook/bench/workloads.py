"""What is trained: data, minibatches, initial weights and learning rates, equal for everybody."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from bnbook import datasets
from bnbook.bench import networks
from bnbook.layers import norm
from bnbook.networks import models
from bnbook.sweeps import planning
from bnbook.training import fit
from bnbook.training.session import Plan

State = dict[str, np.ndarray]
"""Parameters and running statistics by name, each with the member as its first axis."""


class Workload(Protocol):
    """A network to train, on its data."""

    @property
    def name(self) -> str:
        """Short, for tables and the command line."""

    @property
    def members(self) -> int:
        """Networks that train as one in our contender."""

    @property
    def batch(self) -> int:
        """Images in a minibatch."""

    @property
    def momentum(self) -> float:
        """Of SGD."""

    def data(self) -> tuple[Tensor, Tensor]:
        """Return the training images and labels."""

    def rates(self, members: int) -> list[float]:
        """Return the learning rates of the members."""

    def plan(self, device: str) -> Plan:
        """Return how our contender computes."""

    def ours(self, members: int, seed: int) -> nn.Module:
        """Return our model of so many members, with its initial weights."""

    def single(self, seed: int) -> nn.Module:
        """Return the network in plain torch.nn, with the initial weights of our first member."""


@dataclass(frozen=True)
class MLP:
    """The sigmoid network of figure 1 with BN, at a grid of learning rates.

    The members start from the same weights and see the same minibatches, as the networks of one
    seed in figure 1 do; their rates differ.

    Attributes
    ----------
    name, data_name : str
        Of the workload, and of its data set.
    num_inputs : int
        Pixels of an image.
    members, batch : int
        Networks, and images in a minibatch.
    hidden : tuple of int
        Widths of the hidden layers.
    momentum : float
        Of SGD.
    """

    name: str
    data_name: str
    num_inputs: int
    members: int
    batch: int = 60
    hidden: tuple[int, ...] = (100, 100, 100)
    num_classes: int = 10
    momentum: float = 0.0

    def data(self) -> tuple[Tensor, Tensor]:
        """Return binary images (N, D) as in figure 1, and labels."""
        found = datasets.load(self.data_name)
        return (found.images > 0.5).float().flatten(1), found.labels

    def rates(self, members: int) -> list[float]:
        """Return rates from 1 down to 0.01; the first member's is the largest."""
        return [float(rate) for rate in np.geomspace(1, 0.01, members)]

    def plan(self, device: str) -> Plan:
        """Return the plain plan: on a GPU with graphs."""
        return Plan(members=self.members, compiled=device == "cuda")

    def ours(self, members: int, seed: int) -> nn.Module:
        """Return E members that start alike."""
        return models.MLP(
            norm.BatchNorm,
            seeds=(seed,) * members,
            num_inputs=self.num_inputs,
            hidden=self.hidden,
            num_classes=self.num_classes,
        )

    def single(self, seed: int) -> nn.Module:
        """Return one network in plain torch.nn."""
        network = networks.MLP(self.num_inputs, self.hidden, self.num_classes)
        return networks.start_as(network, self.ours(1, seed))


@dataclass(frozen=True)
class ResNet:
    """The residual network for CIFAR-10 with 6n+2 layers, on made-up images of CIFAR's shape.

    What an image shows does not change how long a step takes, and no data set need be there.

    Attributes
    ----------
    name : str
        Of the workload.
    blocks : int
        Blocks of each of the three stages, n; 3 is ResNet-20, 18 is ResNet-110.
    batch, members : int
        Images in a minibatch, and networks.
    side : int
        Rows and columns of an image.
    normed : bool
        Whether there is BN.
    momentum : float
        Of SGD.
    """

    name: str
    blocks: int
    batch: int = 128
    members: int = 1
    side: int = 32
    normed: bool = True
    momentum: float = 0.0

    def data(self) -> tuple[Tensor, Tensor]:
        """Return normal images (N, 3, side, side) and uniform labels, of a fixed seed."""
        generator = torch.Generator().manual_seed(0)
        images = torch.randn(1280, 3, self.side, self.side, generator=generator)
        return images, torch.randint(10, (1280,), generator=generator)

    def rates(self, members: int) -> list[float]:
        """Return rates from 0.05 down to 0.0005; a network alone has the first."""
        return [float(rate) for rate in np.geomspace(0.05, 0.0005, members)]

    def plan(self, device: str) -> Plan:
        """Return what was fastest: our kernels where there is a compiler; on a GPU also TF32."""
        able = device == "cuda" or planning.has_compiler()
        precision = "tf32" if device == "cuda" else "float32"
        return Plan(members=1, channels_last=True, precision=precision, compiled=able)

    def ours(self, members: int, seed: int) -> nn.Module:
        """Return our residual network."""
        return networks.our_resnet(self.blocks, members, seed, self.normed)

    def single(self, seed: int) -> nn.Module:
        """Return one network in plain torch.nn."""
        return networks.start_as(networks.ResNet(self.blocks, self.normed), self.ours(1, seed))


MNIST = MLP("mnist", "mnist5k", 784, 16)
DIGITS = MLP("digits", "digits", 64, 32)
RESNET20 = ResNet("resnet20", 3)
RESNET110 = ResNet("resnet110", 18)


def minibatches(workload: Workload, labels: Tensor, steps: int, seed: int) -> Tensor:
    """Return the minibatches that every contender trains on, (steps, batch)."""
    return fit.minibatches(len(labels), workload.batch, steps, seed)


def state(models_: Sequence[nn.Module], members: Sequence[int]) -> State:
    """Return models' parameters and running statistics, member by member, one after another."""
    parts: dict[str, list[np.ndarray]] = {}
    for model, count in zip(models_, members, strict=True):
        for name, tensor in model.state_dict().items():
            if not name.endswith("num_batches_tracked"):
                rows = tensor.detach().cpu().contiguous().numpy().reshape(count, -1)
                parts.setdefault(name.removeprefix("_orig_mod."), []).append(rows.copy())
    return {name: np.concatenate(rows) for name, rows in parts.items()}
