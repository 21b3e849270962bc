"""Intervals and p values: in closed form, and covered as often as they say."""

import math

import numpy as np
import pytest

from bnbook.errors import BnbookError
from bnbook.evidence import intervals
from bnbook.evidence.intervals import binomial, crossed, fieller, holm, interval


def test_interval_in_closed_form():
    # Mean 3, standard deviation sqrt(2.5), t(0.975, 4) = 2.776445.
    value, low, high = interval([1, 2, 3, 4, 5])
    half = 2.7764451 * math.sqrt(2.5 / 5)
    assert (value, low, high) == pytest.approx((3, 3 - half, 3 + half), rel=1e-7)


def test_log_interval_is_the_linear_one_of_the_logarithms():
    x = [1.5, 2.0, 4.0]
    assert interval(x, "log") == pytest.approx([math.exp(v) for v in interval(np.log(x))])
    assert interval(x, "log")[0] == pytest.approx(12 ** (1 / 3))


@pytest.mark.parametrize("wrong", [[], [1.0], [1.0, math.nan], [1.0, math.inf]])
def test_too_few_or_not_finite(wrong):
    with pytest.raises(BnbookError, match="two or more finite samples"):
        interval(wrong)


def test_log_needs_positive():
    with pytest.raises(BnbookError, match="positive samples"):
        interval([1.0, 0.0], "log")


@pytest.mark.parametrize(
    ("scale", "n", "draw"),
    [
        ("linear", 3, lambda rng, shape: rng.normal(1.0, 2.0, shape)),
        ("linear", 6, lambda rng, shape: rng.normal(1.0, 2.0, shape)),
        ("log", 5, lambda rng, shape: np.exp(rng.normal(0.0, 0.7, shape))),
    ],
)
def test_coverage_over_many_draws(scale, n, draw):
    """The interval holds the truth (1 in each case) in 95 % of 4,000 draws, within 4 sigma."""
    samples = draw(np.random.default_rng(0), (4000, n))
    held = [low <= 1.0 <= high for _, low, high in (interval(row, scale) for row in samples)]
    assert abs(np.mean(held) - 0.95) < 4 * math.sqrt(0.95 * 0.05 / 4000)


def test_p_value_of_student_in_closed_form():
    # With one degree of freedom t follows Cauchy: P(|t| > x) = 1 - 2 atan(x) / pi.
    found = intervals.student([1.0, 2.0], 0.0)
    assert found.p == pytest.approx(1 - 2 * math.atan(3.0) / math.pi)
    logs = intervals.student([math.e, math.e**2], 1.0, log=True)
    assert logs.p == pytest.approx(found.p)


@pytest.mark.parametrize(
    ("samples", "p"), [((2.0, 2.0), 0.5), ((2.0,) * 5, 1 / 16), ((1.0, 1.0), 1.0)]
)
def test_p_value_without_spread(samples, p):
    assert intervals.student(samples, 1.0).p == p


@pytest.mark.parametrize("n", [1, 5, 10])
def test_binomial_ends_in_closed_form(n):
    """Of none: (1 - high)^n = 0.025; of all: low^n = 0.025."""
    none, every = binomial(0, n, 0.5), binomial(n, n, 0.5)
    assert (none.low, none.high) == (0.0, pytest.approx(1 - 0.025 ** (1 / n)))
    assert (every.low, every.high) == (pytest.approx(0.025 ** (1 / n)), 1.0)
    assert none.p == every.p == pytest.approx(min(1.0, 2 * 0.5**n))


@pytest.mark.parametrize("share", [0.03, 0.3, 0.5])
@pytest.mark.parametrize("n", [5, 10, 40])
def test_binomial_covers_at_least_its_level(share, n):
    """Exactly: the probability of the counts whose interval holds the truth is 95 % or more."""
    probability = [math.comb(n, k) * share**k * (1 - share) ** (n - k) for k in range(n + 1)]
    found = [binomial(k, n, share) for k in range(n + 1)]
    held = [p for p, e in zip(probability, found, strict=True) if e.low <= share <= e.high]
    assert sum(held) >= 0.95
    assert all((e.p < 0.05) == (not e.low <= share <= e.high) for e in found)


