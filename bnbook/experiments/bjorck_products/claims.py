"""Bjorck et al.'s section 4: what the table of random products and of real networks says.

The claims, their measures and bounds were written before the recorded runs.
"""

import numpy as np
import numpy.typing as npt
import pandas as pd

from bnbook.evidence import claims
from bnbook.evidence.claims import TIMES, Claim, Premise, exact
from bnbook.formulas import fuss_catalan_cdf, fuss_catalan_edge, fuss_catalan_quantile
from bnbook.tables.arms import WITH, WITHOUT
from bnbook.tables.start import significant

PAPER = "Bjorck et al. 2018"
PRODUCT, HISTOGRAM, IDENTITY, NETWORK = "product", "histogram", "identity", "network"
"""What a row measures: the singular values of a product of random matrices, a bin of them, the
difference of two formulas for one density, the Jacobian of a network at an image."""
RESIDUAL, PLAIN = "residual", "plain"
"""Networks with their shortcuts, and the same without."""
PRODUCTS = (1, 2, 3, 4)
"""Numbers of matrices M that the claims are judged at."""
LEVELS = (0.1, 0.5, 0.9, 0.99)
"""Quantiles that are compared."""

Array = npt.NDArray[np.float64]


def kolmogorov(x: Array, M: int) -> float:
    """Largest distance between the squares' cumulative distribution and the law's, in [0, 1]."""
    below = np.sort(fuss_catalan_cdf(np.asarray(x, dtype=float), M))
    rank = np.arange(len(below) + 1) / len(below)
    return float(max((rank[1:] - below).max(), (below - rank[:-1]).max()))


def wasserstein(x: Array, M: int) -> float:
    """Mean distance between the sorted squares and the law's quantiles (k - 1/2) / n."""
    levels = (np.arange(len(x)) + 0.5) / len(x)
    return float(np.abs(np.sort(x) - fuss_catalan_quantile(levels, M)).mean())


def products(table: pd.DataFrame, largest: bool = True) -> pd.DataFrame:
    """Rows of the products of random matrices, of the largest size alone or of all sizes."""
    rows = table[table["measured"] == PRODUCT].astype({"M": int, "size": int})
    return rows[rows["size"] == rows["size"].max()] if largest else rows


def _claimed(table: pd.DataFrame) -> pd.DataFrame:
    rows = products(table)
    return rows[rows["M"].isin(PRODUCTS)]


def worst_distance(table: pd.DataFrame, column: str = "distance") -> pd.Series:
    """Distance from the law at the largest size, the largest over M in `PRODUCTS`, per seed."""
    return _claimed(table).groupby("seed")[column].max()


def tail_growth(table: pd.DataFrame) -> pd.Series:
    """Factor by which largest over median singular value grows with a further matrix, per seed.

    From a line of least squares through the logarithm against M in `PRODUCTS`, at the largest size.
    """
    found = {
        int(str(seed)): float(np.exp(np.polyfit(own["M"], np.log(own["tail"]), 1)[0]))
        for seed, own in _claimed(table).groupby("seed")
    }
    return pd.Series(found, dtype=float)


def condition_growth(table: pd.DataFrame, M: int) -> pd.Series:
    """Factor by which largest over smallest singular value grows with the M-th matrix, per seed."""
    mean = np.log(_claimed(table).pivot_table(index="seed", columns="M", values="condition"))
    return pd.Series(np.exp(mean[M] - mean[M - 1]))


def law_tail_growth() -> float:
    """Return what `tail_growth` is for the law, its largest singular value at the edge."""
    tails = [
        np.log(fuss_catalan_edge(M) / fuss_catalan_quantile([0.5], M)[0]) / 2 for M in PRODUCTS
    ]
    return float(np.exp(np.polyfit(PRODUCTS, tails, 1)[0]))


def spread(table: pd.DataFrame) -> pd.DataFrame:
    """Largest over smallest singular value of networks' Jacobians, geometric mean over images.

    Index seed; columns ``wiring``, ``arm``, ``n``.
    """
    rows = table[table["measured"] == NETWORK]
    logs = rows.assign(log=np.log(rows["condition"])).pivot_table(
        index="seed", columns=["wiring", "arm", "n"], values="log"
    )
    return pd.DataFrame(np.exp(logs))


def spectra(table: pd.DataFrame) -> pd.DataFrame:
    """Largest, median and smallest singular value of networks' Jacobians.

    One row per ``wiring``, ``arm``, ``n`` and ``seed``, with ``depth`` (layers); geometric means
    over images.
    """
    rows = table[table["measured"] == NETWORK]
    logs = pd.DataFrame({
        "largest": np.log(rows["largest"]),
        "median": np.log(rows["largest"] / rows["tail"]),
        "smallest": np.log(rows["largest"] / rows["condition"]),
    })  # fmt: skip
    keys = [rows[key] for key in ("wiring", "arm", "n", "seed")]
    found = logs.groupby(keys).mean().apply(np.exp).reset_index()
    return found.assign(depth=6 * found["n"] + 2)


def depth_growth(table: pd.DataFrame, wiring: str = RESIDUAL, arm: str = WITHOUT) -> pd.Series:
    """`spread` of the deepest network divided by that of the shallowest, per seed."""
    found = spread(table)[wiring][arm]
    return pd.Series(found[found.columns.max()] / found[found.columns.min()])


def one_matrix_errors(table: pd.DataFrame) -> pd.Series:
    """Relative difference of rho_1 from Marchenko and Pastur's density, at every value tried."""
    rows = table[table["measured"] == IDENTITY]
    return pd.Series(rows.set_index("seed")["error"])


def _large(table: pd.DataFrame) -> claims.Finding:
    return claims.at_least(float(products(table)["size"].max()), 200, " rows")


