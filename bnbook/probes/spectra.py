r"""Singular values: of products of matrices, and of networks' Jacobians from image to scores.

A product of M random matrices has singular values that differ by many orders of magnitude. Formed
in float64 and decomposed, it gives the largest of them, and nothing below about 1e-16 of that.
`product_singular_values` never forms it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from scipy.linalg import lapack, qr
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]
from torch import Tensor, nn

from bnbook.errors import BnbookError
from bnbook.layers.norm import BatchNorm
from bnbook.networks.models import Block, ResNet


def product_singular_values(matrices: Sequence[Tensor]) -> Tensor:
    r"""Singular values of a product, the small ones to full relative accuracy too.

    The product is carried as :math:`Q D T`: Q orthogonal, D diagonal and falling, T well
    conditioned; each further matrix is multiplied into :math:`Q D` and decomposed by QR with
    pivoting, so that large and small never meet in a sum. The singular values of :math:`T^T D` are
    those of one-sided Jacobi rotations, whose error is relative to each of them.

    Source: Loh et al. 1989 for the product; Drmac & Veselic 2008 for the rotations (LAPACK's
    xGEJSV).

    Parameters
    ----------
    matrices : sequence of Tensor, (N, N)
        :math:`X_1, X_2, \dots, X_M`, each well conditioned, of the product
        :math:`X_1 X_2 \cdots X_M`.

    Returns
    -------
    Tensor, (N,)
        Float64, on the CPU, falling.

    Raises
    ------
    BnbookError
        When there are no matrices, they are not square and of one size, one is singular, or the
        rotations do not converge.
    """
    arrays = [matrix.detach().double().cpu().numpy() for matrix in matrices]
    if not arrays or any(A.shape != (len(arrays[0]),) * 2 for A in arrays):
        raise BnbookError(
            "matrices must be one or more, square and of one size, found shapes"
            f" {[A.shape for A in arrays]}."
        )
    with threadpool_limits(1, "blas"):  # many small calls: a second thread only waits
        return torch.from_numpy(_graded_singular_values(arrays))


def _graded_singular_values(arrays: Sequence[Any]) -> Any:
    Q, D = np.eye(len(arrays[0])), np.ones(len(arrays[0]))
    T = Q
    for A in reversed(arrays):
        Q, R, order = qr((A @ Q) * D, pivoting=True)
        D = np.abs(np.diag(R))
        if D[-1] == 0:
            raise BnbookError("matrices must be of full rank, found a singular product.")
        T = (R / D[:, None]) @ T[order]
    found, _, _, scale, _, info = lapack.dgejsv(T.T * D, joba=0, jobu=3, jobv=3, jobr=0)
    if info != 0:
        raise BnbookError(f"the singular values did not converge: LAPACK's dgejsv returned {info}.")
    return found * (scale[0] / scale[1])


def gaussian_matrices(size: int, number: int, generator: torch.Generator) -> list[Tensor]:
    """Draw square Gaussian matrices of mean 0 and variance 1/N, float64.

    Parameters
    ----------
    size, number : int
        N, and how many.
    generator : torch.Generator
        On the CPU.

    Returns
    -------
    list of Tensor, (N, N)
    """
    shape = (number, size, size)
    drawn = torch.randn(shape, generator=generator, dtype=torch.float64) / size**0.5
    return list(drawn)


def scores(model: ResNet, x: Tensor, shortcuts: bool = True) -> Tensor:
    """Compute a residual network's scores, or those of the plain network of the same layers.

    Parameters
    ----------
    model : ResNet
        The network.
    x : Tensor, (N, C, H, W)
        Images.
    shortcuts : bool
        Without them each block computes two layers, a ReLU after each: the plain network that He
        et al. 2016 compare with.

    Returns
    -------
    Tensor, (N, E, K)
    """
    if shortcuts:
        found: Tensor = model(x)
        return found
    features = model.stem_norm(model.stem(x)).relu()
    for block in model.blocks:
        assert isinstance(block, Block)
        features = block.norm1(block.conv1(features)).relu()
        features = block.norm2(block.conv2(features)).relu()
    outputs: Tensor = model.output(model.last_norm(features).mean((2, 3)))
    return outputs.view(len(x), model.members, model.num_classes)


@torch.no_grad()
def hold_statistics(model: ResNet, images: Tensor, shortcuts: bool = True) -> None:
    """Make the statistics of a batch those that the network uses in evaluation, in place.

    Every `bnbook.layers.norm.BatchNorm` gets the biased mean and variance of what reaches it when
    these images pass as one training batch; the network is left in evaluation mode, where it treats
    every image on its own.

    Parameters
    ----------
    model : ResNet
        The network.
    images : Tensor, (N, C, H, W)
        The batch.
    shortcuts : bool
        See `scores`.
    """

    def take(layer: nn.Module, inputs: tuple[Any, ...]) -> None:
        assert isinstance(layer, BatchNorm)
        var, mean = torch.var_mean(inputs[0], (0, 2, 3), correction=0)
        layer.running_mean.copy_(mean)
        layer.running_var.copy_(var)

    model.eval()
    layers = [layer for layer in model.modules() if isinstance(layer, BatchNorm)]
    hooks = [layer.register_forward_pre_hook(take) for layer in layers]
    try:
        if layers:
            scores(model, images, shortcuts)
    finally:
        for hook in hooks:
            hook.remove()


def jacobians(model: ResNet, images: Tensor, shortcuts: bool = True) -> Tensor:
    r"""Jacobians :math:`\partial\, \mathrm{scores} / \partial\, \mathrm{image}` of single images.

    Parameters
    ----------
    model : ResNet
        Of one member, in evaluation mode; see `hold_statistics`.
    images : Tensor, (N, C, H, W)
        The images.
    shortcuts : bool
        See `scores`.

    Returns
    -------
    Tensor, (N, K, C*H*W)

    Raises
    ------
    BnbookError
        When the model has several members, or is in training mode, where images are not apart.
    """
    if model.members != 1 or model.training:
        raise BnbookError(
            f"model must have one member and be in evaluation mode, found {model.members},"
            f" training {model.training}."
        )
    count, classes = len(images), model.num_classes
    x = images.detach().repeat_interleave(classes, 0).requires_grad_()
    each = scores(model, x, shortcuts).view(count, classes, classes)
    (gradient,) = torch.autograd.grad(each.diagonal(dim1=1, dim2=2).sum(), x)
    found: Tensor = gradient.reshape(count, classes, -1)
    return found
