"""The one training loop of the package; measurements plug in as probes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from bnbook.errors import BnbookError

_BATCH_STREAM = 1 << 32  # keeps the batches of a seed apart from its initial weights

Probe = Callable[[], Mapping[str, Tensor]]
"""Measures the model as it stands: names -> tensors whose first axis is the member."""


def choose_device(name: str) -> torch.device:
    """Turn ``auto``, ``cpu`` or ``cuda`` into a device; ``auto`` takes the GPU if there is one.

    Raises
    ------
    BnbookError
        When the name is unknown or the device is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise BnbookError(f"device must be auto, cpu or cuda, found {name!r}.") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise BnbookError("device cuda was asked for, torch sees none. Try `--device cpu`.")
    return device


def minibatches(num_examples: int, batch_size: int, steps: int, seed: int) -> Tensor:
    """Indices of the minibatches of a run: each epoch is one random permutation.

    The last, incomplete batch of an epoch is dropped. Drawn on the CPU, so that a seed means the
    same batches on every device.

    Parameters
    ----------
    num_examples, batch_size, steps, seed : int
        Size of the training set, of a batch, number of batches, and seed.

    Returns
    -------
    Tensor, (steps, batch_size), int64

    Raises
    ------
    BnbookError
        When a batch is larger than the training set.
    """
    if not 1 <= batch_size <= num_examples:
        raise BnbookError(f"batch_size must lie in [1, {num_examples}], found {batch_size}.")
    per_epoch = num_examples // batch_size
    generator = torch.Generator().manual_seed(_BATCH_STREAM + seed)
    epochs = [
        torch.randperm(num_examples, generator=generator)[: per_epoch * batch_size]
        for _ in range(-(-steps // per_epoch))
    ]
    return torch.cat(epochs).view(-1, batch_size)[:steps].contiguous()


def fit(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    batches: Tensor,
    learning_rate: Tensor,
    loss: Callable[[Tensor, Tensor], Tensor],
    probes: Sequence[Probe] = (),
    at: Sequence[int] = (),
) -> list[dict[str, Tensor]]:
    r"""Train E members by plain SGD, :math:`\theta_e \leftarrow \theta_e - \alpha_e \nabla l_e`.

    Members' losses are summed for one backward pass; no parameter belongs to two members, so each
    gets the gradient of its own loss.

    Parameters
    ----------
    model : nn.Module
        Maps (B, ...) images to E members' outputs. Its parameters' first axis holds the members,
        E or E*C long.
    images, labels : Tensor, (N, ...) and (N,)
        The training set, on the model's device.
    batches : Tensor, (steps, B), int64
        Indices into the training set; see `minibatches`.
    learning_rate : Tensor, (E,)
        One per member.
    loss : callable
        (outputs, labels) -> (E,) losses.
    probes : sequence of callables
        Called in evaluation mode without gradients; they leave the model as it was.
    at : sequence of int
        Steps, from 0 (before the first update) to ``len(batches)``, at which the probes run.

    Returns
    -------
    list of dict
        One per step in `at`: ``step``, ``loss`` (mean training loss since the step before; NaN at
        the first if it is 0) and what the probes return, all detached.

    Raises
    ------
    BnbookError
        When `at` is not increasing within [0, steps], or the learning rates do not fit the model.
    """
    parameters = list(model.parameters())
    rates = _rates(parameters, learning_rate)
    if list(at) != sorted(set(at)) or (at and not 0 <= at[0] <= at[-1] <= len(batches)):
        raise BnbookError(f"at must increase within [0, {len(batches)}], found {list(at)}.")
    batches = batches.to(images.device)
    history: list[dict[str, Tensor]] = []
    start = 0
    for stop in at or (len(batches),):
        total = torch.zeros_like(learning_rate)
        model.train()
        for batch in batches[start:stop]:
            losses = loss(model(images[batch]), labels[batch])
            _sgd_step(parameters, torch.autograd.grad(losses.sum(), parameters), rates)
            total += losses.detach()
        model.eval()
        with torch.no_grad():
            measured = {name: value for probe in probes for name, value in probe().items()}
        history.append(
            {"step": torch.tensor(stop), "loss": total / (stop - start or torch.nan), **measured}
        )
        start = stop
    return history


def _rates(parameters: list[nn.Parameter], learning_rate: Tensor) -> list[Tensor]:
    """Shape the members' rates to multiply each parameter, its member axis unfolded."""
    members = len(learning_rate)
    for parameter in parameters:
        if parameter.shape[0] % members:
            raise BnbookError(
                f"learning_rate has {members} members, a parameter has shape"
                f" {tuple(parameter.shape)}: its first axis must be a multiple."
            )
    return [
        learning_rate.repeat_interleave(p.shape[0] // members).view(-1, *(1,) * (p.dim() - 1))
        for p in parameters
    ]


@torch.no_grad()
def _sgd_step(
    parameters: list[nn.Parameter], gradients: tuple[Tensor, ...], rates: list[Tensor]
) -> None:
    for parameter, gradient, rate in zip(parameters, gradients, rates, strict=True):
        parameter.addcmul_(gradient, rate, value=-1)
