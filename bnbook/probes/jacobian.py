r"""Jacobians of deep networks at initialisation: singular values, and gradients by layer.

The networks here are plain: layer l computes

.. math::
    \hat x_l = \mathrm{BN}(W_l\, g(\hat x_{l-1})), \qquad \hat x_1 = \mathrm{BN}(W_1 x) ,

with gamma = 1 and beta = 0, or without BN. This is the map between normalised vectors,
:math:`\hat z = F(\hat x)`, of Ioffe & Szegedy 2015, section 3.3.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bnbook.errors import BnbookError
from bnbook.layers.norm import BatchNorm

ZERO, NEARLY_ZERO = 1e-10, 1e-3
"""Shares of their root mean square below which singular values count as zero: by rounding; and
where eps leaves a little of a direction that BN takes out."""

_FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "linear": lambda z: z,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "ReLU": torch.relu,
}
NONLINEARITIES = tuple(_FUNCTIONS)


@dataclass(frozen=True)
class Network:
    r"""A plain deep network of layers of equal width.

    Attributes
    ----------
    weights : sequence of Tensor, (n, n) each
        :math:`W_1, W_2, \dots`
    nonlinearity : str
        One of `NONLINEARITIES`.
    normalised : bool
        Whether there is BN.
    skips : bool
        Whether layer l computes :math:`h_l = h_{l-1} + W_l\, g(\mathrm{BN}(h_{l-1}))` instead.

    Raises
    ------
    BnbookError
        When the nonlinearity is unknown or there are no weights.
    """

    weights: Sequence[Tensor]
    nonlinearity: str
    normalised: bool = True
    skips: bool = False

    def __post_init__(self) -> None:
        if self.nonlinearity not in _FUNCTIONS:
            raise BnbookError(
                f"nonlinearity must be one of {', '.join(NONLINEARITIES)}, found"
                f" {self.nonlinearity!r}."
            )
        if not self.weights:
            raise BnbookError("weights must not be empty.")

    def g(self, x: Tensor) -> Tensor:
        """Apply the nonlinearity."""
        return _FUNCTIONS[self.nonlinearity](x)

    def layer(self, number: int, x: Tensor) -> Tensor:
        """Compute one layer.

        Parameters
        ----------
        number : int
            From 1; the first has no nonlinearity before it.
        x : Tensor, (m, n)
            The output of the layer before, for a batch.

        Returns
        -------
        Tensor, (m, n)
        """
        W = self.weights[number - 1]
        if self.skips:
            return x + self.g(self._norm(x)) @ W.T
        product = (x if number == 1 else self.g(x)) @ W.T
        return self._norm(product)

    def states(self, x: Tensor) -> list[Tensor]:
        """Return the input and every layer's output for a batch: L + 1 of (m, n)."""
        found = [x]
        for number in range(1, len(self.weights) + 1):
            found.append(self.layer(number, found[-1]))
        return found

    def _norm(self, x: Tensor) -> Tensor:
        if not self.normalised:
            return x
        norm = BatchNorm(x.shape[1], affine=False, track_running_stats=False).to(x)
        output: Tensor = norm(x)
        return output


def draw_weights(
    width: int, depth: int, std: float, generator: torch.Generator, orthogonal: bool = False
) -> list[Tensor]:
    """Draw square weights, float64.

    Parameters
    ----------
    width, depth : int
        Rows and columns, and number of layers.
    std : float
        Standard deviation of an entry, times the root of `width`: 1 keeps the length of a vector.
    generator : torch.Generator
        On the CPU.
    orthogonal : bool
        Whether each is a random orthogonal matrix times `std` rather than Gaussian.

    Returns
    -------
    list of Tensor, (width, width)
    """
    size = (width, width)
    drawn = [torch.randn(size, generator=generator, dtype=torch.float64) for _ in range(depth)]
    if orthogonal:
        return [std * torch.linalg.qr(W).Q for W in drawn]
    return [std / math.sqrt(width) * W for W in drawn]


