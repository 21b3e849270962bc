"""Leaving members out of a model of E: what lies along the member axis gets shorter."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

_PER_MODEL = ("num_features",)  # attributes that count all members' features together


def narrowed(tensor: Tensor, positions: Sequence[int], members: int) -> Tensor:
    """Return the part of a tensor that belongs to some members.

    Parameters
    ----------
    tensor : Tensor, (E, ...) or (E*C, ...) or ()
        A scalar belongs to all and is returned as it is.
    positions : sequence of int
        Members to keep, in [0, E).
    members : int
        E.

    Returns
    -------
    Tensor, (len(positions), ...) or (len(positions)*C, ...)
    """
    if tensor.dim() == 0:
        return tensor
    apart: Tensor = tensor.unflatten(0, (members, -1))
    return apart[list(positions)].flatten(0, 1)


@torch.no_grad()
def keep(model: nn.Module, positions: Sequence[int], members: int) -> None:
    """Leave in a model the members at some positions, in place.

    Parameters
    ----------
    model : nn.Module
        Of E members: the first axis of every parameter and buffer, scalars apart, is E or E*C long.
        Counts kept as ``members`` or ``num_features`` are brought up to date.
    positions : sequence of int
        Members to keep, in [0, E).
    members : int
        E.
    """
    for parameter in model.parameters():
        parameter.data = narrowed(parameter.data, positions, members)
    for module in model.modules():
        for name, buffer in module.named_buffers(recurse=False):
            module._buffers[name] = narrowed(buffer, positions, members)
        if hasattr(module, "members"):
            setattr(module, "members", len(positions))  # noqa: B010, not a submodule
        for name in _PER_MODEL:
            count = getattr(module, name, None)
            if isinstance(count, int):
                setattr(module, name, count // members * len(positions))
