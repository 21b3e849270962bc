"""Findings about the batches: whether they are alike, and whether their examples are apart."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from scipy import stats
from torch import Tensor, nn

from bnbook.diagnose.findings import ERROR, WARNING, Finding, Kind, make
from bnbook.diagnose.layers import BATCH
from bnbook.diagnose.passes import (
    TINY,
    Batch,
    Call,
    Seen,
    Subject,
    first_tensor,
    mapped,
    output_of,
    stacked,
)  # fmt: skip
from bnbook.diagnose.statistics import ONE

UNLIKE = Kind(
    "batches unlike each other", WARNING,
    "batches that differ as random draws do: the variance of their means is that of the examples"
    " over the batch size",
    "statistics jump with the order of the data: training normalises each batch by something"
    " else, and the running average follows the last of them",
    "DataLoader(..., shuffle=True)", "13-training-and-inference",
)  # fmt: skip
COMPANIONS = Kind(
    "depends on companions", ERROR,
    "the same output in evaluation whatever else is in the batch",
    "a prediction depends on who else is predicted, and a single example cannot be",
    'model.get_submodule("{layer}").eval()  # with track_running_stats=True',
    "13-training-and-inference",
)  # fmt: skip
CHANCE = 1e-4
"""How often batches that are alike may be taken for unlike, for one layer."""


def findings(subject: Subject, still: Seen) -> list[Finding]:
    """Return what is wrong with the batches."""
    return [*_unlike(subject, still), *_companions(subject)]


def left_over(subject: Subject, batches: Any) -> list[Finding]:
    """Whether a DataLoader's epoch ends with a batch of one, which `limit` may not have reached."""
    size, last = getattr(batches, "batch_size", None), not getattr(batches, "drop_last", True)
    dataset: Any = getattr(batches, "dataset", None)
    if not (isinstance(size, int) and last and hasattr(dataset, "__len__")) or size < 2:
        return []
    if len(dataset) % size != 1 or any(batch.size == 1 for batch in subject.batches):
        return []
    text = f"{len(dataset)} examples in batches of {size} leave one for the last"
    return [make(ONE, list(subject.live), 1, text)]


def _unlike(subject: Subject, still: Seen) -> list[Finding]:
    """Batches whose means lie farther apart than their examples let expect."""
    found = {}
    for name, calls in still.items():
        if name in subject.live and (ratio := _ratio(calls)) is not None:
            found[name] = ratio
    if not found:
        return []
    first = next(iter(found))
    names = sorted(found, key=lambda name: -found[name])
    names.insert(0, names.pop(names.index(first)))
    text = (
        f"batches' means vary {found[first]:.0f} times as much as the examples within batches"
        " let expect"
    )
    return [make(UNLIKE, names, found[first], text)]


def _ratio(calls: list[Call]) -> float | None:
    """Return the F ratio between and within batches if it is too large for chance."""
    calls = [call for call in calls if call.examples > 1 and call.finite]
    if len(calls) < 4 or len({call.batch for call in calls}) < len(calls):
        return None
    examples = torch.tensor([call.examples for call in calls], dtype=torch.float64)[:, None]
    freedom = examples - 1
    within = (freedom * stacked(calls, "between")).sum(0) / freedom.sum()
    means = stacked(calls, "mean")
    off = means - (examples * means).sum(0) / examples.sum()
    between = (examples * off.square()).sum(0) / (len(calls) - 1)
    varied = within > TINY
    if not varied.any():
        return None
    ratio = float((between[varied] / within[varied]).mean())
    bound = float(stats.f.isf(CHANCE, len(calls) - 1, float(freedom.sum())))
    return ratio if ratio > bound else None


def _companions(subject: Subject) -> list[Finding]:
    """Whether an output in evaluation changes with the other examples of the batch."""
    batch = next((b for b in subject.batches if b.size > 1), None)
    if batch is None:
        return []
    half = (batch.size + 1) // 2
    places = torch.arange(batch.size) % half
    other = Batch(
        mapped(batch.inputs, lambda t: t[places.to(t.device)] if len(t) == batch.size else t),
        batch.targets,
        batch.size,
    )
    with _sketched(subject, half) as sketches, subject.mode(subject.evaluation):
        outputs = [output_of(subject.forward(b))[:half] for b in (batch, other)]
        if _close(*outputs):
            return []
        repeated = output_of(subject.forward(batch))[:half]
    if not _close(outputs[0], repeated):
        return []  # random in evaluation: nothing can be said
    return [_said(subject, sketches, outputs)]


def _said(
    subject: Subject, sketches: Mapping[str, list[tuple[Tensor, Tensor]]], outputs: list[Tensor]
) -> Finding:
    reference = outputs[0].double()
    spread = (reference - reference.mean(0)).square().mean().sqrt().clamp_min(TINY)
    moved = float((outputs[1].double() - reference).square().mean().sqrt() / spread)
    guilty = [n for n, seen in sketches.items() if len(seen) >= 2 and _mixed(seen[0], seen[1])]
    also = [n for n, layer in subject.live.items() if n not in guilty
            and (subject.evaluation[layer.module] or not layer.tracked)]  # fmt: skip
    text = f"with other companions the outputs change by {moved:.0%} of their spread"
    return make(COMPANIONS, guilty + also, moved, text)


def _mixed(one: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor]) -> bool:
    """Whether a layer made different outputs of the same inputs."""
    return _close(one[0], other[0]) and not _close(one[1], other[1])


def _close(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors agree but for rounding, in units of their root mean square."""
    coarse = a.dtype in (torch.float16, torch.bfloat16)
    size = float(a.double().square().mean().sqrt())
    return float((a.double() - b.double()).abs().max()) <= (0.05 if coarse else 1e-3) * size


@contextmanager
def _sketched(subject: Subject, half: int) -> Iterator[dict[str, list[tuple[Tensor, Tensor]]]]:
    """Keep a few numbers of each layer's inputs and outputs for the first examples."""
    sketches: dict[str, list[tuple[Tensor, Tensor]]] = {}

    def watch(name: str) -> Any:
        def hook(_: nn.Module, given: tuple, named: dict, output: Any) -> None:
            x, y = first_tensor((given, named)), first_tensor(output)
            if x is not None and y is not None and len(x) == len(y) >= half:
                sketches.setdefault(name, []).append((_sketch(x[:half]), _sketch(y[:half])))

        return hook

    hooks = [layer.module.register_forward_hook(watch(n), with_kwargs=True)
             for n, layer in subject.layers.items() if layer.kind == BATCH]  # fmt: skip
    try:
        yield sketches
    finally:
        for hook in hooks:
            hook.remove()


def _sketch(x: Tensor) -> Tensor:
    """Mean, root mean square and largest value of each example."""
    flat = x.detach().double().flatten(1)
    return torch.stack([flat.mean(1), flat.square().mean(1).sqrt(), flat.amax(1)], 1)
