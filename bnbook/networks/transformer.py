"""A Transformer that predicts the next symbol of a sequence; the normalisation is passed in."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from bnbook.errors import BnbookError

RowNorm = Callable[[int], nn.Module]
"""Makes a normalisation of rows (m, C), such as `bnbook.layers.norm.BatchNorm`."""


class Sizes(NamedTuple):
    """What a Transformer's size depends on."""

    symbols: int
    length: int  # positions, at most
    width: int = 64
    heads: int = 4
    layers: int = 2


class TokenNorm(nn.Module):
    """A normalisation of rows, for sequences (N, T, C): each token is a row.

    With `masked`, tokens of the padding are no rows: they neither count in a batch's statistics nor
    are normalised.
    """

    def __init__(self, norm: RowNorm | None, width: int, masked: bool) -> None:
        super().__init__()
        self.rows = nn.Identity() if norm is None else norm(width)
        self.masked = masked

    def forward(self, x: Tensor, real: Tensor | None) -> Tensor:
        """Normalise; `real` (N, T) says which tokens are no padding, None that all are."""
        if real is None or not self.masked:
            normalised: Tensor = self.rows(x.flatten(0, 1))
            return normalised.view_as(x)
        return x.masked_scatter(real[..., None], self.rows(x[real]))


class Attention(nn.Module):
    """Causal self-attention of several heads; what a token sees can be kept for the next one."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query_key_value = nn.Linear(width, 3 * width)
        self.output = nn.Linear(width, width)

    def forward(self, x: Tensor, past: list[Tensor] | None = None) -> Tensor:
        """Attend; `past` holds keys and values of the tokens before, and gets those of x too."""
        parts = self.query_key_value(x).unflatten(2, (3, self.heads, -1)).unbind(2)
        query, key, value = (part.transpose(1, 2) for part in parts)
        if past is not None:
            if past:
                key, value = torch.cat((past[0], key), 2), torch.cat((past[1], value), 2)
            past[:] = [key, value]
        seen = F.scaled_dot_product_attention(query, key, value, is_causal=past is None)
        attended: Tensor = self.output(seen.transpose(1, 2).flatten(2))
        return attended


class TransformerBlock(nn.Module):
    """Attention and a layer for each token, both with shortcuts, normalised before or after."""

    def __init__(self, norm: RowNorm | None, sizes: Sizes, post: bool, masked: bool) -> None:
        super().__init__()
        width = sizes.width
        self.post = post
        self.norm1, self.norm2 = (TokenNorm(norm, width, masked) for _ in range(2))
        self.attention = Attention(width, sizes.heads)
        self.tokens = nn.Sequential(
            nn.Linear(width, 4 * width), nn.ReLU(), nn.Linear(4 * width, width)
        )

    def forward(self, x: Tensor, real: Tensor | None, past: list[Tensor] | None) -> Tensor:
        """Apply the block to (N, T, C)."""
        if self.post:
            x = self.norm1(x + self.attention(x, past), real)
            normalised: Tensor = self.norm2(x + self.tokens(x), real)
            return normalised
        x = x + self.attention(self.norm1(x, real), past)
        added: Tensor = x + self.tokens(self.norm2(x, real))
        return added


class Transformer(nn.Module):
    r"""A decoder that maps a sequence of symbols to scores of the next one, at every position.

    Blocks of causal attention and a two-layer network with ReLU for each token, learned positions,
    and a linear layer over the symbols. With `post` a norm follows each sum with a shortcut, as in
    the first Transformer; without, it opens each branch, and one more comes at the end.

    Source: Vaswani et al. 2017, section 3; for the other place of the norm, Xiong et al. 2020. The
    weights start from Xavier's Gaussian, embeddings from one of variance 1 / `width`, biases at 0.

    Parameters
    ----------
    norm : callable or None
        ``width -> Module`` that normalises rows (m, width); None for no normalisation.
    seed : int
        Of the initial weights, which do not depend on the norm.
    sizes : Sizes
        Symbols, positions, width, heads and layers.
    post : bool
        Where the norms are.
    masked : bool
        Whether padding is kept out of the norms; see `TokenNorm`.
    """

    def __init__(
        self,
        norm: RowNorm | None,
        seed: int,
        sizes: Sizes,
        *,
        post: bool = False,
        masked: bool = True,
    ) -> None:
        super().__init__()
        self.sizes = sizes
        self.symbols = nn.Embedding(sizes.symbols, sizes.width)
        self.positions = nn.Embedding(sizes.length, sizes.width)
        self.blocks = nn.ModuleList(
            TransformerBlock(norm, sizes, post, masked) for _ in range(sizes.layers)
        )
        self.last = TokenNorm(None if post else norm, sizes.width, masked)
        self.output = nn.Linear(sizes.width, sizes.symbols)
        start(self, seed)

    def forward(
        self, symbols: Tensor, real: Tensor | None = None, past: list[list[Tensor]] | None = None
    ) -> Tensor:
        """Compute the scores of the next symbols.

        Parameters
        ----------
        symbols : Tensor, (N, T), int64
            Padding, if any, comes last: attention is causal, so that no other token sees it.
        real : Tensor, (N, T), bool, optional
            Which of them are no padding; all of them unless told otherwise.
        past : list, optional
            For symbols one at a time: a list for each block, empty at first, kept by the caller.

        Returns
        -------
        Tensor, (N, T, symbols)
        """
        before = past[0][0].shape[2] if past and past[0] else 0
        if before + symbols.shape[1] > self.sizes.length:
            raise BnbookError(
                f"there are {self.sizes.length} positions, found {before + symbols.shape[1]}"
                " symbols. Use shorter sequences or a Transformer of more positions."
            )
        if past is not None and symbols.shape[1] != 1:
            raise BnbookError(
                f"with `past`, symbols come one at a time, found {symbols.shape[1]} of them."
            )
        at = torch.arange(before, before + symbols.shape[1], device=symbols.device)
        x = self.symbols(symbols) + self.positions(at)
        for number, block in enumerate(self.blocks):
            x = block(x, real, None if past is None else past[number])
        scores: Tensor = self.output(self.last(x, real))
        return scores


@torch.no_grad()
def start(model: nn.Module, seed: int) -> None:
    """Draw the weights of linear layers and embeddings, in their order, from one generator."""
    generator = torch.Generator().manual_seed(seed)
    for layer in model.modules():
        if isinstance(layer, nn.Linear):
            std = (2 / sum(layer.weight.shape)) ** 0.5
            layer.weight.normal_(0, std, generator=generator)
            layer.bias.zero_()
        elif isinstance(layer, nn.Embedding):
            layer.weight.normal_(0, layer.embedding_dim**-0.5, generator=generator)
