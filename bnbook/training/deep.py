r"""A step of one residual network on a CPU by kernels of our own, in float32 or bfloat16.

A convolution's kernel does what surrounds it too. Forward it normalises and rectifies its input as
it reads it, and sums up the statistics of its output as it writes it. Backward it turns the
gradient of the normalised output into that of the output, multiplies it with the input for the
weights and with the weights for the input, adds the shortcut's gradient, holds back what the
rectifier does, and sums up what the normalisation below needs. So each layer's images are read and
written once in each direction, and nothing is cast: in bfloat16 images and the factors of products
are bfloat16, while sums, statistics, gradients of parameters and the parameters are float32.

The convolutions' weights lie in memory as (3, 3, in, out), all parameters one after another, so
that the update is one line over all of them.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from bnbook.layers import ensemble
from bnbook.layers.norm import BatchNorm, FusedBatchNorm, LeanBatchNorm
from bnbook.training import kernels
from bnbook.training.descent import SGD, Descent, Loss

PRECISIONS = {"float32": (torch.float32, "full", 1), "bfloat16": (torch.bfloat16, "half", 2)}
"""Precision -> type of images, prefix of its kernels, numbers in 32 bits."""

_LANES = 16  # channels of a block
_AT_ONCE = 128  # images in a pass of an evaluation
_PLAIN = (BatchNorm, FusedBatchNorm, LeanBatchNorm)  # whose values the kernels compute; no subclass

Pairs = Sequence[tuple[ensemble.Conv2d, nn.Module]]
"""The convolutions of a residual network, each with the layer that normalises it."""


def applies(model: nn.Module, optimiser: SGD) -> bool:
    """Whether the kernels compute this model's steps.

    They do for a `bnbook.networks.models.ResNet` of one member in float32 on a CPU, with plain
    batch normalisation after every convolution or nowhere, widths that are multiples of 16, and at
    most 16 channels in an image.
    """
    layers = pairs(model)
    if not layers or optimiser.weights_only or len(optimiser.learning_rate) != 1:
        return False
    return (
        all(p.dtype == torch.float32 and p.device.type == "cpu" for p in model.parameters())
        and all(_is_plain(conv) and conv.out_channels % _LANES == 0 for conv, _ in layers)
        and layers[0][0].in_channels <= _LANES
        and (_all_normed(layers) or _none_normed(layers))
    )


def pairs(model: nn.Module) -> Pairs:
    """Return the convolutions with their norms, stem first; nothing of another kind of network."""
    told = getattr(model, "residual_layers", None)
    return [] if told is None else cast(Pairs, told())


def _is_plain(conv: ensemble.Conv2d) -> bool:
    known = type(conv) is ensemble.Conv2d and conv.members == 1
    return known and tuple(conv.weight.shape[3:]) == (3, 3) and conv.padding == 1


def _all_normed(layers: Pairs) -> bool:
    return all(
        type(norm) in _PLAIN
        and norm.affine
        and norm.track_running_stats
        and norm.momentum is not None
        and conv.bias is None
        for conv, norm in layers
    )


def _none_normed(layers: Pairs) -> bool:
    return all(isinstance(norm, nn.Identity) and conv.bias is not None for conv, norm in layers)


class DeepStep:
    """A step of a model for which `applies` holds.

    Parameters
    ----------
    model : nn.Module
        Its parameters are laid out anew, with their values, and updated in place, as are its
        running statistics.
    loss : callable
        ``(outputs, labels) -> (1,)``.
    optimiser : SGD
        The settings.
    precision : str
        One of `PRECISIONS`.
    """

    def __init__(
        self, model: nn.Module, loss: Loss, optimiser: SGD, precision: str = "bfloat16"
    ) -> None:
        self.model, self.loss, self.precision = model, loss, precision
        self.output = cast(Any, model).output
        self.parameters = _Flat(list(model.parameters()))
        self.gradient = _Flat(list(model.parameters()))
        for p in model.parameters():
            laid = self.parameters.of(p)
            laid.copy_(p.detach())
            p.data = laid
        self.descent = Descent([self.parameters.flat], optimiser)
        self.passes: _Passes | None = None
        self.scoring: _Passes | None = None

    @property
    def velocity(self) -> list[Tensor]:
        """The momentum buffer of all parameters, if there is momentum."""
        return self.descent.velocity

    @torch.no_grad()
    def __call__(self, x: Tensor, y: Tensor, factor: Tensor | None = None) -> Tensor:
        """Make one step; see `bnbook.training.descent.Step`."""
        self.descent.scale(factor)
        losses = self.differentiate(x, y)
        self.descent.descend([self.gradient.flat])
        return losses

    @torch.no_grad()
    def differentiate(self, x: Tensor, y: Tensor) -> Tensor:
        """Compute the gradient of the loss into `gradient`; move the running statistics.

        Parameters
        ----------
        x : Tensor, (N, C, H, W) or (1, N, C, H, W)
            Images.
        y : Tensor, (N,) or (1, N), int64
            Labels.

        Returns
        -------
        Tensor, (1,)
            The loss.
        """
        if y.dim() == 2:
            x, y = x[0], y[0]
        if self.passes is None or not self.passes.fits(x):
            layers = [self._layer(conv, norm) for conv, norm in pairs(self.model)]
            self.passes = _Passes(layers, x, self.precision)
        features = self.passes.forward(x).detach().requires_grad_()
        with torch.enable_grad():
            losses = self.loss(self._scores(features), y)
            head = [features, *self.output.parameters()]
            of_features, *of_head = torch.autograd.grad(losses.sum(), head)
        for p, g in zip(self.output.parameters(), of_head, strict=True):
            self.gradient.of(p).copy_(g)
        self.passes.backward(of_features.contiguous())
        for _, norm in pairs(self.model):
            if isinstance(norm, BatchNorm):
                norm.num_batches_tracked += 1
        return losses.detach()

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Let the kernels compute the model's scores in evaluation mode.

        Each normalisation is folded into the weights before it. Where a gradient is wanted, or a
        hook listens, the model computes as it does by itself.
        """
        own = self.model.forward
        layers = [_folded(conv, norm) for conv, norm in pairs(self.model)]

        def forward(x: Tensor) -> Tensor:
            if self.model.training or torch.is_grad_enabled() or _listened_to(self.model):
                return cast(Tensor, own(x))
            passes = _Passes(layers, x[:_AT_ONCE], self.precision, keep=False)
            parts = [passes.forward(part).clone() for part in x.split(_AT_ONCE)]
            return self._scores(torch.cat(parts))

        self.model.__dict__["forward"] = forward
        try:
            yield
        finally:
            del self.model.__dict__["forward"]

    def _scores(self, features: Tensor) -> Tensor:
        scores: Tensor = self.output(features)
        return scores.view(len(features), 1, -1)

    def _layer(self, conv: ensemble.Conv2d, norm: nn.Module) -> _Layer:
        of, weight = self.gradient.of, conv.weight
        if isinstance(norm, BatchNorm):
            shift, dgamma = norm.bias, of(norm.weight)
            given = (_inner(weight), shift, conv.stride, _inner(of(weight)), of(shift))
            return _Layer(*given, norm, dgamma)
        assert conv.bias is not None
        bias = conv.bias
        return _Layer(_inner(weight), bias, conv.stride, _inner(of(weight)), of(bias))


