"""Healthy networks, and the same with one fault planted: what `diagnose` is held against.

A fault changes a `Case` in one way and says which finding it should lead to, and at which layer.
Where planting changes what a layer is given, its running statistics are made to fit again, so that
nothing else is wrong.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from bnbook import datasets
from bnbook.diagnose import data, scale, statistics, use
from bnbook.diagnose.passes import Loss

ARCHITECTURES = ("mlp", "small resnet", "resnet-18")
CLASSES = 10


@dataclass
class Case:
    """What `diagnose` is given, and the names of a few of the network's modules.

    Attributes
    ----------
    model : nn.Module
        In training mode.
    batches : list of (Tensor, Tensor)
        Inputs and labels.
    loss : callable
    optimizer : torch.optim.Optimizer
        SGD, at the rate of training.
    layer, weight, other : str
        A layer of batch normalisation in the middle, the linear map or convolution that feeds it,
        and another layer of the same size.
    """

    model: nn.Module
    batches: list[tuple[Tensor, Tensor]]
    loss: Loss
    optimizer: torch.optim.Optimizer
    layer: str
    weight: str
    other: str

    @property
    def norm(self) -> Any:
        """The layer."""
        return self.model.get_submodule(self.layer)

    @property
    def linear(self) -> Any:
        """The map that feeds it."""
        return self.model.get_submodule(self.weight)

    def replace(self, name: str, module: nn.Module) -> None:
        """Put another module in a place."""
        parent, _, own = name.rpartition(".")
        setattr(self.model.get_submodule(parent), own, module)


class Block(nn.Module):
    """Two convolutions with BN around a skip, as in ResNet-18."""

    def __init__(self, given: int, features: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(given, features, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(features)
        self.conv2 = nn.Conv2d(features, features, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(features)
        self.skip = nn.Sequential()
        if stride > 1 or given != features:
            self.skip.append(nn.Conv2d(given, features, 1, stride, bias=False))
            self.skip.append(nn.BatchNorm2d(features))

    def forward(self, x: Tensor) -> Tensor:
        """Add the branch to the skip."""
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + self.skip(x))


def mlp() -> nn.Sequential:
    """Four hidden layers of 64 units."""
    hidden = [m for _ in range(4)
              for m in (nn.Linear(64, 64, bias=False), nn.BatchNorm1d(64), nn.ReLU())]  # fmt: skip
    return nn.Sequential(nn.Flatten(), *hidden, nn.Linear(64, CLASSES))


def resnet(widths: Sequence[int], blocks: int, stem: Sequence[nn.Module]) -> nn.Sequential:
    """Return a residual network: a stem, then blocks of each width, each halving the maps."""
    body, given = nn.Sequential(), widths[0]
    for number, width in enumerate(widths):
        for place in range(blocks):
            body.append(Block(given, width, 2 if number and not place else 1))
            given = width
    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(given, CLASSES))
    return nn.Sequential(nn.Sequential(*stem), body, *head)


def small_resnet() -> nn.Sequential:
    """Three residual blocks of 16, 32 and 64 channels."""
    stem = (nn.Conv2d(1, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
    return resnet((16, 32, 64), 1, stem)


def resnet18() -> nn.Sequential:
    """ResNet-18 as for ImageNet, but for the number of classes."""
    stem = (nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(),
            nn.MaxPool2d(3, 2, 1))  # fmt: skip
    return resnet((64, 128, 256, 512), 2, stem)


MAKE: dict[str, tuple[Callable[[], nn.Sequential], str, str, str]] = {
    "mlp": (mlp, "5", "4", "8"),
    "small resnet": (small_resnet, "1.1.bn1", "1.1.conv1", "1.1.bn2"),
    "resnet-18": (resnet18, "1.3.bn1", "1.3.conv1", "1.3.bn2"),
}
"""Architecture -> how it is made, and the names of `Case`."""


def images(architecture: str, seed: int, count: int) -> tuple[Tensor, Tensor]:
    """Draw scanned digits, standardised, in the size that an architecture takes."""
    images, labels = datasets.load("digits")
    chosen = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))[:count]
    x = (images[chosen] - images.mean()) / images.std()
    if architecture == "resnet-18":
        x = F.interpolate(x, scale_factor=4).expand(-1, 3, -1, -1).contiguous()
    return x, labels[chosen]


def healthy(architecture: str, seed: int, *, steps: int = 30, size: int = 32) -> Case:
    """Train a network for some steps, its rate falling to 0, and return it with its batches.

    Parameters
    ----------
    architecture : str
        Of `ARCHITECTURES`.
    seed : int
        Of the weights, and of the images and their order.
    steps : int
        Of SGD, at a rate that starts at 0.1.
    size : int
        Images in a batch; there are eight batches.
    """
    make, layer, weight, other = MAKE[architecture]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = make()
    x, labels = images(architecture, seed, 8 * size)
    batches = list(zip(x.split(size), labels.split(size), strict=True))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 0.1 * (1 - step / steps)
        inputs, targets = batches[step % len(batches)]
        optimizer.zero_grad()
        F.cross_entropy(model(inputs), targets).backward()
        optimizer.step()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    case = Case(model, batches, F.cross_entropy, optimizer, layer, weight, other)
    _settle(case)
    return case


def _settle(case: Case) -> None:
    """Make running statistics fit: the average over the batches, as in training."""
    norms = [m for m in case.model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
    case.model.train()
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for inputs, _ in case.batches:
            case.model(inputs)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        if norm.num_batches_tracked is not None:
            norm.num_batches_tracked.fill_(100)


@dataclass(frozen=True)
class Fault:
    """One fault.

    Attributes
    ----------
    name : str
        In words.
    kind : str
        Of the finding that should name it.
    plant : callable
        Changes a case, and returns the layer that the finding should name; None where the fault is
        of the batches or the network, and any layer will do.
    follows : tuple of str
        Kinds of findings that the fault brings with it, so that they are no false alarms.
    maps_only : bool
        Whether only a network with feature maps can have it.
    """

    name: str
    kind: str
    plant: Callable[[Case], str | None]
    follows: tuple[str, ...] = ()
    maps_only: bool = False


def faulty(case: Case, fault: Fault) -> tuple[Case, str | None]:
    """Return a copy of a case with a fault, and the layer where it is."""
    rate = case.optimizer.param_groups[0]["lr"]
    model = copy.deepcopy(case.model)
    optimizer = torch.optim.SGD(model.parameters(), lr=rate)
    changed = Case(model, list(case.batches), case.loss, optimizer, case.layer, case.weight,
                   case.other)  # fmt: skip
    with torch.no_grad():
        layer = fault.plant(changed)
    return changed, layer


def faults(architecture: str) -> Iterator[Fault]:
    """Yield the faults that an architecture can have."""
    for fault in FAULTS:
        if not (fault.maps_only and architecture == "mlp"):
            yield fault


def _scaled(case: Case, factor: float) -> None:
    """Multiply the weights before the layer; its statistics follow, and the function stays."""
    case.linear.weight.mul_(factor)
    case.norm.running_mean.mul_(factor)
    case.norm.running_var.mul_(factor**2)


def _never(case: Case) -> str:
    _scaled(case, 4)
    case.norm.reset_running_stats()
    return case.layer


def _start(case: Case) -> str:
    _scaled(case, 4)
    norm, left = case.norm, 0.999**50
    norm.running_mean.mul_(1 - left)
    norm.running_var.mul_(1 - left).add_(left)
    norm.num_batches_tracked.fill_(50)
    norm.momentum = 0.001
    return case.layer


def _last(case: Case) -> str:
    case.norm.momentum = 0.9
    return case.layer


def _other_statistics(case: Case) -> str:
    case.norm.running_mean.add_(2 * case.norm.running_var.sqrt())
    case.norm.running_var.mul_(9)
    return case.layer


def _other_data(case: Case) -> None:
    case.batches = [(1 - 2 * x, y) for x, y in case.batches]


def _not_finite(case: Case) -> str:
    case.norm.running_var[0] = torch.nan
    return case.layer


def _first(case: Case) -> str:
    return str(next(n for n, m in case.model.named_modules()
                    if isinstance(m, nn.modules.batchnorm._BatchNorm)))  # fmt: skip


def _with_value(case: Case, value: float) -> str:
    inputs, labels = case.batches[0]
    inputs = inputs.clone()
    inputs[0, 0, 4, 4] = value
    case.batches[0] = inputs, labels
    return _first(case)


def _small(case: Case) -> None:
    case.batches = [pair for x, y in case.batches
                    for pair in zip(x.split(2), y.split(2), strict=True)][:32]  # fmt: skip


def _one(case: Case) -> None:
    inputs, labels = case.batches[0]
    case.batches.append((inputs[:1], labels[:1]))


def _shared(case: Case) -> str:
    case.linear.weight.mul_(5)
    case.replace(case.other, case.norm)
    _settle(case)
    return case.layer


def _before(case: Case, module: nn.Module) -> str:
    case.replace(case.layer, nn.Sequential(module, case.norm))
    _settle(case)
    return f"{case.layer}.1"


def _dead(case: Case) -> str:
    case.norm.weight[::2] = 1e-8
    _settle(case)
    return case.layer


def _constant(case: Case) -> str:
    case.linear.weight[::2] = 0
    _settle(case)
    return case.layer


def _bias(case: Case) -> str:
    case.linear.bias = nn.Parameter(0.1 * torch.ones(len(case.linear.weight)))
    case.norm.running_mean.add_(0.1)
    return case.layer


def _decay(case: Case) -> None:
    case.optimizer.param_groups[0]["weight_decay"] = 5e-4


def _drifting(case: Case) -> str:
    case.norm.requires_grad_(False)
    return case.layer


def _half(case: Case) -> str:
    case.norm.eval()
    return case.layer


class Contiguous(nn.Module):
    """Puts the channels first again."""

    def forward(self, x: Tensor) -> Tensor:
        """Copy."""
        return x.contiguous()


def _channels_last(case: Case) -> str:
    case.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    case.batches = [(x.to(memory_format=torch.channels_last), y) for x, y in case.batches]
    return _before(case, Contiguous())


class Scale(nn.Module):
    """Multiplies by a number."""

    def forward(self, x: Tensor) -> Tensor:
        """Multiply."""
        return 1e4 * x


def _slow(case: Case) -> str:
    _scaled(case, 300)
    return case.layer


def _fast(case: Case) -> str:
    _scaled(case, 0.02)
    return case.layer


def _rate(case: Case) -> None:
    case.optimizer.param_groups[0]["lr"] = 1e4


def _sorted(case: Case) -> None:
    x, labels = (torch.cat(part) for part in zip(*case.batches, strict=True))
    order = labels.argsort(stable=True)
    size = len(case.batches[0][0])
    case.batches = list(zip(x[order].split(size), labels[order].split(size), strict=True))


def _companions(case: Case) -> str:
    case.norm.track_running_stats = False
    case.norm.running_mean = case.norm.running_var = case.norm.num_batches_tracked = None
    return case.layer


_OTHER, _SMALL = statistics.OTHER.name, statistics.SMALL.name
FAULTS = (
    Fault("statistics reset", statistics.NEVER.name, _never),
    Fault("momentum 0.001, 50 batches", statistics.START.name, _start),
    Fault("momentum 0.9", statistics.LAST.name, _last),
    Fault("statistics of another layer", _OTHER, _other_statistics),
    Fault("images inverted", _OTHER, _other_data),
    Fault("NaN in the running variance", statistics.INFINITE.name, _not_finite),
    Fault("NaN in an image", statistics.INPUTS.name, lambda c: _with_value(c, torch.nan)),
    Fault("a pixel of 10,000", statistics.OUTLIERS.name, lambda c: _with_value(c, 1e4),
          follows=(_OTHER, data.UNLIKE.name, scale.JUMP.name, scale.SLOW.name, scale.FAST.name,
                   scale.EDGE.name)),
    Fault("batches of two", _SMALL, _small,
          follows=(_OTHER, scale.SLOW.name, scale.FAST.name, scale.EDGE.name)),
    Fault("a batch of one", statistics.ONE.name, _one),
    Fault("one layer in two places", statistics.SHARED.name, _shared, follows=(_OTHER,)),
    Fault("dropout before", statistics.DROPOUT.name, lambda c: _before(c, nn.Dropout(0.5))),
    Fault("ReLU before", use.AFTER.name, lambda c: _before(c, nn.ReLU())),
    Fault("gamma 0 in half the channels", use.DEAD.name, _dead),
    Fault("weights 0 in half the channels", use.CONSTANT.name, _constant,
          follows=(scale.FAST.name,)),
    Fault("a bias before", use.BIAS.name, _bias),
    Fault("weight decay on all", use.DECAY.name, _decay),
    Fault("gamma and beta frozen", use.DRIFTING.name, _drifting),
    Fault("statistics frozen", use.HALF.name, _half),
    Fault("channels first in between", use.LOST.name, _channels_last, maps_only=True),
    Fault("weights 300 times as large", scale.SLOW.name, _slow),
    Fault("weights a fiftieth", scale.FAST.name, _fast, follows=(scale.EDGE.name,)),
    Fault("a factor of 10,000 before", scale.JUMP.name, lambda c: _before(c, Scale())),
    Fault("rate 10,000", scale.EDGE.name, _rate, follows=(scale.FAST.name,)),
    Fault("sorted by class", data.UNLIKE.name, _sorted),
    Fault("no running statistics", data.COMPANIONS.name, _companions),
)  # fmt: skip
"""What is planted."""
