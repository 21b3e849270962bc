"""Channel moments at initialisation against depth: what their table says, and what theory says.

The claim, its measure and bound were written before the recorded runs. Bjorck et al. say in words
that with BN the moments stay nearly constant and without it they grow almost exponentially; a
factor of 10, one decade of the figure's axis, is the least that separates the two.
"""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import pandas as pd

from bnbook.evidence import claims
from bnbook.evidence.claims import Claim, Premise
from bnbook.tables import papers
from bnbook.tables.arms import WITH, WITHOUT

IMAGES, NOISE = "images", "noise"
"""What the networks are shown: a minibatch, or Gaussian numbers of the same mean and variance."""
LAYER, BLOCK = "layer", "block"
"""What a row is about: the output of a layer before BN, or a residual block's output."""
STAGES = 3
BOUND = 1.0
"""Decades between the two growths above which the claim holds."""
PARTICLES = 512
"""Channels drawn for each position and group in `wide_limit`."""


def rows_of(table: pd.DataFrame, kind: str, inputs: str = IMAGES) -> pd.DataFrame:
    """Rows of one kind of output and one kind of input."""
    return table[(table["kind"] == kind) & (table["inputs"] == inputs)]


def by_block(table: pd.DataFrame, column: str, inputs: str = IMAGES) -> pd.DataFrame:
    """Geometric mean of a moment over the two convolutions of each block.

    Index arm and seed, columns the blocks from 1 on: layers 2k and 2k + 1 are block k's.
    """
    rows = rows_of(table, LAYER, inputs)
    inner = rows[(rows["index"] > 1) & (rows["index"] < rows["index"].max())]
    logs = pd.DataFrame({
        "arm": inner["arm"], "seed": inner["seed"], "block": inner["index"] // 2,
        "log": np.log(inner[column]),
    })  # fmt: skip
    mean = logs.pivot_table(index=["arm", "seed"], columns="block", values="log")
    return mean.apply(np.exp)


def total_growth(table: pd.DataFrame, column: str, inputs: str = IMAGES) -> pd.DataFrame:
    """Last block's convolutions over the first block's, of `by_block`: seeds by arms."""
    blocks = by_block(table, column, inputs)
    growth = blocks.iloc[:, -1] / blocks.iloc[:, 0]
    return pd.DataFrame(growth.unstack("arm"))


def convolution_growth(table: pd.DataFrame, arm: str) -> dict[str, pd.Series]:
    """Growth of the variance from the first block to the last, apart for a block's convolutions."""
    rows = rows_of(table, LAYER)
    layers = rows[rows["arm"] == arm].pivot_table("variance", "seed", "index")
    numbers = np.array([int(index) for index in layers.columns])
    inner = numbers[(numbers > 1) & (numbers < numbers.max())]
    places = {"first": inner[inner % 2 == 0], "second": inner[inner % 2 == 1]}
    return {place: layers[own[-1]] / layers[own[0]] for place, own in places.items()}


def growth_gap(table: pd.DataFrame) -> pd.Series:
    """`total_growth` of the variance without BN over that with BN, in decades, per seed."""
    growth = np.log10(total_growth(table, "variance"))
    return pd.Series(growth[WITHOUT] - growth[WITH])


def stage_growth(blocks: pd.Series, stage: int) -> float:
    """Factor a block of one stage, from 1 on: a line of least squares through the logarithm.

    The first block of the stage, which changes size and channels, is left out.
    """
    length = len(blocks) // STAGES
    own = np.log(blocks.to_numpy(dtype=float)[(stage - 1) * length : stage * length])
    own = own[1:] if len(own) > 2 else own
    return float(np.exp(np.polyfit(np.arange(len(own)), own, 1)[0])) if len(own) > 1 else np.nan


def fitted_growth(table: pd.DataFrame, arm: str, stage: int, inputs: str = IMAGES) -> pd.Series:
    """`stage_growth` of the second moment of the blocks' outputs, per seed."""
    rows = rows_of(table, BLOCK, inputs)
    own = rows[rows["arm"] == arm].pivot_table(index="seed", columns="index", values="second")
    return own.apply(stage_growth, axis="columns", stage=stage)


