"""Findings about how a network uses its normalisation layers."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from bnbook.diagnose.findings import NOTE, WARNING, Finding, Kind, make
from bnbook.diagnose.layers import BATCH, FIXED, same_random_states
from bnbook.diagnose.passes import OPERATIONS, Seen, Subject, population, tensors

DEAD = Kind(
    "dead gamma", WARNING,
    "no gamma below a hundredth of its layer's: such a channel is beta whatever comes in",
    "the channel costs memory and time and carries nothing, and hardly any gradient brings it back",
    'model.get_submodule("{layer}").weight  # without weight decay, or prune these channels',
    "11-transform",
)  # fmt: skip
CONSTANT = Kind(
    "constant inputs", WARNING,
    "variances above eps: below it eps sets the scale, and at 0 the output is beta",
    "the channel is not normalised, and a constant one carries nothing",
    'model.get_submodule("{layer}").running_var  # look for dead units before it', "11-transform",
)  # fmt: skip
BIAS = Kind(
    "bias cancelled", NOTE,
    "no bias before batch normalisation: subtracting the mean cancels it, and beta takes its role",
    "parameters without effect, whose gradient is rounding",
    "nn.Conv2d(..., bias=False)  # or nn.Linear", "13-training-and-inference",
)  # fmt: skip
AFTER = Kind(
    "after the nonlinearity", NOTE,
    "inputs that have not passed a nonlinearity, where the first paper puts BN; measured"
    " differences are small, so this is to be known rather than mended",
    "the statistics are those of a one-sided, sparse distribution, and what follows sees its sign"
    " restored",
    "nn.Sequential(linear, batch_norm, nonlinearity)", "13-training-and-inference",
)  # fmt: skip
DECAY = Kind(
    "decay on gamma and beta", NOTE,
    "no weight decay on gamma and beta: it does not regularise through the weights' norm, which BN"
    " makes irrelevant, but pulls each channel's scale to 0",
    "channels fade, and the rate at which they do depends on the product of rate and decay",
    '[{"params": [p for p in model.parameters() if p.ndim < 2], "weight_decay": 0.0}]',
    "14-scale-invariance",
)  # fmt: skip
DRIFTING = Kind(
    "frozen but drifting", WARNING,
    "a layer without trained gamma and beta in evaluation mode: requires_grad does not stop running"
    " statistics",
    "every training step moves the statistics of a layer that is meant to stay as it is",
    'model.get_submodule("{layer}").eval()  # after every model.train()',
    "13-training-and-inference",
)  # fmt: skip
HALF = Kind(
    "frozen by halves", NOTE,
    "gamma and beta frozen together with the statistics, or none of them",
    "gamma and beta are trained against statistics that stay what they were",
    'model.get_submodule("{layer}").requires_grad_(False)', "13-training-and-inference",
)  # fmt: skip
LOST = Kind(
    "channels last lost", NOTE,
    "the memory format of the network's input or weights all the way: each change of it copies",
    "time and memory for copies; no number changes",
    "x.contiguous(memory_format=torch.channels_last)  # after the operation that lost it", "speed",
)  # fmt: skip


def findings(
    subject: Subject, trained: Seen, still: Seen, optimizer: torch.optim.Optimizer | None
) -> list[Finding]:
    """Return what is to be said about the use of the layers.

    Parameters
    ----------
    subject : Subject
    trained, still : Seen
        What the layers saw as in training, and with all but them as in evaluation.
    optimizer : torch.optim.Optimizer or None
        Whose weight decay is looked at.
    """
    found = [*_dead(subject), *_constant(subject, still), *_bias(subject, trained)]
    found += [*_after(subject, trained), *_frozen(subject), *_decay(subject, optimizer)]
    return [*found, *_channels_last(subject, still)]


def _dead(subject: Subject) -> list[Finding]:
    """Channels whose gamma is next to nothing beside their layer's."""
    shares = {}
    for name, layer in subject.layers.items():
        gamma = getattr(layer.module, "weight", None)
        if layer.kind == BATCH and gamma is not None:
            size = gamma.detach().abs().double().flatten()
            if size.max() == 0:  # a residual branch that starts at nothing, unless it stayed there
                share = float((layer.batches_seen or 0) > 1000)
            else:
                share = float((size < 0.01 * size.square().mean().sqrt()).double().mean())
            if share >= 0.05:
                shares[name] = share
    return _by_share(DEAD, shares, "{share:.0%} of the channels have a gamma near 0")


