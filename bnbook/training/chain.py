r"""One SGD step of a chain of layers, forward and backward written by hand.

A chain is a sequence of blocks :math:`z = g(\mathrm{BN}(Wu))` or :math:`z = g(Wu + b)` and a last
linear layer with cross-entropy. Its members train several times faster than through autograd: each
matrix product's gradient is added to the weights as it is computed, every elementwise line writes
into memory that is kept, and the learning rates enter once, at the gradient of the logits.

Inside, activations are laid out as (E, N, C), so that each member's products are its own. On a CPU
with one thread a member's bits do not depend on which others train beside it: where a layer is so
narrow that a batch of products rounds otherwise than one product does, which is tried out before
the first step, the members are multiplied one after the other (`_alike`).
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from bnbook.errors import BnbookError
from bnbook.layers import ensemble
from bnbook.layers.norm import BatchNorm

_LANES = 64  # numbers that torch's vector loops take at a time, at most

_ACTIVATIONS: dict[type[nn.Module], tuple[Callable[..., Tensor], Callable[..., Tensor]]] = {
    nn.Sigmoid: (torch.sigmoid, torch.ops.aten.sigmoid_backward.grad_input),
    nn.Tanh: (torch.tanh, torch.ops.aten.tanh_backward.grad_input),
}
"""Layer -> the function, and its derivative times a gradient, from the function's value."""


@dataclass(frozen=True)
class _Linear:
    """The products of a linear layer: all members' at once, or one member's after the other's."""

    layer: ensemble.Linear
    together: bool

    def forward(self, u: Tensor, out: Tensor) -> Tensor:
        """Apply the map to inputs, (E, N, in), into outputs."""
        weight, bias = self.layer.weight.mT, self.layer.bias
        if bias is None:
            return self._multiply(_product, out, u, weight)
        return self._multiply(_affine, out, bias.unsqueeze(1), u, weight)

    def backward(self, d: Tensor, out: Tensor) -> Tensor:
        """Gradient by the inputs from that by the outputs, into ``out``."""
        return self._multiply(_product, out, d, self.layer.weight)

    def descend(self, d: Tensor, u: Tensor) -> None:
        """Subtract the weights' gradient from them."""
        self._multiply(_subtract, self.layer.weight, d.mT, u)

    def _multiply(self, product: Callable[..., Tensor], out: Tensor, *given: Tensor) -> Tensor:
        if self.together:
            return product(out, *given)
        return _one_by_one(product, out, *given)


