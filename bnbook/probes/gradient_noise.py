r"""The noise of a minibatch's gradient, and what equation 3 of Bjorck et al. 2018 bounds it by.

With :math:`\ell = \frac1N \sum_i \ell_i` and a minibatch B of b of the N examples, drawn without
replacement,

.. math::
    C = \frac1N \sum_i \|\nabla\ell_i - \nabla\ell\|^2 , \qquad
    \mathrm{E}\Bigl\|\frac1b \sum_{i \in B} \nabla\ell_i - \nabla\ell\Bigr\|^2
    = \frac{C}{b}\,\frac{N - b}{N - 1} \le \frac{C}{b} .

Both sides of the paper's equation have the factor :math:`\alpha^2` more.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from bnbook.errors import BnbookError
from bnbook.layers import ensemble, norm
from bnbook.probes.curvature import flattened
from bnbook.probes.measurements import undisturbed


def per_example(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Gradient of each example's cross-entropy, BN's statistics fixed.

    They are those of all the examples together, as constants: the loss is a sum over examples.

    Parameters
    ----------
    model : nn.Module
        Of E members; returns logits (N, E, K).
    images, labels : Tensor, (N, C, H, W) and (N,)
        The examples.

    Returns
    -------
    Tensor, (E, N, P)
    """
    with undisturbed(model), torch.enable_grad():
        _fix_statistics(model, images)
        pairs = zip(images.split(1), labels.split(1), strict=True)
        return torch.stack([_gradient(model, x, y) for x, y in pairs], 1)


def subsets(total: int, size: int, draws: int, seed: int) -> Tensor:
    """Draw random subsets of some size, each without replacement.

    Parameters
    ----------
    total, size, draws, seed : int
        Number of examples, N, of those in a subset, b, of subsets, and seed.

    Returns
    -------
    Tensor, (draws, size), int64

    Raises
    ------
    BnbookError
        When the size does not lie in [1, N].
    """
    if not 1 <= size <= total:
        raise BnbookError(f"size must lie in [1, {total}], found {size}.")
    generator = torch.Generator().manual_seed(seed)
    return torch.rand((draws, total), generator=generator).argsort(1)[:, :size]


def over_bound(gradients: Tensor, sizes: Sequence[int], draws: int, seed: int = 0) -> Tensor:
    r"""Measure the noise of minibatches of several sizes, in units of the bound C/b.

    The minibatches' gradients are means of the examples'; their squared distances from the whole
    gradient are taken from the matrix of all products of two examples' deviations.

    Parameters
    ----------
    gradients : Tensor, (E, N, P)
        From `per_example`.
    sizes : sequence of int
        b, in [1, N].
    draws : int
        Minibatches of each size, each drawn without replacement.
    seed : int
        Of the draws.

    Returns
    -------
    Tensor, (E, len(sizes)), float64
        In expectation (N - b)/(N - 1). Not a number where C is zero or no number.
    """
    total = gradients.shape[1]
    batches = [subsets(total, b, draws, seed) for b in sizes]
    weights = [torch.zeros(draws, total).scatter_(1, c, 1 / c.shape[1]) for c in batches]
    found = []
    for own in gradients:
        deviations = own.double() - own.double().mean(0)
        products = deviations @ deviations.T
        c = products.diagonal().mean()
        squares = [((w := each.to(products)) @ products * w).sum(1).mean() for each in weights]
        found.append(torch.stack([s * b / c for s, b in zip(squares, sizes, strict=True)]))
    return torch.stack(found)


def as_trained_over_bound(
    model: nn.Module,
    examples: tuple[Tensor, Tensor],
    c: Tensor,
    sizes: Sequence[int],
    draws: int,
    seed: int = 0,
) -> Tensor:
    """Measure the noise of steps as training makes them, in units of the bound C/b.

    In training mode: each minibatch has BN's statistics of its own, the whole set has its own too.
    The loss is then no sum over examples, and the derivation of the bound does not hold.

    Parameters
    ----------
    model : nn.Module
        Of E members; left as it is.
    examples : (Tensor, Tensor)
        Images (N, C, H, W) and labels (N,).
    c : Tensor, (E,)
        C, from gradients with fixed statistics: `spread`.
    sizes : sequence of int
        b, in [2, N].
    draws, seed : int
        Minibatches of each size, and seed.

    Returns
    -------
    Tensor, (E, len(sizes)), float64
    """
    found = []
    images, labels = examples
    with undisturbed(model), torch.enable_grad():
        model.train()
        whole = _gradient(model, images, labels).double()
        for b in sizes:
            batches = subsets(len(images), b, draws, seed).to(images.device)
            noise = [_gradient(model, images[i], labels[i]).double() - whole for i in batches]
            found.append(torch.stack(noise).square().sum(-1).mean(0) * b / c)
    return torch.stack(found, 1)


def spread(gradients: Tensor) -> Tensor:
    """C of each member, (E,), float64, from `per_example`'s gradients, (E, N, P)."""
    deviations = gradients.double() - gradients.double().mean(1, keepdim=True)
    return deviations.square().sum(-1).mean(1)


@torch.no_grad()
def _fix_statistics(model: nn.Module, images: Tensor) -> None:
    """Give BN the statistics of these images to evaluate with."""
    layers = [layer for layer in model.modules() if isinstance(layer, norm.BatchNorm)]
    momenta = [layer.momentum for layer in layers]
    try:
        for layer in layers:
            layer.momentum = 1.0
        model.train()
        model(images)
    finally:
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum
    model.eval()


def _gradient(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    losses = ensemble.cross_entropy(model(images), labels)
    found = torch.autograd.grad(losses.sum(), list(model.parameters()))
    return flattened(found, cast(int, model.members))