def _by_share(kind: Kind, shares: dict[str, float], text: str) -> list[Finding]:
    if not shares:
        return []
    names = sorted(shares, key=lambda name: -shares[name])
    return [make(kind, names, shares[names[0]], text.format(share=shares[names[0]]))]


def _constant(subject: Subject, still: Seen) -> list[Finding]:
    """Channels whose inputs hardly vary."""
    shares = {}
    for name, calls in still.items():
        if all(call.finite for call in calls):
            var = population(calls).var
            share = float((var < subject.layers[name].eps).double().mean())
            if share >= 0.05:
                shares[name] = share
    return _by_share(CONSTANT, shares, "{share:.0%} of the channels vary by less than eps")


def _makers(subject: Subject, seen: Seen, kinds: Any) -> dict[str, str]:
    """Layer -> the one module of some kinds whose output is all that it is given."""
    found = {}
    for name, calls in seen.items():
        maker = calls[0].maker
        alone = maker and all(call.maker == maker for call in calls)
        if alone and isinstance(subject.model.get_submodule(maker), kinds):
            found[name] = maker
    return found


def makers_of_weights(subject: Subject, seen: Seen) -> dict[str, str]:
    """Layer -> the linear map or convolution whose output it normalises."""
    return _makers(subject, seen, (nn.Linear, nn.modules.conv._ConvNd))


def _bias(subject: Subject, trained: Seen) -> list[Finding]:
    """Biases that the layer right after them subtracts, and that nothing else reads."""
    live = {n: calls for n, calls in trained.items() if n in subject.live}
    makers = {n: maker for n, maker in makers_of_weights(subject, live).items()
              if _bias_of(subject, maker) is not None}  # fmt: skip
    spreads = {maker: float(population(live[n]).var.mean().sqrt()) for n, maker in makers.items()}
    silent = _silent(subject, spreads)
    names = [name for name, maker in makers.items() if maker in silent]
    if not names:
        return []
    total = sum(_bias_of(subject, maker).numel() for maker in silent)
    text = f"{total} biases have no effect, the first of them in {makers[names[0]]}"
    return [make(BIAS, names, total, text)]


def _bias_of(subject: Subject, maker: str) -> Any:
    return subject.model.get_submodule(maker).bias


def _silent(subject: Subject, spreads: dict[str, float]) -> list[str]:
    """Those of some modules whose biases move no output of the network.

    A skip may read what feeds a layer, and the bias with it. So biases are shifted, by one to two
    spreads of what the module gives, and one batch is sent through; where outputs move, the
    modules are halved until each that moves them is found.
    """
    batch = max(subject.batches, key=lambda one: one.size)

    def outputs() -> list[torch.Tensor]:
        with same_random_states():
            return [tensor.double() for tensor in tensors(subject.forward(batch))]

    def move(names: list[str]) -> bool:
        biases = [_bias_of(subject, name) for name in names]
        values = [bias.clone() for bias in biases]
        try:
            for name, bias in zip(names, biases, strict=True):
                steps = torch.linspace(1, 2, bias.numel(), device=bias.device, dtype=bias.dtype)
                spread = spreads[name] if 0 < spreads[name] < math.inf else 1.0
                bias.add_(steps.view_as(bias), alpha=spread)
            return any(_differ(*pair, rounding) for pair in zip(before, outputs(), strict=True))
        finally:
            for bias, value in zip(biases, values, strict=True):
                bias.copy_(value)

    def silent(names: list[str]) -> list[str]:
        if not names or not move(names):
            return names
        half = len(names) // 2
        return silent(names[:half]) + silent(names[half:]) if half else []

    if not spreads:
        return []
    # half of the digits: rounding stays far below, and what a skip carries far above
    rounding = max(torch.finfo(_bias_of(subject, name).dtype).eps for name in spreads) ** 0.5
    with subject.mode(subject.as_batch):
        before = outputs()
        return silent(list(spreads))


