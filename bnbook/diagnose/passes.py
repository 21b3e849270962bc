"""Passes of the batches through a network, and what the normalisation layers see in them."""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from bnbook.diagnose import layers as state
from bnbook.diagnose.layers import BATCH, Layer
from bnbook.errors import BnbookError
from bnbook.layers.precise import Statistics

Loss = Callable[[Any, Any], Tensor]
"""Takes the network's outputs and a batch's targets, and returns one number."""

TINY = 1e-30
"""Keeps quotients of variances finite; far below any variance of float32 values."""


class Batch(NamedTuple):
    """A batch: what the network takes, the targets or None, and the number of examples."""

    inputs: Any
    targets: Any
    size: int


class Call(NamedTuple):
    """What one layer was given in one call.

    Attributes
    ----------
    batch, examples, values : int
        Number of the batch, examples in it, values of each feature.
    mean, var : Tensor, (C,), float64
        Of each feature in this call; the variance is the biased one.
    between : Tensor, (C,), float64
        Unbiased variance of the examples' own means; NaN for one example.
    share : Tensor, (C,), float64
        Part of the sum of squared deviations that is due to the most extreme value.
    zeros, least : float
        Share of exact zeros, and the smallest value.
    finite, channels_last, of_the_input : bool
        Whether all values are finite, how they lie in memory, and whether they are the network's
        own input.
    maker : str
        Name of the module whose output this is, unchanged; empty if none is known.
    """

    batch: int
    examples: int
    values: int
    mean: Tensor
    var: Tensor
    between: Tensor
    share: Tensor
    zeros: float
    least: float
    finite: bool
    channels_last: bool
    of_the_input: bool
    maker: str


Seen = dict[str, list[Call]]
"""Layer -> its calls, layers in the order in which they are first reached."""


@dataclass
class Subject:
    """A network under examination.

    Attributes
    ----------
    model : nn.Module
    layers : dict of str to Layer
        All its normalisation layers.
    batches : list of Batch
    loss : callable or None
    training, evaluation : dict of nn.Module to bool
        Which modules are in training in each of the two modes.
    examples : int
        Examples that have passed so far.
    """

    model: nn.Module
    layers: dict[str, Layer]
    batches: list[Batch]
    loss: Loss | None
    training: dict[nn.Module, bool] = field(init=False)
    evaluation: dict[nn.Module, bool] = field(init=False)
    examples: int = 0

    def __post_init__(self) -> None:
        """Ask the network for its two modes."""
        self.training = state.training_flags(self.model)
        self.evaluation = state.evaluation_flags(self.model)

    @property
    def passes(self) -> float:
        """Forward passes so far, in units of one over all batches."""
        return self.examples / sum(batch.size for batch in self.batches)

    @property
    def live(self) -> dict[str, Layer]:
        """Layers that normalise with the batch in training."""
        return {
            name: layer
            for name, layer in self.layers.items()
            if layer.kind == BATCH and (self.training[layer.module] or not layer.tracked)
        }

    @property
    def as_batch(self) -> dict[nn.Module, bool]:
        """Evaluation, but that live layers normalise with the batch."""
        return self.evaluation | {layer.module: True for layer in self.live.values()}

    def forward(self, batch: Batch) -> Any:
        """Send one batch through, in the mode that is set."""
        self.examples += batch.size
        inputs = batch.inputs
        with _single_values_pass(self.live):
            return self.model(**inputs) if isinstance(inputs, dict) else self.model(inputs)

    def loss_of(self, outputs: Any, batch: Batch) -> float:
        """Return the loss of some outputs; NaN where there is none to compute."""
        if self.loss is None:
            return float("nan")
        return float(self.lost(outputs, batch).detach())

    def lost(self, outputs: Any, batch: Batch) -> Tensor:
        """Return the loss of some outputs as a tensor.

        Raises
        ------
        BnbookError
            When the loss raises, or returns anything but one number.
        """
        assert self.loss is not None
        must = "loss must take (outputs, targets) and return a tensor of one number"
        try:
            found: Any = self.loss(outputs, batch.targets)
        except Exception as error:
            raise BnbookError(
                f"{must}, it raised {type(error).__name__}: {error}. The model is as it was."
            ) from error
        if not isinstance(found, Tensor) or found.numel() != 1:
            what = (f"a tensor of {tuple(found.shape)}" if isinstance(found, Tensor)
                    else f"a {type(found).__name__}")  # fmt: skip
            raise BnbookError(f"{must}, it returned {what}. The model is as it was.")
        return found

    @contextmanager
    def mode(self, flags: Mapping[nn.Module, bool]) -> Iterator[None]:
        """Set a mode without gradients; what a pass changes is put back on leaving."""
        with state.kept(self.model), torch.no_grad():
            state.set_flags(flags)
            yield


