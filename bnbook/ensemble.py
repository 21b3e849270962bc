"""E networks of one architecture as one: layers with a member axis, and the loss per member.

Activations of E members with C features each are laid out as (N, E*C). Batch normalisation over
E*C features is exactly E independent normalisations, so `bnbook.norm.BatchNorm` serves unchanged.
A single network is E = 1.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from bnbook.errors import BnbookError


class Linear(nn.Module):
    r"""The map :math:`y = W_e x + b_e` of each member e.

    Parameters
    ----------
    members : int
        Number of members, E.
    in_features, out_features : int
        Features per member.
    bias : bool
        Whether there is a b; left out before batch normalisation, which cancels it.

    Attributes
    ----------
    weight : Parameter, (E, out_features, in_features)
        Initially zero: see `initialise`.
    bias : Parameter, (E, out_features), or None
        Initially zero.
    """

    def __init__(
        self, members: int, in_features: int, out_features: int, *, bias: bool = True
    ) -> None:
        super().__init__()
        self.members, self.in_features, self.out_features = members, in_features, out_features
        self.weight = nn.Parameter(torch.zeros(members, out_features, in_features))
        self.bias = nn.Parameter(torch.zeros(members, out_features)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """Apply each member's map.

        Parameters
        ----------
        x : Tensor, (N, in_features) or (N, E*in_features)
            One input that all members share, or one for each.

        Returns
        -------
        Tensor, (N, E*out_features)
        """
        n, width = x.shape
        if width == self.in_features:
            y = F.linear(x, self.weight.view(-1, self.in_features))
        elif width == self.members * self.in_features:
            per_member = x.view(n, self.members, self.in_features).transpose(0, 1)
            y = torch.bmm(per_member, self.weight.mT).transpose(0, 1).reshape(n, -1)
        else:
            raise BnbookError(
                f"x must have {self.in_features} features, or {self.members} times as many,"
                f" found shape {tuple(x.shape)}."
            )
        return y if self.bias is None else y + self.bias.view(-1)


@torch.no_grad()
def initialise(model: nn.Module, seeds: tuple[int, ...], std: float) -> None:
    """Draw every member's weights from a Gaussian, in the order of the layers.

    Member e depends on ``seeds[e]`` alone: it starts as the single network of that seed would, and
    networks that differ in their normalisation only start with the same weights.

    Parameters
    ----------
    model : nn.Module
        A model of `Linear` layers; biases are left as they are.
    seeds : tuple of int
        One for each of the E members.
    std : float
        Standard deviation of the Gaussian; its mean is 0.
    """
    for member, seed in enumerate(seeds):
        generator = torch.Generator().manual_seed(seed)
        for layer in model.modules():
            if isinstance(layer, Linear):
                draw = torch.randn(layer.weight.shape[1:], generator=generator)
                layer.weight[member] = std * draw


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of each member, averaged over the batch.

    Parameters
    ----------
    logits : Tensor, (N, E, K)
        Scores of K classes.
    labels : Tensor, (N,), int64
        Classes in [0, K), shared by the members.

    Returns
    -------
    Tensor, (E,)
        In nats.
    """
    log_p = logits.log_softmax(-1)
    chosen = log_p.gather(-1, labels.view(-1, 1, 1).expand(-1, logits.shape[1], 1))
    return -chosen.squeeze(-1).mean(0)
