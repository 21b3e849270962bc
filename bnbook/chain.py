r"""One SGD step of a chain of layers, forward and backward written by hand.

A chain is a sequence of blocks :math:`z = g(\mathrm{BN}(Wu))` or :math:`z = g(Wu + b)` and a last
linear layer with cross-entropy. Its members train several times faster than through autograd: each
matrix product's gradient is added to the weights as it is computed, every elementwise line writes
into memory that is kept, and the learning rates enter once, at the gradient of the logits.

Inside, activations are laid out as (E, N, C), so that each member's products are its own: a
member's numbers do not depend on which others train beside it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from bnbook import ensemble
from bnbook.errors import BnbookError
from bnbook.norm import BatchNorm

_LANES = 64  # numbers that torch's vector loops take at a time, at most

_ACTIVATIONS: dict[type[nn.Module], tuple[Callable[..., Tensor], Callable[..., Tensor]]] = {
    nn.Sigmoid: (torch.sigmoid, torch.ops.aten.sigmoid_backward.grad_input),
    nn.Tanh: (torch.tanh, torch.ops.aten.tanh_backward.grad_input),
}
"""Layer -> the function, and its derivative times a gradient, from the function's value."""


@dataclass
class _Block:
    """A linear layer and what follows it, with its memory for one step: (E, N, C) each."""

    linear: ensemble.Linear
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

    Returns
    -------
    bool
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
        self._reserve(x)
        u = x
        for block in self.blocks:
            u = _forward(block, u)
        alpha = self.alpha if factor is None else self.alpha * factor.view(-1, 1, 1)
        losses, d = self._loss(u, self.one_hot[y], alpha)
        weight, bias = self.output.weight, self.output.bias
        last = self.blocks[-1]
        du = torch.bmm(d, weight, out=last.spare)
        weight.baddbmm_(d.mT, u, alpha=-1)
        if bias is not None:
            bias.sub_(d.sum(1))
        for at in range(len(self.blocks) - 1, -1, -1):
            below = self.blocks[at - 1] if at else None
            du = _backward(self.blocks[at], x if below is None else below.z, du, below)
        return losses

    def _reserve(self, x: Tensor) -> None:
        """Keep memory for the activations of a batch of this size."""
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
                self.blocks.append(_Block(layer, x_hat, z, spare))
            elif isinstance(layer, BatchNorm):
                self.blocks[-1].norm = layer
            else:
                self.blocks[-1].activation = type(layer)
        self.total = _reserved(x, members, n, 1)

    def _loss(self, u: Tensor, one_hot: Tensor, alpha: Tensor) -> tuple[Tensor, Tensor]:
        """Cross-entropy of each member, and its gradient by the logits times alpha."""
        logits = _product(u, self.output)
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


def _product(u: Tensor, linear: ensemble.Linear, out: Tensor | None = None) -> Tensor:
    if linear.bias is None:
        return torch.bmm(u, linear.weight.mT, out=out)
    return torch.baddbmm(linear.bias.unsqueeze(1), u, linear.weight.mT, out=out)


def _forward(block: _Block, u: Tensor) -> Tensor:
    z = _product(u, block.linear, block.x_hat)
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
    elif block.linear.bias is not None:
        block.linear.bias.sub_(dy.sum(1))
    du = dy if below is None else torch.bmm(dy, block.linear.weight, out=below.spare)
    block.linear.weight.baddbmm_(dy.mT, u, alpha=-1)
    return du


def _members(vector: Tensor, like: Tensor) -> Tensor:
    return vector.view(like.shape[0], 1, like.shape[2])
