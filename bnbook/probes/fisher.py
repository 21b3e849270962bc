r"""Losses whose Hessian at the network as it is is its Fisher information.

The Fisher information of a network that says :math:`p(y \mid f(x))` is
:math:`F = \mathrm{E}_x[J^T \Lambda J]`, with J the Jacobian of its outputs :math:`f` with respect
to the parameters and :math:`\Lambda` that of p with respect to f: the identity for a Gaussian of
variance 1 about the outputs, :math:`\mathrm{diag}(q) - q q^T` for the softmax q. It is the Hessian
of the divergence from the network's own answer, which is held fixed: the residual is zero, and with
it the part of the Hessian that is not of the form :math:`J^T \Lambda J` (Gauss and Newton's).

With BN the outputs of one input depend on the whole batch, and J with them.

`bnbook.probes.curvature` makes products and the largest eigenvalue of it.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor


def gaussian(outputs: Tensor) -> Tensor:
    """Half the squared distance from the outputs as they are, outputs (N, E, K) -> (E,)."""
    return (outputs - outputs.detach()).square().sum(-1).mean(0) / 2


def softmax(outputs: Tensor) -> Tensor:
    """Divergence from the softmax as it is, but for a constant, outputs (N, E, K) -> (E,)."""
    own = outputs.detach().softmax(-1)
    return -(own * outputs.log_softmax(-1)).sum(-1).mean(0)


LOSSES: dict[str, Callable[[Tensor], Tensor]] = {"gaussian": gaussian, "softmax": softmax}
