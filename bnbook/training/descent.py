"""Stochastic gradient descent of E members: its settings, what a step is, and the update."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from bnbook.errors import BnbookError

Loss = Callable[[Tensor, Tensor], Tensor]
"""Maps outputs and labels to the losses of the members, (E,)."""


@dataclass(frozen=True)
class SGD:
    r"""Stochastic gradient descent, its settings a number or one for each of the E members.

    .. math::
        g = \nabla_\theta l + \lambda\theta, \quad v \leftarrow \mu v + g, \quad
        \theta \leftarrow \theta - \alpha\, s_t v

    Weight decay and momentum are those of `torch.optim.SGD`: the decay joins the gradient, and the
    momentum buffer does not hold the learning rate. Clipping scales the gradient of a member's loss
    down to a norm of `clip_norm`, before the decay joins it.

    Attributes
    ----------
    learning_rate : sequence of float, length E
        :math:`\alpha`.
    momentum, weight_decay : float or sequence of float
        :math:`\mu` and :math:`\lambda`.
    weights_only : bool
        Whether only the weights of linear maps and convolutions decay, and neither biases nor the
        scales and shifts of normalisation layers.
    clip_norm : float or sequence of float
        Largest norm of a member's gradient, over all its parameters; infinity clips nothing.
    schedule : Tensor, (steps,) or (steps, E), or None
        :math:`s_t`, a factor for each step, on the CPU; None is 1 throughout.
    """

    learning_rate: Sequence[float]
    momentum: float | Sequence[float] = 0.0
    weight_decay: float | Sequence[float] = 0.0
    schedule: Tensor | None = None
    weights_only: bool = False
    clip_norm: float | Sequence[float] = math.inf

    @property
    def plain(self) -> bool:
        """Whether there is neither momentum nor weight decay, and nothing is clipped."""
        return not (_any(self.momentum) or _any(self.weight_decay) or self.clips)

    @property
    def clips(self) -> bool:
        """Whether any member's gradient is clipped."""
        norms = self.clip_norm if isinstance(self.clip_norm, Sequence) else [self.clip_norm]
        return any(norm < math.inf for norm in norms)

    def check(self, steps: int) -> None:
        """Refuse settings that do not fit each other or the number of steps.

        Raises
        ------
        BnbookError
            With the field, what was expected and what was found.
        """
        members = len(self.learning_rate)
        if members < 1:
            raise BnbookError("learning_rate needs one value for each member, found none.")
        for name in ("momentum", "weight_decay", "clip_norm"):
            value = getattr(self, name)
            if isinstance(value, Sequence) and len(value) != members:
                raise BnbookError(
                    f"{name} must be a number or one for each of {members} members,"
                    f" found {len(value)}."
                )
        shapes = ((steps,), (steps, members))
        if self.schedule is not None and tuple(self.schedule.shape) not in shapes:
            raise BnbookError(
                f"schedule must have shape {shapes[0]} or {shapes[1]}, found"
                f" {tuple(self.schedule.shape)}."
            )

    def of(self, kept: Sequence[int]) -> SGD:
        """Return the settings of some members."""

        def some(value: float | Sequence[float]) -> float | Sequence[float]:
            return [value[e] for e in kept] if isinstance(value, Sequence) else value

        schedule = self.schedule
        if schedule is not None and schedule.dim() == 2:
            schedule = schedule[:, list(kept)]
        return replace(
            self,
            learning_rate=[self.learning_rate[e] for e in kept],
            momentum=some(self.momentum),
            weight_decay=some(self.weight_decay),
            schedule=schedule,
            clip_norm=some(self.clip_norm),
        )


def _any(value: float | Sequence[float]) -> bool:
    return any(value) if isinstance(value, Sequence) else bool(value)


class Step(Protocol):
    """Updates the members on one minibatch and returns their losses before the update, (E,)."""

    @property
    def velocity(self) -> list[Tensor]:
        """Momentum buffers, one for each parameter; none where no member has momentum."""

    def __call__(self, x: Tensor, y: Tensor, factor: Tensor | None = None) -> Tensor:
        """Make one step; ``factor`` multiplies the learning rates."""

    def evaluating(self) -> AbstractContextManager[Any]:
        """Let the model compute as the step does, for measurements in evaluation mode."""