def _product(out: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return torch.bmm(a, b, out=out)


def _affine(out: Tensor, bias: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return torch.baddbmm(bias, a, b, out=out)


def _subtract(out: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return out.baddbmm_(a, b, alpha=-1)


def _one_by_one(product: Callable[..., Tensor], out: Tensor, *given: Tensor) -> Tensor:
    """Multiply as each member would alone: memory of its own, whose alignment rounding hangs on."""
    for parts in zip(out.split(1), *(tensor.split(1) for tensor in given), strict=True):
        parts[0].copy_(product(*(part.clone() for part in parts)))
    return out


@functools.cache
def _alike(shape: tuple[int, int, int, int], shared: bool, dtype: torch.dtype) -> bool:
    """Whether E products at once have the bits of each alone, tried out on random numbers.

    Libraries choose their code by the sizes, the number and the alignment of the matrices, and by
    the processor. Shape is (E, N, in, out); ``shared`` says that the members have the same inputs.
    """
    members, n, inputs, outputs = shape
    random = torch.Generator().manual_seed(0)

    def draw(*size: int) -> Tensor:
        return torch.randn(size, generator=random, dtype=dtype)

    u = draw(n, inputs).expand(members, -1, -1) if shared else draw(members, n, inputs)
    w, d, bias = (
        draw(members, outputs, inputs),
        draw(members, n, outputs),
        draw(members, 1, outputs),
    )
    into = torch.empty_like(d)
    trials = (
        (_product, into, (u, w.mT)),
        (_affine, into, (bias, u, w.mT)),
        (_product, draw(members, n, inputs), (d, w)),
        (_subtract, w, (d.mT, u)),
    )
    return all(
        torch.equal(product(out.clone(), *given), _one_by_one(product, out.clone(), *given))
        for product, out, given in trials
    )


@dataclass
class _Block:
    """A linear layer and what follows it, with its memory for one step: (E, N, C) each."""

    linear: _Linear
    x_hat: Tensor  # the product; with BN, normalised
    z: Tensor  # the activation; in the backward pass, its gradient
    spare: Tensor
    norm: BatchNorm | None = None
    activation: type[nn.Module] = nn.Sigmoid
    inv_std: Tensor | None = None

    def activate(self, product: Tensor) -> Tensor:
        """Apply the nonlinearity to a product, into z."""
        function, _ = _ACTIVATIONS[self.activation]
        function(_whole(product), out=_whole(self.z))
        return self.z


def applies(model: nn.Module, loss: Any) -> bool:
    """Whether a model is a chain that this module knows, trained with cross-entropy.

    Parameters
    ----------
    model : nn.Module
        A chain has ``layers()``, whose composition it is: `ensemble.Linear` and a sigmoid or tanh,
        perhaps with a `norm.BatchNorm` of the usual options between them and then without a bias,
        repeated; an `ensemble.Linear` last. Subclasses do not count: they may compute something
        else.
    loss : callable
        Must be `ensemble.cross_entropy`.
    """
    layers = getattr(model, "layers", None)
    return loss is ensemble.cross_entropy and callable(layers) and _is_chain(layers())


def _is_chain(layers: list[nn.Module]) -> bool:
    kinds = "".join(_letter(layer) for layer in layers)
    return re.fullmatch("((LN|L|B)g)+[LB]", kinds) is not None


def _letter(layer: nn.Module) -> str:
    if type(layer) is ensemble.Linear:
        return "L" if layer.bias is None else "B"
    if type(layer) is BatchNorm:
        usual = layer.affine and layer.track_running_stats and layer.momentum is not None
        return "N" if usual else "?"
    return "g" if type(layer) in _ACTIVATIONS else "?"


class ChainStep:
    r"""Plain SGD on a chain, :math:`\theta_e \leftarrow \theta_e - \alpha_e \nabla l_e`.

    Parameters
    ----------
    model : nn.Module
        For which `applies` holds. Its parameters and running statistics are updated in place.
    learning_rate : Tensor, (E,)
        On the model's device and of its type.
    """

    def __init__(self, model: nn.Module, learning_rate: Tensor) -> None:
        *self.hidden, self.output = cast(Any, model).layers()
        self.alpha = learning_rate.view(-1, 1, 1)
        self.one_hot = torch.eye(
            self.output.out_features, dtype=learning_rate.dtype, device=learning_rate.device
        )
        self.blocks: list[_Block] = []
        self.velocity: list[Tensor] = []  # it has no momentum

    def evaluating(self) -> AbstractContextManager[None]:
        """Change nothing: the model computes in the step's precision."""
        return nullcontext()

    @torch.no_grad()
    def __call__(self, x: Tensor, y: Tensor, factor: Tensor | None = None) -> Tensor:
        """Make one step.

        Parameters
        ----------
        x : Tensor, (N, ...) or (E, N, ...)
            Images that the members share, or each its own.
        y : Tensor, (N,) or (E, N), int64
            Labels.
        factor : Tensor, (E,) or (), optional
            Multiplies the learning rates.

        Returns
        -------
        Tensor, (E,)
            Losses before the step.
        """
        members, own = len(self.alpha), y.dim() == 2
        x = x.flatten(2) if own else x.flatten(1).expand(members, -1, -1)
        self._reserve(x, own)
        u = x
        for block in self.blocks:
            u = _forward(block, u)
        alpha = self.alpha if factor is None else self.alpha * factor.view(-1, 1, 1)
        losses, d = self._loss(u, self.one_hot[y], alpha)
        du = self.last.backward(d, self.blocks[-1].spare)
        self.last.descend(d, u)
        if self.output.bias is not None:
            self.output.bias.sub_(d.sum(1))
        for at in range(len(self.blocks) - 1, -1, -1):
            below = self.blocks[at - 1] if at else None
            du = _backward(self.blocks[at], x if below is None else below.z, du, below)
        return losses

    def _reserve(self, x: Tensor, own: bool) -> None:
        """Keep memory for the activations of a batch of this size, and choose its products."""
        members, n = x.shape[:2]
        if self.blocks and self.blocks[0].z.shape[:2] == (members, n):
            return
        if n < 2 and any(isinstance(layer, BatchNorm) for layer in self.hidden):
            raise BnbookError(
                f"in training each feature needs two or more values to have a variance, found {n}."
                " Use a larger batch."
            )
        self.blocks = []
        for layer in self.hidden:
            if isinstance(layer, ensemble.Linear):
                x_hat, z, spare = (_reserved(x, members, n, layer.out_features) for _ in range(3))
                linear = _linear(layer, x, shared=not self.blocks and not own)
                self.blocks.append(_Block(linear, x_hat, z, spare))
            elif isinstance(layer, BatchNorm):
                self.blocks[-1].norm = layer
            else:
                self.blocks[-1].activation = type(layer)
        self.last = _linear(self.output, x, shared=False)
        self.total = _reserved(x, members, n, 1)

    def _loss(self, u: Tensor, one_hot: Tensor, alpha: Tensor) -> tuple[Tensor, Tensor]:
        """Cross-entropy of each member, and its gradient by the logits times alpha."""
        logits = self.last.forward(u, u.new_empty(*u.shape[:2], one_hot.shape[-1]))
        logits.sub_(logits.amax(-1, keepdim=True))
        chosen = (logits * one_hot).sum(-1)
        p = logits.exp_()
        total = torch.sum(p, -1, keepdim=True, out=self.total)
        d = p.div_(total).sub_(one_hot).mul_(alpha / u.shape[1])
        _whole(total).log_()
        return (total.squeeze(-1) - chosen).cumsum(1)[:, -1] / u.shape[1], d


def _reserved(like: Tensor, *shape: int) -> Tensor:
    """Reserve memory for a tensor, and some more, of ones: see `_whole`."""
    size = math.prod(shape)
    return like.new_ones(-(-size // _LANES) * _LANES)[:size].view(shape)


def _whole(tensor: Tensor) -> Tensor:
    """Return all the memory of a tensor from `_reserved`.

    Torch's functions take the numbers that are left over after the last full vector register by
    other code, which rounds differently; over the whole memory none of a member's are.
    """
    return tensor.new_empty(0).set_(tensor.untyped_storage())


def _linear(layer: ensemble.Linear, x: Tensor, *, shared: bool) -> _Linear:
    """Choose a layer's products for batches like x, (E, N, ...).

    Several threads, or a GPU, divide a batch of products otherwise than one at any width.
    """
    members, n = x.shape[:2]
    if members == 1 or x.device.type != "cpu" or torch.get_num_threads() > 1:
        return _Linear(layer, together=True)
    shape = (members, n, layer.in_features, layer.out_features)
    return _Linear(layer, _alike(shape, shared, x.dtype))


def _forward(block: _Block, u: Tensor) -> Tensor:
    z = block.linear.forward(u, block.x_hat)
    if block.norm is None:
        return block.activate(z)
    norm, m = block.norm, z.shape[1]
    mu = z.mean(1, keepdim=True)
    z.sub_(mu)
    var = torch.mul(z, z, out=block.spare).mean(1, keepdim=True)
    norm.track(mu, var, m)
    block.inv_std = var.add_(norm.eps).rsqrt_()
    z.mul_(block.inv_std)
    torch.addcmul(_members(norm.bias, z), z, _members(norm.weight, z), out=block.z)
    return block.activate(block.z)


def _backward(block: _Block, u: Tensor, dz: Tensor, below: _Block | None) -> Tensor:
    """Update a block and return the gradient by its input (nothing needs it below the first).

    ``dz`` lies in the block's `spare`; the gradient returned lies in that of the block below.
    """
    _, derivative = _ACTIVATIONS[block.activation]
    dy = derivative(dz, block.z, grad_input=block.z)
    if block.norm is not None:
        assert block.inv_std is not None
        x_hat, m = block.x_hat, dy.shape[1]
        gamma, beta = _members(block.norm.weight, dy), _members(block.norm.bias, dy)
        d_beta = dy.sum(1, keepdim=True)
        d_gamma = torch.mul(dy, x_hat, out=block.spare).sum(1, keepdim=True)
        dy.addcmul_(x_hat, d_gamma, value=-1 / m).sub_(d_beta / m).mul_(gamma * block.inv_std)
        gamma.sub_(d_gamma)
        beta.sub_(d_beta)
    elif block.linear.layer.bias is not None:
        block.linear.layer.bias.sub_(dy.sum(1))
    du = dy if below is None else block.linear.backward(dy, below.spare)
    block.linear.descend(dy, u)
    return du


def _members(vector: Tensor, like: Tensor) -> Tensor:
    return vector.view(like.shape[0], 1, like.shape[2])
