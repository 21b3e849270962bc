"""Products of random matrices: measures on made-up spectra, mutants that flip the claims, runs."""

import math

import numpy as np
import pandas as pd
import pytest
import torch

from bnbook import formulas
from bnbook.errors import BnbookError
from bnbook.experiments.bjorck_products import claims as analysis
from bnbook.experiments.bjorck_products import experiment as module
from bnbook.experiments.bjorck_products.claims import NETWORK, PLAIN, PRODUCT, PRODUCTS, RESIDUAL
from bnbook.experiments.bjorck_products.experiment import EXPERIMENT as experiment
from bnbook.probes import spectra
from bnbook.tables.arms import WITH, WITHOUT
from bnbook.training.session import Session
from tests.judging import criterion

SMALL = {
    "seeds": (0, 1), "sizes": (20, 40), "n": (1, 2), "batch": 16, "widths": (4, 6, 8),
    "examples": 1,
}  # fmt: skip
"""Changes to the quick profile that make it a matter of a second."""
IMPOSSIBLE = [
    ({"sizes": (100,)}, "sizes must be two or more"),
    ({"n": (1,)}, "n must be two or more"),
    ({"sizes": (5, 50)}, "sizes must be at least 10"),
    ({"matrices": (1, 2)}, "matrices must hold 3"),
    ({"kinds": (PRODUCT,)}, "kinds must hold network"),
    ({"examples": 100}, "examples must be at most 64"),
    ({"batch": 0}, "batch must be at least 1"),
]
DENSITY, IDENTITY, TAIL, DEPTH = experiment.claims


def made_up(seeds=(0, 1, 2), sizes=(50, 200), reading=lambda s, M: s, residual=2.0):
    """A table whose truth is known: singular values at the law's own quantiles, as `reading` has.

    Without BN the residual networks' ratio grows by `residual` from n = 1 to n = 3, to within a
    hundredth a seed; all other networks' by 1.5.
    """
    rows = []
    for seed in seeds:
        rows.append({"seed": seed, "measured": "identity", "M": 1, "error": 1e-14})
        for size in sizes:
            for M in PRODUCTS:
                levels = (np.arange(size)[::-1] + 0.5 + 0.001 * seed) / size
                s = np.sqrt(formulas.fuss_catalan_quantile(levels, M))
                row = module.summary(reading(s, M), M)
                rows.append({"seed": seed, "measured": PRODUCT, "size": size, "M": M,
                             "condition_formed": row["condition"], **row})  # fmt: skip
        for wiring in (RESIDUAL, PLAIN):
            for arm in (WITHOUT, WITH):
                factor = residual if (wiring, arm) == (RESIDUAL, WITHOUT) else 1.5
                for n, ratio in ((1, 4.0), (3, 4.0 * factor + 0.01 * seed)):
                    for image, off in enumerate((0.5, 2.0)):  # a geometric mean of 1
                        rows.append({"seed": seed, "measured": NETWORK, "wiring": wiring, "n": n,
                                     "arm": arm, "condition": ratio * off, "image": image,
                                     "tail": 2.0, "largest": 4.0**n * off,
                                     "image_size": 8})  # fmt: skip
    return pd.DataFrame(rows)


def test_measures_on_the_laws_own_quantiles():
    table = made_up()
    assert analysis.worst_distance(table).tolist() == pytest.approx([0.5 / 200] * 3, rel=0.01)
    assert analysis.wasserstein(formulas.fuss_catalan_quantile([0.25, 0.75], 2), 2) == 0
    assert analysis.depth_growth(table).tolist() == pytest.approx([2.0] * 3, rel=0.01)
    assert analysis.depth_growth(table, PLAIN, WITH).tolist() == pytest.approx([1.5] * 3, rel=0.01)
    # Both distances fall as 1/N.
    assert analysis.distance_exponent(table).tolist() == pytest.approx([-1] * 3, abs=0.01)
    assert {criterion(c, table).verdict for c in experiment.claims} == {"reproduced"}


def test_the_tail_of_the_law():
    """By hand from edges 4, 6.75, 9.481, 12.207 and medians 0.653, 0.3189, 0.155, 0.0758."""
    ratios = np.sqrt([4 / 0.6528, 6.75 / 0.3189, 9.4815 / 0.1552, 12.207 / 0.07584])
    slope = np.dot([-1.5, -0.5, 0.5, 1.5], np.log(ratios)) / 5
    assert analysis.law_tail_growth() == pytest.approx(math.exp(slope), rel=1e-3)
    # A finite sample lacks the last half of a 200th before the edge.
    assert analysis.tail_growth(made_up(sizes=(50, 3000))).mean() == pytest.approx(
        math.exp(slope), rel=0.02
    )


@pytest.mark.parametrize(
    ("reading", "least"),
    [
        (lambda s, M: np.sqrt(s), 0.17),  # x read as the singular value, not its square
        (lambda s, M: s**2, 0.12),  # squared once too often
        (lambda s, M: 1.3 * s, 0.05),  # another variance
        (lambda s, M: np.full_like(s, s.mean()), 0.3),
    ],
)
def test_wrong_readings_are_far_from_the_law(reading, least):
    judged = criterion(DENSITY, made_up(reading=reading))
    assert judged.verdict == "not reproduced"
    assert judged.value > least