class Limit(NamedTuple):
    """Second moments in the limit of many channels, averaged over channels and positions.

    Attributes
    ----------
    layers : ndarray, (6n + 1,)
        Of the convolutions' outputs, before BN.
    blocks : ndarray, (3n,)
        Of the residual blocks' outputs.
    """

    layers: np.ndarray
    blocks: np.ndarray


@lru_cache
def wide_limit(
    n: int, normalised: bool, side: int = 32, channels: int = 3, gain: float = 1.0
) -> Limit:
    r"""Follow the second moment through the residual network with Xavier's weights.

    A convolution of c channels to c' with weights of variance 2/(9c + 9c') maps a second moment
    q(h, w) to :math:`\frac{2c}{c + c'} \frac19 \sum q` over the 3x3 neighbours that lie inside the
    image; ReLU halves it, for the outputs are symmetric; with BN each output is divided by its mean
    over positions. The skip adds a Gaussian of that variance to the stream, and ReLU cuts: the
    stream's distribution at each position is followed by `PARTICLES` draws, apart for channels that
    began in different stages.

    Derived here; the images are taken to have second moment 1 at every pixel.

    A stage has `n` blocks. With `normalised` BN follows every convolution. `side` and `channels`
    are the image's. `gain` is the variance of the blocks' weights over Xavier's.
    """
    rng = np.random.default_rng(0)
    widths = (16, 32, 64)
    variance = _convolved(np.ones((side, side)), channels, widths[0], 1)
    layers, blocks = [variance.mean()], []
    streams = [_cut(np.zeros((PARTICLES, side, side)), _scaled(variance, normalised), rng)]
    shares = [widths[0]]
    for stage, width in enumerate(widths):
        for number in range(n):
            halved = stage > 0 and number == 0
            second = _second(streams, shares)
            first = gain * _convolved(second, sum(shares), width, 1 + halved)
            if halved:
                streams = [stream[:, ::2, ::2] for stream in streams]
                streams.append(np.zeros_like(streams[0]))
                shares.append(width - sum(shares))
            second = gain * _convolved(_scaled(first, normalised) / 2, width, width, 1)
            streams = [_cut(stream, _scaled(second, normalised), rng) for stream in streams]
            layers += [first.mean(), second.mean()]
            blocks.append(_second(streams, shares).mean())
    return Limit(np.array(layers), np.array(blocks))


def _convolved(q: np.ndarray, channels: int, width: int, stride: int) -> np.ndarray:
    """Variance over weights of a 3x3 convolution's output, by position."""
    around = np.pad(q, 1)
    rows, columns = q.shape
    near = [around[i : i + rows, j : j + columns] for i in range(3) for j in range(3)]
    mean = np.mean(near, axis=0)[::stride, ::stride]
    return np.asarray(2 * channels / (channels + width) * mean)


def _scaled(variance: np.ndarray, normalised: bool) -> np.ndarray:
    return np.asarray(variance / variance.mean()) if normalised else variance


