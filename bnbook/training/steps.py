"""One SGD step of E members through autograd, as it is or captured in a CUDA graph."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from bnbook.errors import BnbookError
from bnbook.training import chain, deep, kernels
from bnbook.training.descent import SGD, Descent, Loss, Step
from bnbook.training.session import Plan

PRECISIONS = ("float32", "tf32", "bfloat16")


class AutogradStep:
    """A step of any model through autograd.

    Members' losses are summed for one backward pass; no parameter belongs to two members, so each
    gets the gradient of its own loss.

    Parameters
    ----------
    model : nn.Module
        Maps (N, ...) images, or (N, E*C, ...) when each member has its own, to E members' outputs.
        Its parameters' first axis holds the members, E or E*C long.
    loss : callable
        ``(outputs, labels) -> (E,)``.
    optimiser : SGD
        The settings.
    precision : str
        One of `PRECISIONS`.
    compiled : bool
        Whether `torch.compile` makes the forward and backward pass.

    Raises
    ------
    BnbookError
        When a parameter's first axis is no multiple of E, or the precision is unknown.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Loss,
        optimiser: SGD,
        precision: str = "float32",
        compiled: bool = False,
    ) -> None:
        if precision not in PRECISIONS:
            raise BnbookError(
                f"precision must be one of {', '.join(PRECISIONS)}, found {precision!r}."
            )
        self.loss, self.descent = loss, Descent(list(model.parameters()), optimiser)
        self.forward = torch.compile(model) if compiled else model
        self.bfloat16 = precision == "bfloat16"

    @property
    def velocity(self) -> list[Tensor]:
        """Momentum buffers; see `Descent`."""
        return self.descent.velocity

    def __call__(self, x: Tensor, y: Tensor, factor: Tensor | None = None) -> Tensor:
        """Make one step; see `Step`. Images and labels that are each member's own have E first."""
        self.descent.scale(factor)
        return self.update(x, y)

    def update(self, x: Tensor, y: Tensor) -> Tensor:
        """Make one step at the rates that the descent is at."""
        if y.dim() == 2:
            x, y = x.transpose(0, 1).flatten(1, 2), y.mT
        with self._autocast(x.device):
            outputs = self.forward(x)
        losses = self.loss(outputs.float() if self.bfloat16 else outputs, y)
        gradients = torch.autograd.grad(losses.sum(), self.descent.parameters)
        self.descent.descend(gradients)
        return losses.detach()

    def evaluating(self) -> AbstractContextManager[Any]:
        """Change nothing: measurements are taken in float32."""
        return nullcontext()

    def _autocast(self, device: torch.device) -> AbstractContextManager[Any]:
        if not self.bfloat16:
            return nullcontext()
        return torch.autocast(device.type, torch.bfloat16)


class CapturedStep:
    """An `AutogradStep` replayed as a CUDA graph: one launch a step, no Python in between.

    Parameters
    ----------
    step : AutogradStep
        On a CUDA device.
    model : nn.Module
        The step's model; its state is put back after the warm-up that capturing needs.
    """

    WARM_UP = 3

    def __init__(self, step: AutogradStep, model: nn.Module) -> None:
        self.step, self.model = step, model
        self.graph: torch.cuda.CUDAGraph | None = None

    @property
    def velocity(self) -> list[Tensor]:
        """The step's momentum buffers, which the graph updates in place."""
        return self.step.velocity

    def __call__(self, x: Tensor, y: Tensor, factor: Tensor | None = None) -> Tensor:
        """Make one step; see `Step`."""
        self.step.descent.scale(factor)
        if self.graph is None:
            self._capture(x, y)
        assert self.graph is not None
        self.x.copy_(x)
        self.y.copy_(y)
        self.graph.replay()
        return self.losses

    def evaluating(self) -> AbstractContextManager[Any]:
        """Change nothing; see `Step`."""
        return nullcontext()

    def _capture(self, x: Tensor, y: Tensor) -> None:
        self.x, self.y = x.clone(), y.clone()
        changed = [*self.model.parameters(), *self.model.buffers(), *self.step.velocity]
        before = [tensor.detach().clone() for tensor in changed]
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(self.WARM_UP):
                self.step.update(self.x, self.y)
        torch.cuda.current_stream().wait_stream(side)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.losses = self.step.update(self.x, self.y)
        with torch.no_grad():
            for tensor, value in zip(changed, before, strict=True):
                tensor.copy_(value)


def choose(model: nn.Module, loss: Loss, optimiser: SGD, plan: Plan) -> Step:
    """Return the step that a plan names, for a model in training mode.

    The hand-written chain serves plain SGD in float32 or float64 where
    `bnbook.training.chain.applies`. On a CPU a plan that is compiled and channels-last takes our
    kernels where `bnbook.training.deep.applies`. Autograd serves the rest, and everything where
    there is no C++ compiler.

    Parameters
    ----------
    model : nn.Module
        On its device.
    loss : callable
        ``(outputs, labels) -> (E,)``.
    optimiser : SGD
        The settings.
    plan : Plan
        How to compute.
    """
    first = next(model.parameters())
    exact = plan.precision == "float32"
    if plan.handwritten and exact and optimiser.plain and chain.applies(model, loss):
        rates = torch.tensor(optimiser.learning_rate, dtype=first.dtype, device=first.device)
        return chain.ChainStep(model, rates)
    if _is_deep(model, optimiser, plan):
        return deep.DeepStep(model, loss, optimiser, plan.precision)
    on_gpu = first.is_cuda
    compiled = plan.compiled and not on_gpu and kernels.compiler() is not None
    step = AutogradStep(model, loss, optimiser, plan.precision, compiled)
    return CapturedStep(step, model) if plan.compiled and on_gpu else step


def _is_deep(model: nn.Module, optimiser: SGD, plan: Plan) -> bool:
    wanted = plan.compiled and plan.channels_last and plan.precision in deep.PRECISIONS
    return wanted and deep.applies(model, optimiser) and kernels.library() is not None
