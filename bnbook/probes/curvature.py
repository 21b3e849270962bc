r"""Hessians of members' losses: products with vectors, and the largest eigenvalue by Lanczos.

Members do not mix, so that one product serves all: vectors have shape (E, P), a row for each
member, P its parameters in the order of the model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from bnbook.errors import BnbookError

Product = Callable[[Tensor], Tensor]
"""Maps vectors (E, P) to the products of each member's symmetric matrix with its row."""


def flattened(tensors: Sequence[Tensor], members: int) -> Tensor:
    """Put tensors whose first axis holds the members side by side: (E, P)."""
    return torch.cat([t.reshape(members, -1) for t in tensors], 1)


def unflattened(rows: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    """Undo `flattened`: tensors of the shapes of others, from (E, P)."""
    parts = rows.split([t.numel() // len(rows) for t in like], 1)
    return [part.reshape(t.shape) for part, t in zip(parts, like, strict=True)]


def hessian(losses: Tensor, parameters: Sequence[Tensor]) -> Product:
    r"""Return the products with the members' Hessians, :math:`v \mapsto \nabla(\nabla l \cdot v)`.

    Source: Pearlmutter 1994.

    Parameters
    ----------
    losses : Tensor, (E,)
        Computed from the parameters, its graph intact; it is kept as long as the function is.
    parameters : sequence of Tensor
        First axis E or E*C long, the same members in the same order.

    Returns
    -------
    callable
        (E, P) -> (E, P), in the parameters' precision.
    """
    gradients = torch.autograd.grad(losses.sum(), parameters, create_graph=True)
    members = len(losses)

    def product(v: Tensor) -> Tensor:
        found = torch.autograd.grad(
            gradients, parameters, unflattened(v, parameters), retain_graph=True,
            materialize_grads=True,
        )  # fmt: skip
        return flattened(found, members)

    return product


class Top(NamedTuple):
    """The largest eigenvalue of each member's matrix, as Lanczos has it.

    Attributes
    ----------
    value : Tensor, (E,), float64
        The largest Ritz value: at most the largest eigenvalue, but for rounding.
    error : Tensor, (E,), float64
        Norm of the residual: some eigenvalue lies within this distance of `value`.
    vector : Tensor, (E, P), float64
        The Ritz vectors, of norm 1.
    """

    value: Tensor
    error: Tensor
    vector: Tensor


def largest_eigenvalue(product: Product, start: Tensor, steps: int) -> Top:
    r"""Estimate the largest eigenvalue of each member's symmetric matrix.

    After k steps :math:`H V_k = V_k T_k + \beta_k v_{k+1} e_k^T` with :math:`T_k` tridiagonal. Of
    its largest eigenvalue :math:`\theta` with eigenvector s, the residual of the Ritz vector is
    :math:`\|H V_k s - \theta V_k s\| = \beta_k |s_k|`. Every new vector is made orthogonal to all
    before it, twice.

    The residual says how far the next eigenvalue is at most, not that it is the largest one: a
    start without a part along its eigenvector never finds that.

    Source: Lanczos 1950; Golub & Van Loan, Matrix Computations, section 10.1.

    Parameters
    ----------
    product : callable
        Maps (E, P) to (E, P), such as `hessian` returns.
    start : Tensor, (E, P)
        Rows that are not zero, random ones for instance; their precision is that of the products.
    steps : int
        Products, k, at most P.

    Returns
    -------
    Top
        Not numbers for members whose products are not.

    Raises
    ------
    BnbookError
        When steps does not lie in [1, P].
    """
    if not 1 <= steps <= start.shape[1]:
        raise BnbookError(f"steps must lie in [1, {start.shape[1]}], found {steps}.")
    basis = [start.double() / start.double().norm(dim=1, keepdim=True)]
    diagonal, beside = list[Tensor](), list[Tensor]()
    largest = torch.zeros_like(basis[0][:, 0])
    for _ in range(steps):
        w = product(basis[-1].to(start.dtype)).double()
        diagonal.append((w * basis[-1]).sum(1))
        largest = torch.maximum(largest, w.norm(dim=1))
        for _ in range(2):
            for v in basis:
                w = w - (w * v).sum(1, keepdim=True) * v
        beta = w.norm(dim=1)
        ended = beta <= 1e-12 * largest  # the vectors so far span an invariant space
        beta = beta.masked_fill(ended, 0)
        beside.append(beta)
        basis.append(w / beta.masked_fill(ended, torch.inf).unsqueeze(1))
    return _top(torch.stack(diagonal, 1), torch.stack(beside, 1), torch.stack(basis[:-1], 1))


def _top(diagonal: Tensor, beside: Tensor, basis: Tensor) -> Top:
    """Largest Ritz value; rows past an invariant space, all zero, get a value no larger than it."""
    past = torch.cat((torch.zeros_like(beside[:, :1]), beside[:, :-1]), 1) == 0
    past[:, 0] = False
    diagonal = torch.where(past.cumsum(1) > 0, diagonal[:, :1], diagonal)
    t = torch.diag_embed(diagonal)
    t += torch.diag_embed(beside[:, :-1], 1) + torch.diag_embed(beside[:, :-1], -1)
    good = t.isfinite().flatten(1).all(1) & basis.isfinite().flatten(1).all(1)
    values, vectors = torch.linalg.eigh(t.masked_fill(~good.view(-1, 1, 1), 0))
    s = vectors[..., -1]
    ritz = torch.einsum("ek,ekp->ep", s, basis)
    error = (beside[:, -1] * s[:, -1]).abs()
    nan = float("nan")
    return Top(values[:, -1].masked_fill(~good, nan), error.masked_fill(~good, nan), ritz)