@contextmanager
def _single_values_pass(live: Mapping[str, Layer]) -> Iterator[None]:
    """Let a batch of one value a feature pass: the layer takes its running statistics for it."""

    def before(module: Any, given: tuple[Any, ...], named: dict[str, Any]) -> None:
        x = first_tensor((given, named))
        single = x is not None and x.dim() > 1 and x.numel() // max(x.shape[1], 1) < 2
        if module.training and single and module.running_mean is not None:
            module.training = False
            module.__dict__["_bnbook_paused"] = True

    def after(module: Any, *_: Any) -> None:
        if module.__dict__.pop("_bnbook_paused", False):
            module.training = True

    hooks = []
    for layer in live.values():
        hooks.append(layer.module.register_forward_pre_hook(before, with_kwargs=True))
        hooks.append(layer.module.register_forward_hook(after, always_call=True))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def take(batches: Iterable[Any], limit: int, device: torch.device) -> list[Batch]:
    """Read the first batches, once, onto the device; random states are as before.

    Raises
    ------
    BnbookError
        When there is none, or one has no tensor with examples along its first axis.
    """
    if not isinstance(batches, Iterable):
        raise BnbookError(f"batches must be iterable, found {type(batches).__name__}.")
    sampler = getattr(batches, "sampler", None)
    own = (getattr(place, "generator", None) for place in (batches, sampler))
    generators = [g for g in own if isinstance(g, torch.Generator)]
    with state.same_random_states(*generators):
        read = [_batch(b, device) for b in itertools.islice(batches, limit)]
    if not read:
        raise BnbookError("batches must hold one batch or more, found none.")
    return read


def _batch(given: Any, device: torch.device) -> Batch:
    pair = given if isinstance(given, (tuple, list)) else (given,)
    inputs, targets = pair[0], pair[1] if len(pair) > 1 else None
    first = first_tensor(inputs)
    if first is None or not first.dim():
        raise BnbookError(
            "a batch must be the network's inputs, or a tuple of inputs and targets, with examples"
            f" along the first axis of a tensor; found a {type(given).__name__} without one."
        )
    return Batch(moved(inputs, device), moved(targets, device), len(first))


def moved(value: Any, device: torch.device) -> Any:
    """Return a value with every tensor in it on the device."""
    return mapped(value, lambda tensor: tensor.to(device))


def mapped(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """Return a value with every tensor in tuples, lists and dicts changed."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, (tuple, list)) and not hasattr(value, "_fields"):
        return type(value)(mapped(item, change) for item in value)
    if isinstance(value, dict):
        return {key: mapped(item, change) for key, item in value.items()}
    return value


def first_tensor(value: Any) -> Tensor | None:
    """Return the first tensor in nested tuples, lists and mappings."""
    return next(tensors(value), None)


def tensors(value: Any) -> Iterator[Tensor]:
    """Yield the tensors in nested tuples, lists and mappings."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (tuple, list, Mapping)):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from tensors(item)


def output_of(outputs: Any) -> Tensor:
    """Return the tensor that stands for a network's outputs: the first, as float32 or wider.

    Raises
    ------
    BnbookError
        When there is no tensor.
    """
    found = first_tensor(outputs)
    if found is None:
        raise BnbookError(
            f"the model must return a tensor, or some of them in a tuple or dict, found"
            f" {type(outputs).__name__}; nothing was changed."
        )
    return found.float() if found.dtype in (torch.float16, torch.bfloat16) else found


def rows(x: Tensor, features: int | None) -> Tensor | None:
    """Lay a layer's input out as (examples, positions, C); None when C fits no axis."""
    if x.dim() < 2:
        return None
    axis = 1 if features in (None, x.shape[1]) else -1
    if features not in (None, x.shape[axis]):
        return None
    laid = x.detach().movedim(axis, -1)
    laid = laid.float() if laid.dtype in (torch.float16, torch.bfloat16) else laid
    return laid.reshape(len(x), -1, laid.shape[-1])


def _measured(x: Tensor, features: int | None, number: int) -> Call | None:
    """Take down what a layer was given, without who made it."""
    laid = rows(x, features)
    if laid is None:
        return None
    examples, positions, _ = laid.shape
    var, mean = torch.var_mean(laid, (0, 1), correction=0)
    high, low = laid.amax((0, 1)), laid.amin((0, 1))
    means = laid.mean(1)
    total = examples * positions * var
    extreme = torch.maximum(high - mean, mean - low).square() / total.clamp_min(TINY)
    between = means.var(0) if examples > 1 else torch.full_like(mean, torch.nan)
    of_channels = x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last)
    mean, var, between, extreme = (t.double().cpu() for t in (mean, var, between, extreme))
    return Call(
        batch=number, examples=examples, values=examples * positions,
        mean=mean, var=var, between=between, share=extreme,
        zeros=float((laid == 0).float().mean()), least=float(low.min()),
        finite=bool(high.isfinite().all() and low.isfinite().all()), channels_last=of_channels,
        of_the_input=False, maker="",
    )  # fmt: skip