def _deep(table: pd.DataFrame) -> claims.Finding:
    n = table.loc[table["measured"] == NETWORK, "n"].max()
    return claims.at_least(float(6 * n + 2), 110, " layers")


CLAIMS = (
    Claim(
        id="bjorck.thm1.density",
        paper=PAPER,
        section="4, theorem 1",
        statement="The singular values of a product of M Gaussian matrices have the density of"
        " theorem 1 (as we recall the theorem, and with its x read as the square of a singular"
        " value).",
        quantity="largest distance between the cumulative distributions of the squared singular"
        " values and of the law, the largest over 1 to 4 matrices, at the largest size",
        measure=worst_distance,
        bound=0.03,
        direction="below",
        digits=4,
        kind="identity",
    ),
    exact(
        id="bjorck.thm1.marchenko_pastur",
        paper="this book",
        section="a check of theorem 1",
        statement="For one matrix the theorem's density is that of Marchenko and Pastur.",
        quantity="relative difference of the two densities, over the whole support",
        measure=one_matrix_errors,
        bound=1e-10,
    ),
    Claim(
        id="bjorck.fig8.heavier_tail",
        paper=PAPER,
        section="4, figure 8",
        statement="The more matrices in a product, the heavier the tail of its singular values.",
        quantity="factor by which the largest singular value over the median grows with each"
        " further matrix, from 1 to 4 matrices, at the largest size",
        measure=tail_growth,
        bound=1.0,
        premises=(Premise("the largest matrices have 200 rows or more", _large),),
        revised=claims.LATER,
        **TIMES,
    ),
    Claim(
        id="bjorck.sec4.depth",
        paper=PAPER,
        section="4",
        statement="Without BN the ratio of large to small singular values grows with depth (the"
        " paper's account as others report it).",
        quantity="largest over smallest singular value of the Jacobian from image to scores at"
        " initialisation, residual networks without BN: the deepest divided by the shallowest",
        measure=depth_growth,
        bound=1.0,
        premises=(Premise("the deepest network has the paper's 110 layers", _deep),),
        revised=claims.LATER,
        **TIMES,
    ),
)


def facts(table: pd.DataFrame) -> claims.Facts:
    """Return the numbers that the chapter quotes beside the claims, by name."""
    return _law_facts(table) | _tail_facts(table) | _network_facts(table)


def _law_facts(table: pd.DataFrame) -> claims.Facts:
    rows = products(table)
    sizes = sorted(products(table, largest=False)["size"].unique())
    found = {
        "seeds": claims.count(rows["seed"].nunique()),
        "size": claims.count(sizes[-1]),
        "smallest_size": claims.count(sizes[0]),
        "distance_exponent": claims.fact(distance_exponent(table), 2),
        "unsquared": claims.fact(_claimed(table).groupby("seed")["distance_unsquared"].min(), 3),
        "next": claims.fact(_claimed(table).groupby("seed")["distance_next"].min(), 3),
    }
    for M in PRODUCTS:
        own = rows[rows["M"] == M]
        found[f"wasserstein_{M}"] = claims.fact(own["wasserstein"], 4)
        theory = fuss_catalan_quantile(LEVELS, M)
        for level, value in zip(LEVELS, theory, strict=True):
            name = f"q{100 * level:.0f}_{M}"
            digits = min(6, max(2, 2 - int(np.floor(np.log10(value)))))
            found[name] = claims.fact(own[f"q{100 * level:.0f}"], digits)
            found[f"law_{name}"] = claims.fact([value], digits)
    return found


def distance_exponent(table: pd.DataFrame) -> pd.Series:
    """Slope of log distance against log size, mean over M in `PRODUCTS`, per seed."""
    rows = products(table, largest=False)
    rows = rows[rows["M"].isin(PRODUCTS)]
    mean = np.log(rows["distance"]).groupby([rows["seed"], rows["size"]]).mean().unstack()
    slopes = np.polyfit(np.log(mean.columns.to_numpy(dtype=float)), mean.to_numpy().T, 1)[0]
    return pd.Series(slopes, index=mean.index)


def _tail_facts(table: pd.DataFrame) -> claims.Facts:
    found = {
        "law_tail_growth": claims.fact([law_tail_growth()], 2, "×"),
    }
    for nth in PRODUCTS[1:]:
        grown = _geometric(condition_growth(table, nth))
        found[f"condition_growth_{nth}"] = claims.fact([grown], 0, "×")
    for M, own in products(table).groupby("M"):
        found[f"condition_{M}"] = claims.fact([_geometric(own["condition"])], None)
        found[f"formed_{M}"] = claims.fact([_geometric(own["condition_formed"])], None)
    return found


def _network_facts(table: pd.DataFrame) -> claims.Facts:
    found, rows = spread(table), table[table["measured"] == NETWORK]
    sizes = spectra(table).pivot_table("largest", "seed", ["wiring", "arm", "n"])
    blocks = sorted(rows["n"].unique())
    facts = {
        "shallowest": claims.count(6 * blocks[0] + 2),
        "deepest": claims.count(6 * blocks[-1] + 2),
    }
    for wiring in (RESIDUAL, PLAIN):
        for name, arm in (("with", WITH), ("without", WITHOUT)):
            for where, n in (("shallow", blocks[0]), ("deep", blocks[-1])):
                value = _geometric(found[wiring][arm][n])
                digits = None if value >= 1e4 else 1
                facts[f"{wiring}_{name}_{where}"] = claims.fact([value], digits)
                facts[f"{wiring}_{name}_{where}_size"] = significant(sizes[wiring][arm][n])
    return facts


def _geometric(values: pd.Series) -> float:
    return float(np.exp(np.log(values).mean()))