def _differ(before: torch.Tensor, after: torch.Tensor, rounding: float) -> bool:
    """Whether outputs have moved by more than a share of their spread; only finite ones count."""
    told = before.isfinite()
    if not told.any():
        return False
    size = (after - before)[told].square().mean().sqrt()
    return not bool(size <= rounding * before[told].std(correction=0))


_NONLINEAR = tuple(o for o in OPERATIONS if o.__module__.endswith("activation"))


def _after(subject: Subject, trained: Seen) -> list[Finding]:
    """Layers that normalise what a nonlinearity gave."""
    made = _makers(subject, trained, _NONLINEAR)
    rectified = {
        name: min(call.zeros for call in calls)
        for name, calls in trained.items()
        if all(c.least >= 0 and c.zeros > 0.05 and not c.of_the_input for c in calls)
    }
    names = [name for name in trained if name in made or name in rectified]
    if not names:
        return []
    zeros = rectified.get(names[0], 0.0)
    text = f"inputs after {made.get(names[0], 'a rectifier')}, {zeros:.0%} of them exactly 0"
    return [make(AFTER, names, zeros, text)]


def _frozen(subject: Subject) -> list[Finding]:
    """Layers of which gamma and beta are frozen and the statistics are not, or the reverse."""
    training = subject.model.training or any(p.requires_grad for p in subject.model.parameters())
    drifting, half = [], []
    for name, layer in subject.layers.items():
        if layer.kind == FIXED or layer.kind != BATCH or not layer.trained or not layer.tracked:
            continue
        moves = subject.training[layer.module] and layer.momentum != 0
        if training and moves and not any(layer.trained):
            drifting.append(name)
        elif any(layer.trained) and (not subject.training[layer.module] or not all(layer.trained)):
            half.append(name)
    found = []
    if drifting:
        text = f"{len(drifting)} layers in training mode with gamma and beta frozen"
        found.append(make(DRIFTING, drifting, len(drifting), text))
    if half:
        text = f"{len(half)} layers of which a part is trained and a part is frozen"
        found.append(make(HALF, half, len(half), text))
    return found


def _decay(subject: Subject, optimizer: torch.optim.Optimizer | None) -> list[Finding]:
    """Gammas and betas that the optimizer's weight decay pulls to 0."""
    if optimizer is None:
        return []
    decays = {id(p): float(group.get("weight_decay", 0))
              for group in optimizer.param_groups for p in group["params"]}  # fmt: skip
    found = {
        name: largest
        for name, layer in subject.layers.items()
        if (largest := max((decays.get(id(p), 0.0)
                            for p in layer.module.parameters(recurse=False)), default=0.0))
    }  # fmt: skip
    if not found:
        return []
    names = sorted(found, key=lambda name: -found[name])
    return [make(DECAY, names, found[names[0]], f"weight decay of {found[names[0]]:g}")]


def _channels_last(subject: Subject, still: Seen) -> list[Finding]:
    """The layers before which a network that has its channels last loses that."""
    if not any(map(_is_last, (*tensors(subject.batches[0].inputs), *subject.model.parameters()))):
        return []
    lost = [n for n, calls in still.items()
            if calls[0].mean.numel() > 1 and calls[0].values > calls[0].examples
            and not calls[0].channels_last]  # fmt: skip
    text = f"{len(lost)} of {len(still)} layers get inputs in another memory format"
    return [make(LOST, lost, len(lost), text)] if lost else []


def _is_last(tensor: torch.Tensor) -> bool:
    """Whether a tensor's channels lie last, and could lie otherwise."""
    if tensor.dim() != 4 or tensor.shape[1] == 1 or tensor.shape[2] * tensor.shape[3] == 1:
        return False
    return tensor.is_contiguous(memory_format=torch.channels_last) and not tensor.is_contiguous()
