"""Normalisation layers written out in torch, one line per line of the paper's algorithm.

Parameter and buffer names are those of `torch.nn`, so state dicts load both ways.

A model takes a layer as ``norm: num_features -> Module`` with num_features = E*C, C features of
each of E members (see `bnbook.ensemble`). `BatchNorm` needs to know no more, for its features are
independent. `GroupNorm` and `LayerNorm` must not mix members: pass ``partial(LayerNorm,
members=E)``.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from bnbook.errors import BnbookError


class BatchNorm(nn.Module):
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
        super().__init__()
        _check_size(num_features, eps)
        if momentum is not None and not 0 <= momentum <= 1:
            raise BnbookError(f"momentum must lie in [0, 1] or be None, found {momentum}.")
        self.num_features, self.eps, self.momentum = num_features, eps, momentum
        self.affine, self.track_running_stats = affine, track_running_stats
        self.weight = nn.Parameter(torch.ones(num_features)) if affine else None
        self.bias = nn.Parameter(torch.zeros(num_features)) if affine else None
        start = (torch.zeros(num_features), torch.ones(num_features), torch.tensor(0))
        names = ("running_mean", "running_var", "num_batches_tracked")
        for name, value in zip(names, start, strict=True):
            self.register_buffer(name, value if track_running_stats else None)

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
            mu = x.mean(over, keepdim=True)
            centred = x - mu
            var = centred.square().mean(over, keepdim=True)
            if self.training:
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
            weight = self._weight_of_new(self.running_mean)
            self.running_mean.lerp_(mu.flatten(), weight)
            self.running_var.lerp_(var.flatten() * (m / (m - 1)), weight)

    def extra_repr(self) -> str:
        """Constructor arguments, for printing."""
        return (
            f"{self.num_features}, eps={self.eps}, momentum={self.momentum}, affine={self.affine},"
            f" track_running_stats={self.track_running_stats}"
        )

    def _of_the_batch(self) -> bool:
        """Whether to normalise with the statistics of the batch."""
        return self.training or self.running_mean is None

    def _weight_of_new(self, like: Tensor) -> Any:
        """Count this batch; return its weight, a tensor when that depends on the count."""
        self.num_batches_tracked += 1
        return self.momentum if self.momentum is not None else 1 / self.num_batches_tracked.to(like)

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
    """`BatchNorm` computed by torch's kernel: the same values, in fewer passes over memory.

    For long runs. `BatchNorm` is the one to read; tests hold the two against each other in value,
    gradient and running statistics. Parameters, attributes and errors are those of `BatchNorm`.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalise; see `BatchNorm.forward`."""
        self._check(x)
        tracked = self.training and self.running_mean is not None
        weight_of_new = float(self._weight_of_new(x)) if tracked else 0.0
        statistics, affine = (self.running_mean, self.running_var), (self.weight, self.bias)
        return F.batch_norm(x, *statistics, *affine, self._of_the_batch(), weight_of_new, self.eps)


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
        if num_groups < 1 or members < 1 or num_features % (members * num_groups):
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


def _check_size(num_features: int, eps: float) -> None:
    if not isinstance(num_features, int) or num_features < 1:
        raise BnbookError(f"num_features must be at least 1 and whole, found {num_features!r}.")
    if not eps > 0:
        raise BnbookError(f"eps must be positive, found {eps}.")


def _check_input(x: Tensor, num_features: int) -> None:
    if x.dim() not in (2, 3, 4) or x.shape[1] != num_features:
        raise BnbookError(
            f"x must have shape (N, {num_features}), (N, {num_features}, L) or"
            f" (N, {num_features}, H, W), found {tuple(x.shape)}."
        )
    if not x.is_floating_point():
        raise BnbookError(f"x must be floating point, found dtype {x.dtype}; try x.float().")


def _in_full(x: Tensor, weight: Tensor | None) -> Tensor:
    """Return x in the weights' precision: moments of bfloat16 numbers need more than its digits."""
    full = torch.float32 if weight is None else weight.dtype
    return x.to(torch.promote_types(x.dtype, full))


def _along_features(x: Tensor, vector: Any) -> Tensor:
    """Shape a vector of features to multiply x."""
    shaped: Tensor = vector.view(1, -1, *(1,) * (x.dim() - 2))
    return shaped