def test_fieller_with_an_exact_denominator_is_student():
    part = [1.0, 2.0, 4.0, 4.5]
    found = fieller(part, [2.0] * 4, 1.0)
    assert (found.value, found.low, found.high) == pytest.approx(
        [x / 2 for x in interval(part)], rel=1e-12
    )
    assert found.p == pytest.approx(intervals.student(part, 2.0).p, rel=1e-12)


def test_fieller_ends_are_where_the_test_has_its_level():
    part, whole = [1.0, 1.4, 0.8, 1.3], [2.0, 2.9, 2.2, 2.6]
    found = fieller(part, whole)
    for end in (found.low, found.high):
        assert fieller(part, whole, end).p == pytest.approx(0.05, abs=1e-9)


@pytest.mark.parametrize("mean", [0.3, 1.0, 4.0])
def test_fieller_covers_the_ratio_whatever_the_denominator(mean):
    """Over 3,000 draws; an interval without ends counts as one that holds the truth."""
    rng = np.random.default_rng(2)
    noise = rng.multivariate_normal([0, 0], [[1.0, 0.4], [0.4, 1.0]], (3000, 5))
    draws = noise + np.array([0.7 * mean, mean])
    found = [fieller(d[:, 0].tolist(), d[:, 1].tolist()) for d in draws]
    held = [e.unbounded or e.low <= 0.7 <= e.high for e in found]
    assert np.mean(held) > 0.95 - 4 * math.sqrt(0.95 * 0.05 / 3000)


@pytest.mark.parametrize(
    ("of_seeds", "of_images", "rest"), [(1.0, 0.0, 1.0), (0.3, 2.0, 1.0), (0.0, 0.0, 1.0)]
)
def test_seeds_and_images_drawn_together_are_covered(of_seeds, of_images, rest):
    """Over 2,000 draws of 5 seeds and 40 images, two-way effects of known size."""
    rng = np.random.default_rng(3)
    held = []
    for _ in range(2000):
        values = (
            of_seeds * rng.normal(size=(5, 1))
            + of_images * rng.normal(size=(1, 40))
            + rest * rng.normal(size=(5, 40))
        )
        found = crossed(values)
        held.append(found.low <= 0 <= found.high)
    assert np.mean(held) > 0.95 - 4 * math.sqrt(0.95 * 0.05 / 2000)


def test_crossed_in_closed_form():
    # Column means 1, 5, 0, 2, no spread of rows and no rest: MS of images 2 * 14 / 3, and so the
    # whole; 3 degrees, t(0.975, 3) = 3.182446, error sqrt(28 / 3 / 8).
    found = crossed(np.array([[1.0, 5.0, 0.0, 2.0]] * 2), 2.0)
    assert (found.value, found.p) == (2.0, pytest.approx(1.0))
    assert found.high - found.value == pytest.approx(3.182446 * math.sqrt(28 / 24), rel=1e-6)


@pytest.mark.parametrize("values", [[[0.0, 2.0], [2.0, 4.0]], [[3.0, 3.0], [3.0, 3.0]]])
def test_crossed_is_never_narrower_than_over_the_seeds_alone(values):
    # Row means 1, 3; column means 1, 3; no rest: two degrees where the seeds alone have one.
    rows = np.array(values)
    assert crossed(rows, 1.5) == intervals.student(rows.mean(1).tolist(), 1.5)


def test_holm_by_hand():
    found = holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.5})
    assert found == pytest.approx({"a": 0.04, "c": 0.09, "b": 0.09, "d": 0.5})
    assert holm({}) == {}


def test_holm_keeps_the_chance_of_any_false_verdict():
    rng = np.random.default_rng(5)
    wrong = [min(holm(dict(enumerate(p))).values()) < 0.05 for p in rng.random((4000, 20))]
    assert abs(np.mean(wrong) - 0.05) < 4 * math.sqrt(0.05 * 0.95 / 4000)
