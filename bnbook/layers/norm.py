"""Normalisation layers written out in torch, one line per line of the paper's algorithm.

Parameter and buffer names are those of `torch.nn`, so state dicts load both ways.

A model takes a layer as ``norm: num_features -> Module`` with num_features = E*C, C features of
each of E members (see `bnbook.layers.ensemble`). `BatchNorm` needs to know no more, for its
features are independent. `GroupNorm`, `LayerNorm` and `InstanceNorm` must not mix members: pass
``partial(LayerNorm, members=E)``, or make any of them by its name with `make_norm`.

`PreciseBN` and `fold`, from modules of their own, are for networks that are trained.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torch.nn.modules.batchnorm import _BatchNorm

from bnbook.errors import BnbookError
from bnbook.layers import lean
from bnbook.layers.folding import fold
from bnbook.layers.precise import PreciseBN

__all__ = [
    "BatchNorm",
    "FusedBatchNorm",
    "GroupNorm",
    "InstanceNorm",
    "LayerNorm",
    "LeanBatchNorm",
    "PreciseBN",
    "fold",
    "make_norm",
]


_HALF = (torch.float16, torch.bfloat16)


class BatchNorm(_BatchNorm):
    r"""Batch normalisation of each feature (channel) over batch and positions.

    In training, with the sums over the :math:`m` values of a feature,

    .. math::
        \mu = \frac1m \sum_i x_i, \quad \sigma^2 = \frac1m \sum_i (x_i - \mu)^2, \quad
        y_i = \gamma \frac{x_i - \mu}{\sqrt{\sigma^2 + \epsilon}} + \beta .

    In evaluation :math:`\mu` and :math:`\sigma^2` are the running statistics. These move by
    ``running += momentum * (batch - running)`` at every training step: `momentum` weighs the new
    batch, as in torch. The running variance takes the unbiased batch variance,
    :math:`\frac{m}{m-1}\sigma^2`.

    Source: Ioffe & Szegedy 2015, algorithm 1 and, for :math:`m' = m p q` values of a feature map,
    section 3.2. The running average is the one that section 3.1 mentions, not algorithm 2's
    average over minibatches of the trained network, for which see `PreciseBN`.

    Range: statistics are computed in float32 at least, and cast last. They are right to rounding
    while the squared deviations of a feature and their sum stay finite, in float32 deviations below
    :math:`1.8 \cdot 10^{19} / \sqrt m`; beyond, outputs are :math:`\beta` and the running variance
    infinite, and where even the sum of the values is infinite they are NaN. A mean of :math:`a`
    standard deviations costs a share :math:`2^{-24} a` of the precision, many times that where many
    values are summed. A constant feature of float32 whose mean has the error :math:`\delta` is off
    by :math:`\gamma \delta / \sqrt{\delta^2 + \epsilon}`: it gives :math:`\beta` only while its
    value is small beside :math:`2^{24} \sqrt\epsilon`, about 50,000, and for many values beside a
    part of that. In half precision values are counted from the feature's first one, and a constant
    feature gives :math:`\beta` whatever its value. Where the range is too small, use float64.

    To torch this is one of its own: the base class, which has the parameters and buffers, is that
    by which ``swa_utils.update_bn`` and others know a BN layer, and loads checkpoints without
    ``num_batches_tracked``, as old ones are.

    Parameters
    ----------
    num_features : int
        Number of features, C.
    eps : float
        Added to the variance inside the square root; the paper gives no value.
    momentum : float or None
        Weight of the new batch in the running statistics, in [0, 1]. None gives every batch the
        same weight: the t-th weighs 1/t.
    affine : bool
        Whether there are :math:`\gamma` and :math:`\beta`.
    track_running_stats : bool
        Whether there are running statistics. Without them evaluation too uses those of the batch.

    Attributes
    ----------
    weight, bias : Parameter, (C,), or None
        :math:`\gamma`, initially 1, and :math:`\beta`, initially 0.
    running_mean, running_var : Tensor, (C,), or None
        Initially 0 and 1.
    num_batches_tracked : Tensor, (), or None
        Number of training batches seen.

    Raises
    ------
    BnbookError
        When the parameters are out of range; in `forward`, when the input's shape or type does not
        fit or a feature that has to have statistics of the batch has one value only.
    """

    affine_in_evaluation = True  # for `fold`: said in each class, so that no subclass inherits it
    weight: Any  # these five: a tensor, or None
    bias: Any
    running_mean: Any
    running_var: Any
    num_batches_tracked: Any

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
    ) -> None:
        _check_size(num_features, eps)
        if not (momentum is None or _is_share(momentum)):
            raise BnbookError(f"momentum must lie in [0, 1] or be None, found {momentum!r}.")
        super().__init__(num_features, eps, momentum, affine, track_running_stats)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise.

        Parameters
        ----------
        x : Tensor, (N, C), (N, C, L) or (N, C, H, W)
            Floating point; computed in the weights' precision where that is higher. Values that
            are not finite spread over their feature.

        Returns
        -------
        Tensor, of the shape and type of x
        """
        self._check(x)
        given = x.dtype
        x = _in_full(x, self.weight)
        if self._of_the_batch():
            over = (0, *range(2, x.dim()))
            origin = _first_values(x) if given in _HALF else None
            x = x if origin is None else x - origin
            mu = x.mean(over, keepdim=True)
            centred = x - mu
            var = centred.square().mean(over, keepdim=True)
            if self.training:
                mu = mu if origin is None else mu + origin
                self.track(mu, var, x.numel() // self.num_features)
        else:
            mu, var = _along_features(x, self.running_mean), _along_features(x, self.running_var)
            centred = x - mu
        scale = (var + self.eps).rsqrt()
        if self.weight is None:
            return (centred * scale).to(given)
        scale = _along_features(x, self.weight) * scale
        return torch.addcmul(_along_features(x, self.bias), centred, scale).to(given)

    @torch.no_grad()
    def track(self, mu: Tensor, var: Tensor, m: int) -> None:
        """Move the running statistics, if there are any, by those of one batch.

        Parameters
        ----------
        mu, var : Tensor, of C values
            Mean and biased variance.
        m : int
            Values of a feature, at least 2.
        """
        if self.running_mean is not None:
            weight, unbiased = self._weight_of_new(), var * (m / (m - 1))
            for running, batch in ((self.running_mean, mu), (self.running_var, unbiased)):
                full = torch.promote_types(running.dtype, torch.float32)
                new = batch.detach().flatten().to(full)
                running.copy_(running.to(full).lerp(new, weight))

    def extra_repr(self) -> str:
        """Constructor arguments, for printing."""
        return (
            f"{self.num_features}, eps={self.eps}, momentum={self.momentum}, affine={self.affine},"
            f" track_running_stats={self.track_running_stats}"
        )

    def _of_the_batch(self) -> bool:
        """Whether to normalise with the statistics of the batch."""
        return self.training or self.running_mean is None

    def _weight_of_new(self) -> Any:
        """Count this batch; return its weight, a tensor when that depends on the count.

        Counts of more than 65,504 batches are infinite in float16: the quotient is taken in float32
        at least.
        """
        self.num_batches_tracked += 1
        if self.momentum is not None:
            return self.momentum
        full = torch.promote_types(self.running_mean.dtype, torch.float32)
        return 1 / self.num_batches_tracked.to(full)

    def _check(self, x: Tensor) -> None:
        _check_input(x, self.num_features)
        m = x.numel() // self.num_features
        if self._of_the_batch() and m < 2:
            raise BnbookError(
                "in training each feature needs two or more values to have a variance, found"
                f" {m}, x of shape {tuple(x.shape)}. Use a larger batch, or eval() for single"
                " examples."
            )


class FusedBatchNorm(BatchNorm):
    r"""`BatchNorm` computed by torch's kernel: the same values, in fewer passes over memory.

    For long runs. `BatchNorm` is the one to read; tests hold the two against each other in value,
    gradient and running statistics. Parameters, attributes and errors are those of `BatchNorm`,
    which serves itself where x and the layer have types that the kernel does not take together, in
    compiled code with momentum None, and under `torch.func`.

    Where the two differ is torch's doing: third derivatives by the kernel are wrong, without a word
    (its second backward pass takes statistics for constants), and on the CPU a constant feature of
    value c comes out at a distance from :math:`\beta` that grows with c without bound, where that
    of `BatchNorm` ends at :math:`\gamma`. Deviations have the range that they have in `BatchNorm`.
    """

    affine_in_evaluation = True

    def forward(self, x: Tensor) -> Tensor:
        """Normalise; see `BatchNorm.forward`."""
        self._check(x)
        if not self._kernel_takes(x):
            return super().forward(x)
        tracked = self.training and self.running_mean is not None
        weight_of_new = float(self._weight_of_new()) if tracked else 0.0
        statistics, affine = (self.running_mean, self.running_var), (self.weight, self.bias)
        return F.batch_norm(x, *statistics, *affine, self._of_the_batch(), weight_of_new, self.eps)

    def _kernel_takes(self, x: Tensor) -> bool:
        """Whether the kernel serves this input and layer, and rightly."""
        own = (self.weight, self.bias, self.running_mean, self.running_var)
        here = [tensor for tensor in own if tensor is not None]
        if torch.compiler.is_compiling():
            if self.momentum is None:
                return False  # it takes the weight of a batch as a number, not as a tensor
        elif any(torch._C._functorch.is_functorch_wrapped_tensor(t) for t in (x, *here)):
            return (
                False  # under torch.func it refuses momentum None, and errs in second derivatives
            )
        types = {tensor.dtype for tensor in here}
        return types <= {x.dtype} or (x.dtype in _HALF and types == {torch.float32})


class LeanBatchNorm(BatchNorm):
    r"""`BatchNorm` with a backward pass of its own; see `bnbook.layers.lean`.

    In training, the input as it was given and three numbers for each feature are all that is kept
    for the backward pass; statistics and gradients of half precision are computed in float32.
    Gradients of any order and in both modes are right, and `torch.func.vmap` and `torch.compile`
    pass through; in forward mode it is `BatchNorm` that computes.

    Range: a constant feature gives :math:`\beta`, whatever its value, and deviations are right as
    far as the variance is a number, on the CPU in float32 to :math:`1.8 \cdot 10^{19}` whatever m.

    Parameters, attributes and errors are those of `BatchNorm`.
    """

    affine_in_evaluation = True

    def forward(self, x: Tensor) -> Tensor:
        """Normalise; see `BatchNorm.forward`."""
        if not self._of_the_batch() or _in_forward_mode():
            return super().forward(x)
        self._check(x)
        with torch.no_grad():
            mu, var = lean.moments(x)
            if self.training:
                self.track(mu, var, x.numel() // self.num_features)
        return lean.normalise(x, self.weight, self.bias, mu, var, self.eps)


class GroupNorm(nn.Module):
    r"""Group normalisation of each example, of E members' features.

    A member's C features are split, in their order, into G groups of equal size. With the sums over
    the :math:`m` values that one example has in one group, its :math:`C/G` features at all
    positions,

    .. math::
        \mu = \frac1m \sum_i x_i, \quad \sigma^2 = \frac1m \sum_i (x_i - \mu)^2, \quad
        y_i = \gamma \frac{x_i - \mu}{\sqrt{\sigma^2 + \epsilon}} + \beta ,

    :math:`\gamma` and :math:`\beta` one for each feature. No example depends on another, so
    training and evaluation are the same and there are no running statistics.

    Source: Wu & He 2018, section 3.

    Parameters
    ----------
    num_groups : int
        Groups of a member, G.
    num_features : int
        Features of all members, E*C.
    members : int
        Number of members, E.
    eps : float
        Added to the variance inside the square root.

    Attributes
    ----------
    weight, bias : Parameter, (E*C,)
        :math:`\gamma`, initially 1, and :math:`\beta`, initially 0.

    Raises
    ------
    BnbookError
        When the members' groups do not divide the features, or eps is out of range; in `forward`,
        when the input's shape does not fit or a group has one value only.
    """

    def __init__(
        self, num_groups: int, num_features: int, members: int = 1, eps: float = 1e-5
    ) -> None:
        super().__init__()
        _check_size(num_features, eps)
        _check_whole("num_groups", num_groups)
        _check_whole("members", members)
        if num_features % (members * num_groups):
            raise BnbookError(
                f"num_features must be a multiple of members*num_groups, found {num_features}"
                f" features, {members} members and {num_groups} groups. num_features counts the"
                " features of all members, num_groups the groups of one."
            )
        self.num_groups, self.num_features = num_groups, num_features
        self.members, self.eps = members, eps
        self.weight = nn.Parameter(torch.ones(num_features))
        self.bias = nn.Parameter(torch.zeros(num_features))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise.

        Parameters
        ----------
        x : Tensor, (N, E*C), (N, E*C, L) or (N, E*C, H, W)
            Floating point.

        Returns
        -------
        Tensor, of the shape of x
        """
        _check_input(x, self.num_features)
        given, x = x.dtype, _in_full(x, self.weight)
        groups = self._grouped(x)
        over = self._reduced(groups)
        mu = groups.mean(over, keepdim=True)
        centred = groups - mu
        var = centred.square().mean(over, keepdim=True)
        normalised = (centred * (var + self.eps).rsqrt()).view_as(x)
        bias, weight = _along_features(x, self.bias), _along_features(x, self.weight)
        return torch.addcmul(bias, normalised, weight).to(given)

    def extra_repr(self) -> str:
        """Constructor arguments, for printing."""
        return f"{self.num_groups}, {self.num_features}, members={self.members}, eps={self.eps}"

    def _grouped(self, x: Tensor) -> Tensor:
        """View x as (N, E*G, C/G, positions...)."""
        groups: Tensor = x.unflatten(1, (self.members * self.num_groups, -1))
        if groups[0, 0].numel() < 2:
            raise BnbookError(
                "each group needs two or more values to have a variance, found 1, x of shape"
                f" {tuple(x.shape)} in {groups.shape[1]} groups. Use fewer groups."
            )
        return groups

    def _reduced(self, groups: Tensor) -> tuple[int, ...]:
        return tuple(range(2, groups.dim()))


class LayerNorm(GroupNorm):
    r"""Layer normalisation of each example, of E members' features.

    The mean and variance of one example are those of all of a member's C features: in a
    convolutional network of all its features at all positions, :math:`m = C H W`. This is
    `GroupNorm` with one group. :math:`\gamma` and :math:`\beta` belong to a feature and are shared
    by its positions, where ``torch.nn.LayerNorm([C, H, W])`` has one for each feature and position.

    Source: Ba, Kiros & Hinton 2016, equation 3, "over all the hidden units in the same layer"; Wu &
    He 2018, section 3.1, for its reading in feature maps.

    Parameters
    ----------
    num_features : int
        Features of all members, E*C.
    members : int
        Number of members, E.
    eps : float
        Added to the variance inside the square root.

    Attributes
    ----------
    weight, bias : Parameter, (E*C,)
        :math:`\gamma`, initially 1, and :math:`\beta`, initially 0.

    Raises
    ------
    BnbookError
        As `GroupNorm`.
    """

    def __init__(self, num_features: int, members: int = 1, eps: float = 1e-5) -> None:
        super().__init__(1, num_features, members, eps)

    def extra_repr(self) -> str:
        """Constructor arguments, for printing."""
        return f"{self.num_features}, members={self.members}, eps={self.eps}"


class InstanceNorm(GroupNorm):
    r"""Instance normalisation of each feature of each example, over its positions.

    The mean and variance are those of the :math:`m = H W` values of one feature map of one
    example. This is `GroupNorm` with one feature to a group. It has :math:`\gamma` and
    :math:`\beta`, which ``torch.nn.InstanceNorm2d`` has with ``affine=True``, and no running
    statistics. Inputs need positions: (N, E*C, L) or (N, E*C, H, W).

    Source: Ulyanov, Vedaldi & Lempitsky 2016.

    Parameters
    ----------
    num_features : int
        Features of all members, E*C.
    members : int
        Number of members, E; they do not mix, whatever it is.
    eps : float
        Added to the variance inside the square root.

    Attributes
    ----------
    weight, bias : Parameter, (E*C,)
        :math:`\gamma`, initially 1, and :math:`\beta`, initially 0.

    Raises
    ------
    BnbookError
        As `GroupNorm`; in `forward`, when there is one position only.
    """

    def __init__(self, num_features: int, members: int = 1, eps: float = 1e-5) -> None:
        super().__init__(_share(num_features, members), num_features, members, eps)

    def extra_repr(self) -> str:
        """Constructor arguments, for printing."""
        return f"{self.num_features}, members={self.members}, eps={self.eps}"


def make_norm(name: str, num_features: int, members: int = 1, **settings: Any) -> nn.Module:
    """Make a normalisation layer by its name.

    Parameters
    ----------
    name : {"batch", "layer", "group", "instance", "none"}
        `BatchNorm`, `LayerNorm`, `GroupNorm`, `InstanceNorm`, or ``torch.nn.Identity``.
    num_features : int
        Features of all members, E*C.
    members : int
        Number of members, E.
    **settings
        Passed to the layer, such as ``eps``. For "group", ``num_groups`` counts a member's groups;
        left out, it is the largest number up to 32, the default of Wu & He 2018, that divides a
        member's features into groups of two or more.

    Raises
    ------
    BnbookError
        When there is no such name or the layer has no such setting; the error lists those there
        are.
    """
    makers: dict[str, Callable[..., nn.Module]] = {
        "batch": BatchNorm,
        "layer": partial(LayerNorm, members=members),
        "group": partial(_group_norm, members=members),
        "instance": partial(InstanceNorm, members=members),
        "none": _no_norm,
    }
    if name not in makers:
        raise BnbookError(f"name must be one of {', '.join(makers)}, found {name!r}.")
    _check_size(num_features, 1.0)
    _share(num_features, members)
    known = set(inspect.signature(makers[name]).parameters) - {"num_features", "members"}
    if unknown := sorted(set(settings) - known):
        raise BnbookError(
            f"settings of {name!r} must be among {', '.join(sorted(known)) or 'none'},"
            f" found {', '.join(unknown)}."
        )
    return makers[name](num_features, **settings)


def _group_norm(
    num_features: int, members: int, num_groups: int | None = None, eps: float = 1e-5
) -> GroupNorm:
    own = num_features // members
    most = max((g for g in range(1, 33) if own % g == 0 and own >= 2 * g), default=1)
    return GroupNorm(most if num_groups is None else num_groups, num_features, members, eps)


def _no_norm(num_features: int) -> nn.Module:  # noqa: ARG001
    return nn.Identity()


def _share(num_features: int, members: int) -> int:
    """Features of one member."""
    _check_whole("num_features", num_features)
    _check_whole("members", members)
    if num_features % members:
        raise BnbookError(
            f"num_features must be a multiple of members, found {num_features} features and"
            f" {members} members. num_features counts the features of all members."
        )
    return num_features // members


def _check_whole(name: str, value: Any) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise BnbookError(f"{name} must be at least 1 and whole, found {value!r}.")


def _is_share(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= 1


def _check_size(num_features: int, eps: float) -> None:
    _check_whole("num_features", num_features)
    if not isinstance(eps, (int, float)) or not 0 < eps < math.inf:
        raise BnbookError(f"eps must be positive, found {eps!r}.")


def _check_input(x: Tensor, num_features: int) -> None:
    if not isinstance(x, Tensor):
        raise BnbookError(f"x must be a torch.Tensor, found {type(x).__name__}.")
    if x.dim() not in (2, 3, 4) or x.shape[1] != num_features:
        raise BnbookError(
            f"x must have shape (N, {num_features}), (N, {num_features}, L) or"
            f" (N, {num_features}, H, W), found {tuple(x.shape)}."
        )
    if not x.is_floating_point():
        raise BnbookError(f"x must be floating point, found dtype {x.dtype}; try x.float().")


def _in_forward_mode() -> bool:
    """Whether derivatives are being taken in forward mode, as by `torch.func.jvp` and `hessian`.

    There a backward pass by hand has no part, and a rule of its own for forward mode would be wrong
    where it is nested: torch does not differentiate such a rule.
    """
    return torch.autograd.forward_ad._current_level >= 0


def _first_values(x: Tensor) -> Tensor:
    """Each feature's first value, shaped to go with x; no gradient goes to it."""
    first: Tensor = x.detach()[:1].flatten(2)[..., :1] if x.dim() > 2 else x.detach()[:1]
    return _along_features(x, first.flatten())


def _in_full(x: Tensor, weight: Tensor | None) -> Tensor:
    """Return x in the higher of its and the weights' precision, at least in float32.

    Moments of float16 and bfloat16 numbers need more digits than these have.
    """
    full = torch.float32 if weight is None else weight.dtype
    return x.to(torch.promote_types(torch.promote_types(x.dtype, full), torch.float32))


def _along_features(x: Tensor, vector: Any) -> Tensor:
    """Shape a vector of features to multiply x."""
    shaped: Tensor = vector.view(1, -1, *(1,) * (x.dim() - 2))
    return shaped
