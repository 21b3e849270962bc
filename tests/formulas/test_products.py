"""The Fuss-Catalan law: anchors computed elsewhere, closed forms, integrals, and the far ends."""

import math
from itertools import pairwise

import numpy as np
import pytest
from scipy.integrate import quad

from bnbook import formulas
from bnbook.errors import BnbookError

LEVELS = [0.1, 0.5, 0.9, 0.99]
ANCHORS = {
    1: (4, [0.0247, 0.653, 2.595, 3.677]),
    2: (6.75, [0.00188, 0.3189, 3.191, 5.827]),
    3: (9.481, [1.7e-4, 0.155, 3.428, 7.762]),
    4: (12.207, [2e-5, 0.0758, 3.471, 9.529]),
}
"""Edges and quantiles of an earlier, independent computation, to the digits it was given with."""


@pytest.mark.parametrize("M", ANCHORS)
def test_edges_and_quantiles(M):
    edge, quantiles = ANCHORS[M]
    assert formulas.fuss_catalan_edge(M) == pytest.approx(edge, rel=1e-4)
    assert formulas.fuss_catalan_edge(M) == pytest.approx((M + 1) ** (M + 1) / M**M, rel=1e-14)
    found = formulas.fuss_catalan_quantile(LEVELS, M)
    assert found[1:] == pytest.approx(quantiles[1:], rel=2e-3)
    assert found[0] == pytest.approx(quantiles[0], abs=5.1e-6 if M > 2 else 5.1e-5)


@pytest.mark.parametrize("M", [1, 2, 3, 4, 7])
def test_mass_mean_and_moments(M):
    """Integrals over the angle, in which nothing is singular; x'(phi) by a central difference."""
    top = math.pi / (M + 1)

    def x(phi):
        return formulas.fuss_catalan_x([phi], M)[0]

    def integrand(phi, k):
        h = 1e-6 * min(phi, top - phi)
        slope = (x(phi - h) - x(phi + h)) / (2 * h)
        return x(phi) ** k * formulas.fuss_catalan_density_phi([phi], M)[0] * slope

    for k in range(4):
        integral, _ = quad(integrand, 0, top, (k,), epsabs=1e-10, limit=200)
        assert integral == pytest.approx(formulas.fuss_catalan_moment(M, k), rel=1e-6)
    assert [formulas.fuss_catalan_moment(M, k) for k in (0, 1, 2)] == [1, 1, M + 1]


def test_moments_of_one_matrix_are_catalan_numbers():
    assert [formulas.fuss_catalan_moment(1, k) for k in range(7)] == [1, 1, 2, 5, 14, 42, 132]


def test_one_matrix_is_marchenko_and_pastur():
    x = np.concatenate([np.geomspace(1e-200, 1, 300), np.linspace(0.01, 3.99, 400)])
    ratio = formulas.fuss_catalan_density(x, 1) / formulas.marchenko_pastur_density(x)
    assert np.abs(ratio - 1).max() < 1e-12


def test_two_matrices_are_penson_and_zyczkowski():
    """Their elementary form of the density at M = 2."""
    x = np.concatenate([np.geomspace(1e-9, 1, 50), np.linspace(0.1, 6.7, 50)])
    r = 27 + 3 * np.sqrt(81 - 12 * x)
    top = 2 ** (1 / 3) * r ** (2 / 3) - 6 * x ** (1 / 3)
    theirs = 2 ** (1 / 3) * 3**0.5 / (12 * np.pi) * top / (x ** (2 / 3) * r ** (1 / 3))
    assert formulas.fuss_catalan_density(x, 2) == pytest.approx(theirs, rel=1e-9)


@pytest.mark.parametrize("M", [1, 2, 5])
def test_the_two_forms_agree_and_the_wrong_one_does_not(M):
    phi = np.linspace(0, np.pi / (M + 1), 102)[1:-1]
    x = formulas.fuss_catalan_x(phi, M)
    one = formulas.fuss_catalan_density_phi(phi, M)
    assert one == pytest.approx(formulas.fuss_catalan_density_phi_simplified(phi, M), rel=1e-10)
    assert one == pytest.approx(formulas.fuss_catalan_density(x, M), rel=1e-9)
    # Mutant: sin(M phi) and sin((M + 1) phi) exchanged.
    wrong = np.sin(M * phi) / np.sin((M + 1) * phi) * np.sin(phi) / (np.pi * x)
    assert np.abs(wrong / one - 1).max() > 0.5