class Descent:
    """The update of `SGD`: gradients in, parameters changed in place.

    Parameters
    ----------
    parameters : sequence of Tensor
        Their first axis holds the members, E or E*C long.
    optimiser : SGD
        The settings.

    Attributes
    ----------
    velocity : list of Tensor
        Momentum buffers, one for each parameter; none where no member has momentum.

    Raises
    ------
    BnbookError
        When a parameter's first axis is no multiple of E.
    """

    def __init__(self, parameters: Sequence[Tensor], optimiser: SGD) -> None:
        self.parameters, self.members = list(parameters), len(optimiser.learning_rate)
        self.alpha = self._shaped(optimiser.learning_rate)
        self.rates = [alpha.clone() for alpha in self.alpha]
        self.decay = self._shaped(optimiser.weight_decay)
        if optimiser.weights_only:  # biases have two axes, scales and shifts one
            for each, p in zip(self.decay, self.parameters, strict=bool(self.decay)):
                each.mul_(p.dim() > 2)
        self.clip_norm = self._shaped(optimiser.clip_norm) if optimiser.clips else []
        self.momentum = self._shaped(optimiser.momentum)
        self.velocity = [torch.zeros_like(p) for p in self.parameters] if self.momentum else []
        self.at_once = self._shared(optimiser) if self.parameters[0].is_cuda else {}
        self.factor: Tensor | None = None

    def _shared(self, optimiser: SGD) -> dict[str, float]:
        """Return momentum and decay where all parameters share them, as torch's kernel wants."""
        if self.members > 1 or not self.velocity or optimiser.weights_only:
            return {}
        decay = float(self.decay[0]) if self.decay else 0.0
        return {"momentum": float(self.momentum[0]), "weight_decay": decay}

    def _shaped(self, values: float | Sequence[float]) -> list[Tensor]:
        """Shape the members' values to multiply each parameter; nothing where all are zero."""
        if not _any(values) and not isinstance(values, Sequence):
            return []
        each = values if isinstance(values, Sequence) else [values] * self.members
        shaped = []
        for p in self.parameters:
            if p.shape[0] % self.members:
                raise BnbookError(
                    f"learning_rate has {self.members} members, a parameter has shape"
                    f" {tuple(p.shape)}: its first axis must be a multiple."
                )
            shaped.append(_along_members(torch.tensor(each, dtype=p.dtype, device=p.device), p))
        return shaped

    def scale(self, factor: Tensor | None) -> None:
        """Set the learning rates to the optimiser's times a factor, () or (E,)."""
        if factor is None or (self.factor is not None and torch.equal(factor, self.factor)):
            return
        self.factor = factor
        for rate, alpha in zip(self.rates, self.alpha, strict=True):
            each = _along_members(factor.to(alpha).expand(self.members), alpha)
            torch.mul(alpha, each, out=rate)

    @torch.no_grad()
    def descend(self, gradients: Sequence[Tensor]) -> None:
        """Move the parameters against gradients of their shapes."""
        if self.clip_norm:
            gradients = self._clipped(gradients)
        if self.at_once:
            self._descend_at_once(gradients)
            return
        for at, (p, g) in enumerate(zip(self.parameters, gradients, strict=True)):
            step = g.addcmul(p, self.decay[at]) if self.decay else g
            if self.velocity:
                step = self.velocity[at].mul_(self.momentum[at]).add_(step)
            p.addcmul_(step, self.rates[at], value=-1)

    def _descend_at_once(self, gradients: Sequence[Tensor]) -> None:
        """Let torch's kernel move all parameters: on a GPU a launch for each would cost more."""
        pairs = zip(self.parameters, gradients, strict=True)
        torch._fused_sgd_(
            self.parameters, [_laid_out_as(p, g) for p, g in pairs], self.velocity,
            lr=self.rates[0].view(()), momentum=self.at_once["momentum"],
            weight_decay=self.at_once["weight_decay"], dampening=0.0,
            nesterov=False, maximize=False, is_first_step=False,
        )  # fmt: skip

    def _clipped(self, gradients: Sequence[Tensor]) -> list[Tensor]:
        """Scale each member's gradient down to a norm of `clip_norm` where it is longer."""
        flat = [g.reshape(self.members, -1).square().sum(1) for g in gradients]
        norm = torch.stack(flat).sum(0).sqrt()
        return [
            g * (most / _along_members(norm, g)).clamp(max=1)
            for g, most in zip(gradients, self.clip_norm, strict=True)
        ]


def _laid_out_as(p: Tensor, gradient: Tensor) -> Tensor:
    """Return a gradient in the memory layout of its parameter."""
    return gradient if gradient.stride() == p.stride() else torch.empty_like(p).copy_(gradient)


def _along_members(values: Tensor, p: Tensor) -> Tensor:
    """Shape values, (E,), to multiply a parameter whose first axis holds the members."""
    each = values.repeat_interleave(p.shape[0] // len(values))
    return each.view(-1, *(1,) * (p.dim() - 1))
