"""What is wrong with the batch normalisation of a network: any network of torch.

`diagnose` sends a few batches through, measures every layer of batch normalisation, and returns a
`Report` of what it found, beside what is normal, with what to try. The network is afterwards what
it was, bit by bit.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from bnbook.diagnose import data, layers, passes, scale, statistics, use
from bnbook.diagnose.findings import SEVERITIES, Finding
from bnbook.diagnose.passes import Loss, Subject
from bnbook.diagnose.report import Report, rows
from bnbook.errors import BnbookError

__all__ = ["Finding", "Report", "diagnose"]

STAGES = ("as in training", "with the batch", "gaps", "companions", "gradients")


def diagnose(
    model: nn.Module,
    batches: Iterable[Any],
    loss: Loss | None = None,
    optimizer: torch.optim.Optimizer | None = None,
    *,
    limit: int = 32,
    progress: bool = False,
) -> Report:
    """Find out what is wrong with a network's batch normalisation.

    Fewer than 30 forward passes over the batches are made, some more of one batch where biases
    precede the layers, and one backward pass over three batches at most. Parameters, gradients,
    buffers, modes and random states are afterwards as before.

    Parameters
    ----------
    model : nn.Module
        With one layer of batch normalisation or more: torch's, SyncBatchNorm in one process, this
        book's, subclasses that do more, frozen ones. A model in training mode is taken to be in the
        mode that it trains in, frozen layers included; one in evaluation is asked by ``train()``.
    batches : iterable
        What the model takes, or tuples of that and targets, as in training: of the same size, in
        the same order. A dict is passed as keyword arguments.
    loss : callable, optional
        From the model's outputs and the targets to one number. Without it there is nothing on
        losses, gradients and the rate.
    optimizer : torch.optim.Optimizer, optional
        For its weight decay, and for its rate if it is SGD. No step is made.
    limit : int
        Batches that are used, at most, from the first.
    progress : bool
        Whether to show a bar.

    Returns
    -------
    Report
        Its ``findings`` are empty for a healthy network.

    Raises
    ------
    BnbookError
        When the model, a batch, the loss or the optimizer is none, the model has no batch
        normalisation, or a batch cannot pass.

    Examples
    --------
    >>> net = nn.Sequential(nn.Linear(4, 8, bias=False), nn.BatchNorm1d(8), nn.ReLU())
    >>> diagnose(net, torch.randn(8, 32, 4)).findings[0].kind
    'never updated'
    """
    began = time.perf_counter()
    if not (optimizer is None or hasattr(optimizer, "param_groups")):
        raise BnbookError(
            f"optimizer must be a torch.optim.Optimizer or None, found {type(optimizer).__name__}."
        )
    subject = _subject(model, batches, loss, limit)
    with tqdm(STAGES, disable=not progress, unit="stage", leave=False) as bar:
        try:
            report = _examined(subject, batches, optimizer, bar)
        except BnbookError:
            raise
        except Exception as error:
            raise BnbookError(
                f"the model must take each batch as model(inputs), {bar.desc or 'a pass'} raised"
                f" {type(error).__name__}: {error}. The model is as it was."
            ) from error
    report.seconds = time.perf_counter() - began
    return report


def _subject(model: nn.Module, batches: Iterable[Any], loss: Loss | None, limit: int) -> Subject:
    if not isinstance(model, nn.Module):
        raise BnbookError(f"model must be a torch.nn.Module, found {type(model).__name__}.")
    if not (loss is None or callable(loss)):
        raise BnbookError(
            f"loss must be callable as loss(outputs, targets), found {type(loss).__name__}."
        )
    if limit < 1:
        raise BnbookError(f"limit must be at least 1, found {limit}.")
    found = layers.find(model)
    if not any(layer.kind == layers.BATCH for layer in found.values()):
        others = ", ".join(sorted({type(la.module).__name__ for la in found.values()})) or "none"
        raise BnbookError(
            "the model must have a layer of batch normalisation that normalises with the batch in"
            f" training, found other normalisation: {others}."
        )
    tensors = (*model.parameters(), *model.buffers())
    device = next((tensor.device for tensor in tensors), torch.device("cpu"))
    return Subject(model, found, passes.take(batches, limit, device), loss)


def _examined(
    subject: Subject, batches: Iterable[Any], optimizer: torch.optim.Optimizer | None, bar: tqdm
) -> Report:
    def stage() -> None:
        bar.set_description(STAGES[int(bar.n)])
        bar.update()

    stage()
    trained, train_loss = passes.observe(subject, subject.training)
    stage()
    still, _ = passes.observe(subject, subject.as_batch)
    if not trained:
        raise BnbookError("every batch normalisation layer stayed unused, or takes inputs unlike"
                          " (N, C, ...); nothing was changed.")  # fmt: skip
    stage()
    gap = statistics.gaps(subject, trained, still)
    stage()
    found = [*statistics.findings(subject, trained, still, gap), *data.findings(subject, still)]
    found += [*data.left_over(subject, batches), *use.findings(subject, trained, still, optimizer)]
    stage()
    scales = scale.measure(subject, still, optimizer)
    found += scale.findings(scales)
    found.sort(key=lambda finding: SEVERITIES.index(finding.severity))
    return Report(
        findings=tuple(found),
        layers=rows(subject, trained, still, gap, scales),
        losses=gap.losses | {"training": train_loss},
        noise=gap.noise,
        stale=gap.stale,
        edge=scales.edge,
        batches=len(subject.batches),
        examples=sum(batch.size for batch in subject.batches),
        passes=subject.passes,
    )