def test_the_law_of_one_matrix_more_is_refused():
    def one_more(s, M):
        levels = (np.arange(len(s))[::-1] + 0.5) / len(s)
        return np.sqrt(formulas.fuss_catalan_quantile(levels, M + 1))

    table = made_up(reading=one_more)
    assert criterion(DENSITY, table).verdict == "not reproduced"
    rows = analysis.products(table)
    assert rows["distance_next"].max() < 0.005  # and the law of M + 1 it is


def test_the_bound_lies_below_half_of_what_separates_the_laws():
    x = formulas.fuss_catalan_quantile(np.linspace(1e-6, 1, 5001), 4)
    apart = np.abs(formulas.fuss_catalan_cdf(x, 4) - formulas.fuss_catalan_cdf(x, 5)).max()
    assert DENSITY.bound < apart / 2 < 0.04


def test_claims_turn_red():
    flat = made_up(reading=lambda s, M: np.sqrt(formulas.fuss_catalan_quantile(
        (np.arange(len(s))[::-1] + 0.5) / len(s), 5 - M)))  # fmt: skip
    assert criterion(TAIL, flat).verdict == "not reproduced"
    assert criterion(DEPTH, made_up(residual=0.5)).verdict == "not reproduced"
    table = made_up()
    table.loc[table["measured"] == "identity", "error"] = 1e-3
    assert criterion(IDENTITY, table).verdict == "not reproduced"


def test_facts():
    table = made_up()
    facts = experiment.facts(table)
    assert facts["size"]["value"] == 200
    assert facts["seeds"]["value"] == 3
    assert (facts["shallowest"]["value"], facts["deepest"]["value"]) == (8, 20)
    assert facts["residual_without_shallow"]["value"] == pytest.approx(4)
    assert facts["residual_without_deep"]["value"] == pytest.approx(8, rel=0.01)
    assert facts["plain_with_deep_size"]["value"] == pytest.approx(4**3)
    found = analysis.spectra(table).query("wiring == @PLAIN and arm == @WITH and n == 1")
    assert found["depth"].tolist() == [8] * 3
    assert found["median"].tolist() == pytest.approx([2.0] * 3)
    assert found["smallest"].tolist() == pytest.approx([1.0] * 3)
    assert facts["law_q50_2"]["value"] == pytest.approx(0.3189, abs=1e-4)
    assert facts["q50_2"]["value"] == pytest.approx(0.3189, rel=0.01)
    assert facts["unsquared"]["value"] > 0.17
    assert facts["law_tail_growth"]["value"] == pytest.approx(1.72, abs=0.01)


def test_too_large_a_batch():
    config = experiment.configure("quick", **{**SMALL, "batch": 2000})
    network = next(p for p in experiment.parts(config) if p.kinds == (NETWORK,))
    with pytest.raises(BnbookError, match="batch must be at most 1437"):
        experiment.together([network], Session("cpu"))


def test_a_small_run_is_whole_and_a_part_is_as_in_it(small, small_table):
    counts = small_table.groupby("measured").size()
    assert counts[PRODUCT] == 2 * 2 * 5
    assert counts["histogram"] == 2 * 5 * (20 + 22)
    assert counts[NETWORK] == 2 * 2 * 2 * 2
    assert criterion(IDENTITY, small_table).value < 1e-12
    again = experiment.together([experiment.parts(small)[1]], Session("cpu"))[0]
    own = small_table[(small_table["seed"] == 1) & (small_table["measured"] == PRODUCT)]
    products = again[again["measured"] == PRODUCT]
    assert own["distance"].tolist() == products["distance"].tolist()


def test_the_histograms_hold_nearly_all(small_table):
    rows = small_table[(small_table["measured"] == "histogram") & (small_table["quantity"] == "s")]
    mass = (rows["density"] * (rows["high"] - rows["low"])).groupby([rows["M"], rows["seed"]]).sum()
    assert mass[mass.index.get_level_values("M") <= 4].min() > 0.95


def test_one_product_by_hand(small_table):
    generator = torch.Generator().manual_seed(module._key(1, 40, 3))
    A, B, C = spectra.gaussian_matrices(40, 3, generator)
    s = torch.linalg.svdvals(A @ B @ C)
    row = small_table.query("measured == 'product' and seed == 1 and size == 40 and M == 3").iloc[0]
    assert row["condition"] == pytest.approx(float(s[0] / s[-1]), rel=1e-6)
    assert row["tail"] == pytest.approx(float(s[0] / np.median(s.numpy())), rel=1e-9)
    assert row["q50"] == pytest.approx(float(np.median(s.numpy() ** 2)), rel=1e-9)


def test_sixteen_matrices_need_more_than_the_product_formed():
    config = experiment.configure("quick", **{**SMALL, "seeds": (0,), "sizes": (20, 200)})
    found = experiment.together(experiment.parts(config)[:1], Session("cpu"))[0]
    row = found[(found["M"] == 16) & (found["size"] == 200)].iloc[0]
    assert row["condition"] > 1e19
    assert row["condition_formed"] < 1e19