def _listened_to(model: nn.Module) -> bool:
    return any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


class _Flat:
    """Memory for parameters, one after another; of a convolution as (3, 3, in, out)."""

    def __init__(self, parameters: Sequence[Tensor]) -> None:
        self.at: dict[int, int] = {}
        total = 0
        for p in parameters:
            self.at[id(p)] = total
            total += -(-p.numel() // _LANES) * _LANES
        self.flat = torch.zeros(1, total)

    def of(self, p: Tensor) -> Tensor:
        """Return a parameter's part, in its shape."""
        first = self.at[id(p)]
        part = self.flat[0, first : first + p.numel()]
        if p.dim() < 5:
            return part.view(p.shape)
        _, outputs, inputs, *kernel = p.shape
        return part.view(*kernel, inputs, outputs).permute(3, 2, 0, 1).unsqueeze(0)


def _inner(weight: Tensor) -> Tensor:
    """Undo what `_Flat.of` does to a convolution's weights: (3, 3, in, out)."""
    return weight.detach()[0].permute(2, 3, 1, 0)


@dataclass(frozen=True)
class _Layer:
    """A convolution's tensors: (3, 3, in, out) weights, (out,) bias or shift, their gradients."""

    weight: Tensor
    bias: Tensor
    stride: int
    dweight: Tensor | None = None
    dbias: Tensor | None = None
    norm: BatchNorm | None = None
    dgamma: Tensor | None = None


def _folded(conv: ensemble.Conv2d, norm: nn.Module) -> _Layer:
    """Return the convolution that convolution and norm are together in evaluation mode."""
    weight = _inner(conv.weight)
    if not isinstance(norm, BatchNorm):
        assert conv.bias is not None
        return _Layer(weight.contiguous(), conv.bias.detach(), conv.stride)
    scale = norm.weight.detach() * (norm.running_var + norm.eps).rsqrt()
    shift = norm.bias.detach() - norm.running_mean * scale
    return _Layer((weight * scale).contiguous(), shift, conv.stride)


class _Passes:
    """Forward and backward through the layers, for batches of up to some size.

    Parameters
    ----------
    layers : sequence of _Layer
        Stem first, then two for each block.
    x : Tensor, (N, C, H, W)
        Images of the size to come, and as many as come at once.
    precision : str
        One of `PRECISIONS`.
    keep : bool
        Whether what the backward pass needs is kept.
    """

    def __init__(
        self, layers: Sequence[_Layer], x: Tensor, precision: str, *, keep: bool = True
    ) -> None:
        self.dtype, prefix, self.per = PRECISIONS[precision]
        self.shape, self.threads = x.shape, torch.get_num_threads()
        self.kept: list[Any] = list(layers)  # all that the kernels hold pointers to
        library = kernels.library()
        assert library is not None
        self.call = {name: getattr(library, f"{prefix}_{name}") for name in kernels.ARGUMENTS}
        n, self.channels, height, width = x.shape
        self.images = self._new(n, height, width, _LANES, dtype=self.dtype)
        sizes = _sizes(layers, height, width)
        outputs = [n * _after(h, s) * _after(w, s) * c for h, w, s, c in sizes]
        room = [self._room(m) for m in (outputs if keep else [max(outputs)] * 3)]
        self.layers = [
            self._layer(layer, n, size, room[at % len(room)])
            for at, (layer, size) in enumerate(zip(layers, sizes, strict=True))
        ]
        self.at = [ctypes.addressof(layer) for layer in self.layers]
        self.normed = layers[0].norm is not None
        self.joined = [layer.y for layer in self.layers[::2]]  # activations between the blocks
        if self.normed:
            self.joined = [self._room(m).data_ptr() for m in outputs[::2]]
        largest = max(outputs) if keep else 0
        self.gradients = [self._room(largest).data_ptr() for _ in range(3)]
        self.features = self._new(n, self.layers[-1].cout)

    def fits(self, x: Tensor) -> bool:
        """Whether the memory is for batches like this, at this number of threads."""
        return self.shape == x.shape and self.threads == torch.get_num_threads()

    def forward(self, x: Tensor) -> Tensor:
        """Return the means over positions of the last activations, (N, C), until the next call."""
        n, layers, at, joined = len(x), self.layers, self.at, self.joined
        for layer in layers:
            layer.n = n
        for each in at:
            self.call["pack"](each)
        self.images[:n, :, :, : self.channels] = x.permute(0, 2, 3, 1)
        self._forward(0, self.images.data_ptr())
        for block in range(len(layers) // 2):
            first = 2 * block + 1
            self._forward(first, joined[block])
            self._forward(first + 1, layers[first].y, before=first, shortcut=joined[block])
        self.call["pool"](at[-1], joined[-1], self.features.data_ptr())
        return self.features[:n]

    def _forward(self, i: int, x: int, before: int | None = None, shortcut: int = 0) -> None:
        """Apply layer i to x, which comes from the layer before; at a block's end, the sum too."""
        from_ = None if before is None else self.at[before]
        if not self.normed:
            self.call["forward"](self.at[i], x, None, shortcut, from_, self.threads)
            return
        self.call["forward"](self.at[i], x, from_, None, None, self.threads)
        if i % 2 == 0:
            self.call["join"](self.at[i], shortcut, from_, self.joined[i // 2])

    def backward(self, of_features: Tensor) -> None:
        """Compute the gradients of all parameters from that of the features, (N, C)."""
        layers, at, joined, call = self.layers, self.at, self.joined, self.call["backward"]
        above, inside, below = self.gradients
        self.call["unpool"](at[-1], of_features.data_ptr(), joined[-1], above)
        for block in reversed(range(len(layers) // 2)):
            i = 2 * block + 1  # its layers are i and i + 1, the layer whose output it takes i - 1
            normed = at[i] if self.normed else None
            call(at[i + 1], above, layers[i].y, normed, None, at[i], inside, self.threads)
            call(at[i], inside, joined[block], None, above, at[i - 1], below, self.threads)
            above, below = below, above
        call(at[0], above, self.images.data_ptr(), None, None, None, None, self.threads)

    def _layer(
        self, of: _Layer, n: int, size: tuple[int, int, int, int], room: Tensor
    ) -> kernels.Layer:
        """Describe a layer to the kernels; they keep what they need in memory of its own."""
        height, width, stride, outputs = size
        used = of.weight.shape[2]
        inputs = max(used, _LANES)
        made = kernels.Layer(n, height, width, inputs, outputs, stride, used)
        numbers = 9 * inputs * outputs // self.per
        made.weight, made.bias = of.weight.data_ptr(), of.bias.data_ptr()
        made.packed = self._new(numbers, dtype=torch.int32).data_ptr()
        made.y = room.data_ptr()
        if of.dweight is None or of.dbias is None:
            return made
        made.dweight, made.dbias = of.dweight.data_ptr(), of.dbias.data_ptr()
        if used >= _LANES:  # no gradient of the images is asked for
            made.turned = self._new(numbers, dtype=torch.int32).data_ptr()
        if of.norm is not None and of.dgamma is not None:
            norm = of.norm
            made.eps, made.momentum = norm.eps, norm.momentum
            made.gamma, made.dgamma = norm.weight.data_ptr(), of.dgamma.data_ptr()
            made.mean, made.var = norm.running_mean.data_ptr(), norm.running_var.data_ptr()
            for name in ("mu", "root", "scale", "tilt", "level"):
                setattr(made, name, self._new(outputs).data_ptr())
        return made

    def _room(self, numbers: int) -> Tensor:
        """Keep memory for images, which is written before it is read."""
        made = torch.empty(numbers, dtype=self.dtype)
        self.kept.append(made)
        return made

    def _new(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        made = torch.zeros(shape, dtype=dtype)
        self.kept.append(made)
        return made


def _after(size: int, stride: int) -> int:
    """Rows or columns after a convolution."""
    return (size - 1) // stride + 1


def _sizes(layers: Sequence[_Layer], height: int, width: int) -> list[tuple[int, int, int, int]]:
    """Rows and columns of each layer's input, its stride, and its channels out."""
    found = []
    for layer in layers:
        found.append((height, width, layer.stride, layer.weight.shape[-1]))
        height, width = _after(height, layer.stride), _after(width, layer.stride)
    return found