def layer_jacobians(
    network: Network, number: int, states: Sequence[Tensor], examples: int
) -> Tensor:
    r"""Jacobians of one layer at some examples, the statistics of the batch held fixed.

    .. math::
        J = \mathrm{diag}(\sigma^2_{\mathcal B} + \epsilon)^{-1/2}\, W\, \mathrm{diag}(g'(\hat x))

    Parameters
    ----------
    network : Network
        Without skips.
    number : int
        The layer, from 2.
    states : sequence of Tensor
        Of `Network.states`, for the whole batch.
    examples : int
        The first so many are taken.

    Returns
    -------
    Tensor, (examples, n, n)

    Raises
    ------
    BnbookError
        When the network has skips, or the layer no nonlinearity before it.
    """
    if network.skips or number < 2:
        raise BnbookError(
            f"number must be at least 2, of a network without skips, found {number}, skips"
            f" {network.skips}."
        )
    x, W = states[number - 1], network.weights[number - 1]
    slopes = _slopes(network, x[:examples])
    J = W * slopes[:, None, :]
    if not network.normalised:
        return J
    var = (network.g(x) @ W.T).var(0, correction=0)
    return (var + _EPS).rsqrt()[:, None] * J


_EPS = BatchNorm(1).eps


def _slopes(network: Network, x: Tensor) -> Tensor:
    x = x.detach().requires_grad_()
    (slopes,) = torch.autograd.grad(network.g(x).sum(), x)
    return slopes


def batch_jacobian(network: Network, number: int, states: Sequence[Tensor]) -> Tensor:
    """Jacobian of one layer's outputs with respect to all of its inputs, statistics included.

    Parameters
    ----------
    network : Network
        The network.
    number : int
        The layer, from 1.
    states : sequence of Tensor
        Of `Network.states`.

    Returns
    -------
    Tensor, (m*n, m*n)
        For small batches: it has the square of all values of the batch.
    """
    x = states[number - 1]
    found = torch.func.jacrev(lambda inputs: network.layer(number, inputs))(x.detach())
    flat: Tensor = found.reshape(x.numel(), x.numel())
    return flat


def singular_values(J: Tensor, zero: float = ZERO) -> dict[str, float]:
    """Summarise the singular values of a matrix.

    Parameters
    ----------
    J : Tensor, (n, n)
        The matrix.
    zero : float
        Singular values below this share of their root mean square count as zero.

    Returns
    -------
    dict
        ``rms`` (of all), ``zeros`` (their share, in [0, 1]), and of the others
        ``s10``, ``s50``, ``s90`` (percentiles, NaN where all are zero) and ``smax``.
    """
    values = torch.linalg.svdvals(J)
    rms = values.square().mean().sqrt()
    kept = values[values > zero * rms]
    names = ("s10", "s50", "s90")
    levels = torch.full((3,), torch.nan)
    if len(kept):
        levels = kept.quantile(torch.tensor([0.1, 0.5, 0.9], dtype=kept.dtype, device=kept.device))
    return {
        "rms": float(rms),
        "zeros": 1 - len(kept) / len(values),
        **dict(zip(names, levels.tolist(), strict=True)),
        "smax": float(values.max()),
    }


def squared_gradients(network: Network, x: Tensor, cotangent: Tensor) -> list[float]:
    """Squared norms of the gradient with respect to every layer's output, statistics included.

    Parameters
    ----------
    network : Network
        The network.
    x : Tensor, (m, n)
        Its input.
    cotangent : Tensor, (m, n)
        The gradient with respect to the last layer's output.

    Returns
    -------
    list of float
        For layers 1 to L, relative to the last.
    """
    _, *states = network.states(x.detach().requires_grad_())
    gradients = torch.autograd.grad(states[-1], states, cotangent)
    squares = torch.stack([gradient.square().sum() for gradient in gradients])
    relative: list[float] = (squares / squares[-1]).tolist()
    return relative
