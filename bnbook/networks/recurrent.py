"""An LSTM whose transitions are normalised, in the ways that have been proposed."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from bnbook.errors import BnbookError
from bnbook.layers.norm import FusedBatchNorm

Kind = Literal["none", "input", "steps", "layer"]


class StepBatchNorm(nn.Module):
    """Batch normalisation whose running statistics are apart for each time step; no shift.

    Steps beyond the last that has statistics take those of that last one.

    Source: Cooijmans et al. 2016.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(
        self, num_features: int, steps: int, gamma: float, eps: float = 1e-5, momentum: float = 0.1
    ) -> None:
        super().__init__()
        self.steps, self.eps, self.momentum = steps, eps, momentum
        self.weight = nn.Parameter(torch.full((num_features,), gamma))
        self.register_buffer("running_mean", torch.zeros(steps, num_features))
        self.register_buffer("running_var", torch.ones(steps, num_features))

    def forward(self, x: Tensor, step: int) -> Tensor:
        """Normalise (N, C) of one time step, from 0."""
        at = min(step, self.steps - 1)
        if self.training and step >= self.steps:
            raise BnbookError(
                f"in training there are statistics for {self.steps} steps, found step {step}."
                " Train on shorter sequences, or give the network more steps."
            )
        statistics = self.running_mean[at], self.running_var[at]
        return F.batch_norm(
            x, *statistics, self.weight, None, self.training, self.momentum, self.eps
        )  # fmt: skip


class _StepLayerNorm(nn.LayerNorm):
    """Layer normalisation, which is the same at every step; no shift."""

    def __init__(self, num_features: int, gamma: float) -> None:
        super().__init__(num_features, bias=False)
        nn.init.constant_(self.weight, gamma)

    def forward(self, x: Tensor, step: int) -> Tensor:  # type: ignore[override]  # noqa: ARG002
        normalised: Tensor = super().forward(x)
        return normalised


class LSTM(nn.Module):
    r"""A long short-term memory that reads sequences of vectors, with a linear layer at its end.

    .. math::
        (i, f, o, g) = \mathrm{norm}_x(W x_t) + \mathrm{norm}_h(U h_{t-1}) + b, \quad
        c_t = \sigma(f) c_{t-1} + \sigma(i) \tanh(g), \quad
        h_t = \sigma(o) \tanh(\mathrm{norm}_c(c_t)) .

    ``none`` has no norms; ``input`` BN of :math:`W x_t` alone, over batch and time (Laurent et al.
    2015); ``steps`` BN of all three with the statistics of each time step apart (Cooijmans et al.
    2016); ``layer`` LayerNorm of all three (Ba, Kiros & Hinton 2016). The cell's own recurrence is
    left alone by all.

    Parameters
    ----------
    kind : {"none", "input", "steps", "layer"}
        Which norms.
    seed : int
        Of the initial weights, which do not depend on the norms: Xavier's Gaussian, for U an
        orthogonal matrix for each gate; b is 0 but for the forget gate's 1.
    inputs, width, outputs : int
        Of a vector, of the state, and of the linear layer.
    steps : int
        Length of the sequences of training: the time steps that have statistics.
    gamma : float
        Initial scale of the norms of ``steps`` and ``layer``.
    """

    def __init__(
        self,
        kind: Kind,
        seed: int,
        *,
        inputs: int,
        width: int,
        outputs: int,
        steps: int,
        gamma: float = 1.0,
    ) -> None:
        super().__init__()
        self.kind, self.width = kind, width
        self.input = nn.Linear(inputs, 4 * width)
        self.recurrent = nn.Linear(width, 4 * width, bias=False)
        self.output = nn.Linear(width, outputs)
        norms: list[nn.Module] = []
        if kind == "steps":
            norms = [StepBatchNorm(size * width, steps, gamma) for size in (4, 4, 1)]
        elif kind == "layer":
            norms = [_StepLayerNorm(size * width, gamma) for size in (4, 4, 1)]
        self.of_input = FusedBatchNorm(4 * width) if kind == "input" else nn.Identity()
        self.norms = nn.ModuleList(norms)
        self._start(seed)

    def forward(self, x: Tensor) -> Tensor:
        """Return the scores after every step, (N, T, outputs), of x (N, T, inputs)."""
        driven = F.linear(x, self.input.weight)
        driven = self.of_input(driven.flatten(0, 1)).view_as(driven)
        state = cell = x.new_zeros(len(x), self.width)
        states = []
        for step, one in enumerate(driven.unbind(1)):
            gates = self._norm(0, one, step) + self._norm(1, self.recurrent(state), step)
            i, f, o, g = (gates + self.input.bias).chunk(4, 1)
            cell = f.sigmoid() * cell + i.sigmoid() * g.tanh()
            state = o.sigmoid() * self._norm(2, cell, step).tanh()
            states.append(state)
        scores: Tensor = self.output(torch.stack(states, 1))
        return scores

    def _norm(self, number: int, x: Tensor, step: int) -> Tensor:
        normalised: Tensor = self.norms[number](x, step) if len(self.norms) else x
        return normalised

    @torch.no_grad()
    def _start(self, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        for layer in (self.input, self.output):
            std = (2 / sum(layer.weight.shape)) ** 0.5
            layer.weight.normal_(0, std, generator=generator)
            layer.bias.zero_()
        for gate in self.recurrent.weight.split(self.width):
            nn.init.orthogonal_(gate, generator=generator)
        self.input.bias[self.width : 2 * self.width] = 1.0