def _cut(stream: np.ndarray, variance: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """ReLU of the stream plus a Gaussian of this variance."""
    return np.asarray(np.maximum(stream + np.sqrt(variance) * rng.standard_normal(stream.shape), 0))


def _second(streams: Sequence[np.ndarray], shares: Sequence[int]) -> np.ndarray:
    """Second moment of the stream at each position, over its groups of channels."""
    moments = np.array([np.square(stream).mean(0) for stream in streams])
    return np.asarray(np.average(moments, axis=0, weights=shares))


def _deep(table: pd.DataFrame) -> claims.Finding:
    return claims.at_least(float(table["index"].max()), 110, " layers")


CLAIMS = (
    Claim(
        id="bjorck.fig5.moments",
        paper="Bjorck et al. 2018",
        section="3.1, figure 5",
        statement="At initialisation the channels' moments grow almost exponentially with depth"
        " without BN, and stay nearly constant with it.",
        quantity="growth from the first residual block to the last of the variance of a channel of"
        " the convolutions' outputs, averaged over channels: without BN over with BN, in decades"
        " (powers of ten)",
        measure=growth_gap,
        bound=BOUND,
        digits=1,
        unit=" decades",
        premises=(Premise("the network has the paper's 110 layers", _deep),),
        revised=claims.LATER,
    ),
)


def facts(table: pd.DataFrame) -> claims.Facts:
    """Return the numbers that the chapter quotes beside the claim, by name."""
    found = {
        "seeds": claims.count(table["seed"].nunique()),
        "batch_size": claims.count(table["batch_size"].max()),
        "layers": claims.count(table["index"].max()),
    }
    found |= _beside_paper(table)
    for name, arm in (("without", WITHOUT), ("with", WITH)):
        found |= {f"{name}_{key}": value for key, value in _arm_facts(table, arm)}
    return found


def _beside_paper(table: pd.DataFrame) -> claims.Facts:
    """Describe how the logarithm of a channel's deviation rises, to both bases."""
    rows, paper = rows_of(table, LAYER), papers.read("bjorck_fig5")
    stages = {
        "without BN, from layer 6 to layer 102": (WITHOUT, 6, 102),
        "with BN, from layer 6 to layer 30, in the first stage": (WITH, 6, 30),
    }
    found = []
    for what, (arm, first, last) in stages.items():
        layers = rows[rows["arm"] == arm].pivot_table("variance", "seed", "index")
        if last not in layers:
            continue
        theirs = paper[(paper["network"] == papers.ARMS[arm]) & (paper["quantity"] == "std")]
        level = theirs.set_index("layer")["log_magnitude"]
        rise = np.log(layers[last] / layers[first]) / 2
        for base, scale in (("e", 1.0), ("10", np.log(10))):
            said = f"{what}: rise of the logarithm of the deviation, ours to base {base}"
            paper_rise = level[last] - level[first]
            found.append(papers.beside(said, paper_rise, 0.2, rise / scale, 2))
    return papers.rows(found)


def _arm_facts(table: pd.DataFrame, arm: str) -> Iterator[tuple[str, claims.Fact]]:
    for column in ("variance", "mean"):
        growth = total_growth(table, column)[arm]
        yield f"{column}_growth", readable(growth)
    for place, growth in convolution_growth(table, arm).items():
        yield f"{place}_convolution_growth", readable(growth)
    noise = total_growth(table, "variance", NOISE)[arm]
    gap = np.log10(noise) - np.log10(total_growth(table, "variance")[arm])
    yield "noise_gap", claims.fact(gap.abs(), 2, " decades")
    blocks = rows_of(table, BLOCK)
    n = int(blocks["index"].max()) // STAGES
    limit = pd.Series(wide_limit(n, arm == WITH).blocks)
    for stage in range(1, STAGES + 1):
        yield f"stage{stage}_growth", claims.fact(fitted_growth(table, arm, stage).dropna(), 3)
        yield (
            f"stage{stage}_noise",
            claims.fact(fitted_growth(table, arm, stage, NOISE).dropna(), 3),
        )
        yield f"stage{stage}_theory", claims.fact([stage_growth(limit, stage)], 3)
    layers = rows_of(table, LAYER)
    last = layers[(layers["arm"] == arm) & (layers["index"] == layers["index"].max() - 1)]
    yield "last_largest_mean", readable(last["largest_mean"])
    final = blocks[(blocks["arm"] == arm) & (blocks["index"] == blocks["index"].max())]
    yield "last_second", readable(final["second"])
    scale = 1.0 if arm == WITH else float(table["input_second"].mean())
    yield "last_second_theory", readable(scale * limit.iloc[-1:])
    share = (final.set_index("seed")["second"] - final.set_index("seed")["variance"]) / (
        final.set_index("seed")["second"]
    )
    yield "last_mean_share", claims.fact(100 * share, 0, " %")


def readable(samples: pd.Series) -> claims.Fact:
    """Describe a geometric mean: with a power of ten from 10,000 on, else two digits or so."""
    mean = float(np.exp(np.log(samples).mean()))
    return claims.fact([mean], None if mean >= 1e4 else max(0, 1 - int(np.log10(mean))))