class _Makers:
    """Which module made a tensor, as long as the tensor lives and nobody changes it in place."""

    def __init__(self) -> None:
        self._made: dict[int, tuple[Any, int, str]] = {}

    def note(self, name: str, output: Any) -> None:
        """Remember an output."""
        if isinstance(output, Tensor):
            self._made[id(output)] = weakref.ref(output), output._version, name

    def of(self, x: Tensor) -> str:
        """Return the name of the module that made this tensor, or nothing."""
        tensor, version, name = self._made.get(id(x), (lambda: None, -1, ""))
        return name if tensor() is x and version == x._version else ""


OPERATIONS = (
    nn.Linear, nn.modules.conv._ConvNd, nn.modules.dropout._DropoutNd, nn.ReLU, nn.ReLU6,
    nn.LeakyReLU, nn.Sigmoid, nn.Tanh, nn.GELU, nn.SiLU, nn.ELU, nn.Hardswish, nn.Softplus,
)  # fmt: skip
"""Modules whose outputs are followed to the layers that they feed."""


def observe(subject: Subject, flags: Mapping[nn.Module, bool]) -> tuple[Seen, float]:
    """Send every batch through once; return what the layers saw, and the mean loss.

    Parameters
    ----------
    subject : Subject
    flags : mapping
        The mode.

    Returns
    -------
    dict, float
        Layer -> calls, for layers that can be measured; the mean over batches of the loss, NaN
        without one.
    """
    seen: Seen = {}
    makers = _Makers()
    now: dict[str, Any] = {}

    def watch(name: str, layer: Layer) -> Callable[..., None]:
        def hook(_: Any, given: tuple[Any, ...], named: dict[str, Any]) -> None:
            x = first_tensor((given, named))
            call = None if x is None else _measured(x, layer.features, now["number"])
            if x is not None and call is not None:
                own = x.untyped_storage().data_ptr() in now["storages"]
                call = call._replace(of_the_input=own, maker=makers.of(x))
                seen.setdefault(name, []).append(call)

        return hook

    hooks = [layer.module.register_forward_pre_hook(watch(n, layer), with_kwargs=True)
             for n, layer in subject.layers.items() if layer.kind == BATCH]  # fmt: skip
    for name, module in subject.model.named_modules():
        if isinstance(module, OPERATIONS):
            note: Any = lambda _, __, out, name=name: makers.note(name, out)  # noqa: E731
            hooks.append(module.register_forward_hook(note))
    losses = []
    try:
        with subject.mode(flags):
            for now["number"], batch in enumerate(subject.batches):
                now["storages"] = {t.untyped_storage().data_ptr() for t in tensors(batch.inputs)}
                losses.append(subject.loss_of(subject.forward(batch), batch))
    finally:
        for hook in hooks:
            hook.remove()
    return seen, sum(losses) / len(losses)


def stacked(calls: list[Call], name: str) -> Tensor:
    """Return one field of all calls as (calls, C)."""
    return torch.stack([getattr(call, name) for call in calls])


def population(calls: list[Call]) -> Statistics:
    """Mean and variance of all values of all calls together, (C,) each, float64.

    The variance is unbiased, as running variances are, and counts how far the batches lie apart.
    """
    weights = torch.tensor([call.values for call in calls], dtype=torch.float64)[:, None]
    means, variances = stacked(calls, "mean"), stacked(calls, "var")
    total = weights.sum()
    mean = (weights * means).sum(0) / total
    within = (weights * (variances + (means - mean).square())).sum(0)
    return Statistics(mean, within / (total - 1).clamp_min(1))


class Noise(NamedTuple):
    """How far one batch's statistics lie from the population's, each (C,), squared.

    Attributes
    ----------
    mean : Tensor
        Variance of the batches' means, as measured, over the feature's variance.
    log_var : Tensor
        Variance of the logarithm of the batches' variances.
    predicted : Tensor
        What the spread of the examples within batches predicts for `mean`; NaN for single examples.
    """

    mean: Tensor
    log_var: Tensor
    predicted: Tensor


def noise(calls: list[Call]) -> Noise:
    """Measure and predict the sampling error of one batch's statistics."""
    var = population(calls).var.clamp_min(TINY)
    means, variances = stacked(calls, "mean"), stacked(calls, "var")
    examples = torch.tensor([call.examples for call in calls], dtype=torch.float64)[:, None]
    predicted = (stacked(calls, "between") / examples).nanmean(0) / var
    if len(calls) < 4:  # too few to measure how batches differ
        return Noise(predicted, 2 * predicted, predicted)
    logs = variances.clamp_min(TINY).log()
    return Noise(means.var(0) / var, logs.var(0), predicted)