@pytest.mark.parametrize("M", [1, 2, 4])
def test_the_cdf_is_the_integral_of_the_density(M):
    edge = formulas.fuss_catalan_edge(M)
    ends = np.array([0.01, 0.3, 1.0, 0.6 * edge, 0.99 * edge])
    cdf = formulas.fuss_catalan_cdf(ends, M)
    for (low, high), (below, above) in zip(pairwise(ends), pairwise(cdf), strict=True):
        mass, _ = quad(lambda x: formulas.fuss_catalan_density([x], M)[0], low, high)
        assert above - below == pytest.approx(mass, rel=1e-7)
    outside = formulas.fuss_catalan_cdf([-1.0, 0.0, edge, 100.0], M)
    assert outside.tolist() == [0, 0, 1, 1]
    assert formulas.fuss_catalan_density([-1.0, edge + 1e-9, 1e9], M).tolist() == [0, 0, 0]
    assert formulas.fuss_catalan_density([0.0], M)[0] == math.inf


@pytest.mark.parametrize("M", [1, 3, 16])
def test_small_values_keep_their_digits(M):
    """Near 0 the share below x goes as x^(1/(M+1)), with a factor from the angle's limit."""
    x = np.array([1e-250, 1e-150, 1e-100])
    factor = (M + 1) / math.pi * math.sin(math.pi / (M + 1))
    assert formulas.fuss_catalan_cdf(x, M) / x ** (1 / (M + 1)) == pytest.approx(factor, rel=2e-5)
    back = formulas.fuss_catalan_quantile(formulas.fuss_catalan_cdf(x, M), M)
    assert back == pytest.approx(x, rel=1e-10)


@pytest.mark.parametrize("M", [1, 2, 8])
def test_quantiles_and_angles_are_inverses(M):
    q = np.linspace(0, 1, 51)
    x = formulas.fuss_catalan_quantile(q, M)
    assert formulas.fuss_catalan_cdf(x, M) == pytest.approx(q, abs=1e-14)
    assert (x[0], x[-1]) == (0, formulas.fuss_catalan_edge(M))
    phi = np.linspace(0, np.pi / (M + 1), 52)[1:-1]
    back = formulas.fuss_catalan_phi(formulas.fuss_catalan_x(phi, M), M)
    assert back == pytest.approx(phi, rel=1e-10)


def test_singular_values_themselves():
    """Of one matrix a quarter circle; of any, the same mass between s and s' as of the squares."""
    s = np.linspace(0.1, 1.9, 20)
    assert formulas.singular_value_density(s, 1) == pytest.approx(np.sqrt(4 - s**2) / np.pi)
    mass, _ = quad(lambda t: formulas.singular_value_density([t], 3)[0], 0.5, 2)
    below, above = formulas.fuss_catalan_cdf([0.25, 4.0], 3)
    assert mass == pytest.approx(above - below, rel=1e-9)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: formulas.fuss_catalan_edge(0), "M must be a whole number, at least 1, found 0"),
        (lambda: formulas.fuss_catalan_moment(1, -1), "k must be a whole number"),
        (lambda: formulas.fuss_catalan_x([1.6], 1), r"phi must lie in \(0, 1.5708\)"),
        (lambda: formulas.fuss_catalan_phi([4.0], 1), r"x must lie in \(0, 4\)"),
        (lambda: formulas.fuss_catalan_quantile([1.5], 1), r"q must lie in \[0, 1\]"),
        (lambda: formulas.fuss_catalan_cdf([math.nan], 1), "x must be finite"),
        (lambda: formulas.singular_value_density([0.0], 1), "s must lie in"),
    ],
)
def test_impossible_arguments(call, says):
    with pytest.raises(BnbookError, match=says):
        call()
