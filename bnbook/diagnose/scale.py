"""Findings about scales and the learning rate: weights, activations and gradients by depth."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from bnbook.diagnose.findings import WARNING, Finding, Kind, make
from bnbook.diagnose.passes import TINY, Batch, Seen, Subject, first_tensor, population
from bnbook.diagnose.use import makers_of_weights
from bnbook.probes import landscape

SLOW = Kind(
    "weights stand still", WARNING,
    "weights that turn at rates within a factor of 100 of each other: after BN only their direction"
    " counts, and a step turns it by rate times gradient over norm, which falls with the norm"
    " squared",
    "this layer does not train",
    'w = model.get_submodule("{layer}").weight; torch.nn.init.kaiming_normal_(w)',
    "14-scale-invariance",
)  # fmt: skip
FAST = Kind(
    "weights turn too fast", WARNING,
    "steps that turn a normalised weight by less than half a radian, for a gradient describes its"
    " neighbourhood only, and at most 100 times as far as the others",
    "each step throws away the direction that the last ones found",
    "# lower the rate, or warm it up: small norms grow by themselves, and the angle falls",
    "14-scale-invariance",
)  # fmt: skip
JUMP = Kind(
    "scale jumps", WARNING,
    "spreads of activations, and of gradients, within a factor of 1,000 of the network's median:"
    " BN hides such a jump in its output, not in what is summed or rounded before it",
    "half precision overflows or loses everything there, and eps matters in the small ones",
    "# look at what scales the inputs of {layer}, and at its initial weights", "35-a-bad-start",
)  # fmt: skip
EDGE = Kind(
    "rate over the edge", WARNING,
    "a rate below twice the largest step along the minibatch's own gradient that still lowers its"
    " loss",
    "every step raises the loss of the batch that it was made for; without BN training then often"
    " fails, with BN it may still succeed, so look at the loss first",
    "for group in optimizer.param_groups: group['lr'] /= 10", "33-first-steps",
)  # fmt: skip
MINIBATCHES = 3
"""Of which the gradient is taken and followed."""
FACTOR = 4.0
"""Between step sizes that are tried."""


@dataclass
class Scales:
    """What a few minibatches' gradients say.

    Attributes
    ----------
    rate : float or None
        The learning rate, if it is known and the steps are those of SGD.
    turns : dict of str to float
        Weight -> length of its gradient over that of the weight; times the rate, the angle of a
        step. Weights whose outputs are normalised, by the layer that normalises.
    activations, gradients : dict of str to float
        Layer -> spread of its inputs, and root mean square of the loss's gradient by them times
        that spread; in the order of the layers.
    largest : list of float
        For each minibatch the largest step that still lowers its loss: 0 when none does, infinite
        when all do that were tried.
    makers : dict of str to str
        Layer -> the module whose weight it normalises.
    """

    rate: float | None
    turns: dict[str, float] = field(default_factory=dict)
    activations: dict[str, float] = field(default_factory=dict)
    gradients: dict[str, float] = field(default_factory=dict)
    largest: list[float] = field(default_factory=list)
    makers: dict[str, str] = field(default_factory=dict)

    @property
    def edge(self) -> float:
        """Median over minibatches of the largest helpful step; NaN without any."""
        return median(self.largest) if self.largest else math.nan


def measure(subject: Subject, still: Seen, optimizer: torch.optim.Optimizer | None) -> Scales:
    """Take the gradients of a few minibatches, and follow each downhill.

    Every layer normalises with the batch; dropout and the like are as in evaluation, so that a loss
    is a function of the parameters.
    """
    scales = Scales(_rate(optimizer), makers=makers_of_weights(subject, still))
    for name, calls in still.items():
        if all(call.finite for call in calls):
            scales.activations[name] = math.sqrt(float(population(calls).var.mean()))
    if subject.loss is None or not any(p.requires_grad for p in subject.model.parameters()):
        return scales
    for batch in subject.batches[:MINIBATCHES]:
        with subject.mode(subject.as_batch):
            loss, gradients = _gradients(subject, batch, scales)
            if math.isfinite(loss):
                scales.largest.append(_largest(subject, batch, loss, gradients, scales.rate))
    for name, size in scales.gradients.items():
        scales.gradients[name] = size * scales.activations.get(name, math.nan)
    return scales


def _rate(optimizer: torch.optim.Optimizer | None) -> float | None:
    """Rate of plain steps along the gradient; None where steps are made otherwise."""
    if not isinstance(optimizer, torch.optim.SGD):
        return None
    return max(float(group["lr"]) for group in optimizer.param_groups)


def _gradients(subject: Subject, batch: Batch, scales: Scales) -> tuple[float, list[Tensor]]:
    """Return loss and gradients of one minibatch, and note the weights' and inputs' in `scales`."""
    parameters = list(subject.model.parameters())
    trained = [p for p in parameters if p.requires_grad]
    with torch.enable_grad(), _input_gradients(subject, scales):
        loss = subject.lost(subject.forward(batch), batch)
        taken = torch.autograd.grad(loss, trained, allow_unused=True)
    found = dict(zip(map(id, trained), taken, strict=True))
    for name, maker in scales.makers.items():
        weight: Any = subject.model.get_submodule(maker).weight
        gradient = found.get(id(weight))
        if gradient is not None:
            turn = landscape.norm([gradient]) / max(landscape.norm([weight.detach()]), TINY)
            scales.turns[name] = max(turn, scales.turns.get(name, 0.0))
    whole = [found.get(id(p)) for p in parameters]
    pairs = zip(whole, parameters, strict=True)
    return float(loss.detach()), [torch.zeros_like(p) if g is None else g for g, p in pairs]


@contextmanager
def _input_gradients(subject: Subject, scales: Scales) -> Iterator[None]:
    """Note the root mean square of the gradient with respect to each layer's inputs."""

    def watch(name: str) -> Callable[..., None]:
        def take(gradient: Tensor) -> None:
            size = float(gradient.detach().double().square().mean().sqrt())
            scales.gradients[name] = max(size, scales.gradients.get(name, 0.0))

        def hook(_: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> None:
            x = first_tensor((given, named))
            if x is not None and x.requires_grad:
                x.register_hook(take)

        return hook

    hooks = [subject.layers[n].module.register_forward_pre_hook(watch(n), with_kwargs=True)
             for n in scales.activations]  # fmt: skip
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _largest(
    subject: Subject, batch: Batch, loss: float, gradients: list[Tensor], rate: float | None
) -> float:
    """Largest step along a minibatch's negative gradient that still lowers its loss."""

    def objective() -> Tensor:
        return subject.lost(subject.forward(batch), batch)

    powers = range(-3, 3) if rate else range(-5, 1)
    steps = [(rate or 1.0) * FACTOR**power for power in powers]
    course = landscape.descend(subject.model, objective, loss, gradients, steps, refinements=1)
    if math.isfinite(course.largest):
        return course.largest
    return math.inf if course.losses[-1] < loss else 0.0


def findings(scales: Scales) -> list[Finding]:
    """Return what is wrong with scales and rate."""
    return [*_turning(scales), *_jumps(scales), *_over(scales)]


def _turning(scales: Scales) -> list[Finding]:
    found = []
    usual = median(scales.turns.values()) if len(scales.turns) > 2 else 0.0
    slow = [n for n, turn in scales.turns.items() if turn < usual / 100]
    if slow:
        slow.sort(key=lambda name: scales.turns[name])
        ratio = scales.turns[slow[0]] / usual
        text = f"the weights of {scales.makers[slow[0]]} turn at {ratio:.2g} of the usual rate"
        found.append(make(SLOW, slow, ratio, text, place=scales.makers[slow[0]]))
    angles = {n: turn * (scales.rate or 0) for n, turn in scales.turns.items()}
    far = 100 * usual if usual else math.inf
    fast = [n for n, turn in scales.turns.items() if angles[n] > 0.5 or turn > far]
    if fast:
        fast.sort(key=lambda n: -scales.turns[n])
        ratio = scales.turns[fast[0]] / max(usual, TINY)
        text = f"the weights of {scales.makers[fast[0]]} turn {ratio:.2g} times as fast as usual"
        if scales.rate:
            text += f", {angles[fast[0]]:.2g} radians a step at rate {scales.rate:g}"
        found.append(make(FAST, fast, ratio, text))
    return found


def _jumps(scales: Scales) -> list[Finding]:
    sizes: tuple[tuple[str, Mapping[str, float]], ...] = (
        ("activations", scales.activations), ("gradients", scales.gradients),
    )  # fmt: skip
    found = []
    for what, by_layer in sizes:
        real = {n: v for n, v in by_layer.items() if v > 0 and math.isfinite(v)}
        if len(real) > 2:
            usual = median(real.values())
            ratios = {n: v / usual for n, v in real.items()}
            far = {n: r for n, r in ratios.items() if not 1e-3 < r < 1e3}
            if far:
                names = sorted(far, key=lambda n: -abs(math.log(far[n])))
                text = f"{what} there are {far[names[0]]:.2g} times the network's median"
                found.append(make(JUMP, names, far[names[0]], text))
    return found


def _over(scales: Scales) -> list[Finding]:
    if scales.rate is None or not scales.largest or scales.rate <= 2 * scales.edge:
        return []
    edge = f"{scales.edge:.2g}" if scales.edge else f"below {scales.rate * FACTOR**-3:.2g}"
    spread = ", ".join(f"{step:.2g}" for step in scales.largest)
    text = f"rate {scales.rate:g}; the largest helpful step is {edge} (by minibatch: {spread})"
    return [make(EDGE, [], scales.rate / max(scales.edge, TINY), text)]
